"""Boards: arithmetic, what must not be mixed, marks, and the same bytes for the same records."""

import csv
import io
import random
import shutil

import pytest
from make_records import SHIFTS, make_record
from rich.console import Console

from robustft.results.board.grouping import BoardError, section
from robustft.results.board.oracle import at_best_points, runs_of_paths
from robustft.results.board.per_sample import Outcomes
from robustft.results.board.rows import ASIDE, GRID, ORACLE, PUBLISHED, natural
from robustft.results.records.records import REFERENCE, gather_reference, publish_record, read_record
from robustft.results.records.reference import PREDICTIONS, write_predictions
from robustft.results.statistics.setting_selection import RULES
from robustft.results.tables.leaderboard import FILES, build, write


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
        section({"local": records[:2]}, RULES)


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
        for name in FILES:
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


def test_the_committed_reference_boards_come_from_their_records(tmp_path):
    """Also where another board of this process has read the files before, and where none has."""
    (folder,) = REFERENCE.glob("digits")
    shutil.copytree(folder, tmp_path / "digits", ignore=shutil.ignore_patterns("*.png", "*.svgz"))
    for _ in ("read", "known"):
        board = build([], gather_reference("digits"), Outcomes(reference=tmp_path))
        assert board.to_csv() == (folder / "leaderboard.csv").read_text()
        assert board.to_markdown() == (folder / "leaderboard.md").read_text()
    write_predictions(tmp_path / "digits" / PREDICTIONS, {}, {})
    assert build([], gather_reference("digits"), Outcomes(reference=tmp_path)).to_csv() != board.to_csv()


# rows beside those that a rule chose


LINE = {0.0: 0.70, 0.5: 0.74, 0.8: 0.78, 1.0: 0.60}


def wise(accuracy, rules, alpha, seeds=(0, 1), line=LINE, **more):
    """Runs of wise_ft at one alpha over the ft run that was tuned to lr 0.001."""
    sources = {"lr": "tuned one_se of ft", "alpha": "tuned one_se" if "one_se" in rules else "method default"}
    more = {"hyper": {"alpha": alpha}, "sources": sources, **more}
    return [make_record("wise_ft", seed=s, accuracy=accuracy, rules=rules, line=line, **more) for s in seeds]


def wise_board(**more):
    tuned, fixed = wise(0.85, ("one_se", "best_id"), 1.0, **more), wise(0.80, ("fixed",), 0.5, **more)
    return build([zero_shot(), *seeds_of("ft", [0.82, 0.82]), *tuned, *fixed])


def test_a_fixed_alpha_is_a_second_ranked_row_under_every_rule():
    board = wise_board()
    for rule in RULES:
        rows = board.sections[0].table(rule, "tiny-vit-p8")
        assert [row.name for row in rows] == ["zero_shot", "wise_ft", "ft", "wise_ft (alpha 0.5)"]
        assert rows[-1].complete and rows[-1].cell("acc_id")[0] == pytest.approx(0.80)
    markdown = board.to_markdown()
    assert "| wise_ft (alpha 0.5) | local | 2 | 80.0 ± 0.0 |" in markdown
    assert "A row with a value beside its name, wise_ft (alpha 0.5), has that value by default" in markdown
    assert "wise_ft (alpha 0.5)" in shown(board)
    assert "where rule best_id chose another setting" not in shown(board)
    found = [(line["rule"], line["ranked"], line["setting"]) for line in lines(board) if line["method"] == "wise_ft"]
    assert found[2] == ("fixed", "yes", "lr=0.001, alpha=0.5") and [rule for rule, *_ in found].count("fixed") == 1


def test_a_tuned_alpha_that_is_the_fixed_one_stands_in_both_rows():
    rows = table(wise(0.8, ("one_se", "best_id", "fixed"), 0.5))
    assert [row.name for row in rows] == ["wise_ft", "wise_ft (alpha 0.5)"]
    assert rows[0].tuned == {"alpha": 0.5, "lr": 0.001} and rows[1].tuned == {"lr": 0.001}


