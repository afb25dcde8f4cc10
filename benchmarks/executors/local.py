"""Runs side by side on this machine: worker processes, each with one run at a time, inputs before what reads
them.

The truth is on disk. Whether a run is done is asked of its folder, and whether one may start is asked of its
lease, so that two launchers over the same folders start nothing twice: each waits for what the other is
doing.
"""

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any

from ..host import imports
from ..host.redaction import discreet
from ..planning.request import Planned
from ..run_folder.folder import RunFolder
from ..run_folder.lease import Observer, tidy
from .progress import Reporter

POLL_SECONDS = 0.25
ELSEWHERE_SECONDS = 1.0


@dataclass
class Job:
    """A run of the plan and what has become of it: waiting, active, done, failed, cancelled or interrupted."""

    planned: Planned
    folder: RunFolder
    state: str = "waiting"
    reason: str = ""
    mistake: bool = False
    """The reason is one that only the user can change: a full disk, a stale plan."""
    earlier: bool = False
    """It was done before this launcher started."""
    elsewhere: bool = False
    """Another process is working on it."""
    look_again: float = 0.0
    dead: str | None = None
    """Token of a lease of another machine that was watched until it was dead."""
    started: float = 0.0

    @property
    def run_id(self) -> str:
        return self.planned.spec.run_id


