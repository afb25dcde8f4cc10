"""`classes: {<shift>: present}`: logits of a shift that lacks classes are cut to those that it has."""

import shutil

import pytest
import torch
from own_data_kit import folder, picture
from runs_kit import write_suite

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning import data_check
from robustft.benchmarks.planning.suite import suite
from robustft.datasets import catalogue
from robustft.datasets.card import DataError
from robustft.results.board import absent_classes


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """Three classes, of which the shift `shift1` lacks the second, and a further shift that lacks the first."""
    root = tmp_path_factory.mktemp("three")
    folder(root / "own", {"a": "apple", "b": "pear", "c": "plum"})
    shutil.rmtree(root / "own" / "shift1" / "b")
    for name in ("pear", "plum"):
        (root / "far" / name).mkdir(parents=True)
        picture(5, 5, ord(name[1])).save(root / "far" / name / "1.png")
    return root


def cut_of(root, *present, far=True):
    shifts = {"far": f"folder:{root / 'far'}"} if far else {}
    return catalogue.get(catalogue.with_shifts(f"folder:{root / 'own'}", shifts, present), size=8)


def test_logits_of_a_cut_shift_are_those_of_its_classes_before_softmax(three):
    whole, cut = cut_of(three).eval_data("shift1"), cut_of(three, "shift1", "far").eval_data("shift1")
    logits = torch.tensor([[1.0, 9.0, 3.0]])
    assert cut.project(logits).tolist() == [[1.0, 3.0]] and whole.project(logits).tolist() == logits.tolist()
    assert whole.labels.tolist() == [0] * 4 + [2] * 4 and cut.labels.tolist() == [0] * 4 + [1] * 4
    assert cut.sample_ids == whole.sample_ids and torch.equal(cut.images(0, 8), whole.images(0, 8))
    far = cut_of(three, "shift1", "far").eval_data("far")
    assert far.project(logits).tolist() == [[9.0, 3.0]] and far.labels.tolist() == [0, 1]


def test_what_is_cut_is_in_the_fingerprint_and_what_is_not_is_as_before(three):
    prints = {
        present: cut_of(three, *present).card.fingerprint
        for present in ((), ("far",), ("shift1",), ("far", "shift1"), ("shift1", "far"))
    }
    assert len(set(prints.values())) == 4 and prints["far", "shift1"] == prints["shift1", "far"]
    assert (
        cut_of(three, far=False).card.fingerprint == catalogue.get(f"folder:{three / 'own'}", size=8).card.fingerprint
    )
    assert "these columns count" in cut_of(three, "far").card.sets[-1].measures


def test_the_sentence_on_absent_classes_says_what_is_cut(three):
    said = list(data_check.permitted(cut_of(three, "shift1")))
    assert [line.partition(": ")[2] for line in said] == [
        "shift1 has 2 of 3 classes: pear has no image; logits are cut to those that it has.",
        "far has 2 of 3 classes: apple has no image.",
    ]
    known = data_check.about(cut_of(three, "shift1"), three)["absent_classes"]
    assert known["shift1"] == {"of": 3, "names": ["pear"], "cut": True} and "cut" not in known["far"]
    board = absent_classes.of_records([{"info": {"absent_classes": known}}], ["shift1", "far"])
    assert board[0].endswith("logits are cut to those that it has") and board[1].endswith("apple has no image")


def test_only_a_shift_can_be_cut(three):
    for name in ("id", "nothing"):
        with pytest.raises(DataError, match=f"classes: '{name}' must be a shift of folder:own; it may be shift1, far"):
            cut_of(three, name)
    with pytest.raises(DataError, match="'fresh' must be a shift of digits; it may be renditions, sketches"):
        catalogue.get(catalogue.with_shifts("digits", {}, ["fresh"]))


def test_a_cut_shift_is_brought_to_size_as_the_others(three):
    name = catalogue.with_shifts(f"folder:{three / 'own'}", {}, ["shift1"])
    whole, cut = (catalogue.get(n, size=8, resizing=("squash", "bilinear")) for n in (f"folder:{three / 'own'}", name))
    assert torch.equal(cut.eval_data("shift1").images(0, 8), whole.eval_data("shift1").images(0, 8))
    assert cut.card.fingerprint != catalogue.get(name, size=8).card.fingerprint


def test_a_suite_says_classes_present(three, tmp_path):
    text = {"dataset": f"folder:{three / 'own'}", "version": "own", "name": "cut", "classes": {"shift1": "present"}}
    loaded = suite.load(suite.find(write_suite(tmp_path, **text)))
    data = catalogue.get(loaded.dataset_of("common"), size=8)
    assert data.cut == ("shift1",) and data.present("shift1") == [0, 2]
    with pytest.raises(UserError, match="classes.shift1"):
        suite.load(suite.find(write_suite(tmp_path, **{**text, "classes": {"shift1": "all"}})))