def test_the_best_fixed_row_may_be_bold():
    board = build([*wise(0.9, ("fixed",), 0.5), *seeds_of("ft", [0.8, 0.8])])
    assert "| wise_ft (alpha 0.5) | local | 2 | **90.0 ± 0.0** |" in board.to_markdown()


def test_the_oracle_is_one_alpha_for_all_seeds_and_stands_aside():
    board = wise_board()
    (oracle,) = board.sections[0].aside(ORACLE)
    assert oracle.cell("acc_ood_mean") == (pytest.approx(0.78), pytest.approx(0.0), 2)
    assert oracle.cell("acc_id")[0] == pytest.approx(0.83)  # of the same point
    assert (oracle.setting, oracle.trials) == ("lr=0.001, alpha=0.8", 4)
    markdown = board.to_markdown()
    part = markdown[markdown.index("### Oracle: chosen on the shifts themselves, never ranked") :]
    assert "| wise_ft (alpha 0.8) | tiny-vit-p8 | local | 2 | 83.0 ± 0.0 |" in part and "**" not in part
    assert "Oracle: chosen on the shifts themselves, never ranked" in shown(board)
    (line,) = [line for line in lines(board) if line["rule"] == "oracle"]
    assert line["ranked"] == "no" and line["acc_ood_mean_percent_mean"] == "78.0000"


def test_the_oracle_is_never_ranked_though_it_beats_every_row():
    board = wise_board(line={0.0: 0.7, 0.5: 0.99})
    for rule in (*RULES, ORACLE, "fixed"):
        assert all(row.kind != ORACLE for row in board.sections[0].table(rule, "tiny-vit-p8"))
    assert all(row.kind != ORACLE for row in board.sections[0].unranked())
    ranked, rest = board.to_markdown().split("### Selection rules side by side")
    paths, oracle = rest.split("### Oracle")
    assert "99.0" not in ranked and "**99.0" not in rest
    assert (paths.count("99.0"), oracle.count("99.0")) == (1, 6)  # the path's point; five shifts and their mean
    assert [line["ranked"] for line in lines(board) if line["acc_ood_mean_percent_mean"] == "99.0000"] == ["no"]


def test_the_oracle_maximises_the_mean_over_seeds_and_not_each_seed():
    first, second = {0.0: 0.60, 0.4: 0.90, 0.6: 0.75}, {0.0: 0.60, 0.4: 0.50, 0.6: 0.72}
    runs = wise(0.8, ("fixed",), 0.4, seeds=(0,), line=first) + wise(0.8, ("fixed",), 0.4, seeds=(1,), line=second)
    assert [path.best for path in runs_of_paths(runs)] == [0.6]  # 0.735 against 0.70; seed 0 alone would take 0.4
    (oracle,) = build(runs).sections[0].aside(ORACLE)
    assert [oracle.values["acc_ood_mean"][seed] for seed in (0, 1)] == pytest.approx([0.75, 0.72])


def test_the_smallest_of_equal_values_is_the_oracles():
    (run,) = wise(0.8, ("fixed",), 0.5, seeds=(0,), line={0.2: 0.7, 0.4: 0.8, 0.6: 0.8})
    assert [path.best for path in runs_of_paths([run])] == [0.4]


def test_what_the_oracle_makes_of_a_record_carries_no_rule_and_comes_from_the_first_run_of_a_seed():
    (early,) = wise(0.8, ("one_se",), 0.5, seeds=(0,), finished="2026-01-01T00:00:00Z")
    (late,) = wise(0.8, ("fixed",), 0.8, seeds=(0,), line={0.1: 0.9, 0.2: 0.1}, finished="2026-02-01T00:00:00Z")
    (made,) = at_best_points(runs_of_paths([late, early, make_record("ft")]))
    assert made["selection"] == {"rules": [], "tuning": None, "trials": 4}
    assert (made["spec"]["hyper"], made["sources"]["alpha"]) == ({"alpha": 0.8}, "oracle")


