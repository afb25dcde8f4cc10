"""The lease of a run folder, which lets one process at a time work in it.

The lease is the folder `lease/` with its owner inside, made elsewhere and renamed into place: a rename onto a
folder that is not empty fails, so there is one winner, and no moment at which a lease exists without an
owner. Taking over a dead lease renames it to a tombstone named after that very lease; as the tombstone stays,
a slow second taker, who still believes in the old lease, cannot bury the new one. The fencing number grows
with each lease; `Lease.check` is called before each replace of a file, so that a process that lost its lease
(stopped for long, then woken) writes nothing.
"""

import contextlib
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...results.records.atomic import write_json_atomic
from ..host import environment
from .folder import RunFolder, read_json

HEARTBEAT_SECONDS = 10.0


class LeaseLost(RuntimeError):
    """Another process has taken this run over; whoever sees this must stop without writing."""


@dataclass(frozen=True)
class Process:
    """Who holds a lease: enough to tell, on the same machine, whether that very process still lives."""

    host: str
    boot: str
    pid: int
    start: str
    """Start time of the process in clock ticks since boot: a pid may be given out again, the pair may not."""

    @classmethod
    def current(cls) -> "Process":
        """This process."""
        return cls(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()) or "")

    def alive(self) -> bool | None:
        """True or False for a process of this machine and boot; None where only its heartbeat can tell."""
        here = Process.current()
        if self.host != here.host:
            return None
        if self.boot != here.boot:
            # The same host after a reboot has no old process; the same name may be
            # another container.
            return None if self.boot.partition(" ")[0] == here.boot.partition(" ")[0] else False
        return _started(self.pid) == self.start


def _machine() -> str:
    """Boot id and process-id namespace: within this pair, a pid means one process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return "unknown"


def _started(pid: int) -> str | None:
    """Start time of a living process, None for one that is gone or a zombie."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
        try:  # a system without /proc: existence is all there is
            os.kill(pid, 0)
        except OSError:
            return None
        return "unknown"
    except OSError:
        return None
    return None if after_name[0] in "ZX" else after_name[19]


@dataclass(frozen=True)
class Holder:
    """The owner file of a lease."""

    token: str
    fence: int
    process: Process
    job: str | None = None
    """The SLURM job that the process works in, if any."""

    @classmethod
    def read(cls, lease: Path) -> "Holder | None":
        """Who holds this lease, or None where nobody does."""
        content = read_json(lease / "owner.json")
        if content is None or not {"host", "boot", "pid", "start", "token", "fence"} <= content.keys():
            return None
        process = Process(content["host"], content["boot"], content["pid"], content["start"])
        return cls(content["token"], content["fence"], process, content.get("job"))


class Observer:
    """Judges leases of other machines by their heartbeat, on this process's own clock."""

    def __init__(self, interval: float = HEARTBEAT_SECONDS, clock: Any = time.monotonic) -> None:
        self.interval, self.clock = interval, clock
        self.seen: dict[str, tuple[str, float]] = {}

    def holder(self, lease: Path) -> Holder | None:
        """Who holds the lease, alive or dead; None where it is free."""
        return Holder.read(lease)

    def alive(self, lease: Path) -> Holder | None:
        """The holder of a living lease; None where the lease is free or dead."""
        holder = self.holder(lease)
        if holder is None:
            return None
        alive = holder.process.alive()
        if alive is None:
            alive = self._beating(lease, holder.token)
        return holder if alive else None

    def _beating(self, lease: Path, token: str) -> bool:
        """Whether the heartbeat changed within three intervals since this observer first saw its value."""
        try:
            beat = (lease / "beat").read_text()
        except OSError:
            beat = ""
        now = self.clock()
        value, since = self.seen.get(token, (None, now))
        if value != beat:
            self.seen[token] = (beat, now)
            return True
        return now - since < 3 * self.interval


