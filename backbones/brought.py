"""Backbones from outside of this package, as `registered.register` made them known."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from .encoder import DualEncoder
from .errors import BackboneError
from .registered import BROUGHT, Brought
from .tiny import seeded_by
from .traits import Traits
from .weights import fill, weights_hash


@dataclass(frozen=True)
class _Facts:
    """What is known of a backbone once it was built."""

    image_size: int
    resizing: tuple[str, str]
    traits: Traits
    tokenizer: Callable[[list[str]], Tensor]
    tensors: str


def _build(name: str, brought: Brought) -> DualEncoder:
    with seeded_by(name):
        encoder = brought.build()
    if not isinstance(encoder, DualEncoder):
        raise BackboneError(
            f"backbone {name}: must be built as a DualEncoder, got {type(encoder).__name__}; return one."
        )
    encoder.name = name
    return encoder.float()


@cache
def _facts(name: str, brought: Brought) -> _Facts:
    encoder, digest = _build(name, brought), hashlib.sha256()
    for key, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes())
    return _Facts(encoder.image_size, encoder.resizing, encoder.traits(), encoder.tokenizer, digest.hexdigest())


def _file(name: str) -> Path | None:
    """Its weights file; BackboneError where it is not there."""
    given = BROUGHT[name].weights
    if given is None:
        return None
    path = Path(given).expanduser()
    if not path.is_absolute():
        raise BackboneError(f"backbone {name}: weights must be a whole path, got '{given}'; write it from the root.")
    if not path.is_file():
        raise BackboneError(f"backbone {name}: no weights at {path}; restore the file, or correct its path.")
    return path


def image_size(name: str) -> int:
    """Side of the pictures that the image tower takes, in pixels."""
    return _facts(name, BROUGHT[name]).image_size


def resizing(name: str) -> tuple[str, str]:
    """How its pictures are brought to size, where they are read from files."""
    return _facts(name, BROUGHT[name]).resizing


def traits(name: str) -> Traits:
    """What methods must know of it."""
    return _facts(name, BROUGHT[name]).traits


def tokenizer_of(name: str) -> Callable[[list[str]], Tensor]:
    """Texts -> (N, context) token ids."""
    return _facts(name, BROUGHT[name]).tokenizer


def weights_id(name: str) -> str:
    """The hash of its weights file; without one, of the tensors that it is built with."""
    path = _file(name)
    return f"tensors:{_facts(name, BROUGHT[name]).tensors}" if path is None else weights_hash(path)


def cached(name: str) -> Path | None:
    """The weights on this machine; of a backbone without a file, whose weights are made when it is built, this one."""
    given = BROUGHT[name].weights
    path = Path(__file__) if given is None else Path(given).expanduser()
    return path if path.is_file() else None


def fetch(name: str) -> None:
    """Nothing is downloaded; BackboneError where the weights are missing."""
    _file(name)


def examine(name: str, path: Path, thorough: bool) -> str:
    """Loads it, which is how its weights are looked at; BackboneError where that fails, else ""."""
    load(name, weights=None if path == Path(__file__) else path)
    return ""


def load(name: str, device: str | torch.device = "cpu", weights: str | Path | None = None) -> DualEncoder:
    """The dual encoder, float32, in eval mode; `weights` names another file of the same shape."""
    encoder = _build(name, BROUGHT[name])
    if (path := Path(weights) if weights else _file(name)) is not None:
        fill(encoder.clip, path, name)
    return encoder.to(device).eval()