@dataclass
class Worker:
    """A child process that takes run folders on its stdin and answers each with a JSON line, on a pipe of its own.

    Its stdout is everybody's: what libraries, or a sitecustomize, print there is no answer.
    """

    threads: int
    arguments: tuple[str, ...]
    gpu: str | None = None
    """The one GPU that it sees, as CUDA_VISIBLE_DEVICES names it."""
    job: Job | None = None
    process: Any = field(init=False)
    answers: Any = field(init=False)
    errors: Any = field(init=False)

    def __post_init__(self) -> None:
        environment = imports.environment()
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(self.threads)  # read when torch and NumPy load; their number changes bits
        if self.gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self.gpu
        reading, writing = os.pipe()
        command = [sys.executable, *imports.starting("robustft.benchmarks.execution.worker", "main")]
        command += ["--parent", str(os.getpid()), "--answers", str(writing), *self.arguments]
        self.answers, self.errors = os.fdopen(reading, "rb"), tempfile.TemporaryFile()
        try:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=self.errors,
                stderr=self.errors,
                pass_fds=(writing,),
                env=environment,
                start_new_session=True,  # Ctrl-C reaches the launcher alone, which then asks each worker to stop
            )
        finally:
            os.close(writing)

    def give(self, job: Job) -> bool:
        """Hand over a run; False where the process has died."""
        try:
            self.process.stdin.write(json.dumps({"folder": str(job.folder.path), "dead": job.dead}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return False
        self.job, job.state, job.started, job.elsewhere = job, "active", time.monotonic(), False
        return True

    def answer(self) -> dict[str, Any] | None:
        """The next line; None where the process has ended."""
        line = self.answers.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def obituary(self) -> str:
        """Why the process ended, for a person."""
        code = self.process.wait()
        self.errors.seek(0)
        last = self.errors.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        more = f" ({discreet(last[0])})" if last and code > 0 else ""
        return f"its process ended with {how}{more}; start the command again to go on from the last checkpoint"

    def close(self) -> None:
        """No more runs; the process leaves by itself."""
        try:
            self.process.stdin.close()
        except OSError:
            pass


class Launcher:
    """Carries out a plan with up to `jobs` worker processes.

    Args:
        plan: runs, inputs before what reads them.
        arguments: the worker's own options, such as --device.
        gpus: what `visible_gpus` gives: each worker sees the one that has the fewest.
    """

    def __init__(
        self,
        plan: list[tuple[Planned, RunFolder]],
        jobs: int,
        reporter: Reporter,
        arguments: tuple[str, ...] = (),
        gpus: tuple[str, ...] = (),
    ) -> None:
        self.jobs = [Job(planned, folder) for planned, folder in plan]
        self.by_id = {job.run_id: job for job in self.jobs}
        self.limit, self.reporter, self.arguments, self.gpus = jobs, reporter, arguments, gpus
        self.workers: list[Worker] = []
        self.selector = selectors.DefaultSelector()
        self.observer = Observer()
        self.stops = 0

    def run(self) -> list[Job]:
        """Work until every run is done, failed or, after Ctrl-C or SIGTERM, interrupted."""
        for job in self.jobs:
            if job.folder.done():
                job.state, job.earlier = "done", True
                tidy(job.folder, self.observer)
        previous = {number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with self.reporter.following(self.jobs):
                while any(job.state in ("waiting", "active") for job in self.jobs) and not self.stops:
                    self._dispatch()
                    self._listen()
                    self.reporter.update()
                self._wind_down()
        finally:
            for worker in self.workers:
                if worker.process.poll() is None:
                    worker.process.terminate()
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.jobs

    def _stop(self, *_: Any) -> None:
        self.stops += 1

    def _dispatch(self) -> None:
        for job in self.jobs:
            if job.state != "waiting" or not self._ready(job):
                continue
            worker = self._free_worker(job.planned.spec.threads)
            if worker is None:
                return
            self._start(job, worker)

    def _ready(self, job: Job) -> bool:
        """Whether a waiting run can start now; ends it where an input failed or its record is there."""
        inputs = [self.by_id[run_id] for run_id in job.planned.needs]
        failed = [other for other in inputs if other.state == "failed"]
        if failed:
            self._end(job, "failed", f"its input {failed[0].planned.spec.title} failed", failed[0].mistake)
            return False
        cancelled = [other for other in inputs if other.state == "cancelled"]
        if cancelled:
            self._end(job, "cancelled", f"its input {cancelled[0].planned.spec.title} was cancelled")
            return False
        if any(other.state != "done" for other in inputs) or time.monotonic() < job.look_again:
            return False
        if job.elsewhere and job.folder.done():
            self._end(job, "done")
            return False
        held = self.observer.holder(job.folder.lease)
        if held is not None and self.observer.alive(job.folder.lease) is not None:
            self._elsewhere(job)
            return False
        if job.elsewhere and (state := job.folder.read_state()).get("state") == "failed":
            self._end(job, "failed", state.get("reason", ""))  # there; trying again is for `robustft retry`
            return False
        job.dead = held.token if held else None
        return True

    def _elsewhere(self, job: Job) -> None:
        job.look_again = time.monotonic() + ELSEWHERE_SECONDS
        if not job.elsewhere:
            job.elsewhere = True
            self.reporter.elsewhere(job)

    def _free_worker(self, threads: int) -> Worker | None:
        """An idle worker with that many threads, a new one where there is room, or None."""
        idle = [worker for worker in self.workers if worker.job is None]
        for worker in idle:
            if worker.threads == threads:
                return worker
        if len(self.workers) >= self.limit and idle:
            idle[0].close()
            self._forget(idle[0])
        if len(self.workers) >= self.limit:
            return None
        taken = [worker.gpu for worker in self.workers]
        worker = Worker(threads, self.arguments, min(self.gpus, key=taken.count, default=None))
        self.workers.append(worker)
        self.selector.register(worker.answers, selectors.EVENT_READ, worker)
        return worker

    def _start(self, job: Job, worker: Worker) -> None:
        if worker.give(job):
            self.reporter.started(job)
            return
        reason = worker.obituary()
        self._forget(worker)
        self._end(job, "failed", reason)

    def _forget(self, worker: Worker) -> None:
        self.selector.unregister(worker.answers)
        self.workers.remove(worker)

    def _listen(self) -> None:
        for key, _ in self.selector.select(timeout=POLL_SECONDS) if self.workers else self._nap():
            worker: Worker = key.data
            answer = worker.answer()
            job, worker.job = worker.job, None
            if answer is None:
                reason = worker.obituary()
                self._forget(worker)
                answer = {"event": "failed", "reason": reason}
            if job is None:
                continue
            if answer["event"] == "busy":
                job.state = "waiting"
                self._elsewhere(job)
                continue
            self._end(job, answer["event"], answer.get("reason", ""), answer.get("mistake", False))

    def _nap(self) -> tuple[()]:
        time.sleep(POLL_SECONDS)
        return ()

    def _end(self, job: Job, state: str, reason: str = "", mistake: bool = False) -> None:
        job.state, job.reason, job.mistake = state, reason, mistake
        self.reporter.ended(job)

    def _wind_down(self) -> None:
        """Ask what is left to save a checkpoint and stop; a second Ctrl-C does not wait for that."""
        if self.stops:
            self.reporter.stopping(sum(worker.job is not None for worker in self.workers))
        for worker in self.workers:
            worker.close()
            if self.stops:
                worker.process.terminate()
        while self.stops < 2 and any(worker.job is not None for worker in self.workers):
            self._listen()
        for worker in self.workers:
            if self.stops >= 2:
                worker.process.kill()
            worker.process.wait()
        for job in self.jobs:
            if job.state in ("waiting", "active"):
                job.state = "interrupted"


def exit_code(jobs: list[Job]) -> int:
    """0 all done, 1 a run failed, 2 only for reasons that the user must change, 130 interrupted or cancelled."""
    failed = [job for job in jobs if job.state == "failed"]
    if any(job.state in ("interrupted", "cancelled") for job in jobs):
        return 130
    if not failed:
        return 0
    return 2 if all(job.mistake for job in failed) else 1
