"""Published numbers beside ours: what is printed, the differences, the warnings, and that nothing is pooled."""

import csv
import io
from dataclasses import replace

import pytest
from make_records import make_record
from rich.console import Console

from robustft.benchmarks import cli
from robustft.results.board.rows import Section
from robustft.results.published.rows import SHIFTS, ablations, is_of, rows
from robustft.results.tables.blocks import Notes, Table
from robustft.results.tables.leaderboard import build, write
from robustft.results.tables.published_tables import DERIVED, difference, warnings

BACKBONE = "ViT-B-16"


def ours(
    method,
    accuracies,
    shifts=0.6,
    benchmark="imagenet",
    recipe="as_published",
    rules=("published",),
    lineage=True,
    **more,
):
    """Runs on ImageNet's sets."""
    found = []
    for seed, accuracy in enumerate(accuracies):
        record = make_record(
            method, BACKBONE, seed, accuracy, benchmark=benchmark, version="imagenet-v1", recipe=recipe, rules=rules,
            shifts=SHIFTS, **more,
        )  # fmt: skip
        record["sets"] = {"imagenet" if name == "id" else name: value for name, value in record["sets"].items()}
        for name, metrics in record["sets"].items():
            metrics["accuracy"] = shifts if name in SHIFTS else metrics["accuracy"]
            if lineage:  # the released code's estimator, which is not the board's
                metrics["ece_lineage_10bins_b512"] = metrics["ece"] + 0.02
        found.append(record)
    return found


def paper(table, method, backbone=BACKBONE):
    (row,) = [row for row in rows() if (row.table, row.method, row.backbone) == (table, method, backbone)]
    return row


def shown(board, backbone=BACKBONE):
    """(method, provenance, source) -> cells by heading, of the table of published numbers."""
    found = next(b for b in board.blocks if isinstance(b, Table) and b.caption.startswith(f"imagenet, {backbone}:"))
    lines = [dict(zip(found.head, (cell.text for cell in line), strict=True)) for line in found.rows]
    return {(line["method"].split(" (")[0], line["provenance"], line["source"]): line for line in lines}


def test_the_rows_are_the_printed_ones():
    tracer = paper("table1", "tracer")
    assert tracer.cells["acc_id"][0] == pytest.approx(0.8276) and tracer.cells["acc_ood_mean"][0] == pytest.approx(
        0.6407
    )
    assert tracer.cells["acc/imagenet_a"] == (pytest.approx(0.5492), pytest.approx(0.0026)) and tracer.seeds == 3
    assert paper("table7", "ft", "ViT-L-14").cells["acc_id"][0] == pytest.approx(0.8474)
    assert paper("table7", "ft", "ViT-L-14").seeds is None
    assert {row.table for row in rows()} == {"table1", "table2", "table3", "table5", "table6", "table7"}


def test_a_difference_is_ours_minus_the_papers_in_points():
    board = build(ours("tracer", [0.83, 0.84]), published=True)
    lines = shown(board)
    assert lines["tracer", "local", "published (selection unknown)"]["ID"] == "83.5 ± 0.7"
    assert lines["tracer", "paper", "Table 1"]["ID"].startswith("82.76 ± ")
    apart = lines["tracer", "local − paper", "Table 1"]
    assert (apart["ID"], apart["OOD mean"], apart["imagenet_a"]) == ("+0.7", "-4.1", "+5.1")
    assert lines["tracer", "local − paper", "Table 5"]["ID ECE"] == "+0.025"  # 0.07 against 0.045
    assert ("flyp", "paper", "Table 1") in lines and ("flyp", "local − paper", "Table 1") not in lines


