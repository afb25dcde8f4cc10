"""What happens in a SLURM job: its runs, one after the other, and what signals mean.

submitit acts on SIGUSR2 inside the signal handler, in the middle of a step. Here SIGUSR2 (the time is nearly up, or the
job is preempted with grace) and SIGTERM (scancel, or preempted by SLURM, which queues it again by itself) only set a
flag. At the next step boundary every process stops and the leader saves. Then, for SIGUSR2, submitit's own handler is
called, which queues the job again; for SIGTERM the job ends.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...execution import process_group, worker
from ...host import environment
from ...run_folder.folder import RunFolder
from ...run_folder.lease import HEARTBEAT_SECONDS, Observer
from . import client as queue
from . import stage as staging
from .array_folder import Batch

BUSY_SECONDS = 90.0
"""How long a job waits for a run that another process holds before it leaves the run to it."""
NOTICE_SECONDS = 10.0
"""Within this time a signal that stopped one process of a job has reached all of them."""
CODES = {"done": 0, "cancelled": 0, "failed": 1, "busy": 75, "interrupted": 143}


class Signals:
    """Our handlers in front of those that submitit installed; asked at step boundaries."""

    def __init__(self) -> None:
        self.requeue_with: Any = signal.getsignal(signal.SIGUSR2)
        self.seen: set[int] = set()
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)

    def _note(self, number: int, _: Any) -> None:
        self.seen.add(number)

    def __call__(self) -> bool:
        return bool(self.seen)

    def requeue(self) -> None:
        """Have submitit queue this job again; does not return in the job's first process."""
        if callable(self.requeue_with):
            self.requeue_with(signal.SIGUSR2, None)


def main(folders: list[Path]) -> None:
    """Make the runs of a job; ends the process: 0 where all are done."""
    environment.ask_no_network()
    signals = Signals()
    given = Batch(Path(os.environ["SUBMITIT_FOLDER"])).read()
    from ...execution.run import Options

    device, together = given["device"], None
    if processes() > 1:
        meet()
        together = process_group.Team(device)
        device = together.device
    stage = staging.of_job(given.get("stage"), Path(os.environ["SUBMITIT_FOLDER"]).parents[1])
    how = given["checkpoint_seconds"], given["micro_batch"], together, given.get("workers")
    options = Options(device, *how, given.get("checkpoint_activations", False), stage)
    try:
        if together is not None and together.rank:
            worker.follow(together, options, signals)
            sys.exit(0)
        events = make_all(folders, options, signals)
        if together is not None and "failed" not in events:
            together.dismiss()
        if "interrupted" in events or signals():
            _end_interrupted(signals)
        sys.exit(max(CODES[event] for event in events))
    finally:
        if stage is not None:  # after the job is queued again, for that must not come too late
            stage.leave()


def _end_interrupted(signals: Signals) -> None:
    """Queue the job again where that is what it was stopped for."""
    deadline = time.monotonic() + NOTICE_SECONDS
    while not signals.seen and time.monotonic() < deadline:
        time.sleep(0.1)  # another process of this run had the signal first
    # SIGTERM after it is scancel, or the end of the time: asking for the job again would raise it from the dead.
    if signal.SIGUSR2 in signals.seen and signal.SIGTERM not in signals.seen:
        signals.requeue()
    sys.exit(CODES["interrupted"])


def make_all(folders: list[Path], options: Any, should_stop: Callable[[], bool]) -> list[str]:
    """Make runs until all are through or a signal came; what became of each that was begun."""
    events = []
    for path in folders:
        if should_stop():
            break
        outcome = make_one(path, options, should_stop)
        print(json.dumps(outcome), flush=True)
        events.append(outcome["event"])
        if outcome["event"] == "interrupted":
            break
        if outcome["event"] == "failed" and options.team is not None:
            break  # the other processes may have failed elsewhere, and srun ends them with this one
    return events


def make_one(path: Path, options: Any, should_stop: Callable[[], bool]) -> dict[str, Any]:
    """Make a run; takes over a lease whose node died, or that an earlier start of this same job held."""
    folder, observer, deadline = RunFolder(path), Observer(), time.monotonic() + BUSY_SECONDS
    while True:
        outcome = worker.work(path, options, should_stop, dead_lease(folder, observer))
        if outcome["event"] != "busy" or time.monotonic() > deadline or should_stop():
            return outcome
        time.sleep(1)


def dead_lease(folder: RunFolder, observer: Observer) -> str | None:
    """Token of a lease that only looks alive: its job is over, or is this one before it was queued again."""
    holder = observer.holder(folder.lease)
    if holder is None or holder.process.alive() is not None:
        return None  # free, or of this machine, where the process itself tells
    if holder.job is not None:
        if holder.job == environment.job():
            return holder.token
        try:
            if holder.job not in {entry.job for entry in queue.listed()}:
                return holder.token
        except queue.QueueError:
            pass  # this node cannot ask; the heartbeat tells
    deadline = time.monotonic() + 4 * HEARTBEAT_SECONDS
    while time.monotonic() < deadline:
        if observer.alive(folder.lease) is None:
            return holder.token
        time.sleep(HEARTBEAT_SECONDS / 10)
    return None


class MakeRuns:
    """What a job does: make the runs of some folders, one after the other."""

    def __call__(self, *folders: str) -> None:
        """Runs in the job, in each of its processes; leaves with SystemExit."""
        from . import job as slurm_job

        slurm_job.main([Path(folder) for folder in folders])

    def checkpoint(self, *folders: str) -> Any:
        """What the job does when it is queued again: the same. All that it needs to go on is in the run folders."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, *folders)


def meet() -> None:
    """Tell torch.distributed where the processes of this job find each other."""
    from submitit.helpers import TorchDistributedEnvironment

    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def processes() -> int:
    """How many processes this job has."""
    from submitit import JobEnvironment

    return JobEnvironment().num_tasks
