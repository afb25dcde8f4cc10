"""Boards: arithmetic, what must not be mixed, marks, and the same bytes for the same records."""

import csv
import io
import random

import pytest
from make_records import SHIFTS, make_record
from rich.console import Console

from robustft.results.leaderboard import build, write
from robustft.results.rows import BoardError, natural, section
from robustft.results.statistics import RULES


def seeds_of(method, values, **more):
    return [make_record(method, seed=seed, accuracy=value, **more) for seed, value in enumerate(values)]


def zero_shot(**more):
    return make_record("zero_shot", accuracy=0.7, rules=(), **more)


def table(records, reference=(), rule="one_se", backbone="tiny-vit-p8"):
    return build(records, reference).sections[0].table(rule, backbone)


def lines(board):
    return list(csv.DictReader(io.StringIO(board.to_csv())))


def shown(board, width=200):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(board.to_console())
    return console.file.getvalue()


def test_cells_are_mean_and_deviation_over_seeds_in_percent():
    board = build(seeds_of("ft", [0.80, 0.82, 0.84]))
    line = lines(board)[0]
    assert (line["acc_id_percent_mean"], line["acc_id_percent_sd"]) == ("82.0000", "2.0000")
    # shifts fall by one point each: 81, 80, 79, 78, 77
    assert (line["acc_ood_mean_percent_mean"], line["n_seeds"]) == ("79.0000", "3")
    # calibration errors of the shifts are .06 to .10
    assert float(line["ece_ood_mean_15_bins_global_mean"]) == pytest.approx(0.08)
    assert float(line["ece_id_15_bins_global_mean"]) == pytest.approx(0.05)
    assert "82.0 ± 2.0" in board.to_markdown()
    assert "82.0±2.0" in shown(board)


def test_one_seed_has_no_deviation():
    line = lines(build(seeds_of("ft", [0.8])))[0]
    assert (line["acc_id_percent_mean"], line["acc_id_percent_sd"]) == ("80.0000", "")
    assert "80.0 |" in build(seeds_of("ft", [0.8])).to_markdown()


def test_zero_shot_comes_first_is_one_run_and_is_never_best():
    records = [make_record("zero_shot", seed=s, accuracy=0.99, rules=()) for s in (0, 1, 2)]
    records += seeds_of("ft", [0.8, 0.8]) + seeds_of("tracer", [0.9, 0.9])
    for rule in RULES:
        rows = table(records, rule=rule)
        assert [row.method for row in rows] == ["zero_shot", "tracer", "ft"]
        assert rows[0].seeds == (0,) and rows[0].cell("acc_id") == (0.99, None, 1)
    markdown = build(records).to_markdown()
    assert "**99.0" not in markdown and "**90.0 ± 0.0**" in markdown
    assert lines(build(records))[0]["ranked"] == "no"
    assert build(records).sections[0].unranked() == []


def test_rows_are_ordered_by_the_mean_over_shifts():
    records = seeds_of("ft", [0.8, 0.8]) + seeds_of("flyp", [0.7, 0.7]) + seeds_of("tracer", [0.75, 0.75])
    assert [row.method for row in table(records)] == ["ft", "tracer", "flyp"]


def test_the_two_rules_are_two_tables_side_by_side():
    records = seeds_of("tracer", [0.80, 0.80], rules=("one_se",), lr=1e-4)
    records += seeds_of("tracer", [0.85, 0.85], rules=("best_id",), lr=1e-3)
    assert table(records)[0].cell("acc_id")[0] == pytest.approx(0.80)
    assert table(records, rule="best_id")[0].cell("acc_id")[0] == pytest.approx(0.85)
    markdown = build(records).to_markdown()
    assert markdown.index("rule one_se (default)") < markdown.index("rule best_id")
    assert (
        "| tiny-vit-p8 | tracer | local | lr=0.0001 | 80.0 ± 0.0 | 77.0 ± 0.0 "
        "| lr=0.001 | 85.0 ± 0.0 | 82.0 ± 0.0 |" in markdown
    )
    assert "where rule best_id chose another setting" in shown(build(records))


def test_a_row_names_its_tuning_and_the_number_of_trials():
    assert "| ab12cd34 (9) |" in build(seeds_of("ft", [0.8])).to_markdown()
    line = lines(build(seeds_of("ft", [0.8])))[0]
    assert (line["tuning"], line["trials"], line["rule"]) == ("ab12cd34", "9", "one_se")


def test_a_setting_by_hand_is_not_ranked():
    by_hand = make_record("tracer", rules=(), hyper={"beta": 0.2}, sources={"beta": "--set"})
    board = build([*seeds_of("tracer", [0.8]), by_hand])
    assert [row.method for row in board.sections[0].table("one_se", "tiny-vit-p8")] == ["tracer"]
    (row,) = board.sections[0].unranked()
    assert "beta=0.2" in row.name
    assert "### Not ranked" in board.to_markdown()
    assert lines(board)[-1]["rule"] == ""


