"""Pictures of any file: `exact` against open_clip's transform over random files, `fast` over hundreds of photographs.

Files are drawn by hypothesis: any shape, format, colour mode, JPEG setting and damage.
"""

import io
import tempfile
import warnings

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st
from pictures_kit import exif_orientation, normalised, photograph
from PIL import Image

from robustft.datasets import decoding
from robustft.datasets.card import DataError

pytestmark = pytest.mark.computes

SIZE = 32
LONGEST, LARGEST = 3000, 2**21
"""Sides and pixels of a drawn file; the resized picture has at most 8 times the latter."""

sides = st.integers(0, 1000).map(lambda x: round(LONGEST ** (x / 1000)))
"""1 to LONGEST, as many below 55 as above."""


@st.composite
def shapes(draw):
    """(width, height), extreme ones among them."""
    width, height = draw(
        st.one_of(st.tuples(sides, sides), st.sampled_from([(1, 1), (1, 400), (400, 1), (SIZE, SIZE)]))
    )
    assume(width * height <= LARGEST)
    assume(SIZE * SIZE * max(width / height, height / width) <= 8 * LARGEST)
    return width, height


@st.composite
def jpegs(draw):
    """The bytes of a JPEG of any kind."""
    image = photograph(*draw(shapes()), draw(st.integers(0, 999)))
    mode = draw(st.sampled_from(["RGB", "RGB", "RGB", "L", "CMYK"]))
    options = {
        "quality": draw(st.integers(1, 100)),
        "progressive": draw(st.booleans()),
        "optimize": draw(st.booleans()),
        "restart_marker_blocks": draw(st.sampled_from([0, 1, 7])),
        "comment": draw(st.sampled_from([b"", b"\xff\xd8\xff\xc2 words \xff\xff"])),
        "exif": exif_orientation(draw(st.integers(1, 8))) if draw(st.booleans()) else b"",
    }
    if mode == "RGB":
        options |= draw(
            st.sampled_from([{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"keep_rgb": True}])
        )
    return stored(image.convert(mode), "JPEG", **options)


@st.composite
def others(draw):
    """The bytes of a PNG, GIF, WebP, TIFF or BMP of any mode."""
    width, height = draw(shapes())
    image = photograph(width, height, draw(st.integers(0, 999)))
    alpha = Image.fromarray(np.tile(np.linspace(0, 255, width).astype(np.uint8), (height, 1)))
    kind = draw(st.sampled_from(["1", "L", "LA", "P", "P transparent", "RGB", "RGBA", "I;16", "CMYK"]))
    if kind == "I;16":
        values = np.asarray(image.convert("L")).astype(np.uint16) * draw(st.sampled_from([1, 257]))
        return stored(Image.fromarray(values), draw(st.sampled_from(["PNG", "TIFF"])))
    if kind == "P transparent":
        transparency = draw(st.sampled_from([3, bytes(range(0, 256, 16))]))
        return stored(image.quantize(16), "PNG", transparency=transparency)
    if kind in ("LA", "RGBA"):
        image = image.convert(kind)
        image.putalpha(alpha)
    else:
        image = image.convert(kind)
    formats = {"CMYK": ["TIFF"], "LA": ["PNG", "TIFF"], "RGB": ["PNG", "BMP", "WEBP", "TIFF", "PPM"],
               "RGBA": ["PNG", "WEBP", "TIFF"], "P": ["PNG", "GIF", "BMP"]}  # fmt: skip
    return stored(image, draw(st.sampled_from(formats.get(kind, ["PNG", "TIFF", "BMP"]))))


@st.composite
def damaged(draw):
    """The bytes of a JPEG that lost its end, or of which some bytes are others."""
    data = draw(jpegs())
    if draw(st.booleans()):
        return data[: draw(st.integers(0, len(data) - 1))]
    data = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def stored(image, kind, **options):
    file = io.BytesIO()
    try:
        image.save(file, kind, **options)
    except OSError:  # Pillow's encoder runs out of its buffer for some settings of tiny images
        reject()
    return file.getvalue()


def theirs(data):
    """(3, SIZE, SIZE) float32, normalised: ImageFolder's loader and open_clip's transform; None where they raise."""
    from open_clip.transform import image_transform
    from torchvision.datasets.folder import pil_loader

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            return image_transform(SIZE, is_train=False)(pil_loader(file.name))
        except (OSError, SyntaxError, ValueError, EOFError):
            return None


