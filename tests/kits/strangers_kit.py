"""What somebody else may bring: methods of every kind, a dataset and a backbone, registered outside of the package."""

import numpy as np
from runs_kit import run_here

from robustft.backbones import tiny
from robustft.benchmarks.executors.local import Launcher
from robustft.datasets import catalogue, digits
from robustft.datasets.card import EvalSet
from robustft.datasets.digits import Digits, coloured, paint
from robustft.methods import registry

FT, EMA, WiSEFT, Soup = (registry.get(name) for name in ("ft", "ema", "wise_ft", "model_soup"))
BACKBONE = "strange-vit-scratch"


class CARFT(FT):
    """Cross-entropy with a penalty on the distance to the start: one tower."""

    anchored = True

    def penalty(self, student, start):
        """Mean squared distance."""
        return {"car": sum((p - s).square().mean() for p, s in zip(start.parameters, start.values, strict=True))}


class Mixed(EMA):
    """Two towers and a teacher."""


class CARWise(WiSEFT):
    """The line from zero-shot to CAR-FT: trains nothing, and has a path."""

    finetuned = "car_ft"


class CARSoup(Soup):
    """The mean of two CAR-FT runs: pooled."""

    @classmethod
    def inputs(cls, hyper):
        """Of CAR-FT."""
        return ("car_ft",)


METHODS = {"car_ft": CARFT, "mixed_towers": Mixed, "car_wise": CARWise, "car_soup": CARSoup}
TRAINED = [name for name, method in METHODS.items() if method.trained]


def grey(images, keys):
    """Ink of one colour on a plain ground."""
    return paint(images, np.zeros(len(images), dtype=np.int64), "plain", keys)


class Strange(Digits):
    """Coloured digits with one shift."""

    name, version, summary = "strange", "strange-v1", "somebody else's data"
    sets = (
        EvalSet("validation", "validation", "coloured digits", "no", "yes"),
        EvalSet("id", "id", "coloured digits", "no", "yes"),
        EvalSet("night", "shift", "grey digits", "yes", "no"),
    )
    painters = {"validation": ("validation", coloured), "id": ("test", coloured), "night": ("test", grey)}


def register(patch):
    """Register all of it until `patch`, a pytest.MonkeyPatch, is undone; runs are made in this process meanwhile."""
    for name, method in METHODS.items():
        patch.setitem(registry._methods, name, method)
        patch.setattr(method, "name", name, raising=False)
    patch.setitem(catalogue._EMBEDDED, "strange", Strange)
    patch.setitem(tiny.VISION, "strange-vit", dict(layers=2, width=64, head_width=32, patch_size=16, image_size=32))
    patch.setattr(Launcher, "run", run_here)
    patch.setattr(digits, "RENDERINGS", 1)  # a quarter of the pictures
