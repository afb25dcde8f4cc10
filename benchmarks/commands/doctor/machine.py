"""What this machine offers a run: torch and its device, room on the disks, SLURM, wandb, the hub's cache."""

import importlib.metadata
import os
import shutil
from importlib.util import find_spec
from pathlib import Path


def lines(roots: dict[str, Path]) -> list[str]:
    """One line a fact, for a person.

    Args:
        roots: what is kept there -> a folder, which need not exist yet.
    """
    return [_torch(), *(f"{name}: {_free(path)}" for name, path in roots.items()), _slurm(), _wandb(), _hub()]


def _torch() -> str:
    import torch

    if not torch.cuda.is_available():
        return f"torch {torch.__version__}: no CUDA device; bf16 on the CPU is slow"
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16, so use precision=fp32"
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}: {names}; {bf16}"


def _free(path: Path) -> str:
    path = path.expanduser().resolve()
    existing = next(p for p in (path, *path.parents) if p.exists())
    missing = "" if existing == path else ", which is not there yet"
    return f"{path}{missing}; {shutil.disk_usage(existing).free / 1e9:.0f} GB free"


def _slurm() -> str:
    found = shutil.which("sbatch")
    package = "" if find_spec("submitit") else "; submitit is missing, install robustft[slurm]"
    return f"SLURM: {'sbatch is there' if found else 'no sbatch on this machine'}{package}"


def _wandb() -> str:
    if find_spec("wandb") is None:
        return "wandb: not installed, nothing is logged there"
    version = importlib.metadata.version("wandb")
    mode = os.environ.get("WANDB_MODE") or "not set"
    return f"wandb {version}: off unless a command has --wandb online or offline; WANDB_MODE is {mode}"


def _hub() -> str:
    from huggingface_hub.constants import HF_HUB_CACHE

    return f"Hugging Face cache: {HF_HUB_CACHE}"
