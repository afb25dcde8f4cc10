"""Runs from end to end on small copies of the real formats, and what a damaged or strange file does to a run."""

import hashlib
import io
import json
import shutil
import struct
import warnings
import zlib

import datasets as library
import pytest
from animals_kit import make, parquet
from imagenet_kit import WNIDS, A, R, write_objectnet
from PIL import Image
from runs_kit import HERE, call, write_suite

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning import data_check
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan
from robustft.datasets import imagenet
from robustft.datasets.card import DataError
from robustft.datasets.folder import Folder
from robustft.datasets.wilds_data import IWildCam
from robustft.results.audit.rescoring import FolderFiles, rescore
from robustft.results.plots.figure_data import LAYERS
from robustft.results.records.records import read_record
from robustft.results.tables.leaderboard import build

pytestmark = pytest.mark.usefixtures("fresh_data", "few_probes", "no_reference")
BACKBONE = "tiny-vit-p16"
METHODS = ("zero_shot", "ft", "lp_ft", "wise_ft", "flyp", "ema", "tracer")
SHORT = {"steps": 2, "batch_size": 8, "lr": 1e-4, "weight_decay": 0.1}


def never():
    return False


def run(root, suite, *methods, settings=("allow_partial=true",), recipe=None, options=HERE):
    """Plan and make the runs; returns each run's record, or the sentence that it failed with."""
    benchmark, found = sweep.load(suite), {}
    for planned in sweep.expand(benchmark, Request(methods, (BACKBONE,), (0,), settings, recipe=recipe)):
        folder = RunFolder.of(root / "runs", planned.spec)
        data = benchmark.suite.dataset_of(planned.spec.recipe)
        Plan(planned.spec, data, planned.sources, {"rules": [], "tuning": None, "trials": 0}).write(folder)
        outcome = work(folder.path, options, never)
        assert outcome["event"] == "done" or outcome["mistake"], outcome
        found[planned.spec.method] = read_record(folder.record) if folder.done() else outcome["reason"]
    return found


def encoded(colour, mode="RGB", size=(8, 8), kind="JPEG"):
    content = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(content, kind)
    return content.getvalue()


