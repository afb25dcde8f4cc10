"""Pictures from files: `exact` has the pixels of ImageFolder under open_clip's transform, `fast` nearly all of them."""

import io

import numpy as np
import pytest
import torch
from pictures_kit import exif_orientation, normalised, photograph
from PIL import Image

from robustft.datasets import catalogue, decoding, loaders
from robustft.datasets.card import DataError
from robustft.datasets.folder import Folder
from robustft.datasets.randomness import derive, stable_key

pytestmark = pytest.mark.computes

SIZE = 224


def jpeg(path, image, **options):
    image.save(path, "JPEG", **options)


FILES = {
    "rgb.jpg": lambda p: jpeg(p, photograph(500, 375), quality=90),
    "upright.jpg": lambda p: jpeg(p, photograph(333, 500, 1), quality=75),
    "full_colour.jpg": lambda p: jpeg(p, photograph(301, 225, 2), quality=95, subsampling=0),
    "half_colour.jpg": lambda p: jpeg(p, photograph(299, 450, 3), quality=80, subsampling=1),
    "odd.jpg": lambda p: jpeg(p, photograph(231, 227, 4), quality=60, subsampling=2),
    "size.jpg": lambda p: jpeg(p, photograph(224, 224, 5), quality=90),
    "small.jpg": lambda p: jpeg(p, photograph(41, 33, 6), quality=90),
    "one.jpg": lambda p: jpeg(p, photograph(1, 1, 7)),
    "one_wide.jpg": lambda p: jpeg(p, photograph(9, 1, 8)),
    "grey.jpg": lambda p: jpeg(p, photograph(333, 300, 9).convert("L"), quality=85),
    "progressive.jpg": lambda p: jpeg(p, photograph(400, 300, 10), quality=85, progressive=True),
    "cmyk.jpg": lambda p: jpeg(p, photograph(320, 240, 11).convert("CMYK"), quality=90),
    "stored_rgb.jpg": lambda p: jpeg(p, photograph(320, 240, 12), quality=90, keep_rgb=True),
    "rotated.jpg": lambda p: jpeg(p, photograph(500, 375, 13), exif=exif_orientation(6)),
    "rgba.png": lambda p: transparent(300, 260).save(p),
    "palette.png": lambda p: photograph(300, 260, 15).convert("P").save(p),
    "sixteen_colours.gif": lambda p: photograph(280, 260, 16).quantize(16).save(p),
}
READ_BY_SIMPLEJPEG = set(FILES) - {
    "progressive.jpg", "cmyk.jpg", "stored_rgb.jpg", "rgba.png", "palette.png", "sixteen_colours.gif",
}  # fmt: skip


def transparent(width, height):
    image = photograph(width, height, 14).convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1))))
    return image


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, save in FILES.items():
        save(folder / name)
    return folder


@pytest.fixture(scope="module")
def theirs():
    """What ImageFolder and open_clip's transform make of a file: (3, 224, 224) float32, normalised."""
    from open_clip.transform import image_transform
    from torchvision.datasets.folder import default_loader

    transform = image_transform(SIZE, is_train=False)
    return lambda path: transform(default_loader(str(path)))


def ours(path, decode="exact"):
    return decoding.eval_view(decoding.read(path, str(path)), SIZE, str(path), decode)


