"""Real processes, killed without warning: nothing is lost, nothing is done twice, every bit is the same.

The points are random; the seed is printed, and ROBUSTFT_FAULT_SEED repeats it.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from kills_kit import COMMON, FLAGS, PATIENCE, assert_same, finish, step_of, sweep, wait_until
from repository import KITS
from runs_kit import essence, folders, starts

pytestmark = pytest.mark.faults


@pytest.fixture
def chance():
    seed = int(os.environ.get("ROBUSTFT_FAULT_SEED", random.randrange(10**6)))
    print("ROBUSTFT_FAULT_SEED", seed)
    return random.Random(seed)


def workers(root):
    """Process ids that hold a lease."""
    held = []
    for owner in root.glob("runs/*/*/*/*/lease/owner.json"):
        try:
            held.append(json.loads(owner.read_text())["pid"])
        except (OSError, ValueError):
            continue
    return held


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


@pytest.mark.parametrize("victim", ["everything", "worker", "launcher"])
def test_sigkill_at_random_points(tmp_path, undisturbed, chance, victim):
    root = tmp_path / "runs-root"
    for _ in range(3):
        started = sweep(root)
        # at a random moment after a worker has begun: loading, training, saving, evaluating or publishing
        if wait_until(lambda: workers(root), started):
            time.sleep(chance.uniform(0, 6))
        pids = workers(root)
        if victim != "worker":
            kill(started.pid)
        if victim != "launcher":
            for pid in pids:
                kill(pid)
        _, errors = started.communicate(timeout=PATIENCE)
        if victim == "worker" and pids:
            assert started.returncode in (0, 1)
            assert started.returncode == 0 or "ended with signal 9" in errors
        # with victim "launcher" the workers are orphans now, and the next launcher has to wait for them
    finish(root)
    assert_same(root, undisturbed)


def test_sigkill_in_the_middle_of_training_resumes_from_the_checkpoint(tmp_path, undisturbed):
    root = tmp_path / "runs-root"
    started = sweep(root)
    assert wait_until(lambda: list(root.glob("runs/*/tracer/*/*/checkpoints/*.json")), started)
    for pid in [started.pid, *workers(root)]:
        kill(pid)
    started.communicate(timeout=PATIENCE)
    assert list(root.glob("runs/*/tracer/*/*/checkpoints/*.json"))
    finish(root)
    assert_same(root, undisturbed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_a_checkpoint_and_goes_on_later(tmp_path, undisturbed, number):
    root = tmp_path / "runs-root"
    started = sweep(root)
    assert wait_until(lambda: step_of(root) > 0, started)
    started.send_signal(number)
    _, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode == 130
    assert "the same command goes on where it was" in errors
    assert not workers(root)
    finish(root)
    assert_same(root, undisturbed)


def test_orphans_of_a_killed_launcher_stop_by_themselves(tmp_path):
    root = tmp_path / "runs-root"
    started = sweep(root)
    assert wait_until(lambda: step_of(root) > 0, started)
    kill(started.pid)
    started.communicate(timeout=PATIENCE)
    assert wait_until(lambda: not workers(root))


def test_two_launchers_at_once_start_nothing_twice(tmp_path, undisturbed):
    root = tmp_path / "runs-root"
    both = [sweep(root), sweep(root)]
    for started in both:
        _, errors = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0, errors
    assert all(starts(path) == 1 for path in folders(root / "runs"))
    assert_same(root, undisturbed)


def test_a_full_disk_costs_nothing_that_was_finished(tmp_path, undisturbed):
    """A small tmpfs in a mount namespace of its own: no root is needed where users may make namespaces."""
    script = f"""
import os, subprocess, sys
sys.path.insert(0, {str(KITS)!r})
from pathlib import Path
from runs_kit import essence, folders, program, write_suite
disk, root = Path(sys.argv[1]), Path(sys.argv[2])
suite = write_suite(root, recipes={{"common": {COMMON!r}}})
def sweep():
    started = program("sweep", suite, *{FLAGS!r}, "--runs", disk, cwd=root)
    output, errors = started.communicate(timeout={PATIENCE})
    return started.returncode, errors
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", disk], check=True)
(disk / "mine").write_text("mine")
code, errors = sweep()
print(errors)
assert code == 2, code
assert "No space left on device" in errors and "Traceback" not in errors, errors
assert (disk / "mine").read_text() == "mine"
done = {{path: essence(path) for path in folders(disk) if (path / "record.json").exists()}}
filler = disk / "filler"
try:
    with open(filler, "wb") as file:
        while True:
            file.write(bytes(4096))
            file.flush()
except OSError:
    pass
code, errors = sweep()
assert code == 2 and "--runs: must be a folder with room" in errors, errors
filler.unlink()
subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)
code, errors = sweep()
assert code == 0, errors
for path, content in done.items():
    assert essence(path) == content
subprocess.run(["cp", "-r", disk, root / "runs"], check=True)
"""
    disk = tmp_path / "disk"
    root = tmp_path / "root"
    disk.mkdir()
    root.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", script, str(disk), str(root)]
    if os.geteuid() != 0:
        command.insert(1, "-r")
    if subprocess.run([*command[: command.index(sys.executable)], "true"], capture_output=True).returncode:
        pytest.skip("this system allows no mount namespace")
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(disk)
    wanted = folders(undisturbed / "runs")
    for path, reference in zip(folders(root / "runs"), wanted, strict=True):
        assert essence(path) == essence(reference)
