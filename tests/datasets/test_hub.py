"""Data that Hugging Face's library loads: Parquet and image folders on this machine, as ID and as shift."""

import os
import pickle
import subprocess
import sys

import datasets as library
import numpy as np
import pytest
import torch
from animals_kit import parquet
from PIL import Image

from robustft.datasets import catalogue, loaders
from robustft.datasets.card import DataError
from robustft.datasets.hub import Hub

SIZE = 8


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    library.disable_progress_bars()
    parquet(tmp_path / "pets", "train", [k % 3 for k in range(30)])
    parquet(tmp_path / "pets", "test", [2, 0, 1], base=100)
    return tmp_path


def write(place, text):
    (place / "own.yaml").write_text(text)
    return Hub(str(place / "own.yaml"), size=SIZE)


def test_a_dataset_with_the_usual_columns_needs_no_yaml(place):
    data = catalogue.get(f"huggingface:{place / 'pets'}")
    assert data.card.class_names == ("cat", "dog", "emu") and data.card.names("shift") == ()
    assert "10 % of train by hash" in data.card.summary
    test = data.eval_data("id")
    assert test.labels.tolist() == [2, 0, 1] and test.images(0, 3)[:, 0, 0, 0].tolist() == [100, 101, 102]
    assert data.train_size == 27 and len(data.eval_data("validation")) == 3
    assert np.bincount(data.train_labels()).tolist() == [9, 9, 9]


def test_validation_by_hash_is_not_trained_on(place):
    data = Hub(str(place / "pets"), size=SIZE)
    validation = data.eval_data("validation")
    trained = {data._trained[0].name(i) for i in range(data.train_size)}
    assert not trained & set(validation.sample_ids) and len(trained) == 27
    # a row's number names its picture
    assert validation.images(0, 3)[:, 0, 0, 0].tolist() == [int(name) for name in validation.sample_ids]


def test_columns_splits_and_shifts_from_yaml(place):
    parquet(place / "far", "probe", [0, 1, 1], names=("emu", "cat"), image="img", label="kind", base=50)
    parquet(place / "pets", "night", [1, 1], base=70)
    parquet(place / "pets", "day", [1, 1], base=80)
    data = write(
        place,
        """
        dataset: pets
        shifts:
          night: night
          far: {dataset: far, split: probe, image: img, label: kind}
        validation: test
        id: day
        class_names: [a cat, a dog, an emu]
        prompts: ["a picture of {}."]
        """,
    )
    assert data.card.names("shift") == ("night", "far") and data.card.prompts == ("a picture of {}.",)
    assert data.card.class_names == ("a cat", "a dog", "an emu") and "hash" not in data.card.summary
    # the shift's own order of classes is another one: matched by name
    assert data.eval_data("far").labels.tolist() == [2, 0, 0]
    assert data.eval_data("validation").labels.tolist() == [2, 0, 1] and data.train_size == 30


def test_revision_and_config_are_those_of_the_dataset_that_they_are_given_for(place, monkeypatch):
    """A shift of another dataset has none of the first one's; a split of the same one has both."""
    load, asked = library.load_dataset, {}

    def recorded(path, config, split, revision, **more):
        asked[path, split] = config, revision
        return load(str(place / "pets"), split="test", **more)

    monkeypatch.setattr(library, "load_dataset", recorded)
    text = """
        dataset: lab/pets
        revision: abc
        config: small
        train: train
        shifts:
          night: night
          far: {dataset: other/far, split: probe}
          near: {dataset: other/near, split: probe, revision: def, config: large}
        """
    write(place, text).stored("train")
    assert asked == {
        ("lab/pets", "train"): ("small", "abc"),
        ("lab/pets", "test"): ("small", "abc"),
        ("lab/pets", "night"): ("small", "abc"),
        ("other/far", "probe"): (None, None),
        ("other/near", "probe"): ("large", "def"),
    }


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_pictures_are_made_in_the_way_asked_for(decode, place, ways):
    data = Hub(str(place / "pets"), size=SIZE, decode=decode)
    data.train_images([(0, 0)], 0)
    for name in ("validation", "id"):
        data.eval_data(name).images(0, 1)
    assert ways == [decode] * 3


def test_labels_written_as_text_are_matched_by_name(place):
    parquet(place / "words", "train", ["b", "a", "b", "a"], names=None)
    parquet(place / "words", "test", ["a"], names=None)
    assert write(place, "{dataset: words, class_names: [a, b]}").eval_data("id").labels.tolist() == [0]
    with pytest.raises(DataError, match="the label 'b' is none of the 2 classes"):
        write(place, "{dataset: words, class_names: [a, c]}").train_labels()
    with pytest.raises(DataError, match="has no class names; give class_names in YAML"):
        write(place, "dataset: words").card  # noqa: B018


def test_a_folder_of_images_is_read_too(place):
    for split, base in (("train", 1), ("test", 0)):
        for name in ("cat", "dog"):
            for k in range(3):
                path = place / "imgs" / split / name / f"{k}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (9, 9), base + 20 * k).save(path)
    data = write(place, "dataset: imgs")
    assert data.card.class_names == ("cat", "dog") and data.train_size == 4
    assert data.eval_data("id").images(0, 6)[:, 0, 0, 0].tolist() == [0, 20, 40] * 2
    before = data.card.fingerprint
    Image.new("L", (90, 90), 3).save(place / "imgs" / "test" / "cat" / "0.png")
    assert write(place, "dataset: imgs").card.fingerprint != before


