"""Waterbirds on small copies of the layout of its archive."""

import csv
import hashlib

import numpy as np
import pytest
from imagenet_kit import picture

from robustft.datasets import catalogue, waterbirds
from robustft.datasets.card import DataError, MissingData
from robustft.datasets.waterbirds import Waterbirds

COUNTS = {0: (20, 10, 10, 20), 1: (2, 2, 2, 2), 2: (3, 3, 2, 2)}
"""Split -> images of the groups landbird on land, on water, waterbird on land, on water."""


def write(root):
    """The archive's folder with its metadata; image files by species."""
    base, rows = root / "waterbird_complete95_forest2water2", []
    for split, counts in COUNTS.items():
        for group, count in enumerate(counts):
            for k in range(count):
                name = f"00{group}.Species_{group}/S_{split}_{k:04d}.jpg"
                picture(base / name, (40 * group, 10 * k, 80 * split))
                rows.append([len(rows) + 1, name, group // 2, split, group % 2, "/x/y.jpg"])
    with open(base / "metadata.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["img_id", "img_filename", "y", "split", "place", "place_filename"])
        writer.writerows(rows)
    return base


@pytest.fixture
def birds(tmp_path):
    return write(tmp_path)


@pytest.fixture
def data(birds):
    return Waterbirds(birds.parent, allow_partial=True, size=8)


def test_counts_are_the_papers_and_two_tenths_of_each_group_are_held_out():
    card = catalogue.get("waterbirds")
    assert sum(waterbirds.TRAIN_GROUPS) == 4795 and waterbirds.TEST == 2255 + 2255 + 642 + 642
    assert waterbirds.HELD_OUT == 350 + 18 + 6 + 106 and card.train_size == 4795 - 2 * 480
    assert {entry.name: (entry.role, entry.metric) for entry in card.card.sets} == {
        "validation": ("validation", "accuracy"),
        "id": ("id", "accuracy"),
        "test": ("shift", "worst_group_accuracy"),
    }


def test_groups_are_bird_and_background(data):
    test = data.eval_data("test")
    assert (
        test.groups
        == ["landbird on land"] * 3 + ["landbird on water"] * 3 + ["waterbird on land"] * 2 + ["waterbird on water"] * 2
    )
    assert test.labels.tolist() == [0] * 6 + [1] * 4
    assert test.images(0, 2).shape == (2, 3, 8, 8)


def test_what_is_held_out_is_by_hash_in_each_group_and_disjoint(data):
    parts = {name: data.eval_data(name) for name in ("validation", "id")}
    names = {name: set(part.sample_ids) for name, part in parts.items()}
    train = set(data.train_names())
    assert names["validation"].isdisjoint(names["id"]) and train.isdisjoint(names["validation"] | names["id"])
    assert (len(train), data.train_size, data.found) == (48, 48, 60)
    for group, count in enumerate(COUNTS[0]):
        files = [f"00{group}.Species_{group}/S_0_{k:04d}.jpg" for k in range(count)]
        order = sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest())
        k = round(count / 10)
        assert names["validation"] & set(files) == set(order[:k]) and names["id"] & set(files) == set(order[k : 2 * k])
    assert np.bincount(parts["id"].labels).tolist() == [3, 3]


def test_a_small_copy_is_refused_and_named_and_so_is_a_missing_file(birds):
    with pytest.raises(DataError, match="expected 5794 images of test .* found 10 of 10 that are listed; unpack"):
        Waterbirds(birds.parent, size=8).eval_data("test")
    gone = birds / "000.Species_0" / "S_2_0001.jpg"
    gone.unlink()
    with pytest.raises(DataError, match="found 9 of 10 that are listed, 000.Species_0/S_2_0001.jpg is missing"):
        Waterbirds(birds.parent, size=8).eval_data("test")
    left = Waterbirds(birds.parent, allow_partial=True, size=8).eval_data("test")
    assert (len(left), left.found, left.expected) == (9, 9, 5794)


def test_metadata_that_is_none_is_named(birds):
    text = (birds / "metadata.csv").read_text()
    (birds / "metadata.csv").write_text(text.replace("split", "spilt"))
    with pytest.raises(DataError, match="metadata.csv needs split in each line"):
        Waterbirds(birds.parent, allow_partial=True, size=8).eval_data("test")
    (birds / "metadata.csv").unlink()
    with pytest.raises(DataError, match="cannot be read"):
        Waterbirds(birds.parent, allow_partial=True, size=8).eval_data("test")
    with pytest.raises(MissingData, match="waterbird_complete95_forest2water2.tar.gz"):
        Waterbirds(birds, allow_partial=True, size=8).eval_data("test")
