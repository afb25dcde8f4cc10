"""Real CLIP backbones through open_clip: RN50, ViT-B-16 and ViT-L-14 with OpenAI's weights, and its other models.

Names are MODEL:TAG of open_clip, `hf-hub:org--name` of a repository with open_clip's configuration, `local-dir:FOLDER`
of such a folder, and MODEL:FILE of a weights file of one's own (`places`). Which models are backbones, `architectures`
says.

OpenAI's weights need QuickGELU, x * sigmoid(1.702 x). open_clip's plain `ViT-B-16` has the ordinary GELU and takes the
tag `openai` with no more than a warning, so the three names here mean its `-quickgelu` models, and a model whose
activation is not the one that a tag was trained with is refused.

Towers are built without dropout of patches, paths or units, so that the loss of a batch is one number however it is
cut.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cache
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from . import architectures, places
from .cost import Cost, of_model
from .encoder import PIXEL_MEAN, PIXEL_STD, USUAL_RESIZING, DualEncoder
from .errors import BackboneError
from .hub_tokenizer import NEEDED, HubTokenizer
from .registered import FROM_FOLDER, FROM_HUB, OPENAI, QUICK_GELU
from .tiny import seeded_by
from .traits import Traits
from .weights import beyond_half, fill, read_weights, weights_hash

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""In a hub repository that open_clip names without a file, in its order."""
FOLDER_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
"""Of a folder, the first that is there."""
CONFIG = "open_clip_config.json"
STILL = {"patch_dropout": 0.0, "timm_drop": 0.0, "timm_drop_path": 0.0, "timm_model_pretrained": False}
"""Settings of an image tower that are taken in place of others: no dropout of any kind, and no weights of timm."""


