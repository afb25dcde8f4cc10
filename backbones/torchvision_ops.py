"""Lets torchvision be imported where its compiled extension does not match the installed torch.

open_clip and wilds import torchvision for its transforms. A torchvision built for CUDA cannot load its extension on a
CPU build of torch, and its import then fails because two operators of that extension are not declared. Neither is ever
called here; declaring them is enough. Where the extension loads, it declares them itself.

`datasets` and `backbones` know nothing of each other and both need this: datasets/torchvision_ops.py is a link here.
"""

from importlib.util import find_spec
from pathlib import Path

import torch

_declared: list[torch.library.Library] = []
"""Held, because operators go with their library."""


def declare_missing_operators() -> None:
    """Declares torchvision's `nms` and `qnms` if its extension cannot load; safe to call again."""
    spec = find_spec("torchvision")
    if hasattr(torch.ops.torchvision, "nms") or spec is None or spec.origin is None:
        return
    extensions = [*Path(spec.origin).parent.glob("_C*.so"), *Path(spec.origin).parent.glob("_C*.pyd")]
    try:
        for extension in extensions:
            torch.ops.load_library(str(extension))
        if extensions:
            return
    except OSError:
        pass
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _declared.append(library)
