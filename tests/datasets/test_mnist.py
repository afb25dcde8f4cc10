"""The forgetting study on MNIST's files: colours, splits, counts, and a backbone that is made on this machine."""

import datasets as library
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from robustft import backbones
from robustft.backbones import BackboneError, tiny
from robustft.backbones.zero_shot import build_head
from robustft.benchmarks.execution.predict import evaluate
from robustft.benchmarks.maintenance import pretrain
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.datasets import catalogue, mnist
from robustft.datasets.card import DataError
from robustft.datasets.mnist import MNISTForgetting
from robustft.methods.classifier import Classifier


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder as ylecun/mnist's Parquet files make one, with scikit-learn's digits in it."""
    root, data = tmp_path_factory.mktemp("data"), load_digits()
    kept, library.config.HF_DATASETS_CACHE = library.config.HF_DATASETS_CACHE, root / "cache"
    library.disable_progress_bars()
    kind = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list("0123456789"))})
    (root / "mnist" / "data").mkdir(parents=True)
    for split, rows in (("train", range(200)), ("test", range(1000, 1100))):
        pictures = [Image.fromarray((data.images[i] * 15.9).astype(np.uint8)).resize((28, 28)) for i in rows]
        content = {"image": pictures, "label": [int(data.target[i]) for i in rows]}
        path = root / "mnist" / "data" / f"{split}-00000-of-00001.parquet"
        library.Dataset.from_dict(content, features=kind).to_parquet(path)
    yield root
    library.config.HF_DATASETS_CACHE = kept


@pytest.fixture(scope="module")
def data(root):
    return MNISTForgetting(root, allow_partial=True)


def test_the_card_needs_no_image_and_counts_mnists():
    data = catalogue.get("mnist_forgetting", root="/nowhere", size=28)
    assert data.train_size + mnist.VALIDATION_SIZE == data.expected == 60_000
    assert data.card.names("shift") == ("original",) and data.card.class_names[7] == "seven"
    assert Benchmark("mnist_forgetting").suite.version == data.card.version


def test_other_numbers_than_mnists_are_refused(root):
    with pytest.raises(DataError, match="expected MNIST's 60000 train images, found 200 .* pass --allow-partial"):
        MNISTForgetting(root).train_labels()
    with pytest.raises(DataError, match="expected MNIST's 10000 test images, found 100"):
        MNISTForgetting(root).eval_data("original")


def test_low_digits_are_red_and_high_ones_blue_at_95_percent():
    labels, keys = np.arange(10_000) % 10, np.arange(10_000, dtype=np.uint64)
    pictures = mnist.coloured(np.full((10_000, 2, 2), 200, dtype=np.uint8), labels, keys)
    red, green, blue = pictures[:, :, 0, 0].T.tolist()
    assert set(green) == {0} and set(red) == set(blue) == {0, 200}
    as_told = np.mean([(r == 200) == (label < 5) for r, label in zip(red, labels, strict=True)])
    assert as_told == pytest.approx(0.95, abs=0.01)  # 4.6 standard errors


def test_the_old_task_is_the_same_test_images_in_grey(data):
    new, old = data.eval_data("id"), data.eval_data("original")
    assert new.sample_ids == old.sample_ids and new.labels.tolist() == old.labels.tolist()
    grey = old.images(0, 100)
    assert torch.equal(grey[:, 0], grey[:, 1]) and torch.equal(new.images(0, 100).amax(1), grey[:, 0])
    assert (new.found, new.expected) == (100, 10_000)


def test_a_tenth_of_each_digit_is_neither_trained_nor_pretrained_on(data):
    validation = data.eval_data("validation")
    assert np.bincount(validation.labels, minlength=10).tolist() == [2] * 10 and data.train_size == 180
    seen = {picture.numpy().tobytes() for picture in data.original_images(np.arange(180))[:, 0]}
    withheld = {picture.numpy().tobytes() for picture in validation.images(0, 20).amax(1)}
    assert len(withheld) == 20 and not withheld & seen


def test_training_pictures_are_fixed(data):
    items = [(0, 3), (0, 90)]
    first = data.train_images(items, 0)
    assert first.shape == (2, 3, 28, 28) and torch.equal(data.train_images([(7, 3), (8, 90)], 5), first)
    assert torch.equal(first.amax(1), data.original_images(np.array([3, 90]))[:, 0])


def test_a_backbone_is_made_once_from_grey_digits_and_found_again(data, tmp_path, monkeypatch):
    monkeypatch.setattr(tiny, "FOLDER", tmp_path)
    assert backbones.weights_id("tiny-vit-mnist") == "unmade" and not backbones.available("tiny-vit-mnist")
    with pytest.raises(BackboneError, match="have not been made .*pretrain tiny-vit-mnist"):
        backbones.load("tiny-vit-mnist")
    monkeypatch.setattr(pretrain, "BATCH", 32)
    monkeypatch.setattr(pretrain, "WARMUP", 5)
    pretrain.write(pretrain.pretrain("tiny-vit-mnist", 40, 1e-3, data))
    assert backbones.weights_id("tiny-vit-mnist").startswith("sha256:") and backbones.available("tiny-vit-mnist")
    encoder = backbones.load("tiny-vit-mnist")
    assert (encoder.embed_dim, encoder.image_size) == (128, backbones.image_size("tiny-vit-mnist"))
    head = build_head(encoder, data.card.class_names, data.card.prompts)
    accuracy = evaluate(Classifier(encoder, head), data.eval_data("original"))["accuracy"]
    assert accuracy > 0.2  # twice chance, after 40 steps


@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_pictures_are_made_in_the_way_asked_for(decode, root, ways):
    MNISTForgetting(root, allow_partial=True, decode=decode).eval_data("id").images(0, 1)
    assert set(ways) == {decode}