@cache
def tokenizer(context: int = 77, clean: str = "lower") -> "SimpleTokenizer":
    """CLIP's byte-pair tokenizer of 49 408 tokens; its merges ship with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(context_length=context, clean=clean)


def parse(name: str) -> tuple[str, str]:
    """open_clip's (model, tag) of a registered name or of MODEL:TAG; BackboneError where there is no such pair.

    The model decides the activation: a registered name is a `-quickgelu` model. Of a weights file of one's own the tag
    is its name, and of a repository or folder it is "".
    """
    if name in OPENAI:
        return f"{name}{QUICK_GELU}", "openai"
    if name.startswith((FROM_HUB, FROM_FOLDER)):
        return name, ""
    from open_clip import pretrained

    model, _, tag = name.partition(":")
    if places.is_file_name(name):
        _installed(model, name)
        return model, tag
    config = _installed(model, name)
    settings = pretrained.get_pretrained_cfg(model, tag)
    if not settings:
        raise BackboneError(f"unknown backbone {name!r}: open_clip has no weights {tag!r} of {model!r}; {tags(model)}.")
    quick = bool(settings.get("quick_gelu", False))
    if quick != bool(config.get("quick_gelu", False)):
        other = f"{model}{QUICK_GELU}" if quick else model.removesuffix(QUICK_GELU)
        raise BackboneError(
            f"backbone {name}: these weights were trained with {'QuickGELU' if quick else 'the ordinary GELU'}, and "
            f"{model} has the other activation; write {other}:{tag}."
        )
    return model, tag


def tags(model: str) -> str:
    """The tags of a model of the installed open_clip, as the end of a sentence."""
    from open_clip import pretrained

    fit = _with_its_activation(model)
    other = f"{model}{QUICK_GELU}"
    others = [tag for tag in pretrained.list_pretrained_tags_by_model(model) if tag not in fit]
    also = f", and of {other}: {', '.join(others)}" if others and other in installed() else ""
    return (
        f"tags: {', '.join(fit)}{also}" if fit or also else f"tags: none; give a weights file, {model}:FILE.safetensors"
    )


def _with_its_activation(model: str) -> tuple[str, ...]:
    """The tags of a model whose weights were trained with its activation."""
    from open_clip import pretrained

    quick = bool(installed()[model].get("quick_gelu", False))
    known = pretrained.list_pretrained_tags_by_model(model)
    return tuple(
        tag for tag in known if bool(pretrained.get_pretrained_cfg(model, tag).get("quick_gelu", False)) == quick
    )


@dataclass(frozen=True)
class Description:
    """What open_clip says of a backbone."""

    model: dict[str, Any]
    """Its configuration."""
    preprocess: dict[str, Any]
    """mean, std, interpolation and resize_mode of its pictures, where they are said."""

    @property
    def resizing(self) -> tuple[str, str]:
        """resize_mode and interpolation."""
        mode, interpolation = USUAL_RESIZING
        said = self.preprocess
        return said.get("resize_mode") or mode, said.get("interpolation") or interpolation


def describe(name: str) -> Description:
    """Configuration and preprocessing of a backbone, looked up without weights.

    Raises:
        BackboneError: there is none of this name, it is no backbone here, or it is not on this machine.
    """
    if name.startswith((FROM_HUB, FROM_FOLDER)):
        path = _config_file(name)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found = Description(content["model_cfg"], dict(content.get("preprocess_cfg") or {}))
            architectures.accept(name, name, found.model)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, BackboneError):
                raise
            raise BackboneError(
                f"backbone {name}: {path} is no configuration of open_clip ({type(error).__name__}: {error}); give one "
                "with model_cfg and preprocess_cfg."
            ) from None
    else:
        from open_clip.pretrained import get_pretrained_cfg

        model, tag = parse(name)
        said = _of_its_tags(model, name) if places.is_file_name(name) else get_pretrained_cfg(model, tag)
        found = Description(_installed(model, name), {key: said[key] for key in PREPROCESS if key in said})
    mode, interpolation = found.resizing
    if mode not in ("shortest", "longest", "squash") or interpolation not in ("bicubic", "bilinear"):
        raise BackboneError(
            f"backbone {name}: its pictures are resized by {mode} and {interpolation}, which is not known here; take a "
            "model with shortest, longest or squash, and bicubic or bilinear."
        )
    if found.preprocess.get("fill_color"):
        raise BackboneError(f"backbone {name}: its pictures have a border of another colour than black; take another.")
    return found


PREPROCESS = ("mean", "std", "interpolation", "resize_mode")


def _of_its_tags(model: str, name: str) -> Mapping[str, Any]:
    """How all tags of a model prepare pictures: a file of weights alone does not say it."""
    from open_clip import pretrained

    said = [pretrained.get_pretrained_cfg(model, tag) for tag in pretrained.list_pretrained_tags_by_model(model)]
    kinds = [{key: one[key] for key in PREPROCESS} for one in said]
    if any(kind != kinds[0] for kind in kinds):
        raise BackboneError(
            f"backbone {name}: the weights of {model} were trained with several kinds of pictures ({tags(model)}), and "
            f"a file does not say with which; put it into a folder with {CONFIG}, and name local-dir:FOLDER."
        )
    return kinds[0] if kinds else {}


def installed() -> dict[str, dict[str, Any]]:
    """The configurations of the installed open_clip by model; looks up nothing on the hub."""
    from open_clip import factory

    found: dict[str, dict[str, Any]] = factory._MODEL_CONFIGS
    return found


@dataclass(frozen=True)
class Model:
    """A model of the installed open_clip."""

    model: str
    tags: tuple[str, ...]
    architecture: architectures.Architecture
    cost: Cost | None
    """None of one that is no backbone."""


def models(part: str = "") -> Iterator[Model]:
    """Those with this part in their names, as open_clip sorts them; tags are those with the model's activation.

    Args:
        part: with * or ? a pattern of the whole name, as a shell's; as MODEL:TAG that model alone.
    """
    part, tagged, _ = part.lower().replace("/", "-").partition(":")
    pattern = part if tagged or set("*?") & set(part) else f"*{escape(part)}*"
    for model, config in installed().items():
        if not fnmatchcase(model.lower(), pattern):
            continue
        found = architectures.classify(model, config)
        cost = None if found.tier == "C" else of_model(model, config)
        yield Model(model, _with_its_activation(model), found, cost)


def _installed(model: str, name: str) -> dict[str, Any]:
    """The configuration that the installed open_clip has of a model, where it is a backbone here."""
    found = installed().get(model)
    if found is None:
        near = get_close_matches(model, installed(), 1)
        hint = f"did you mean {near[0]}?" if near else "see `robustft list backbones`."
        raise BackboneError(f"unknown backbone {name!r}: open_clip has no model {model!r}; {hint}")
    architectures.accept(name, model, found)
    return deepcopy(found)


def config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a backbone, its activation written out; needs no weights."""
    return describe(name).model


def cost(name: str) -> Cost:
    """What a step of a backbone costs; needs no weights."""
    return of_model(parse(name)[0], config(name))


