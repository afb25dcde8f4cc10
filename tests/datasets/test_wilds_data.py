"""iWildCam, FMoW and Camelyon17 on tiny copies that the real `wilds` package accepts."""

import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

from robustft.datasets import catalogue, loaders
from robustft.datasets.card import DataError
from robustft.datasets.wilds_data import Camelyon17, FMoW, IWildCam, import_wilds

SIZE = 8


def test_names_are_the_packages():
    import_wilds()
    from wilds.datasets.fmow_dataset import categories

    assert catalogue.get("fmow").card.class_names == tuple(categories)
    names = catalogue.get("iwildcam").card.class_names
    assert len(names) == 182 and names[0] == "empty" and names[52] == "günther's dik-dik"
    # equal names are different classes
    assert names[82] == names[178] == "unknown bird" and names[153] == names[181]


def test_the_lineages_templates():
    assert catalogue.get("iwildcam").card.prompts == ("a photo of {}.", "{} in the wild.")
    prompts = catalogue.get("fmow").card.prompts
    assert len(prompts) == len(set(prompts)) == 14 and "aerial photo of a {} in the americas." in prompts


OFFLINE = """
import socket, threading
calls = []
def refuse(*arguments, **options):
    calls.append(arguments)
    raise OSError("no network here")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
from robustft.datasets.wilds_data import import_wilds
from PIL import Image
limit = Image.MAX_IMAGE_PIXELS
import_wilds().get_dataset
assert Image.MAX_IMAGE_PIXELS == limit
import sys, wilds.version
assert "robustft.backbones" not in sys.modules
assert "outdated" not in sys.modules  # importing it would work again
assert wilds.version.check_outdated is None
names = [t.name for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
assert not names and not calls, (names, calls)
print("quiet")
"""


@pytest.mark.programs
def test_importing_wilds_alone_works_and_asks_no_network():
    result = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, timeout=300)
    assert result.stdout == "quiet\n", result.stderr


def test_iwildcam_sets_labels_and_bursts(iwildcam):
    data = IWildCam(iwildcam, allow_partial=True, size=SIZE)
    assert data.train_size == 4 and (data.found, data.expected) == (4, 129_809)
    assert data.train_labels().tolist() == [0, 1, 2, 3]  # rows 0, 5, 10, 15
    ood = data.eval_data("ood")
    assert ood.sample_ids == [f"train/{i:03d}.jpg" for i in (4, 9, 14, 19)]
    assert ood.unit_ids == [f"sequence {i // 2}" for i in (4, 9, 14, 19)] and ood.groups is None
    assert (ood.found, ood.expected) == (4, 42_791)
    assert data.eval_data("id").sample_ids[0] == "train/002.jpg"
    assert data.eval_data("validation").sample_ids[0] == "train/001.jpg"
    assert [s.metric for s in data.card.sets] == ["macro_f1"] * 3


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_pictures_are_made_in_the_way_asked_for(decode, iwildcam, ways):
    data = IWildCam(iwildcam, allow_partial=True, size=SIZE, decode=decode)
    data.train_images([(0, 0)], 0)
    data.eval_data("ood").images(0, 1)
    assert ways == [decode] * 2


def test_iwildcam_pictures_are_rgb(iwildcam):
    ood = IWildCam(iwildcam, allow_partial=True, size=SIZE).eval_data("ood")
    images = ood.images(0, 4)  # grey and CMYK files
    assert images.shape == (4, 3, SIZE, SIZE) and images.dtype == torch.uint8
    assert np.abs(images.float().mean((1, 2, 3)).numpy() - [40, 90, 140, 190]).max() < 3
    assert torch.equal(ood.project(torch.ones(2, 182)), torch.ones(2, 182))


