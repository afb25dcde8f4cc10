"""Real CLIP backbones through open_clip: RN50, ViT-B-16 and ViT-L-14 with OpenAI's weights, and others as MODEL:TAG.

OpenAI's weights need QuickGELU, x * sigmoid(1.702 x). open_clip's plain `ViT-B-16` has the ordinary GELU and takes the
tag `openai` with no more than a warning, so the three names here mean its `-quickgelu` models, and a model whose
activation is not the one that a tag was trained with is refused.
"""

import os
import re
import warnings
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .encoder import PIXEL_MEAN, PIXEL_STD, DualEncoder
from .errors import BackboneError
from .registered import OPENAI, QUICK_GELU
from .tiny import seeded_by
from .weights import beyond_half, fill, read_weights, weights_hash

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""In a hub repository that open_clip names without a file, in its order."""


@cache
def tokenizer(context: int = 77) -> "SimpleTokenizer":
    """CLIP's byte-pair tokenizer of 49 408 tokens; its merges ship with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context)


def parse(name: str) -> tuple[str, str]:
    """open_clip's (model, tag) of a registered name or of MODEL:TAG; BackboneError where there is no such pair.

    The model decides the activation: a registered name is a `-quickgelu` model.
    """
    if name in OPENAI:
        return f"{name}{QUICK_GELU}", "openai"
    from open_clip import pretrained

    model, _, tag = name.partition(":")
    settings = pretrained.get_pretrained_cfg(model, tag)
    if not settings:
        known = ", ".join(pretrained.list_pretrained_tags_by_model(model)) or "none; open_clip lacks the model"
        raise BackboneError(f"unknown backbone {name!r}: open_clip has no weights {tag!r} of {model!r}; tags: {known}.")
    quick = bool(settings.get("quick_gelu", False))
    if quick != _config(model, name).get("quick_gelu", False):
        other = f"{model}{QUICK_GELU}" if quick else model.removesuffix(QUICK_GELU)
        raise BackboneError(
            f"backbone {name}: these weights were trained with {'QuickGELU' if quick else 'the ordinary GELU'}, and "
            f"{model} has the other activation; write {other}:{tag}."
        )
    return model, tag


def config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a backbone, its activation written out; needs no weights."""
    return _config(parse(name)[0], name)


def _config(model: str, name: str) -> dict[str, Any]:
    """open_clip's configuration of a model, where it is a CLIP as the methods here know it."""
    import open_clip

    config = open_clip.get_model_config(model)
    if config is None:
        raise BackboneError(
            f"unknown backbone {name!r}: open_clip has no model {model!r}; see open_clip.list_models()."
        )
    vision, text = config["vision_cfg"], config["text_cfg"]
    foreign = {"timm_model_name", "hf_model_name", "hf_tokenizer_name", "multimodal_cfg"}
    other = foreign & {*config, *vision, *text} or config.get("custom_text") or text.get("no_causal_mask")
    if other or text.get("pool_type", "argmax") != "argmax":
        raise BackboneError(
            f"backbone {name}: open_clip's {model} is no CLIP with its own image tower and a causal text tower that is "
            "read at the end token; take a ViT or ResNet of OpenAI's shape."
        )
    return config


def tokenizer_of(name: str) -> "SimpleTokenizer":
    """The tokenizer with the context of the text tower; needs no weights."""
    return tokenizer(_config(parse(name)[0], name)["text_cfg"].get("context_length", 77))


def image_size(name: str) -> int:
    """Side of the pictures that the image tower takes, in pixels; needs no weights."""
    if name in OPENAI:
        return 224  # without open_clip, which is slow to import
    size = _config(parse(name)[0], name)["vision_cfg"]["image_size"]
    return size if isinstance(size, int) else size[0]


def build(name: str, *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None) -> DualEncoder:
    """The architecture with weights from torch's current random state.

    Args:
        name: as in `parse`.
        vision, text: settings of open_clip's CLIPVisionCfg and CLIPTextCfg to change: image_size, layers, width, ...
    """
    from open_clip.model import CLIP
    from open_clip.pretrained import get_pretrained_cfg

    model, tag = parse(name)
    config = _config(model, name)
    config["vision_cfg"] |= vision or {}
    config["text_cfg"] |= text or {}
    settings = get_pretrained_cfg(model, tag)
    clip = CLIP(**config)
    return DualEncoder(
        clip,
        tokenizer(clip.context_length),
        name,
        settings.get("mean", PIXEL_MEAN),
        settings.get("std", PIXEL_STD),
    )


