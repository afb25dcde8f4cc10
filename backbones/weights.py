"""Weights files: safetensors, or a state dict of tensors alone that torch.load reads without running code.

What a file is, its first bytes say and not its ending. Whatever wrapped the model when it was saved (torch.compile,
DataParallel, Lightning, a checkpoint with an optimizer beside it) is taken off, but only where all names and shapes
then are the model's: a part of a model, or another one, is never taken for it.
"""

import hashlib
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import BackboneError
from .torchscript import is_torchscript

NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's original state dicts that are settings."""
WRAPPERS = ("_orig_mod", "module")
"""What torch.compile and DataParallel put into names, wherever the wrapped part stands."""
HALVED = ("text_projection", "visual.conv1.weight", "visual.proj", "visual.attnpool.c_proj.weight")
"""A few of the weights that OpenAI gave out in half precision (openai/CLIP, clip/model.py, `convert_weights`): whatever
loads OpenAI's files, open_clip too, holds numbers of half precision in them, also after a conversion to float32."""
LARGEST_LOG_SCALE = 10.0
"""CLIP ends at ln 100 = 4.6. A larger logit_scale is one of which exp was taken before it was saved."""
SHOWN = 3
"""Names that a sentence tells of a file."""
SAVE = "save the tensors alone, torch.save(model.state_dict(), FILE), and give that"


class CodeInside(BackboneError):
    """A file that names what reading it would run, as a pickled module does; nothing of it was read.

    Args:
        sentence: for whoever wants weights.
        what: the first name that it would look up.
    """

    def __init__(self, sentence: str, what: str) -> None:
        super().__init__(sentence)
        self.what = what


