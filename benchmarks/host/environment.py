"""Where a run was made: machine, packages, commit and hash of the code. No environment values and no paths."""

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from .package import FOLDERS, ITSELF, PACKAGE, content_hash

# Packages whose version can change a number.
PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "safetensors",
    "robustft",
)
SNAPSHOT = "snapshot.json"
"""Beside a copy of the package that was made for jobs: which code it is."""


def ask_no_network() -> None:
    """Weights and data are taken from the hub's cache, unless the user's HF_HUB_OFFLINE says otherwise.

    Each command, worker and job says so for itself, for a job may not inherit the environment of who submitted it; and
    before the hub's library is imported, which reads the variable then.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


@cache
def describe() -> dict[str, Any]:
    """Python, packages, commit, hash of the code and processor; asked once a process, when its code was just loaded."""
    copied = _snapshot()
    commit, dirty = (copied["commit"], copied["dirty"]) if copied else _commit(PACKAGE)
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "code_hash": copied["hash"] if copied else content_hash(),
        "cpu": _cpu(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def snapshot() -> str | None:
    """Hash of the copy of the package that runs here; None for the installed one."""
    copied = _snapshot()
    return copied["hash"] if copied else None


@cache
def _snapshot() -> dict[str, Any] | None:
    path = PACKAGE.parent / SNAPSHOT
    here = PACKAGE.parent.parent.name == ".code" and path.exists()
    return json.loads(path.read_text(encoding="utf-8")) if here else None


def job() -> str | None:
    """The SLURM job that this process works in, as "123" or "123_4"; None outside of one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(root: Path) -> tuple[str | None, bool | None]:
    """The commit of the checkout and whether its code differs from it; (None, None) outside a checkout."""
    if not (root / ".git").exists():
        return None, None
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        changed = _git(root, "status", "--porcelain", "--", *FOLDERS, ITSELF)
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changed.strip())


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def _cpu(about: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and numbers: under one name ("AMD EPYC" on rented machines) lie several that round apart."""
    try:
        first = about.read_text().split("\n\n")[0]
    except OSError:
        first = ""
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}
    name = found.get("model name") or platform.processor() or platform.machine()
    numbers = [found.get(key, "") for key in ("cpu family", "model", "stepping")]
    return f"{name} ({'/'.join(numbers)})" if all(numbers) else name


def vectors() -> str:
    """The vector instructions that torch computes with here, as AVX2 or AVX512; others round otherwise."""
    import torch

    return torch.backends.cpu.get_cpu_capability()


def processor(device: str) -> str:
    """What decides the last bits: the processor with the instructions that are used of it, or the model of the GPU."""
    return f"{describe().get('cpu')} with {vectors()}" if device == "cpu" else device_name(device)


def device_name(device: str) -> str:
    """ "cpu", or the model of the GPU."""
    if device == "cpu":
        return "cpu"
    import torch

    return torch.cuda.get_device_name(device)


def start_peak_memory(device: str) -> None:
    """Forget the peak so far: a worker makes several runs, and a run's peak is its own."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # no such file on this system: the peak is then that of the whole process


def peak_memory_bytes(device: str) -> int:
    """Largest memory in use since `start_peak_memory`: of the GPU, or resident memory of the process."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated(device)
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cores() -> int:
    """Processors that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def visible_gpus(device: str) -> tuple[str, ...]:
    """The GPUs that this process may use, to give each run one; none where runs use no GPU, or cuda:N names theirs."""
    if device != "cuda":
        return ()
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return tuple(name.strip() for name in given.split(",") if name.strip())
    import torch

    return tuple(str(number) for number in range(torch.cuda.device_count()))
