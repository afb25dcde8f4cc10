"""The same board as Markdown, LaTeX, HTML and CSV: what is in the cells, in which order, and what is said of them."""

import csv
import io
import random
import re
from html.parser import HTMLParser

import pytest
from make_records import SHIFTS, make_record

from robustft.results.board.comparison import compare
from robustft.results.board.per_sample import Outcomes
from robustft.results.records.records import gather_reference
from robustft.results.tables.blocks import Table, Text
from robustft.results.tables.cells import empty_cells
from robustft.results.tables.leaderboard import build

BACKBONE = "tiny-vit-p8"
LINE = {0.0: 0.70, 0.5: 0.74, 0.8: 0.78, 1.0: 0.60}


def seeds_of(method, values, **more):
    return [make_record(method, seed=seed, accuracy=value, **more) for seed, value in enumerate(values)]


def placed(method, id_accuracy, shift, seeds=(0, 1), **more):
    """Runs of one ID accuracy and one accuracy on every shift."""
    found = [make_record(method, seed=seed, accuracy=id_accuracy, **more) for seed in seeds]
    for record in found:
        for metrics in record["sets"].values():
            metrics["accuracy"] = shift if metrics["role"] == "shift" else id_accuracy
    return found


def wise(accuracy=0.8, seeds=(0, 1), line=LINE, **more):
    sources = {"lr": "tuned one_se of ft", "alpha": "method default"}
    more = {"hyper": {"alpha": 0.5}, "sources": sources, "rules": ("fixed",), **more}
    return [make_record("wise_ft", seed=s, accuracy=accuracy, line=line, **more) for s in seeds]


def lines(text):
    return list(csv.DictReader(io.StringIO(text)))


def table(board, start):
    """The first table whose caption, or whose first heading, holds these words."""
    return next(block for block in board.blocks if isinstance(block, Table) and start in block.caption)


def columns_of(found, name):
    return [row[found.head.index(name)] for row in found.rows]


# order, budgets, selection


def test_the_pareto_front_comes_first_and_the_rest_by_ood_mean():
    records = [make_record("zero_shot", accuracy=0.99, rules=())]
    records += placed("careful", 0.70, 0.80) + placed("eager", 0.90, 0.60) + placed("beaten", 0.69, 0.79)
    records += placed("between", 0.80, 0.50) + placed("twin", 0.90, 0.60)
    section = build(records).sections[0]
    rows = section.table("one_se", BACKBONE)
    assert [row.method for row in rows] == ["zero_shot", "careful", "eager", "twin", "beaten", "between"]
    assert {row.method for row in section.front(rows)} == {"careful", "eager", "twin"}
    found = {
        line["method"]: line["pareto_front"] for line in lines(build(records).to_csv()) if line["rule"] == "one_se"
    }
    assert found == dict.fromkeys(("careful", "eager", "twin"), "yes") | dict.fromkeys(
        ("zero_shot", "beaten", "between"), "no"
    )


def test_a_row_of_another_budget_is_shown_marked_and_not_compared():
    records = seeds_of("ft", [0.8, 0.8]) + seeds_of("flyp", [0.7, 0.7]) + seeds_of("wise_ft", [0.9, 0.9])
    for record in records[-2:]:
        record["selection"]["trials"] = 20
        record["selection"]["evaluated"] = 0
    board = build(records)
    rows = board.sections[0].table("one_se", BACKBONE)
    assert [row.method for row in rows] == ["ft", "flyp", "wise_ft"] and rows[-1].complete
    markdown = board.to_markdown()
    assert "**90.0" not in markdown and "**80.0 ± 0.0**" in markdown
    assert "‖ 20 trained settings, others 9: shown, not compared with them: wise_ft on tiny-vit-p8 (local)." in markdown


@pytest.mark.parametrize("told", [True, False])
def test_values_along_a_path_cost_no_training_and_set_no_row_aside(told):
    """WiSE-FT's nine trials are FT's, and its eleven alphas are read off the chosen run (earlier records: by path)."""
    records = seeds_of("ft", [0.8, 0.8]) + seeds_of("flyp", [0.7, 0.7])
    line = {alpha / 10: 0.5 for alpha in range(11)}
    chosen = seeds_of("wise_ft", [0.9, 0.9], line=line, hyper={"alpha": 0.9}, sources={"alpha": "tuned one_se"})
    for record in chosen:
        assert record["selection"]["trials"] == 20
        if told:
            record["selection"]["evaluated"] = 11
    board = build(records + chosen)
    rows = board.sections[0].table("one_se", BACKBONE)
    assert rows[0].method == "wise_ft" and (rows[0].trained, rows[0].evaluated) == (9, 11) and rows[0].competes
    assert columns_of(table(board, "one_se, tiny-vit-p8"), "tuning (trials)")[0].text.endswith("(9 + 11 evaluated)")
    assert "‖" not in board.to_markdown() and "**90.0" in board.to_markdown()
    line = next(line for line in lines(board.to_csv()) if line["method"] == "wise_ft" and line["rule"] == "one_se")
    assert (line["trials"], line["trials_evaluated"]) == ("20", "11")


