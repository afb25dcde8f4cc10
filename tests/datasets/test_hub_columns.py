"""Tables as others write them: images as bytes, labels as integers, text or names, in an order of their own."""

import json

import datasets as library
import numpy as np
import own_data_kit as kit
import pytest
from PIL import Image
from runs_kit import call, folders

from robustft.datasets.card import DataError
from robustft.datasets.hub import Hub

pytestmark = pytest.mark.usefixtures("no_reference")

SIZE = 16
NAMED = "dataset: d\nclass_names: [zero, one, two]\n"


def hub(place, text, **options):
    (place / "x.yaml").write_text(text)
    return Hub(str(place / "x.yaml"), size=SIZE, **options)


def splits(place, **options):
    kit.table(place, "train", [0, 1, 2] * 4, **options)
    kit.table(place, "test", [0, 1, 2], **options)


WAYS = {
    "bytes and path": None,
    "bytes and a name": lambda image: {"bytes": kit.png(image), "path": "a.png"},
    "bytes without path": lambda image: {"bytes": kit.png(image)},
    "plain bytes": kit.png,
}


@pytest.mark.parametrize("stored", WAYS.values(), ids=WAYS)
def test_encoded_images_are_read_however_pandas_holds_them(stored, tmp_path):
    splits(tmp_path / "theirs", label=library.Value("int64"))
    splits(tmp_path / "d", stored=stored)
    theirs = hub(tmp_path, NAMED.replace("dataset: d", "dataset: theirs"))
    ours = hub(tmp_path, NAMED)
    assert np.array_equal(ours.eval_data("id").images(0, 3), theirs.eval_data("id").images(0, 3))
    assert ours.train_labels().tolist() == theirs.train_labels().tolist() and ours.train_size == 9


def test_the_command_runs_on_a_table_of_pandas(tmp_path, capsys, runs_here):
    splits(tmp_path / "d", image="img")
    data = kit.described(tmp_path / "x.yaml", NAMED)
    file, runs = kit.suite(tmp_path / "s.yaml", data), tmp_path / "runs"
    assert call("sweep", file, "--method", "zero_shot", "--runs", runs) == 2
    assert "no column 'image'; it has img, label; set image in YAML." in capsys.readouterr().err
    file = kit.suite(tmp_path / "t.yaml", kit.described(tmp_path / "y.yaml", NAMED + "image: img\n"))
    assert call("sweep", file, "--method", "zero_shot", "--runs", runs) == 0
    assert json.loads((folders(runs)[0] / "record.json").read_text())["sets"]["id"]["n"] == 3


CAST = "cast_column('image', datasets.Image())"
UNREADABLE = {
    "a path": (lambda image: "a.png", "holds images but text; where it is the paths of image files, " + CAST),
    "a path and no bytes": (lambda image: {"bytes": None, "path": "a.png"}, "no bytes but the path 'a.png'"),
    "lists": (lambda image: np.asarray(image)[:4, :4].tolist(), "arrays; map each row to PIL.Image.fromarray(numpy"),
    "flat floats": (lambda image: [0.5] * 12, "but arrays; map each row to PIL.Image.fromarray(numpy.asarray("),
    "numbers": (lambda image: 7, "column 'image' does not hold images but int64; set image in YAML"),
}


@pytest.mark.parametrize(("stored", "sentence"), UNREADABLE.values(), ids=UNREADABLE)
def test_what_is_no_encoded_image_is_refused_with_the_cast_that_helps(stored, sentence, tmp_path):
    splits(tmp_path / "d", stored=stored)
    with pytest.raises(DataError) as caught:
        hub(tmp_path, NAMED).card  # noqa: B018
    assert sentence.removeprefix("holds images ") in str(caught.value) and "\n" not in str(caught.value)
    if "int64" not in sentence:
        assert CAST in str(caught.value)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "uint16"])
def test_arrays_of_the_library_are_refused_too(dtype, tmp_path):
    kinds = library.Features({"image": library.Array3D((4, 4, 3), dtype), "label": library.Value("int64")})
    rows = {"image": [np.zeros((4, 4, 3), dtype)] * 3, "label": [0, 1, 2]}
    (tmp_path / "d").mkdir()
    library.Dataset.from_dict(rows, features=kinds).to_parquet(tmp_path / "d" / "train.parquet")
    with pytest.raises(
        DataError, match=r"does not hold images but arrays; .*cast_column\('image', datasets.Image\(\)\)"
    ):
        hub(tmp_path, NAMED + "id: train\n").card  # noqa: B018


