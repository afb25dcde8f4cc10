"""Weights & Biases, where a person asks for it: curves, settings and final metrics of a run, offline or online.

`--wandb` is decided in the run folder, so that whoever goes on with the run, on any machine, goes on with the same
wandb run: its id is the run id. All of wandb happens in a thread of its own, behind a queue that nobody waits for; what
goes wrong there is a line in the run's log, and the run goes on without it.

What is sent: the spec (no paths are in it), rows of the training curves, metrics and cost of the record. Not sent: the
environment, the command, paths, host and user, code, git and console output.
"""

import contextlib
import importlib.util
import os
import queue
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ...results.records.atomic import write_atomic
from ..errors import UserError

if TYPE_CHECKING:
    from ..run_folder.spec import RunSpec

Mode = Literal["off", "offline", "online"]
MODES: tuple[Mode, ...] = get_args(Mode)
PROJECT = "robustft"
CHOICE = "tracking"
"""File of a run folder that holds the mode."""
PATIENCE_SECONDS = {"offline": 300.0, "online": 60.0}
"""How long wandb may take to start, and the end of a run waits for it: a slow disk, or a network that is gone."""


def choose(folder: Path, mode: str) -> None:
    """Decide for a run whether wandb follows it, whoever makes it.

    Raises:
        UserError: wandb is asked for and not installed.
    """
    if mode != "off" and importlib.util.find_spec("wandb") is None:
        raise UserError(
            f"--wandb: must be off where wandb is not installed, got {mode}; pip install 'robustft[wandb]' installs it."
        )
    if mode == "off":
        (folder / CHOICE).unlink(missing_ok=True)
    else:
        write_atomic(folder / CHOICE, mode.encode())


def chosen(folder: Path) -> Mode:
    """What `choose` decided."""
    try:
        mode = (folder / CHOICE).read_text().strip()
    except OSError:
        return "off"
    return next((known for known in MODES if known == mode), "off")


class Tracker:
    """What a run reports: `row` of its curves, `record` at the end. Neither waits, and neither raises."""

    def row(self, row: Mapping[str, Any]) -> None:
        """A row of the training curves, with its step."""

    def record(self, record: Mapping[str, Any]) -> None:
        """The finished record."""


class WandbTracker(Tracker):
    """Hands everything to a thread that alone talks to wandb."""

    def __init__(self, folder: Path, spec: "RunSpec", mode: Literal["offline", "online"]) -> None:
        self.folder, self.spec, self.mode = folder, spec, mode
        self.items: queue.SimpleQueue[tuple[str, dict[str, Any]] | None] = queue.SimpleQueue()
        self.complete = False
        self.thread = threading.Thread(target=self._follow, name="wandb", daemon=True)
        self.thread.start()

    def row(self, row: Mapping[str, Any]) -> None:
        self.items.put(("row", dict(row)))

    def record(self, record: Mapping[str, Any]) -> None:
        self.complete = True
        self.items.put(("summary", final_values(record)))

    def close(self) -> None:
        """No more will come; waits for what is left, but not for ever."""
        self.items.put(None)
        patience = PATIENCE_SECONDS[self.mode]
        self.thread.join(patience)
        if self.thread.is_alive():
            _note(f"not done after {patience:.0f} s; what it has not sent stays in {self.folder.name}/wandb")

    def _follow(self) -> None:
        try:
            run = self._start()
            while (item := self.items.get()) is not None:
                kind, values = item
                if kind == "row":
                    run.log(values)
                else:
                    run.summary.update(values)
            run.finish(exit_code=0 if self.complete else 1)
        except BaseException as error:  # wandb also ends processes; here it may end its thread only
            _note(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}; the run goes on without it")

    def _start(self) -> Any:
        import wandb

        patience = PATIENCE_SECONDS[self.mode]
        settings = wandb.Settings(
            console="off",
            silent=True,
            disable_code=True,
            disable_git=True,
            disable_job_creation=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            host=PROJECT,
            username=PROJECT,
            program=PROJECT,
            x_service_wait=patience,
            init_timeout=patience,
            finish_timeout=patience,
        )
        spec = self.spec
        run = wandb.init(
            mode=self.mode,
            id=spec.run_id,
            resume="allow",
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=spec.benchmark,
            job_type=spec.method,
            name=spec.title,
            config=spec.model_dump(mode="json"),
            dir=str(self.folder),
            settings=settings,
        )
        # A resumed run sends rows since its checkpoint again: they have their own step, and fall on what is there.
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
        return run


def final_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The record's summary, cost, and metrics of every set as "set/metric"; numbers only."""
    values = {**record["summary"], **{f"cost/{key}": value for key, value in record["cost"].items()}}
    for name, metrics in record["sets"].items():
        values |= {f"{name}/{key}": value for key, value in metrics.items()}
    return {
        key: value for key, value in values.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
    }


@contextlib.contextmanager
def following(folder: Path, spec: "RunSpec", leads: bool = True) -> Iterator[Tracker]:
    """The tracker of a run that was chosen for it; one that does nothing where it is off or another process leads."""
    mode = chosen(folder) if leads else "off"
    if mode == "off":
        yield Tracker()
        return
    tracker = WandbTracker(folder, spec, mode)
    try:
        yield tracker
    finally:
        tracker.close()


def _note(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"wandb: {text}", file=sys.stderr, flush=True)
