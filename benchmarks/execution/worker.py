"""The process that works: `python -m robustft.benchmarks.execution.worker [folder ...]`, or run folders as lines on
stdin.

It claims the lease of a run folder, makes the run, and says what became of it in one JSON line: on stdout, or to the
launcher that started it, on a pipe in which nobody else prints.
While it works, everything that is printed goes to the run's log. Asked to stop (SIGTERM, SIGINT, or the death
of the launcher), it saves a checkpoint at the next step boundary and leaves. SIGKILL at any time loses at
most the time since the last checkpoint.
"""

import contextlib
import errno
import json
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from ...results.records.records import OutputError
from ..errors import UserError, is_mistake
from ..host import environment
from ..host.redaction import Discreet, discreet
from ..run_folder.folder import RunFolder
from ..run_folder.lease import Lease, LeaseLost, Observer, claim, heartbeat, tidy
from ..run_folder.plan import Plan, make_known
from .process_group import FAREWELL_SECONDS, Team

# The names that results/records/atomic.py and methods/training/checkpoints.py give to a file that is not finished.
TEMPORARY = re.compile(r"\..+\.\d+-[0-9a-f]{32}|.+\.\d+-[0-9a-f]{8}\.tmp")
STORAGE_ERRORS = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EIO,
)


class StopFlag:
    """Set by a signal, or by the death of the process that started this one; asked at step boundaries."""

    def __init__(self, parent: int | None) -> None:
        self.parent, self.asked = parent, False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, *_: Any) -> None:
        self.asked = True

    def __call__(self) -> bool:
        return self.asked or (self.parent is not None and os.getppid() != self.parent)


class RunStop:
    """Whether this run must stop: the process was asked to, or `robustft cancel` asked for this run alone."""

    def __init__(self, folder: RunFolder, should_stop: Callable[[], bool]) -> None:
        self.folder, self.should_stop = folder, should_stop
        self.cancelled, self.next_look = False, 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.cancelled and now >= self.next_look:  # a look at the disk once a second, not once a step
            self.cancelled, self.next_look = self.folder.cancelled(), now + 1.0
        return self.cancelled or self.should_stop()


def forget(error: Exception) -> None:
    """The default of `on_error`: the log has its traceback, and the outcome its reason."""


def work(
    path: Path,
    options: Any,
    should_stop: Callable[[], bool],
    dead: str | None = None,
    on_error: Callable[[Exception], None] = forget,
) -> dict[str, Any]:
    """Make one run, or say why not.

    Args:
        dead: as `claim`.
        on_error: called with what ended the attempt, where that is more than a mistake in the plan.

    Returns:
        `event`: done, busy (another process has it), interrupted (goes on next time), cancelled, or failed with
        `reason`, and with `mistake` true where the reason is one that only the user can change (a full disk,
        a stale plan).
    """
    folder = RunFolder(path)
    try:
        lease = claim(folder, Observer(), dead)
    except (OSError, OutputError) as error:
        if folder.done():  # another process finished it, and tidied up, during the claim
            return {"event": "done", "folder": discreet(str(path))}
        return _failed(folder, _storage(error, folder), True)
    if lease is None:
        return {"event": "busy", "folder": discreet(str(path))}
    try:
        with _logged(folder.log), heartbeat(lease):
            return _work(folder, lease, options, should_stop, on_error)
    except OSError as error:  # the log itself cannot be written
        return _failed(folder, _storage(error, folder), True)
    finally:
        lease.release()
        with contextlib.suppress(OSError, UserError):
            tidy(folder, Observer())


def _work(
    folder: RunFolder,
    lease: Lease,
    options: Any,
    should_stop: Callable[[], bool],
    on_error: Callable[[Exception], None],
) -> dict[str, Any]:
    from ...methods.training.trainer import Interrupted
    from .predict import Stopped
    from .run import Attempt

    try:
        if folder.done():  # finished by someone else between the plan and the claim
            return {"event": "done", "folder": discreet(str(folder.path))}
        if folder.cancelled():
            return {"event": "cancelled", "folder": discreet(str(folder.path))}
        _sweep_out(folder)
        stop = RunStop(folder, should_stop)
        plan = Plan.read(folder)
        make_known(plan, folder)
        attempt = Attempt(folder, lease, plan, options, stop)
    except (UserError, OutputError) as error:
        return _failed(folder, str(error), True, lease)
    _note(f"start {attempt.spec.title}, id {attempt.spec.run_id}, fence {lease.holder.fence}")
    try:
        attempt.carry_out()
        attempt.tell("done", force=True)
    except (Interrupted, Stopped):
        if stop.cancelled:
            return _cancelled(folder, attempt)
        _note("asked to stop; the next attempt goes on from the last checkpoint")
        with contextlib.suppress(OSError, OutputError, LeaseLost):
            attempt.tell("checkpointed", force=True)
        return {"event": "interrupted", "folder": discreet(str(folder.path))}
    except LeaseLost:
        return {"event": "busy", "folder": discreet(str(folder.path))}
    except Exception as error:
        full = error if isinstance(error, OSError) and error.errno in STORAGE_ERRORS else None
        mistake = full is not None or is_mistake(error)
        if not mistake:  # whose sentence says all: where in our code it was found helps nobody
            traceback.print_exc()
        reason = _storage(full, folder) if full is not None else _reason(error)
        on_error(error)
        return _failed(folder, reason, mistake, lease, attempt)
    _note(f"done in {attempt.wall_seconds():.1f} s")
    return {"event": "done", "folder": discreet(str(folder.path))}


