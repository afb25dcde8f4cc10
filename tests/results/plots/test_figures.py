"""Figures: numbers against hand-made ones, every figure from records, and what is missing said in a sentence."""

import csv
import math
import re
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from make_records import SHIFTS, make_record
from matplotlib.figure import Figure
from runs_kit import call

from robustft.results.metrics.effective_robustness import LineError, check_span, fit
from robustft.results.metrics.layer_similarity import SimilarityError, linear_cka, svcca
from robustft.results.plots import gallery, style
from robustft.results.plots.board_figures import _paper
from robustft.results.plots.figure_data import LAYERS, Material, Missing, without_doubles
from robustft.results.plots.sample_figures import reliability
from robustft.results.published.rows import DATA
from robustft.results.records import predictions
from robustft.results.records.records import gather_reference, publish_record, write_json_atomic

GRID = {"beta": "grid of ablation-beta"}


def full_material(root):
    """Local runs of one backbone that every figure can be drawn from, with their side files."""
    records = [make_record("zero_shot", rules=(), accuracy=0.7)]
    for seed in (0, 1):
        records += [make_record("ft", seed=seed, accuracy=0.8 + 0.01 * seed)]
        records += [make_record("wise_ft", seed=seed, accuracy=0.82, line={0.0: 0.7, 0.5: 0.78, 1.0: 0.75})]
        for method, gaps in (("tracer", [0.5, 0.4, 0.3, 0.2]), ("tracer_ema_teacher", [0.1, 0.05, 0.02, 0.01])):
            records += [make_record(method, seed=seed, accuracy=0.85, gaps=gaps)]
        for beta in (0.2, 0.5, 1.0):
            hyper = {"beta": beta}
            records += [
                make_record("tracer", seed=seed, accuracy=0.8 + 0.01 * beta, hyper=hyper, sources=GRID, lr=2e-3)
            ]
    for i in range(15):
        scratch = {"benchmark": "scratch_line", "rules": (), "weights": "random"}
        records.append(make_record("ft", "tiny-scratch", i, 0.3 + 0.03 * i, **scratch))
    for record in records:
        record["info"]["classes"] = dict.fromkeys(record["sets"], 10)
    for record in records:
        record["cost"]["images_per_second"] = 900.0 if record["method"] == "ft" else 600.0
    for method, accuracy in (("zero_shot", 0.1), ("flyp", 0.95), ("tracer", 0.96)):
        record = make_record(method, "glyph-vit-grey", accuracy=accuracy, benchmark="forgetting", rules=())
        record["sets"]["original"] = {**record["sets"].pop("fresh"), "accuracy": 0.9 - 0.1 * (method == "flyp")}
        for name in ("renditions", "sketches", "reversed", "writers"):
            del record["sets"][name]
        record["summary"] = {}
        records.append(record)
    for record in records:
        place = f"{record['benchmark']}/{record['method']}/{record['backbone']}/seed{record['seed']}-{record['run_id']}"
        publish_record(root / place, record)
        rows = [{"layer": "block_0", "cka": 0.99, "svcca": 0.97}, {"layer": "embedding", "cka": 0.8, "svcca": 0.7}]
        write_json_atomic(root / place / LAYERS, {"layers": rows})
        for name in record["sets"]:
            columns = samples(record["seed"], record["sets"][name]["accuracy"])
            predictions.write(root / place / "predictions" / f"{name}.parquet", columns)
    return Material(tuple(records), runs=root)


