"""Checkpoints that somebody else trained: what kind each is, and its tensors under open_clip's names.

A kind is known by names and shapes: a whole CLIP (open_clip's names, OpenAI's archive, Hugging Face's CLIPModel), or an
image tower under a linear head (wise-ft's and FLYP's ImageClassifier, a final.safetensors of this package). Whatever
stands in front of the names is taken off and said. Nothing is guessed: what does not fit in full is refused, and no
file is run.
"""

import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple
from zipfile import is_zipfile

import torch
from safetensors import safe_open
from torch import Tensor, nn

from .errors import BackboneError
from .torchscript import activation, is_torchscript, tensors_of
from .weights import (
    NOT_WEIGHTS,
    SHOWN,
    WRAPPERS,
    CodeInside,
    check_values,
    content_of,
    damaged,
    shown,
    state_dicts,
)

INSIDE = (
    "model.safetensors",
    "pytorch_model.bin",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
    "weights/final.safetensors",
)
"""What is read of a folder: the first that is there, of Hugging Face, of open_clip, of a run of this package."""
OURS, FACE = "visual.conv1.weight", "vision_model.embeddings.patch_embedding.weight"
"""The tensor by which each naming is known: open_clip's and OpenAI's, and Hugging Face's."""
POSITIONS = "visual.positional_embedding"
CLASS_NAMES = ("class_names", "classnames", "classes")
"""Keys under which a checkpoint may say what its classes are called."""
LORA = re.compile(r"(^|\.)lora_|\.lora\.")

