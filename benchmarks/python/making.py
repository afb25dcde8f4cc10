"""Runs made in this process: what a notebook has registered is known here, and in no worker process."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TextIO

from rich.console import Console

from ..commands import sweep
from ..commands.executor_options import MINUTES
from ..errors import UserError, is_mistake
from ..executors.local import ELSEWHERE_SECONDS, Job
from ..executors.progress import Reporter
from ..run_folder.folder import RunFolder
from .mistakes import one_error
from .places import StrPath, root_of
from .planning import PlannedRun

if TYPE_CHECKING:
    from ...results.records.records import Record

LOOK_SECONDS = 0.25


@one_error
def run(
    plan: PlannedRun | Iterable[PlannedRun],
    runs: StrPath | None = None,
    *,
    device: str = "cpu",
    keep: Literal["none", "final", "all"] | None = None,
    checkpoint_minutes: float = MINUTES["local"],
    workers: int | None = None,
    checkpoint_activations: bool = False,
    progress: bool | None = None,
) -> "list[Record]":
    """Make what has no record yet, one run after the other in this process, and return the record of each.

    A run is made as the commands make it: under a lease, with checkpoints, into the same folder and with the same
    numbers. Whatever ends it early, a second call goes on from the last checkpoint; KeyboardInterrupt saves one first
    (a second one does not wait for that). `robustft sweep` makes several at a time, of methods that are installed.

    Args:
        plan: as `plan` gives it, whole or in part; a run with the runs that it reads.
        runs: root of all run folders; by default that of ROBUSTFT_RUNS, or the folder runs.
        device: "cpu", "cuda" or "cuda:N".
        keep: what stays of a finished run: "none", "final" (its final weights; the default) or "all".
        checkpoint_minutes: between checkpoints.
        workers: processes that load images ahead; by default as the data need.
        checkpoint_activations: train in less memory and more time, with the same numbers; for towers of transformer
            blocks.
        progress: whether to show how far it is, on stdout; by default where that is a terminal or a notebook.

    Returns:
        Records in the order of the plan, each a dict as in record.json: "sets" has the metrics of each set
        (fractions; NLL in nats), "summary" what a board shows.

    Raises:
        UserError: a mistake, before anything is trained where it can be known then; one sentence.
        KeyboardInterrupt: it was interrupted; a checkpoint was saved.
        Exception: whatever a method of one's own raises, as it is. The first error ends the call.
    """
    from ...results.records.records import read_record

    planned = {each.id: each for each in ([plan] if isinstance(plan, PlannedRun) else plan)}
    root = root_of(runs)
    folders = {run_id: RunFolder.of(root, each.spec) for run_id, each in planned.items()}
    unfinished = [each for each in planned.values() if not folders[each.id].done()]
    for each in unfinished:
        if lacking := [run_id for run_id in each.needs if run_id not in planned]:
            raise UserError(f"plan: {each.spec.title} reads the run {lacking[0]}, which must be in the plan; add it.")
    if unfinished:
        sweep.check_inputs(list(planned.values()), folders, keep)
        sweep.check_device(device)
        if checkpoint_activations:
            sweep.check_recomputes([each.spec for each in unfinished])
        for benchmark in {id(each.benchmark): each.benchmark for each in unfinished}.values():
            sweep.check_data(benchmark, [each.spec for each in unfinished if each.benchmark is benchmark])
        sweep.check_writable(root)
        for each in unfinished:
            sweep.write_plan(each.benchmark, each, folders[each.id], keep)
        jobs = [
            Job(each, folders[each.id], "done" if folders[each.id].done() else "waiting") for each in _ordered(planned)
        ]
        for job in jobs:
            job.earlier = job.state == "done"
        with _interruptible() as stop, _reported(jobs, progress) as reporter, _as_before(device):
            _make(jobs, reporter, stop, _options(device, checkpoint_minutes, workers, checkpoint_activations))
    return [read_record(folder.record) for folder in folders.values()]


def _ordered(planned: dict[str, PlannedRun]) -> list[PlannedRun]:
    """Inputs before what reads them, whatever the order that they were given in."""
    found: dict[str, PlannedRun] = {}

    def add(each: PlannedRun) -> None:
        for run_id in each.needs:
            if run_id in planned:
                add(planned[run_id])
        found[each.id] = each

    for each in planned.values():
        add(each)
    return list(found.values())


def _options(device: str, minutes: float, workers: int | None, checkpoint_activations: bool) -> Any:
    from ..execution.run import Options

    return Options(
        device=device,
        checkpoint_seconds=60 * minutes,
        workers=workers,
        checkpoint_activations=checkpoint_activations,
    )


def _make(jobs: list[Job], reporter: Reporter | None, stop: "_Stop", options: Any) -> None:
    from ..execution.worker import work

    for job in jobs:
        if job.state == "done":
            continue
        errors: list[Exception] = []
        job.state, job.started = "active", time.monotonic()
        if reporter:
            reporter.started(job)
        while (outcome := work(job.folder.path, options, stop, on_error=errors.append))["event"] == "busy":
            if reporter and not job.elsewhere:
                reporter.elsewhere(job)
            job.elsewhere = True
            if stop():
                raise KeyboardInterrupt
            time.sleep(ELSEWHERE_SECONDS)
        job.state, job.reason = outcome["event"], outcome.get("reason", "")
        if reporter:
            reporter.ended(job)
        if job.state == "interrupted":
            raise KeyboardInterrupt
        if job.state == "failed" and errors and not is_mistake(errors[0]):
            raise errors[0]
        if job.state == "failed":
            raise UserError(f"{job.planned.spec.title}: {job.reason.rstrip('.')}.")
        if job.state == "cancelled":
            raise UserError(f"{job.planned.spec.title}: was cancelled by `robustft cancel`; start it again to go on.")


class _Stop:
    """Whether the person has asked for the end."""

    asked = False

    def __call__(self) -> bool:
        return self.asked


@contextmanager
def _interruptible() -> Iterator[_Stop]:
    """Ctrl-C, or a notebook's stop button, asks for a checkpoint first; the second time it ends what is going on."""
    stop = _Stop()

    def ask(*_: Any) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True

    if threading.current_thread() is not threading.main_thread():  # where Python takes no signals
        yield stop
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _as_before(device: str) -> Iterator[None]:
    """The process gets its own threads and random numbers back: a run sets both."""
    import torch

    threads, gpus = torch.get_num_threads(), range(torch.cuda.device_count()) if device != "cpu" else ()
    with torch.random.fork_rng(devices=gpus):
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@contextmanager
def _reported(jobs: list[Job], progress: bool | None) -> Iterator[Reporter | None]:
    """Shows how far the runs are, beside them: what they print goes to their logs."""
    with _stream() as stream:
        console = Console(file=stream, highlight=False, markup=False, emoji=False)
        if not (console.is_terminal or console.is_jupyter if progress is None else progress):
            yield None
            return
        reporter, over = Reporter(console, alone=False), threading.Event()

        def follow() -> None:
            while not over.wait(LOOK_SECONDS):
                reporter.update()

        with reporter.following(jobs):
            thread = threading.Thread(target=follow, daemon=True)
            thread.start()
            try:
                yield reporter
            finally:
                over.set()
                thread.join()


@contextmanager
def _stream() -> Iterator[TextIO]:
    """Where stdout goes now; while a run is made, it goes to the run's log."""
    stdout = sys.__stdout__
    if stdout is None or sys.stdout is not stdout:  # a notebook's, which is no file
        yield sys.stdout
        return
    with open(os.dup(stdout.fileno()), "w", encoding=stdout.encoding, errors=stdout.errors) as stream:
        yield stream
