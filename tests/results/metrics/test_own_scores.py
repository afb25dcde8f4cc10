"""Sets that are judged by another score than accuracy: what is ranked, tested, drawn and said follows that score."""

import csv
import io

import numpy as np
import pytest
from make_records import make_record
from rich.console import Console

from robustft.benchmarks import cli
from robustft.results.board.comparison import Judge, compare
from robustft.results.board.grouping import BoardError
from robustft.results.board.oracle import runs_of_paths
from robustft.results.board.per_sample import OutcomeError, Outcomes
from robustft.results.metrics import set_metrics
from robustft.results.plots.style import draw_id_ood, drawing
from robustft.results.records import predictions
from robustft.results.records.records import summarise
from robustft.results.statistics.jackknife import pseudovalues
from robustft.results.statistics.paired import paired
from robustft.results.tables.blocks import Table, Text
from robustft.results.tables.leaderboard import build
from robustft.results.tables.page import signs_of

pytestmark = pytest.mark.computes

BACKBONE = "tiny-vit-p8"
F1, WORST = "macro_f1_labels", "worst_group_accuracy"
OWN = {"id": F1, "ood": F1, "validation": F1}


def judged(method, accuracy, score, seeds=(0, 1), own=OWN, **more):
    """Runs of one accuracy everywhere, and one value of the score that their card names."""
    found = [make_record(method, seed=seed, accuracy=accuracy, shifts=("ood",), **more) for seed in seeds]
    for record in found:
        record["info"] = {"own_metrics": dict(own)}
        for name, metrics in record["sets"].items():
            metrics["accuracy"] = accuracy
            metrics |= {own[name]: score} if name in own else {}
    return found


def tables(board, start):
    return next(block for block in board.blocks if isinstance(block, Table) and start in block.caption)


def lines(board):
    return list(csv.DictReader(io.StringIO(board.to_csv())))


# order


def contrary():
    """By accuracy ft is first; by macro-F1, which the sets are judged by, flyp is."""
    return [*judged("zero_shot", 0.3, 0.2, rules=()), *judged("ft", 0.9, 0.4), *judged("flyp", 0.8, 0.6)]


def test_rows_are_in_the_order_of_the_score_and_not_of_accuracy():
    board = build([*contrary(), *judged("tracer", 0.85, 0.5)])
    (section,) = board.sections
    rows = section.table("one_se", BACKBONE)
    assert [row.method for row in rows] == ["zero_shot", "flyp", "tracer", "ft"]
    assert [row.method for row in section.front(rows)] == ["flyp"]
    assert rows[1].cell(section.ood_column)[0] == pytest.approx(0.6)
    found = {line["method"]: line for line in lines(board) if line["rule"] == "one_se"}
    assert {name: line["pareto_front"] for name, line in found.items()} == {
        "zero_shot": "no", "flyp": "yes", "tracer": "no", "ft": "no"
    }  # fmt: skip
    means = [found["ft"][f"{column}_ood_mean_percent_mean"] for column in ("score", "acc")]
    assert means == ["40.0000", "90.0000"]


def test_titles_and_a_sentence_say_what_was_ranked_by():
    board = build(contrary())
    shown = tables(board, "one_se")
    assert list(shown.head[3:8]) == ["ID macro F1", "ID accuracy", "ood macro F1", "ood accuracy", "OOD mean macro F1"]
    best = {name: [row[0].text for row in shown.rows if row[shown.head.index(name)].best] for name in shown.head[3:8]}
    assert best["OOD mean macro F1"] == best["ID macro F1"] == ["flyp"] and best["ood accuracy"] == ["ft"]
    said = "Sets are judged by what their protocols name: id, ood by macro F1 (over the classes that occur as label)."
    for page in (board.to_markdown(), board.to_latex(), board.to_html()):
        assert said in page
    for width in (110, 300):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(board.to_console())
        text = " ".join(console.export_text().split())
        assert "OOD mean macro F1" in text and said in text


def test_a_worst_group_and_an_accuracy_make_one_mean_of_scores():
    records = [*judged("ft", 0.9, 0.4, own={"ood": WORST}), *judged("flyp", 0.8, 0.6, own={"ood": WORST})]
    for record in records:
        record["sets"]["mine"] = {**record["sets"]["ood"]}
    board = build(records)
    (section,) = board.sections
    assert section.id_column == "acc_id"
    rows = {row.method: row for row in section.table("one_se", BACKBONE)}
    assert rows["ft"].cell(section.ood_column)[0] == pytest.approx((0.4 + 0.9) / 2)
    assert "OOD mean score" in tables(board, "one_se").head
    assert "ood by accuracy of the worst group; id, mine by accuracy" in board.to_markdown()