FACE_BLOCK = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
FACE_PLAIN = {
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "vision_model.embeddings.class_embedding": "visual.class_embedding",
    "vision_model.embeddings.position_embedding.weight": POSITIONS,
    "vision_model.embeddings.patch_embedding.weight": OURS,
    "vision_model.pre_layrnorm.weight": "visual.ln_pre.weight",
    "vision_model.pre_layrnorm.bias": "visual.ln_pre.bias",
    "vision_model.post_layernorm.weight": "visual.ln_post.weight",
    "vision_model.post_layernorm.bias": "visual.ln_post.bias",
    "logit_scale": "logit_scale",
}
FACE_TURNED = {"visual_projection.weight": "visual.proj", "text_projection.weight": "text_projection"}
"""Hugging Face's projections are linear layers, open_clip's are multiplied from the right."""
FACE_LAYER = re.compile(r"(text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that fits a backbone."""

    kind: Literal["clip", "tower"]
    """A whole CLIP, or an image tower under a head."""
    tensors: dict[str, Tensor]
    """Under open_clip's names: all of a CLIP, or those of `visual` alone."""
    renamed: tuple[str, ...]
    """A sentence for each group of names that were others, for a person."""
    head: Tensor | None = None
    """(C, D), of a tower."""
    bias: Tensor | None = None
    """(C,), of a tower whose head has one."""
    normalise: bool | None = None
    """Whether the head reads unit-length features; None where the checkpoint does not say."""
    class_names: tuple[str, ...] | None = None
    """Where it says them."""
    resampled: str | None = None
    """"7x7 to 14x14": the grid of position embeddings that was resampled."""


class _Model(NamedTuple):
    """A model found among the tensors of a file."""

    key: str
    """Under which key of the file; "" at its top."""
    prefix: str
    face: bool
    stored: dict[str, Tensor]
    """All tensors beside it, wrappers taken off."""
    original: dict[str, str]
    """Name in `stored` -> name in the file."""


def file_of(path: Path, name: str) -> Path:
    """The weights file that a path means: itself, or what a folder of `INSIDE` holds.

    Raises:
        BackboneError: a folder holds none of them.
    """
    if not path.is_dir():
        return path
    found = next((path / inside for inside in INSIDE if (path / inside).is_file()), None)
    if found is None:
        raise BackboneError(f"backbone {name}: {path} is a folder without {', '.join(INSIDE)}; name a weights file.")
    return found


def read(path: Path, name: str, model: nn.Module, resample: bool = False) -> Checkpoint:
    """A checkpoint, whatever wrapped its names.

    Args:
        path: the file.
        name: of the backbone.
        model: open_clip's CLIP of that name; it may be on the device "meta".
        resample: take position embeddings of another resolution, resampled as open_clip does it.

    Raises:
        BackboneError: it is no checkpoint of a kind that is known here, or does not fit the backbone.
    """
    where, wanted = f"checkpoint {path}", model.state_dict()
    content, quick = _content(path, name)
    meta = _meta(path)
    ours = "backbone" in meta
    if meta.get("backbone", name) != name:
        raise BackboneError(f"{where}: was made with {meta['backbone']}, got --backbone {name}; name that backbone.")
    found = _found(content, where, _anchor(wanted))
    activation_told = _check_activation(quick if quick is not None else _told_activation(path), model, where, name)
    under = {key[len(found.prefix) :]: key for key in found.stored if key.startswith(found.prefix)}
    tensors, sources, rest = _renamed(found, under, wanted)
    head, bias, head_name, rest = _head(rest, _width(model))
    if rest:
        raise BackboneError(
            f"{where}: has {len(rest)} tensors that {name} has not, as {_some(rest)}; take them out, or name another "
            "backbone."
        )
    need = [key for key in wanted if head is None or key.startswith("visual.")]
    lacking = [key for key in need if key not in tensors]
    if lacking:
        text = "" if head is not None or any(key.startswith("visual.") for key in lacking) else (
            " (an image tower alone has no class scores: give it with its head, or with its text tower)"
        )  # fmt: skip
        raise BackboneError(
            f"{where}: lacks {len(lacking)} of the {len(need)} tensors of {name}, as {_some(lacking)}{text}; give all "
            "of them, or name another backbone."
        )
    taken = {key: tensors[key] for key in need}
    fits = {key for key in need if wanted[key].dim() == 0 and taken[key].numel() == 1}
    other = [key for key in need if taken[key].shape != wanted[key].shape and key not in fits]
    if other == [POSITIONS]:
        taken, resampled = _fit_positions(taken, model, resample, where, name)
        other = [key for key in other if resampled is None]
    else:
        resampled = None
    if other:
        shapes = ", ".join(f"{k} {list(taken[k].shape)} for {list(wanted[k].shape)}" for k in other[:SHOWN])
        raise BackboneError(f"{where}: {len(other)} tensors have other shapes than in {name}: {shapes}; name another.")
    check_values(taken, {key: wanted[key] for key in need}, path, name)
    heads = {} if head is None else {"head.weight": head} | ({} if bias is None else {"head.bias": bias})
    wrong = [
        key
        for key, tensor in (taken | heads).items()
        if tensor.is_floating_point() and not tensor.float().isfinite().all()
    ]
    if wrong:
        raise BackboneError(f"{where}: {_some(wrong)} hold values that are no numbers; give weights without NaN.")
    told = [*_told(found, {key: sources[key] for key in need}), *([] if ours else activation_told)]
    if head is not None:
        told.append(f"head <- {head_name}: {len(head)} classes")
        unused = len(tensors) - len(taken)
        told += [f"{unused} tensors of its text tower are not used: the head is given"] if unused else []
    return Checkpoint(
        "clip" if head is None else "tower",
        taken,
        tuple(told),
        head,
        bias,
        {"true": True, "false": False}.get(meta.get("normalise", "")) if head is not None else None,
        _class_names(content, meta),
        resampled,
    )


def _content(path: Path, name: str) -> tuple[Mapping[Any, Any], bool | None]:
    """What a file holds, and whether its code says that it has QuickGELU; None where it does not say."""
    if path.is_file() and is_zipfile(path):
        try:
            if is_torchscript(path):
                tensors = tensors_of(path)
                return {key: t for key, t in tensors.items() if not key.endswith("attn_mask")}, activation(path)
        except Exception as error:  # what a damaged archive raises depends on where it is damaged
            raise damaged(path, name, error) from None
    try:
        return content_of(path, name), None
    except CodeInside as error:
        out = path.with_suffix(".safetensors" if path.suffix != ".safetensors" else ".tensors.safetensors")
        raise BackboneError(
            f"checkpoint {path}: is a pickle that names {error.what}, which is not read, because reading it runs code; "
            f"where it was made, and you trust it, convert it: {convert(path, out)} and evaluate {out}."
        ) from None


def convert(path: Path, out: Path) -> str:
    """The command that saves the tensors of a pickled module, or of a training checkpoint, as safetensors."""
    return (
        'python -c "import sys, torch; from safetensors.torch import save_file; '
        "m = torch.load(sys.argv[1], map_location='cpu', weights_only=False); "
        "m = m.state_dict() if hasattr(m, 'state_dict') else m.get('state_dict', m); "
        'save_file({k: v.contiguous().clone() for k, v in m.items() if torch.is_tensor(v)}, sys.argv[2])" '
        f"{shlex.quote(str(path))} {shlex.quote(str(out))}"
    )


def _anchor(wanted: Mapping[str, Tensor]) -> str:
    """The tensor by which open_clip's naming of a model is known: OURS, or the first of a tower of timm."""
    return OURS if OURS in wanted else next(key for key in wanted if key.startswith("visual."))


def _width(model: Any) -> int:
    """Width of the shared embedding."""
    text = getattr(model, "text", model)
    last = text.text_projection
    width: int = (
        text.ln_final.weight if last is None else last.weight if isinstance(last, nn.Linear) else last.T
    ).shape[0]
    return width


def _found(content: Mapping[Any, Any], where: str, ours: str = OURS) -> _Model:
    """The one model of a file, `ours` the tensor by which open_clip's naming of it is known."""
    models, names = [], list[str]()
    for key, stored in state_dicts(content):
        names += stored
        plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in stored}
        if len(plain) < len(stored):
            plain = {name: name for name in stored}
        for anchor in (ours, FACE):
            prefixes = [name.removesuffix(anchor) for name in plain if name == anchor or name.endswith("." + anchor)]
            tensors = {name: stored[original] for name, original in plain.items()}
            models += [_Model(key, prefix, anchor == FACE, tensors, plain) for prefix in prefixes]
    lora = [name for name in names if LORA.search(name)]
    if lora:
        raise BackboneError(
            f"{where}: holds LoRA that is not merged, as {_some(lora)}; merge it where it was trained, as with "
            "model = model.merge_and_unload() of peft, and save model.state_dict()."
        )
    if not models:
        begin = f"its names begin with {_some(names)}" if names else "it holds no tensors with names"
        if any("visual." in name for name in names):
            begin = f"it has others of one, but lacks {ours}"
        raise BackboneError(
            f"{where}: holds no image tower of a CLIP as open_clip, OpenAI or Hugging Face's CLIPModel name it: "
            f"{begin}; save the state_dict() of the whole model."
        )
    if len(models) > 1:
        places = [f"{model.key}{':' if model.key else ''}{model.prefix}" for model in models]
        raise BackboneError(
            f"{where}: holds {len(models)} models, under {_some(places)}; save the one that you mean alone."
        )
    return models[0]


