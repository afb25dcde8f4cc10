"""Pretrained dual encoders by name, and the zero-shot head. Only this folder imports open_clip."""

from difflib import get_close_matches
from pathlib import Path

import torch

from . import tiny
from .encoder import DualEncoder
from .tiny import BackboneError

__all__ = ["BackboneError", "DualEncoder", "identity", "load", "names"]


def names() -> list[str]:
    """Registered backbones; "-scratch" names the same architecture with random weights."""
    return [*tiny.VISION, *(f"{name}{tiny.SCRATCH}" for name in tiny.VISION if name != "tiny-vit-grey")]


def _known(name: str) -> str:
    for known in names():
        if known.replace("_", "-").lower() == name.replace("_", "-").lower():
            return known
    near = get_close_matches(name, names(), 1)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise BackboneError(f"unknown backbone {name!r}{hint}? Known: {', '.join(names())}.")


def load(name: str, pretrained: str | Path | None = None, device: str | torch.device = "cpu") -> DualEncoder:
    """A pretrained dual encoder, float32, eval mode.

    Args:
        name: a registered name; "-" and "_" are the same.
        pretrained: a weights file (safetensors) of the same architecture instead of the registered one.
        device: where to put it.

    Raises:
        BackboneError: unknown name, missing or damaged weights.
    """
    return tiny.load(_known(name), device, pretrained)


def identity(name: str, pretrained: str | Path | None = None) -> str:
    """What pins the weights: "sha256:..." of the file that `load` would read, or "random" for a scratch backbone."""
    name = _known(name)
    if name.endswith(tiny.SCRATCH) and not pretrained:
        return "random"
    return tiny.weights_hash(Path(pretrained)) if pretrained else tiny.shipped_hash(name)
