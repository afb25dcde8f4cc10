"""`--keep-going`: submit, watch, and submit again, until every run is done or cannot be.

For clusters that end a job and do not queue it again (PreemptMode=CANCEL), that take only some jobs at a time, or whose
nodes fail. Nothing is remembered here: run folders and the queue say what is done, on its way or gone. So this process
may die at any moment, the same command goes on where it was, and two of them do no harm.
"""

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from ..errors import UserError
from ..host.printed import counted
from ..run_folder.folder import RunFolder
from ..run_folder.lease import Observer
from . import run_states
from .run_states import Queue, Seen
from .slurm.arrays import Cluster
from .slurm.client import QueueError, require
from .slurm.submission import LIMITS, Submitter

POLL_SECONDS = 30.0
"""Between two looks at the queue: each asks SLURM's controller twice."""
IN_VAIN = 3
"""A run that was started or submitted so often in a row without a new checkpoint is given up."""
LOG = "keep-going.log"


def pause() -> None:
    """Between two looks."""
    time.sleep(POLL_SECONDS)


@dataclass
class Tries:
    """How often a run was submitted since it last went on; forgotten with this process, which a person restarts."""

    count: int
    step: int


@dataclass
class Watch:
    """Runs of one sweep, until nothing can change any more.

    Args:
        folders: the runs that were asked for and those that they read.
    """

    folders: list[RunFolder]
    submitter: Submitter
    console: Console
    queue: Queue = run_states.slurm
    tries: dict[str, Tries] = field(default_factory=dict)
    """Of the runs that this watch has submitted."""
    said: str = ""

    def until_done(self) -> int:
        """0 where all runs are done, 1 where some cannot be or were cancelled, 2 where SLURM refuses the profile."""
        observer = Observer()
        while True:
            waits = ""
            try:
                seen = self._look(observer)
                again = [each for each in seen if self._submits(each)]
                if again:
                    refusal = self._submit(again)
                    if refusal and not LIMITS.search(refusal):
                        raise UserError(f"SLURM refused: {refusal.rstrip('.')}; mend --profile and start again.")
                    waits = f"; no room for more now ({refusal.rstrip('.')})" if refusal else ""
                    seen = self._look(observer)
            except QueueError as error:
                self._say(f"SLURM gives no answer ({error}); asking again every {POLL_SECONDS:.0f} s")
                pause()
                continue
            self._say(f"{_counts(seen)}{waits}")
            if not any(each.state in ("running", "submitted") or self._submits(each) for each in seen):
                return self._end(seen)
            pause()

    def _look(self, observer: Observer) -> list[Seen]:
        paths = {str(folder.path.absolute()) for folder in self.folders}
        return [each for each in run_states.survey(self.submitter.runs, observer, self.queue) if each.path in paths]

    def _submits(self, seen: Seen) -> bool:
        """Whether a run needs a job, and another one may help; each is submitted once, as without `--keep-going`."""
        if seen.state in ("done", "running") or (seen.state == "submitted" and not seen.stuck):
            return False
        tries = self.tries.get(seen.path)
        if tries is None or seen.step > tries.step:
            return seen.state != "cancelled" or tries is None
        mistake = seen.state == "failed" and seen.status.get("mistake")
        return seen.state != "cancelled" and not mistake and tries.count < IN_VAIN

    def _submit(self, again: list[Seen]) -> str:
        """Submit these; what SLURM has against those that it did not take."""
        for state in ("failed", "vanished", "checkpointed"):
            alike = [each for each in again if each.state == state]
            if alike:
                reason = alike[0].reason or "stopped, and not queued again"
                self._say(f"again {counted(len(alike), f'{state} run')}: {reason}")
        outcome = self.submitter.submit([each.folder for each in again])
        taken = {str(folder.path) for folder in outcome.submitted}
        for each in again:
            if each.path in taken:
                before = self.tries.get(each.path)
                on = before is None or each.step > before.step
                self.tries[each.path] = Tries(1 if on or before is None else before.count + 1, each.step)
        return outcome.refusal if outcome.left else ""

    def _end(self, seen: list[Seen]) -> int:
        left = [each for each in seen if each.state != "done"]
        for each in left:
            why = f"{each.state}: {each.reason.rstrip('.')}" if each.reason else each.state
            self.console.print(f"given up: {each.title}: {why}", markup=False, soft_wrap=True)
        if left:
            self._say(f"{counted(len(left), 'run')} given up; mend the causes, then `robustft retry --executor slurm`")
        return int(bool(left))

    def _say(self, sentence: str) -> None:
        """One line with the time, unless it is what was said last."""
        if sentence != self.said:
            self.console.print(f"{time.strftime('%H:%M:%S')} {sentence}", markup=False, soft_wrap=True)
        self.said = sentence


def _counts(seen: list[Seen]) -> str:
    counts = Counter(each.state for each in seen)
    rest = ", ".join(f"{counts[state]} {state}" for state in run_states.STATES[1:] if counts[state])
    return f"{counts['done']} of {counted(len(seen), 'run')} done{', ' + rest if rest else ''}"


def keep_going(
    folders: list[RunFolder], console: Console, runs: Path, cluster: Cluster, device: str, checkpoint_minutes: float
) -> int:
    """Have all these runs made by SLURM; returns when none can change any more.

    Ctrl-C ends the watching alone: the jobs stay. A logout does not end it: what it says goes on in a file.
    """
    require()
    submitter = Submitter(runs, cluster, device, checkpoint_minutes * 60, lambda text: console.print(text))
    log = submitter.home / LOG
    console.print(f"watching until all is done; after a logout this goes on in {log}", soft_wrap=True)
    with _surviving_logout(log):
        return Watch(folders, submitter, console).until_done()


@contextlib.contextmanager
def _surviving_logout(log: Path) -> Iterator[None]:
    """Inside, the end of the terminal (SIGHUP) moves what is printed into a file."""

    def move(*_: object) -> None:
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for stream in (1, 2):
            os.dup2(to, stream)
        os.close(to)

    before = signal.signal(signal.SIGHUP, move)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