def test_a_run_without_the_score_of_a_shift_has_no_mean_and_does_not_count_by_accuracy():
    records = contrary()
    for record in records:
        if record["method"] == "ft":
            del record["sets"]["ood"][F1]
    (section,) = build(records).sections
    ft = next(row for row in section.table("one_se", BACKBONE) if row.method == "ft")
    assert ft.cell(section.ood_column)[0] is None


def test_records_that_judge_a_set_by_two_scores_share_no_table():
    with pytest.raises(BoardError, match="set ood is judged by macro_f1_labels in one record and worst_group_accuracy"):
        build([*judged("ft", 0.9, 0.4), *judged("flyp", 0.9, 0.4, own={**OWN, "ood": WORST})])


def test_boards_of_accuracy_say_nothing_of_scores():
    board = build([make_record("ft", shifts=("ood",)), make_record("flyp", shifts=("ood",))])
    assert "Sets are judged" not in board.to_markdown() and "score" not in board.to_csv()
    assert board.sections[0].ood_column == "acc_ood_mean"


def test_the_figure_has_the_score_on_its_axes():
    with drawing():
        figure = draw_id_ood(build(contrary()))
    assert figure.axes[0].get_xlabel() == "ID macro F1 (%)"
    assert figure.get_supylabel() == "mean macro F1 over 1 shifts (%)"
    drawn = {tuple(np.round(line.get_xydata()[0], 6)) for line in figure.axes[0].lines}
    assert {(60.0, 60.0), (40.0, 40.0)} <= drawn


# paths


def along(points, metric=F1):
    """WiSE-FT's runs whose points have this (accuracy, score) on each set."""
    found = judged("wise_ft", 0.8, 0.5, rules=("fixed",), hyper={"alpha": 0.5}, line=dict.fromkeys(points, 0.5),
                   sources={"lr": "tuned one_se of ft", "alpha": "method default"})  # fmt: skip
    for record in found:
        for point in record["path"]["points"]:
            for metrics in point["sets"].values():
                metrics["accuracy"], score = points[point["value"]]
                metrics |= {metric: score} if score is not None else {}
    return found


def test_a_path_and_its_best_point_are_by_the_score():
    records = along({0.0: (0.9, 0.2), 0.5: (0.8, 0.5), 1.0: (0.7, 0.6)})
    (by_score,), (by_accuracy,) = runs_of_paths(records, OWN), runs_of_paths(records)
    assert (by_score.best, by_accuracy.best) == (1.0, 0.0)
    (section,) = build([*records, *judged("flyp", 0.6, 0.55)]).sections
    (path,) = section.paths
    assert [(stop.id_score, stop.ood) for stop in path.stops] == [(0.2, 0.2), (0.5, 0.5), (0.6, 0.6)]
    assert path.crossing(0.55).ood == pytest.approx(0.55)
    oracle = next(row for row in section.rows if row.kind == "oracle")
    assert oracle.point == "alpha 1" and oracle.cell(section.ood_column)[0] == pytest.approx(0.6)


def test_points_without_the_score_are_not_taken_by_accuracy():
    board = build([*along({0.0: (0.9, None), 1.0: (0.7, None)}), *judged("flyp", 0.6, 0.55)])
    (section,) = board.sections
    assert not [row for row in section.rows if row.kind == "oracle"]
    assert [(stop.id_score, stop.ood) for stop in section.paths[0].stops] == [(None, None)] * 2
    assert "alpha 0" in board.to_markdown()


# samples


def columns_of(label, prediction, unit, group=None):
    n = len(label)
    found = {
        "sample_id": np.array([f"{u}-{i}" for i, u in enumerate(unit)], dtype=object),
        "unit_id": np.asarray(unit, dtype=object),
        "label": np.asarray(label),
        "prediction": np.asarray(prediction),
        "confidence": np.full(n, 0.5),
        "p_label": np.full(n, 0.5),
    }
    return found if group is None else found | {"group": np.asarray(group, dtype=object)}


