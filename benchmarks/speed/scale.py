"""How the harness itself scales: `python -m robustft.benchmarks.speed.scale [--runs N --records N --processes N]`.

A sweep of 1,000 runs is planned, 10,000 finished runs lie beside it, and many processes write and gather at once. The
targets are for an idle laptop: expand, plan and submit 10 s, status 1 s, gather 3 s, a whole board 30 s; CPU seconds
are given beside those of the clock, which also wait for the disk and for other programs. status, gather and the board
are processes of their own, start and imports included, so that their memory is theirs alone. The records are as large
as records get, with different numbers; a tenth of them is gathered too, for the memory must not grow with them. sbatch
is a script that only counts. Exit code 1 where a record was lost or torn, or a job not submitted.
"""

import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ...results.records import records, run_id
from ..run_folder.folder import RunFolder
from ..run_folder.plan import Plan

METHODS = ("zero_shot", "ft", "flyp", "ema", "tracer", "lp_ft", "wise_ft")
SHARED = "shared"
"""What the run is called that all processes write."""
STATES = ("planned", "submitted", "running", "checkpointed", "failed")
SBATCH = """#!/bin/sh
echo x >> "$0.calls"
echo "Submitted batch job $(wc -l < "$0.calls")"
"""


@contextmanager
def timed(what: str, target: float | None = None) -> Iterator[None]:
    """Print the seconds that a block took."""
    clock, cpu = time.perf_counter(), time.process_time()
    yield
    clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    aim = f", target {target:g} s" if target else ""
    print(f"{what}: {clock:.2f} s, {cpu:.2f} s of them CPU{aim}", flush=True)


def template() -> Mapping[str, Any]:
    """A real record, to be varied."""
    return max(records.gather_reference("digits"), key=lambda record: len(json.dumps(record)))


def finished(runs: Path, record: Mapping[str, Any], number: int) -> RunFolder:
    """The folder of the finished run of that number, without its record."""
    spec = _spec(record, METHODS[number % len(METHODS)], number)
    run = f"seed{number}-{run_id.run_id(spec)}"
    path = runs / record["benchmark"] / spec["method"] / record["backbone"] / run
    path.mkdir(parents=True)
    state = {"state": "done", "step": 500, "total": 500, "wall_seconds": 60.0, "restarts": 0}
    (path / "state.json").write_text(json.dumps(state))
    (path / "spec.json").write_text("{}")
    return RunFolder(path)


def record_of(folder: RunFolder, record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a folder that `finished` made, with numbers of its own."""
    seed = folder.path.name.removeprefix("seed").partition("-")[0]
    factor = 1 - int(seed) % 9973 / 10**6
    sets = {name: _scaled(metrics, factor) for name, metrics in record["sets"].items()}
    varied = {**record, "sets": sets, "summary": {**record["summary"], **records.summarise(sets)}}
    if "path" in record:
        points = [
            {**point, "sets": {name: _scaled(metrics, factor) for name, metrics in point["sets"].items()}}
            for point in record["path"]["points"]
        ]
        varied["path"] = {**record["path"], "points": points}
    return _named(varied, folder.path.parts[-3], int(seed))


def _spec(record: Mapping[str, Any], method: str, seed: int) -> dict[str, Any]:
    return {**record["spec"], "method": method, "seed": seed}


def _named(record: Mapping[str, Any], method: str, seed: int) -> dict[str, Any]:
    spec = _spec(record, method, seed)
    return {**record, "spec": spec, "run_id": run_id.run_id(spec), "method": method, "seed": seed}


def _scaled(metrics: Mapping[str, Any], factor: float) -> dict[str, Any]:
    return {key: value * factor if isinstance(value, float) else value for key, value in metrics.items()}


def plan(runs: Path, count: int, submit: Callable[[list[RunFolder]], None]) -> None:
    """A sweep of about `count` runs, expanded and planned on disk as `robustft sweep` does, then submitted."""
    from ..commands import sweep
    from ..planning.request import Request

    benchmark = sweep.load("digits")
    with timed("expand, plan on disk and submit", 10):
        # Of zero-shot there is one run a backbone, whatever the seeds.
        seeds = tuple(range(count // ((len(METHODS) - 1) * len(benchmark.suite.backbones)) + 1))
        planned = sweep.expand(benchmark, Request(METHODS, seeds=seeds))
        folders = []
        for run in planned:
            folder = RunFolder.of(runs, run.spec)
            Plan(run.spec, benchmark.suite.dataset, run.sources, {"rules": []}).write(folder)
            folders.append(folder)
        submit(folders)
    for number, folder in enumerate(folders):
        state = STATES[number % len(STATES)]
        folder.write_state(state=state, step=number % 500, total=500, reason="it broke", wall_seconds=10.0)
    print(f"{len(folders)} runs of {len(METHODS)} methods")


MEASURED = """
import resource, sys, time
began = time.perf_counter()
try:
    {code}
finally:
    took, used = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF)
    peak = int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])  # maxrss would be its parent's
    cpu = used.ru_utime + used.ru_stime
    print(f"{{took:.2f}} s, {{cpu:.2f}} s of them CPU, {{peak / 1024:.0f}} MB", file=sys.stderr)