def test_paths_from_other_inputs_backbones_and_places_are_other_oracles():
    mine = wise(0.8, ("one_se",), 0.5) + wise(0.8, ("best_id",), 0.8, lr=1e-2)
    rehearsal = wise(0.8, (), 0.5)[0]
    rehearsal["spec"]["limit"] = 32
    board = build(
        [*mine, *wise(0.8, ("one_se",), 0.5, backbone="tiny-rn"), rehearsal],
        wise(0.8, ("one_se",), 0.5, seeds=range(5)),
    )
    rows = board.sections[0].aside(ORACLE)
    assert [(row.backbone, row.provenance, row.label, len(row.seeds)) for row in rows] == [
        ("tiny-rn", "local", "", 2),
        ("tiny-vit-p8", "local", "lr=0.001", 2),
        ("tiny-vit-p8", "local", "lr=0.01", 2),
        ("tiny-vit-p8", "reference", "", 5),
    ]


def test_an_oracle_over_fewer_seeds_than_the_others_says_so():
    board = build([*seeds_of("ft", [0.8, 0.8, 0.8]), *wise(0.8, ("one_se",), 0.5)])
    (oracle,) = board.sections[0].aside(ORACLE)
    assert oracle.marks["seeds"] == "2 of 3 seeds, missing 2"


def test_published_values_are_never_ranked_nor_beside_tuned_ones():
    recipe = {"recipe": "as_published", "rules": ("published",), "sources": {"lr": "recipe as_published: paper"}}
    ours = [
        *seeds_of("ft", [0.7, 0.7]),
        zero_shot(),
        make_record("zero_shot", rules=("published",), recipe="as_published"),
    ]
    board = build([*ours, *seeds_of("tracer", [0.9, 0.9], **recipe), *seeds_of("flyp", [0.8, 0.8], **recipe)])
    published, common = board.sections
    assert (published.recipe, common.recipe) == ("as_published", "common")
    assert [row.method for row in published.aside(PUBLISHED)] == ["zero_shot", "flyp", "tracer"]
    for rule in (*RULES, "published"):
        assert {row.method for row in published.table(rule, "tiny-vit-p8")} <= {"zero_shot"}
        assert {row.method for row in common.table(rule, "tiny-vit-p8")} <= {"zero_shot", "ft"}
    assert common.aside(PUBLISHED) == [] and published.unranked() == []
    first, second = board.to_markdown().split("## digits (digits-v1), recipe common")
    assert "### published (selection unknown)" in first and "Selection rule" not in first and "**" not in first
    assert "tracer" not in second and "published" not in second
    assert {line["ranked"] for line in lines(board) if line["recipe"] == "as_published"} == {"no"}
    assert [line["rule"] for line in lines(board) if line["method"] == "tracer"] == ["published (selection unknown)"]
    console = shown(board)
    assert console.index("published (selection unknown)") < console.index("recipe common")


def test_published_wins_over_any_rule_that_is_named_beside_it():
    board = build(
        [*seeds_of("ft", [0.7, 0.7]), *seeds_of("tracer", [0.9, 0.9], rules=("one_se", "fixed", "published"))]
    )
    assert [row.method for row in board.sections[0].table("one_se", "tiny-vit-p8")] == ["ft"]
    assert [row.method for row in board.sections[0].aside(PUBLISHED)] == ["tracer"]


def test_a_soup_is_one_complete_row_without_deviation():
    soup = make_record("model_soup", accuracy=0.9, inputs={"ft:0": "a", "ft:1": "b", "ft:2": "c"})
    board = build([*seeds_of("ft", [0.8, 0.8, 0.8]), soup])
    row, ft = board.sections[0].table("one_se", "tiny-vit-p8")
    assert row.method == "model_soup" and row.complete and row.marks == {} == ft.marks
    assert row.cell("acc_id") == (0.9, None, 1)
    markdown = board.to_markdown()
    assert "| model_soup | local | 1 | **90.0** |" in markdown
    assert "n = 1, and no deviation, where a row is made from the runs of several seeds: model_soup. Other" in markdown


