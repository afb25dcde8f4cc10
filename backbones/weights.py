"""Weights files: safetensors, or a state dict of tensors alone that torch.load reads without running code."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZipFile, is_zipfile

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import BackboneError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")
"""Entries of OpenAI's original state dicts that are settings."""
HALVED = ("text_projection", "visual.conv1.weight", "visual.proj", "visual.attnpool.c_proj.weight")
"""A few of the weights that OpenAI gave out in half precision (openai/CLIP, clip/model.py, `convert_weights`): whatever
loads OpenAI's files, open_clip too, holds numbers of half precision in them, also after a conversion to float32."""


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


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file under the names of open_clip's CLIP, which are OpenAI's too.

    Takes safetensors, a state dict, and a training checkpoint with a "state_dict"; "module." (of a wrapped model) and
    "clip." (of a DualEncoder) at the beginning of every name are left out.

    Raises:
        Exception: of whichever reader failed; what a damaged file raises depends on where it is damaged.
    """
    if path.suffix == ".safetensors":
        tensors = load_file(path)
    else:
        if is_zipfile(path) and any(entry.endswith("/constants.pkl") for entry in ZipFile(path).namelist()):
            raise ValueError("a TorchScript archive, which is code: torch.save the state_dict() of it and give that")
        tensors = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zipfile(path))
        tensors = dict(tensors.get("state_dict", tensors))
    for prefix in ("module.", "clip."):
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in tensors.items() if name not in NOT_WEIGHTS}


def beyond_half(tensors: Mapping[str, Tensor]) -> str | None:
    """The first of HALVED whose numbers half precision cannot hold, and so are not OpenAI's; None where there is none.

    Milliseconds. It cannot tell OpenAI's weights from others that were rounded to half precision.
    """
    present = (key for key in HALVED if key in tensors)
    return next((key for key in present if not torch.equal(tensors[key].half().float(), tensors[key].float())), None)


def fill(model: nn.Module, path: Path, name: str) -> None:
    """Copies the weights at `path` into `model`, whatever their float type; every name and shape must fit.

    Raises:
        BackboneError: if the file is missing, cannot be read, belongs to another architecture, or holds NaN or
            infinity.
    """
    if not path.exists():
        raise BackboneError(f"backbone {name}: no weights at {path}; correct the path or restore the file.")
    try:
        model.load_state_dict(read_weights(path))
    except Exception as error:
        raise damaged(path, name, error) from None
    wrong = next((key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()), None)
    if wrong is not None:
        raise BackboneError(f"backbone {name}: {wrong} in {path} holds values that are no numbers; restore the file.")


def damaged(path: Path, name: str, error: Exception) -> BackboneError:
    """The sentence on a file that cannot be read, or does not fit, for the reason of `error`."""
    reason = " ".join(str(error).split())[:200]
    return BackboneError(
        f"backbone {name}: damaged weights at {path}, or those of another architecture ({reason}); "
        "restore the file or name its backbone."
    )
