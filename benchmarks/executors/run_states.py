"""What has become of each planned run: its folder first, then the queue where its state names a job.

The state file says what a process last wrote, and processes die without writing. So the record outweighs it,
then a living lease, then what is known of the process or the job that should hold one.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...results.records.run_id import folder_name
from ..errors import UserError, resolve_name
from ..run_folder.folder import RunFolder, read_state
from ..run_folder.lease import Holder, Observer
from .slurm.client import NEVER

STATES = ("done", "running", "submitted", "checkpointed", "planned", "failed", "vanished", "cancelled")
"""checkpointed: stopped, and goes on from its checkpoint when started. vanished: the process or job that had the
run is gone, and no record was left."""
OPEN = ("running", "submitted", "checkpointed", "planned", "vanished")
"""What may still come to something, and so what `cancel` ends."""

Queue = Callable[[list[str]], Mapping[str, str] | None]
"""Job ids -> what the queue calls each ("RUNNING", "COMPLETED", ...) and, behind that, why it waits ("PENDING
Priority"); a job that it does not know is left out. None where no queue can be asked."""
ALIVE = (
    *("PENDING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "REQUEUE_FED", "SPECIAL_EXIT", "RESIZING"),
    *("RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"),
)
"""What the queue calls a job that may still do something; a preempted one is queued again by itself."""
GRACE_SECONDS = 2.0
"""Between a job's end and its place in the queue again, or until another machine sees the record that it wrote."""
RECENT_SECONDS = 600.0
"""Only a run that gave a sign of life within this time is looked at twice; the others are gone for good."""


@dataclass(frozen=True)
class Seen:
    """One run as it was found."""

    path: str
    """Its folder; a text, because a look at ten thousand runs has no time for as many Path objects."""
    state: str
    """One of STATES."""
    status: dict[str, Any]
    """What its state file says: the last state that a process wrote."""
    reason: str = ""
    """Of failed and vanished runs, one sentence."""
    waits: str = ""
    """SLURM's word for what the job of a submitted run waits for: Priority, Resources, BeginTime, ..."""

    @property
    def folder(self) -> RunFolder:
        return RunFolder(Path(self.path))

    @property
    def parts(self) -> list[str]:
        """Benchmark, method, backbone, and the folder's own name."""
        return self.path.rsplit(os.sep, 4)[-4:]

    @property
    def title(self) -> str:
        """The folder below the root of all runs."""
        return "/".join(self.parts)

    @property
    def run_id(self) -> str:
        return self.parts[3].rpartition("-")[2]

    @property
    def job(self) -> str | None:
        """The job that has or had the run."""
        return self.status.get("job")

    @property
    def stuck(self) -> bool:
        """Whether its job is in the queue and will never start."""
        return self.waits == NEVER

    @property
    def step(self) -> int:
        """The last step that it wrote down."""
        return int(self.status.get("step") or 0)

    @property
    def restarts(self) -> int:
        """Consecutive restarts that made no new checkpoint."""
        return int(self.status.get("restarts", 0))


def run_folders(runs: Path) -> Iterator[str]:
    """Every planned run below the root, in the order of their paths."""
    for benchmark in _folders(runs):
        for method in _folders(benchmark):
            for backbone in _folders(method):
                yield from _folders(backbone)


def _folders(path: Path | str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []


def slurm(jobs: list[str]) -> Mapping[str, str] | None:
    """What SLURM calls these jobs, from its queue and, of those that ended, from its accounts."""
    from .slurm import client as queue

    if not queue.available():
        return None
    try:
        waiting = {entry.job: f"{entry.state} {entry.reason}" for entry in queue.listed()}
    except queue.QueueError:
        return None  # a restarting controller: what the folders say must do
    known = {job: waiting[job] for job in jobs if job in waiting}
    return known | queue.states(job for job in jobs if job not in known)


def survey(runs: Path, observer: Observer, queue: Queue = slurm, grace: float = GRACE_SECONDS) -> list[Seen]:
    """Every planned run below the root; asks the queue once, for all jobs together.

    It asks again, after `grace` seconds, of jobs that have just ended without a record: a job that is queued again may
    be in no list for a moment, and none of its runs has vanished.
    """
    looked = [seen for path in run_folders(runs) if (seen := _look(path, observer)) is not None]
    words = _answer(looked, queue)
    if words is None:
        return looked
    found = [_ask(seen, words, observer) for seen in looked]
    gone = {seen.path for seen in found if seen.state == "vanished" and seen.job and _recent(seen.path)}
    if not gone:
        return found
    time.sleep(grace)
    again = {path: now for path in sorted(gone) if (now := _look(path, observer)) is not None}
    words = _answer(again.values(), queue)
    if words is not None:
        again = {path: _ask(seen, words, observer) for path, seen in again.items()}
    return [again.get(seen.path, seen) for seen in found]


def _answer(looked: Iterable[Seen], queue: Queue) -> Mapping[str, str] | None:
    """What the queue says of the jobs of runs that have not ended; None where it cannot be asked."""
    jobs = sorted({seen.job for seen in looked if seen.job and seen.state not in ("done", "failed", "cancelled")})
    return queue(jobs) if jobs else None


def _recent(path: str) -> bool:
    """Whether a run gave a sign of life a short time ago."""
    signs = []
    for name in ("state.json", "lease/beat"):
        with contextlib.suppress(OSError):
            signs.append(os.stat(f"{path}/{name}").st_mtime)
    return bool(signs) and time.time() - max(signs) < RECENT_SECONDS


def _look(path: str, observer: Observer) -> Seen | None:
    """A run by its folder alone; None where no run was planned there."""
    try:
        names = set(os.listdir(path))
    except OSError:
        return None
    if "spec.json" not in names:
        return None
    status = read_state(path)
    if "record.json" in names and _looks_done(path):
        return Seen(path, "done", status)
    folder = RunFolder(Path(path))
    try:
        if "record.json" in names and folder.done():
            return Seen(path, "done", status)
    except UserError as error:
        return Seen(path, "failed", status, str(error))
    if "lease" in names and observer.alive(folder.lease) is not None:
        return Seen(path, "running", status)
    word = status.get("state", "planned")
    if "cancel" in names:
        return Seen(path, "cancelled", status)
    if word == "failed":
        return Seen(path, "failed", status, status.get("reason", "no reason was written"))
    if word == "submitted":
        return Seen(path, "submitted", status)
    if word in ("running", "done") or ("lease" in names and word == "planned"):
        return Seen(path, "vanished", status, _gone(folder, status))
    return Seen(path, "checkpointed" if word != "planned" and status.get("step") else "planned", status)


def _looks_done(path: str) -> bool:
    """Whether record.json begins and ends as the record of this run: enough for a file that is never half written.

    A look at ten thousand runs must not parse ten thousand records.
    """
    run_id = b'"run_id": "' + path.rpartition("-")[2].encode() + b'"'
    try:
        handle = os.open(f"{path}/record.json", os.O_RDONLY)
    except OSError:
        return False
    try:
        size, head = os.fstat(handle).st_size, os.pread(handle, 200, 0)
        return head.startswith(b"{") and run_id in head and os.pread(handle, 2, max(0, size - 2)) == b"}\n"
    except OSError:
        return False
    finally:
        os.close(handle)


def _gone(folder: RunFolder, status: Mapping[str, Any]) -> str:
    if status.get("state") == "done":
        return "it says that it is done, but its record is gone"
    holder = Holder.read(folder.lease)
    host = status.get("host") or (holder.process.host if holder else None)
    pid = status.get("pid") or (holder.process.pid if holder else None)
    where = f" (process {pid} on {host})" if host else ""
    return f"the process that had it is gone without a word{where}"


def _ask(seen: Seen, words: Mapping[str, str], observer: Observer) -> Seen:
    """The same run with what the queue says of its job."""
    if seen.job is None or seen.state not in ("running", "submitted", "vanished", "checkpointed"):
        return seen
    word, _, why = words.get(seen.job, "").partition(" ")
    word = word.rstrip("+")
    if word in ALIVE:
        waits = why if word == "PENDING" and why != "None" else ""
        return seen if seen.state == "running" else Seen(seen.path, "submitted", seen.status, waits=waits)
    if seen.state == "checkpointed":
        return seen
    if seen.state == "running" and _surely_alive(seen, observer):
        return seen
    now = _look(seen.path, observer)
    if now is not None and now.state in ("done", "failed", "cancelled"):
        return now  # it ended between the look at its folder and the answer of the queue
    said = f"SLURM calls its job {seen.job} {word}" if word else f"SLURM no longer knows its job {seen.job}"
    return Seen(seen.path, "vanished", seen.status, f"{said}, but it left no record")


def _surely_alive(seen: Seen, observer: Observer) -> bool:
    """Whether its process lives on this very machine; elsewhere the queue knows better than a heartbeat."""
    holder = observer.holder(seen.folder.lease)
    return holder is not None and holder.process.alive() is True


@dataclass(frozen=True)
class Choice:
    """Runs of a benchmark, methods, backbones and run ids; what is not named chooses all."""

    benchmark: str | None = None
    methods: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()


def choose(found: list[Seen], runs: Path, choice: Choice) -> list[Seen]:
    """Those of the runs that are chosen; UserError for a name that no run has."""
    place = f"--runs {runs} has"
    if choice.benchmark is not None:
        known = sorted({seen.parts[0] for seen in found})
        name = resolve_name("benchmark", choice.benchmark, known, f"{place} runs of: {', '.join(known) or 'none'}")
        found = [seen for seen in found if seen.parts[0] == name]
    for kind, part, asked in (("method", 1, choice.methods), ("backbone", 2, choice.backbones)):
        known = sorted({seen.parts[part] for seen in found})
        remedy = f"{place} runs of: {', '.join(known) or 'none'}"
        of_given = {name: folder_name(name, {"given": True}) for name in asked}
        asked = tuple(of_given[name] if of_given[name] in known else name for name in asked)
        names = {resolve_name(kind, name, known, remedy) for name in asked if name != "all"}
        if names and "all" not in asked:
            found = [seen for seen in found if seen.parts[part] in names]
    for run_id in choice.ids:
        if run_id not in {seen.run_id for seen in found}:
            raise UserError(f"--run: must be the id of a planned run, got '{run_id}'; see `robustft status --json`.")
    return [seen for seen in found if not choice.ids or seen.run_id in choice.ids]