class Lease:
    """The right to work in a run folder; made by `claim`."""

    def __init__(self, folder: RunFolder, holder: Holder) -> None:
        self.folder, self.holder, self._beats = folder, holder, 0

    def check(self) -> None:
        """LeaseLost unless this process still holds the lease: called before each replace of a file."""
        current = Holder.read(self.folder.lease)
        if current is None or current.token != self.holder.token:
            raise LeaseLost(f"{self.folder.path}: the lease is no longer ours (fence {self.holder.fence})")

    def beat(self) -> None:
        """Change the heartbeat, for observers on other machines."""
        self.check()
        self._beats += 1
        (self.folder.lease / "beat").write_text(str(self._beats))

    def release(self) -> None:
        """Give the run folder back. The tombstone stays until a finished run is tidied."""
        try:
            self.check()
            os.rename(self.folder.lease, _tombstone(self.folder, self.holder.token))
        except (LeaseLost, OSError):
            return


def claim(folder: RunFolder, observer: Observer, dead: str | None = None) -> Lease | None:
    """Take the lease of a run folder, over a dead one if need be; None where a living process holds it.

    Args:
        dead: token of a lease that the caller has already watched die (another machine's, by its heartbeat).
    """
    holder = Holder.read(folder.lease)
    if holder is None and folder.lease.exists():
        holder = Holder.read(folder.lease)  # it may have been taken since the first look
        if holder is None and not _bury_damaged(folder):
            return None
    if holder is not None:
        if holder.token != dead and observer.alive(folder.lease) is not None:
            return None
        try:
            os.rename(folder.lease, _tombstone(folder, holder.token))
        except OSError:
            pass  # another taker was first; whoever renames the new lease into place wins
    token = uuid.uuid4().hex
    draft = folder.path / f".lease-{token}"
    draft.mkdir()
    try:
        new = Holder(token, _last_fence(folder) + 1, Process.current(), environment.job())
        _write_owner(draft, new)
        try:
            os.rename(draft, folder.lease)
        except OSError:
            if not folder.lease.exists():  # a full or read-only disk, not a lost race
                raise
            return None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    lease = Lease(folder, new)
    last = _last_fence(folder)
    if last >= new.fence:  # someone else held and gave back the lease since the number was drawn
        lease.holder = Holder(token, last + 1, new.process, new.job)
        _write_owner(folder.lease, lease.holder)
    return lease


def _bury_damaged(folder: RunFolder) -> bool:
    """Move away a lease without a readable owner; a sound lease is made with its owner file inside.

    False where it turns out to be somebody's after all, taken in between; it is then put back.
    """
    tombstone = _tombstone(folder, uuid.uuid4().hex)
    with contextlib.suppress(OSError):
        os.rename(folder.lease, tombstone)
        if Holder.read(tombstone) is not None:
            os.rename(tombstone, folder.lease)
            return False
    return True


def _write_owner(lease: Path, holder: Holder) -> None:
    write_json_atomic(
        lease / "owner.json",
        {"token": holder.token, "fence": holder.fence, **vars(holder.process), "job": holder.job},
    )


def _tombstone(folder: RunFolder, token: str) -> Path:
    return folder.path / f".lease-dead-{token}"


def _last_fence(folder: RunFolder) -> int:
    """The highest fencing number of a lease that was given back or taken over."""
    fences = [Holder.read(path) for path in folder.path.glob(".lease-dead-*")]
    return max((holder.fence for holder in fences if holder), default=0)


def tidy(folder: RunFolder, observer: Observer) -> None:
    """Remove what a finished run no longer needs: leases that nobody holds, and of its tensors what is not kept."""
    if not folder.done() or observer.alive(folder.lease) is not None:
        return
    keeps = folder.keeps()
    if keeps != "all":
        shutil.rmtree(folder.checkpoints, ignore_errors=True)
    if keeps == "none":
        folder.weights.unlink(missing_ok=True)
        folder.text_weights.unlink(missing_ok=True)
    shutil.rmtree(folder.lease, ignore_errors=True)
    folder.forget_cancel()  # it came too late
    for path in folder.path.glob(".lease-*"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def heartbeat(lease: Lease, interval: float = HEARTBEAT_SECONDS) -> Iterator[None]:
    """Change the lease's heartbeat from a thread of its own, for observers on other machines."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(interval):
            try:
                lease.beat()
            except LeaseLost:
                return  # the run itself finds out before its next write
            except OSError:
                continue

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
