"""A shift of one's own beside the sets of another dataset: classes by name, other classes refused, a run to the end."""

import json
import pickle
import shutil
import unicodedata

import datasets as library
import numpy as np
import pytest
import torch
from animals_kit import make, parquet, picture
from imagenet_kit import WNIDS
from runs_kit import BACKBONE, call, folders, write_suite

from robustft.benchmarks.commands.doctor import prefetch
from robustft.benchmarks.planning import benchmark as facts
from robustft.benchmarks.planning import data_check
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.suite.suite import find, load
from robustft.datasets import catalogue
from robustft.datasets.card import DataError
from robustft.datasets.extra_shifts import load as own_shift
from robustft.datasets.extra_shifts import positions
from robustft.datasets.imagenet import ImageNet
from robustft.datasets.imagenet_metadata import imagenet_names


@pytest.fixture
def place(tmp_path, monkeypatch):
    """`animals`, a whole dataset of one's own, and `attic`, two of its classes under other folder names."""
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))
    make(tmp_path / "animals")
    picture(tmp_path / "attic" / "first" / "0.png", 200)
    picture(tmp_path / "attic" / "second" / "0.png", 201)
    picture(tmp_path / "attic" / "second" / "1.png", 202)
    (tmp_path / "attic" / "classes.txt").write_text("second\tA Zebra\nfirst\tan ant\n")
    return tmp_path


def beside(base, **shifts):
    return catalogue.get(catalogue.with_shifts(base, shifts), size=8)


def test_a_folder_is_a_shift_of_ones_own_dataset_by_class_name(place):
    data, plain = beside("folder:animals", attic="folder:attic"), catalogue.get("folder:animals", size=8)
    attic = data.eval_data("attic")
    # the names of classes.txt decide, in any case; not the order of the folders
    assert data.card.class_names == ("a zebra", "an ant", "ant")
    assert attic.sample_ids == ["first/0.png", "second/0.png", "second/1.png"] and attic.labels.tolist() == [1, 0, 0]
    assert attic.images(0, 3)[:, 0, 0, 0].tolist() == [200, 201, 202]
    assert data.card.names("shift") == ("fog", "night", "attic") and data.card.version == plain.card.version
    assert "folder:attic, 3 images of 2 of 3 classes" in data.card.sets[-1].measures
    # everything else is the dataset's own, also in a worker
    there = pickle.loads(pickle.dumps(data))
    assert torch.equal(there.train_images([(0, 3)], 1), plain.train_images([(0, 3)], 1))
    assert there.train_size == plain.train_size and len(there.eval_data("fog")) == 3


def test_the_same_folders_need_no_list_of_names_and_a_set_of_another_dataset_is_a_shift(place):
    other = make(place / "other", {"train": (2, 2, 2), "id_test": (1, 1, 1), "dusk": (1, 1, 0)})
    data = beside("folder:animals", dusk="folder:other/dusk")  # its classes.txt stands beside it
    assert data.eval_data("dusk").labels.tolist() == [1, 0]
    shutil.copytree(other / "dusk", place / "loose")
    shutil.rmtree(place / "loose" / "ant")
    assert beside("folder:animals", loose="folder:loose").eval_data("loose").labels.tolist() == [0]  # folder "zebra"
    with pytest.raises(DataError, match="folder:other: is a whole dataset; .* as folder:other/dusk"):
        beside("folder:animals", other="folder:other")


def test_accents_match_in_both_forms_of_writing_them(place):
    one, two = (unicodedata.normalize(form, "Zébra") for form in ("NFC", "NFD"))
    listed = (place / "animals" / "classes.txt").read_text().replace("a zebra", one)
    (place / "animals" / "classes.txt").write_text(listed)
    (place / "attic" / "classes.txt").write_text(f"{one}\t{two}\nfirst\tan ant\n")
    (place / "attic" / "second").rename(place / "attic" / two)
    attic = beside("folder:animals", attic="folder:attic").eval_data("attic")
    assert dict(zip(attic.sample_ids, attic.labels.tolist(), strict=True)) == {
        f"{two}/0.png": 0, f"{two}/1.png": 0, "first/0.png": 1
    }  # fmt: skip


def test_other_classes_and_names_of_two_classes_are_refused(place):
    picture(place / "attic" / "third" / "0.png", 1)
    with pytest.raises(DataError, match="classes.txt has no line for the folder 'third'; add one"):
        beside("folder:animals", attic="folder:attic")
    (place / "attic" / "classes.txt").unlink()
    words = "folder:attic: the class 'first' is none of the 3 classes of folder:animals; name it as there"
    with pytest.raises(DataError, match=words):
        beside("folder:animals", attic="folder:attic").card  # noqa: B018
    # the folder of one class has the name of another
    picture(place / "insects" / "ant" / "0.png", 1)
    with pytest.raises(DataError, match="'ant' stands for 2 classes of folder:animals, numbers 1 and 2; give it the"):
        beside("folder:animals", insects="folder:insects").card  # noqa: B018
    with pytest.raises(DataError, match="shifts: 'fog' is a set of folder:animals already; give another name"):
        beside("folder:animals", fog="folder:insects")
    with pytest.raises(DataError, match="folder:nowhere: there is no folder"):
        beside("folder:animals", far="folder:nowhere")
    (place / "empty").mkdir()
    with pytest.raises(DataError, match="folder:empty: no images in class folders"):
        beside("folder:animals", far="folder:empty")


