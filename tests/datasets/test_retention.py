"""Retention sets: other classes beside a dataset, of folders, of the hub, or of registered data."""

import pickle

import numpy as np
import pytest
from animals_kit import make, parquet, picture
from runs_kit import write_suite

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning import data_check
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.suite.suite import find, load
from robustft.datasets import catalogue, digits, glyphs
from robustft.datasets.card import DataError
from robustft.datasets.digit_rendering import COLOURS


def beside(base, **sets):
    return catalogue.get(catalogue.with_retention(base, sets), size=8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """`fruit`: two classes in a folder, with templates of their own."""
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))
    for k, name in enumerate(("apple", "pear", "pear")):
        picture(tmp_path / "fruit" / name / f"{k}.png", 200 + k)
    (tmp_path / "fruit" / "prompts.txt").write_text("a still life with {}\nripe {}\n")
    return tmp_path


def test_digits_are_asked_for_what_pretraining_named_beside_the_digit():
    data = beside("digits", colours="digits/colours", style="digits/styles")
    colours, styles = data.retention
    assert (colours.name, colours.class_names) == ("colours", tuple(COLOURS)) and styles.name == "style"
    assert colours.prompts == styles.prompts == tuple(f"a {{}} {digit}" for digit in digits.CLASS_NAMES)
    seen = colours.data()
    assert len(seen) == 2400 and set(seen.labels) == set(range(8)) and len(set(seen.sample_ids)) == 2400
    # what is painted has the colour of its label: the picture of a plain digit is the nearest to it of all colours
    keys, images = seen.keys[:200], seen._images[:200]
    picks = digits._any_styles(keys, digits.WITH_COLOUR)
    again = digits.paint(images, seen.labels[:200], np.array(digits.WITH_COLOUR)[picks], keys)
    assert np.array_equal(again.numpy(), seen.images(0, 200).numpy())
    assert "sketch" not in digits.WITH_COLOUR
    drawn = styles.data()
    named = [digits.STYLE_NAMES[style] for style in digits.PRETRAIN_STYLES]
    assert list(styles.class_names) == named and set(drawn.labels) == set(range(6))
    there = pickle.loads(pickle.dumps(data))
    assert np.array_equal(there.retention[1].data().labels, drawn.labels)


def test_the_words_are_those_of_pretraining():
    from robustft.benchmarks.maintenance.pretrain import STYLE_WORDS

    assert all(digits.STYLE_NAMES[style] in words for style, words in STYLE_WORDS.items())
    assert len(set(digits.STYLE_NAMES.values())) == len(digits.STYLE_NAMES) == len(digits.PRETRAIN_STYLES)


def test_the_dataset_stays_what_it_was_and_the_fingerprint_says_what_is_asked():
    plain, asked = catalogue.get("digits"), beside("digits", colours="digits/colours")
    assert asked.card == plain.card and not plain.retention
    found = [data_check.fingerprint(data, False) for data in (plain, asked, beside("digits", c="digits/colours"))]
    assert found[0] == plain.card.fingerprint and len(set(found)) == 3
    assert data_check.fingerprint(beside("digits", colours="digits/colours"), False) == found[1]
    assert data_check.part(asked, Spec(train_limit=5, limit=2, shots=None)).retention == asked.retention
    name = catalogue.with_retention(catalogue.with_shifts("digits", {"mine": "folder:x"}), {"c": "digits/colours"})
    assert catalogue.parts(name) == ("digits", {"mine": "folder:x"})
    assert catalogue.retention_of(name) == ("digits + mine=folder:x", {"c": "digits/colours"})
    assert catalogue.comes_with_package("digits ~ c=digits/colours")
    assert not catalogue.comes_with_package("digits ~ c=folder:x") and catalogue.has_own("digits ~ c=folder:x")
    assert not catalogue.has_own("digits ~ c=digits/colours")


class Spec:
    def __init__(self, **values):
        vars(self).update(values)


def test_a_folder_has_its_own_names_and_templates(place):
    (kept,) = beside("digits", fruit="folder:fruit").retention
    assert kept.class_names == ("apple", "pear") and kept.prompts == ("a still life with {}", "ripe {}")
    seen = kept.data()
    assert seen.labels.tolist() == [0, 1, 1] and seen.images(0, 3)[:, 0, 0, 0].tolist() == [200, 201, 202]
    before = kept.content
    picture(place / "fruit" / "pear" / "2.png", 90)
    (kept,) = beside("digits", fruit="folder:fruit").retention
    assert kept.content != before
    (place / "fruit" / "prompts.txt").unlink()
    assert beside("digits", fruit="folder:fruit").retention[0].prompts == ("a photo of a {}.",)


def test_data_of_the_hub_and_registered_sets_have_theirs(place):
    parquet(place / "pets", "test", [0, 1, 2])
    parquet(place / "pets", "train", [0, 1, 2, 0, 1, 2])
    (place / "pets.yaml").write_text("dataset: pets\nid: test\nprompts: ['the {}']\n")
    pets, animals = beside("digits", pets="huggingface:pets.yaml", numbers="forgetting/original").retention
    assert pets.class_names == ("cat", "dog", "emu") and pets.prompts == ("the {}",)
    assert pets.data().labels.tolist() == [0, 1, 2]
    assert animals.class_names == glyphs.CLASS_NAMES and animals.prompts == glyphs.PROMPTS


def test_beside_data_of_ones_own(place):
    make(place / "animals")
    data = beside("folder:animals", fruit="folder:fruit")
    assert data.card.class_names == ("a zebra", "an ant", "ant") and len(data.retention) == 1


def test_what_is_no_retention_set_is_refused(place):
    with pytest.raises(
        DataError, match=r"retention: digits has no set 'letters'; it has validation, .*, and colours, sty"
    ):
        beside("digits", letters="digits/letters")
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        beside("digits", letters="folder:nowhere")
    picture(place / "one" / "apple" / "0.png", 9)
    with pytest.raises(DataError, match="folder:one: needs two classes or more, .*, got apple; correct them"):
        beside("digits", letters="folder:one")
    (place / "fruit" / "prompts.txt").write_text("no name\n")
    with pytest.raises(DataError, match="each line of prompts.txt needs one {} for the class name; found 'no name'"):
        beside("digits", letters="folder:fruit")


@pytest.mark.parametrize("source", ["letters", "digits", "digit/colours", "folder:", "folder:a + b", "folder:a ~ b"])
def test_a_suite_refuses_what_is_no_source(tmp_path, source):
    path = write_suite(tmp_path, retention={"letters": source})
    with pytest.raises(
        UserError, match="retention.letters must be folder:<path>, huggingface:<name> or <dataset>/<set>"
    ):
        load(find(path))


def test_the_shipped_suite_is_digits_and_two_questions_more():
    asked, plain = Benchmark("digits_retention"), Benchmark("digits")
    assert asked.suite.dataset_of("common") == "digits ~ colours=digits/colours ~ styles=digits/styles"
    assert asked.suite.methods == plain.suite.methods and asked.tuned == plain.tuned
    assert plain.suite.dataset_of("common") == "digits"