def samples(seed, accuracy, n=200):
    """Predictions on the same images, of which `accuracy` are right."""
    p = np.random.default_rng(seed).dirichlet(np.ones(10), size=n)
    ids, right = [f"{i}" for i in range(n)], np.random.default_rng([seed, 1]).permutation(n) < round(accuracy * n)
    best = p.argmax(1)
    truth = np.random.default_rng(7).integers(10, size=n)
    p = np.take_along_axis(p, (np.arange(10) - (truth - best)[:, None] - ~right[:, None]) % 10, axis=1)
    return predictions.columns(p, truth, ids, ids)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    return full_material(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def drawn(material):
    """Every figure, once."""
    parts = {name: material.of(name) for name in ("digits", "forgetting")}
    return {name: gallery.make(name, parts.get(name, parts["digits"])) for name in gallery.ENTRIES}


@pytest.mark.parametrize("name", gallery.ENTRIES)
def test_every_figure_is_drawn_from_records_alone(drawn, name):
    assert set(drawn[name]) == {".svg", ".png"}
    text = drawn[name][".svg"].decode()
    assert "<svg" in text and "2026" not in text  # no date
    words = {
        "ablation": ["beta", "paper, ImageNet"],
        "forgetting": ["flyp", "paper, Figure 3"],
        "layers": ["ft", "tracer", "block_0"],
        "dynamics": ["tracer: teacher, WMA", "tracer_ema_teacher: teacher, EMA"],
        "paths": ["wise_ft (path)", "α = 0.5"],
        "flips": ["ft", "right before, now wrong"],
        "reliability": ["zero_shot", "tracer"],
        "robustness": ["zero_shot", "tracer", "without pretraining"],
    }
    for word in words.get(name, ["zero_shot" if name != "cost" else "ft", "tracer"]):
        assert f"<!-- {word} -->" in text, word


@pytest.mark.parametrize("name", gallery.ENTRIES)
def test_a_figure_without_its_records_says_what_it_needs_and_how_to_make_it(name):
    with pytest.raises(Missing, match=rf"^figure {name}: .*(robustft sweep|run a sweep)"):
        gallery.make(name, Material())


@pytest.mark.parametrize("name", ["paths", "dynamics", "forgetting"])
def test_the_same_records_give_the_same_bytes(material, drawn, name):
    assert gallery.make(name, material.of("forgetting" if name == "forgetting" else "digits")) == drawn[name]


def test_the_pass_that_lays_out_changes_no_byte_by_not_drawing(material, drawn, monkeypatch):
    monkeypatch.setattr(style, "empty", lambda inches: Figure(figsize=inches, layout="constrained"))
    assert gallery.make("forgetting", material.of("forgetting")) == drawn["forgetting"]


def test_a_method_has_one_colour_in_every_figure(drawn):
    for name in ("id_ood", "calibration", "cost", "layers", "dynamics", "forgetting", "flips", "reliability"):
        assert b"#c51b7d" in drawn[name][".svg"], name  # tracer's


def test_names_that_look_like_formulas_are_only_text(tmp_path):
    records = [make_record("zero_shot", rules=(), accuracy=0.7), make_record("a$_{<b>&$")]
    text = gallery.make("id_ood", Material(tuple(records)), png=False)[".svg"].decode()
    assert "a$_{&lt;b&gt;&amp;$" in text and "<b>" not in text


def test_a_local_row_is_shown_instead_of_the_reference_of_the_same_method():
    local = [make_record("ft", seed=seed) for seed in (0, 1)]
    reference = [make_record(method, seed=seed) for method in ("ft", "flyp") for seed in (0, 1)]
    made = Material(tuple(local), tuple(reference))
    rows = without_doubles(made.board.sections[0].table("one_se", "tiny-vit-p8"))
    assert sorted((row.method, row.provenance) for row in rows) == [("flyp", "reference"), ("ft", "local")]


def test_a_figure_shows_the_ranked_setting_and_never_another_length_beside_it():
    by_hand = [make_record("ft", seed=seed, rules=(), lr=2e-3, sources={"lr": "--set"}) for seed in (0, 1, 2)]
    short = make_record("tracer", rules=(), sources={"steps": "--set"})
    made = Material((make_record("ft"), *by_hand, short))
    (section,) = made.board.sections
    assert made.chosen(section, "tiny-vit-p8", "ft", lambda record: True)[1] == [made.local[0]]
    row, records = made.chosen(section, "tiny-vit-p8", "ft", lambda record: record["spec"]["lr"] == 2e-3)
    assert len(records) == 3 and row.seeds == (0, 1, 2)
    assert made.chosen(section, "tiny-vit-p8", "tracer", lambda record: True) == (None, [])


def test_the_command_writes_files_names_what_it_skips_and_refuses_what_is_not_there(material, tmp_path, capsys):
    where = ("--runs", material.runs, "--results", tmp_path)
    assert call("figures", "id_ood", "--benchmark", "digits", *where) == 0
    assert {path.name for path in (tmp_path / "figures" / "digits").iterdir()} == {"id_ood.svg", "id_ood.png"}
    capsys.readouterr()
    assert call("figures", "all", "--benchmark", "forgetting", *where) == 0
    output = capsys.readouterr().out
    assert "skipped forgetting/dynamics: figure dynamics: needs" in output and "forgetting/forgetting.svg" in output
    assert call("figures", "forgetting", "--benchmark", "digits", *where) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "robustft sweep forgetting --method all" in error
    assert call("figures", "id_odd", *where) == 2
    assert "did you mean 'id_ood'?" in capsys.readouterr().err


def test_the_report_shows_the_figures_that_can_be_drawn(material, tmp_path, monkeypatch):
    kept = {name: gallery.ENTRIES[name] for name in ("id_ood", "forgetting", "layers")}  # the others cost time only
    monkeypatch.setattr(gallery, "ENTRIES", kept)
    assert call("report", "digits", "--runs", material.runs, "--results", tmp_path) == 0
    page = (tmp_path / "report.html").read_text()
    assert page.count("<figure ") == 2
    assert all(f"<h3>{kept[name].title}</h3>" in page for name in ("id_ood", "layers"))


def test_reference_figures_need_no_local_run():
    records = [record for record in gather_reference("digits") if record["backbone"] == "tiny-rn"]
    made = Material(reference=tuple(record for record in records if record["method"] in ("zero_shot", "tracer")))
    assert b"<!-- tracer -->" in gallery.make("flips", made, png=False)[".svg"]


def test_flips_are_not_drawn_from_files_that_contradict_their_records(material, tmp_path):
    shutil.copytree(material.runs, tmp_path, dirs_exist_ok=True)
    (folder,) = (tmp_path / "digits/ft").glob("*/seed1-*")
    predictions.write(folder / "predictions/writers.parquet", samples(0, 0.5))
    sentence = rf"^figure flips: run {folder.name[6:]}: its predictions on writers are 0.500000 right"
    with pytest.raises(Missing, match=sentence):
        gallery.make("flips", Material(material.local, runs=tmp_path).of("digits"))


def test_reliability_is_accuracy_and_mean_confidence_of_each_filled_bin():
    part = {
        "confidence": np.array([0.95, 0.99, 0.31, 1.0], np.float32),
        "label": np.array([1, 1, 1, 1]),
        "prediction": np.array([1, 0, 0, 1]),
    }
    confidence, accuracy, share = reliability([part])
    assert confidence == pytest.approx([0.31, (0.95 + 0.99 + 1) / 3]) and accuracy == pytest.approx([0, 2 / 3])
    assert share == pytest.approx([0.25, 0.75])
    assert np.abs((confidence - accuracy) * share).sum() == pytest.approx(0.31 * 0.25 + (0.98 - 2 / 3) * 0.75)


def activations(seed, n=80, d=5):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_similarities_of_equal_rotated_and_unrelated_activations():
    x = activations(0)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    for same in (x, 3 * x + 2, x @ rotation):
        assert linear_cka(x, same) == pytest.approx(1) and svcca(x, same) == pytest.approx(1)
    mixed = x @ np.diag([1, 1, 1, 1, 5.0])
    assert svcca(x, mixed, variance=1) == pytest.approx(1) and linear_cka(x, mixed) < 0.9
    other = activations(2)
    assert linear_cka(x, other) < 0.2 and svcca(x, other) < 0.4


def test_cka_and_svcca_of_a_hand_made_pair():
    x = np.array([[1.0], [-1.0], [1.0], [-1.0]])
    y = np.array([[1.0], [1.0], [-1.0], [-1.0]])
    assert linear_cka(x, np.hstack([x, y])) == pytest.approx(1 / math.sqrt(2))  # 16 / (4 * sqrt(32))
    assert linear_cka(x, y) == pytest.approx(0)
    assert svcca(x, (x + y) / 2) == pytest.approx(1 / math.sqrt(2))


def test_activations_that_cannot_be_compared_are_refused():
    with pytest.raises(SimilarityError, match="expected"):
        linear_cka(activations(0), activations(0, n=79))
    with pytest.raises(SimilarityError, match="do not vary"):
        linear_cka(activations(0), np.ones((80, 2)))
    with pytest.raises(SimilarityError, match="more images than the 10 kept directions, got 8"):
        svcca(activations(0, n=8), activations(1, n=8), variance=1)


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 1.5), st.floats(-1, 1), st.integers(15, 40))
def test_the_line_of_models_on_a_line_is_that_line(slope, intercept, count):
    id_accuracy = np.linspace(0.3, 0.9, count)
    shifted = 1 / (1 + np.exp(-(slope * np.log(id_accuracy / (1 - id_accuracy)) + intercept)))
    line = fit(id_accuracy.tolist(), shifted.tolist())
    assert (line.slope, line.intercept, line.r2) == pytest.approx((slope, intercept, 1), abs=1e-6)
    assert line.expected(0.6) == pytest.approx(1 / (1 + math.exp(-(slope * math.log(1.5) + intercept))))
    xs, ys = line.points()
    assert (min(xs), max(xs)) == pytest.approx((30, 90)) and ys[0] == pytest.approx(100 * shifted[0])


