"""An encoder as a folder that open_clip loads by its path, or by its name on the hub."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import _family
from .encoder import DualEncoder
from .errors import BackboneError
from .hub_tokenizer import HubTokenizer
from .registered import BROUGHT

CONFIG, MODEL = "open_clip_config.json", "open_clip_model.safetensors"
"""What open_clip calls them."""


def write(encoder: DualEncoder, folder: Path, save: Callable[[Mapping[str, Tensor]], bytes]) -> None:
    """The configuration, the tensors under open_clip's own names, and the files of a tokenizer that is not CLIP's.

    Args:
        encoder: of a registered backbone; its towers may have been trained.
        folder: exists.
        save: tensors to the bytes of a safetensors file.

    Raises:
        BackboneError: as `config`.
    """
    text = json.dumps(config(encoder), indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    (folder / MODEL).write_bytes(save(encoder.clip.state_dict()))
    if (merges := own_merges(encoder.name)) is not None:
        (folder / merges.name).write_bytes(merges.read_bytes())
    if isinstance(encoder.tokenizer, HubTokenizer):
        encoder.tokenizer.save(folder)  # where open_clip looks for it


def config(encoder: DualEncoder) -> dict[str, Any]:
    """`model_cfg` and `preprocess_cfg`: pixels as the image tower had them here, at training and at evaluation.

    Raises:
        BackboneError: code of others built it, which says no configuration; or its stem has none.
    """
    check_stem(encoder, "open_clip")
    if encoder.name in BROUGHT:
        raise BackboneError(
            f"open_clip: {encoder.name} is built by a plug-in, which says no configuration of open_clip; export it "
            "with --to huggingface, or take the run's weights/final.safetensors."
        )
    return {
        "model_cfg": _family(encoder.name).config(encoder.name),
        "preprocess_cfg": {
            "size": encoder.image_size,
            "mode": "RGB",
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "interpolation": encoder.resizing[1],
            "resize_mode": encoder.resizing[0],
        },
    }


def check_stem(encoder: DualEncoder, layout: str) -> None:
    """BackboneError where convolutions make the patches, which no layout of others has a place for."""
    if isinstance(getattr(encoder.clip.visual, "conv1", None), nn.Sequential):
        raise BackboneError(
            f"{layout}: convolutions make the patches of {encoder.name}, which {layout} has no configuration for; take "
            "the run's weights/final.safetensors."
        )


def own_merges(name: str) -> Path | None:
    """The merges of the byte-pair tokenizer of a bundled backbone; None where it is CLIP's, which open_clip has."""
    return getattr(_family(name), "MERGES", None)