def test_a_row_without_image_is_named_before_anything_starts(tmp_path):
    splits(tmp_path / "d")
    kept = iter([{"bytes": b"any", "path": None}, None])
    kit.table(tmp_path / "d", "far", [0, 1], stored=lambda _: next(kept))
    with pytest.raises(DataError, match="d, far, row 1: column 'image' is empty; leave the row out"):
        hub(tmp_path, NAMED + "shifts: {far: far}\n").card  # noqa: B018


# labels


def test_labels_that_are_text_are_matched_by_name_in_any_order(tmp_path):
    kit.table(tmp_path / "d", "train", ["two", "one", "zero"] * 4)
    kit.table(tmp_path / "d", "test", ["one", "two", "zero"])
    data = hub(tmp_path, NAMED)
    assert data.eval_data("id").labels.tolist() == [1, 2, 0]
    with pytest.raises(DataError, match="column 'label' has no class names; give class_names in YAML"):
        hub(tmp_path, "dataset: d\n").card  # noqa: B018
    with pytest.raises(DataError, match="the label 'two' is none of the 3 classes"):
        hub(tmp_path, "dataset: d\nclass_names: [zero, one, Two]\n").card  # noqa: B018


@pytest.mark.parametrize(
    ("labels", "kind"), [([0.0, 1.0, 2.0], "float64"), ([True, False, True], "bool"), ([[0], [1], [2]], "List")]
)
def test_labels_of_another_kind_are_refused_with_the_cast(labels, kind, tmp_path):
    kit.table(tmp_path / "d", "train", labels * 4)
    kit.table(tmp_path / "d", "test", labels)
    with pytest.raises(
        DataError, match=rf"column 'label' holds {kind}.*, which is no label; cast_column\('label', data"
    ):
        hub(tmp_path, NAMED).card  # noqa: B018


SHIFT = "dataset: d\nshifts: {far: {dataset: far, split: test%s}}\n"
OTHER = {"labels": [2, 1, 0], "names": ("two", "one", "zero")}


@pytest.mark.parametrize(
    "far",
    [
        OTHER,
        {"labels": ["zero", "one", "two"]},
        {"labels": [0, 1, 2], "names": ("zero", "one", "two", "three")},
    ],
    ids=["names in another order", "text", "more names than it has"],
)
def test_a_shift_is_matched_by_name_whatever_its_order(far, tmp_path):
    splits(tmp_path / "d", names=kit.NAMES)
    kit.table(tmp_path / "far", "test", **far)
    assert hub(tmp_path, SHIFT % "").eval_data("far").labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "far",
    [{"labels": [0, 1, 2]}, {"labels": [0, 1, 2], "label": library.ClassLabel(num_classes=3)}],
    ids=["bare integers", "a ClassLabel without names"],
)
def test_bare_integers_beside_a_named_train_need_names(far, tmp_path, capsys):
    splits(tmp_path / "d", names=kit.NAMES)
    kit.table(tmp_path / "far", "test", **far)
    file = kit.suite(tmp_path / "s.yaml", kit.described(tmp_path / "x.yaml", SHIFT % ""))
    assert call("sweep", file, "--method", "zero_shot", "--dry-run", "--runs", tmp_path / "runs") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "its labels are bare integers, and the training labels have the names zero, one, two, so which is" in told
    assert "give class_names to the shift in YAML" in told
    data = hub(tmp_path, SHIFT % ", class_names: [two, one, zero]")
    assert data.eval_data("far").labels.tolist() == [2, 1, 0]
    with pytest.raises(DataError, match="class_names has 2 names, column|the label 2 is none of the 2 classes"):
        hub(tmp_path, SHIFT % ", class_names: [two, one]").eval_data("far")


@pytest.mark.parametrize("label", [None, library.ClassLabel(num_classes=3)], ids=["integers", "no names"])
def test_integers_beside_integers_mean_the_same(label, tmp_path):
    splits(tmp_path / "d", label=label)
    kit.table(tmp_path / "far", "test", [0, 2])
    kit.table(tmp_path / "near", "test", **OTHER)
    text = NAMED + "shifts: {far: {dataset: far, split: test}, near: {dataset: near, split: test}}\n"
    data = hub(tmp_path, text)
    assert data.eval_data("far").labels.tolist() == [0, 2]
    assert data.eval_data("near").labels.tolist() == [0, 1, 2]  # by the names that YAML gives


