"""Anybody's own images: what a folder must hold, what is withheld, and when it is other data."""

import hashlib
import os
import unicodedata

import numpy as np
import pytest
import torch
from animals_kit import make, picture

from robustft.datasets import catalogue, loaders
from robustft.datasets.card import DataError
from robustft.datasets.folder import Folder

SIZE = 8


@pytest.fixture
def own(tmp_path):
    return make(tmp_path / "animals")


def test_sets_classes_and_prompts(own):
    data = catalogue.get(f"folder:{own}")
    card = data.card
    assert (card.name, card.class_names) == ("folder:animals", ("a zebra", "an ant", "ant"))
    assert card.names("shift") == ("fog", "night") and card.names("id") == ("id",)
    assert card.prompts == ("a photo of a {}.",) and card.version == f"animals-{card.fingerprint[:12]}"
    assert "10 % of train by hash" in card.summary
    # classes are in the order of classes.txt, not of the folders
    assert data.eval_data("id").labels.tolist() == [1, 1, 2, 0, 0]
    assert data.eval_data("night").sample_ids == ["bee/0.png", "zebra/0.png"]


def test_a_tenth_of_each_class_is_withheld_by_hash(own):
    data = Folder(own, size=SIZE)
    validation = data.eval_data("validation")
    zebras = sorted((f"zebra/{k}.png" for k in range(20)), key=lambda n: hashlib.sha256(n.encode()).digest())
    ants = sorted((f"ant/{k}.png" for k in range(11)), key=lambda n: hashlib.sha256(n.encode()).digest())
    assert set(validation.sample_ids) == {*zebras[:2], ants[0]}
    assert data.train_size == 32 - 3 and np.bincount(data.train_labels()).tolist() == [18, 10, 1]


def test_a_validation_folder_replaces_the_rule(tmp_path):
    root = make(tmp_path / "own", {"train": (4, 4, 4), "val": (1, 1, 0), "test": (1, 1, 1)})
    data = Folder(root, size=SIZE)
    assert data.train_size == 12 and len(data.eval_data("validation")) == 2
    assert "hash" not in data.card.summary and data.card.names("shift") == ()


def test_prompts_come_from_a_file(own):
    before = Folder(own).card.fingerprint
    (own / "prompts.txt").write_text("a trap picture of {}.\n\n{} at night\n")
    card = Folder(own).card
    assert card.prompts == ("a trap picture of {}.", "{} at night") and card.fingerprint != before
    for wrong in ("no place", "{} and {}", "{} {x}", "{0}"):
        (own / "prompts.txt").write_text(wrong)
        with pytest.raises(DataError, match="needs one {} for the class name"):
            Folder(own)
    for empty in ("", "\n \n"):
        (own / "prompts.txt").write_text(empty)
        with pytest.raises(DataError, match="prompts.txt is empty; write lines with one {} for the class"):
            Folder(own)


def test_the_fingerprint_is_of_the_content_not_of_the_place(own, tmp_path):
    first = Folder(own).card.fingerprint
    copy = make(tmp_path / "elsewhere" / "animals")
    assert Folder(copy).card.fingerprint == first
    picture(copy / "fog" / "ant" / "one_more.png", 0)
    assert Folder(copy).card.fingerprint != first
    same_size = (own / "fog" / "ant" / "0.png").read_bytes()
    (own / "fog" / "ant" / "0.png").write_bytes(same_size[:-1] + b"x")
    assert Folder(own).card.fingerprint != first
    (own / "fog" / "ant" / "0.png").write_bytes(same_size)
    assert Folder(own).card.fingerprint == first


@pytest.mark.parametrize("workers", [0, 2])
def test_it_trains_like_any_other_dataset(own, workers):
    data = Folder(own, size=SIZE)
    tokens = torch.ones(3, 1, 4, dtype=torch.int64)
    batches = list(
        loaders.train_batches(data, tokens, batch_size=9, seed=1, start_step=0, total_steps=3, workers=workers)
    )
    images, ids = (torch.cat([getattr(b, field) for b in batches]) for field in ("images", "sample_ids"))
    values = [int(name.split("/")[1][:-4]) + 3 * label for name, label in
              ((data._trained[0].name(i), int(data.train_labels()[i])) for i in ids.tolist())]  # fmt: skip
    assert images[:, 0, 0, 0].tolist() == values


def test_what_does_not_fit_is_said(own, tmp_path):
    with pytest.raises(DataError, match="nowhere: there is no such folder"):
        Folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="folder:animals has no set 'nigth'; it has validation, id, fog, night"):
        Folder(own).eval_data("nigth")
    picture(own / "fog" / "wasp" / "0.png", 1)
    with pytest.raises(DataError, match="fog has 1 folder that is none of its classes, first 'wasp'; add a line to"):
        Folder(own).eval_data("fog")
    (own / "classes.txt").write_text("zebra\tzebra\nant\tant\nbee\tbee\nwasp\twasp\n")
    with pytest.raises(DataError, match="class folder 'wasp' of classes.txt has no training image"):
        Folder(own).train_labels()
    picture(own / "train" / "wasp" / "2024" / "0.png", 1)
    with pytest.raises(DataError, match="'wasp' of classes.txt has no training image; move those of its folder '2024'"):
        Folder(own).train_labels()
    (own / "empty").mkdir()
    with pytest.raises(DataError, match="no images in class folders under .*empty; fill or remove it"):
        Folder(own).train_labels()
    (own / "test").mkdir()
    with pytest.raises(DataError, match="id_test and test mean the same"):
        Folder(own)