def test_the_calibration_error_beside_the_papers_is_by_the_released_codes_estimator():
    (row,) = build(ours("tracer", [0.83, 0.84])).sections[0].rows
    assert row.cell("ece_id")[0] == pytest.approx(0.05) and row.cell("ece_lineage_id")[0] == pytest.approx(0.07)
    assert difference(row, paper("table5", "tracer"), "ece_id") == pytest.approx(0.07 - 0.045)
    shifts = 0.01 * (1 + 2 + 3 + 4 + 5) / 5 + 0.07
    assert row.cell("ece_lineage_ood_mean")[0] == pytest.approx(shifts)
    board = build(ours("tracer", [0.83, 0.84], lineage=False), published=True)  # an earlier record
    lines = shown(board)
    assert lines["tracer", "local", "published (selection unknown)"]["ID ECE"] == ""
    assert lines["tracer", "local − paper", "Table 5"]["ID ECE"] == "" != lines["tracer", "paper", "Table 5"]["ID ECE"]


def study(grid, name="ablation"):
    """A study's runs of TRACER on ImageNet, two seeds a setting."""
    sources = dict.fromkeys(grid[0], f"grid of {name}")
    runs = [
        ours("tracer", [0.8, 0.82], 0.6, name, "common", (), hyper=hyper, sources=sources, lr=1e-5) for hyper in grid
    ]
    return [record for records in runs for record in records]


def of_table(board, number):
    return next(b for b in board.blocks if isinstance(b, Table) and b.caption.startswith(f"imagenet, Table {number}:"))


def test_a_study_stands_beside_the_papers_ablation_of_the_same_and_beside_nothing_else():
    board = build(study([{"beta": 0.2}, {"beta": 0.6}]), published=True)
    table = of_table(board, 11)
    lines = [[cell.text for cell in line] for line in table.rows]
    places = [line[1] for line in lines]
    at = places.index("local")
    assert places[at : at + 3] == ["local", "paper", "local − paper"] and places.count("paper") == 6 and len(lines) == 8
    assert lines[at][0] == "tracer [beta=0.2]" and lines[at + 1][0].startswith("tracer [beta=0.2] (")
    printed, apart = (dict(zip(table.head, line, strict=True)) for line in lines[at + 1 : at + 3])
    assert (printed["OOD mean"], apart["OOD mean"]) == ("64.22", "-4.2")
    assert apart["ID"] == f"{81 - float(printed['ID']):+.1f}"
    captions = [block.caption for block in board.blocks if isinstance(block, Table)]
    assert not any("Table 9" in caption or "published numbers beside ours" in caption for caption in captions)
    text = board.to_markdown()
    assert "unstated number of seeds" in text and "beta=0.6" in text
    text = build(study([{"fd_weight": 1.0}]), published=True).to_markdown()
    assert "no printed table has what ablation varies" in text


def test_terms_are_on_whatever_their_weight_and_a_clock_is_free():
    names = ("fd_weight", "cross_kd_weight", "icl_weight", "crd_weight")
    grid = [dict(zip(names, values, strict=True)) for values in ((0.0, 0.0, 0.0, 0.0), (3.906, 1.0, 1.0, 1.0))]
    board = build(study(grid), published=True)
    told = [line[0].text for line in of_table(board, 8).rows if line[1].text == "local − paper"]
    assert len(told) == 2 and all(text.startswith("tracer [") for text in told)
    text = board.to_markdown()
    assert "Table 1 prints other numbers for this row: ID 82.76 ± 0.07 (here 82.81), " in text and "59.46" in text
    assert "imagenet_sketch 53.69 ± 0.14 (here 53.96)" in text.replace("\\", "")
    grid = [{"update_every": n, "clock": clock} for n in (1, 500) for clock in ("definition", "released")]
    board = build(study(grid), published=True)
    assert sum(line[1].text == "local − paper" for line in of_table(board, 10).rows) == 4
    assert "clock=released" in board.to_markdown()
    assert len(ablations()) == 16 + 14 + 9 + 6


def test_four_shifts_are_never_set_against_five():
    (row,) = build(ours("ft", [0.8, 0.8])).sections[0].rows
    assert difference(row, paper("table2", "ft"), "acc_ood_mean") is None
    assert difference(row, paper("table2", "ft"), "acc/imagenet_r") is not None
    assert any("four shifts" in sentence for sentence in warnings(paper("table2", "ft"), [row], "common"))
    assert not any("four shifts" in sentence for sentence in warnings(paper("table1", "flyp"), [row], "common"))


