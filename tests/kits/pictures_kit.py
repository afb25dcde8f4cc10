"""Pictures for tests of decoding."""

import numpy as np
import torch
from PIL import Image


def photograph(width, height, seed=0):
    """Smooth areas, edges and noise, so that every frequency occurs."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (max(1, height // 40), max(1, width // 40), 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    smooth[: height // 3, : width // 2] = rng.integers(0, 256, 3)
    noisy = smooth + rng.normal(0, 10, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def exif_orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def normalised(view):
    """As the backbone does it on its device."""
    from robustft.backbones.encoder import PIXEL_MEAN, PIXEL_STD

    mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (PIXEL_MEAN, PIXEL_STD))
    return (torch.from_numpy(view.copy()).float() - mean) / std
