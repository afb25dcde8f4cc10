"""One folder a run: its paths, its state, and what is kept of it. `lease` says who may work in it."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...results.records.atomic import create_atomic, write_atomic, write_json_atomic
from ..errors import UserError

if TYPE_CHECKING:
    from .spec import RunSpec

KEEP = ("none", "final", "all")
"""What stays of a finished run beside its record, predictions and curves: nothing, the final weights (of both towers,
where both were trained), or these and the last checkpoints."""


@dataclass(frozen=True)
class RunFolder:
    """The places of one run: `<runs>/<benchmark>/<method>/<backbone>/seed<k>-<id>/`."""

    path: Path

    @classmethod
    def of(cls, runs: Path, spec: "RunSpec") -> "RunFolder":
        """The folder of a spec below the root of all runs."""
        name = f"seed{spec.seed}-{spec.run_id}"
        return cls(runs / spec.benchmark / spec.folder_name / spec.backbone / name)

    @property
    def runs(self) -> Path:
        """The root of all runs."""
        return self.path.parents[3]

    @property
    def spec(self) -> Path:
        return self.path / "spec.json"

    @property
    def place(self) -> Path:
        """Where its data were, see `whereabouts`."""
        return self.path / "place.json"

    @property
    def backbone(self) -> Path:
        """Where a backbone of one's own lay, a folder or weights file."""
        return self.path / "backbone.json"

    @property
    def given(self) -> Path:
        """Where the checkpoint lay that `robustft evaluate` was given."""
        return self.path / "given.json"

    @property
    def state(self) -> Path:
        return self.path / "state.json"

    @property
    def lease(self) -> Path:
        return self.path / "lease"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def weights(self) -> Path:
        return self.path / "weights" / "final.safetensors"

    @property
    def text_weights(self) -> Path:
        """Of a run that trained its text tower: that tower, its projection and logit_scale."""
        return self.path / "weights" / "text.safetensors"

    @property
    def fitted(self) -> Path:
        """What the trainer says of the weights, their sha256 among it."""
        return self.path / "weights" / "fitted.json"

    @property
    def predictions(self) -> Path:
        return self.path / "predictions"

    def path_predictions(self, name: str) -> Path:
        """What the points of a path say of a set's samples."""
        return self.predictions / f"{name}.path.parquet"

    def retained_predictions(self, name: str) -> Path:
        """What the run says of a retention set's samples."""
        return self.predictions / f"{name}.retained.parquet"

    @property
    def per_class(self) -> Path:
        return self.path / "per_class.parquet"

    @property
    def curves(self) -> Path:
        return self.path / "curves.parquet"

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def cancel(self) -> Path:
        return self.path / "cancel"

    def cancelled(self) -> bool:
        """Whether `robustft cancel` asked for the end of this run: a file, which any machine can make and see."""
        return self.cancel.exists()

    def ask_to_cancel(self) -> None:
        """From now on no process starts the run; one that works on it saves a checkpoint and stops."""
        create_atomic(self.cancel, b"")

    def forget_cancel(self) -> None:
        """The run may be started again."""
        self.cancel.unlink(missing_ok=True)

    def keeps(self) -> str:
        """One of KEEP."""
        try:
            word = (self.path / "keep").read_text().strip()
        except OSError:
            return "final"
        return word if word in KEEP else "final"

    def keep(self, what: str) -> None:
        """Decide what of KEEP stays when the run is finished, whoever makes it."""
        write_atomic(self.path / "keep", what.encode())

    def done(self) -> bool:
        """Whether the run is finished: its record exists. UserError where the record cannot be its own."""
        try:
            text = self.record.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.record}: cannot be read ({error}); make it readable, or delete it.") from None
        try:
            same = json.loads(text)["run_id"] == self.path.name.rpartition("-")[2]
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise UserError(
                f"{self.record}: must be the record of this run, got something else or a damaged file; "
                "restore it, or delete it to run again."
            )
        return True

    def read_state(self) -> dict[str, Any]:
        """The last state written, or {} where there is none that can be read."""
        return read_state(self.path)

    def write_state(self, guard: Callable[[], None] | None = None, **fields: Any) -> None:
        """Replace the state; `state` is planned, submitted, running, checkpointed, done, failed or cancelled."""
        write_json_atomic(self.state, {**fields, "heartbeat": time.time()}, guard=guard)


def read_state(folder: Path | str) -> dict[str, Any]:
    """The last state written in a run folder, or {} where there is none that can be read."""
    return read_json(f"{folder}/state.json") or {}


def read_json(path: Path | str) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is none that can be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = json.loads(file.read())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def last_lines(path: Path, count: int = 8) -> list[str]:
    """The end of a run's log; [] where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 10_000))
            return file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        return []