def test_the_fingerprint_is_of_the_content(place):
    before = Hub(str(place / "pets")).card.fingerprint
    (place / "pets").rename(place / "elsewhere")
    assert Hub(str(place / "elsewhere")).card.fingerprint == before
    parquet(place / "elsewhere", "test", [2, 0, 0], base=100)
    assert Hub(str(place / "elsewhere")).card.fingerprint != before


@pytest.mark.parametrize("workers", [0, 2])
def test_it_trains_like_any_other_dataset(place, workers):
    data = Hub(str(place / "pets"), size=SIZE)
    tokens = torch.ones(3, 1, 4, dtype=torch.int64)
    batches = list(
        loaders.train_batches(data, tokens, batch_size=9, seed=1, start_step=0, total_steps=3, workers=workers)
    )
    images, ids, labels = (torch.cat([getattr(b, f) for b in batches]) for f in ("images", "sample_ids", "labels"))
    assert torch.equal(pickle.loads(pickle.dumps(data)).train_images([(0, 3)], 0), data.train_images([(0, 3)], 0))
    rows = [int(data._trained[0].name(i)) for i in ids.tolist()]
    assert images[:, 0, 0, 0].tolist() == rows and labels.tolist() == [row % 3 for row in rows]


@pytest.mark.parametrize(
    "text, message",
    [
        ("dataset: pets\nid: tset", "Unknown split .*correct dataset.* or name the split.s files data/<split>-"),
        ("dataset: pets\nimage: picture", "no column 'picture'; it has image, label; set image in YAML"),
        ("dataset: pets\nimage: label", "column 'label' does not hold images"),
        ("dataset: pets\nclass_names: [a]", "class_names has 1 names, column 'label' has 3 classes"),
        ("dataset: pets\nprompts: [no place]", "each prompt needs one {}"),
        ("dataset: pets\nshifts: {id: test}", "'id' cannot be the name of a shift"),
        ("dataset: pets\nshifts: {train: test}", "'train' cannot be the name of a shift"),
        ("dataset: pets\nshifts: {../night: test}", "'../night' cannot be the name of a shift"),
        ("dataset: pets\ncolour: red", "own.yaml: colour: Extra inputs"),
        ("image: image", "own.yaml: dataset: Field required"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_sentence(place, text, message):
    with pytest.raises(DataError, match=message) as caught:
        write(place, text).card  # noqa: B018
    assert "\n" not in str(caught.value)


def test_unlabelled_rows_and_other_classes_are_refused(place):
    parquet(place / "pets", "hidden", [-1, 0])
    with pytest.raises(DataError, match="hidden: the label -1 is none of the 3 classes"):
        write(place, "{dataset: pets, id: hidden}").eval_data("id")
    rows = {"image": [Image.new("RGB", (4, 4))] * 3, "label": [None, 0, 1]}
    kinds = library.Features({"image": library.Image(), "label": library.Value("int64")})
    (place / "none").mkdir()
    library.Dataset.from_dict(rows, features=kinds).to_parquet(place / "none" / "train.parquet")
    with pytest.raises(DataError, match="none, train: the label None is none of the 2 classes"):
        write(place, "{dataset: none, id: train, class_names: [a, b]}").card  # noqa: B018
    parquet(place / "far", "test", [0], names=("yak",))
    with pytest.raises(DataError, match="the label 'yak' is none of the 3 classes"):
        write(place, "{dataset: pets, shifts: {far: {dataset: far, split: test}}}").eval_data("far")


def test_a_class_that_is_never_trained_is_refused_in_every_set(place):
    """Where a folder of images has another class in test, the library takes it for one of all splits."""
    for folder in ("train/cat", "train/dog", "test/cat", "test/cow"):
        for k in range(4):
            path = place / "folders" / folder / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(DataError, match="folders, test: the class 'cow' has no image in train; add some, or leave"):
        write(place, "dataset: folders").card  # noqa: B018


def test_missing_sets_and_files_are_named(place):
    with pytest.raises(DataError, match="has no set 'ood'; it has validation, id"):
        Hub(str(place / "pets")).eval_data("ood")
    with pytest.raises(DataError, match="there is no such file"):
        Hub(str(place / "nothing.yaml"))


def test_a_row_without_a_picture_is_named(place):
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog", "emu"])})
    rows = {"image": [Image.new("RGB", (9, 9)), None], "label": [0, 1]}
    library.Dataset.from_dict(rows, features=features).to_parquet(place / "pets/data/test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="test, row 1: column 'image' is empty; leave the row out"):
        Hub(str(place / "pets"), size=SIZE).eval_data("id")


def test_a_damaged_picture_is_named(place):
    rows = library.Dataset.from_dict(
        {"image": [{"bytes": b"no image", "path": None}], "label": [0]},
        features=library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog", "emu"])}),
    )
    rows.to_parquet(place / "pets" / "data" / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="pets, test, row 0: cannot be read as an image"):
        Hub(str(place / "pets"), size=SIZE).eval_data("id").images(0, 1)


@pytest.mark.programs
def test_without_network_the_error_says_so(tmp_path):
    code = (
        "from robustft.datasets.hub import Hub\ntry: Hub('nobody/nothing').train_size\nexcept ValueError as e: print(e)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert "nobody/nothing, train: not in the cache, and the hub cannot be reached" in result.stdout, result.stderr
