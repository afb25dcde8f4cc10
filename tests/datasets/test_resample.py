"""Our resize against Pillow's, value for value; `pixels` calls it for every picture of `exact`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustft.datasets import resample

pytestmark = pytest.mark.computes

KINDS = ("noise", "black and white", "levels", "ramp")


def picture(rows, columns, kind, seed=0):
    """Noise; extremes, whose sums leave 0..255; few even levels, whose sums are often a half; a smooth ramp."""
    rng = np.random.default_rng(seed)
    if kind == "ramp":
        values = np.add.outer(np.linspace(0, 180, rows), np.linspace(0, 75, columns))[..., None] + np.zeros(3)
        return values.astype(np.uint8)
    values = rng.integers(0, 256, (rows, columns, 3))
    return {"noise": values, "black and white": values // 128 * 255, "levels": values // 64 * 2}[kind].astype(np.uint8)


def pillows(pixels, width, height):
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def ours(pixels, width, height, start=0, stop=None):
    """Ours also where `resample` would leave a small picture to Pillow."""
    return resample._resample(pixels, width, height, start, width if stop is None else stop)


sides = st.one_of(st.integers(1, 40), st.integers(1, 700))


@settings(deadline=None, max_examples=150)
@given(sides, sides, sides, sides, st.sampled_from(KINDS), st.integers(0, 99), st.data())
def test_every_value_is_pillows(rows, columns, height, width, kind, seed, data):
    pixels = picture(rows, columns, kind, seed)
    start = data.draw(st.integers(0, width - 1))
    stop = data.draw(st.integers(start + 1, width))
    expected = pillows(pixels, width, height)[:, start:stop]
    np.testing.assert_array_equal(ours(pixels, width, height, start, stop), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "rows, columns, height, width",
    [(375, 500, 224, 298), (448, 448, 224, 224), (1200, 900, 298, 224), (2500, 1700, 40, 30), (60, 3000, 60, 70)],
)
def test_every_value_of_a_large_picture_is_pillows(rows, columns, height, width, kind):
    pixels = picture(rows, columns, kind)
    np.testing.assert_array_equal(resample.resample(pixels, width, height, 0, width), pillows(pixels, width, height))


def test_a_crop_that_shares_its_rows_with_the_rest_is_read_in_place():
    crop = picture(400, 500, "noise")[20:380, 30:470]
    before = crop.copy()
    np.testing.assert_array_equal(resample.resample(crop, 224, 224, 0, 224), pillows(crop, 224, 224))
    assert np.array_equal(crop, before)


def test_sums_in_float32_alone_would_round_some_values_to_the_wrong_side(monkeypatch):
    """The recount next to a half is what makes it exact: without it, these pictures tell."""
    plan = resample._plan.__wrapped__

    def without_doubt(*args):
        reads, weights, _, begins, bands = plan(*args)
        return reads, weights, 0.0, begins, bands

    monkeypatch.setattr(resample, "_plan_of", lambda size: without_doubt)
    wrong = 0
    for seed in range(20):
        pixels = picture(375, 500, "noise", seed)
        wrong += (ours(pixels, 298, 224) != pillows(pixels, 298, 224)).sum()
    assert 0 < wrong < 1000


def test_the_bound_holds_for_sums_in_the_worst_order():
    """Sums of float32 one after another, largest first: further from the truth than any product's."""
    reads, weights, doubt, _, _ = resample._plan(700, 100, 0, 100)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (2000, 700))[:, reads]
    true = (values * weights.astype(np.int64)).sum(2) / 2.0**22
    terms = (values * (weights * 2.0**-22)).astype(np.float32)
    terms = np.take_along_axis(terms, np.argsort(-np.abs(terms), axis=2), axis=2)
    sums = np.zeros(terms.shape[:2], np.float32)
    for k in range(terms.shape[2]):
        sums += terms[:, :, k]
    assert 0 < np.abs(sums - true).max() < doubt < 1e-3


def test_a_pillow_that_goes_another_way_is_followed(monkeypatch):
    """As another release might: the rule of which side comes first is then not its rule."""
    monkeypatch.setattr(resample, "height_first", lambda *_: True)
    resample._is_pillows.cache_clear()
    try:
        pixels = picture(375, 500, "noise")
        assert not np.array_equal(ours(pixels, 298, 224), pillows(pixels, 298, 224))
        np.testing.assert_array_equal(
            resample.resample(pixels, 298, 224, 37, 261), pillows(pixels, 298, 224)[:, 37:261]
        )
    finally:
        resample._is_pillows.cache_clear()


def test_the_installed_pillow_is_ours():
    assert resample._is_pillows()


def test_threads_do_not_write_in_each_others_sums():
    pictures = [picture(300 + 7 * k, 400 + 11 * k, "noise", k) for k in range(16)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda pixels: ours(pixels, 224, 224), pictures * 4))
    for k, result in enumerate(made):
        np.testing.assert_array_equal(result, pillows(pictures[k % 16], 224, 224))