@pytest.mark.parametrize(
    ("test", "found"),
    [(OTHER, "has the classes two, one, zero, and"), ({"labels": [0, 1, 2]}, "has bare integers, and")],
    ids=["another order", "no names"],
)
def test_files_of_one_folder_are_not_read_with_each_others_names(test, found, tmp_path):
    """The library reads every file with the names of the first, and their integers as they stand."""
    kit.table(tmp_path / "d", "train", [0, 1, 2] * 4, names=kit.NAMES)
    kit.table(tmp_path / "d", "test", **test)
    with pytest.raises(
        DataError, match=f"test-00000-of-00001.parquet: column 'label' {found} the library would read it"
    ):
        hub(tmp_path, "dataset: d\n").card  # noqa: B018
    # names that the folder's README states are everybody's
    (tmp_path / "d" / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: image\n    dtype: image\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': zero\n          '1': one\n          '2': two\n---\n"
    )
    if "names" not in test:
        assert hub(tmp_path, "dataset: d\n").eval_data("id").labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [None, ("zero", "one", "two")])
def test_a_shift_added_to_another_dataset_is_matched_by_name_or_refused(names, tmp_path, capsys):
    kit.table(tmp_path / "far", "test", [2, 0, 1], names=names)
    kit.table(tmp_path / "far", "train", [2, 0, 1], names=names)
    data = kit.folder(tmp_path / "d", {"n02": "two", "n00": "zero", "n01": "one"})
    file = kit.suite(tmp_path / "s.yaml", data, shifts={"far": f"huggingface:{tmp_path / 'far'}"})
    code = call("sweep", file, "--method", "zero_shot", "--dry-run", "--runs", tmp_path / "runs")
    if names:
        from robustft.datasets import catalogue

        joined = catalogue.with_shifts(data, {"far": f"huggingface:{tmp_path / 'far'}"})
        assert code == 0 and catalogue.get(joined).eval_data("far").labels.tolist() == [0, 1, 2]
    else:
        assert code == 2 and "has no class names; give class_names in YAML" in capsys.readouterr().err


# pixels


def floats(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype("float32") / 255)


DEEP = {
    "floats": (floats, ".tif", "mode F"),
    "floats that are no numbers": (lambda im: Image.fromarray(np.full((9, 9), np.nan, "float32")), ".tif", "mode F"),
    "negative": (lambda im: Image.fromarray(np.full((9, 9), -5, "int32")), ".tif", "mode I"),
    "16 bits": (lambda im: Image.fromarray(np.asarray(im.convert("L")).astype("uint16") * 257), ".png", "mode I;16"),
    "16 bits, dark": (lambda im: Image.fromarray(np.asarray(im.convert("L")).astype("uint16")), ".png", "mode I;16"),
}


@pytest.mark.parametrize(("change", "ending", "mode"), DEEP.values(), ids=DEEP)
def test_one_rule_of_pixels_for_folders_tables_and_shifts(change, ending, mode, tmp_path, capsys):
    def save(image, place, name, c, j):
        (change(image) if name == "shift1" else image).save(place.with_suffix(ending if name == "shift1" else ".png"))

    def stored(image):
        change(image).save(tmp_path / f"x{ending}")
        return {"bytes": (tmp_path / f"x{ending}").read_bytes(), "path": None}

    own = kit.folder(tmp_path / "d", {"n00": "zero", "n01": "one", "n02": "two"}, save)
    (tmp_path / "d" / "shift1").rename(tmp_path / "shift1")
    (tmp_path / "shift1" / "classes.txt").write_bytes((tmp_path / "d" / "classes.txt").read_bytes())
    splits(tmp_path / "h")
    kit.table(tmp_path / "h", "far", [0, 1, 2], stored=stored)
    shift, sentence = {"near": f"folder:{tmp_path / 'shift1'}"}, f"its pixels are no 8-bit integers ({mode}, "
    table = kit.described(tmp_path / "x.yaml", NAMED.replace("d\n", "h\n", 1) + "shifts: {far: far}\n")
    (tmp_path / "whole").mkdir()
    whole = kit.folder(tmp_path / "whole" / "d", {"n00": "zero", "n01": "one", "n02": "two"}, save)
    for name, shifts, where in [
        (whole, {}, f"{tmp_path / 'whole' / 'd' / 'shift1' / 'n00' / '000'}{ending}: "),
        (own, shift, f"{tmp_path / 'shift1' / 'n00' / '000'}{ending}: "),
        (table, {}, "huggingface:x: h, far, row 0: "),
    ]:
        file = kit.suite(tmp_path / "s.yaml", name, shifts=shifts)
        assert call("sweep", file, "--method", "ft", "--runs", tmp_path / "runs") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert f"{where}{sentence}" in told and told.endswith("scale them to 0..255 and save them as uint8.")
    assert not (tmp_path / "runs").exists()