@pytest.mark.parametrize("name", FILES)
def test_exact_has_the_pixels_of_image_folder_under_open_clips_transform(name, files, theirs):
    torch.testing.assert_close(normalised(ours(files / name)), theirs(files / name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["rgb.jpg", "grey.jpg", "progressive.jpg", "rotated.jpg", "one.jpg", "odd.jpg"])
def test_where_the_file_is_rgb_or_grey_it_does_not_matter_when_it_becomes_rgb(name, files):
    from open_clip.transform import image_transform

    with Image.open(files / name) as image:
        direct = image_transform(SIZE, is_train=False)(image)
    torch.testing.assert_close(normalised(ours(files / name)), direct, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_plain_jpegs_go_past_pillow_and_everything_else_through_it(name, files, monkeypatch):
    expected = decoding.read(files / name, name)
    with Image.open(files / name) as image:
        assert np.array_equal(expected, np.asarray(image.convert("RGB")))

    def refuse(*_):
        raise OSError("opened by Pillow")

    monkeypatch.setattr(Image, "open", refuse)
    if name in READ_BY_SIMPLEJPEG:
        assert np.array_equal(decoding.read(files / name, name), expected)
    else:
        with pytest.raises(DataError, match="opened by Pillow"):
            decoding.read(files / name, name)


def test_an_open_file_is_read_like_a_path(files):
    stored = (files / "rgb.jpg").read_bytes()
    assert np.array_equal(decoding.read(io.BytesIO(stored), "x"), decoding.read(files / "rgb.jpg", "x"))


@pytest.mark.parametrize("cut", [700, 20_000, -3])
def test_a_cut_jpeg_is_judged_as_pillow_judges_it(cut, files, tmp_path):
    path = tmp_path / "cut.jpg"
    path.write_bytes((files / "rgb.jpg").read_bytes()[:cut])
    try:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("RGB"))
    except OSError:
        with pytest.raises(DataError, match="cut.jpg: cannot be read as an image"):
            decoding.read(path, str(path))
    else:
        assert np.array_equal(decoding.read(path, str(path)), expected)


def test_a_jpeg_of_too_many_pixels_is_refused_before_it_fills_the_memory(files, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500 * 375 // 2 - 1)
    with pytest.raises(DataError, match="rgb.jpg: cannot be read as an image .DecompressionBombError"):
        decoding.read(files / "rgb.jpg", "rgb.jpg")


@pytest.mark.parametrize("kind", ["uint16", "int32", "float32"])
@pytest.mark.parametrize("top", [1, 200, 40_000])
def test_a_picture_of_other_pixels_than_8_bit_integers_is_refused_whatever_its_values(kind, top, tmp_path):
    path = tmp_path / "deep.tiff"
    Image.fromarray(np.linspace(0, top, 64).reshape(8, 8).astype(kind)).save(path)
    with pytest.raises(DataError, match=r"deep.tiff: its pixels are no 8-bit integers \(mode .*; scale them to 0..255"):
        decoding.read(path, "deep.tiff")


def test_a_file_that_is_no_image_is_told_without_addresses(tmp_path):
    with pytest.raises(
        DataError, match=r"^x: cannot be read as an image \(UnidentifiedImageError: of no known format\)"
    ):
        decoding.read(io.BytesIO(b"\xff\xd8\xff\xe0\x00"), "x")


def assert_close(fast, exact):
    """One value in a hundred, at most, is another one: by one level, or here and there by two."""
    apart = np.abs(fast.astype(int) - exact.astype(int))
    assert apart.max() <= 2 and (apart > 0).mean() <= 0.01 and (apart > 1).mean() <= 1e-4


@pytest.mark.parametrize("name", FILES)
def test_fast_has_another_value_in_one_place_of_a_hundred_at_most(name, files):
    assert_close(ours(files / name, "fast"), ours(files / name))
    whole = decoding.read(files / name, name)
    for draws in decoding.crop_draws(np.arange(3, dtype=np.uint64)):
        crops = [decoding.random_view(whole, SIZE, draws, decode) for decode in ("fast", "exact")]
        assert_close(*crops)


@pytest.mark.parametrize(
    "width, height, wide, high", [(333, 444, 224, 224), (337, 450, 224, 224), (230, 240, 224, 224), (100, 900, 90, 810)]
)
def test_fast_takes_height_and_width_in_pillows_order(width, height, wide, high):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    assert_close(*(decoding._resized(image, wide, high, decode) for decode in ("fast", "exact")))


def test_fast_is_another_way(files):
    assert any(not np.array_equal(ours(files / name, "fast"), ours(files / name)) for name in FILES)


# through a dataset and its loaders


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Twelve photographs to train on and four of each other set; large enough not to be left to Pillow."""
    root = tmp_path_factory.mktemp("own") / "own"
    for place in (root, root.parent / "further"):
        place.mkdir()
        (place / "classes.txt").write_text("a\tfirst\nb\tsecond\n")
    for folder, count in (("train", 6), ("id_val", 2), ("id_test", 2), ("../further", 2)):
        for label in "ab":
            (root / folder / label).mkdir(parents=True)
            for k in range(count):
                seed = 100 * ord(label) + 10 * len(folder) + k
                jpeg(root / folder / label / f"{k}.jpg", photograph(290 + 5 * k, 250, seed), quality=90)
    return root


TOKENS = torch.arange(1, 13).view(2, 2, 3)


def batches(data, workers, start_step=0):
    return list(loaders.train_batches(data, TOKENS, batch_size=5, seed=3, start_step=start_step, total_steps=5,
                                      workers=workers))  # fmt: skip


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than cores
@pytest.mark.parametrize("decode", ["exact", "fast"])
def test_batches_are_the_same_from_any_number_of_workers_and_from_any_step(decode, own):
    data = Folder(own, size=32, decode=decode)
    here = batches(data, 0)
    assert {int(e) for batch in here for e in batch.epoch} == {0, 1, 2}
    for workers, start in ((1, 0), (4, 0), (4, 3)):  # step 3 is in the middle of the second epoch
        there = batches(data, workers, start)
        assert len(there) == 5 - start
        for a, b in zip(here[start:], there, strict=True):
            assert a.images.dtype == torch.uint8
            for field in ("images", "labels", "tokens", "sample_ids", "epoch"):
                assert torch.equal(getattr(a, field), getattr(b, field)), field


def test_a_dataset_makes_all_its_pictures_in_one_way(own, tmp_path):
    exact, fast = Folder(own, size=32), Folder(own, size=32, decode="fast")
    assert exact.card.fingerprint == fast.card.fingerprint  # which way is in the spec of a run
    for made in ("id", "validation"):
        a, b = exact.eval_data(made).images(0, 4), fast.eval_data(made).images(0, 4)
        assert_close(b.numpy(), a.numpy())
    items = [(0, 0), (2, 5)]
    assert_close(fast.train_images(items, 1).numpy(), exact.train_images(items, 1).numpy())
    image = decoding.read(own / "train" / "a" / "0.jpg", "x")
    draws = decoding.crop_draws(derive(stable_key("folder-v1", "train", 1), 0, 0))[0]
    assert np.array_equal(fast.train_images([(0, 0)], 1)[0].numpy(), decoding.random_view(image, 32, draws, "fast"))
    shown = decoding.read(own / "id_test" / "a" / "0.jpg", "x")
    views = [decoding.eval_view(shown, 32, "x", decode) for decode in ("exact", "fast")]
    assert not np.array_equal(*views)
    for data, view in zip((exact, fast), views, strict=True):
        assert np.array_equal(data.eval_data("id").images(0, 1)[0].numpy(), view)
    beside = catalogue.with_shifts(f"folder:{own}", {"further": f"folder:{own.parent / 'further'}"})
    read = decoding.read(own.parent / "further" / "a" / "0.jpg", "x")
    for decode, view in zip(("exact", "fast"), views, strict=True):
        data = catalogue.get(beside, size=32, decode=decode)
        for name, expected in (("id", view), ("further", decoding.eval_view(read, 32, "x", decode))):
            assert np.array_equal(data.eval_data(name).images(0, 1)[0].numpy(), expected)
