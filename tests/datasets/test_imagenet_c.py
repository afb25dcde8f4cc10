"""ImageNet-C as one shift: order and names of its images, source images, and the mean over corruptions."""

import numpy as np
import pytest
import torch
from imagenet_kit import WNIDS, picture
from torch import nn

from robustft.benchmarks.execution.predict import predict, score
from robustft.datasets import catalogue, imagenet_c
from robustft.datasets.card import DataError, MissingData
from robustft.datasets.imagenet import ImageNet
from robustft.datasets.imagenet_c import CORRUPTIONS, SEVERITIES, ImageNetC

EVERY = [name for family in CORRUPTIONS.values() for name in family]


def write(root, families=False, images=(("a", 0), ("b", 1))):
    base = root / "imagenet-c"
    for family, corruptions in CORRUPTIONS.items():
        for c, corruption in enumerate(corruptions):
            for severity in SEVERITIES:
                for name, label in images:
                    above = base / family if families else base
                    picture(
                        above / corruption / str(severity) / WNIDS[label] / f"{name}.JPEG", (40 * c, 50 * severity, 9)
                    )
    return base


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    root = tmp_path_factory.mktemp("c")
    write(root)
    return root


@pytest.fixture
def whole(tree, monkeypatch):
    monkeypatch.setattr(imagenet_c, "IMAGES", 2)
    monkeypatch.setattr(imagenet_c, "CLASSES", 2)
    return ImageNetC(tree, size=8).eval_data("imagenet_c")


def test_the_card_is_imagenets_with_a_sixth_shift():
    data, plain = catalogue.get("imagenet_c"), catalogue.get("imagenet")
    assert len(EVERY) == 15 and set(EVERY).isdisjoint({"speckle_noise", "gaussian_blur", "spatter", "saturate"})
    assert data.card.names("shift") == (*plain.card.names("shift"), "imagenet_c")
    assert data.card.sets[-1].expected == 3_750_000 and data.train_size == plain.train_size
    assert data.card.version != plain.card.version and data.card.fingerprint != plain.card.fingerprint
    assert data.randomness == plain.randomness  # trained on the same pictures


def test_images_stand_by_corruption_and_severity_and_belong_to_their_source(whole):
    assert len(whole) == 150 and whole.sample_ids[:3] == [
        f"gaussian_noise/1/{WNIDS[0]}/a.JPEG",
        f"gaussian_noise/1/{WNIDS[1]}/b.JPEG",
        f"gaussian_noise/2/{WNIDS[0]}/a.JPEG",
    ]
    assert whole.sample_ids[-1] == f"jpeg_compression/5/{WNIDS[1]}/b.JPEG" and len(set(whole.sample_ids)) == 150
    assert whole.unit_ids == [f"{WNIDS[0]}/a.JPEG", f"{WNIDS[1]}/b.JPEG"] * 75
    assert len({id(unit) for unit in whole.unit_ids}) == 2  # one text each, not 75
    assert whole.groups == [name for name in EVERY for _ in range(10)] and whole.labels.tolist() == [0, 1] * 75


def test_pictures_are_those_of_their_files(whole, tree):
    from robustft.datasets.decoding import eval_view, read

    for i in (0, 11, 149):
        path = tree / "imagenet-c" / whole.sample_ids[i]
        assert torch.equal(
            whole.images(i, i + 1)[0], torch.from_numpy(eval_view(read(path, ""), 8, "", "exact").copy())
        )


class ByBrightness(nn.Module):
    """Right where the green channel, which rises with severity, is low."""

    def forward(self, images):
        green = images[:, 1].float().mean(dim=(1, 2))
        logits = torch.zeros(len(images), 1000)
        logits[:, 0], logits[:, 1] = 1.0, (green > 120).float() * 2
        return logits


def test_accuracy_is_the_mean_over_corruptions_and_severities_and_samples_resample_by_source(whole):
    (columns,) = predict([ByBrightness], whole)
    cells = [columns["prediction"][i : i + 2] == columns["label"][i : i + 2] for i in range(0, 150, 2)]
    found = score(columns, whole, 512)
    assert found["accuracy"] == pytest.approx(np.mean([cell.mean() for cell in cells])) and found["n"] == 150
    assert set(found["group_accuracy"]) == set(EVERY)
    assert np.unique(columns["unit_id"].astype(str), return_counts=True)[1].tolist() == [75, 75]


def test_families_may_stand_above(tmp_path):
    write(tmp_path, families=True)
    found = ImageNetC(tmp_path, allow_partial=True, size=8).eval_data("imagenet_c")
    assert (
        len(found) == 150 and found.sample_ids[0].startswith("gaussian_noise/1/") and found.missing == 3_750_000 - 150
    )


def test_what_is_missing_or_other_is_said(tmp_path, monkeypatch):
    base = write(tmp_path)
    with pytest.raises(DataError, match="imagenet_c gaussian_noise/1: expected 50000 images in 1000 classes"):
        ImageNetC(tmp_path, size=8).eval_data("imagenet_c")
    monkeypatch.setattr(imagenet_c, "IMAGES", 2)
    monkeypatch.setattr(imagenet_c, "CLASSES", 2)
    moved = base / "fog" / "3" / WNIDS[0]
    (moved / "a.JPEG").rename(moved / "z.JPEG")
    with pytest.raises(DataError, match="fog/3 has other images than gaussian_noise/1"):
        ImageNetC(tmp_path, size=8).eval_data("imagenet_c")
    (base / "fog").rename(base / "smog")
    with pytest.raises(MissingData, match="imagenet_c fog/1: no folder"):
        ImageNetC(tmp_path, size=8).eval_data("imagenet_c")
    assert len(ImageNetC(tmp_path, allow_partial=True, size=8).eval_data("imagenet_c")) == 140


def test_the_other_sets_are_imagenets(imagenet_tree):
    ours, plain = (made(imagenet_tree, allow_partial=True, size=8) for made in (ImageNetC, ImageNet))
    assert ours.eval_data("imagenet_r").sample_ids == plain.eval_data("imagenet_r").sample_ids
    assert torch.equal(ours.train_images([(0, 0)], 3), plain.train_images([(0, 0)], 3))
