"""Where a run was made: machine, packages and commit. No environment values and no paths."""

import importlib.metadata
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

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
FOLDERS = ("benchmarks", "methods", "datasets", "backbones", "results")


@cache
def describe() -> dict[str, Any]:
    """Python, packages, commit and processor; asked once a process, when the code has just been loaded."""
    commit, dirty = _commit(Path(__file__).resolve().parent.parent)
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "commit": commit,
        "dirty": dirty,
        "cpu": _cpu(),
        "platform": f"{platform.system()} {platform.machine()}",
    }


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
        changed = _git(root, "status", "--porcelain", "--", *FOLDERS)
    except (OSError, subprocess.SubprocessError):
        return None, None
    return commit, bool(changed.strip())


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


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