def test_the_line_is_neither_extrapolated_nor_fitted_to_few_models():
    id_accuracy = np.linspace(0.3, 0.9, 15).tolist()
    line = fit(id_accuracy, [value - 0.1 for value in id_accuracy])
    assert 0.9 < line.r2 < 1 and line.models == 15
    for outside in (0.29, 0.91):
        with pytest.raises(LineError, match="range of the fit"):
            line.expected(outside)
    with pytest.raises(LineError, match="at least 15"):
        fit(id_accuracy[:14], id_accuracy[:14])
    with pytest.raises(LineError, match="must differ"):
        fit([0.5] * 15, id_accuracy)
    with pytest.raises(LineError, match=re.escape("in (0, 1), got 1.0")):
        fit([1.0, *id_accuracy[1:]], id_accuracy)


def test_the_line_is_drawn_only_through_enough_models_without_pretraining_on_the_same_data():
    def scratch(i):
        made = {"benchmark": "control_scratch", "version": "v", "weights": "random"}
        return make_record("ft", "tiny-scratch", i, 0.3 + 0.03 * i, **made)

    digits = [make_record("zero_shot", rules=(), accuracy=0.7), make_record("ft")]
    digits[0]["info"]["classes"] = dict.fromkeys(digits[0]["sets"], 10)
    few, enough = ([*digits, *map(scratch, range(n))] for n in (14, 15))
    other = [{**record, "spec": {**record["spec"], "fingerprint": "other data"}} for record in enough[2:]]
    part = [{**record, "spec": {**record["spec"], "limit": 24}} for record in enough[2:]]
    for records in (few, [*digits, *other], [*digits, *part]):
        with pytest.raises(Missing, match="needs 15 models without pretraining .*scratch_line"):
            gallery.make("robustness", Material(tuple(records)).of("digits"))
    made = Material(tuple(enough), tuple(enough)).of("digits")  # a committed run that was made again is one model
    assert len(made.controls) == 15 and made.of("digits").controls == made.controls
    text = gallery.make("robustness", made, png=False)[".svg"].decode()
    assert "n = 15, R² = 1.00" in text and "ID 30 to 72 %" in text and "<!-- without pretraining -->" in text
    assert {record["benchmark"] for record in made.local} == {"digits"}  # a line, and no rows of the board


