"""Which runs a job makes, and which jobs are one array: a plan cut for SLURM, before anything is submitted."""

from collections.abc import Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...errors import UserError
from ...run_folder.folder import RunFolder
from ...run_folder.lease import Observer
from ...run_folder.plan import Plan, input_path
from ...run_folder.spec import RunSpec
from . import client as queue
from . import code_snapshot
from .client import Entry
from .profile import Keys, Profile

ARRAY_SIZE = 1001
"""SLURM's own default of MaxArraySize."""


@dataclass(frozen=True)
class Cluster:
    """What `--executor slurm` was asked to do with a plan."""

    profile: Profile
    pack: int = 1
    """Runs of one job, one after the other."""
    live: bool = False
    """Run the installed code as it is when a job starts, not a snapshot."""
    workers: int | None = None
    checkpoint_activations: bool = False
    """Both as run.Options has them."""


@dataclass
class Outcome:
    """What became of a submission."""

    submitted: list[RunFolder] = field(default_factory=list)
    arrays: list[str] = field(default_factory=list)
    queued: list[RunFolder] = field(default_factory=list)
    """In the queue already, or being made by another process."""
    left: list[RunFolder] = field(default_factory=list)
    """Still planned: refused, or their inputs were."""
    refusal: str = ""


@dataclass(frozen=True)
class Array:
    """Jobs that differ in nothing but their runs."""

    tasks: list[list[RunFolder]]
    threads: int
    snapshot: str | None
    profile: Keys
    needs: frozenset[Path] = frozenset()
    """Run folders that must be through before any of it starts."""

    @property
    def runs(self) -> list[RunFolder]:
        return [folder for task in self.tasks for folder in task]


class Arranger:
    """Cuts plans of runs below one root into arrays.

    Args:
        runs: the root, absolute.
    """

    def __init__(self, runs: Path, cluster: Cluster) -> None:
        self.runs, self.cluster = runs, cluster
        self.specs: dict[Path, RunSpec] = {}

    def plan(
        self, folders: list[RunFolder], flying: dict[Path, Entry], code: str | None, outcome: Outcome
    ) -> list[Array]:
        """The arrays that hold what must still be submitted, inputs before what reads them.

        Args:
            flying: runs that jobs in the queue hold.
            code: the snapshot of runs that begin now; None is the installed code.
            outcome: gets the runs that are on their way.
        """
        waiting = self._missing([RunFolder(folder.path.absolute()) for folder in folders], flying, outcome)
        levels: dict[Path, int] = {}

        def level(path: Path) -> int:
            if path not in levels:
                needs = [need for need in self._needs(path) if not RunFolder(need).done()]
                levels[path] = 1 + max([level(need) if need in waiting else 0 for need in needs], default=-1)
            return levels[path]

        profiles: dict[str, Keys] = {}
        groups: dict[tuple, list[RunFolder]] = {}
        for path, folder in waiting.items():
            spec = self.spec(path)
            profile = self.cluster.profile.of(spec.method, spec.backbone)
            kind = profile.model_dump_json()
            profiles[kind] = profile
            key = (level(path), spec.threads, self._code_of(folder, code), kind)
            groups.setdefault(key, []).append(folder)
        at_once, pack = self._array_size(), self.cluster.pack
        arrays = []
        for (_, threads, code, kind), group in sorted(groups.items(), key=lambda item: item[0][0]):
            profile = profiles[kind]
            if profile.cpus != "site" and threads > profile.cpus:
                raise UserError(
                    f"profile.cpus: must be at least {threads}, the threads of these runs, got {profile.cpus}; give "
                    "each process more processors."
                )
            tasks = [group[first : first + pack] for first in range(0, len(group), pack)]
            for first in range(0, len(tasks), at_once):
                arrays.append(self._array(tasks[first : first + at_once], threads, code, profile))
        return arrays

    def unblocked(self, array: Array, known: Set[Path]) -> tuple[Array, list[RunFolder]]:
        """The array without the jobs that read a run of which no job is known, and the runs of those jobs.

        Such a run was refused, or another process makes it, on which no dependency can be made.
        """
        blocked = array.needs - known
        if not blocked:
            return array, []
        free = [task for task in array.tasks if not any(blocked & set(self._needs(run.path)) for run in task)]
        held = [run for task in array.tasks if task not in free for run in task]
        return self._array(free, array.threads, array.snapshot, array.profile), held

    def _array(self, tasks: list[list[RunFolder]], threads: int, code: str | None, profile: Keys) -> Array:
        needs = {need for task in tasks for folder in task for need in self._needs(folder.path)}
        paths = {folder.path for task in tasks for folder in task}
        return Array(tasks, threads, code, profile, frozenset(p for p in needs - paths if not RunFolder(p).done()))

    def _missing(self, folders: list[RunFolder], flying: dict[Path, Entry], outcome: Outcome) -> dict[Path, RunFolder]:
        """What is to be submitted of these runs and of those that they read."""
        waiting: dict[Path, RunFolder] = {}
        jobs, stack, seen = {entry.job for entry in flying.values()}, list(reversed(folders)), set()
        while stack:
            folder = stack.pop()
            if folder.path in seen or folder.done():
                continue
            seen.add(folder.path)
            if folder.path in flying or self._held(folder, jobs):
                outcome.queued.append(folder)
                continue
            waiting[folder.path] = folder
            stack += [RunFolder(path) for path in self._needs(folder.path)]
        return waiting

    def _held(self, folder: RunFolder, jobs: set[str]) -> bool:
        """Whether a process works on this run, which no job of ours in the queue holds."""
        observer = Observer()
        holder = observer.holder(folder.lease)
        if holder is None:
            return False
        if holder.process.alive() is None and holder.job is not None:
            return holder.job in jobs
        return observer.alive(folder.lease) is not None

    def spec(self, path: Path) -> RunSpec:
        """The spec of a run folder, read once."""
        if path not in self.specs:
            self.specs[path] = Plan.read(RunFolder(path)).spec
        return self.specs[path]

    def _needs(self, path: Path) -> list[Path]:
        spec = self.spec(path)
        return [input_path(path, spec, name) for name in spec.inputs]

    def _code_of(self, folder: RunFolder, code: str | None) -> str | None:
        """The code snapshot of a run: the one it began with, or today's if it failed, since the code may be why."""
        state = folder.read_state()
        earlier = state.get("snapshot")
        if code is None or earlier is None or state.get("state") in ("failed", "planned"):
            return code
        return earlier if code_snapshot.exists(self.runs, earlier) else code

    def _array_size(self) -> int:
        try:
            return max(1, int(queue.setting("MaxArraySize") or ARRAY_SIZE))
        except (queue.QueueError, ValueError):
            return ARRAY_SIZE


def part(array: Array, tasks: slice) -> Array:
    """An array of some of the jobs of another."""
    return replace(array, tasks=array.tasks[tasks])
