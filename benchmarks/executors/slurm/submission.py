"""A plan as SLURM job arrays, submitted so that a kill at any point loses nothing and starts nothing twice.

Each array has a folder `<runs>/.slurm/<name>/`, and its jobs have that name, which no other array has. First its
`batch.json` says which runs it will hold ("intended"); then sbatch takes the jobs, held; then jobs and runs are written
down ("written"); then the jobs are released ("released"). Whoever submits next looks at what is not released: held jobs
of an intended array are cancelled, for nobody knows them, and those of a written one are released. One process at a
time submits, under a lease.
"""

import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...host.redaction import discreet
from ...run_folder.folder import RunFolder
from ...run_folder.lease import Observer, claim, heartbeat
from . import client as queue
from . import code_snapshot, submitit_api
from .array_folder import OPTIONS, Batch
from .arrays import Arranger, Array, Cluster, Outcome, part
from .client import Entry
from .submitit_api import Refused

PREFIX = "robustft-"
SIGNAL_SECONDS = 120
"""Least time between the signal and the end of a job's time."""
LISTED_JOBS = 50
"""A dependency names at most so many jobs one by one; more are named by their arrays."""
# What sbatch says where fewer jobs might have been taken.
LIMITS = re.compile(r"limit|QOSMax|AssocMax|MaxSubmit|MaxJobCount|too many|temporarily unable", re.IGNORECASE)


