"""From 500 x 375 JPEGs to 224 x 224 pictures: torchvision's ImageFolder with Pillow against `exact` and `fast`.

CPU time of one thread, as in a loader's process; files are read from the disk's cache. ImageFolder normalises here, to
floats; ours stay bytes, and the backbone normalises them on its device. Goals: exact at least 1.4 times as fast, fast
2.5 times. Both hang on Pillow's release: its decoder (13) has become nearly as fast as simplejpeg.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from ...backbones.encoder import PIXEL_MEAN, PIXEL_STD
from ...datasets.card import DatasetCard, EvalData
from ...datasets.decoding import CROP_AREA, Decode
from ...datasets.image_folders import scan
from ...datasets.image_sets import ImageSet, TrainsOnPictures, TreePictures
from .runner import Settings, take_turns, tell

if TYPE_CHECKING:
    from torchvision.datasets import ImageFolder

WIDTH, HEIGHT, SIZE = 500, 375, 224
IMAGES = 32
GOALS: Mapping[Decode, str] = {"exact": "goal >= 1.4", "fast": "goal >= 2.5"}


class Pictures(TrainsOnPictures):
    """The images of one folder, to train on and nothing else."""

    size, randomness = SIZE, "speed"

    def __init__(self, pictures: TreePictures, decode: Decode) -> None:
        self.pictures, self.decode = pictures, decode

    @property
    def _trained(self) -> tuple[TreePictures, np.ndarray]:
        return self.pictures, np.zeros(len(self.pictures), dtype=np.int64)

    @property
    def card(self) -> DatasetCard:
        """There is none."""
        raise NotImplementedError

    def eval_data(self, name: str) -> EvalData:
        """There is none."""
        raise NotImplementedError


def measure(settings: Settings) -> None:
    """Prints four ratios: evaluation and training, exact and fast."""
    from torchvision import transforms
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import InterpolationMode

    bicubic, rest = InterpolationMode.BICUBIC, [transforms.ToTensor(), transforms.Normalize(PIXEL_MEAN, PIXEL_STD)]
    evaluation = transforms.Compose([transforms.Resize(SIZE, bicubic), transforms.CenterCrop(SIZE), *rest])
    training = transforms.Compose([transforms.RandomResizedCrop(SIZE, CROP_AREA, interpolation=bicubic), *rest])
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "class")
        pictures = TreePictures(scan(Path(folder)))
        items = [(0, i) for i in range(IMAGES)]
        for title, transform in (("evaluation", evaluation), ("training", training)):
            theirs = ImageFolder(folder, transform)
            made: dict[str, Callable[[], object]] = {"pillow": partial(_stacked, theirs)}
            for decode in GOALS:
                if title == "training":
                    made[decode] = partial(Pictures(pictures, decode).train_images, items, 0)
                else:
                    shown = ImageSet(title, pictures, np.zeros(IMAGES), SIZE, decode=decode)
                    made[decode] = partial(shown.images, 0, IMAGES)
            timings = take_turns(made, replace(settings, device="cpu"))
            for decode, goal in GOALS.items():
                each = [f"{1000 * timings.median(name) / IMAGES:.2f} ms" for name in ("pillow", decode)]
                about = f"{each[0]} and {each[1]} an image"
                tell(f"{title}, ImageFolder / {decode}", timings.ratio("pillow", decode), goal, about)
    torch.set_num_threads(settings.threads)


def _stacked(data: "ImageFolder") -> torch.Tensor:
    return torch.stack([data[i][0] for i in range(IMAGES)])


def write(folder: Path) -> None:
    """JPEGs with smooth areas and noise, about 85 kB each."""
    folder.mkdir()
    for i in range(IMAGES):
        rng = np.random.default_rng(i)
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)).astype(float)
        noisy = (smooth + rng.normal(0, 12, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{i:02d}.jpg", quality=90)
