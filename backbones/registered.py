"""The registered backbones: names and shapes alone, so that listing them loads no torch."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, TypeVar

from .errors import BackboneError

if TYPE_CHECKING:
    from .encoder import DualEncoder

OPENAI = {
    "RN50": "timm/resnet50_clip.openai",
    "ViT-B-16": "timm/vit_base_patch16_clip_224.openai",
    "ViT-L-14": "timm/vit_large_patch14_clip_224.openai",
}
"""Registered name -> repository of its weights on the Hugging Face hub."""

QUICK_GELU = "-quickgelu"
"""Ending of open_clip's name of a model with OpenAI's activation."""

IN_SUITES = ("ViT-B-16-SigLIP2:webli",)
"""Names of open_clip in suites that ship: right without a look into open_clip, which is slow to import."""

FROM_HUB, FROM_FOLDER = "hf-hub:", "local-dir:"
"""Beginnings of names: a repository of the hub (org--name), and a folder, both with open_clip's configuration."""

IMAGE_SIZE = 32


class Tower(TypedDict, total=False):
    """open_clip's configuration of an image tower."""

    layers: int | list[int]
    width: int
    head_width: int
    patch_size: int
    image_size: int


CONV_STEM = ("glyph-vit-deep", "glyph-vit-wide", "glyph-vit-grey")
"""Bundled ViTs whose patches are made by convolutions (`tiny.conv_stem`)."""


GLYPH_VISION: dict[str, Tower] = {
    "glyph-vit-deep": Tower(layers=3, width=80, head_width=20, patch_size=8, image_size=IMAGE_SIZE),
    "glyph-vit-wide": Tower(layers=2, width=112, head_width=28, patch_size=8, image_size=IMAGE_SIZE),
    "glyph-rn": Tower(layers=[1, 1, 1, 1], width=8, head_width=32, image_size=IMAGE_SIZE),
}
"""Architectures for `glyphs`. A backbone's name adds its pretraining seed: -3 and -4 are reported on, the benchmark was
shaped and is tuned on -dev, and others were looked at while it was shaped (docs/glyphs.md)."""

PRETRAINED_ON_GLYPHS = tuple(f"{architecture}-{seed}" for architecture in GLYPH_VISION for seed in ("3", "4", "dev"))
"""Those whose weights are in this repository."""

VISION: dict[str, Tower] = {
    "tiny-vit-p8": Tower(layers=4, width=96, head_width=32, patch_size=8, image_size=IMAGE_SIZE),
    "tiny-vit-p16": Tower(layers=4, width=128, head_width=32, patch_size=16, image_size=IMAGE_SIZE),
    "tiny-rn": Tower(layers=[1, 1, 1, 1], width=12, head_width=64, image_size=IMAGE_SIZE),
    "glyph-vit-grey": GLYPH_VISION["glyph-vit-deep"],
    **{name: GLYPH_VISION[name.rpartition("-")[0]] for name in PRETRAINED_ON_GLYPHS},
}
"""Two ViTs of different patch size and a ModifiedResNet for `digits`; `glyph-vit-grey` is the forgetting study's."""

MADE_HERE: dict[str, Tower] = {"tiny-vit-mnist": Tower(layers=4, width=128, head_width=32, patch_size=7, image_size=28)}
"""Backbones whose weights do not ship, because their images do not: `pretrain NAME` makes them on this machine."""

SCRATCH = "-scratch"
"""Ending of a backbone's name that asks for random weights."""


@dataclass(frozen=True)
class Brought:
    """A backbone from outside of this package."""

    build: "Callable[[], DualEncoder]"
    weights: str | Path | None


Build = TypeVar("Build", bound="Callable[[], DualEncoder]")
BROUGHT: dict[str, Brought] = {}
"""Name -> what `register` made known."""


def register(name: str, weights: str | Path | None = None) -> Callable[[Build], Build]:
    """Decorator of a function that builds a dual encoder: makes it known as `name`.

    Args:
        weights: the whole path of a weights file of that architecture, as `load` reads it. None: the weights are what
            the function makes, random ones as a function of the name; run ids then have a hash of the tensors.

    Raises:
        BackboneError: the name is taken, or can be no name of a backbone.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII) or fold(name).endswith(SCRATCH):
        raise BackboneError(
            f"backbone {name!r}: must be ASCII letters, digits, . - and _, not ending in {SCRATCH}; rename it."
        )
    if fold(name) in {fold(known) for known in (*OPENAI, *VISION, *MADE_HERE, *BROUGHT)}:
        raise BackboneError(f"backbone {name!r} is registered twice; rename one.")

    def add(build: Build) -> Build:
        BROUGHT[name] = Brought(build, weights)
        return build

    return add


def fold(name: str) -> str:
    """The form in which names are compared."""
    return name.strip().lower().replace("_", "-").replace("/", "-")
