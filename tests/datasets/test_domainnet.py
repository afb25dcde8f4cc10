"""DomainNet on small copies of its layout: lists as published, classes by number, what is withheld."""

import hashlib
import json

import numpy as np
import pytest
from imagenet_kit import A, picture, write_tree
from own_data_kit import suite as suite_file
from runs_kit import call, folders

from robustft.datasets import catalogue
from robustft.datasets.card import DataError, MissingData
from robustft.datasets.domainnet import FOLDERS, TESTS, DomainNet

DOMAINS = tuple(TESTS)
CLASSES = (0, 60, 327, 344)


def write(root, lists=""):
    """Images and lists of a few classes; returns the folder."""
    base = root / "domainnet"
    for d, domain in enumerate(DOMAINS):
        for split, count in (("train", 5), ("test", 2)):
            lines = []
            for c in CLASSES:
                for k in range(count):
                    name = f"{domain}/{FOLDERS[c]}/{domain}_{c:03d}_{split}{k}.jpg"
                    picture(base / name, (d * 40, c % 255, 20 * k))
                    lines.append(f"{name} {c}\n")
            place = base / lists / f"{domain}_{split}.txt"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(lines))
    return base


@pytest.fixture
def base(tmp_path):
    return write(tmp_path)


@pytest.fixture
def data(base):
    return DomainNet(base.parent, allow_partial=True, size=8)


def test_the_card_has_345_classes_and_the_counts_of_the_published_lists():
    data = catalogue.get("domainnet")
    assert len(set(FOLDERS)) == 345 and FOLDERS[327] == "t-shirt" and data.card.class_names[0] == "aircraft carrier"
    assert data.card.names("id") == ("real",)
    assert data.card.names("shift") == ("clipart", "infograph", "painting", "quickdraw", "sketch")
    assert data.train_size == 120_906 - 12_091
    assert sum(entry.expected for entry in data.card.sets if entry.role == "shift") == 124_702


def test_sets_are_the_test_lists_with_their_own_numbers(data):
    for domain in DOMAINS:
        found = data.eval_data(domain)
        assert found.labels.tolist() == [c for c in CLASSES for _ in range(2)]
        assert found.sample_ids[0] == f"{domain}/aircraft_carrier/{domain}_000_test0.jpg"
    assert data.eval_data("sketch").images(0, 2).shape == (2, 3, 8, 8)


def test_a_tenth_of_real_train_is_withheld_by_hash(data):
    chosen, trained = data.eval_data("validation"), data.train_names()
    every = [f"real/{FOLDERS[c]}/real_{c:03d}_train{k}.jpg" for c in CLASSES for k in range(5)]
    order = sorted(every, key=lambda name: hashlib.sha256(name.encode()).digest())
    assert set(chosen.sample_ids) == set(order[:2]) and set(trained) == set(order[2:])
    assert (data.train_size, data.found) == (18, 20) and np.unique(data.train_labels()).tolist() == list(CLASSES)


@pytest.mark.parametrize("where", ["txt", "splits"])
def test_lists_may_stand_beside(tmp_path, where):
    write(tmp_path, where)
    assert len(DomainNet(tmp_path, allow_partial=True, size=8).eval_data("real")) == 8


def test_a_list_of_another_numbering_is_refused(base):
    path = base / "clipart_test.txt"
    path.write_text(path.read_text().replace(" 60\n", " 61\n"))
    with pytest.raises(DataError, match=r"clipart_test.txt has the line 'clipart/canoe/clipart_060_test0.jpg 61'"):
        DomainNet(base.parent, allow_partial=True, size=8).eval_data("clipart")


def test_what_is_missing_is_named(base):
    with pytest.raises(DataError, match="expected 14604 images of clipart_test .* found 8 of 8 that are listed"):
        DomainNet(base.parent, size=8).eval_data("clipart")
    (base / "clipart" / "canoe" / "clipart_060_test1.jpg").unlink()
    left = DomainNet(base.parent, allow_partial=True, size=8).eval_data("clipart")
    assert (len(left), left.missing) == (7, 14_604 - 7)
    (base / "clipart_test.txt").unlink()
    with pytest.raises(MissingData, match="no list .*clipart_test.txt .*cleaned version of DomainNet"):
        DomainNet(base.parent, allow_partial=True, size=8).eval_data("clipart")
    with pytest.raises(MissingData, match="no folder .*domainnet"):
        DomainNet(base, allow_partial=True, size=8).eval_data("clipart")


def test_a_shift_that_lacks_classes_is_cut_to_those_that_it_has(base, tmp_path, monkeypatch, capsys, runs_here):
    suite = suite_file(tmp_path / "cut.yaml", "domainnet", version="domainnet-v1", classes={"sketch": "present"})
    runs = ("--method", "zero_shot", "--runs", str(tmp_path / "runs"))
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path / "nowhere"))
    assert call("sweep", str(suite), *runs, "--dry-run") == 0  # planned where no image is
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))
    assert call("run", str(suite), *runs, "--allow-partial") == 0
    (folder,) = folders(tmp_path / "runs")
    record = json.loads((folder / "record.json").read_text())
    absent = record["info"]["absent_classes"]
    assert list(absent) == ["sketch"] and absent["sketch"]["cut"] and len(absent["sketch"]["names"]) == 341
    assert "fingerprint_of" not in record["info"]  # it is registered data: nobody hashed its bytes
    assert (record["info"]["classes"]["painting"], record["info"]["classes"]["sketch"]) == (345, 4)
    capsys.readouterr()
    call("doctor", str(suite), "--fast")
    said = capsys.readouterr().out
    assert (
        "domainnet + classes present: sketch" in said
        and "sketch has 4 of 345 classes" in said
        and "logits are cut to those that it has" in said
    )


def test_a_set_that_its_protocol_cuts_cannot_be_cut_again(tmp_path):
    write_tree(tmp_path)
    name = catalogue.with_shifts("imagenet", {}, ["imagenet_a"])
    data = catalogue.get(name, root=tmp_path, allow_partial=True, size=8)
    with pytest.raises(DataError, match=f"'imagenet_a' is cut to {len(A)} of 1000 classes by its own protocol already"):
        data.eval_data("imagenet_a")