@pytest.mark.parametrize("method", DERIVED)
def test_rows_that_are_no_same_recipe_say_so(method):
    assert any("Not the same recipe" in sentence for sentence in warnings(paper("table2", method), [], "common"))


def test_same_recipe_rows_do_not():
    for method in ("tracer", "carot", "flyp", "lp_ft"):
        assert not any("Not the same recipe" in text for text in warnings(paper("table2", method), [], "common"))


def test_estimator_seeds_recipe_and_contradictions_are_warned_of():
    (row,) = build(ours("lp_ft", [0.8, 0.8])).sections[0].rows
    told = " ".join(warnings(paper("table1", "lp_ft"), [row], "common"))
    assert "is of 3 seeds, ours of 2" in told and "Our recipe is common" in told
    assert "Table 2 prints other numbers for this row: ID 82.14 ± 0.08 (here 82.44 ± 0.08)" in told
    assert "10 bins" not in told and "10 bins" in " ".join(warnings(paper("table5", "lp_ft"), [row], "common"))
    assert "unstated number of seeds" in " ".join(warnings(paper("table5", "lp_ft"), [row], "as_published"))
    assert "Our recipe" not in " ".join(warnings(paper("table1", "tracer"), [row], "as_published"))


TWICE = {
    "tracer": "v2 74.12 ± 0.15 (here 74.14 ± 0.15), imagenet_r 79.30 ± 0.18 (here 79.33 ± 0.18), "
    "imagenet_a 54.72 ± 0.24 (here 54.92 ± 0.26).",
    "carot": "ID 83.16 ± 0.06 (here 83.15 ± 0.06), imagenet_a 51.57 ± 0.22 (here 51.57 ± 0.24), "
    "imagenet_sketch 52.74 ± 0.13 (here 52.68 ± 0.13).",
    "lipsum_ft": "ID 83.33 ± 0.05 (here 83.32 ± 0.05).",
    "lp_ft": "imagenet_a 46.32 ± 0.30 (here 49.28 ± 0.31), imagenet_sketch 48.65 ± 0.16 (here 50.31 ± 0.15).",
    "flyp": "imagenet_sketch 49.87 ± 0.19 (here 49.87 ± 0.18).",
}


@pytest.mark.parametrize("method", TWICE)
def test_every_cell_that_tables_1_and_2_print_differently_is_told_on_both_rows(method):
    (told,) = [text for text in warnings(paper("table1", method), [], "common") if text.startswith("Table 2 prints")]
    assert told.endswith(TWICE[method]) and "OOD mean" not in told  # of four shifts against five
    assert any(text.startswith("Table 1 prints") for text in warnings(paper("table2", method), [], "common"))


def test_rows_that_agree_and_numbers_that_only_show_fewer_places_are_no_contradiction():
    for table, method in (("table1", "zero_shot"), ("table1", "arf"), ("table5", "carot"), ("table2", "ft")):
        found = [row for row in rows() if (row.table, row.method, row.backbone) == (table, method, BACKBONE)]
        assert not any("prints other numbers" in text for row in found for text in warnings(row, [], "common"))


def test_other_contradictions_are_found_too():
    def of(table, method, backbone=BACKBONE):
        return " ".join(warnings(paper(table, method, backbone), [], "common"))

    assert "Table 7 prints other numbers for this row: ID 85.26 (here 84.74)" in of("table3", "lp_ft", "ViT-L-14")
    assert "One ECE, 0.3435, is printed twice" in of("table6", "carot", "RN50")
    assert "The printed OOD ECE, 0.184, is not the mean of its columns, 0.1832." in of("table5", "flyp")
    assert "Table 8 at fd=1, cross_kd=1, icl=1, crd=1 prints other numbers" in of("table1", "tracer")


