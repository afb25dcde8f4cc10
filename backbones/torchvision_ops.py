"""Lets torchvision be imported where its compiled extension does not match the installed torch.

open_clip and wilds import torchvision for its transforms. A torchvision built for CUDA cannot load its extension on a
CPU build of torch, and its import then fails because two operators of that extension are not declared. Neither is ever
called here; declaring them is enough. Where the extension loads, or torchvision is imported already, nothing happens.
"""

import importlib.util
import sys
from pathlib import Path

import torch

_library = None


def declare_missing_operators() -> None:
    """Declares torchvision's `nms` and `qnms` if its extension cannot load; safe to call again."""
    global _library
    spec = None if "torchvision" in sys.modules else importlib.util.find_spec("torchvision")
    if _library is not None or spec is None or spec.origin is None:
        return
    extensions = [*Path(spec.origin).parent.glob("_C*.so"), *Path(spec.origin).parent.glob("_C*.pyd")]
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
        if extensions:
            return
    except OSError:
        pass
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