def test_baselines_at_chance_on_a_shift_give_no_line_and_others_do():
    """500 lists of 15 models over 2,400 images: at chance on sketches, as those of scratch_line, or above."""
    rng, images, refused = np.random.default_rng(0), 2400, {"at chance": 0, "above": 0}
    for _ in range(500):
        known = rng.binomial(images, np.linspace(0.2, 0.6, 15)) / images
        for kind, chances in (("at chance", np.full(15, 0.1)), ("above", np.linspace(0.13, 0.3, 15))):
            shifts = {"reversed": known.tolist(), "sketches": (rng.binomial(images, chances) / images).tolist()}
            try:
                check_span(shifts, dict.fromkeys(shifts, 0.1), dict.fromkeys(shifts, images))
            except LineError as error:
                refused[kind] += 1
                assert "of 15 models without pretraining are at chance (10 %) or below on sketches (" in str(error)
    assert refused["at chance"] == 500 and refused["above"] <= 25
    with pytest.raises(LineError, match="have one accuracy on sketches"):
        check_span({"sketches": [0.4] * 15}, {"sketches": 0.1}, {"sketches": images})
    with pytest.raises(LineError, match="how many classes sketches has is not known"):
        check_span({"sketches": [0.4, 0.5]}, {}, {})


def test_a_list_of_models_without_pretraining_makes_the_line_of_any_benchmark(tmp_path, capsys):
    mine = {"benchmark": "mine"}
    for record in (make_record("zero_shot", rules=(), accuracy=0.7, **mine), make_record("tracer", **mine)):
        record["info"]["classes"] = dict.fromkeys(record["sets"], 10)
        publish_record(tmp_path / f"runs/mine/{record['method']}/b/seed0-{record['run_id']}", record)
    path = tmp_path / "list.csv"
    path.write_text("model,id,ood\n" + "".join(f"m{i},{30 + 3 * i},{20 + 2 * i}\n" for i in range(16)))
    where = ("--benchmark", "mine", "--runs", tmp_path / "runs", "--results", tmp_path / "out")
    assert call("figures", "robustness", "--baselines", path, *where) == 2
    assert "has none with a number for fresh, renditions, reversed" in capsys.readouterr().err
    head = ["model", "id", *SHIFTS]
    models = [[f"m{i}", 30 + 3 * i, *[20 + 2 * i] * len(SHIFTS)] for i in range(16)]
    path.write_text("\n".join(",".join(map(str, line)) for line in [head, *models]))
    assert call("figures", "robustness", "--baselines", path, *where) == 0
    assert "n = 16" in (tmp_path / "out/figures/mine/robustness.svg").read_text()
    assert call("figures", "robustness", *where) == 2  # the list is no record: it is given each time
    for text, words in (("model\nm\n", "line 2: id must be"), ("id,fresh\n50,140\n", "got '140'")):
        path.write_text(text)
        capsys.readouterr()
        assert call("figures", "robustness", "--baselines", path, *where) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    assert call("figures", "robustness", "--baselines", path, "--runs", tmp_path / "runs") == 2
    assert call("figures", "robustness", "--baselines", tmp_path / "no.csv", *where) == 2


