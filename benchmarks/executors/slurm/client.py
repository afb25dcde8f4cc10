"""SLURM's queue, asked by its own commands: squeue, sacct, scontrol, scancel.

`sacct` answers only where the cluster keeps accounts; nothing here needs it. A job is named as SLURM names it: "123",
or "123_4" for a task of an array.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...errors import UserError

PATIENCE_SECONDS = 60
"""How long a busy controller may take for an answer."""
AT_ONCE = 500
"""Jobs named in one call, so that no command line grows too long."""
DEFAULTS = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
GONE = ("Invalid job id", "already completed", "already finished", "has already finished")

NEVER = "DependencyNeverSatisfied"
"""SLURM's reason for a job that can never start, and that it keeps in the queue all the same."""


class QueueError(UserError):
    """SLURM cannot be asked, or refuses; one sentence."""


@dataclass(frozen=True)
class Entry:
    """A job that SLURM still has: waiting, running, or ending."""

    job: str
    name: str
    state: str
    """SLURM's word: PENDING, RUNNING, COMPLETING, ..."""
    reason: str
    """Why it waits: Priority, Dependency, BeginTime, JobHeldUser, ...; "None" while it runs."""

    @property
    def dead(self) -> bool:
        """Whether it can never start."""
        return self.state == "PENDING" and self.reason == NEVER


def available() -> bool:
    """Whether this machine has SLURM's commands."""
    return shutil.which("squeue") is not None


def require() -> None:
    """UserError where this machine has them not."""
    if not available():
        raise UserError("--executor slurm: needs SLURM's commands, squeue was not found; work on a cluster's machine.")


def listed(prefix: str = "") -> list[Entry]:
    """My jobs whose name starts with `prefix`, each task of an array by itself; QueueError where SLURM is silent."""
    answer = call(["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%i|%T|%r|%j"])
    entries = []
    for line in answer.splitlines():
        job, state, reason, name = line.strip().split("|", 3)
        if name.startswith(prefix):
            entries.append(Entry(job, name, state, reason))
    return entries


def states(jobs: Iterable[str]) -> dict[str, str]:
    """Job -> how it ended (COMPLETED, FAILED, TIMEOUT, CANCELLED, ...), of those that the accounts know.

    Empty where the cluster keeps no accounts, and where they cannot be asked: an ending that is not known is no error.
    """
    asked = sorted(set(jobs))
    found: dict[str, str] = {}
    if shutil.which("sacct") is None:
        return found
    for first in range(0, len(asked), AT_ONCE):
        some = ",".join(asked[first : first + AT_ONCE])
        try:
            answer = call(
                ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={some}"]
            )
        except QueueError:
            return found
        for line in answer.splitlines():
            job, _, state = line.partition("|")
            found[job] = state.split(" ")[0]  # "CANCELLED by 1000"
    return {job: found[job] for job in asked if job in found}


def cancel(jobs: Iterable[str]) -> None:
    """End these jobs; those that are over already stay as they are."""
    _each("scancel", [], sorted(set(jobs)))


def release(jobs: Iterable[str]) -> None:
    """Let held jobs start; those that are over stay as they are."""
    for job in sorted(set(jobs)):
        _each("scontrol", ["release"], [job])


def _each(command: str, words: list[str], jobs: Sequence[str]) -> None:
    for first in range(0, len(jobs), AT_ONCE):
        try:
            call([command, *words, *jobs[first : first + AT_ONCE]])
        except QueueError as error:
            if not any(word in str(error) for word in GONE):
                raise


def setting(name: str) -> str | None:
    """A value of the cluster's configuration, e.g. of MaxArraySize; None where there is no such key."""
    found = re.search(rf"^{re.escape(name)}\s*=\s*(.*?)\s*$", call(["scontrol", "show", "config"]), re.MULTILINE)
    return found.group(1) if found else None


def cancels_preempted(partition: str | None) -> str:
    """The partition, if SLURM ends a job there for a more urgent one and does not queue it again; else "".

    Args:
        partition: None is the cluster's default one.
    """
    if (setting("PreemptType") or "preempt/none") == "preempt/none":
        return ""
    for line in call(["scontrol", "show", "partition", "--oneliner"]).splitlines():
        about = dict(word.split("=", 1) for word in line.split() if "=" in word)
        mine = about.get("PartitionName") == partition if partition else about.get("Default") == "YES"
        if mine and "CANCEL" in about.get("PreemptMode", "").split(","):
            return about.get("PartitionName", "")
    return ""


def _environment() -> dict[str, str]:
    """Without a user's own defaults for these commands: SQUEUE_STATES=RUNNING would hide every job that waits."""
    return {name: value for name, value in os.environ.items() if not name.startswith(DEFAULTS)}


def call(command: list[str]) -> str:
    """What one of SLURM's commands says; QueueError where it fails or is not there."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            env=_environment(),
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise QueueError(
            f"{command[0]}: must be installed to use SLURM, was not found; work on a machine of the cluster."
        ) from None
    except subprocess.TimeoutExpired:
        raise QueueError(
            f"{command[0]}: gave no answer within {PATIENCE_SECONDS} s; try again when SLURM's controller answers."
        ) from None
    if done.returncode:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise QueueError(f"{command[0]}: {said[:400].rstrip('.')}; check SLURM, then start the command again.")
    return done.stdout
