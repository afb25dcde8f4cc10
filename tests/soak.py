"""Many cheap runs under random faults: `make soak`, or `python tests/soak.py --runs 100 --kills 50 [--seed N]`.

The runs are made three times: undisturbed; by launchers of this machine that are killed, with their workers, at random
moments; and on a SLURM cluster of one node, where one can be brought up, whose jobs and daemons are. Afterwards each
run must be there once and equal its undisturbed twin. The seed of the faults is printed and repeats their order; the
moment at which each finds a run is the machine's. Exit code 1 where a run was lost, doubled or is different.
"""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parent / "kits"))
from cluster import Cluster, missing
from runs_kit import essence, folders, program, write_suite

from robustft.benchmarks.executors.slurm import client as queue
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import Holder, Observer

METHODS = ("ft", "flyp", "ema", "tracer", "wise_ft")
RECIPE = {"steps": 20, "batch_size": 8, "lr": 3e-4, "weight_decay": 0.1}
SPAN = 8.0
"""A fault comes at a random moment of so many seconds after a run was begun."""
PATIENCE = 900
WAITS = ("None", "Priority", "Resources", "Dependency", "JobHeldUser", "JobArrayTaskLimit")
PROFILE = "partition: low\ngpus: 1\ncpus: 1\ntime: 30m\n"