class Submitter:
    """Submits runs below one root.

    Args:
        runs: the root.
        device: where runs are made: cpu or cuda.
        tell: is given sentences for the user.
    """

    def __init__(self, runs: Path, cluster: Cluster, device: str, checkpoint_seconds: float, tell: Any) -> None:
        self.runs, self.cluster, self.device = runs.absolute(), cluster, device
        submitit_api.check_place(self.runs, cluster.live)
        self.checkpoint_seconds, self.tell = checkpoint_seconds, tell
        self.home = self.runs / ".slurm"
        self.arranger = Arranger(self.runs, cluster)
        self.check: Any = lambda: None

    def submit(self, folders: list[RunFolder]) -> Outcome:
        """Submit what is neither done nor on its way, with the inputs that are missing.

        Raises:
            UserError: SLURM cannot be asked, the profile does not fit the runs, or the folder cannot be written.
        """
        outcome = Outcome()
        with self._alone():
            self.reconcile()
            flying = self.in_flight()
            jobs = {path: entry.job for path, entry in flying.items()}
            code = None if self.cluster.live else code_snapshot.take(self.runs)
            arrays = self.arranger.plan(folders, flying, code, outcome)
            while arrays:
                array = arrays.pop(0)
                array, blocked = self.arranger.unblocked(array, jobs.keys())
                outcome.left += blocked
                if not array.tasks:
                    continue
                try:
                    made = self._submit(array, sorted({jobs[path] for path in array.needs}))
                except Refused as refusal:
                    outcome.refusal = str(refusal)
                    if LIMITS.search(outcome.refusal) and len(array.tasks) > 1:
                        half = len(array.tasks) // 2
                        arrays[:0] = [part(array, slice(half)), part(array, slice(half, None))]
                        continue
                    outcome.left += array.runs
                    for rest in arrays:
                        outcome.left += rest.runs
                    break
                outcome.arrays.append(made[0].partition("_")[0])
                for task, job in zip(array.tasks, made, strict=True):
                    outcome.submitted += task
                    jobs |= {folder.path: job for folder in task}
        if not outcome.left:
            outcome.refusal = ""
        return outcome

    # one array

    def _submit(self, array: Array, after: list[str]) -> list[str]:
        """Hold, write down, release; the jobs of its tasks. Refused where sbatch takes none."""
        batch = Batch(self.home / f"{PREFIX}{self.arranger.spec(array.runs[0].path).benchmark}-{uuid.uuid4().hex[:12]}")
        batch.intend(self._about(array))
        self.check()
        try:
            jobs = self._hold(batch, array, after)
        except Refused:
            self._abandon(batch)  # a controller that answered too late may have taken them all the same
            raise
        self._write(batch, array, jobs)
        self.check()
        self._release(batch, jobs)
        return jobs

    def _about(self, array: Array) -> dict[str, Any]:
        return {
            "runs": [[str(folder.path.relative_to(self.runs)) for folder in task] for task in array.tasks],
            "snapshot": array.snapshot,
            "device": self.device,
            "checkpoint_seconds": self.checkpoint_seconds,
            "micro_batch": array.profile.micro_batch,
            "workers": self.cluster.workers,
            **({"checkpoint_activations": True} if self.cluster.checkpoint_activations else {}),
            "stage": discreet(array.profile.stage or "") or None,
            "pack": self.cluster.pack,
            "profile": json.loads(discreet(json.dumps(array.profile.model_dump(exclude_defaults=True)))),
        }

    def parameters(self, array: Array, name: str, after: list[str]) -> dict[str, Any]:
        """The parameters that sbatch gets for an array."""
        threads = array.threads
        setup = [
            *array.profile.setup,
            # Read when NumPy and torch load, and their number changes bits.
            f"export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} OPENBLAS_NUM_THREADS={threads}",
        ]
        if array.snapshot is not None:
            code = str(code_snapshot.place(self.runs, array.snapshot)).replace("'", "'\\''")
            setup.append(f"export PYTHONPATH='{code}'${{PYTHONPATH:+:$PYTHONPATH}}")
        if len(after) > LISTED_JOBS:
            after = sorted({job.partition("_")[0] for job in after})
        return submitit_api.parameters(
            array.profile,
            name=name,
            setup=setup,
            signal_seconds=self.signal_seconds(array),
            dependency="afterany:" + ":".join(after) if after else None,
        )

    def signal_seconds(self, array: Array) -> int:
        """How long before its end a job is told to save: three times the slowest save that these runs have seen."""
        if array.profile.signal_seconds is not None:
            return array.profile.signal_seconds
        took = [folder.read_state().get("save_seconds") or 0.0 for folder in array.runs]
        return max(SIGNAL_SECONDS, int(3 * max(took)) + 1)

    def _hold(self, batch: Batch, array: Array, after: list[str]) -> list[str]:
        tasks = [tuple(str(folder.path) for folder in task) for task in array.tasks]
        given = self.parameters(array, batch.name, after)
        return submitit_api.submit(batch.folder, array.profile.python, given, tasks)

    def _write(self, batch: Batch, array: Array, jobs: list[str]) -> None:
        for task, job in zip(array.tasks, jobs, strict=True):
            for folder in task:
                folder.forget_cancel()
                state = folder.read_state()
                state.pop("reason", None)
                state.pop("mistake", None)
                new = {"state": "submitted", "job": job, "batch": batch.name, "snapshot": array.snapshot}
                folder.write_state(guard=self.check, **{**state, **new})
        batch.put(phase="written", jobs=jobs)

    def _release(self, batch: Batch, jobs: list[str]) -> None:
        try:
            queue.release({job.partition("_")[0] for job in jobs})
        except queue.QueueError as error:
            # SLURM also complains of jobs that it releases: no node may be able to run them, now or ever.
            held = {entry.job for entry in queue.listed(PREFIX) if entry.reason == "JobHeldUser"}
            if held & set(jobs):
                raise
            said = str(error).partition(";")[0]
            self.tell(f"{said}; the jobs wait in the queue, and if they ask for too much `robustft cancel` ends them")
        batch.put(phase="released")

    def _abandon(self, batch: Batch) -> None:
        queue.cancel(entry.job for entry in queue.listed(PREFIX) if entry.name == batch.name)
        batch.put(phase="abandoned")

    # what earlier calls left

    def batches(self) -> Iterator[Batch]:
        """Every array that was ever intended, by name."""
        for path in sorted(self.home.glob(f"{PREFIX}*/{OPTIONS}")):
            yield Batch(path.parent)

    def reconcile(self) -> None:
        """Finish or undo what a killed call left half done; end the jobs that can never start."""
        entries = queue.listed(PREFIX)
        queue.cancel(entry.job for entry in entries if entry.dead)
        for batch in self.batches():
            phase = batch.read().get("phase")
            if phase == "written":
                self._release(batch, batch.read()["jobs"])
            elif phase == "intended":
                self._abandon(batch)
            elif phase == "abandoned":  # sbatch outlived the call that started it
                queue.cancel(entry.job for entry in entries if entry.name == batch.name)

    def in_flight(self) -> dict[Path, Entry]:
        """Run folder -> the job in the queue that will make it, or is making it."""
        found: dict[Path, Entry] = {}
        known: dict[str, dict[str, list[str]]] = {}
        for entry in queue.listed(PREFIX):
            if entry.dead:
                continue
            if entry.name not in known:
                batch = Batch(self.home / entry.name).read()
                known[entry.name] = dict(zip(batch.get("jobs", []), batch.get("runs", []), strict=False))
            for run in known[entry.name].get(entry.job, []):
                found[self.runs / run] = entry
        return found

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time submits; others wait for it."""
        try:
            self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.chmod(self.home, 0o700)
        except OSError as error:
            raise UserError(f"--runs: {self.home} cannot be made ({error.strerror}); choose another folder.") from None
        place, observer, waited = RunFolder(self.home), Observer(), False
        while (lease := claim(place, observer)) is None:
            if not waited:
                self.tell("another process is submitting; waiting for it")
            waited = True
            time.sleep(0.5)
        self.check = lease.check
        try:
            with heartbeat(lease):
                yield
        finally:
            lease.release()
