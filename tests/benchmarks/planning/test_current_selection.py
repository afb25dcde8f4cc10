"""Finished runs on a machine that has nothing but their folders: neither the suite's file nor its data."""

import re
import shutil

import pytest
from animals_kit import make
from runs_kit import BACKBONE, call, run_here, write_suite

from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.planning.current_selection import Suites
from robustft.datasets.card import DataError

pytestmark = pytest.mark.usefixtures("fresh_data", "few_figures", "no_reference")
RECIPE = {"steps": 2, "batch_size": 8, "lr": 1e-4, "weight_decay": 0.1}


@pytest.fixture(scope="module", params=["animals", "own_data"])
def left(tmp_path_factory, request, no_reference):
    """Runs of ft, as it was tuned, and of zero_shot; suite and images are gone."""
    tmp_path = tmp_path_factory.mktemp(request.param)
    make(tmp_path / "animals")
    about = dict(name=request.param, dataset=f"folder:{tmp_path / 'animals'}", version="own", backbones=[BACKBONE])
    tuning = {"trials": 1, "seeds": [100], "space": {"ft": {"lr": [1e-4]}}}
    suite = write_suite(tmp_path, **about, recipes={"common": RECIPE}, seeds=[0, 1], tuning=tuning)
    places = ("--runs", tmp_path / "runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Launcher, "run", run_here)
        assert call("tune", suite, "--method", "ft", *places) == 0
        assert call("sweep", suite, "--method", "zero_shot,ft", *places, "--results", tmp_path / "results") == 0
    shutil.rmtree(tmp_path / "animals")
    for file in tmp_path.glob("*.yaml"):
        file.unlink()
    return request.param, tmp_path


def test_runs_are_read_compared_rescored_and_bundled_from_their_folders_alone(left, capsys, monkeypatch):
    """own_data is also a suite of this package, whose data are then missed and must not be needed."""
    (name, root), places = left, ("--runs", left[1] / "runs")
    monkeypatch.delenv("ROBUSTFT_DATA", raising=False)
    assert call("leaderboard", name, *places, "--results", root / "results") == 0
    out, err = capsys.readouterr()
    assert "rule one_se" in out and re.search(r"^ft\S* +local +2 ", out, re.MULTILINE)
    assert call("leaderboard", *places, "--results", root / "results") == 0
    assert f"{name} (animals-" in capsys.readouterr().out
    assert call("compare", "ft", "zero-shot", "--benchmark", name, *places) == 0
    assert "ft - zero_shot on" in capsys.readouterr().out
    assert call("rescore", name, *places) == 0
    assert ", 0 problems" in capsys.readouterr().out
    assert call("bundle", root / "bundle", "--benchmark", name, *places) == 0
    assert call("verify", root / "bundle") == 0
    assert "3 runs" in capsys.readouterr().out
    assert call("report", name, *places, "--results", root / "results") == 0
    said = capsys.readouterr().err.count("runs count as they were chosen when they were made")
    assert said == (1 if name == "own_data" else 0)
    assert ("folder:own_data: there is no such folder" in err) == (name == "own_data")
    assert call("leaderboard", "none-such", *places, "--results", root / "results") == 2
    assert "unknown benchmark 'none-such'" in capsys.readouterr().err


def test_a_run_whose_selection_needs_what_is_not_here_counts_as_it_was_chosen(monkeypatch):
    """The data may be asked for first at a later run, as of one on part of the images; it is told once a benchmark."""
    from robustft.benchmarks.planning import current_selection

    def selected(benchmark, record):
        if record["method"] == "partial":
            raise DataError("no data root")
        return {**record, "selection": "today's"}

    told = []
    monkeypatch.setattr(current_selection, "_with_selection", selected)
    suites = Suites(told.append, {"a": object(), "b": object()})
    records = [{"benchmark": b, "method": m, "selection": "then"} for b in "ab" for m in ("ft", "partial", "partial")]
    chosen = [record["selection"] for record in suites.with_selections(records)]
    assert chosen == ["today's", "then", "then"] * 2 and len(told) == 2 and "no data root" in told[0]