def _renamed(
    found: _Model, under: Mapping[str, str], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, list[str]], dict[str, Tensor]]:
    """(Tensors under open_clip's names, each one's names in the file, tensors of no such name)."""
    tensors: dict[str, Tensor] = {}
    sources: dict[str, list[str]] = {}
    rest = {key: tensor for key, tensor in found.stored.items() if not key.startswith(found.prefix)}
    parts: dict[str, dict[str, str]] = {}
    for short, key in under.items():
        tensor = found.stored[key]
        target = short
        if found.face:
            if short.endswith("position_ids"):
                continue
            target = FACE_PLAIN.get(short, FACE_TURNED.get(short, short))
            tensor = tensor.T if short in FACE_TURNED else tensor
            if layer := FACE_LAYER.fullmatch(short):
                tower, number, part, what = layer.groups()
                block = f"{'visual.' if tower == 'vision' else ''}transformer.resblocks.{number}."
                if part in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
                    parts.setdefault(f"{block}attn.in_proj_{what}", {})[part[-6]] = key
                    continue
                target = f"{block}{FACE_BLOCK[part]}.{what}" if part in FACE_BLOCK else short
        elif short not in wanted and short.startswith("text.") and short[5:] in wanted:
            target = short[5:]  # open_clip's CustomTextCLIP
        elif short not in wanted and f"text.{short}" in wanted:
            target = f"text.{short}"  # its older files
        if target in wanted:
            tensors[target], sources[target] = tensor, [found.original[key]]
        elif short.rpartition(".")[2] not in NOT_WEIGHTS:
            rest[key] = tensor
    for target, keys in parts.items():
        if target in wanted and set(keys) == {"q", "k", "v"}:
            tensors[target] = torch.cat([found.stored[keys[one]] for one in "qkv"])
            sources[target] = [found.original[keys[one]] for one in "qkv"]
        else:
            rest |= {key: found.stored[key] for key in keys.values()}
    return tensors, sources, {found.original[key]: tensor for key, tensor in rest.items()}


def _head(rest: dict[str, Tensor], width: int) -> tuple[Tensor | None, Tensor | None, str, dict[str, Tensor]]:
    """(Weight, bias, name in the file, what else there is) of the one linear layer of this width beside the model."""
    weights = [key for key, t in rest.items() if key.rpartition(".")[2] == "weight" and t.dim() == 2]
    weights = [key for key in weights if rest[key].shape[1] == width]
    if len(weights) != 1:
        return None, None, "", rest
    (key,) = weights
    bias = f"{key.removesuffix('weight')}bias"
    if bias in rest and rest[bias].shape != rest[key].shape[:1]:
        return None, None, "", rest
    left = {name: tensor for name, tensor in rest.items() if name not in (key, bias)}
    return rest[key].float(), rest[bias].float() if bias in rest else None, key, left