def weights_hash(path: Path) -> str:
    """The hash of a weights file, as "sha256:..."."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as error:
        raise BackboneError(f"weights {path}: {error.strerror or error}; give the path of a weights file.") from None
    return f"sha256:{digest.hexdigest()}"


def read_weights(path: Path, name: str, model: nn.Module) -> dict[str, Tensor]:
    """The tensors of a weights file under the names of a model, open_clip's CLIP, which are OpenAI's too.

    Takes safetensors, a state dict, and a training checkpoint in which one is stored under a key of its own. All names
    and shapes are the model's, and every number may have a fraction where the model's may; of the values, only
    logit_scale is looked at.

    Args:
        name: of the backbone, for messages.
        model: needs no weights; it may be on the device "meta".

    Raises:
        BackboneError: the file is missing, cannot be read, or holds something else.
    """
    wanted = model.state_dict()
    found = list(state_dicts(content_of(path, name)))
    fitting = [
        (key, prefix, tensors)
        for key, stored in found
        for prefix, unwrapped in [_unwrapped(stored, wanted)]
        for tensors in [_with_text_module(unwrapped, wanted)]
        if tensors.keys() == wanted.keys()
    ]
    if len(fitting) > 1:
        keys = " and ".join(shown([key for key, _, _ in fitting]))
        raise BackboneError(
            f"backbone {name}: {path} holds {len(fitting)} models, under {keys}; save the one that you mean alone."
        )
    if not fitting:
        raise BackboneError(f"backbone {name}: {path} {_misfit(found, wanted)}")
    ((key, prefix, tensors),) = fitting
    check_values(tensors, wanted, path, name)
    if prefix:
        warnings.warn(f"backbone {name}: {prefix} was taken off the names in {path.name}", stacklevel=3)
    if key not in ("", "state_dict"):
        warnings.warn(f"backbone {name}: the weights are those under {key!r} in {path.name}", stacklevel=3)
    return tensors


def beyond_half(tensors: Mapping[str, Tensor]) -> str | None:
    """The first of HALVED whose numbers half precision cannot hold, and so are not OpenAI's; None where there is none.

    Milliseconds. It cannot tell OpenAI's weights from others that were rounded to half precision.
    """
    present = (key for key in HALVED if key in tensors)
    return next((key for key in present if not torch.equal(tensors[key].half().float(), tensors[key].float())), None)


def fill(model: nn.Module, path: Path, name: str) -> None:
    """Copies the weights at `path` into `model`, whatever their float type; every name and shape must fit.

    Raises:
        BackboneError: if the file is missing, cannot be read, belongs to another architecture, or holds NaN, infinity,
            or a logit_scale that no model has.
    """
    tensors = read_weights(path, name, model)
    try:
        model.load_state_dict(tensors)
    except Exception as error:  # what mapped memory raises where the disk fails is not documented
        raise damaged(path, name, error) from None
    wrong = next((key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()), None)
    if wrong is not None:
        raise BackboneError(
            f"backbone {name}: {wrong} in {path} holds values that are no numbers, or none that float32 can hold; give "
            "weights without NaN and infinity."
        )


def damaged(path: Path, name: str, error: Exception | str) -> BackboneError:
    """The sentence on a file that is cut off or changed, for the reason of `error`."""
    return BackboneError(f"backbone {name}: damaged weights at {path} ({_plain(error)}); restore the file.")


def content_of(path: Path, name: str) -> Mapping[Any, Any]:
    """What a file holds, read as its first bytes say."""
    try:
        if path.is_dir():
            raise BackboneError(f"backbone {name}: {path} is a folder; give the path of a weights file.")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise BackboneError(f"backbone {name}: no weights at {path}; correct the path or restore the file.") from None
    except OSError as error:
        raise BackboneError(
            f"backbone {name}: the weights at {path} cannot be read ({error.strerror}); give a file that can."
        ) from None
    if not head.strip(b"\0"):
        raise damaged(path, name, "it is empty" if not head else "it holds zeros")
    if other := _no_weights(head):
        raise BackboneError(f"backbone {name}: {path} is no weights file but {other}.")
    try:
        if head[8:9] == b"{" and head[4:8] == bytes(4):  # 8 bytes of length, then JSON
            return load_file(path)
        zipped = is_zipfile(path)
        if zipped and is_torchscript(path):
            raise BackboneError(
                f"backbone {name}: {path} is a TorchScript archive, which is code: torch.save the state_dict() of it "
                "and give that."
            )
        if path.suffix == ".safetensors":  # by whose ending torch.load would go
            with path.open("rb") as file:
                content = torch.load(file, map_location="cpu", weights_only=True)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except BackboneError:
        raise
    except Exception as error:  # whichever reader failed; what a damaged file raises depends on where it is damaged
        # torch names what it would have had to run as "GLOBAL argparse.Namespace" or "Unsupported class ...".
        foreign = re.search(r"(?:GLOBAL|class|global|type)\s+([\w.]+\.[\w.]+)", _plain(error, 2000))
        if "weights_only" in str(error).lower().replace(" ", "_") and foreign and "nsupported" in str(error):
            raise CodeInside(
                f"backbone {name}: {path} holds more than tensors ({foreign.group(1)}), which is not read, because "
                f"reading it could run code; {SAVE}.",
                foreign.group(1),
            ) from None
        raise damaged(path, name, error) from None
    if not isinstance(content, Mapping):
        kind = "one tensor" if isinstance(content, Tensor) else f"a {type(content).__name__}"
        raise BackboneError(f"backbone {name}: {path} holds {kind} and no tensors with names; {SAVE}.")
    return content


def _no_weights(head: bytes) -> str:
    """What a file is that begins like text; "" for one that does not."""
    try:
        text = head.decode("utf-8", "strict" if len(head) < 512 else "ignore")
    except UnicodeDecodeError:
        return ""
    if not all(sign.isprintable() or sign in "\r\n\t\f\ufeff" for sign in text):
        return ""
    start = text.lstrip("\ufeff \r\n\t").lower()
    if start.startswith("version https://git-lfs"):
        return "a pointer of Git LFS, which stands for one; fetch the file itself, `git lfs pull`"
    if start.startswith(("<!doctype html", "<html")):
        return "a page of HTML, as a failed download leaves; fetch it again"
    if start.startswith("{") and ('"weight_map"' in start or '"metadata"' in start):
        return "the index of weights in several files; load them all, and save their tensors as one file"
    return f"text, which begins with {shown([text.strip()])[0]}; give safetensors or a state dict of tensors"


def state_dicts(content: Mapping[Any, Any], key: str = "", depth: int = 2) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(Key under which it is stored, tensors with names): each state dict in a file, that of its top first."""
    tensors = {name: value for name, value in content.items() if isinstance(value, Tensor) and isinstance(name, str)}
    if tensors or depth == 2:
        yield key, {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[2] not in NOT_WEIGHTS}
    for name, value in content.items() if depth else ():
        if isinstance(value, Mapping) and isinstance(name, str):
            yield from state_dicts(value, f"{key}.{name}" if key else name, depth - 1)


