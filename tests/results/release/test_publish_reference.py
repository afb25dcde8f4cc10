"""From finished runs to the committed reference, and the figure that goes with it."""

import gzip
import json
import re
import shutil

import numpy as np
import pytest
from make_records import make_record

from robustft.methods import registry
from robustft.results.metrics import set_metrics
from robustft.results.metrics.metrics import expected_calibration_error
from robustft.results.plots.style import SPARE, STYLES, draw_id_ood, drawing, save_figure, style
from robustft.results.records import predictions
from robustft.results.records.records import REFERENCE_RECORDS, gather_reference, publish_record, reference_lines
from robustft.results.records.reference import read_reference_predictions
from robustft.results.release import readme_tables
from robustft.results.release.publish_reference import FOLLOWS, PublishError, main, publish, rescored
from robustft.results.report.report import PAGE
from robustft.results.tables.leaderboard import build

pytestmark = pytest.mark.computes


def columns(seed, n=40, start=0):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(10), size=n)
    ids = [f"{start + i // 4}-{i % 4}" for i in range(n)]
    labels = np.random.default_rng(7).integers(10, size=n)
    return predictions.columns(p, labels, ids, [i.split("-")[0] for i in ids])


def add_run(root, record, start=0):
    folder = root / "digits" / record["method"] / record["backbone"] / f"seed{record['seed']}-{record['run_id']}"
    publish_record(folder, record)
    for name in record["sets"]:
        predictions.write(folder / "predictions" / f"{name}.parquet", columns(record["seed"], start=start))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Eight runs, in the folder runs, their reference, in the folder reference, and its board: to read and to copy."""
    root = tmp_path_factory.mktemp("made")
    for seed in range(3):
        add_run(root / "runs", make_record("ft", seed=seed, accuracy=0.8 + 0.01 * seed))
        add_run(root / "runs", make_record("tracer", seed=seed, accuracy=0.85))
    add_run(root / "runs", make_record("zero_shot", rules=(), accuracy=0.7))
    add_run(root / "runs", make_record("tracer", rules=(), hyper={"beta": 0.2}))
    return root, publish("digits", root / "runs", root / "reference")


@pytest.fixture
def runs(made, tmp_path):
    """The runs, for a test to change."""
    return shutil.copytree(made[0] / "runs", tmp_path / "runs")


@pytest.fixture
def published(made, tmp_path):
    """Their reference, for a test to change."""
    shutil.copytree(made[0] / "reference", tmp_path / "reference")


def test_only_ranked_runs_and_zero_shot_become_the_reference(made, published, tmp_path):
    board = made[1]
    records = gather_reference("digits", tmp_path / "reference")
    assert len(records) == 7
    assert {row.provenance for row in board.sections[0].rows} == {"reference"}
    assert build([], records).to_csv() == (tmp_path / "reference/digits/leaderboard.csv").read_text()
    names = {path.name for path in (tmp_path / "reference/digits").iterdir()}
    assert names == {
        *("records.jsonl.zst", "predictions.parquet", "samples.parquet", "leaderboard.csv", "leaderboard.md"),
        *("id_ood.svgz", "id_ood.png", "manifest.json"),
    }


def test_a_study_becomes_a_reference_of_its_own_that_ranks_nothing(published, tmp_path):
    for steps in (125, 500):
        record = make_record("ft", rules=(), benchmark="line", hyper={"x": steps}, sources={"x": "grid of line"})
        folder = tmp_path / "studies/line/ft/tiny-vit-p8" / f"seed0-{record['run_id']}"
        publish_record(folder, record)
        for name in record["sets"]:
            predictions.write(folder / "predictions" / f"{name}.parquet", columns(0))
    board = publish("line", tmp_path / "studies", tmp_path / "reference")
    assert [(row.method, row.rules) for row in board.sections[0].rows] == [("ft", ())] * 2
    names = {path.name for path in (tmp_path / "reference/line").iterdir()}
    runs_files = {"records.jsonl.zst", "predictions.parquet", "samples.parquet"}
    assert names == runs_files | {"leaderboard.csv", "leaderboard.md", "manifest.json"}  # no figure: none is ranked
    every = build([], gather_reference(root=tmp_path / "reference"))
    assert [section.benchmark for section in every.sections] == ["digits", "line"]
    assert len(every.sections[0].rows) == 3


def test_a_study_without_a_grid_gives_its_suites_runs_and_none_by_hand(published, tmp_path):
    for method, more in (("zero_shot", {"rules": ()}), ("flyp", {"rules": ()}), ("ft", {"rules": (), "lr": 2e-3})):
        by_hand = {"lr": "--set" if method == "ft" else "recipe common"}
        record = make_record(method, benchmark="study", sources=by_hand, **more)
        folder = tmp_path / f"studies/study/{method}/tiny-vit-p8" / f"seed0-{record['run_id']}"
        publish_record(folder, record)
        for name in record["sets"]:
            predictions.write(folder / "predictions" / f"{name}.parquet", columns(0))
    board = publish("study", tmp_path / "studies", tmp_path / "reference")
    assert sorted(row.method for row in board.sections[0].rows) == ["flyp", "zero_shot"]
    (section,) = board.sections
    assert [row.method for row in section.unranked()] == ["flyp"] and not section.ranks
    # Where rows are ranked, what is added must be: a default setting is no result of the benchmark.
    add_run(tmp_path / "more", make_record("flyp", rules=(), sources={"lr": "recipe common"}))
    publish("digits", tmp_path / "more", tmp_path / "reference", add=True)
    assert "flyp" not in {record["method"] for record in gather_reference("digits", tmp_path / "reference")}


def test_predictions_come_back_by_run_with_their_samples(published, tmp_path):
    record = make_record("ft", seed=1, accuracy=0.81)
    got = read_reference_predictions("digits", record["run_id"], tmp_path / "reference")
    here, want = got["set"] == "writers", columns(1)
    assert set(got["set"]) == set(record["sets"]) - {"validation"}
    for name in ("sample_id", "unit_id", "label", "prediction"):
        assert np.array_equal(got[name][here], want[name]), name
    assert abs(got["confidence"][here] - want["confidence"]).max() < 1 / 15
    assert abs(np.log2(got["p_label"][here] / want["p_label"])).max() < 1.1


def test_the_kept_columns_give_the_calibration_error_exactly():
    p = np.random.default_rng(0).dirichlet(np.ones(10), size=200).astype(np.float32)
    labels = np.random.default_rng(1).integers(10, size=200)
    kept = predictions.columns(p, labels, ["s"] * 200, ["u"] * 200)
    # A two-class problem of the same confidences and outcomes has the same bins, if the other class never wins.
    right = (kept["prediction"] == kept["label"]).astype(int)
    confidence = kept["confidence"].astype(float)
    rest = np.repeat((1 - confidence)[:, None] / 99, 99, axis=1)
    assert confidence.min() > 1 / 99
    rebuilt = np.concatenate([confidence[:, None], rest], axis=1)
    assert expected_calibration_error(rebuilt, 1 - right) == expected_calibration_error(p, labels)


def test_publishing_again_gives_the_same_bytes_and_leaves_nothing_old(made, tmp_path):
    first, second = made[0] / "reference", tmp_path / "b"
    (second / "digits").mkdir(parents=True)
    (second / "digits/old.json").write_text("{}")
    publish("digits", made[0] / "runs", second)
    files = sorted(p.relative_to(first) for p in first.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(second) for p in second.rglob("*") if p.is_file())
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def test_adding_keeps_other_rows_and_replaces_a_row_as_a_whole(published, tmp_path):
    old = {record["run_id"]: record for record in gather_reference("digits", tmp_path / "reference")}
    kept = {run_id for run_id, record in old.items() if record["method"] != "ft"}
    for seed in (0, 1):
        add_run(tmp_path / "more", make_record("ft", seed=seed, lr=1e-5))
        add_run(tmp_path / "more", make_record("flyp", seed=seed))
    publish("digits", tmp_path / "more", tmp_path / "reference", add=True)
    records = gather_reference("digits", tmp_path / "reference")
    new = [record for record in records if record["run_id"] not in old]
    assert {record["run_id"] for record in records} & set(old) == kept
    assert sorted((record["method"], record["seed"]) for record in new) == [
        *(("flyp", seed) for seed in (0, 1)),
        *(("ft", seed) for seed in (0, 1)),
    ]
    for run_id in kept:
        assert read_reference_predictions("digits", run_id, tmp_path / "reference")["p_label"].size
    (tmp_path / "reference/digits" / REFERENCE_RECORDS).write_bytes(b"{")
    with pytest.raises(PublishError, match=REFERENCE_RECORDS):
        publish("digits", tmp_path / "more", tmp_path / "reference", add=True)


def test_what_follows_from_rounded_numbers_is_made_from_them_and_the_rest_is_as_measured(published, tmp_path):
    (record,) = [r for r in gather_reference("digits", tmp_path / "reference") if r["method"] == "zero_shot"]
    samples = read_reference_predictions("digits", record["run_id"], tmp_path / "reference")
    of_id = {key: values[samples["set"] == "id"] for key, values in samples.items()}
    want = set_metrics.some(of_id, FOLLOWS)
    found = record["sets"]["id"]
    assert found["ece"] == want["ece"] and found["nll"] == want["nll"]
    assert found["accuracy"] == 0.7  # what the run measured stays
    measured = {**record, "sets": {"id": {**found, "aurc": 0.5, "mce": 0.5, "brier": 0.25}}}
    again = rescored(measured, samples)["sets"]["id"]
    assert (again["aurc"], again["brier"], again["mce"]) == (0.5, 0.25, want["mce"])
    assert "ece_debiased" not in again  # what it has not measured is not made up
    before = {path: path.read_bytes() for path in (tmp_path / "reference").rglob("*") if path.is_file()}
    publish("digits", tmp_path / "none", tmp_path / "reference", add=True)  # as it is, written again
    assert before == {path: path.read_bytes() for path in before}
    with pytest.raises(PublishError, match="has no ranked run of digits"):
        publish("digits", tmp_path / "none", tmp_path / "reference")


def test_two_settings_under_one_rule_are_refused(runs, tmp_path):
    add_run(runs, make_record("ft", seed=0, lr=1e-5))
    with pytest.raises(PublishError, match="ft on tiny-vit-p8: two settings under rule one_se, one of them lr="):
        publish("digits", runs, tmp_path / "reference")
    assert not (tmp_path / "reference").exists()


def test_runs_over_other_samples_are_refused(runs, tmp_path):
    add_run(runs, make_record("flyp"), start=5)
    with pytest.raises(PublishError, match="other test samples"):
        publish("digits", runs, tmp_path / "reference")


def test_mistakes_are_one_sentence_and_leave_the_old_reference(published, runs, tmp_path, capsys):
    before = (tmp_path / "reference/digits/leaderboard.md").read_bytes()
    folder = next(runs.rglob("record.json")).parent
    (folder / "predictions/id.parquet").unlink()
    for root, words in ((tmp_path / "nothing", "has no ranked run of digits"), (runs, "id.parquet: is missing")):
        assert main(["digits", "--runs", str(root), "--reference", str(tmp_path / "reference")]) == 2
        assert words in capsys.readouterr().err
    assert (tmp_path / "reference/digits/leaderboard.md").read_bytes() == before


def add_rows_of_every_kind(runs):
    """Beside the runs of the fixture: a tuned and a fixed WiSE-FT with its path, a soup, EMA, published values."""
    line = {0.0: 0.7, 0.5: 0.8, 1.0: 0.6}
    for seed in range(3):
        for rules, alpha in ((("one_se", "best_id"), 1.0), (("fixed",), 0.5)):
            sources = {"lr": "tuned one_se of ft"}
            wise = {"rules": rules, "hyper": {"alpha": alpha}, "sources": sources, "line": line}
            add_run(runs, make_record("wise_ft", seed=seed, **wise))
        add_run(runs, make_record("ema", seed=seed, gaps=[0.4, 0.2]))
        add_run(runs, make_record("ft", seed=seed, rules=("published",), recipe="as_published", accuracy=0.99))
    add_run(runs, make_record("zero_shot", rules=("published",), recipe="as_published"))
    add_run(runs, make_record("model_soup", inputs={"ft:0": "a", "ft:1": "b", "ft:2": "c"}))


def test_rows_of_every_kind_become_the_reference_and_come_back(runs, tmp_path, monkeypatch):
    add_rows_of_every_kind(runs)
    board = publish("digits", runs, tmp_path / "reference")
    folder = tmp_path / "reference/digits"
    records = gather_reference("digits", tmp_path / "reference")
    assert build([], records).to_csv() == board.to_csv() == (folder / "leaderboard.csv").read_text()
    paths = [record for record in records if "path" in record]
    assert len(paths) == 6 and all(len(record["path"]["points"]) == 3 for record in paths)
    lines = [json.loads(line) for line in reference_lines(folder).values()]
    assert lines == sorted(records, key=lambda record: record["run_id"])
    figure = gzip.decompress((folder / "id_ood.svgz").read_bytes()).decode()
    assert "<!-- wise_ft (alpha 0.5) -->" in figure and "<!-- ema -->" in figure  # not those of published values
    monkeypatch.setattr(readme_tables, "gather_reference", lambda benchmark=None: records)
    table = readme_tables.table()
    assert "| wise_ft (alpha 0.5) | 3 |" in table and "| model_soup | 1 |" in table
    assert "99.0" not in table and "recipe common" in table


def test_two_fixed_settings_are_refused_as_two_tuned_ones_are(runs, tmp_path):
    for lr in (1e-3, 1e-4):
        more = {"rules": ("fixed",), "hyper": {"alpha": 0.5}, "line": {0.5: 0.8}, "lr": lr}
        add_run(runs, make_record("wise_ft", **more))
    with pytest.raises(PublishError, match="wise_ft on tiny-vit-p8: two settings under rule one_se"):
        publish("digits", runs, tmp_path / "reference")


# the figure


def some_board():
    records = [make_record("zero_shot", name, rules=(), accuracy=0.7) for name in ("tiny-rn", "tiny-vit-p8")]
    for name in ("tiny-rn", "tiny-vit-p8"):
        for method, accuracy in (("ft", 0.8), ("tracer", 0.84), ("other", 0.82)):
            records += [make_record(method, name, seed, accuracy + 0.01 * seed) for seed in range(3)]
    return build(records, [make_record("tracer", "tiny-rn", seed) for seed in range(5)])


def plot_id_ood(board, path):
    with drawing():
        return save_figure(draw_id_ood(board), path)


def test_the_figure_names_every_backbone_and_method_and_is_the_same_each_time(tmp_path):
    first = plot_id_ood(some_board(), tmp_path / "a.png")
    second = plot_id_ood(some_board(), tmp_path / "b")
    assert [path.name for path in first] == ["a.svg", "a.png"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()
    text = first[0].read_text()
    for word in ("tiny-rn", "tiny-vit-p8", "zero_shot", "tracer", "other", "hollow: the committed reference"):
        assert text.count(f"<!-- {word} -->") == 1, word  # one entry a method, wherever its runs are from


def test_every_method_has_its_own_colour_and_marker():
    assert (
        len({colour for colour, _ in STYLES.values()}) == len({marker for _, marker in STYLES.values()}) == len(STYLES)
    )
    names = sorted({*STYLES, *registry.names(), "aaa", "bbb"})
    assert len({style(name, names) for name in names}) == len(names)
    others = {style(name, names)[0] for name in set(names) - STYLES.keys()}
    assert others and not others & {colour for colour, _ in STYLES.values()}
    few = sorted({*STYLES, "aaa", "bbb", "ccc"})
    assert len({style(name, few)[0] for name in few}) == len({style(name, few)[1] for name in few}) == len(few)


def luminance(colour):
    """WCAG's, of #rrggbb."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def test_every_method_stands_out_on_white_and_on_the_dark_page():
    css = (PAGE / "page.css").read_text()
    papers = set(re.findall("--card: (#[0-9a-f]{6})", css))
    assert len(papers) == 2 and "#ffffff" in papers
    ink = {"zero_shot"}  # in the page's own ink
    for colour, _ in [*(STYLES[name] for name in STYLES.keys() - ink), *SPARE]:
        for paper in papers:
            dark, light = sorted(map(luminance, (colour, paper)))
            assert (light + 0.05) / (dark + 0.05) >= 3, (colour, paper)


def test_zero_shot_far_below_all_others_stands_at_the_edge_with_its_accuracy(tmp_path):
    def board(start):
        others = [make_record(name, accuracy=0.8 + 0.01 * i) for i, name in enumerate(("ft", "ema", "flyp"))]
        return build([make_record("zero_shot", rules=(), accuracy=start), *others])

    for start, told in ((0.5, True), (0.795, False)):
        plot_id_ood(board(start), tmp_path / "a")
        text = (tmp_path / "a.svg").read_text()
        assert ("<!-- ← 50.0 -->" in text) == told and "<!-- zero_shot -->" in text


def test_a_board_without_complete_rows_has_no_figure(tmp_path):
    with pytest.raises(ValueError, match="no complete rows"):
        plot_id_ood(build([]), tmp_path / "a")
