"""The whole path of WiSE-FT in one pass over a set, against one classifier. Goal: at most 2 where loading is slow.

From JPEGs of 500 x 375 on the disk, as a run evaluates: a window of pictures is decoded once and shown to the run's
own classifier and to eleven on the line. On a GPU the tower is the whole backbone's and all cores decode. On a CPU the
tower is so small that loading is what takes time, on one thread, and nothing is decoded while a classifier computes.
"""

import tempfile
from collections import deque
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...backbones import DualEncoder, clip
from ...datasets.image_folders import scan
from ...datasets.image_sets import ImageSet, Picked, TreePictures
from ...datasets.loaders import eval_batches
from ...methods.classifier import Classifier, interpolated
from ...methods.wise_ft import ALPHAS
from ..execution.predict import BATCH_SIZE, WINDOW, predict
from ..host.environment import cores
from .decode import write
from .runner import Settings, take_turns, tell

CLASSES = 1000
SMALL_IMAGE = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16}
SMALL_TEXT = {"layers": 1, "vocab_size": 8}
"""What is left of the backbone on a CPU."""


def line(encoder: DualEncoder) -> tuple[Classifier, list[partial]]:
    """The classifier in the middle of the line and what makes it and all others, one at a time."""
    draw = torch.Generator().manual_seed(0)
    head = torch.randn(CLASSES, encoder.embed_dim, generator=draw).to(encoder.logit_scale.device)
    classifier = Classifier(encoder, head).eval()
    start = {name: tensor.clone() for name, tensor in classifier.tensors().items()}
    end = {name: 1.01 * tensor for name, tensor in start.items()}

    def at(alpha: float) -> Classifier:
        return classifier.overwrite(interpolated(start, end, alpha))

    return classifier, [partial(at, alpha) for alpha in (0.5, *ALPHAS)]


def measure(settings: Settings) -> None:
    """Prints the ratio, and what an image costs to load and to classify."""
    gpu = torch.device(settings.device).type == "cuda"
    encoder = settings.encoder() if gpu else clip.untrained("ViT-B-16", vision=SMALL_IMAGE, text=SMALL_TEXT)
    count = BATCH_SIZE * (3 * WINDOW if gpu else 2)
    torch.set_num_threads(settings.threads if gpu else 1)
    workers = cores() if gpu else 0
    classifier, makers = line(encoder)
    size = encoder.image_size
    images = torch.zeros(BATCH_SIZE, 3, size, size, dtype=torch.uint8, device=settings.device)
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "class")
        files = TreePictures(scan(Path(folder)))
        data = ImageSet("path", Picked(files, np.arange(count) % len(files)), np.zeros(count), size)
        timings = take_turns(
            {
                "path": lambda: predict(makers, data, device=settings.device, workers=workers),
                "one": lambda: predict(makers[:1], data, device=settings.device, workers=workers),
                "loading": lambda: deque(eval_batches(data, BATCH_SIZE, workers), maxlen=0),
                "classifier": lambda: classify(classifier, images, count // BATCH_SIZE),
            },
            settings,
        )
    torch.set_num_threads(settings.threads)
    loading, each = (1000 * timings.median(name) / count for name in ("loading", "classifier"))
    about = f"{len(makers)} classifiers of {each:.3f} ms an image; loading takes {loading:.2f} ms"
    tell("path of WiSE-FT / one classifier", timings.ratio("path", "one"), "goal <= 2", about)


@torch.no_grad()
def classify(classifier: Classifier, images: torch.Tensor, batches: int) -> None:
    """The same batch so many times, its logits fetched each time."""
    for _ in range(batches):
        classifier(images).cpu()
