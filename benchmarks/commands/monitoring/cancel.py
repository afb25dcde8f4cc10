"""`robustft cancel`: running runs save a checkpoint and leave, others are not started.

The wish is a file in the run folder, looked at by whoever is about to start the run or works on it: so it reaches
every machine that shares the disk, and that run alone where a process makes several.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ...errors import UserError
from ...executors.run_states import OPEN, Choice, Queue, Seen, choose, slurm, survey
from ...executors.slurm.client import cancel as end_jobs
from ...host.printed import counted
from ...run_folder.lease import Observer


def cancel(
    console: Console,
    runs: Path,
    choice: Choice,
    everything: bool = False,
    queue: Queue = slurm,
    scancel: Callable[[list[str]], None] = end_jobs,
) -> int:
    """End the chosen runs that are not done or failed; always 0.

    Args:
        everything: must be given where nothing is chosen.
        scancel: ends queued jobs by their ids.

    Raises:
        UserError: nothing was chosen, or a name that no run has.
    """
    if choice == Choice() and not everything:
        raise UserError("cancel: must be told which runs, got none; name a benchmark, --method, --run, or give --all.")
    found = survey(runs, Observer(), queue)
    ended = [seen for seen in choose(found, runs, choice) if seen.state in OPEN]
    for seen in ended:
        seen.folder.ask_to_cancel()
    jobs = waiting_jobs(found, ended)
    if jobs:
        scancel(jobs)
    counts = Counter("running" if seen.state == "running" else "cancelled" for seen in ended)
    console.print(f"{counted(counts['cancelled'], 'run')} cancelled")
    if counts["running"]:
        console.print(f"{counts['running']} running: each saves a checkpoint at its next step and leaves")
    return 0


def waiting_jobs(found: list[Seen], ended: list[Seen]) -> list[str]:
    """Jobs to take out of the queue: none of their runs is running, done runs aside all of them were cancelled.

    A job with a running run ends by itself when that run has saved its checkpoint: the queue would give it less time.
    """
    ids = {seen.run_id for seen in ended}
    kept = {seen.job for seen in found if seen.state in OPEN and (seen.state == "running" or seen.run_id not in ids)}
    return sorted({seen.job for seen in ended if seen.job and seen.state == "submitted"} - kept)
