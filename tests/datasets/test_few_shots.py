"""Few shots: which images are drawn, and what a run on them sees."""

import hashlib

import numpy as np
import pytest
import torch
from own_data_kit import folder

from robustft.datasets import catalogue
from robustft.datasets.card import DataError
from robustft.datasets.folder import Folder
from robustft.datasets.shots import check_shots
from robustft.datasets.subset import FewShots, Rehearsal, few_shots


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    name = folder(tmp_path_factory.mktemp("few") / "own", {"a": "apple", "b": "pear"})
    return Folder(name.partition(":")[2], size=32)


def test_the_rule_is_the_smallest_sha256_of_seed_and_name():
    names, labels = [f"{c}/{j}.png" for c in "ab" for j in range(6)], np.repeat([0, 1], 6)
    for seed, shots in ((0, 1), (3, 4)):
        by_hand = []
        for c in (0, 6):
            hashed = sorted(
                (hashlib.sha256(f"shots {seed} {names[i]}".encode()).hexdigest(), i) for i in range(c, c + 6)
            )
            by_hand += sorted(i for _, i in hashed[:shots])
        assert few_shots(names, labels, shots, seed).tolist() == by_hand


def test_fewer_shots_are_among_more_and_seeds_differ():
    names, labels = [str(i) for i in range(200)], np.arange(200) % 4
    drawn = {(k, seed): set(few_shots(names, labels, k, seed).tolist()) for k in (1, 2, 4, 8) for seed in (0, 1)}
    for seed in (0, 1):
        assert drawn[1, seed] < drawn[2, seed] < drawn[4, seed] < drawn[8, seed]
    assert drawn[8, 0] != drawn[8, 1]


def test_a_run_sees_so_many_of_each_class_and_their_own_pictures(own):
    few = FewShots(own, 3, 7)
    assert few.train_size == len(few.train_labels()) == 6 and np.bincount(few.train_labels()).tolist() == [3, 3]
    whole = own.train_names()
    rows = [whole.index(name) for name in few.train_names()]
    assert own.train_labels()[rows].tolist() == few.train_labels().tolist()
    seen = few.train_images([(2, 0), (0, 5)], 7)
    assert torch.equal(seen, own.train_images([(2, rows[0]), (0, rows[5])], 7))


def test_validation_has_as_many_and_at_most_four_and_test_sets_are_whole(own):
    assert np.bincount(FewShots(own, 2, 0).eval_data("validation").labels).tolist() == [2, 2]
    four = FewShots(own, 5, 0).eval_data("validation")
    assert np.bincount(four.labels).tolist() == [4, 4] and four.missing == 0
    assert len(FewShots(own, 1, 0).eval_data("shift1")) == len(own.eval_data("shift1"))
    assert FewShots(own, 1, 0).card == own.card


def test_images_without_names_are_drawn_by_their_place():
    digits = catalogue.get("digits")
    labels = FewShots(digits, 2, 0).train_labels()
    assert np.bincount(labels).tolist() == [2] * 10
    rehearsed = Rehearsal(FewShots(digits, 2, 0), 10, None)
    assert rehearsed.train_size == 10 and sorted(rehearsed.train_labels()) == list(range(10))


def test_more_shots_than_images_are_refused(own):
    check_shots(own, 8)
    with pytest.raises(DataError, match=r"must be at most 8, the training images of class 'apple' .* got 9; lower it"):
        FewShots(own, 9, 0).train_labels()
