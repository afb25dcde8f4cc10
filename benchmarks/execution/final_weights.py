"""The final weights of a run on disk: read back by its evaluation, and by the runs that it is an input of."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from ..errors import UserError
from ..run_folder.folder import RunFolder
from ..run_folder.plan import input_path
from ..run_folder.spec import RunSpec


def save_weights(tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> bytes:
    """A safetensors file; the same content gives the same bytes (its own metadata map has no fixed order)."""
    return save_tensors(
        {name: tensor.cpu() for name, tensor in tensors.items()}, {"meta": json.dumps(meta, sort_keys=True)}
    )


def load_weights(folder: RunFolder) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Final weights of a run and what is known of them; UserError where the file is missing or damaged."""
    try:
        about = json.loads(folder.fitted.read_text(encoding="utf-8"))
        content = folder.weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != about["sha256"]:
            raise ValueError("its checksum is another one")
        return load_tensors(content), about
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder.weights}: must hold the final weights of the run ({error}); delete the folder "
            f"{folder.path.name} and run again."
        ) from None


def load_text(folder: RunFolder, about: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The text tower that a run trained, as `DualEncoder.load_text_state` takes it; {} where it kept none.

    Args:
        about: what `load_weights` says of the run.

    Raises:
        UserError: the file is missing or damaged.
    """
    if "text_sha256" not in about:
        return {}
    try:
        content = folder.text_weights.read_bytes()
        if hashlib.sha256(content).hexdigest() != about["text_sha256"]:
            raise ValueError("its checksum is another one")
        return load_tensors(content)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder.text_weights}: must hold the text tower that the run trained ({error}); delete the folder "
            f"{folder.path.name} and run again."
        ) from None


def stored_tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """(name, tensor) of a file of weights, one at a time."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 (it is no mapping)
            yield name, file.get_tensor(name)


def load_input(folder: RunFolder, spec: RunSpec, name: str) -> dict[str, Any]:
    """The finished run that a run reads: its tensors and what restores them."""
    read = RunFolder(input_path(folder.path, spec, name))
    if read.done() and not read.weights.exists():
        raise UserError(
            f"{spec.method}: needs the final weights of {name}, which were not kept (--keep {read.keeps()}); delete "
            f"{'/'.join(read.path.parts[-4:])} and make it again with --keep final."
        )
    tensors, about = load_weights(read)
    return {"tensors": tensors, "meta": about["classifier"]}