# The ImageNet family


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A training image of each of the 1000 classes, two of some, a few of every other set, in all kinds of files."""
    root = tmp_path_factory.mktemp("family")
    kinds = [encoded((90, 60, 30), mode) for mode in ("RGB", "L", "CMYK")] + [encoded((9, 9, 9), size=(1, 1))]
    kinds.append(encoded((20, 200, 90), "RGBA", kind="PNG"))  # with the name of a JPEG, as some of ImageNet's are

    def write(folder, names, count=1):
        for i, name in enumerate(names):
            (root / folder / name).mkdir(parents=True)
            for k in range(count if i % 50 == 0 else 1):
                (root / folder / name / f"{name}_{k}.JPEG").write_bytes(kinds[(i + k) % len(kinds)])

    write("ILSVRC2012/train", WNIDS, 2)
    write("ILSVRC2012/val_dirs", WNIDS[::40])
    write("imagenetv2-matched-frequency-format-val", [str(c) for c in range(0, 1000, 90)])
    write("imagenet-r", [WNIDS[c] for c in R[::20]])
    write("imagenet-a", [WNIDS[c] for c in A[::20]])
    write("sketch", WNIDS[::90])
    _, meant, _ = write_objectnet(root)
    for name in meant[::10]:
        (root / "objectnet-1.0" / "images" / name / "x.png").write_bytes(
            encoded((200, 0, 0), size=(12, 12), kind="PNG")
        )
    return root


def imagenet_suite(folder, **changes):
    about = dict(name="imagenet", dataset="imagenet", version=imagenet.VERSION, backbones=[BACKBONE], tuning=None)
    about |= dict(recipes={"common": SHORT}, seeds=[0], methods=list(METHODS))
    probe = {"c_min": 0.1, "c_max": 0.1, "c_points": 1, "iterations": 1, "renderings": 1, "source": "short"}
    return write_suite(folder, **about, methods_settings={"lp_ft": probe}, **changes)


@pytest.fixture
def one_template(monkeypatch):
    monkeypatch.setattr(imagenet, "imagenet_prompts", lambda: ("a photo of a {}.",))


def test_every_method_runs_on_the_imagenet_family(family, tmp_path, monkeypatch, one_template):
    monkeypatch.setenv("ROBUSTFT_DATA", str(family))
    records = run(tmp_path, imagenet_suite(tmp_path), *METHODS)
    assert set(records) == set(METHODS)
    counts = {"validation": (20, 26_000), "imagenet": (25, 50_000), "imagenet_v2": (12, 10_000),
              "imagenet_r": (10, 30_000), "imagenet_a": (10, 7_500), "imagenet_sketch": (12, 50_889),
              "objectnet": (12, 18_574)}  # fmt: skip
    for method, record in records.items():
        assert {name: (s["n"], s["n_expected"]) for name, s in record["sets"].items()} == counts, method
        assert record["spec"]["allow_partial"] and record["selection"]["rules"] == []
    assert records["flyp"]["cost"]["train_found"] == 1020 and records["flyp"]["cost"]["train_expected"] == 1_281_167
    (written,) = (tmp_path / "runs" / "imagenet").glob("withheld-*.txt")
    digest = hashlib.sha256(written.read_bytes()).hexdigest()
    assert {record["info"]["withheld_sha256"] for record in records.values()} == {digest}
    assert len(written.read_text().splitlines()) == 20
    assert records["wise_ft"]["spec"]["inputs"] == {"ft": records["ft"]["run_id"]}


def test_a_missing_shift_is_left_out_and_a_damaged_file_stops_the_run_by_name(
    family, tmp_path, monkeypatch, one_template
):
    data = shutil.copytree(family, tmp_path / "data", symlinks=True, copy_function=_link)
    monkeypatch.setenv("ROBUSTFT_DATA", str(data))
    shutil.rmtree(data / "imagenet-a")
    suite = imagenet_suite(tmp_path)
    record = run(tmp_path, suite, "zero_shot")["zero_shot"]
    assert "imagenet_a" not in record["sets"] and len(record["sets"]) == 6
    assert record["info"]["sets_left_out"] == ["imagenet_a"]
    bad = data / "sketch" / WNIDS[90] / f"{WNIDS[90]}_0.JPEG"
    bad.unlink()
    bad.write_bytes(encoded((1, 2, 3), size=(64, 64))[:400])
    reason = run(tmp_path / "again", suite, "zero_shot", options=Options())["zero_shot"]  # by a loader
    assert reason.startswith(str(bad)) and "cannot be read as an image" in reason and "\n" not in reason


def _link(source, target):
    target_path = shutil.os.fspath(target)
    shutil.os.link(source, target_path)
    return target_path


def test_the_published_recipe_trains_on_the_withheld_images_too(family, tmp_path, monkeypatch, one_template):
    monkeypatch.setenv("ROBUSTFT_DATA", str(family))
    values = {key: {"value": value, "source": "short"} for key, value in SHORT.items()}
    rest = {"warmup_steps": 1, "min_lr": 0.0, "clip_norm": 0.0, "precision": "fp32", "bn": "frozen"}
    values |= {key: {"value": value, "our_choice": "short"} for key, value in rest.items()}
    method = {"flyp": {"all": {"lr": {"value": 1e-4, "source": "short"}}}}
    recipe = {"about": "a", "selection": "last", "dataset": "imagenet_full_train", "values": values, "methods": method}
    suite = imagenet_suite(tmp_path, published={"theirs": recipe})
    record = run(tmp_path, suite, "flyp", recipe="theirs")["flyp"]
    assert "validation" not in record["sets"] and len(record["sets"]) == 6 and "nll_validation" not in record["summary"]


# WILDS


WILDS = {
    "iwildcam": ("iwildcam-v2.0-1", {"validation": 4, "id": 4, "ood": 4}),
    "fmow": ("fmow-v1.1-1", {"validation": 6, "id": 6, "ood": 6}),
    "camelyon17": ("camelyon17-v1.0-1", {"validation": 12, "id": 12, "ood": 24, "hospital_1": 24}),
}


@pytest.mark.parametrize("name", WILDS)
def test_methods_run_on_the_wilds_trees(name, tmp_path, monkeypatch, request):
    root = request.getfixturevalue("camelyon" if name == "camelyon17" else name)
    monkeypatch.setenv("ROBUSTFT_DATA", str(root))
    version, counts = WILDS[name]
    recipes = {"common": SHORT | {"batch_size": 4}}
    suite = write_suite(tmp_path, name=name, dataset=name, version=version, tuning=None, recipes=recipes)
    records = run(tmp_path, suite, "zero_shot", "flyp", "wise_ft")
    for record in records.values():
        assert {key: result["n"] for key, result in record["sets"].items()} == counts
    if name == "fmow":  # three images of each region, or two, and all of Antarctica in none
        assert "worst_group_accuracy" in records["flyp"]["sets"]["ood"]
    f1, own = dict.fromkeys(("validation", "id", "ood"), "macro_f1_labels"), records["flyp"]["info"].get("own_metrics")
    assert own == {"iwildcam": f1, "fmow": {"ood": "worst_group_accuracy"}, "camelyon17": None}[name]
    if own:  # the path has what its sets are judged by, and the samples give the same numbers
        record = records["wise_ft"]
        at = next(p["sets"] for p in record["path"]["points"] if p["value"] == record["spec"]["hyper"]["alpha"])
        for of, metric in own.items():
            assert at[of][metric] == pytest.approx(record["sets"][of][metric])
        (folder,) = tmp_path.rglob(f"*-{record['run_id']}")
        numbers = list(rescore(record, FolderFiles(folder / "predictions")))
        assert not [number for number in numbers if number.differs]
        told = {number.metric for number in numbers if number.set.startswith("ood at ") and number.rescored is not None}
        assert set(own.values()) <= told
    else:
        assert set(records["wise_ft"]["path"]["points"][0]["sets"]["ood"]) == {"accuracy", "ece", "nll"}
    shown = build(list(records.values())).to_markdown()
    assert ("ID macro F1" in shown and "ood macro F1" in shown) == (name == "iwildcam")
    assert ("ood worst group" in shown) == (name == "fmow")


def test_a_label_that_is_no_class_is_refused(iwildcam, tmp_path):
    copy = shutil.copytree(iwildcam / "iwildcam_v2.0", tmp_path / "iwildcam_v2.0")
    text = (copy / "metadata.csv").read_text().replace("004.jpg,0,", "004.jpg,999,")
    (copy / "metadata.csv").write_text(text)
    with (
        warnings.catch_warnings(),
        pytest.raises(DataError, match=r"1 labels outside 0..181, first 999; unpack|cannot"),
    ):
        warnings.simplefilter("ignore")
        IWildCam(tmp_path, allow_partial=True).eval_data("ood").labels  # noqa: B018


# One's own data


def test_methods_run_on_a_folder_of_ones_own(tmp_path):
    make(tmp_path / "animals")
    about = dict(name="own", dataset=f"folder:{tmp_path / 'animals'}", version="own", tuning=None)
    suite = write_suite(tmp_path, **about, recipes={"common": SHORT})
    records = run(tmp_path, suite, *METHODS, settings=())
    assert set(records) == set(METHODS)
    for record in records.values():
        assert {name: result["n"] for name, result in record["sets"].items()} == {
            "validation": 3, "id": 5, "fog": 3, "night": 2
        }  # fmt: skip
        assert record["benchmark_version"] == Folder(tmp_path / "animals").card.version


def test_layers_of_ones_own_data_are_compared_and_left_out_with_a_word_where_the_images_are_gone(tmp_path, few_figures):
    make(tmp_path / "animals")
    about = dict(name="own", dataset=f"folder:{tmp_path / 'animals'}", version="own", tuning=None)
    run(tmp_path, write_suite(tmp_path, **about, recipes={"common": SHORT}), "zero_shot", "ft", settings=())
    places = ("--runs", tmp_path / "runs", "--results", tmp_path / "results")
    assert call("figures", "layers", "--benchmark", "own", *places) == 0
    (kept,) = (tmp_path / "runs").rglob(LAYERS)
    assert len(json.loads(kept.read_text())["layers"]) > 3
    kept.unlink()
    shutil.rmtree(tmp_path / "animals")
    with pytest.warns(UserWarning, match="figure layers: ft on tiny-vit-p16 is left out: .*animals"):
        assert call("report", "own", *places) == 0
    assert (tmp_path / "results" / "report.html").exists()


def test_the_board_of_ones_own_data_needs_neither_the_images_nor_the_suite(tmp_path, capsys):
    make(tmp_path / "animals")
    about = dict(name="own", dataset=f"folder:{tmp_path / 'animals'}", version="own", tuning=None)
    run(tmp_path, write_suite(tmp_path, **about, recipes={"common": SHORT}), "zero_shot", settings=())
    shutil.rmtree(tmp_path / "animals")
    places = ("--runs", tmp_path / "runs", "--results", tmp_path / "results")
    assert call("leaderboard", "own", *places) == 0
    out = capsys.readouterr().out
    assert "own (animals-" in out and "zero_shot" in out and "digits" not in out
    assert call("leaderboard", "owned", *places) == 2 and "unknown benchmark 'owned'" in capsys.readouterr().err


def test_methods_run_on_a_parquet_dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    parquet(tmp_path / "pets", "train", [k % 3 for k in range(30)])
    parquet(tmp_path / "pets", "test", [2, 0, 1], base=100)
    parquet(tmp_path / "pets", "night", [1, 1], base=70)
    (tmp_path / "pets.yaml").write_text("dataset: pets\nshifts: {night: night}\n")
    about = dict(name="pets", dataset=f"huggingface:{tmp_path / 'pets.yaml'}", version="own", tuning=None)
    suite = write_suite(tmp_path, **about, recipes={"common": SHORT})
    records = run(tmp_path, suite, "zero_shot", "tracer", "wise_ft", settings=())
    for record in records.values():
        assert {name: result["n"] for name, result in record["sets"].items()} == {"validation": 3, "id": 3, "night": 2}


def bomb(side):
    """A PNG that says it has side x side pixels and holds none."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (bomb(30_000), "cannot be read as an image .*DecompressionBombError"),
        (b"", "cannot be read as an image"),
        (encoded((1, 2, 3), size=(64, 64))[:300], "cannot be read as an image"),
    ],
    ids=["huge", "empty", "cut"],
)
def test_a_file_that_cannot_be_used_is_named_before_its_set_is_scored(tmp_path, content, words):
    root = make(tmp_path / "animals")
    (root / "night" / "bee" / "0.png").write_bytes(content)
    data = Folder(root, size=32)
    with pytest.raises(DataError, match=f"night/bee/0.png: {words}"):
        data.eval_data("night").images(0, 2)


