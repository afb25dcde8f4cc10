"""A step of TRACER against a step of FLYP: what teacher and distillation cost. Goal: at most 1.35.

Both train the same student, in turns, each with an optimizer of its own. Loading is not in it: the batch is on the
device. A forward pass is about a third of FLYP's step, so a teacher for nothing else than its forward pass is 1.33.
"""

import gc
from collections.abc import Callable

import torch

from ...datasets.loaders import Batch
from ...methods import registry
from ...methods.base import Settings as Training_Settings
from ...methods.training.step import Training
from ...methods.two_tower import TwoTower
from .runner import Settings, captions, peak_gigabytes, take_turns, tell

METHODS = ("tracer", "flyp")
STEPS = 10_000
"""Of the imagined run: the rate stays so small that random weights stay finite."""


def measure(settings: Settings) -> None:
    """Prints TRACER's step over FLYP's, images per second of each, and on a GPU the peak memory of each alone."""
    torch.manual_seed(0)
    peaks = {}
    if torch.device(settings.device).type == "cuda":
        for name in METHODS:
            student = TwoTower(settings.encoder())
            step = stepper(name, student, settings)
            step()  # the optimizer's state comes with the first step
            peaks[name] = f", {peak_gigabytes(step, settings.device):.1f} GB"
            del student, step
            gc.collect()
            torch.cuda.empty_cache()
    student = TwoTower(settings.encoder())
    timings = take_turns({name: stepper(name, student, settings) for name in METHODS}, settings)
    rates = [f"{name} {settings.batch / timings.median(name):.1f} images/s{peaks.get(name, '')}" for name in METHODS]
    tell("TRACER step / FLYP step", timings.ratio(*METHODS), "goal <= 1.35", "; ".join(rates))


def begun(name: str, student: TwoTower, settings: Settings) -> Training:
    """A method's training, before its first step."""
    return Training(
        registry.get(name)(),
        student,
        Training_Settings(
            total_steps=STEPS, batch_size=settings.batch, lr=1e-6, weight_decay=0.1, warmup_steps=500,
            precision=settings.precision, device=settings.device,
        ),
    )  # fmt: skip


def stepper(name: str, student: TwoTower, settings: Settings) -> Callable[[], None]:
    """One step of a method on a fixed batch; the first step, which does not distil, is left out."""
    training, encoder, count = begun(name, student, settings), student.encoder, settings.batch
    batch = Batch(
        torch.randint(0, 256, (count, 3, encoder.image_size, encoder.image_size), dtype=torch.uint8),
        torch.zeros(count, dtype=torch.int64),
        captions(encoder, count),
        torch.arange(count),
        torch.zeros(count, dtype=torch.int64),
    ).to(settings.device)
    done = 1

    def step() -> None:
        nonlocal done
        training.step(done, batch)
        done += 1

    return step