def test_the_papers_ablation_is_what_its_table_prints():
    with DATA.open(newline="") as lines:
        printed = {
            (row["dataset"], row["metric"]): float(row["mean"])
            for row in csv.DictReader(lines)
            if row["table"] == "table11" and row["variant"] == "beta=0.5"
        }
    columns = ["acc_id", "acc_ood_mean", "ece_ood_mean"]
    point = next(point for point in _paper("beta", columns) if point[0] == 0.5)
    want = [printed["imagenet", "accuracy_percent"], printed["ood_avg", "accuracy_percent"], printed["ood_avg", "ece"]]
    assert point[1] == want
    terms = _paper("crd_weight+cross_kd_weight+fd_weight+icl_weight", columns)
    assert (len(terms), terms[0][0], terms[-1][0]) == (16, "none", "crd cross_kd fd icl")
    assert terms[-1][1] == [82.81, 64.06, 0.0737]
    assert [point[0] for point in _paper("update_every", columns)] == [1, 2, 5, 10, 50, 100, 500, 1000, 2500]
    assert _paper("unknown", columns) == []


def test_a_study_of_intervals_has_panels_for_each_clock_and_numbers_on_its_axis():
    grid = [{"update_every": n, "clock": clock} for n in (1, 500) for clock in ("definition", "released")]
    sources = dict.fromkeys(grid[0], "grid of intervals")
    records = [make_record("tracer", hyper=hyper, rules=(), benchmark="intervals", sources=sources) for hyper in grid]
    text = gallery.make("ablation", Material(tuple(records)), png=False)[".svg"].decode()
    for word in ("intervals, clock=definition", "intervals, clock=released", "paper, ImageNet", "100"):
        assert f"<!-- {word} -->" in text, word
    assert "mathdefault" not in text


def test_layers_of_a_real_run_differ_more_the_more_it_moved():
    import torch

    from robustft import backbones
    from robustft.benchmarks.execution.layer_similarity import activations as measured
    from robustft.benchmarks.execution.layer_similarity import layers_of

    class Images:
        labels = np.zeros(40, dtype=np.int64)

        def __len__(self):
            return 40

        def images(self, first, last):
            made = torch.randint(0, 256, (40, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
            return made[first:last]

    for name, layers in (("tiny-vit-p8", 4 + 3), ("tiny-rn", 1 + 4 + 1)):
        encoder = backbones.load(name)
        before = measured(encoder, Images())
        assert list(before) == list(layers_of(encoder.visual)) and len(before) == layers
        assert all(values.shape[0] == 40 and values.ndim == 2 for values in before.values())
        assert before["embedding"].shape == (40, encoder.embed_dim)
        first = {key: linear_cka(before[key], values) for key, values in measured(encoder, Images()).items()}
        assert first == pytest.approx(dict.fromkeys(before, 1))
        with torch.no_grad():
            for parameter in encoder.image_parameters():
                parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape))
        assert linear_cka(before["embedding"], measured(encoder, Images())["embedding"]) < 0.95


def test_captions_say_what_is_not_to_be_seen():
    """A reader of the committed pictures misses FT under WiSE-FT at alpha 1, and TRACER in the costs."""
    assert "(FT, FLYP), and lies beneath it as a broader line" in gallery.ENTRIES["reliability"].caption
    for name in ("id_ood", "calibration"):
        assert "(FT, FLYP), and lies beneath it as a larger marker" in gallery.ENTRIES[name].caption
        assert "Zero-shot stands at the edge, its" in gallery.ENTRIES[name].caption
    assert "none that was timed on another kind of machine" in gallery.ENTRIES["cost"].caption
