"""The zero-shot head made one class at a time, as in the authors' code, against `build_head`. Goal: at least 15.

One class at a time is a pass of all templates over the whole context. Its time is linear in the classes, so that a
few stand for all: it is timed on some of the classes that the other is timed on, and both times are given per class.
"""

import torch

from ...backbones import DualEncoder
from ...backbones.zero_shot import average_prompts, build_head
from ...datasets.imagenet_metadata import imagenet_names, imagenet_prompts
from .runner import Settings, full_context, take_turns, tell

ONE_BY_ONE = {"cpu": 1, "cuda": 20}
BATCHED = {"cpu": 40, "cuda": 1000}
"""Classes of each."""


@torch.no_grad()
def one_class_at_a_time(encoder: DualEncoder, names: tuple[str, ...], prompts: tuple[str, ...]) -> torch.Tensor:
    """(C, D) head, made as mlfoundations/wise-ft:src/models/zeroshot.py makes it."""
    rows = []
    for name in names:
        tokens = full_context(encoder, encoder.tokenize([prompt.format(name) for prompt in prompts]))
        features = encoder.text_features(tokens.to(encoder.clip.logit_scale.device)).float()
        rows.append(average_prompts(features[None], encoder.logit_scale)[0])
    return torch.stack(rows)


def measure(settings: Settings) -> None:
    """Prints the ratio per class."""
    encoder, names, prompts = settings.encoder(), imagenet_names(), imagenet_prompts()
    kind = torch.device(settings.device).type
    slow, fast = ONE_BY_ONE[kind], BATCHED[kind]

    def one_by_one() -> None:
        with settings.autocast():
            one_class_at_a_time(encoder, names[:slow], prompts)

    def batched() -> None:
        with settings.autocast():
            build_head(encoder, names[:fast], prompts)

    timings = take_turns({"one": one_by_one, "batched": batched}, settings)
    per_class = timings.median("batched") / fast
    about = f"{1000 * per_class:.1f} ms a class of {len(prompts)} templates, {fast} classes"
    tell("head, class by class / batched", timings.ratio("one", "batched") * fast / slow, "goal >= 15", about)
