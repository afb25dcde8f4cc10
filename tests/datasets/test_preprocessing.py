"""How a backbone's pictures are brought to size: `exact` is open_clip's transform of each kind, `fast` is near."""

import numpy as np
import pytest
import torch
from pictures_kit import photograph
from PIL import Image

from robustft.datasets.card import USUAL
from robustft.datasets.decoding import crop_draws, eval_view, random_view

KINDS = [
    (mode, interpolation) for mode in ("shortest", "longest", "squash") for interpolation in ("bicubic", "bilinear")
]
SIZES = [(224, 224), (500, 375), (333, 500), (41, 33), (225, 90), (90, 640), (301, 226), (640, 480), (231, 17)]


def pixels(width, height, seed):
    """Half a photograph, half noise."""
    made = np.array(photograph(width, height, seed).convert("RGB"))
    made[: height // 2] = np.random.default_rng(seed).integers(0, 256, made[: height // 2].shape, dtype=np.uint8)
    return made


def theirs(image, size, mode, interpolation):
    """open_clip's transform without its normalisation, in bytes."""
    from open_clip.transform import image_transform

    transform = image_transform(size, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3, resize_mode=mode,
                                interpolation=interpolation)  # fmt: skip
    return (transform(Image.fromarray(image)) * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("mode, interpolation", KINDS)
def test_exact_is_open_clips_own_transform(mode, interpolation):
    draw = np.random.default_rng(0)
    sizes = [*SIZES, *(tuple(draw.integers(20, 500, 2).tolist()) for _ in range(6))]
    for seed, (width, height) in enumerate(sizes):
        image = pixels(width, height, seed)
        for size in (224, 64) if seed < 3 else (64,):
            ours = eval_view(image, size, "image", "exact", (mode, interpolation))
            np.testing.assert_array_equal(ours, theirs(image, size, mode, interpolation), (width, height, size))


@pytest.mark.parametrize("mode, interpolation", KINDS)
def test_fast_is_a_level_away_here_and_there(mode, interpolation):
    apart, values = 0, 0
    for seed, (width, height) in enumerate(SIZES):
        image = pixels(width, height, seed)
        exact, fast = (eval_view(image, 224, "image", how, (mode, interpolation)) for how in ("exact", "fast"))
        difference = np.abs(exact.astype(int) - fast)
        assert difference.max() <= 2 and (difference > 0).mean() < 0.012, (width, height)
        apart, values = apart + (difference > 0).sum(), values + difference.size
    assert apart / values < 0.005


def test_the_training_view_has_the_filter_of_the_backbone():
    image, draws = pixels(500, 375, 0), crop_draws(np.array([7], dtype=np.uint64))[0]
    usual = random_view(image, 64, draws)
    np.testing.assert_array_equal(random_view(image, 64, draws, resizing=("squash", "bicubic")), usual)
    bilinear = random_view(image, 64, draws, resizing=("squash", "bilinear"))
    assert (bilinear != usual).mean() > 0.1 and np.abs(bilinear.astype(int) - usual).mean() < 20


def test_clips_way_is_the_default():
    assert USUAL == ("shortest", "bicubic")
    image = pixels(500, 375, 0)
    np.testing.assert_array_equal(eval_view(image, 64, "image"), eval_view(image, 64, "image", "exact", USUAL))