def test_shares_are_the_score_without_each_image():
    rng = np.random.default_rng(0)
    label, prediction = rng.integers(0, 8, 60), rng.integers(0, 8, 60)
    label[0], prediction[0] = 9, 9  # the only one of its class
    unit = np.concatenate([np.arange(20), rng.integers(0, 20, 40)])
    group = rng.choice(["a", "b", ""], 60)
    group[unit == 3] = "c"  # of one image alone
    columns = columns_of(label, prediction, unit.astype(str), group)

    def score(keep):
        kept = {key: values[keep] for key, values in columns.items()}
        return {F1: set_metrics.basic(kept)[F1], **set_metrics.by_group(kept, kept["group"])}

    for metric in (F1, WORST):
        found = pseudovalues(metric, columns, unit, 20)
        without = np.array([score(unit != u)[metric] for u in range(20)])
        assert found.mean() == pytest.approx(score(unit >= 0)[metric], abs=1e-12)
        assert found - found.mean() == pytest.approx(19 * (without.mean() - without), abs=1e-12)
    example = columns_of([0, 0, 1], [0, 1, 1], ["a", "b", "c"])
    assert pseudovalues(F1, example, np.arange(3), 3) == pytest.approx([4 / 3, 0, 2 / 3])


def test_there_are_no_shares_of_one_image_or_without_groups():
    columns = columns_of([0, 1], [0, 0], ["a", "a"])
    assert pseudovalues(F1, columns, np.zeros(2, dtype=int), 1) is None
    assert pseudovalues(WORST, columns, np.arange(2), 2) is None
    assert pseudovalues(WORST, columns | {"group": np.array(["", ""], dtype=object)}, np.arange(2), 2) is None


@pytest.mark.parametrize("metric", [F1, WORST])
def test_the_error_of_a_difference_is_not_too_small_where_classes_are_rare_and_groups_are_level(metric):
    """Against the spread of the difference itself over new images: two models as good as each other, on average."""
    rng = np.random.default_rng(1)
    chances = 1 / np.arange(1, 31) ** 1.5
    good = rng.uniform(0.3, 0.9, 30)
    found, errors = [], []
    for _ in range(300):
        label = rng.choice(30, 400, p=chances / chances.sum())
        group = np.repeat(["a", "b", "c", "d"], 100)
        parts = []
        for _ in range(2):
            right = rng.random(400) < (good[label] if metric == F1 else 0.6)
            columns = columns_of(label, np.where(right, label, rng.integers(0, 30, 400)), np.arange(400), group)
            parts.append(pseudovalues(metric, columns, np.arange(400), 400))
        difference = paired([(parts[0] - parts[1])[None]])
        found.append(float(difference.mean))
        errors.append(float(difference.image_error))
    assert 1 <= np.mean(errors) / np.std(found) < 1.6


def run_of(root, method, seed, label, prediction, group=None, own=OWN):
    """A run folder whose sets id and ood both have these samples."""
    (record,) = judged(method, 0.5, 0.5, seeds=(seed,), own=own)
    columns = columns_of(label, prediction, [f"image {i}" for i in range(len(label))], group)
    found = set_metrics.basic(columns) | (set_metrics.by_group(columns, columns["group"]) if group is not None else {})
    record["sets"] = {name: {**record["sets"][name], **found, "n": 600, "n_expected": 600} for name in ("id", "ood")}
    record["summary"] = summarise(record["sets"])
    folder = root / "digits" / method / BACKBONE / f"seed{seed}-{record['run_id']}" / "predictions"
    folder.mkdir(parents=True)
    for name in ("id", "ood"):
        predictions.write(folder / f"{name}.parquet", columns)
    return record


def rare(root, seeds=3):
    """900 images of a class and forty of each of two others: ft has the many right, flyp and tracer the few."""
    label = np.repeat([0, 1, 2], [900, 40, 40])
    records = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        for method, many, few in (("ft", 0.99, 0.3), ("flyp", 0.88, 0.9), ("tracer", 0.88, 0.9)):
            right = rng.random(len(label)) < np.where(label == 0, many, few)
            records.append(run_of(root, method, seed, label, np.where(right, label, 3)))
    return records