def architecture(name: str) -> architectures.Architecture:
    """What its configuration says of a backbone; needs no weights."""
    return architectures.accept(name, parse(name)[0], config(name))


def _config_file(name: str) -> Path:
    """open_clip's configuration in a folder, or in the cache of the hub."""
    if name.startswith(FROM_FOLDER):
        folder = places.found(name, name.removeprefix(FROM_FOLDER))
        if not (folder / CONFIG).is_file():
            raise BackboneError(f"backbone {name}: {folder} has no {CONFIG}; put it there, or name another folder.")
        return folder / CONFIG
    found = _in_cache(_repository(name), CONFIG)
    if found is None:
        raise BackboneError(
            f"backbone {FROM_HUB}{_repository(name)}: its configuration is not on this machine; on one with network "
            "run `robustft doctor --prefetch SUITE` for a suite with this backbone."
        )
    return found


def _repository(name: str) -> str:
    return name.removeprefix(FROM_HUB).replace("--", "/")


def tokenizer_of(name: str) -> "Callable[[list[str]], torch.Tensor]":
    """The tokenizer with the context of the text tower; needs no weights."""
    return _tokenizer(name, config(name)["text_cfg"])


def _tokenizer(name: str, text: Mapping[str, Any]) -> "SimpleTokenizer | HubTokenizer":
    context, settings = text.get("context_length", 77), text.get("tokenizer_kwargs") or {}
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return tokenizer(context, settings.get("clean", "lower"))
    own = _config_file(name).parent if name.startswith(FROM_FOLDER) else repository  # as open_clip does
    return HubTokenizer(name, own, context, settings)


def image_size(name: str) -> int:
    """Side of the pictures that the image tower takes, in pixels; needs no weights."""
    return 224 if name in OPENAI else architecture(name).image_size  # those without open_clip, which is slow to import


def resizing(name: str) -> tuple[str, str]:
    """open_clip's resize_mode and interpolation of a backbone's pictures; needs no weights."""
    return USUAL_RESIZING if name in OPENAI else describe(name).resizing


def preprocess(name: str) -> dict[str, Any]:
    """All that is done to its pictures: `resizing`, mean and std; needs no weights."""
    found = describe(name)
    mode, interpolation = found.resizing
    mean, std = (list(found.preprocess.get(key) or own) for key, own in (("mean", PIXEL_MEAN), ("std", PIXEL_STD)))
    return {"resize_mode": mode, "interpolation": interpolation, "mean": mean, "std": std}


USUAL = {
    "resize_mode": USUAL_RESIZING[0],
    "interpolation": USUAL_RESIZING[1],
    "mean": list(PIXEL_MEAN),
    "std": list(PIXEL_STD),
}
"""`preprocess` of OpenAI's models."""


@cache
def traits(name: str) -> Traits:
    """What methods must know of a backbone; builds no weights."""
    found = architecture(name)
    with torch.device("meta"):
        encoder = build(name)
    return encoder.traits(sigmoid=found.sigmoid, clip_tokens=found.clip_tokens)


def build(name: str, *, vision: Mapping[str, Any] | None = None, text: Mapping[str, Any] | None = None) -> DualEncoder:
    """The architecture with weights from torch's current random state.

    Args:
        name: as in `parse`.
        vision, text: settings of open_clip's CLIPVisionCfg and CLIPTextCfg to change: image_size, layers, width, ...

    Raises:
        BackboneError: open_clip or timm cannot build it.
    """
    from open_clip.model import CLIP, CustomTextCLIP

    found = describe(name)
    config = found.model
    config["vision_cfg"] |= {key: off for key, off in STILL.items() if config["vision_cfg"].get(key)}
    config["vision_cfg"] |= vision or {}
    config["text_cfg"] |= text or {}
    made: type[CLIP] | type[CustomTextCLIP] = CustomTextCLIP if config.pop("custom_text", False) else CLIP
    try:
        clip = made(**config)
    except Exception as error:  # what an unknown tower raises is its own
        raise BackboneError(
            f"backbone {name}: open_clip cannot build it ({' '.join(str(error).split())[:200]}); raise the version of "
            "timm or open_clip, or take another."
        ) from error
    mean, std = found.preprocess.get("mean") or PIXEL_MEAN, found.preprocess.get("std") or PIXEL_STD
    return DualEncoder(clip, _tokenizer(name, config["text_cfg"]), name, mean, std, found.resizing)


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
    """What pins the weights; downloads nothing.

    The tag and where its weights are, "openai:timm/resnet50_clip.openai", and of a repository the snapshot too; of
    weights of one's own their hash, of a folder the hash of all files that the model is made of.
    """
    if name in OPENAI:
        return f"openai:{OPENAI[name]}"
    if places.is_file_name(name):
        return weights_hash(_own_file(name))
    if name.startswith(FROM_FOLDER):
        folder = _config_file(name).parent
        files = {CONFIG, _own_file(name).name, *(file for file in NEEDED if (folder / file).is_file())}
        listed = "".join(f"{file} {weights_hash(folder / file)}\n" for file in sorted(files))
        return f"sha256:{hashlib.sha256(listed.encode()).hexdigest()}"
    if name.startswith(FROM_HUB):
        return f"hf-hub:{_repository(name)}@{_config_file(name).parent.name[:12]}"
    from open_clip.pretrained import get_pretrained_cfg

    model, tag = parse(name)
    settings = get_pretrained_cfg(model, tag)
    return f"{tag}:{settings.get('hf_hub', '').rstrip('/') or settings.get('url', '')}"


