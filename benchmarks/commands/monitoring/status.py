"""`robustft status`: counts, progress, time to go, and why runs failed, for a person or as JSON."""

import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ...executors.run_states import OPEN, STATES, Choice, Queue, Seen, choose, slurm, survey
from ...executors.slurm.client import NEVER
from ...host.printed import counted
from ...host.redaction import discreet
from ...run_folder.folder import last_lines
from ...run_folder.lease import Observer

SCHEMA = 1
LISTED = 20
"""At most this many runs of a state are listed one by one; `--json` has them all."""
REASONS = 10
LINES = 3
"""The end of a failed run's log."""
BY_SLURM = re.compile(r"(slurmstepd|srun)\S*: error: ")
"""Lines of a job's output that are shown: what a shell or a program prints before our code may be anybody's secret."""

WAITS = {
    NEVER: "never starts, since what it waits for ended otherwise; `robustft retry` or the same sweep again "
    "submits it anew, `robustft cancel` ends it",
    "JobHeldUser": "held by you, or by a submission that was cut short; the same command again, or `scontrol release`, "
    "lets it go",
    "JobHeldAdmin": "held by an administrator, or by SLURM when a node failed; ask, or try `scontrol release`",
    "launch failed requeued held": "SLURM could not start it, and holds it; `scontrol release` tries again",
    "BadConstraints": "no node is as the profile asks; `robustft cancel`, correct the profile, submit again",
    "ReqNodeNotAvail": "the nodes that it could have are down or reserved; it waits until they are back",
    "PartitionTimeLimit": "asks for more time than its partition allows; `robustft cancel`, lower `time`, submit again",
    "PartitionNodeLimit": "asks for more nodes than its partition allows; `robustft cancel`, lower them, submit again",
}
"""What to know of a job that waits: how SLURM's reason starts, and what then helps. The others end by themselves."""


def status(
    console: Console,
    runs: Path,
    benchmark: str | None,
    queue: Queue = slurm,
    as_json: bool = False,
    watch: float | None = None,
) -> int:
    """Print what has become of each planned run; always 0.

    Args:
        as_json: one JSON object on stdout, see `report`.
        watch: seconds between two looks, until nothing can change any more; None looks once.
    """
    observer = Observer()  # one for all looks: it learns which heartbeats of other machines stand still

    def look() -> list[Seen]:
        return choose(survey(runs, observer, queue), runs, Choice(benchmark))

    if as_json:
        print(json.dumps(report(look()), indent=1))
    elif watch is None:
        for part in picture(look(), runs):
            console.print(part, markup=False, soft_wrap=not isinstance(part, Table))
    else:
        _watch(console, look, runs, watch)
    return 0


def _watch(console: Console, look: Callable[[], list[Seen]], runs: Path, seconds: float) -> None:
    with Live(console=console, auto_refresh=False) as live:
        while True:
            found = look()
            parts = [part if isinstance(part, Table) else Text(part) for part in picture(found, runs)]
            live.update(Group(*parts), refresh=True)
            if not any(seen.state in ("running", "submitted", "planned") for seen in found):
                return
            time.sleep(seconds)


def report(found: list[Seen]) -> dict[str, Any]:
    """The status as JSON values.

    `schema` 1: `counts` (every state of survey.STATES -> runs), `eta_seconds` (null where nothing can be said), and
    `runs`, each with `run` (its folder below the root), benchmark, method, backbone, run_id, state, step, total,
    wall_seconds, restarts (attempts in a row without progress), job, reason (of failed and vanished runs), `waits`
    (SLURM's word for what the job of a submitted run waits for: Priority, Resources, Dependency, ...), `log`, the last
    lines of a failed run's log, with what SLURM said of its job, and `output`, the file of that job's output
    below the root. Later versions only add keys, or raise `schema`.
    """
    counts = Counter(seen.state for seen in found)
    return {
        "schema": SCHEMA,
        "counts": {state: counts[state] for state in STATES},
        "eta_seconds": eta_seconds(found),
        "runs": [_entry(seen) for seen in found],
    }


def _entry(seen: Seen) -> dict[str, Any]:
    benchmark, method, backbone, name = seen.parts
    log, output = _ending(seen) if seen.state in ("failed", "vanished") else ([], None)
    return {
        "run": f"{benchmark}/{method}/{backbone}/{name}",
        "benchmark": benchmark,
        "method": method,
        "backbone": backbone,
        "run_id": name.rpartition("-")[2],
        "state": seen.state,
        "step": seen.status.get("step", 0),
        "total": seen.status.get("total"),
        "wall_seconds": seen.status.get("wall_seconds"),
        "restarts": seen.restarts,
        "job": seen.job,
        "reason": discreet(seen.reason) or None,
        "waits": seen.waits or None,
        "log": log,
        "output": output,
    }


