"""Reports and figures of data and records of every shape: what cannot be drawn says why, and nothing else is lost."""

import pytest
import yaml
from animals_kit import make as make_folder
from make_records import SHIFTS, make_record, summarise
from runs_kit import BACKBONE, call, run_here

from robustft.benchmarks.executors.local import Launcher
from robustft.results.plots import gallery, style
from robustft.results.plots.figure_data import Material, Missing
from robustft.results.report.report import in_order, render

pytestmark = pytest.mark.usefixtures("no_reference")

# Real runs on folders of images


def suite_of(folder, name, data):
    suite = {
        "name": name,
        "dataset": f"folder:{data}",
        "version": "own",
        "backbones": [BACKBONE],
        "methods": ["zero_shot", "ft"],
        "seeds": [0],
        "threads": 1,
        "recipes": {
            "common": {"steps": 3, "batch_size": 4, "lr": 1e-4, "weight_decay": 0.1, "warmup_steps": 1}
            | {"precision": "fp32"},
        },
        "tuning": {"trials": 1, "seeds": [100], "space": {"ft": {"lr": [1e-4]}}},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(suite))
    return path


SPLITS = {"train": (8, 8, 8), "validation": (4, 4, 4), "id_test": (6, 6, 6)}
SHAPES = {"no_shift": SPLITS, "one_class": {**SPLITS, "night": (0, 5, 0)}, "one_image": {**SPLITS, "night": (1, 0, 0)}}


@pytest.fixture(scope="module")
def swept(tmp_path_factory, no_reference):
    """Two runs on each shape of data: the folder."""
    root = tmp_path_factory.mktemp("shapes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Launcher, "run", run_here)
        patch.chdir(root)
        for name, splits in SHAPES.items():
            make_folder(root / "data" / name, splits)
            suite = suite_of(root, name, root / "data" / name)
            assert call("tune", suite, "--method", "ft") == 0
            assert call("sweep", suite, "--method", "zero_shot,ft") == 0
    return root


@pytest.mark.parametrize("shape", SHAPES)
def test_a_report_and_every_figure_of_data_of_that_shape(shape, swept, monkeypatch, capsys):
    monkeypatch.chdir(swept)
    monkeypatch.delitem(style.FORMATS, ".png")  # of the same figures, and takes as long again
    assert call("figures", "all", "--benchmark", shape) == 0  # first: the report then finds their SVG
    assert call("report", shape) == 0
    page = (swept / "results/report.html").read_text()
    assert "no shift" in page if shape == "no_shift" else "1 shift<" in page
    told = capsys.readouterr()
    drawn = {path.stem: path.read_text() for path in (swept / "results/figures" / shape).glob("*.svg")}
    assert page.count("<figure ") == len(drawn) and told.err == ""
    assert {"calibration", "reliability", "layers"} <= set(drawn)
    below = {"calibration": "OOD accuracy (%)", "reliability": "accuracy, all shifts"}
    for name, words in below.items():
        assert (f"<!-- {words} -->" in drawn[name]) == (shape != "no_shift"), name
    assert ("id_ood" in drawn) == ("flips" in drawn) == (shape != "no_shift")
    if shape == "no_shift":
        assert f"the data of {shape} have no shift." in told.out and f"the data of {shape} have no shift." in page


# Every figure of records of odd shapes


def without_id(record):
    record["sets"].pop("id")
    record["summary"] = summarise(record["sets"])
    return record


def of_accuracy(accuracy):
    records = [make_record("zero_shot", rules=(), accuracy=0.5), make_record("ft"), make_record("tracer")]
    for record in records[1:]:
        for metrics in record["sets"].values():
            metrics["accuracy"] = accuracy
        record["summary"] = summarise(record["sets"])
    return records


def pair(change=lambda record: record, **more):
    return [change(make_record("zero_shot", rules=(), **more)), change(make_record("ft", **more))]


BASELINES = tuple({"id": 0.3 + 0.03 * i, **dict.fromkeys(SHIFTS, 0.2 + 0.02 * i)} for i in range(16))
RECORDS = {
    "nothing": [],
    "one run": [make_record("ft")],
    "zero_shot alone": [make_record("zero_shot", rules=())],
    "no shift": pair(shifts=()),
    "no ID test set": pair(without_id),
    "neither": pair(without_id, shifts=()),
    "one shift": pair(shifts=("fresh",)),
    "a path without a shift": [make_record("wise_ft", shifts=(), line={0.0: 0.7, 1.0: 0.8})],
    "all right": of_accuracy(1.0),
    "all wrong": of_accuracy(0.0),
    "twenty strangers": [make_record(f"stranger_{i}", accuracy=0.5 + 0.01 * i) for i in range(20)],
    "long names": [make_record("_a_method_of_a_very_long_name_" * 3, "a/backbone " * 9)],
    "a study without a shift": [
        make_record("odd", seed=0, rules=(), shifts=(), hyper={"k": k}, sources={"k": "grid of odd"}) for k in (1, 2)
    ],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("shape", RECORDS)
def test_a_figure_is_drawn_or_says_what_is_missing(shape):
    made = Material(tuple(RECORDS[shape]), baselines=BASELINES)
    for name in gallery.ENTRIES:
        try:
            assert gallery.make(name, made, png=False)[".svg"]
        except Missing as error:
            assert not isinstance(error, gallery.Broken), error
            assert str(error).startswith(f"figure {name}: ") and str(error).endswith("."), error
    assert render(made)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("no shift", "have no shift"),
        ("no ID test set", "have no ID test set"),
        ("neither", "have no ID test set and no shift"),
    ],
)
def test_what_the_data_lack_is_told_and_not_that_a_sweep_would_help(shape, words):
    made = Material(tuple(RECORDS[shape]), baselines=BASELINES)
    for name in ("id_ood", "robustness", "paths", "cost"):
        with pytest.raises(Missing, match=f"the data of digits {words}") as raised:
            gallery.make(name, made)
        assert "robustft sweep" not in str(raised.value)