def test_two_records_of_one_seed_that_differ_are_a_contradiction_that_the_row_shows():
    """As where a run folder was copied and its record changed, or two schemes of ids met."""
    other = make_record("flyp", seed=0, accuracy=0.99, finished="2025-01-01T00:00:00Z")
    first, second = seeds_of("flyp", [0.7, 0.7])
    rest = seeds_of("ft", [0.8, 0.8]) + seeds_of("ema", [0.6, 0.6])
    board = build([*rest, first, second, {**other, "run_id": "copied"}])
    row = next(row for row in board.sections[0].table("one_se", BACKBONE) if row.method == "flyp")
    assert "twice" in row.marks and not row.competes and "**80.0" in board.to_markdown()
    note = f"# seed 0 has records of {' and '.join(sorted(['copied', first['run_id']]))}; the first to finish is shown"
    assert note in board.to_markdown()
    text = build([*rest, first, second, {**other, "run_id": first["run_id"]}]).to_markdown()
    name = first["run_id"]
    note = f"# seed 0 has 2 records of {name} that contradict each other (in folders that end in -{name}); the first"
    assert note in text
    same = build([*rest, first, second, {**first, "run_id": "copied"}])
    assert all(not row.marks for row in same.sections[0].rows)  # the same numbers say nothing else


def test_every_row_says_how_its_setting_was_chosen():
    by_hand = make_record("tracer", rules=(), hyper={"beta": 0.2}, sources={"beta": "--set"})
    untouched = make_record("ema", rules=(), sources={"lr": "recipe common"})
    published = make_record("carot", rules=("published",), seed=1)
    board = build(
        [make_record("zero_shot", rules=()), *seeds_of("ft", [0.8, 0.8]), *wise(), by_hand, untouched, published]
    )
    found = {(line["method"], line["rule"]): line["selection"] for line in lines(board.to_csv())}
    assert found["ft", "one_se"] == "one_se, best_id" and found["zero_shot", "one_se"] == "none"
    assert found["wise_ft", "fixed"] == "fixed alpha 0.5" and found["wise_ft", "oracle"] == "oracle"
    assert found["tracer", ""] == "by hand" and found["ema", ""] == "last: nothing chosen"
    assert found["carot", "published (selection unknown)"] == "published (selection unknown)"
    assert [cell.text for cell in columns_of(table(board, "one_se, tiny-vit-p8"), "selection")] == [
        "none", "one_se, best_id", "fixed alpha 0.5"
    ]  # fmt: skip


# empty cells, floor


def test_empty_cells_are_counted_by_column_and_never_averaged_away():
    short = make_record("flyp", accuracy=0.9, shifts=("fresh",))
    board = build([*seeds_of("ft", [0.8]), short])
    rows = board.sections[0].table("one_se", BACKBONE)
    told = empty_cells(board.sections[0], rows)
    assert told == (
        "Empty cells: 8 of 22 (renditions 1, sketches 1, reversed 1, writers 1, OOD mean 1, OOD ECE 1, "
        "OOD ECE floor 2)."
    )
    assert told in board.to_markdown() and told in board.to_html()
    assert [line["empty_cells"] for line in lines(board.to_csv()) if line["rule"] == "one_se"] == ["1", "7"]


def test_the_floor_is_the_mean_over_shifts_of_what_perfect_calibration_would_give():
    records = seeds_of("ft", [0.8, 0.8]) + seeds_of("flyp", [0.7, 0.7])
    for record in records[:2]:
        for i, metrics in enumerate(record["sets"].values()):
            metrics["ece_expected"] = 0.010 + 0.001 * i
    board = build(records)
    ft, flyp = board.sections[0].table("one_se", BACKBONE)
    assert ft.cell("ece_floor_ood_mean")[0] == pytest.approx(0.013)  # shifts: .011 to .015
    assert flyp.cell("ece_floor_ood_mean") == (None, None, 0)
    found = columns_of(table(board, "one_se, tiny-vit-p8"), "OOD ECE floor")
    assert [(cell.text, cell.best) for cell in found] == [("0.013 ± 0.000", False), ("", False)]
    assert lines(board.to_csv())[0]["ece_floor_id_15_bins_global_mean"] == "0.010000"
    del records[0]["sets"]["writers"]["ece_expected"]
    assert build(records).sections[0].table("one_se", BACKBONE)[0].cell("ece_floor_ood_mean")[2] == 1