def _fit_positions(
    tensors: dict[str, Tensor], model: Any, resample: bool, where: str, name: str
) -> tuple[dict[str, Tensor], str | None]:
    """The tensors with position embeddings of the model's grid, and what was resampled."""
    grid = getattr(model.visual, "grid_size", None)
    if grid is None or POSITIONS not in tensors or tensors[POSITIONS].dim() != 2:
        return tensors, None
    have, want = len(tensors[POSITIONS]) - 1, grid[0] * grid[1]
    side = math.isqrt(max(have, 0))
    if have == want or side == 0 or side * side != have:
        return tensors, None
    grids = f"{side}x{side} to {grid[0]}x{grid[1]}"
    if not resample:
        raise BackboneError(
            f"{where}: has position embeddings of {side}x{side} patches, got {name} with {grid[0]}x{grid[1]}, so it "
            "was trained at another resolution; name a backbone of that one, or add --resample-positions."
        )
    from open_clip.model import resize_pos_embed

    resized = {POSITIONS: tensors[POSITIONS].float()}
    resize_pos_embed(resized, model)
    return tensors | resized, grids


def _check_activation(quick: bool | None, model: Any, where: str, name: str) -> list[str]:
    """BackboneError where the activation of a checkpoint is known and is not the backbone's; what to say of it."""
    blocks = getattr(model, "text", model).transformer.resblocks
    own = any(type(module).__name__ == "QuickGELU" for module in blocks.modules())
    told = ("the ordinary GELU", "QuickGELU")
    if quick is None:
        return [f"activation: {told[own]}, which {name} has; the checkpoint does not say with which it was trained"]
    if quick != own:
        raise BackboneError(
            f"{where}: was trained with {told[quick]}, got --backbone {name}, which has {told[own]}; name a backbone "
            f"with the activation of the checkpoint (MODEL{'-quickgelu' if quick else ''}:TAG of open_clip)."
        )
    return []


def _told_activation(path: Path) -> bool | None:
    """What the configuration beside a checkpoint says: of Hugging Face's or open_clip's; None where there is none."""
    for place, read_it in (("config.json", _of_face), ("open_clip_config.json", _of_open_clip)):
        try:
            config = json.loads(path.with_name(place).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and (told := read_it(config)) is not None:
            return told
    return None


def _of_face(config: Mapping[str, Any]) -> bool | None:
    if config.get("model_type") != "clip":
        return None
    vision = config.get("vision_config")
    return (vision if isinstance(vision, dict) else {}).get("hidden_act", "quick_gelu") == "quick_gelu"


def _of_open_clip(config: Mapping[str, Any]) -> bool | None:
    model = config.get("model_cfg")
    return bool(model.get("quick_gelu", False)) if isinstance(model, dict) else None


def _told(found: _Model, sources: Mapping[str, list[str]]) -> Iterable[str]:
    """One line for each tower whose names in the file are others: visual.* <- module.visual.*: 150 tensors."""
    if found.key:
        yield f"the tensors are those under {found.key!r}"
    for tower, own in (("visual.*", True), ("the text tower", False)):
        of_it = {key: names for key, names in sources.items() if key.startswith("visual.") == own}
        other = [name for key, names in of_it.items() for name in names if names != [key]]
        if other:
            start = os.path.commonprefix(other)
            yield f"{tower} <- {start[: start.rfind('.') + 1]}*: {len(of_it)} tensors"


def _meta(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself: of this package its `meta`, else the map of texts that it carries."""
    try:
        with safe_open(path, framework="pt") as file:
            told = dict(file.metadata() or {})
    except Exception:  # another format, which `_content` has read
        return {}
    try:
        own = json.loads(told.get("meta", "{}"))
    except ValueError:
        own = {}
    own = own if isinstance(own, dict) else {}
    return {
        key: value for key, value in {**told, **own}.items() if key in (*own, *CLASS_NAMES) and isinstance(value, str)
    }


def _class_names(content: Mapping[Any, Any], meta: Mapping[str, str]) -> tuple[str, ...] | None:
    """The names of its classes, where a checkpoint has them."""
    for key in CLASS_NAMES:
        told: Any = content.get(key)
        if told is None and key in meta:
            try:
                told = json.loads(meta[key])
            except ValueError:
                continue
        if isinstance(told, (list, tuple)) and told and all(isinstance(name, str) for name in told):
            return tuple(told)
    return None


def _some(names: Iterable[str]) -> str:
    return ", ".join(shown(list(names)))