def test_of_runs_that_nothing_was_tuned_for_the_sentence_says_so():
    made = Material((make_record("zero_shot", rules=()), make_record("ft", rules=())), baselines=BASELINES)
    for name in ("id_ood", "robustness", "calibration", "reliability", "flips", "cost"):
        with pytest.raises(
            Missing, match=f"^figure {name}: .* no rule chose any of digits, .* `robustft tune` chooses"
        ):
            gallery.make(name, made)


def test_a_study_of_one_method_has_no_points_of_another_or_of_a_paper_that_varied_a_third():
    grid = {"beta": "grid of mine"}
    records = [
        make_record(method, rules=(), benchmark="mine", hyper={"beta": beta}, sources=grid, accuracy=0.5 + beta / 10)
        for method in ("tracer", "stranger")
        for beta in (0.2, 0.5)
    ]
    both = gallery.make("ablation", Material(tuple(records)), png=False)[".svg"].decode()
    assert "<!-- mine, tracer -->" in both and "<!-- mine, stranger -->" in both
    assert both.count("<!-- paper, ImageNet -->") == 1
    alone = gallery.make("ablation", Material(tuple(records[2:])), png=False)[".svg"].decode()
    assert "<!-- mine -->" in alone and "paper" not in alone


def test_of_many_methods_the_readers_own_are_drawn_and_the_rest_is_named():
    made = Material((make_record("mine", accuracy=0.3),), tuple(make_record(f"m{i}", accuracy=0.5) for i in range(9)))
    from robustft.results.plots.sample_figures import _told_apart

    shown, left_out = _told_apart([made.board.sections[0].table("one_se", "tiny-vit-p8")])
    assert {"mine", "zero_shot"} <= shown and len(shown) == 7 and len(left_out) == 4


# Order of the page


def test_the_report_opens_with_what_was_run_here_the_newest_first_and_studies_behind():
    old = make_record("ft", benchmark="a_mine", finished="2026-01-01T00:00:00Z")
    new = make_record("ft", benchmark="z_mine", finished="2026-02-01T00:00:00Z")
    study = make_record(
        "ft", benchmark="b_study", rules=(), hyper={"k": 1}, sources={"k": "grid of b"}, finished="2026-03-01T00:00:00Z"
    )
    reference = tuple(make_record("ft", benchmark=name) for name in ("digits", "a_first"))
    found = [section.benchmark for section in in_order(Material((old, new, study), reference))]
    assert found[:3] == ["z_mine", "a_mine", "b_study"] and set(found[3:]) == {"digits", "a_first"}
    assert [section.benchmark for section in in_order(Material((), reference))] == ["a_first", "digits"]