def test_a_benchmark_without_tuning_has_no_ranked_heading():
    markdown = build([make_record("ft", rules=())]).to_markdown()
    assert "Selection rule" not in markdown and "### Not ranked" in markdown


def test_trials_reach_no_board():
    assert build([make_record(kind="trial")]).sections == ()
    assert "No finished runs yet" in build([]).to_markdown()
    assert "No finished runs yet" in shown(build([]))


def test_local_and_reference_rows_stand_beside_each_other_and_are_never_pooled():
    rows = table(seeds_of("tracer", [0.8, 0.8]), seeds_of("tracer", [0.9] * 5))
    assert [(row.provenance, row.seeds, row.cell("acc_id")[0]) for row in rows] == [
        ("reference", (0, 1, 2, 3, 4), pytest.approx(0.9)),
        ("local", (0, 1), pytest.approx(0.8)),
    ]
    assert "seeds" not in rows[1].marks  # a reference of five seeds asks nothing of local runs


def test_a_missing_seed_is_marked_and_never_filled_in():
    records = seeds_of("ft", [0.8, 0.8, 0.8]) + seeds_of("flyp", [0.95])
    ft, flyp = table(records)
    assert flyp.method == "flyp" and flyp.seeds == (0,) and not flyp.complete  # last, however good
    markdown = build(records).to_markdown()
    assert "| flyp† | local | 1 | 95.0 |" in markdown
    assert "† 1 of 3 seeds, missing 1, 2: flyp on tiny-vit-p8 (local)." in markdown
    assert "**" not in markdown.split("Selection rules")[0]  # with one complete row nothing is best


def test_a_missing_set_leaves_cells_empty_and_means_out():
    short = make_record("flyp", seed=1, accuracy=0.9, shifts=SHIFTS[:-1])
    records = [*seeds_of("ft", [0.8, 0.8]), make_record("flyp", seed=0, accuracy=0.9), short]
    row = table(records)[-1]
    assert row.method == "flyp"
    assert row.cell("acc/writers") == (pytest.approx(0.85), None, 1)
    assert row.cell("acc_ood_mean") == (pytest.approx(0.87), None, 1)  # of seed 0 alone
    assert row.cell("acc_id")[2] == 2
    assert "‡ not every run has writers" in build(records).to_markdown()
    only_short = build([*seeds_of("ft", [0.8, 0.8]), short])
    assert only_short.sections[0].table("one_se", "tiny-vit-p8")[-1].cell("acc_ood_mean") == (None, None, 0)
    assert lines(only_short)[1]["acc_writers_percent_mean"] == ""


def test_partial_data_and_uncommitted_changes_are_marked():
    records = seeds_of("ft", [0.8], n=100) + seeds_of("flyp", [0.7], dirty=True)
    flyp, ft = table(records)
    assert (set(ft.marks), set(flyp.marks)) == ({"partial"}, {"dirty"})
    markdown = build(records).to_markdown()
    assert "ft§" in markdown and "§ part of the images only: id, fresh" in markdown
    assert "flyp\\*" in markdown and "\\* made with uncommitted changes: flyp" in markdown


def test_versions_and_recipes_never_share_a_table():
    records = [
        make_record(version="digits-v1"),
        make_record(version="digits-v2"),
        make_record(recipe="original"),
        make_record(benchmark="forgetting", version="f-v1"),
    ]
    board = build(records)
    assert [(s.benchmark, s.version, s.recipe) for s in board.sections] == [
        ("digits", "digits-v1", "common"),
        ("digits", "digits-v1", "original"),
        ("digits", "digits-v2", "common"),
        ("forgetting", "f-v1", "common"),
    ]
    assert all(len(s.rows) == 1 for s in board.sections)
    with pytest.raises(BoardError, match="one table cannot hold digits/digits-v1/common and digits/digits-v2/common"):
        section(records[:2], [], RULES)


def test_other_data_under_the_same_version_is_another_table():
    changed = make_record(seed=1)
    changed["spec"]["fingerprint"] = "feed" * 16
    board = build([make_record(seed=0), changed])
    assert [len(s.rows) for s in board.sections] == [1, 1]
    assert "data feedfeedfeed" in board.to_markdown()


def test_an_older_method_version_is_not_ranked():
    records = seeds_of("tracer", [0.9], method_version=1) + seeds_of("tracer", [0.8], method_version=2)
    board = build(records)
    assert [r.method_version for r in board.sections[0].table("one_se", "tiny-vit-p8")] == [2]
    assert [r.method_version for r in board.sections[0].unranked()] == [1]
    assert "¶ version 1 of a method that is at version 2" in board.to_markdown()


def test_two_settings_under_one_rule_are_two_rows_that_say_how_they_differ():
    rows = table(seeds_of("ft", [0.8], lr=1e-3) + seeds_of("ft", [0.7], lr=1e-4, tuning="old"))
    assert [row.name for row in rows] == ["ft [lr=0.001]", "ft [lr=0.0001]"]