# tests against the best


@pytest.fixture(scope="module")
def reference():
    return build([], gather_reference("digits"), Outcomes())


def test_signs_say_what_is_not_separable_from_the_best(reference):
    (section,) = reference.sections
    for backbone in section.backbones:
        rows = section.table("one_se", backbone)
        shown = table(reference, f"one_se, {backbone}")
        for column, heading in (("acc_id", "ID"), ("acc/writers", "writers"), ("acc_ood_mean", "OOD mean")):
            cells = columns_of(shown, heading)
            best, *copies = [i for i, cell in enumerate(cells) if cell.best]
            # Only one model under two names is best twice: FLYP, and its path stopped at alpha 1.
            assert all({rows[best].method, rows[i].method} == {"flyp", "flyp_wise"} for i in copies)
            assert not any(cells[i].sign for i in copies)
            assert not cells[best].sign and not cells[0].sign  # nor does zero-shot compete
            alone = {}
            for i, row in enumerate(rows):
                if i not in (best, *copies) and row.competes:
                    alone[i] = compare(Outcomes(), section, rows[best], row, column).p if heading == "ID" else None
            if heading == "ID":
                untested = [i for i in alone if alone[i] is None]  # one model made of several seeds
                assert {rows[i].method for i in untested} == {"model_soup", "model_stock"}
                assert all(cells[i].sign == "?" for i in untested)
                alone = {i: p for i, p in alone.items() if p is not None}
                # Holm's adjustment only raises p values, and by a factor of their number at most.
                assert all(cells[i].sign == "≈" for i, p in alone.items() if p > 0.05)
                assert all(not cells[i].sign for i, p in alone.items() if p * (len(alone) + len(copies)) <= 0.05)
        for name in ("ID ECE", "OOD ECE"):
            signs = [cell.sign for cell in columns_of(shown, name)]
            assert {"≈", "?"} <= set(signs)
        pooled = [i for i, row in enumerate(rows) if row.pooled]
        assert pooled and not any(line[k].best for i in pooled for line in [shown.rows[i]] for k in range(len(line)))
    assert "≈ is not separable from the best" in reference.to_markdown()


def test_the_csv_has_the_gap_to_the_best_and_its_p_value(reference):
    found = [line for line in lines(reference.to_csv()) if line["rule"] == "one_se" and line["backbone"] == BACKBONE]
    by_method = {line["method"]: line for line in found}
    name = "acc_ood_mean_percent"
    best = max((line for line in found if line["ranked"] == "yes"), key=lambda line: float(line[f"{name}_mean"]))
    assert best[f"{name}_behind_best"] == "" and by_method["zero_shot"][f"{name}_p_holm"] == ""
    flyp = by_method["flyp"]
    assert float(flyp[f"{name}_behind_best"]) == pytest.approx(
        float(best[f"{name}_mean"]) - float(flyp[f"{name}_mean"]), abs=2e-4
    )
    assert 0 <= float(flyp[f"{name}_p_holm"]) < 0.001


def test_the_smallest_difference_counts_images_too_where_there_are_files(reference):
    said = r"seeds on 600 source images and 3 sources of images resolve \(two-sided 5 % / 1\d, the level"
    assert len(re.findall(said, reference.to_markdown())) >= 3


def test_without_files_nothing_is_tested():
    board = build(seeds_of("ft", [0.8, 0.8]) + seeds_of("flyp", [0.8, 0.8]))
    assert "≈" not in board.to_markdown() and lines(board.to_csv())[1]["acc_id_percent_p_holm"] == ""


# paths


def test_a_path_is_the_line_that_its_runs_walked():
    board = build([*seeds_of("ft", [0.82, 0.82]), *wise()])
    (path,) = board.sections[0].paths
    assert (path.method, path.parameter, [stop.value for stop in path.stops]) == ("wise_ft", "alpha", list(LINE))
    shown = table(board, "paths over alpha")
    assert [cell.text for cell in shown.rows[0]][3:] == ["2", *(f"83.0 / {100 * y:.1f}" for y in LINE.values())]


def moving(line):
    """Paths whose ID accuracy moves too: alpha -> (ID, OOD)."""
    records = wise(line={alpha: ood for alpha, (_, ood) in line.items()})
    for record in records:
        for point in record["path"]["points"]:
            point["sets"]["id"]["accuracy"] = line[point["value"]][0]
    return records