def ours(data):
    """The same of this package; None for its one clear error."""
    try:
        view = decoding.eval_view(decoding.read(io.BytesIO(data), "the file"), SIZE, "the file")
    except DataError as error:
        assert "\n" not in str(error)
        if not str(error).startswith("the file: cannot be read as an image ("):
            assert str(error).startswith("the file: its pixels are no 8-bit integers") and too_deep(data)
        return None
    return normalised(view)


def too_deep(data):
    """Whether its pixels are no 8-bit integers: theirs makes most of them white, ours refuses them."""
    with Image.open(io.BytesIO(data)) as image:
        return image.mode[0] in "IF"


def assert_same(data):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about what it reads over
        expected, found = theirs(data), ours(data)
        if expected is not None and too_deep(data):
            expected = None
    assert (expected is None) == (found is None)
    if expected is not None:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # a level is 0.014


any_files = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))


@any_files
@given(jpegs())
def test_any_jpeg_has_the_pixels_of_open_clips_transform(data):
    assert_same(data)


@any_files
@given(others())
def test_any_other_image_has_the_pixels_of_open_clips_transform(data):
    assert_same(data)


@any_files
@given(damaged())
def test_a_damaged_jpeg_has_the_same_pixels_or_is_refused_by_both(data):
    assert_same(data)


# fast


class Pairs:
    """Evaluation views of many photographs, (N, 3, size, size) uint8, made in both ways."""

    def __init__(self, shapes, size):
        made = {"exact": [], "fast": []}
        for seed, (width, height) in enumerate(shapes):
            data = stored(photograph(width, height, seed), "JPEG", quality=90)
            image = decoding.read(io.BytesIO(data), "x")
            for decode, views in made.items():
                views.append(decoding.eval_view(image, size, "x", decode))
        self.exact, self.fast = map(np.stack, made.values())
        self.apart = np.abs(self.fast.astype(np.int16) - self.exact)

    def features(self, encoder):
        """(N, D) of each way, of unit length."""
        with torch.no_grad():
            for views in (self.exact, self.fast):
                parts = [encoder.image_features(torch.from_numpy(part)) for part in np.array_split(views, 10)]
                yield torch.nn.functional.normalize(torch.cat(parts), dim=1)


@pytest.fixture(scope="module")
def photographs():
    """300 of 120 to 520 pixels a side as pictures of 224, of which 40 % are enlarged."""
    return Pairs(np.random.default_rng(0).integers(120, 520, (300, 2)).tolist(), 224)


def test_fast_moves_half_a_percent_of_values_by_one_level_and_one_in_a_million_by_two(photographs):
    apart = photographs.apart
    assert 0.001 < (apart > 0).mean() < 0.005
    assert apart.max() <= 2 and (apart > 1).mean() < 2e-6
    each = (apart > 0).mean((1, 2, 3))
    assert each.max() < 0.012 and (each > 0.01).mean() < 0.01


def test_fast_moves_nothing_by_two_levels_where_pictures_are_reduced_to_less_than_half():
    shapes = np.random.default_rng(1).integers(2 * 96, 5 * 96, (150, 2)).tolist()
    assert Pairs(shapes, 96).apart.max() == 1


def test_fast_moves_logits_by_less_than_a_fiftieth_and_no_decision(photographs):
    """Of a ViT-B-16, narrower and with larger patches, with random weights; 50 photographs stand for classes."""
    from robustft.backbones import clip

    vision = {"layers": 4, "width": 192, "patch_size": 32}
    encoder = clip.untrained("ViT-B-16", vision=vision, text={"layers": 1, "vocab_size": 8})
    exact, fast = photographs.features(encoder)
    classes = exact[:50].T
    exact, fast = 100 * exact[50:] @ classes, 100 * fast[50:] @ classes
    assert 1e-4 < (exact - fast).abs().max() < 0.02
    assert (exact.argmax(1) == fast.argmax(1)).float().mean() >= 0.999


def test_fast_moves_logits_by_less_than_a_quarter_where_pictures_have_32_pixels_a_side():
    from robustft import backbones
    from robustft.backbones.zero_shot import build_head

    encoder = backbones.load("tiny-vit-p8")
    classes = 100 * torch.nn.functional.normalize(build_head(encoder, list("0123456789"), ["the digit {}"]), dim=1).T
    shapes = np.random.default_rng(2).integers(60, 520, (200, 2)).tolist()
    exact, fast = (features @ classes for features in Pairs(shapes, 32).features(encoder))
    assert 0.02 < (exact - fast).abs().max() < 0.25
    assert (exact.argmax(1) == fast.argmax(1)).float().mean() >= 0.999
