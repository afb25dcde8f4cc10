"""How the towers of a model compute while it is trained: with less memory, or by compiled kernels.

Both are switched on when a training begins and off when it ends, so that nothing else (validation, heads, the final
evaluation) computes in another way than it did before.
"""

import os
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from torch import device, nn

from ...backbones import DualEncoder
from ...backbones.image_parts import recomputes
from ..classifier import Classifier
from .parallel import UnsupportedSettings

BACKEND = "inductor"
"""Of torch.compile."""


def keep_activations(model: nn.Module, keep: bool) -> None:
    """Whether the towers keep what is between a block's input and its output for the way back, or compute it again.

    Raises:
        UnsupportedSettings: nothing would be computed again, as in a ResNet, for which open_clip has no such switch.
    """
    for owner in _owners(model):
        visual: Any = owner.visual
        if not keep and not recomputes(visual):
            raise UnsupportedSettings(
                "checkpoint_activations: is for towers of transformer blocks, got an image tower that cannot compute "
                "a block again; leave it out."
            )
        visual.set_grad_checkpointing(not keep)
        if isinstance(owner, DualEncoder):
            owner.clip.set_grad_checkpointing(not keep)  # both towers


def compile_image_towers(model: nn.Module) -> None:
    """Have torch compile the model's image towers for every shape of a batch by itself.

    The shapes are few, and each is traced by itself, so that a resumed run traces what an undisturbed one does. The text
    tower stays as it is: its captions are of another length at nearly every step.

    Raises:
        UnsupportedSettings: there is no compiler for the model's device.
    """
    if lacking := lacks_compiler(str(next(model.parameters()).device)):
        raise UnsupportedSettings(f"compile: {lacking}.")
    for tower in _image_towers(model):
        tower.compile(backend=BACKEND, dynamic=False)


def compute_plainly(model: nn.Module) -> None:
    """Undo `compile_image_towers`."""
    for tower in _image_towers(model):
        tower._compiled_call_impl = None  # torch has no public way back


def lacks_compiler(where: str) -> str:
    """Why towers cannot be compiled for a device on this machine, without its full stop; "" where they can."""
    if BACKEND != "inductor":
        return ""
    if device(where).type == "cuda":
        if find_spec("triton") is None:
            return f"needs Triton for {where}, got a PyTorch without it; install triton, or leave compile out"
        return ""
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(compiler) is None:
        return (
            f"needs a C++ compiler for {where}, got no '{compiler}'; install one or name it in CXX, or leave compile "
            "out"
        )
    return ""


def _owners(model: nn.Module) -> Iterator[DualEncoder | Classifier]:
    """The parts of a student or teacher that have towers."""
    return (module for module in model.modules() if isinstance(module, (DualEncoder, Classifier)))


def _image_towers(model: nn.Module) -> list[nn.Module]:
    return list({id(owner.visual): owner.visual for owner in _owners(model)}.values())