def test_ood_at_matched_id_is_linear_between_points_and_never_beyond_the_ends():
    (path,) = build(moving({0.0: (0.6, 0.8), 0.5: (0.8, 0.7), 1.0: (0.9, 0.5)})).sections[0].paths
    at = {score: path.crossing(score).ood for score in (0.6, 0.8, 0.85)}
    assert at == pytest.approx({0.6: 0.8, 0.8: 0.7, 0.85: 0.6})
    assert path.crossing(0.59) is None and path.crossing(0.91) is None
    assert path.crossing(0.8).slope == pytest.approx(-2) and path.crossing(0.7).slope == pytest.approx(-0.5)


def test_how_far_a_row_is_from_a_path_varies_over_seeds_each_beside_its_own():
    line = {0.0: (0.6, 0.8), 0.5: (0.8, 0.7), 1.0: (0.9, 0.5)}
    records = moving(line)
    for record in records:  # the second seed's path lies two points lower
        for point in record["path"]["points"]:
            for name in point["sets"].keys() - {"id"}:
                point["sets"][name]["accuracy"] -= 0.02 * record["seed"]
    others = [*placed("flyp", 0.85, 0.65), *placed("ema", 0.85, 0.65), *seeds_of("ft", [0.8])]
    for record in others:  # the ID accuracies of ema's seeds are a point above and below; the slope there is -2
        if record["method"] == "ema":
            record["sets"]["id"]["accuracy"] += 0.01 - 0.02 * record["seed"]
            record["summary"] = {}
    shown = table(build([*records, *others]), "matched ID accuracy")
    found = {row[1].text: row[-1].text for row in shown.rows}
    # gaps of the seeds are 5 and 7 points, t of one degree of freedom 12.7; of ema 5 + 2 and 7 - 2
    assert found["flyp"] == found["ema"] == "59.0 (+6.0, seeds [-6.7, 18.7])"


def test_where_a_path_passes_an_id_accuracy_twice_the_better_counts():
    (path,) = build(moving({0.0: (0.6, 0.8), 0.5: (0.9, 0.5), 1.0: (0.7, 0.6)})).sections[0].paths
    assert path.crossing(0.75).ood == pytest.approx(0.65)  # 0.575 on the way back


def test_every_row_is_set_beside_the_paths_at_its_own_id_accuracy():
    records = [*placed("flyp", 0.85, 0.65), *placed("ft", 0.95, 0.4), make_record("zero_shot", rules=(), accuracy=0.6)]
    board = build([*records, *moving({0.0: (0.6, 0.8), 0.5: (0.8, 0.7), 1.0: (0.9, 0.5)})])
    shown = table(board, "matched ID accuracy")
    found = {row[1].text: row[-1].text for row in shown.rows}
    assert (
        found["flyp"] == "60.0 (+5.0, seeds [5.0, 5.0])"
        and found["ft"] == ""
        and found["wise_ft (alpha 0.5)"] == "its own"
    )
    assert "Empty cells: 1 of 4; such a path does not reach the row." in board.to_markdown()


def test_a_sweep_of_the_learning_rate_is_a_path_too():
    records = [record for lr, x, y in ((1e-4, 0.7, 0.8), (1e-3, 0.9, 0.6)) for record in placed("ft", x, y, lr=lr)]
    more = {"rules": (), "sources": {"lr": "--set"}}
    records += [record for record in placed("ft", 0.8, 0.75, lr=3e-4, **more)]
    (path,) = build(records).sections[0].paths
    assert (path.name, [stop.value for stop in path.stops]) == ("ft over lr", [1e-4, 3e-4, 1e-3])
    assert path.crossing(0.75).ood == pytest.approx(0.775)
    other = placed("ft", 0.8, 0.75, lr=1e-2, hyper={"x": 1}, **more)
    assert len(build([*records, *other]).sections[0].paths[0].stops) == 3