class Soak:
    """One sweep that is disturbed.

    Args:
        root: a new folder.
        count: runs; a multiple of the number of methods.
        kills: faults, while there are runs left to disturb.
        chance: decides which and when.
    """

    executor: tuple[str, ...] = ("--jobs", "2", "--checkpoint-minutes", "0.005")

    def __init__(self, root: Path, count: int, kills: int = 0, chance: random.Random | None = None) -> None:
        root.mkdir()
        self.root, self.kills, self.chance = root, kills, chance
        self.suite, self.seeds = write_suite(root, recipes={"common": RECIPE}), count // len(METHODS)
        self.errors = (root / "errors").open("ab")
        self.faults = [getattr(self, name) for name in dir(self) if name.startswith("fault_")]

    def start(self) -> subprocess.Popen:
        """The command that makes the sweep."""
        words = ("--method", ",".join(METHODS), "--seeds", f"0-{self.seeds - 1}", "--set", "limit=8")
        output = {"stdout": subprocess.DEVNULL, "stderr": self.errors}
        return program("sweep", self.suite, *words, *self.executor, cwd=self.root, **output)

    def done(self) -> bool:
        """Whether every run has a record."""
        made = folders(self.root / "runs")
        return len(made) == self.seeds * len(METHODS) and all(RunFolder(path).done() for path in made)

    def holders(self) -> list[Holder]:
        """The living processes that work on a run."""
        held = (Observer().alive(RunFolder(path).lease) for path in folders(self.root / "runs"))
        return [holder for holder in held if holder is not None]

    def disturb(self) -> int:
        """Faults until there were enough of them or all is done; how many there were."""
        for number in range(self.kills):
            self.keep_going()
            if self.done():
                return number
            time.sleep(self.chance.uniform(0, SPAN))
            fault = self.chance.choice(self.faults)
            print(f"  {number + 1}: {fault.__name__.removeprefix('fault_')}", flush=True)
            fault()
        return self.kills

    def until(self, condition) -> None:
        """Ask again until it holds; SystemExit after PATIENCE."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > deadline:
                raise SystemExit(f"waited {PATIENCE} s in vain; {self.root / 'errors'} and the run folders say more")
            time.sleep(0.2)


class Local(Soak):
    """By launchers of this machine."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.launchers: list[subprocess.Popen] = []

    def keep_going(self) -> None:
        """A launcher is at work, and a run has begun."""

        def begun() -> bool:
            self.launchers = [launcher for launcher in self.launchers if launcher.poll() is None]
            if not self.launchers and not self.done():
                self.launchers.append(self.start())
            return bool(self.holders()) or self.done()

        self.until(begun)

    def finish(self) -> None:
        """Undisturbed to the end."""
        for launcher in self.launchers:
            launcher.wait(PATIENCE)
        if self.start().wait(PATIENCE):
            raise SystemExit(f"the undisturbed end failed; {self.root / 'errors'} says why")

    def fault_one_worker_killed(self) -> None:
        holders = self.holders()
        if holders:
            kill(self.chance.choice(holders).process.pid)

    def fault_all_workers_killed(self) -> None:
        for holder in self.holders():
            kill(holder.process.pid)

    def fault_launcher_killed(self) -> None:
        for launcher in self.launchers:
            kill(launcher.pid)

    def fault_everything_killed(self) -> None:
        self.fault_launcher_killed()
        self.fault_all_workers_killed()

    def fault_asked_to_stop(self) -> None:
        for launcher in self.launchers:
            kill(launcher.pid, signal.SIGTERM)

    def fault_killed_beside_a_rival(self) -> None:
        self.launchers.append(self.start())
        time.sleep(self.chance.uniform(0, SPAN))
        kill(self.launchers[0].pid)

    def fault_killed_and_files_torn(self) -> None:
        """As when the machine went down: the last file of a run is cut short."""
        self.fault_everything_killed()
        self.until(lambda: not self.holders())
        for path in folders(self.root / "runs"):
            newest = sorted(path.glob("checkpoints/*.safetensors"))[-1:]
            for file in (*newest, path / "state.json"):
                if not RunFolder(path).done() and file.exists():
                    os.truncate(file, file.stat().st_size // 2)


class Slurm(Soak):
    """On a cluster of one node."""

    def __init__(self, cluster: Cluster, *arguments) -> None:
        super().__init__(*arguments)
        self.cluster, self.hastened = cluster, {}
        (self.root / "mine.yaml").write_text(PROFILE)
        self.executor = ("--executor", "slurm", "--profile", "mine.yaml", "--device", "cpu", "--pack", "4")
        self.executor += ("--checkpoint-minutes", "0.005")

    def keep_going(self) -> None:
        """Jobs are in the queue, and a run has begun."""
        tries = 0

        def begun() -> bool:
            nonlocal tries
            if not self.waiting() and not self.done():
                self.start().wait(PATIENCE)
                tries += 1
                if tries > 20:
                    raise SystemExit(f"20 submissions led to nothing; {self.root / 'errors'} says more")
            return bool(self.holders()) or self.done()

        self.until(begun)

    def waiting(self) -> list[queue.Entry]:
        """What is in the queue; a job that was queued again need not wait two minutes for its BeginTime.

        A controller that was killed forgets its last seconds: it may take a job for one that is there twice, and
        drains the node. An administrator then resumes it, as is done here.
        """
        if "drain" in self.cluster.try_call("sinfo", "--noheader", "--format=%T"):
            self.cluster.try_call("scontrol", "update", f"NodeName={self.cluster.host}", "State=RESUME")
        entries = queue.listed()
        for entry in entries:
            if entry.state != "PENDING" or time.monotonic() - self.hastened.get(entry.job, -60) < 10:
                continue
            if entry.reason == "BeginTime":
                self.cluster.try_call("scontrol", "update", f"JobId={entry.job}", "StartTime=now+3")
                self.hastened[entry.job] = time.monotonic()
            elif entry.reason not in (
                "None",
                "Priority",
                "Resources",
                "Dependency",
                "JobHeldUser",
                "JobArrayTaskLimit",
            ):
                self.cluster.try_call("scontrol", "release", entry.job)  # held by SLURM when its node went away
        return entries

    def finish(self) -> None:
        """Undisturbed to the end."""
        for _ in range(5):
            self.until(lambda: not self.waiting())
            if self.done():
                return
            self.start().wait(PATIENCE)
        raise SystemExit(f"five undisturbed submissions did not suffice; {self.root / 'errors'} says more")

    def running(self) -> list[str]:
        return [holder.job for holder in self.holders() if holder.job]

    def fault_one_worker_killed(self) -> None:
        holders = self.holders()
        if holders:
            kill(self.chance.choice(holders).process.pid)

    def fault_cancelled(self) -> None:
        for job in self.running()[:1]:
            self.cluster.try_call("scancel", job)

    def fault_requeued(self) -> None:
        for job in self.running()[:1]:
            self.cluster.try_call("scontrol", "requeue", job)

    def fault_preempted(self) -> None:
        self.cluster.try_call("sbatch", "-phigh", "-n2", "--output=/dev/null", "--wrap=true")

    def fault_node_daemon_killed(self) -> None:
        self.cluster.kill("slurmd")
        time.sleep(self.chance.uniform(0, 2))
        self.cluster.start("slurmd")

    def fault_controller_killed(self) -> None:
        self.cluster.kill("slurmctld")
        time.sleep(self.chance.uniform(0, 2))
        self.cluster.start("slurmctld")
        self.until(lambda: "UP" in self.cluster.try_call("scontrol", "ping"))

    def fault_submitter_killed(self) -> None:
        submitter = self.start()
        time.sleep(self.chance.uniform(0, SPAN))
        kill(submitter.pid)
        submitter.wait()


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def differences(root: Path, undisturbed: Path) -> list[str]:
    """What is wrong with the runs below a root, one sentence each: lost, doubled, different, or with something left."""
    found = []
    wanted = {path.name: path for path in folders(undisturbed)}
    made = {path.name: path for path in folders(root)}
    found += [f"{name}: doubled, it was never planned" for name in made.keys() - wanted.keys()]
    for name, twin in sorted(wanted.items()):
        path = made.get(name)
        if path is None or not (path / "record.json").exists():
            found.append(f"{name}: lost")
            continue
        lines = (path / "log").read_text().splitlines()
        fences = [int(number) for line in lines for number in re.findall(r" start .*, fence (\d+)$", line)]
        ends = [index for index, line in enumerate(lines) if " done in " in line]
        begins = [index for index, line in enumerate(lines) if " start " in line]
        # Killed after its record was published, a run did not say so.
        if fences != sorted(set(fences)) or len(ends) > 1 or (ends and begins[-1] > ends[0]):
            found.append(f"{name}: doubled, it began with the fences {fences} and ended {len(ends)} times")
        (record, files), (other, other_files) = essence(path), essence(twin)
        for each in (record, other):
            each["info"].pop("code", None)
        if record != other or files != other_files:
            names = [key for key in files.keys() | other_files.keys() if files.get(key) != other_files.get(key)]
            found.append(f"{name}: different in {', '.join(sorted(names)) or 'its record'}")
        left = [entry.name for entry in path.iterdir() if entry.name.startswith(".") or entry.name == "checkpoints"]
        if left:
            found.append(f"{name}: left are {', '.join(sorted(left))}")
    return found


def judge(soak: Soak, undisturbed: Path, faults: int, began: float) -> list[str]:
    """Say what came of a soak."""
    wrong = differences(soak.root / "runs", undisturbed)
    what = type(soak).__name__.lower()
    print(f"{what}: {soak.seeds * len(METHODS)} runs, {faults} faults, {time.monotonic() - began:.0f} s: ", end="")
    print("\n  ".join([f"{len(wrong)} wrong", *wrong]) if wrong else "none lost, doubled or different", flush=True)
    return wrong


@click.command()
@click.option("--runs", "count", type=click.IntRange(min=len(METHODS)), default=100, show_default=True)
@click.option("--kills", type=click.IntRange(min=0), default=50, show_default=True)
@click.option("--seed", type=int, default=None, help="Of the faults; left out, a new one.")
@click.option("--where", default="local,slurm", show_default=True)
def main(count: int, kills: int, seed: int | None, where: str) -> None:
    """Make runs under random faults and compare them with undisturbed ones."""
    seed = random.randrange(10**6) if seed is None else seed
    print(f"faults have the seed {seed}: --runs {count} --kills {kills} --seed {seed} --where {where}", flush=True)
    root = Path(tempfile.mkdtemp(prefix="soak-"))
    began = time.monotonic()
    twins = Local(root / "undisturbed", count)
    twins.finish()
    print(f"{twins.seeds * len(METHODS)} runs undisturbed in {time.monotonic() - began:.0f} s, in {root}", flush=True)
    undisturbed, wrong = twins.root / "runs", []
    if "local" in where:
        began = time.monotonic()
        soak = Local(root / "local", count, kills, random.Random(seed))
        faults = soak.disturb()
        soak.finish()
        wrong += judge(soak, undisturbed, faults, began)
    if "slurm" in where and (reason := missing()):
        print(f"slurm: not done, {reason}")
    elif "slurm" in where:
        began = time.monotonic()
        with Cluster(root / "cluster") as cluster:
            os.environ.update(cluster.environment)
            soak = Slurm(cluster, root / "slurm", count, kills, random.Random(seed))
            faults = soak.disturb()
            soak.finish()
            wrong += judge(soak, undisturbed, faults, began)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
