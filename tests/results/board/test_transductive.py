"""A method that adapts to a set stands apart: in no ranked table, on no front, never bold, and in no path or oracle."""

import csv
import io

import pytest
from make_records import make_record

from robustft.results.board.oracle import at_best_points, runs_of_paths
from robustft.results.records.records import RecordError, validate
from robustft.results.tables.blocks import Heading, Notes, Table
from robustft.results.tables.leaderboard import build

MARK = "⊕"
LINE = {0.0: 0.70, 0.5: 0.95, 1.0: 0.60}


def runs(method, accuracy, transductive=False, seeds=(0, 1), **more):
    made = [make_record(method, seed=seed, accuracy=accuracy, **more) for seed in seeds]
    return [{**record, "transductive": True} for record in made] if transductive else made


def ordinary():
    return runs("zero_shot", 0.6, rules=()) + runs("ft", 0.8) + runs("flyp", 0.7)


def tables(board):
    """Heading above -> its tables."""
    found, heading = {}, ""
    for block in board.blocks:
        heading = block.text if isinstance(block, Heading) else heading
        if isinstance(block, Table):
            found.setdefault(heading, []).append(block)
    return found


def test_the_best_of_all_is_ranked_beside_no_other():
    board, without = build([*ordinary(), *runs("adapting", 0.99, True)]), build(ordinary())
    section = board.sections[0]
    for rule in ("one_se", "best_id"):
        assert [row.method for row in section.table(rule, "tiny-vit-p8")] == ["zero_shot", "ft", "flyp"]
    apart = tables(board)["Transductive: adapted to each set"]
    assert [row[0].text for row in apart[0].rows] == [f"adapting{MARK}"]
    assert not any(cell.best for row in apart[0].rows for cell in row)
    (row,) = section.aside("transductive")
    assert not row.competes and row.rules == () and row.selection == "tuned"
    # All that is said of the others is what is said without it.
    kept = [block for block in board.blocks if isinstance(block, Table)]
    assert [t for t in kept if t not in apart] == [b for b in without.blocks if isinstance(b, Table)]
    notes = [note for block in board.blocks if isinstance(block, Notes) for note in block.items]
    why = "transductive (it adapts to each set by all of its images before it predicts)"
    assert f"{MARK} {why}: adapting on tiny-vit-p8 (local)." in notes


def test_every_form_of_the_board_has_it_apart():
    board = build([*ordinary(), *runs("adapting", 0.99, True)])
    lines = [line for line in csv.DictReader(io.StringIO(board.to_csv())) if line["method"] == "adapting"]
    assert {line["rule"] for line in lines} == {"transductive"} and {line["pareto_front"] for line in lines} == {"no"}
    assert MARK in board.to_markdown() and r"$\oplus$" in board.to_latex()


def test_its_path_is_no_line_to_be_compared_with_and_has_no_oracle():
    line = {"line": LINE, "hyper": {"alpha": 0.5}, "sources": {"alpha": "method default"}}
    ours, theirs = runs("mine", 0.8, True, **line), runs("wise_ft", 0.8, **line)
    assert {record["method"] for record in at_best_points(runs_of_paths([*ours, *theirs]))} == {"wise_ft"}
    section = build([*ordinary(), *ours, *theirs]).sections[0]
    assert {path.method for path in section.paths} == {"wise_ft"}
    assert {row.method for row in section.aside("oracle")} == {"wise_ft"}


def test_in_a_study_its_grid_is_marked_and_makes_no_path():
    grid = [
        record
        for lr in (1e-4, 1e-3)
        for record in runs("adapting", 0.9, True, lr=lr, rules=(), sources={"lr": "grid of quick"})
    ]
    section = build([*ordinary(), *grid]).sections[0]
    assert all("transductive" in row.marks for row in section.aside("grid")) and not section.paths


def test_seeds_that_are_missing_are_told():
    (row,) = build([*ordinary(), *runs("adapting", 0.9, True, seeds=(1,))]).sections[0].aside("transductive")
    assert row.marks["seeds"] == "1 of 2 seeds, missing 0"


def test_a_record_says_true_or_nothing():
    record = make_record()
    assert "transductive" not in validate(record)
    assert validate({**record, "transductive": True})["transductive"] is True
    with pytest.raises(RecordError, match="transductive"):
        validate({**record, "transductive": False})
