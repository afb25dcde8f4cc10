"""`ood_mean: {name: [...]}`: means over some of the shifts, from the suite of today."""

import csv
import io

import pytest
from make_records import make_record
from runs_kit import write_suite

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.current_selection import Suites
from robustft.results.board.comparison import sets_of
from robustft.results.board.grouping import section
from robustft.results.board.rows import OOD_MEANS
from robustft.results.statistics.setting_selection import RULES
from robustft.results.tables import leaderboard
from robustft.results.tables.cells import metric_columns, remarks

TWO = {"two": ["reversed", "sketches"]}


def with_means(record, means=TWO):
    return {**record, OOD_MEANS: means}


def test_the_mean_is_over_the_named_shifts_and_orders_nothing():
    records = [with_means(make_record("ft", seed=seed, accuracy=0.8 + 0.02 * seed)) for seed in (0, 1)]
    found = section({"local": records}, RULES)
    row, sets = found.rows[0], records[0]["sets"]
    by_hand = [(sets[name]["accuracy"], records[1]["sets"][name]["accuracy"]) for name in TWO["two"]]
    assert row.values["ood_mean/two"][0] == pytest.approx((by_hand[0][0] + by_hand[1][0]) / 2)
    assert row.values["ood_mean/two"][1] == pytest.approx((by_hand[0][1] + by_hand[1][1]) / 2)
    assert found.ood_column == "acc_ood_mean"
    assert ("ood_mean/two", "OOD mean two") in metric_columns(found)
    assert "OOD mean two: over reversed, sketches." in remarks(found)
    assert sets_of(found, "ood_mean/two") == {"reversed": "accuracy", "sketches": "accuracy"}


def test_it_is_by_each_sets_own_score():
    record = make_record("ft")
    record["info"] = {"own_metrics": {"sketches": "worst_group_accuracy"}}
    record["sets"]["sketches"]["worst_group_accuracy"] = 0.1
    row = section({"local": [with_means(record)]}, RULES).rows[0]
    assert row.values["ood_mean/two"][0] == pytest.approx((record["sets"]["reversed"]["accuracy"] + 0.1) / 2)


def test_a_run_that_lacks_one_of_the_sets_has_no_mean():
    less = make_record("flyp", shifts=("reversed", "renditions"))
    found = section({"local": [with_means(make_record("ft")), with_means(less)]}, RULES)
    by_method = {row.method: row for row in found.rows}
    assert "ood_mean/two" in by_method["ft"].values and "ood_mean/two" not in by_method["flyp"].values


def test_without_such_a_mean_a_board_is_as_before():
    found = section({"local": [make_record("ft")]}, RULES)
    assert found.means == {} and not any("ood_mean/" in column for column, _ in metric_columns(found))
    assert section({"local": [with_means(make_record("ft"), {"odd": ["id", "reversed"]})]}, RULES).means == {}


def test_the_wide_table_has_it_with_its_test():
    records = [
        with_means(make_record(name, seed=seed, accuracy=a))
        for name, a in (("ft", 0.8), ("flyp", 0.7))
        for seed in (0, 1)
    ]
    board = leaderboard.build(records)
    assert "OOD mean two" in board.to_markdown()
    (head, *lines) = csv.reader(io.StringIO(board.to_csv()))
    assert {"ood_mean_two_percent_mean", "ood_mean_two_percent_behind_best"} <= set(head)


def test_the_suite_of_today_says_it_and_old_records_get_it(tmp_path):
    path = write_suite(tmp_path, ood_mean=TWO)
    suites = Suites(print)
    suites.of(path, tmp_path)
    (record,) = suites.for_board([make_record("ft")])
    assert record[OOD_MEANS] == TWO


def test_what_is_no_shift_is_refused(tmp_path):
    for listed, said in (
        (["id"], "unknown shift 'id'"),
        (["revesred"], "did you mean 'reversed'"),
        (["reversed", "reversed"], "must not repeat"),
    ):
        with pytest.raises(UserError, match=said):
            Benchmark(write_suite(tmp_path, ood_mean={"two": listed}))