def test_fmow_regions_and_file_numbers(fmow):
    data = FMoW(fmow, allow_partial=True, size=SIZE)
    ood = data.eval_data("ood")
    rows = list(range(4, 42, 7))
    # unused rows are dropped by the package, and the others keep their numbers
    assert ood.sample_ids == [f"images/rgb_img_{i}.png" for i in rows]
    assert ood.images(0, 6)[:, 0, 0, 0].tolist() == [5 * i for i in rows]
    regions = {0: "Europe", 1: "Asia", 2: "", 3: "Africa"}  # Antarctica is in no region: Other
    assert ood.groups == [regions[i // 7 % 4] for i in rows]
    assert ood.labels.tolist() == [61 if i // 7 % 2 == 0 else 0 for i in rows]
    assert [s.metric for s in data.card.sets] == ["accuracy", "accuracy", "worst_group_accuracy"]
    assert [len(data.eval_data(name)) for name in ("validation", "id")] == [6, 6] and data.train_size == 6


def test_worst_region_is_the_packages(fmow):
    ood = FMoW(fmow, allow_partial=True, size=SIZE).eval_data("ood")
    predictions = np.array([61, 0, 61, 61, 61, 61])
    right = predictions == ood.labels
    groups = np.array(ood.groups)
    accuracy = {g: right[groups == g].mean() for g in set(ood.groups) - {""}}
    # by hand: rows 4, 11, 18, 25, 32, 39 lie in Europe, Asia, Other, Africa, Europe, Asia
    assert accuracy == {"Europe": 1.0, "Asia": 0.5, "Africa": 0.0}


@pytest.mark.parametrize("label", [182, -1])
def test_a_label_next_to_the_classes_is_refused(label, iwildcam):
    data = IWildCam(iwildcam, allow_partial=True, size=SIZE)
    data._package.y_array[4] = 181
    assert data.eval_data("ood").labels.tolist() == [181, 1, 2, 3]  # rows 4, 9, 14 and 19
    other = IWildCam(iwildcam, allow_partial=True, size=SIZE)
    other._package.y_array[4] = label
    with pytest.raises(DataError, match=rf"has 1 labels outside 0..181, first {label}; unpack"):
        other.eval_data("ood")


def test_camelyon_validation_and_id_share_no_slide(camelyon):
    data = Camelyon17(camelyon, allow_partial=True, size=SIZE)
    select, report = data.eval_data("validation"), data.eval_data("id")
    assert len(select) == len(report) == 12 and not set(select.unit_ids) & set(report.unit_ids)
    for part in (select, report):
        assert sorted(set(part.groups)) == ["hospital 0", "hospital 3", "hospital 4"]
        assert (part.found, part.expected) == (24, 33_560)
    first = sorted(range(4), key=lambda slide: hashlib.sha256(f"camelyon17/{slide}".encode()).digest())
    assert {u for u, g in zip(report.unit_ids, report.groups, strict=True) if g == "hospital 0"} == {
        f"slide {first[1]}", f"slide {first[3]}"
    }  # fmt: skip
    assert data.train_size == 48
    trained = {f"slide {s}" for s in data.field("slide", data._trained[0].rows)}
    assert trained == set(select.unit_ids) | set(report.unit_ids)


def test_camelyon_hospitals(camelyon):
    data = Camelyon17(camelyon, allow_partial=True, size=SIZE)
    ood, other = data.eval_data("ood"), data.eval_data("hospital_1")
    assert set(ood.groups) == {"hospital 2"} and set(other.groups) == {"hospital 1"} and len(ood) == len(other) == 24
    assert ood.labels[:4].tolist() == [0, 1, 0, 1] and ood.images(0, 1).unique().tolist() == [96]
    assert data.card.names("shift") == ("ood",) and data.card.names("diagnostic") == ("hospital_1",)


@pytest.mark.parametrize("workers", [0, 2])
def test_training_batches_through_workers(camelyon, workers):
    data = Camelyon17(camelyon, allow_partial=True, size=SIZE)
    tokens = torch.ones(2, 1, 4, dtype=torch.int64)
    batches = list(
        loaders.train_batches(data, tokens, batch_size=16, seed=0, start_step=0, total_steps=3, workers=workers)
    )
    seen = torch.cat([batch.sample_ids for batch in batches])
    assert sorted(seen.tolist()) == list(range(48))
    labels = torch.cat([batch.labels for batch in batches])
    assert torch.equal(labels, torch.from_numpy(data.train_labels())[seen])
    slides = torch.from_numpy(data.field("slide", data._trained[0].rows))
    assert torch.equal(torch.cat([batch.images for batch in batches])[:, 0, 0, 0], (12 * slides[seen]).to(torch.uint8))


def test_it_crosses_to_a_process_that_does_not_share_memory(iwildcam, fmow, camelyon):
    for kind, root in ((IWildCam, iwildcam), (FMoW, fmow), (Camelyon17, camelyon)):
        data = kind(root, allow_partial=True, size=SIZE)
        before = data.train_images([(0, 3)], 0)
        assert torch.equal(pickle.loads(pickle.dumps(data)).train_images([(0, 3)], 0), before)


def test_missing_copies_say_what_to_get(tmp_path):
    with pytest.raises(
        DataError, match=rf"fmow: no folder {tmp_path}/fmow_v1.1 .*get fmow_v1.1 \(53.9 GB\) from the WILDS"
    ):
        FMoW(tmp_path).eval_data("id")
    (tmp_path / "fmow_v1.1").mkdir()
    with pytest.raises(DataError, match="no file .*RELEASE_v1.1.txt; unpack the whole"):
        FMoW(tmp_path).eval_data("id")
    (tmp_path / "fmow_v1.1" / "RELEASE_v1.1.txt").write_text("x")
    with pytest.raises(DataError, match="fmow: the metadata in .* cannot be read .*rgb_metadata.csv"):
        FMoW(tmp_path).eval_data("id")


def test_a_wrong_count_is_refused_unless_told(iwildcam):
    with pytest.raises(DataError, match="expected 42791 images of split test .* found 4; .*--allow-partial"):
        IWildCam(iwildcam).eval_data("ood")
    with pytest.raises(DataError, match="expected 129809 images of split train"):
        IWildCam(iwildcam).train_labels()


def test_missing_and_damaged_files_are_named(iwildcam, tmp_path):
    import shutil

    copy = shutil.copytree(iwildcam / "iwildcam_v2.0", tmp_path / "iwildcam_v2.0")
    (copy / "train" / "009.jpg").unlink()
    (copy / "train" / "014.jpg").write_bytes(b"<html>")
    with pytest.raises(DataError, match="found 3, train/009.jpg is missing; unpack"):
        IWildCam(tmp_path).eval_data("ood")
    ood = IWildCam(tmp_path, allow_partial=True, size=SIZE).eval_data("ood")
    assert len(ood) == ood.found == 3 and "train/009.jpg" not in ood.sample_ids
    with pytest.raises(DataError, match="train/014.jpg: cannot be read as an image"):
        ood.images(0, 3)


def test_a_set_that_does_not_exist_is_named(iwildcam):
    with pytest.raises(DataError, match="iwildcam has no set 'oodd'; it has validation, id, ood"):
        IWildCam(iwildcam).eval_data("oodd")