def _ending(seen: Seen) -> tuple[list[str], str | None]:
    """The last lines of a run's log with SLURM's own of its job, and the file of the job's output below the root."""
    lines, output = last_lines(seen.folder.log, LINES), None
    root = seen.folder.path.parents[3]
    found = sorted(root.glob(f".slurm/*/{seen.job}_0_log.out")) if seen.job else []
    if found:
        output = str(found[-1].relative_to(root))
        lines += [line for line in last_lines(found[-1], 20) if BY_SLURM.match(line)][-LINES:]
    return [discreet(line) for line in lines], output


def picture(found: list[Seen], runs: Path) -> Iterator[Table | str]:
    """A table of counts, then lines: the whole, what is going on, and what went wrong."""
    if not found:
        yield f"no runs below {runs}"
        return
    groups: dict[tuple[str, ...], Counter[str]] = {}
    for seen in found:
        groups.setdefault(tuple(seen.parts[:3]), Counter())[seen.state] += 1
    shown = [state for state in STATES if any(counter[state] for counter in groups.values())]
    table = Table("benchmark", "method", "backbone", *shown)
    for key, counter in groups.items():
        table.add_row(*key, *(str(counter[state] or "") for state in shown))
    yield table
    done, eta = sum(seen.state == "done" for seen in found), eta_seconds(found)
    to_go = f", about {duration(eta)} to go" if eta else ""
    yield f"{done} of {counted(len(found), 'run')} done ({100 * done // len(found)} %){to_go}"
    for state in ("running", "submitted", "checkpointed"):
        yield from _listed(state, [seen for seen in found if seen.state == state])
    yield from _waits(found)
    for state in ("failed", "vanished"):
        yield from _reasons(state, [seen for seen in found if seen.state == state], runs)


def _listed(state: str, found: list[Seen]) -> Iterator[str]:
    for seen in found[:LISTED]:
        at = f" at step {seen.status.get('step', 0)} of {seen.status.get('total', '?')}"
        step = at if state != "submitted" else ""
        job = f" (job {seen.job}{', ' + seen.waits if seen.waits else ''})" if seen.job else ""
        again = f", started {seen.restarts} times without progress" if seen.restarts else ""
        yield f"{state}: {seen.title}{job}{step}{_age(seen.status)}{again}"
    if len(found) > LISTED:
        yield f"{state}: and {len(found) - LISTED} more; `robustft status --json` lists them all"


def _waits(found: list[Seen]) -> Iterator[str]:
    """How many runs wait for what, in SLURM's words, and what to do where waiting does not help."""
    counts = Counter(seen.waits for seen in found if seen.waits)
    if counts:
        yield f"waiting: {', '.join(f'{count} for {reason}' for reason, count in counts.most_common())}"
    for reason in counts:
        for known, meaning in WAITS.items():
            if reason.startswith(known):
                yield f"  {known}: {meaning}"


def _reasons(state: str, found: list[Seen], runs: Path) -> Iterator[str]:
    """One line for all runs that ended for the same reason."""
    alike: dict[str, list[Seen]] = {}
    for seen in found:
        alike.setdefault(seen.reason, []).append(seen)
    for reason, members in list(alike.items())[:REASONS]:
        first = members[0]
        others = f" (and {len(members) - 1} more)" if len(members) > 1 else ""
        yield f"{state}: {first.title}{others} at step {first.status.get('step', 0)}: {discreet(reason)}"
        lines, output = _ending(first)
        yield from (f"  | {line}" for line in lines)
        if output is not None:
            yield f"  its job's output: {output} below {runs}"
    if len(alike) > REASONS:
        yield f"{state}: for {len(alike) - REASONS} other reasons; `robustft status --json` lists them all"


def _age(status: dict[str, Any]) -> str:
    beat = status.get("heartbeat")
    return f", {duration(max(0.0, time.time() - beat))} ago" if beat else ""


def duration(seconds: float) -> str:
    """Two units at most: 42 s, 3 min, 2 h 05 min, 3 d 4 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def eta_seconds(found: list[Seen]) -> float | None:
    """Seconds until the last run is done if as many run side by side as do now; None where nothing runs.

    A run is expected to take what finished runs of the same method and backbone took, or what a running one of them
    will have taken at its pace; where there is neither, the mean of all.
    """
    running = [seen for seen in found if seen.state == "running"]
    if not running:
        return None
    known: dict[tuple[str, ...], list[float]] = {}
    for seen in found:
        seconds = _whole(seen)
        if seconds is not None:
            known.setdefault(tuple(seen.parts[:3]), []).append(seconds)
    if not known:
        return None
    means = {key: statistics.fmean(values) for key, values in known.items()}
    overall = statistics.fmean(means.values())
    left = 0.0
    for seen in found:
        if seen.state in OPEN:
            whole = means.get(tuple(seen.parts[:3]), overall)
            left += max(0.0, whole - (seen.status.get("wall_seconds") or 0.0))
    return left / len(running)


def _whole(seen: Seen) -> float | None:
    """Seconds that a run took, or will have taken; None where it cannot be said yet."""
    seconds, step, total = (seen.status.get(key) for key in ("wall_seconds", "step", "total"))
    if not seconds:
        return None
    if seen.state == "done":
        return seconds
    return seconds * total / step if seen.state == "running" and step and total else None
