"""The sweep that the tests of faults disturb, and what must be left of it."""

import json
import time

from runs_kit import essence, folders, program, write_suite

COMMON = {"steps": 60, "batch_size": 32, "lr": 3e-4, "weight_decay": 0.1}
METHODS = "ft,wise_ft,tracer"
FLAGS = ("--method", METHODS, "--set", "limit=64", "--checkpoint-minutes", "0.01", "--jobs", "2")
PATIENCE = 600


def sweep(root, **options):
    """Start the sweep that all of these tests disturb."""
    root.mkdir(exist_ok=True)
    suite = write_suite(root, recipes={"common": COMMON})
    return program("sweep", suite, *FLAGS, cwd=root, **options)


def finish(root):
    """The same command again, to its end."""
    started = sweep(root)
    output, errors = started.communicate(timeout=PATIENCE)
    assert started.returncode == 0, errors
    return output


def assert_same(root, undisturbed):
    """Every run is done once and equals that of the undisturbed sweep; nothing half-made is left."""
    wanted = folders(undisturbed / "runs")
    assert [path.name for path in folders(root / "runs")] == [path.name for path in wanted]
    kept = {"record.json", "spec.json", "state.json", "log", "weights", "predictions"}
    kept |= {"curves.parquet", "per_class.parquet"}
    for path, reference in zip(folders(root / "runs"), wanted, strict=True):
        record, files = essence(path)
        assert (record, files.keys()) == (essence(reference)[0], essence(reference)[1].keys())
        for name, content in essence(reference)[1].items():
            assert files[name] == content, f"{path.name}: {name}"
        assert path.joinpath("log").read_text().count(" done in ") == 1
        points = {"path.json"} if "path" in record else set()  # of a method with a path, wise_ft among these
        assert {entry.name for entry in path.iterdir()} == kept | points


def wait_until(condition, started=None):
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if started is not None and started.poll() is not None:
            return False
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return True


def step_of(root):
    """The furthest step that an unfinished run has told of."""
    steps = [0]
    for state in root.glob("runs/*/*/*/*/state.json"):
        try:
            told = json.loads(state.read_text())
        except (OSError, ValueError):
            continue
        if told.get("state") in ("running", "checkpointed"):
            steps.append(told.get("step", 0))
    return max(steps)
