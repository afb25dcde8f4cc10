"""A teacher's update parameter by parameter, as in the authors' code, against the fused one."""

import torch

from ...methods.teachers import StaticTeacher
from .runner import Settings, take_turns, tell

SHARE = 0.01
"""Of the student in the new teacher."""


def measure(settings: Settings) -> None:
    """Prints the ratio on both towers."""
    student = settings.encoder()
    teacher = StaticTeacher(student)
    pairs = list(zip(teacher.model.parameters(), student.parameters(), strict=True))

    @torch.no_grad()
    def loop() -> None:
        for own, followed in pairs:
            own.data = own.data * (1 - SHARE) + followed.data * SHARE

    @torch.no_grad()
    def fused() -> None:
        teacher._move(SHARE)

    timings = take_turns({"loop": loop, "fused": fused}, settings)
    count = sum(own.numel() for own, _ in pairs) / 1e6
    about = f"{1000 * timings.median('fused'):.1f} ms for {count:.0f} M parameters in {len(pairs)} tensors"
    tell("teacher update, loop / fused", timings.ratio("loop", "fused"), "", about)