def test_a_folder_is_a_shift_of_imagenet_by_name_or_wnid(place):
    names = imagenet_names()
    one, missiles = 1, (657, 744)
    assert names[657] == names[744] == "missile"
    for folder in (names[one].replace(" ", "_").title(), WNIDS[2], WNIDS[744]):
        picture(place / "phone" / folder / "0.png", 9)
    shift, data = own_shift("folder:phone", place), ImageNet(place)
    found = {name: int(k) for name, k in zip(shift.names, positions(shift, data), strict=True)}
    assert found == {names[one].replace(" ", "_").title(): one, WNIDS[2]: 2, WNIDS[744]: 744}
    picture(place / "phone" / "missile" / "0.png", 9)
    with pytest.raises(DataError, match=f"'missile' stands for 2 classes of imagenet, numbers {missiles[0]} and 744"):
        positions(own_shift("folder:phone", place), data)
    (place / "phone" / "missile").rename(place / "phone" / "goldfishes")
    with pytest.raises(DataError, match="'goldfishes' is none of the 1000 classes of imagenet, which has 'goldfish'"):
        positions(own_shift("folder:phone", place), data)


def test_what_the_hubs_library_reads_is_a_shift_and_other_splits_are_not_needed(place, monkeypatch):
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", place / "cache")
    library.disable_progress_bars()
    parquet(place / "pets", "photos", [1, 0, 1], names=("ant", "zebra"), base=50)
    (place / "pets.yaml").write_text("{dataset: pets, id: photos, class_names: [an ant, a zebra]}")
    data = beside("folder:animals", pets=f"huggingface:{place / 'pets.yaml'}")
    assert data.eval_data("pets").labels.tolist() == [0, 1, 0]
    assert data.eval_data("pets").images(0, 3)[:, 0, 0, 0].tolist() == [50, 51, 52]
    (place / "pets.yaml").write_text("{dataset: pets, id: photos, class_names: [an ant, a yak]}")
    with pytest.raises(DataError, match="pets.yaml: the class 'a yak' is none of the 3 classes of folder:animals"):
        beside("folder:animals", pets=f"huggingface:{place / 'pets.yaml'}").card  # noqa: B018
    suite = load(find(write_suite(place, dataset="folder:animals", shifts={"pets": "huggingface:nobody/none"})))
    monkeypatch.setattr(prefetch, "_reach_hub", lambda: None)
    with pytest.raises(DataError, match="nobody/none, test: not in the cache, and the hub cannot be reached"):
        prefetch.fetch(suite, lambda line: None)


def test_the_fingerprint_is_of_the_shift_too(place):
    before = beside("folder:animals", attic="folder:attic").card.fingerprint
    assert before != catalogue.get("folder:animals", size=8).card.fingerprint
    shown = next((place / "attic").glob("*/*.png"))
    shown.write_bytes(shown.read_bytes() + b" ")  # another file of the same name
    other = beside("folder:animals", attic="folder:attic").card.fingerprint
    picture(place / "attic" / "first" / "1.png", 1)
    assert len({before, other, beside("folder:animals", attic="folder:attic").card.fingerprint}) == 3


def test_a_shift_of_a_registered_dataset_from_a_suite_to_the_record_and_the_board(place, capsys, fresh_data, runs_here):
    for digit in ("seven", "THREE"):
        picture(place / "notes" / digit / "0.png", 30)
    suite = write_suite(place, shifts={"notes": "folder:notes"}, tuning=None)
    runs = ("--runs", place / "runs")
    assert call("run", suite, "--method", "zero_shot", "--set", "limit=32", *runs) == 0
    (folder,) = folders(place / "runs")
    record = json.loads((folder / "record.json").read_text())
    assert record["sets"]["notes"]["role"] == "shift" and record["sets"]["notes"]["n"] == 2
    assert record["spec"]["fingerprint"] == facts.data_facts("digits + notes=folder:notes", BACKBONE, False).fingerprint
    assert record["spec"]["fingerprint"] != Benchmark("digits").facts.fingerprint
    assert (folder / "predictions" / "notes.parquet").exists()

    # a class that the digits have not is said before a run, and by the doctor
    picture(place / "notes" / "twelve" / "0.png", 30)
    facts.dataset.cache_clear()
    facts.data_facts.cache_clear()
    capsys.readouterr()
    assert call("sweep", suite, "--method", "zero_shot", *runs) == 2
    assert "folder:notes: the class 'twelve' is none of the 10 classes of digits" in capsys.readouterr().err
    assert call("doctor", suite, "--fast") == 1
    out = capsys.readouterr().out
    assert "! folder:notes: the class 'twelve'" in out and "digits: comes with this package" in out


def test_shifts_of_embedded_data_are_checked_before_a_run(place):
    picture(place / "notes" / "two" / "0.png", 30)
    data = beside("digits", notes="folder:notes")
    assert data_check.fingerprint(data, True) != data_check.fingerprint(data, False)
    assert np.array_equal(data.train_labels(), catalogue.get("digits").train_labels())


@pytest.mark.parametrize("source", ["attic", "imagenet", "folder:", "folder:a + b=folder:c"])
def test_a_shift_must_say_where_it_is(place, source):
    with pytest.raises(ValueError, match="shifts.attic must be folder:<path> or huggingface:<name>, got"):
        load(find(write_suite(place, shifts={"attic": source})))