def test_a_run_that_is_there_twice_counts_once():
    early, late = make_record(finished="2026-01-01T00:00:00Z"), make_record(finished="2026-02-01T00:00:00Z")
    (row,) = table([late, early])
    assert row.seeds == (0,)


def test_sets_that_change_their_role_are_refused():
    other = make_record(seed=1)
    other["sets"]["fresh"]["role"] = "diagnostic"
    with pytest.raises(BoardError, match="set fresh is"):
        build([make_record(), other])


def test_diagnostic_sets_stay_outside_the_mean_and_the_tables():
    board = build(seeds_of("ft", [0.8]))
    assert board.sections[0].diagnostics == ("pretraining_mixture",)
    assert "pretraining_mixture" not in board.to_markdown()
    assert lines(board)[0]["acc_pretraining_mixture_percent_diagnostic_mean"] == "74.0000"


def test_infinite_likelihood_is_shown_as_such():
    record = make_record()
    record["sets"]["id"]["nll"] = record["summary"]["nll_id"] = None
    assert lines(build([record]))[0]["nll_id_nats_mean"] == "inf"
    assert "| inf |" in build([record]).to_markdown()


def mixed_records():
    rng = random.Random(0)
    records = [zero_shot(backbone=name) for name in ("tiny-rn", "tiny-vit-p8", "tiny-vit-p16")]
    for name in ("tiny-rn", "tiny-vit-p8", "tiny-vit-p16"):
        for method in ("ft", "flyp", "tracer"):
            for seed in range(3):
                records.append(make_record(method, name, seed, 0.8 + rng.gauss(0, 0.01), dirty=method == "ft"))
        records.append(make_record("tracer", name, 0, 0.8, rules=(), hyper={"beta": 0.3}))
    records.append(make_record("flyp", shifts=SHIFTS[:2], seed=7))
    return records


def test_same_records_same_bytes_whatever_their_order(tmp_path):
    records, reference = mixed_records(), [make_record("tracer", seed=s, accuracy=0.83) for s in range(5)]
    want = write(records, reference, tmp_path / "a")
    for i in range(5):
        random.Random(i).shuffle(records)
        random.Random(i).shuffle(reference)
        got = write(records, reference, tmp_path / "b")
        assert shown(got) == shown(want)
        for name in ("leaderboard.csv", "leaderboard.md"):
            assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "a" / name).read_bytes()


def test_every_line_of_a_markdown_table_has_the_same_number_of_cells():
    for block in build(mixed_records()).to_markdown().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") - line.count("\\|") for line in rows}) <= 1


def test_backbones_are_in_natural_order_and_never_averaged():
    section = build(mixed_records()).sections[0]
    assert section.backbones == ["tiny-rn", "tiny-vit-p8", "tiny-vit-p16"]
    assert {row.backbone for row in section.rows} == set(section.backbones)
    assert natural("p8") < natural("p16")


def test_the_table_says_what_its_seeds_can_resolve():
    records = seeds_of("ft", [0.80, 0.81, 0.82]) + seeds_of("tracer", [0.83, 0.83, 0.83])
    # paired differences of 3, 2, 1 points: standard deviation 1, so 3.26 points at three seeds
    assert "that 3 paired seeds resolve (two-sided 5 %, 80 % power): 3.3 points" in build(records).to_markdown()


def test_narrow_terminals_lose_the_shifts_and_no_digits():
    board = build(mixed_records())
    narrow, wide = shown(board, 80), shown(board, 200)
    assert "renditions" in wide and "renditions" not in narrow
    assert "…" not in narrow and max(map(len, narrow.splitlines())) <= 80


def test_hostile_names_stay_text():
    board = build([make_record("a|b<script>[link](x)*[bold]")])
    assert "<script>" not in board.to_markdown() and "a\\|b&lt;script&gt;" in board.to_markdown()
    assert "[bold]" in shown(board)


def test_a_rehearsal_on_part_of_the_images_is_not_ranked():
    record = make_record("zero_shot")
    record["spec"]["limit"] = 32
    (section,) = build([record]).sections
    assert section.table("one_se", "tiny-vit-p8") == []
    assert [row.method for row in section.unranked()] == ["zero_shot"]


def test_forgetting_is_accuracy_on_the_old_task_before_minus_after():
    before = make_record("zero_shot", shifts=("original",), accuracy=0.9)
    after = [make_record("flyp", shifts=("original",), seed=s, accuracy=a) for s, a in ((0, 0.5), (1, 0.7))]
    board = build([before, *after])
    zero_shot, flyp = board.sections[0].table("one_se", "tiny-vit-p8")
    assert flyp.cell("acc_forgotten")[0] == pytest.approx(0.3)
    assert zero_shot.cell("acc_forgotten") == (None, None, 0)
    assert "forgotten" in board.to_markdown() and "forgetting_rate_points_mean" in board.to_csv()
    assert "forgotten" not in build([make_record("flyp")]).to_markdown()