def test_soups_that_share_members_are_never_averaged():
    soups = [make_record("model_soup", seed=s, accuracy=0.9 - s, inputs={f"ft:{s}": "a"}) for s in (0.0, 0.1)]
    for seed, soup in enumerate(soups):
        soup["seed"] = soup["spec"]["seed"] = seed
    (row,) = table(soups)
    assert row.cell("acc_id") == (0.9, None, 1)


def test_a_soup_asks_no_other_row_for_its_seed():
    soup = make_record("model_soup", seed=7, inputs={"ft:7": "a", "ft:8": "b"})
    rows = table([*seeds_of("ft", [0.8, 0.8]), soup])
    assert all(row.marks == {} for row in rows)


def of_grid(beta, accuracy, seeds=(0, 1), **more):
    sources = {"beta": "grid of ablation-beta", "lr": "tuned one_se (digits)"}
    more = {"benchmark": "ablation-beta", "hyper": {"beta": beta}, "sources": sources, "rules": (), **more}
    return [make_record("tracer", seed=seed, accuracy=accuracy, **more) for seed in seeds]


def test_a_grid_is_a_table_of_its_own_that_names_what_varies():
    records = of_grid(0.5, 0.8) + of_grid(0.25, 0.9) + of_grid(1.5, 0.7) + [zero_shot(benchmark="ablation-beta")]
    board = build(records)
    rows = board.sections[0].aside(GRID)
    assert [row.name for row in rows] == ["zero_shot", "tracer [beta=0.25]", "tracer [beta=0.5]", "tracer [beta=1.5]"]
    assert [row.cell("acc_id") for row in rows[1:2]] == [(pytest.approx(0.9), pytest.approx(0.0), 2)]
    assert board.sections[0].unranked() == []
    markdown = board.to_markdown()
    assert "### Ablation" in markdown and "Selection rule" not in markdown and "**" not in markdown
    row = next(line for line in markdown.splitlines() if "beta=0.25" in line)
    assert row.startswith("| tracer \\[beta=0.25\\] | tiny-vit-p8 | local | 2 | 90.0 ± 0.0 |") and "| lr=0.001 |" in row
    assert {(line["rule"], line["ranked"]) for line in lines(board) if line["method"] == "tracer"} == {("grid", "no")}
    assert "Ablation: settings of a grid" in shown(board) or "ablation: settings of a grid" in shown(board)


def test_a_grid_setting_without_all_seeds_is_marked():
    board = build(of_grid(0.5, 0.8) + of_grid(0.25, 0.9, seeds=(0,)))
    marks = {row.label: row.marks.get("seeds") for row in board.sections[0].aside(GRID)}
    assert marks == {"beta=0.5": None, "beta=0.25": "1 of 2 seeds, missing 1"}


def test_no_kind_that_stands_aside_is_in_two_lists():
    board = build([*of_grid(0.5, 0.8), *wise(0.8, ("one_se",), 0.5), *seeds_of("ft", [0.8], rules=("published",))])
    for one in board.sections:
        shelves = [one.aside(kind) for kind in ASIDE] + [one.unranked(), one.table("one_se", "tiny-vit-p8")]
        found = [id(row) for shelf in shelves for row in shelf]
        assert len(found) == len(set(found)) == len(one.rows)


def test_records_from_before_a_field_existed_stand_in_one_row_with_later_ones():
    early, late = make_record(seed=0), make_record(seed=1)
    late["spec"]["bn"] = "frozen"
    (row,) = table([early, late])
    assert row.seeds == (0, 1)
    late["spec"]["bn"] = "released"
    assert [row.label for row in table([early, late])] == ["bn=frozen", "bn=released"]