def untrained(name: str, **shrink: Mapping[str, Any]) -> DualEncoder:
    """The architecture with random weights, a function of its name, in eval mode: for speed scripts and tests.

    Args:
        name: as in `parse`.
        shrink: `vision` and `text` of `build`; `vision={"layers": 2}` keeps the width and cuts the depth.
    """
    with seeded_by(name):
        return build(name, **shrink).eval()


def load(name: str, device: str | torch.device = "cpu", weights: str | Path | None = None) -> DualEncoder:
    """The backbone with its weights, float32, in eval mode; `weights` names a local file instead of the hub's."""
    path = Path(weights) if weights else fetch(name)
    encoder = build(name)
    fill(encoder.clip, path, name)
    encoder.doubt = _doubt(name, path, encoder.clip.state_dict())
    if encoder.doubt:
        warnings.warn(encoder.doubt, stacklevel=2)  # once: Python shows the same warning of the same line once
    return encoder.to(device).eval()


def _doubt(name: str, path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """One sentence where weights of OpenAI's name cannot be OpenAI's, else ""."""
    other = beyond_half(tensors) if parse(name)[1].lower() == "openai" else None
    if other is None:
        return ""
    return (
        f"backbone {name}: the weights at {path.name} are not those that OpenAI gave out, which are of half precision: "
        f"{other} holds other numbers; weights of LAION or others are MODEL:TAG, which decides the activation too"
    )


def examine(name: str, path: Path, thorough: bool) -> str:
    """What can be said of a weights file without loading it: the `doubt` of its encoder.

    Args:
        name: as in `parse`.
        path: the file.
        thorough: read every byte of a file of the Hugging Face cache, which is named by its hash.

    Raises:
        BackboneError: the file is damaged.
    """
    with torch.device("meta"):  # names and shapes alone
        model = build(name).clip
    doubt = _doubt(name, path, read_weights(path, name, model))
    blob = os.path.basename(os.readlink(path)) if path.is_symlink() else ""
    if thorough and re.fullmatch("[0-9a-f]{64}", blob) and weights_hash(path) != f"sha256:{blob}":
        raise BackboneError(
            f"backbone {name}: damaged weights at {path}: their sha256 is not the one that the hub gave; delete the "
            "file that it points to and fetch them again."
        )
    return doubt


def weights_id(name: str) -> str:
    """The tag and where its weights are, e.g. "openai:timm/resnet50_clip.openai"; reads and downloads nothing."""
    if name in OPENAI:
        return f"openai:{OPENAI[name]}"
    from open_clip.pretrained import get_pretrained_cfg

    model, tag = parse(name)
    settings = get_pretrained_cfg(model, tag)
    return f"{tag}:{settings.get('hf_hub', '').rstrip('/') or settings.get('url', '')}"


def cached(name: str) -> Path | None:
    """The file of the weights in the Hugging Face cache, or None; asks no network."""
    from huggingface_hub import try_to_load_from_cache

    repository, filename = _on_the_hub(name)
    for candidate in (filename,) if filename else WEIGHTS_FILES:
        found = try_to_load_from_cache(repository, candidate) if repository else None
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(name: str) -> Path:
    """The file of the weights: from the cache, else downloaded into it.

    Not by open_clip, which takes the second of WEIGHTS_FILES whatever kept it from the first.

    Raises:
        BackboneError: if it is not in the cache and cannot be downloaded; its cause is what the hub's library raised.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    found = cached(name)
    if found is not None:
        return found
    repository, filename = _on_the_hub(name)
    failed: Exception
    for file in (filename,) if filename else WEIGHTS_FILES:
        try:
            return Path(hf_hub_download(repository, file))
        except Exception as error:  # one of several network libraries
            failed = error
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                break  # the hub did not say that it has no such file
    reason = " ".join(str(failed).split())[:200]
    raise BackboneError(
        f"backbone {name}: its weights ({weights_id(name)}) are not in the cache {HF_HUB_CACHE} and cannot be "
        f"downloaded; on a machine with network run `robustft doctor --prefetch SUITE` for a suite with this "
        f"backbone, with HF_HUB_CACHE on a shared disk, or put them as {name}.safetensors into a folder that "
        f"ROBUSTFT_WEIGHTS names ({reason})."
    ) from failed


def _on_the_hub(name: str) -> tuple[str, str]:
    """(repository, file) of the weights; "" for a file that open_clip leaves open, and for no repository."""
    if name in OPENAI:
        return OPENAI[name], ""
    from open_clip.pretrained import get_pretrained_cfg

    place = get_pretrained_cfg(*parse(name)).get("hf_hub", "")
    repository, _, filename = place.rpartition("/")
    return repository, filename