@pytest.mark.parametrize(
    "text, message",
    [
        ("zebra zebra\n", "lines of folder, tab, class name"),
        ("a\tb\na\tc\n", "'a' twice"),
        ("a\tb\n", "found 1 class"),
    ],
)
def test_a_bad_list_of_classes_is_refused(own, text, message):
    (own / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        Folder(own)


def test_missing_parts_are_named(own, tmp_path):
    (own / "classes.txt").unlink()
    with pytest.raises(DataError, match="no file .*classes.txt; write one line a class: folder name, tab, class name"):
        Folder(own)
    root = make(tmp_path / "own", {"train": (1, 1, 1)})
    with pytest.raises(DataError, match=r"needs the folders train and id_test, found \['train'\]"):
        Folder(root)


def test_what_is_no_image_of_a_class_is_counted_and_named(own):
    """Folders in class folders, images outside of them, and endings that no image has; not what is hidden."""
    before = Folder(own).card.fingerprint
    assert Folder(own).passed_over == {}
    picture(own / "train" / "zebra" / "more" / "0.png", 7)
    picture(own / "train" / "loose.png", 7)
    for name in ("a.jfif", "b.heic", "notes.txt", "._0.png", ".DS_Store"):
        (own / "night" / "bee" / name).write_bytes(b"")
    data = Folder(own)
    assert data.passed_over == {"train": (2, "loose.png"), "night": (3, "bee/a.jfif")}
    assert data.card.fingerprint == before and len(data.eval_data("night")) == 2


def test_a_link_to_nothing_is_named(own):
    (own / "night" / "bee" / "gone.png").symlink_to(own / "nowhere.png")
    with pytest.raises(DataError, match="night/bee/gone.png: cannot be read .*; restore the file or take it away"):
        Folder(own).card  # noqa: B018


def test_a_link_to_itself_is_no_class(own):
    (own / "night" / "ant").symlink_to(own / "night" / "ant")
    assert Folder(own).passed_over == {"night": (1, "ant")}


def test_a_list_of_classes_from_windows_is_read(own):
    lines = (own / "classes.txt").read_text().splitlines()
    (own / "classes.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert Folder(own).card.class_names == ("a zebra", "an ant", "ant")


def test_names_in_any_script_and_with_spaces_are_samples(own):
    for name in ("Übung 1.PNG", "蜂.png", "😀 [x] %20.png"):
        picture(own / "night" / "bee" / name, 9)
    night = Folder(own, size=SIZE).eval_data("night")
    assert len(night) == 5 and night.images(0, 5).shape == (5, 3, SIZE, SIZE)
    assert {"bee/Übung 1.PNG", "bee/蜂.png", "bee/😀 [x] %20.png"} < set(night.sample_ids)


@pytest.mark.parametrize("written, on_disk", [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_class_folder_with_accents_from_a_mac_is_the_class_of_that_name(own, written, on_disk):
    """Both forms look alike; copied from macOS, names have the other one than a list typed elsewhere."""
    name, alike = (unicodedata.normalize(form, "Hündchen") for form in (written, on_disk))
    assert name != alike
    listed = (own / "classes.txt").read_text(encoding="utf-8").replace("zebra\t", f"{name}\t")
    (own / "classes.txt").write_text(listed, encoding="utf-8")
    for part in ("train", "id_test", "night", "fog"):
        (own / part / "zebra").rename(own / part / alike)
    data = Folder(own, size=SIZE)
    assert np.bincount(data.train_labels()).tolist() == [18, 10, 1]
    night = data.eval_data("night")
    assert f"{alike}/0.png" in night.sample_ids
    assert sorted(night.labels.tolist()) == [0, 2] and night.images(0, 2).shape == (2, 3, SIZE, SIZE)


def test_a_name_that_no_record_could_hold_is_refused_before_a_run(own):
    os.rename(own / "night" / "bee" / "0.png", os.fsencode(own / "night" / "bee") + b"/\xff.png")
    with pytest.raises(DataError, match=r"night: the name b'.xff.png' is not UTF-8; rename it"):
        Folder(own).card  # noqa: B018


@pytest.mark.parametrize("name", ["ni\nght", "night ", "validation "])
def test_a_folder_whose_name_no_table_could_show_is_refused(own, name):
    (own / "night").rename(own / name)
    with pytest.raises(DataError, match="cannot be the name of a shift; rename the folder"):
        Folder(own)