def _cancelled(folder: RunFolder, attempt: Any) -> dict[str, Any]:
    _note("cancelled; `robustft retry --cancelled` or the sweep itself goes on from the last checkpoint")
    with contextlib.suppress(OSError, OutputError, LeaseLost):
        attempt.tell("cancelled", force=True)
    return {"event": "cancelled", "folder": discreet(str(folder.path))}


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if is_mistake(error) else f"{type(error).__name__}: {text[:300]}"


def _storage(error: OSError | OutputError, folder: RunFolder) -> str:
    if isinstance(error, OutputError):
        return str(error)
    place = error.filename or folder.path
    return f"{place}: must be writable, got '{error.strerror}'; free space or choose another folder with --runs."


def _failed(
    folder: RunFolder, reason: str, mistake: bool, lease: Lease | None = None, attempt: Any = None
) -> dict[str, Any]:
    reason = discreet(reason)
    _note(f"failed: {reason}")
    more = {"mistake": True} if mistake else {}  # starting it again would not help
    with contextlib.suppress(OSError, OutputError, LeaseLost):
        if attempt is not None:
            attempt.tell("failed", force=True, reason=reason, **more)
        elif lease is not None:
            folder.write_state(guard=lease.check, state="failed", reason=reason, **more)
    return {"event": "failed", "folder": discreet(str(folder.path)), "reason": reason, "mistake": mistake}


def _sweep_out(folder: RunFolder) -> None:
    """Remove temporary files of a process that was killed while it wrote."""
    for path in [*folder.path.glob(".*"), *folder.path.glob("*/.*"), *folder.path.glob("*/*.tmp")]:
        if TEMPORARY.fullmatch(path.name) and path.parent.name != "lease":
            path.unlink(missing_ok=True)


def _note(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Send everything that this process and its libraries print to the run's log, which is UTF-8 everywhere."""
    streams = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "reconfigure")]
    before = [(stream.encoding, stream.errors) for stream in streams]
    for stream in streams:  # which flushes it
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    kept = os.dup(1), os.dup(2)
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        with contextlib.ExitStack() as stack:
            out, err = (_to_log(stream, number, stack) for number, stream in ((1, sys.stdout), (2, sys.stderr)))
            with contextlib.redirect_stdout(Discreet(out)), contextlib.redirect_stderr(Discreet(err)):
                yield
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for number, copy in enumerate(kept, start=1):
            os.dup2(copy, number)
            os.close(copy)
        os.close(log)
        with contextlib.suppress(OSError):
            for stream, (encoding, errors) in zip(streams, before, strict=True):
                stream.reconfigure(encoding=encoding, errors=errors)


def _to_log(stream: Any, number: int, stack: contextlib.ExitStack) -> Any:
    """The process's own stream, whose file now is the log; one of its own where a notebook has put another there."""
    try:
        if stream.fileno() == number:
            return stream
    except (AttributeError, OSError, ValueError):  # no file, or none any more
        pass
    return stack.enter_context(open(os.dup(number), "w", encoding="utf-8", errors="backslashreplace", buffering=1))


def requests(folders: tuple[str, ...]) -> Iterator[tuple[Path, str | None]]:
    """Run folders from the command line, or JSON lines {"folder", "dead"} from stdin until its end."""
    for folder in folders:
        yield Path(folder), None
    if folders:
        return
    for line in sys.stdin:
        request = json.loads(line)
        yield Path(request["folder"]), request.get("dead")


def follow(team: Team, options: Any, should_stop: Callable[[], bool]) -> None:
    """What a follower does from start to end."""
    from ...methods.training.trainer import Interrupted
    from .predict import Stopped
    from .run import Attempt

    def make(part: str, path: Path) -> None:
        folder = RunFolder(path)
        try:
            plan = Plan.read(folder)
            make_known(plan, folder)
            Attempt(folder, None, plan, options, should_stop).follow(part)
        except (Interrupted, Stopped):
            return  # the leader has saved, and decides what comes next
        except Exception:
            traceback.print_exc()
            time.sleep(FAREWELL_SECONDS)  # a leader that failed for the same reason says so before all are ended
            os._exit(1)

    team.follow(make)


@click.command()
@click.argument("folders", nargs=-1)
@click.option("--device", default="cpu")
@click.option("--checkpoint-seconds", default=30.0)
@click.option("--micro-batch", type=click.IntRange(min=1), default=None, help="Images of a forward pass, at most.")
@click.option("--workers", type=click.IntRange(min=0), default=None, help="Processes that load images.")
@click.option("--checkpoint-activations", is_flag=True, help="Compute blocks again on the way back.")
@click.option("--parent", type=int, default=None, help="Stop when this process is no longer the parent.")
@click.option("--answers", type=int, default=None, help="The open file that answers go to; stdout by default.")
def main(
    folders: tuple[str, ...],
    device: str,
    checkpoint_seconds: float,
    micro_batch: int | None,
    workers: int | None,
    checkpoint_activations: bool,
    parent: int | None,
    answers: int | None,
) -> None:
    """Make runs, one after the other."""
    environment.ask_no_network()
    should_stop = StopFlag(parent)
    from . import process_group
    from .run import Options

    # torchrun starts several of these, which make each run together; a launcher's children work alone.
    together = process_group.Team(device) if parent is None and process_group.size() > 1 else None
    where = together.device if together else device
    options = Options(where, checkpoint_seconds, micro_batch, together, workers, checkpoint_activations)
    if together is not None and together.rank:
        follow(together, options, should_stop)
        return
    listener = sys.stdout if answers is None else os.fdopen(answers, "w", encoding="utf-8")
    failed = False
    for path, dead in requests(folders):
        outcome = work(path, options, should_stop, dead)
        failed = failed or outcome["event"] == "failed"
        try:
            print(json.dumps(outcome), file=listener, flush=True)
        except OSError:  # nobody listens any more
            break
        if should_stop() or (failed and together is not None):
            break
    if together is not None and not failed:
        together.dismiss()
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