def test_contradictions_of_tables_that_the_page_does_not_show_stand_on_it_all_the_same():
    text = build([make_record("ft")], published=True).to_markdown()
    assert "Tables 8, 9, 10, 11, TRACER's ablations on ViT-B-16, are in leaderboard_published.csv" in text
    assert "Table 8, fd=0, cross_kd=0, icl=0, crd=0: The printed OOD mean, 59.40, is not" in text.replace("\\", "")
    assert "Table 11, beta=0.5: Table 2 prints other numbers" in text.replace("\\", "")


def test_tracer_rows_say_where_its_printed_and_released_settings_differ():
    for table, backbone, words in (("table6", "RN50", "9e-6, 0.02 and 0.01"), ("table7", "ViT-L-14", "no settings")):
        assert any(words in text for text in warnings(paper(table, "tracer", backbone), [], "as_published"))
    assert "0.01 in the paper's section 5.2.1 and 0.1" in " ".join(warnings(paper("table1", "tracer"), [], "common"))
    assert "5.2.1" not in " ".join(warnings(paper("table1", "flyp"), [], "common"))


def test_every_letter_behind_a_name_has_its_sentence():
    board = build(ours("tracer", [0.83]), published=True)
    (notes,) = [b for b in board.blocks if isinstance(b, Notes) and any("86 templates" in item for item in b.items)]
    letters = {item.partition(":")[0] for item in notes.items}
    used = set()
    for block in board.blocks:
        if isinstance(block, Table) and block.caption.startswith("imagenet, "):
            for line in block.rows:
                if line[1].text == "paper":
                    used |= set(line[0].text.partition("(")[2].rstrip(")").split())
    assert used == letters and len(letters) > 4


def test_published_numbers_enter_no_row_of_ours(tmp_path):
    records = ours("tracer", [0.83, 0.84], recipe="common", rules=("one_se",))
    plain = write(records, [], tmp_path / "a")
    beside = write(records, [], tmp_path / "b", published=True)
    assert beside.sections == plain.sections
    for name in ("leaderboard.csv", "leaderboard_long.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "82.76" in (tmp_path / "b" / "leaderboard.md").read_text()
    assert "82.76" not in (tmp_path / "a" / "leaderboard.md").read_text()
    assert not (tmp_path / "a" / "leaderboard_published.csv").exists()
    lines = list(csv.DictReader(io.StringIO((tmp_path / "b" / "leaderboard_published.csv").read_text())))
    found = [x for x in lines if (x["method"], x["source"], x["column"]) == ("tracer", "Table 1", "acc_id")]
    assert [(x["provenance"], x["paper_mean"], x["ours_mean"], x["difference"]) for x in found] == [
        ("local", "82.76", "83.5000", "0.7400")
    ]
    found = [x for x in lines if (x["source"], x["variant"], x["column"]) == ("Table 11", "beta=0.2", "acc_id")]
    assert [(x["provenance"], x["paper_mean"], x["ours_mean"]) for x in found] == [("paper", "81.91", "")]
    assert {x["provenance"] for x in lines} == {"local", "paper"} and all(x["warnings"] for x in lines)


def test_without_imagenet_runs_the_printed_rows_stand_alone():
    board = build([make_record("ft")], published=True)
    assert "no printed table has the sets of digits" in board.to_markdown()
    assert "and none of ours yet" in board.to_html() and "82.76" in board.to_latex()
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(board.to_console())
    assert "82.76" in console.file.getvalue() and "86 templates" in console.file.getvalue()


def test_the_flag_is_one_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["leaderboard", "--runs", str(tmp_path), "--results", str(tmp_path / "r"), "--with-published"])
    assert not end.value.code and "Table 2" in capsys.readouterr().out
    assert (tmp_path / "r" / "leaderboard_published.csv").exists()


def test_few_shots_and_other_means_are_not_the_papers():
    whole = Section("imagenet", "imagenet-v1", "common", "0", "imagenet", SHIFTS, (), ())
    assert is_of(whole) and not is_of(replace(whole, shots=4))
    assert not is_of(replace(whole, shifts=(*SHIFTS, "imagenet_c"))) and not is_of(replace(whole, id_set="id"))
