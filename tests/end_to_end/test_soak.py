"""What `make soak` would say of a run that was lost, doubled, changed, or left half tidied."""

import json
import shutil

import pytest
from soak import differences

LOG = "2026-01-01 00:00:00 start ft tiny seed {seed}, id 0, fence 1\n2026-01-01 00:00:09 done in 9.0 s\n"


@pytest.fixture
def roots(tmp_path):
    """Two finished runs, and a copy of both."""
    for seed in range(2):
        path = tmp_path / "twins" / "digits" / "ft" / "tiny" / f"seed{seed}-{seed:012x}"
        (path / "weights").mkdir(parents=True)
        for name in ("spec.json", "curves.parquet", "per_class.parquet", "weights/final.safetensors"):
            (path / name).write_text("{}")
        record = {"run_id": f"{seed:012x}", "cost": {}, "finished": "", "environment": {}, "info": {"code": ["a"]}}
        (path / "record.json").write_text(json.dumps(record))
        (path / "log").write_text(LOG.format(seed=seed))
    shutil.copytree(tmp_path / "twins", tmp_path / "runs")
    return tmp_path / "runs", tmp_path / "twins"


def test_equal_runs_are_told_as_equal(roots):
    assert differences(*roots) == []


def _append(path, text):
    with path.open("a") as file:
        file.write(text)


def _edit(path, old, new):
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize(
    "harm, word",
    [
        (lambda run: (run / "record.json").unlink(), "lost"),
        (shutil.rmtree, "lost"),
        (lambda run: shutil.copytree(run, run.with_name("seed7-000000000007")), "doubled"),
        (lambda run: _append(run / "log", LOG.format(seed=0)), "doubled"),
        (lambda run: _append(run / "log", "2026 start ft tiny seed 0, id 0, fence 2\n"), "doubled"),
        (lambda run: _append(run / "weights" / "final.safetensors", "x"), "different in weights/final.safetensors"),
        (lambda run: _edit(run / "record.json", '"info": {', '"info": {"alpha": 1, '), "different in its record"),
        (lambda run: (run / "checkpoints").mkdir(), "left are checkpoints"),
        (lambda run: (run / ".lease-dead-0").mkdir(), "left are .lease-dead-0"),
    ],
)
def test_harm_is_told(roots, harm, word):
    runs, twins = roots
    harm(runs / "digits" / "ft" / "tiny" / "seed0-000000000000")
    (said,) = differences(runs, twins)
    assert word in said