def test_marks_are_by_tests_of_the_score_that_a_column_holds(tmp_path):
    board = build(rare(tmp_path), outcomes=Outcomes(runs=tmp_path))
    (section,) = board.sections
    rows = section.table("one_se", BACKBONE)
    assert rows[-1].method == "ft"  # the best by accuracy, and the worst by the score
    judge = Judge(Outcomes(runs=tmp_path))
    found = {column: judge.verdict(section, rows, column) for column in (section.ood_column, "acc_ood_mean")}
    signs = {column: signs_of(rows, column, verdict) for column, verdict in found.items()}
    assert signs[section.ood_column] == {1: "≈"} and not signs["acc_ood_mean"]
    assert found[section.ood_column].best == {0} and found["acc_ood_mean"].best == {2}
    line = next(line for line in lines(board) if line["method"] == "ft" and line["rule"] == "one_se")
    for column in ("score_ood_mean", "macro_f1_labels_id", "macro_f1_labels_ood"):
        assert float(line[f"{column}_percent_p_holm"]) < 0.05
    assert float(line["score_ood_mean_percent_behind_best"]) > 0 and line["acc_ood_mean_percent_p_holm"] == ""
    texts = [block.text for block in board.blocks if isinstance(block, Text)]
    assert any("jackknife" in text for text in texts)
    assert any("OOD-mean difference that 3 paired seeds on 980 source images" in text for text in texts)


def test_the_difference_is_that_of_the_records_scores(tmp_path):
    (section,) = build(rare(tmp_path)).sections
    rows = {row.method: row for row in section.table("one_se", BACKBONE)}
    for column in (section.id_column, section.ood_column, "acc_id"):
        found = compare(Outcomes(runs=tmp_path), section, rows["flyp"], rows["ft"], column)
        assert found.difference.mean == pytest.approx(rows["flyp"].cell(column)[0] - rows["ft"].cell(column)[0])
        assert (found.p < 0.05) and (found.difference.mean < 0) == (column == "acc_id")


def test_worst_groups_are_tested_and_without_groups_in_the_files_nothing_is(tmp_path):
    own = {"ood": WORST}
    label, group = np.zeros(400, dtype=int), np.repeat(["a", "b", "c", "d"], 100)
    records = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        for method, chances in (("ft", (0.9, 0.9, 0.9, 0.3)), ("flyp", (0.7, 0.7, 0.7, 0.6))):
            wrong = rng.random(400) > np.repeat(chances, 100)
            records.append(run_of(tmp_path, method, seed, label, wrong.astype(int), group, own))
    (section,) = build(records).sections
    rows = section.table("one_se", BACKBONE)
    flyp, ft = (next(row for row in rows if row.method == method) for method in ("flyp", "ft"))
    found = compare(Outcomes(runs=tmp_path), section, flyp, ft, section.ood_column)
    assert found.p < 0.05 and found.difference.mean == pytest.approx(
        flyp.cell(section.ood_column)[0] - ft.cell(section.ood_column)[0]
    )
    for path in tmp_path.rglob("ood.parquet"):
        kept = predictions.read(path)
        path.unlink()
        predictions.write(path, {key: values for key, values in kept.items() if key != "group"})
    assert compare(Outcomes(runs=tmp_path), section, flyp, ft, section.ood_column) is None
    found = Judge(Outcomes(runs=tmp_path)).verdict(section, rows, section.ood_column)
    assert signs_of(rows, section.ood_column, found) == {0: "?", 1: "?"} and not found.best


def test_a_score_that_its_samples_do_not_give_is_an_error(tmp_path):
    (section,) = build(rare(tmp_path, seeds=2)).sections
    flyp, ft = (next(r for r in section.table("one_se", BACKBONE) if r.method == name) for name in ("flyp", "ft"))
    ft.values[f"{F1}/ood"][1] = 0.1234
    with pytest.raises(OutcomeError, match=r"on ood have macro_f1_labels 0\.\d+ and its record says 0.1234"):
        compare(Outcomes(runs=tmp_path), section, flyp, ft, section.ood_column)


def test_compare_prints_the_scores_and_accuracy_beside_them(tmp_path, capsys):
    from robustft.results.records.records import publish_record

    for record in rare(tmp_path):
        (folder,) = tmp_path.rglob(f"*-{record['run_id']}")
        assert publish_record(folder, record)
    with pytest.raises(SystemExit) as stopped:
        cli.main(["compare", "flyp", "ft", "--benchmark", "digits", "--runs", str(tmp_path)])
    out = " ".join(capsys.readouterr().out.split())
    assert stopped.value.code == 0
    wanted = "id (ID) macro F1", "id (ID) accuracy", "ood macro F1", "ood accuracy", "OOD mean macro F1", "jackknife"
    assert [name for name in wanted if name not in out] == []