def _own_file(name: str) -> Path:
    """The weights file of one's own that a name stands for."""
    if places.is_file_name(name):
        return places.found(name, name.partition(":")[2])
    folder = _config_file(name).parent
    found = next((folder / file for file in FOLDER_FILES if (folder / file).is_file()), None)
    if found is None:
        raise BackboneError(f"backbone {name}: {folder} has none of {', '.join(FOLDER_FILES)}; put its weights there.")
    return found


def cached(name: str) -> Path | None:
    """The file of the weights in the Hugging Face cache, or None; asks no network."""
    if places.is_file_name(name) or name.startswith(FROM_FOLDER):
        return _own_file(name)
    repository, filename = _on_the_hub(name)
    files = (filename,) if filename else WEIGHTS_FILES
    return next(filter(None, (_in_cache(repository, file) for file in files if repository)), None)


def _in_cache(repository: str, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def prefetch(name: str, weights: bool = True) -> str:
    """Downloads all that a backbone is made of, its weights if asked for; says of its tokenizer where it comes from.

    Raises:
        BackboneError: as `fetch`.
    """
    if name.startswith(FROM_HUB):
        _download(name, _repository(name), (CONFIG,), "its configuration")
    found = tokenizer_of(name)
    if weights:
        fetch(name)
    if not isinstance(found, HubTokenizer):
        return "its tokenizer ships with open_clip or with this package"
    found.fetch()
    return f"so is its tokenizer, {found.source}"


def fetch(name: str) -> Path:
    """The file of the weights: from the cache, else downloaded into it.

    Not by open_clip, which takes the second of WEIGHTS_FILES whatever kept it from the first.

    Raises:
        BackboneError: if it is not in the cache and cannot be downloaded; its cause is what the hub's library raised.
    """
    found = cached(name)
    if found is not None:
        return found
    repository, filename = _on_the_hub(name)
    files = (filename,) if filename else WEIGHTS_FILES
    own = f", or put them as {name}.safetensors into a folder that ROBUSTFT_WEIGHTS names"
    return _download(name, repository, files, f"its weights ({weights_id(name)})", own)


def _download(name: str, repository: str, files: tuple[str, ...], what: str, instead: str = "") -> Path:
    """The first of these files that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    failed: Exception
    for file in files:
        try:
            return Path(hf_hub_download(repository, file))
        except Exception as error:  # one of several network libraries
            failed = error
            if not isinstance(error, EntryNotFoundError) or isinstance(error, LocalEntryNotFoundError):
                break  # the hub did not say that it has no such file
    reason = " ".join(str(failed).split())[:200]
    raise BackboneError(
        f"backbone {name}: {what} are not in the cache {HF_HUB_CACHE} and cannot be "
        f"downloaded; on a machine with network run `robustft doctor --prefetch SUITE` for a suite with this "
        f"backbone, with HF_HUB_CACHE on a shared disk{instead} ({reason})."
    ) from failed


def _on_the_hub(name: str) -> tuple[str, str]:
    """(repository, file) of the weights; "" for a file that open_clip leaves open, and for no repository."""
    if name in OPENAI:
        return OPENAI[name], ""
    if name.startswith(FROM_HUB):
        return _repository(name), ""
    from open_clip.pretrained import get_pretrained_cfg

    place = get_pretrained_cfg(*parse(name)).get("hf_hub", "")
    repository, _, filename = place.rpartition("/")
    return repository, filename