def _unwrapped(stored: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor]]:
    """What was taken off the names, for a person, and the tensors under the rest; ("", stored) where that fits not."""
    if stored.keys() == wanted.keys() or len(stored) != len(wanted):
        return "", stored
    taken: list[str] = []
    parts = {name: name.split(".") for name in stored}
    for wrapper in WRAPPERS:
        if any(wrapper in split for split in parts.values()):
            parts = {name: [part for part in split if part != wrapper] for name, split in parts.items()}
            taken.append(f"{wrapper}.")
    while len(first := {split[0] for split in parts.values()}) == 1 and all(len(split) > 1 for split in parts.values()):
        taken.append(f"{next(iter(first))}.")
        parts = {name: split[1:] for name, split in parts.items()}
    renamed = {".".join(parts[name]): tensor for name, tensor in stored.items()}
    prefixes = [] if taken == ["clip."] else taken  # a DualEncoder's own, as in the weights that ship
    return (" and ".join(map(repr, prefixes)), renamed) if renamed.keys() == wanted.keys() else ("", stored)


def _with_text_module(stored: dict[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text tower of open_clip's older files, whose parts have no module of their own, under its module's."""
    renamed = {name if name in wanted else f"text.{name}": tensor for name, tensor in stored.items()}
    return renamed if renamed.keys() == wanted.keys() else stored


def _misfit(found: list[tuple[str, dict[str, Tensor]]], wanted: Mapping[str, Tensor]) -> str:
    """Why no state dict of a file is the model's, with names of both, as the end of a sentence."""

    def alike(stored: dict[str, Tensor]) -> int:
        return len(stored.keys() & wanted.keys())

    key, stored = max(found, key=lambda pair: (alike(pair[1]), len(pair[1])))
    if not stored:
        return f"holds no tensors with names; {SAVE}."
    lacking, strange = [k for k in wanted if k not in stored], [k for k in stored if k not in wanted]
    under = f" under {shown([key])[0]}" if key else ""
    said = [f"lacks {len(lacking)} of {len(wanted)} tensors, as {', '.join(shown(lacking))}"] if lacking else []
    said += [f"has {len(strange)} that the model has not, as {', '.join(shown(strange))}"] if strange else []
    return (
        f"holds weights of another architecture or a part of this one: it {' and '.join(said)}; its own names{under} "
        f"begin with {', '.join(shown(list(stored)))}; give all tensors under open_clip's names, or name their "
        "backbone."
    )


def check_values(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Refuse other shapes, integers or complex numbers in the place of float numbers, and a scale that is none."""
    for key, model in wanted.items():
        stored = tensors[key]
        if stored.shape != model.shape and not (model.dim() == 0 and stored.numel() == 1):
            raise BackboneError(
                f"backbone {name}: {path} holds weights of another architecture: {key} is of shape "
                f"{list(stored.shape)}, and of {list(model.shape)} in {name}; name their backbone."
            )
        if model.is_floating_point() and not stored.is_floating_point():
            kind = str(stored.dtype).removeprefix("torch.")
            raise BackboneError(
                f"backbone {name}: {key} in {path} must hold float numbers, got {kind}, as quantised weights are; give "
                "those before quantisation."
            )
    scale = tensors["logit_scale"].float().max().item() if "logit_scale" in tensors else 0.0
    if LARGEST_LOG_SCALE < scale < math.inf:
        raise BackboneError(
            f"backbone {name}: logit_scale in {path} must be a logarithm, as CLIP's ln 100 = 4.6, got {scale:g}, whose "
            f"exp no model has; if {scale:g} is the scale itself, save its logarithm, {math.log(scale):.4g}."
        )


def shown(names: list[str]) -> list[str]:
    """The first names of a list, quoted, short, and without signs that a terminal obeys."""
    return [repr(name if len(name) <= 60 else name[:57] + "...") for name in names[:SHOWN]]


def _plain(error: Exception | str, length: int = 200) -> str:
    """The text of an error on one line, without the control codes of a terminal."""
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", str(error))
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())[:length]