def test_gaps_of_distilling_runs_are_columns_of_the_csv():
    records = (
        seeds_of("ft", [0.8, 0.8]) + seeds_of("ema", [0.8], gaps=[0.4, 0.2]) + seeds_of("ema", [0.8], gaps=[0.1, None])
    )
    records[-1]["seed"] = 1
    board = build(records)
    ft, ema = lines(board)[1], lines(board)[0]
    assert (ema["method"], ema["gap_50_mean"], ema["gap_50_n"]) == ("ema", "0.250000", "2")
    assert (ema["gap_100_mean"], ema["gap_100_n"], ft["gap_100_mean"]) == ("0.200000", "1", "")
    assert "gap" not in board.to_markdown() and "gap_50_mean" not in lines(build(seeds_of("ft", [0.8])))[0]


def test_the_worst_group_is_a_column_of_the_csv_where_there_are_groups():
    record = make_record()
    record["sets"]["fresh"]["worst_group_accuracy"] = 0.31
    assert lines(build([record]))[0]["worst_group_acc_fresh_percent_mean"] == "31.0000"


def test_a_record_with_a_path_comes_back_from_disk_and_gives_the_same_board(tmp_path):
    records = wise(0.85, ("one_se", "fixed"), 0.5)
    for record in records:
        publish_record(tmp_path / record["run_id"], record)
    back = [read_record(tmp_path / record["run_id"] / "record.json") for record in records]
    assert back == records
    assert build(back).to_markdown() == build(records).to_markdown()


def full_board():
    """18 methods on three backbones, with rows of every kind."""
    records = []
    for name in ("tiny-rn", "tiny-vit-p8", "tiny-vit-p16"):
        records += [zero_shot(backbone=name), *wise(0.85, ("one_se",), 0.8, backbone=name)]
        records += wise(0.8, ("fixed",), 0.5, backbone=name)
        records += [make_record(f"method_{i}", name, seed, 0.7 + i / 100) for i in range(16) for seed in (0, 1)]
    return build([*records, *of_grid(0.5, 0.8)])


def test_eighteen_methods_a_backbone_fit_the_terminal_and_the_page():
    board = full_board()
    narrow = shown(board, 80)
    assert "…" not in narrow and max(map(len, narrow.splitlines())) <= 80
    for block in board.to_markdown().split("\n\n"):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") - line.count("\\|") for line in rows}) <= 1


def test_the_terminal_shows_this_machines_rows_first_and_of_the_reference_what_stands_beside_them():
    reference = [
        record
        for backbone in ("tiny-rn", "tiny-vit-p8")
        for record in (
            zero_shot(backbone=backbone),
            *(make_record(method, backbone, seed) for method in ("ft", "flyp", "ema") for seed in (0, 1)),
            make_record("tracer", backbone, rules=(), hyper={"beta": 0.1}, sources={"beta": "--set"}),
        )
    ]
    rehearsal = [make_record("flyp", seed=seed, rules=(), spec={"train_limit": 100}, n=100) for seed in (0, 1)]
    lines = shown(build(rehearsal, reference)).splitlines()
    at = lines.index(next(line for line in lines if line.startswith("runs of this machine, not ranked")))
    assert at == 2  # after the benchmark's name
    rows = [line.split() for line in lines[at + 2 : at + 5]]
    assert [(row[0].partition("[")[0]) for row in rows] == ["zero_shot", "flyp", "flyp"] and "local" in rows[2]
    assert sum("reference" in line for line in lines) == 3 and "tiny-rn" not in "".join(lines)
    assert "8 more rows of the committed reference: leaderboard.md." in lines

    ranked = shown(build(seeds_of("tracer", [0.9, 0.9]), reference))
    assert "tiny-vit-p8, rule one_se" in ranked and "tiny-rn" not in ranked and "ema " in ranked
    assert "6 more rows of the committed reference" in ranked
    everything = shown(build([], reference))
    assert "tiny-rn, rule one_se" in everything and "more rows" not in everything