def test_one_pixel_grey_cmyk_and_transparent_files_are_pictures(tmp_path):
    root = make(tmp_path / "animals")
    for k, content in enumerate((encoded((7, 7, 7), size=(1, 1)), encoded((7, 7, 7), "L"),
                                 encoded((7, 7, 7), "CMYK"), encoded((7, 7, 7), "RGBA", kind="PNG"))):  # fmt: skip
        (root / "night" / "bee" / f"more_{k}.png").write_bytes(content)
    night = Folder(root, size=32).eval_data("night")
    assert len(night) == 6 and night.images(0, 6).shape == (6, 3, 32, 32)


def test_a_missing_class_folder_and_a_shift_of_other_classes_are_said_before_a_run(tmp_path):
    root = make(tmp_path / "animals")
    spec = json.loads(json.dumps(dict(benchmark="b", benchmark_version="1", fingerprint="f", method="ft", seed=0)))
    spec = data_check.RunSpec(**spec, method_version=1, backbone=BACKBONE, weights="w", recipe="common")
    data_check.check(Folder(root), spec, trains=True)
    (root / "fog" / "wasp").mkdir()
    with pytest.raises(DataError, match="fog has 1 folder that is none of its classes, first 'wasp'"):
        data_check.check(Folder(root), spec, trains=True)
    (root / "fog" / "wasp").rmdir()
    shutil.rmtree(root / "train" / "bee")
    with pytest.raises(DataError, match="class folder 'bee' of classes.txt has no training image"):
        data_check.check(Folder(root), spec, trains=True)