def test_accuracy_stands_beside_the_metric_that_a_set_s_protocol_names():
    """iWildCam is judged by macro-F1 and FMoW by its worst region: accuracies alone tell another story."""
    records = [*seeds_of("ft", [0.8, 0.82]), *seeds_of("flyp", [0.81, 0.79])]
    for record in records:
        first = record["method"] == "ft"
        record["info"] = {"own_metrics": {"id": "macro_f1_labels", SHIFTS[0]: "worst_group_accuracy"}}
        record["sets"]["id"]["macro_f1_labels"] = 0.4 if first else 0.5
        record["sets"][SHIFTS[0]]["worst_group_accuracy"] = 0.3 if first else 0.2
    board = build(records)
    shown = table(board, "one_se")
    heads = list(shown.head)
    assert heads[heads.index("ID macro F1") + 1] == "ID accuracy"
    assert heads[heads.index(f"{SHIFTS[0]} worst group") + 1] == f"{SHIFTS[0]} accuracy"
    f1, worst = columns_of(shown, "ID macro F1"), columns_of(shown, f"{SHIFTS[0]} worst group")
    assert {(cell.text, cell.best) for cell in f1} == {("40.0 ± 0.0", False), ("50.0 ± 0.0", True)}
    assert {(cell.text, cell.best) for cell in worst} == {("30.0 ± 0.0", True), ("20.0 ± 0.0", False)}
    line = next(row for row in lines(board.to_csv()) if row["method"] == "ft")
    assert float(line["macro_f1_labels_id_percent_mean"]) == 40 and line[f"worst_group_acc_{SHIFTS[0]}_percent_mean"]
    assert "macro F1" not in build(seeds_of("ft", [0.8])).to_markdown()


def test_weights_that_are_not_what_their_name_says_are_told_above_the_tables():
    records = seeds_of("ft", [0.8, 0.82])
    doubt = "backbone RN50: the weights at w.safetensors are not those that <OpenAI> gave out"
    assert "In some rows" not in build(records).to_markdown()
    records[1]["info"] = {"weights_doubt": doubt}
    board = build(records)
    assert f"In some rows, {doubt}." in [block.text for block in board.blocks if isinstance(block, Text)]
    assert "<OpenAI>" not in board.to_html() and "In some rows, backbone RN50: the weights" in board.to_html()


# formats


def mixed():
    records = [make_record("zero_shot", accuracy=0.7, rules=())]
    records += seeds_of("ft", [0.8, 0.82, 0.84]) + seeds_of("a_b|<script>&%$#{}~^\\", [0.81, 0.82]) + wise()
    records.append(make_record("ema", accuracy=0.9, dirty=True))
    return records + seeds_of("flyp", [0.7, 0.7, 0.7])


class Cells(HTMLParser):
    """Tags, and rows of cell texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data):
        if self.inside:
            self.rows[-1][-1] += data


def test_html_has_the_same_cells_and_hostile_names_stay_text():
    board = build(mixed())
    page = Cells(board.to_html())
    assert "script" not in page.tags and not {"img", "link", "iframe"} & set(page.tags)
    wanted = [[*block.head] for block in board.blocks if isinstance(block, Table)]
    assert [row for row in page.rows if row in wanted] == wanted
    texts = [cell for row in page.rows for cell in row]
    assert any("a_b|<script>&%$#{}~^\\" in text for text in texts) and "82.0 ± 2.0" in texts


def test_the_long_csv_has_a_line_for_every_run_dataset_and_metric():
    record = make_record("ft", accuracy=0.8, shifts=("fresh",))
    record["sets"]["fresh"]["nll"] = None  # infinite
    found = lines(build([record, make_record(kind="trial")]).to_long_csv())
    sets = ("id", "fresh", "pretraining_mixture", "validation")
    assert {line["dataset"] for line in found} == set(sets)
    assert len(found) == len(sets) * 6  # accuracy, ece, nll, brier, macro_f1, mean_confidence
    by = {(line["dataset"], line["metric"]): line for line in found}
    assert by["id", "accuracy_percent"]["value"] == "80" and by["id", "accuracy_percent"]["role"] == "id"
    assert by["fresh", "ece_15_bins_global"]["value"] == "0.06" and by["fresh", "nll_nats"]["value"] == "inf"
    assert by["id", "nll_nats"]["rules"] == "one_se best_id" and by["id", "nll_nats"]["dirty"] == "no"


def test_the_long_csv_has_every_point_of_a_path():
    found = lines(build(wise(seeds=(0,))).to_long_csv())
    at = [(line["point"], line["value"]) for line in found if line["dataset"] == "fresh"]
    assert [x for x in at if x[0] == "alpha=0.8"][0] == ("alpha=0.8", "78")
    assert {line["point"] for line in found} == {"", *(f"alpha={alpha:g}" for alpha in LINE)}


def test_all_formats_are_the_same_whatever_the_order_of_the_records():
    records = mixed()
    ways = ("to_csv", "to_long_csv", "to_markdown", "to_latex", "to_html")
    want = [getattr(build(records, seeds_of("ft", [0.7])), way)() for way in ways]
    for i in range(4):
        random.Random(i).shuffle(records)
        board = build(records, seeds_of("ft", [0.7]))
        assert [getattr(board, way)() for way in ways] == want