"""
STATUS = "from robustft.benchmarks.cli import main; main(['status', '--json', '--runs', {runs!r}])"
GATHER = "from robustft.results.records.records import gather; print(sum(1 for _ in gather({runs!r})))"

BOARD = "from robustft.benchmarks.cli import main; main(['leaderboard', '--runs', {runs!r}, '--results', {results!r}])"


def alone(what: str, code: str, target: float) -> str:
    """Print what a piece of code takes in a process of its own, twice; what it printed itself."""
    for attempt in ("first", "second"):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED.format(code=code)], capture_output=True, text=True, check=True
        )
        print(f"{what}, {attempt} time: {done.stderr.splitlines()[-1]}, target {target:g} s", flush=True)
    return done.stdout


def finish(runs: Path, numbers: range, record: Mapping[str, Any]) -> None:
    """Finished runs of these numbers, with their records."""
    for number in numbers:
        folder = finished(runs, record, number)
        folder.record.write_bytes(records.record_json(folder.record, record_of(folder, record)))


def work(runs: Path, record: Mapping[str, Any], number: int, each: int, failures: Any) -> None:
    """Publish records, half of them under the names of others too, and gather in between: a reader sees whole ones."""
    shared = runs / "shared" / "ft" / "tiny" / "seed0"
    for turn in range(each):
        folder = finished(runs, record, number * each + turn)
        won = records.publish_record(folder.path, record_of(folder, record))
        records.publish_record(shared, _named(record, SHARED, number))
        if not won:
            failures.put(f"{folder.path.name}: somebody else wrote it")
        if turn % 4 == 0:
            complaints: list[str] = []
            seen = list(records.gather(runs, complaints.append))
            own = sum(entry["seed"] // each == number for entry in seen if entry["method"] != SHARED)
            if complaints or own < turn + 1:
                failures.put(f"process {number}: saw {own} of its {turn + 1} records, {complaints[:1]}")


def storm(runs: Path, processes: int, each: int, record: Mapping[str, Any] | None = None) -> list[str]:
    """Many processes write and gather at once; what went wrong, one sentence each."""
    record = record or template()
    context = multiprocessing.get_context("fork")
    failures = context.Queue()
    team = [context.Process(target=work, args=(runs, record, number, each, failures)) for number in range(processes)]
    for process in team:
        process.start()
    found: list[str] = []
    while any(process.is_alive() for process in team) or not failures.empty():
        while not failures.empty():
            found.append(failures.get())
        time.sleep(0.05)
    found += [f"process {number} ended with {p.exitcode}" for number, p in enumerate(team) if p.exitcode]
    gathered = sum(1 for _ in records.gather(runs, found.append))
    if gathered != processes * each + 1:
        found.append(f"{gathered} records, {processes * each + 1} were written")
    return found


@contextmanager
def counting(place: Path) -> Iterator[Path]:
    """SLURM's commands that do nothing, first in PATH; the file to which sbatch adds a line a call."""
    place.mkdir()
    for name in ("sbatch", "squeue", "scontrol", "scancel", "srun"):
        (place / name).write_text(SBATCH if name == "sbatch" else "#!/bin/sh\n")
        (place / name).chmod(0o700)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{place}{os.pathsep}{before}"
    try:
        yield place / "sbatch.calls"
    finally:
        os.environ["PATH"] = before


def submit(folders: list[RunFolder]) -> None:
    """Submit as `robustft sweep --executor slurm` does; SystemExit where a run is left out."""
    from ..executors.slurm.arrays import Cluster
    from ..executors.slurm.profile import Profile
    from ..executors.slurm.submission import Submitter

    submitter = Submitter(folders[0].path.parents[3], Cluster(Profile(gpus=0, time="1h")), "cpu", 600.0, print)
    outcome = submitter.submit(folders)
    if len(outcome.submitted) != len(folders):
        raise SystemExit(f"submitted {len(outcome.submitted)} of {len(folders)} runs")
    print(f"  {len(outcome.submitted)} jobs in {len(outcome.arrays)} arrays")


@click.command()
@click.option("--runs", "count", default=1000, show_default=True, help="Runs of the sweep.")
@click.option("--records", "finished_count", default=10_000, show_default=True, help="Finished runs beside it.")
@click.option("--processes", default=200, show_default=True, help="That write and gather at once.")
def main(count: int, finished_count: int, processes: int) -> None:
    """Time the harness at scale, below a temporary folder."""
    with tempfile.TemporaryDirectory() as place:
        runs = Path(place) / "runs"
        with counting(Path(place) / "bin") as calls:
            plan(runs, count, submit)
            print(f"  {len(calls.read_text().splitlines())} calls of sbatch")
        record = template()
        some = finished_count // 10
        finish(runs, range(10**6, 10**6 + some), record)
        alone(f"gather of {some} records", GATHER.format(runs=str(runs)), 1)
        finish(runs, range(10**6 + some, 10**6 + finished_count), record)
        told_of = json.loads(alone(f"status of {count + finished_count} runs", STATUS.format(runs=str(runs)), 1))
        if told_of["counts"]["done"] != finished_count:
            raise SystemExit(f"status counts {told_of['counts']['done']} of {finished_count} finished runs")
        found = int(alone(f"gather of {finished_count} records", GATHER.format(runs=str(runs)), 3))
        if found != finished_count:
            raise SystemExit(f"gathered {found} of {finished_count} records")
        alone("their board", BOARD.format(runs=str(runs), results=str(Path(place) / "results")), 30)
        with timed(f"{processes} processes write and gather at once"):
            wrong = storm(Path(place) / "storm", processes, each=5, record=record)
    print("\n".join(wrong[:10]) or "nothing was lost or torn")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
