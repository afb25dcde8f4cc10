"""Why a row is not ranked, from real runs of a suite that is tuned step by step; and rows that would have one title."""

import re

import pytest
from make_records import make_record
from runs_kit import call, write_suite

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.planning import unranked
from robustft.results.records.records import gather
from robustft.results.tables.leaderboard import build

pytestmark = pytest.mark.usefixtures("runs_here", "no_reference")
RECIPE = {"steps": 2, "batch_size": 8, "lr": 1e-4, "weight_decay": 0.1}


def suite(folder, lr=2e-4, **changes):
    tuning = {"trials": 1, "seeds": [100], "space": {"ft": {"lr": [lr]}}}
    return write_suite(folder, recipes={"common": RECIPE}, tuning=tuning, seeds=[0], **changes)


def printed(capsys, *arguments, code=0):
    assert call(*arguments) == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_a_row_says_why_it_is_not_ranked_until_it_is(tmp_path, capsys, monkeypatch, few_pictures):
    """There, on every page, and in `compare`: each time with what to run, and running that helps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    suite(tmp_path)
    run = ("sweep", "quick.yaml", "--method", "ft")

    screen = printed(capsys, *run)
    why = "not ranked, not tuned: run `robustft tune quick.yaml --method ft`"
    assert f"° {why}." in screen and re.search(r"^ft\*?°  ", screen, re.MULTILINE)
    assert "Only" not in screen
    for page in ("leaderboard.md", "leaderboard.html", "leaderboard.csv"):
        assert "not ranked, not tuned: run" in (tmp_path / "results" / page).read_text()
    assert "$^\\circ$" in (tmp_path / "results" / "leaderboard.tex").read_text()
    error = printed(capsys, "compare", "ft", "tracer", "--benchmark", "quick.yaml", code=2)
    assert "has no run of tracer" in error
    (record,) = gather(tmp_path / "runs")
    assert record["info"]["classes"]["id"] == 10 and "unranked" not in record

    assert printed(capsys, "tune", "quick.yaml", "--method", "ft", "--limit", "32")
    screen = " ".join(printed(capsys, *run).split())
    assert "ft was tuned in a rehearsal (--limit 32): run `robustft tune quick.yaml --method ft` on all" in screen
    assert printed(capsys, "tune", "quick.yaml", "--method", "ft")
    screen = printed(capsys, *run)
    assert "°" not in screen and "rule one_se" in screen
    board = " ".join(printed(capsys, "leaderboard", "quick.yaml").split())
    assert "made with other values than are tuned now: `robustft sweep quick.yaml --method ft`" in board

    suite(tmp_path, lr=3e-4)
    screen = " ".join(printed(capsys, *run).split())
    assert "stale tuning: the values of ft come from other trials than suite and code give now" in screen
    assert printed(capsys, "bundle", "out", "--benchmark", "quick.yaml")  # records stay as they are


def test_rehearsals_and_values_by_hand_say_so_there_and_in_compare(tmp_path, capsys, monkeypatch, few_pictures):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    suite(tmp_path)
    screen = printed(capsys, "sweep", "quick.yaml", "--method", "ft,flyp", "--set", "lr=1e-3")
    assert "° not ranked, lr=0.001 set by hand: sweep without --set." in screen.splitlines()
    error = printed(capsys, "compare", "ft", "flyp", "--benchmark", "quick.yaml", code=2)
    assert "ft is not ranked, lr=0.001 set by hand: sweep without --set; flyp is not" in error
    assert len(error.splitlines()) == 1
    out = printed(capsys, "run", "quick.yaml", "--method", "ft", "--limit", "32")
    assert "not ranked, a rehearsal (limit=32, train_limit=32): sweep without LIMIT= or --limit." in out.splitlines()


def reason(benchmark="digits", rules=(), sources=None, **changes):
    record = {**make_record("ft", rules=rules, sources=sources, spec=changes.pop("spec", None)), **changes}
    return unranked.reason(record, sweep.load(benchmark) if benchmark else None)


@pytest.mark.parametrize(
    "about, said",
    [
        ({"rules": ("one_se",)}, ""),
        ({"kind": "trial"}, ""),
        ({"spec": {"allow_partial": True}, "rules": ("one_se",)}, "images may be missing (--allow-partial): see"),
        ({"sources": {"lr": "--set"}}, "lr=0.001 set by hand: sweep without --set"),
        ({"benchmark": None}, "its suite is not at hand"),
        ({"benchmark_version": "digits-v0"}, "made for digits-v0, and the suite is at digits-v1: `robustft sweep"),
        ({"benchmark": "control_colour"}, "control_colour tunes nothing: for ranks, add"),
        ({"method": "gone"}, "the method gone is not installed here"),
        ({"recipe": "other"}, "of the recipe other, and only common is ranked"),
        ({"method": "model_soup", "seed": 2}, "only its run of seed 0 counts"),
        ({"seed": 100}, "seed 100 is one of those that values are chosen with"),
        ({}, "made with other values than are tuned now"),
        ({"backbone": "glyph-vit-grey"}, "not tuned: run `robustft tune digits --method ft`"),
        ({"backbone": "glyph-vit-grey", "method": "wise_ft"}, "not tuned: run `robustft tune digits --method wise_ft`"),
        ({"backbone": "glyph-vit-grey", "method": "model_soup"}, "ft is not tuned: run `robustft tune digits"),
    ],
)
def test_reasons(about, said):
    found = reason(**about)
    assert said in found if said else found == ""


def test_the_reference_needs_no_excuse_and_no_record_of_before_gets_one():
    record = make_record("ft", rules=())
    assert build([record]).sections[0].rows[0].marks == {}
    row = build([{**record, "unranked": "not ranked, x: run y"}]).sections[0].rows[0]
    assert row.marks["unranked"] == "not ranked, x: run y" and row.title == "ft"
    ranked = build([{**make_record("ft"), "unranked": "not ranked"}]).sections[0].rows[0]
    assert ranked.marks == {}


@pytest.mark.parametrize(
    "first, second, told",
    [
        ({"method_version": 1}, {"method_version": 2}, ["version=1", "version=2"]),
        ({"weights": "sha256:01234567ab"}, {"weights": "sha256:ba98765432"}, ["weights=01234567", "weights=ba987654"]),
        ({"spec": {"threads": 1}}, {"spec": {"threads": 2}}, ["threads=1", "threads=2"]),
        ({"spec": {"batch_size": 8}}, {"spec": {}}, ["batch_size=8", "batch_size=None"]),
    ],
)  # fmt: skip
def test_two_rows_of_one_table_never_have_one_title(first, second, told):
    rows = build([make_record("ft", rules=(), **first), make_record("ft", rules=(), **second)]).sections[0].unranked()
    assert sorted(row.name for row in rows) == [f"ft [lr=0.001, {text}]" for text in sorted(told)]
    assert {row.backbone for row in rows} == {"tiny-vit-p8"}
