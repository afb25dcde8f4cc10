"""Checkpoints of one run: a tensor file and a JSON file that vouches for it, never half written."""

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

from safetensors.torch import load, save
from torch import Tensor


class Checkpoints:
    """The newest checkpoints in a folder.

    `step-<n>.safetensors` is written first, `step-<n>.json` (step, sha256 of the tensors, meta, and a check of all
    three) second: a checkpoint exists when its JSON does, and counts only while both files hold what was written.
    Each is a temporary file of unique name in the same folder, fsync, os.replace, fsync of the folder.

    Args:
        folder: made when first needed.
        every_seconds: `due` is true this long after the last save (or construction).
        keep: how many are kept.
        every_steps: if given, `due` goes by steps and not by the clock.
        guard: called before each replace; raises if this process has lost the run to another.
    """

    def __init__(
        self,
        folder: Path,
        every_seconds: float,
        keep: int = 2,
        every_steps: int | None = None,
        guard: Callable[[], None] = lambda: None,
    ):
        self.folder, self.keep, self.guard = Path(folder), keep, guard
        self.every_seconds, self.every_steps = every_seconds, every_steps
        self._saved_at = time.monotonic()
        self.took: float | None = None
        """Seconds of the last save; None before the first."""

    def due(self, step: int) -> bool:
        """Whether a checkpoint should be written after `step` updates."""
        if self.every_steps is not None:
            return step % self.every_steps == 0
        return time.monotonic() - self._saved_at >= self.every_seconds

    def save(self, step: int, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Writes a checkpoint and removes those beyond `keep`.

        Args:
            step: updates done. tensors: on any device. meta: JSON values; floats come back bit for bit.

        Raises:
            OSError: the folder cannot be written; the checkpoint before is untouched.
        """
        began = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        blob = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        record = {"step": step, "sha256": hashlib.sha256(blob).hexdigest(), "meta": dict(meta)}
        self._write(self._tensor_file(step), blob)
        self._write(self._json_file(step), json.dumps({**record, "check": _check(record)}).encode())
        self._saved_at = time.monotonic()
        self.took = self._saved_at - began
        # One of a later step is damaged, or this run would have gone on from it: it must not push out a sound one.
        later = [other for other in self.steps() if other > step]
        for old in [*later, *self.steps()[len(later) + self.keep :]]:
            self._remove(old)

    def latest(self) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
        """Step, tensors (CPU) and meta of the newest sound checkpoint; a damaged one is skipped with a
        warning."""
        for step in self.steps():
            try:
                record = json.loads(self._json_file(step).read_bytes())
                if record.pop("check") != _check(record) or record["step"] != step:
                    raise ValueError("checksum of its JSON differs")
                blob = self._tensor_file(step).read_bytes()
                if hashlib.sha256(blob).hexdigest() != record["sha256"]:
                    raise ValueError("checksum of its tensors differs")
                return step, load(blob), record["meta"]
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                warnings.warn(f"checkpoint {self._json_file(step)} is damaged ({error}); skipped.", stacklevel=2)
        return None

    def clear(self) -> None:
        """Removes every checkpoint, and what killed processes left of one."""
        for step in self.steps():
            self._remove(step)
        for rest in self.folder.glob("step-*"):
            rest.unlink(missing_ok=True)

    def _tensor_file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.safetensors"

    def _json_file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.json"

    def steps(self) -> list[int]:
        """Steps with a JSON file, newest first."""
        return sorted((int(path.stem.removeprefix("step-")) for path in self.folder.glob("step-*.json")), reverse=True)

    def _remove(self, step: int) -> None:
        # The JSON goes first, so that none ever vouches for tensors that are gone.
        self._json_file(step).unlink(missing_ok=True)
        self._tensor_file(step).unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        temporary = path.with_name(f"{path.name}.{os.getpid()}-{uuid4().hex[:8]}.tmp")
        try:
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self.guard()
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _check(record: Mapping[str, Any]) -> str:
    """Hash of all that the JSON file says; it survives being written and read back."""
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()
