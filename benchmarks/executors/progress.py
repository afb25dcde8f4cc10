"""What a person sees while runs are made: bars on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

PLAIN_SECONDS = 30.0
SHORT_SECONDS = 5.0
"""Between the plain lines of what takes seconds, not hours."""
NAMED = 4
"""Active runs that a plain line names."""
WORDS = {"done": "done", "failed": "FAILED", "interrupted": "stopped", "cancelled": "cancelled"}


class Reporter:
    """Shows a launcher's jobs; reads only their fields and their folders' state.

    Args:
        alone: whether all that this process prints meanwhile is about the jobs, and is shown above their bars.
    """

    def __init__(self, console: Console, alone: bool = True) -> None:
        self.console, self.alone = console, alone
        self.jobs: Sequence[Any] = ()
        self.bars: Progress | None = None
        self.tasks: dict[str, Any] = {}
        self.updated = 0.0

    @contextlib.contextmanager
    def following(self, jobs: Sequence[Any]) -> Iterator[None]:
        """Report on these jobs until the end of the block."""
        self.jobs, self.updated = jobs, time.monotonic()
        earlier = sum(job.earlier for job in jobs)
        if not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        how: dict[str, Any] = {"redirect_stdout": self.alone, "redirect_stderr": self.alone, "transient": True}
        with Progress(*columns, TimeRemainingColumn(), console=self.console, **how) as self.bars:
            self.tasks["all"] = self.bars.add_task("all runs", total=len(jobs), completed=earlier)
            try:
                yield
            finally:
                self.bars, self.tasks = None, {}

    def started(self, job: Any) -> None:
        """A worker has taken the run."""
        if self.bars:
            total = job.planned.spec.steps or 1
            self.tasks[job.run_id] = self.bars.add_task(job.planned.spec.title, total=total)
        else:
            self._line("start", job, "")

    def ended(self, job: Any) -> None:
        """The run is done, failed or stopped."""
        if self.bars:
            if job.run_id in self.tasks:
                self.bars.remove_task(self.tasks.pop(job.run_id))
            self.bars.update(self.tasks["all"], completed=self._settled())
        seconds = f" ({time.monotonic() - job.started:.0f} s)" if job.started else ""
        reason = f": {job.reason}" if job.reason else ""
        self._line(WORDS[job.state], job, seconds + reason)

    def elsewhere(self, job: Any) -> None:
        """Another process works on the run; this one waits for it."""
        self._line("wait", job, ": another process is working on it")

    def stopping(self, active: int) -> None:
        """Ctrl-C or SIGTERM came."""
        self._print(f"stopping: {active} running, each saves a checkpoint first; press Ctrl-C again to kill them")

    def update(self) -> None:
        """Show how far the active runs are."""
        now = time.monotonic()
        if now - self.updated < (0.5 if self.bars else PLAIN_SECONDS):
            return
        self.updated = now
        shown = []
        for job in self.jobs:
            if job.state != "active":
                continue
            state = job.folder.read_state()
            step, total = state.get("step", 0), job.planned.spec.steps or 1
            if self.bars and job.run_id in self.tasks:
                self.bars.update(self.tasks[job.run_id], completed=step)
            shown.append(f"{job.planned.spec.title} {step}/{total}")
        if shown and not self.bars:
            more = [f"{len(shown) - NAMED} more"] if len(shown) > NAMED else []
            self._print(f"[{self._settled():>3}/{len(self.jobs)}] running: {'; '.join(shown[:NAMED] + more)}")

    def _settled(self) -> int:
        return sum(job.state not in ("waiting", "active") for job in self.jobs)

    def _line(self, word: str, job: Any, more: str) -> None:
        self._print(f"[{self._settled():>3}/{len(self.jobs)}] {word:<7} {job.planned.spec.title}{more}")

    def _print(self, text: str) -> None:
        console = self.bars.console if self.bars else self.console
        console.print(text, markup=False, highlight=False, soft_wrap=True)


class Steps:
    """How far a command is that works for seconds: a bar on a terminal, a line every few seconds elsewhere.

    Args:
        total: how often `step` will be called.
    """

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console, self.title, self.total, self.done = console, title, total, 0
        self.bar: Progress | None = None
        self.last_printed = time.monotonic()

    def __enter__(self) -> "Steps":
        if self.console.is_terminal and self.total:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.bar.add_task(self.title, total=self.total)
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.stop()

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=self.done)
        elif now - self.last_printed >= SHORT_SECONDS and self.done < self.total:
            self.last_printed = now
            self.console.print(f"{self.title}: {self.done} of {self.total}", soft_wrap=True)
