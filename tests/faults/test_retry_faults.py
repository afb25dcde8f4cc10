"""retry and cancel with real processes: nothing starts twice, and what was cancelled goes on when it is wanted."""

import pytest
from kills_kit import PATIENCE, assert_same, finish, step_of, sweep, wait_until
from runs_kit import call, folders, plan_runs, program, starts

pytestmark = pytest.mark.faults

QUICK = ("limit=16",)


def test_two_retries_at_once_start_nothing_twice(tmp_path):
    for method in ("ft", "flyp", "ema"):
        (folder,) = plan_runs(tmp_path, method, *QUICK, "steps=4")
        folder.write_state(state="failed", reason="the machine went down")
    runs = tmp_path / "runs"
    both = [program("retry", "--runs", runs, "--jobs", "1", cwd=tmp_path) for _ in range(2)]
    for started in both:
        _, errors = started.communicate(timeout=PATIENCE)
        assert started.returncode == 0, errors
    assert [starts(path) for path in folders(runs)] == [1, 1, 1]
    assert all((path / "record.json").exists() for path in folders(runs))


def test_what_reads_a_cancelled_run_is_cancelled_too(tmp_path, capsys):
    ft, wise = plan_runs(tmp_path, "wise_ft", *QUICK)
    for folder in (ft, wise):
        folder.write_state(state="failed", reason="x")
    ft.ask_to_cancel()
    assert call("retry", "--method", "wise_ft", "--runs", tmp_path / "runs") == 130
    assert "was cancelled" in capsys.readouterr().out
    assert not wise.done() and not ft.done()


def test_cancelled_in_the_middle_it_ends_in_the_same_bits_when_wanted_again(tmp_path, undisturbed):
    root = tmp_path / "runs-root"
    started = sweep(root)
    assert wait_until(lambda: step_of(root) > 0, started)
    asked = program("cancel", "--all", "--runs", root / "runs", cwd=root)
    assert "running: each saves a checkpoint" in asked.communicate(timeout=PATIENCE)[0]
    started.communicate(timeout=PATIENCE)
    assert started.returncode == 130
    assert all((path / "cancel").exists() or (path / "record.json").exists() for path in folders(root / "runs"))
    finish(root)
    assert_same(root, undisturbed)
