"""How alike each layer of a finished run is to the same layer of the pretrained model, on the ID validation set."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ... import backbones
from ...backbones.image_parts import image_parts
from ...datasets.loaders import eval_batches
from ...methods.classifier import Classifier
from ...methods.predictor import restore
from ...results.metrics.layer_similarity import linear_cka, svcca
from ..errors import UserError
from ..planning import data_check
from ..run_folder.folder import RunFolder
from ..run_folder.plan import Plan
from . import whereabouts
from .final_weights import load_weights

BATCH_SIZE = 256
MOST_IMAGES = 2000
"""Of the validation set; both numbers hardly change with more."""


def similarity_to_start(path: Path) -> list[dict[str, Any]]:
    """Linear CKA and SVCCA of a run's layers with those of the backbone that it started from.

    Args:
        path: folder of a finished run with its final weights.

    Returns:
        A row for each layer, from pixels to embedding: layer, cka, svcca.

    Raises:
        UserError: weights or plan are missing or damaged, or the data have no ID validation set.
        DataError: the images are not there.
    """
    folder = RunFolder(Path(path))
    plan = Plan.read(folder)
    tensors, about = load_weights(folder)
    images = data_check.validation(whereabouts.find(plan, folder))
    if images is None:
        raise UserError(f"{plan.dataset} has no ID validation set, on which layers are compared")
    before = activations(backbones.load(plan.spec.backbone), images)
    encoder = backbones.load(plan.spec.backbone)
    # Overwrites the image tower's weights.
    if not isinstance(predictor := restore(encoder, tensors, about["classifier"]), Classifier):
        raise UserError(
            f"{plan.spec.method}: layers are compared of one image tower, and the run ends in a {predictor.kind!r}; "
            "choose a run that ends in a classifier"
        )
    after = activations(encoder, images)
    return [
        {"layer": name, "cka": linear_cka(before[name], after[name]), "svcca": svcca(before[name], after[name])}
        for name in before
    ]


def layers_of(visual: nn.Module) -> dict[str, nn.Module]:
    """Name -> module of an image tower's layers, in order; the tower itself gives the embedding.

    Raises:
        UserError: it is no ViT and no ResNet of CLIP.
    """
    if hasattr(visual, "trunk"):
        parts = image_parts(visual)
        if parts is None:
            kind = type(visual.trunk).__name__
            raise UserError(f"layers are compared of ViTs and of CLIP's ResNets, and this image tower is a {kind}")
        found = {"patch_embed": parts.stem, **{f"block_{i}": block for i, block in enumerate(parts.blocks)}}
    elif hasattr(visual, "transformer"):
        blocks = enumerate(visual.get_submodule("transformer.resblocks").children())
        found = {"patch_embed": visual.get_submodule("conv1"), **{f"block_{i}": block for i, block in blocks}}
        found["ln_post"] = visual.get_submodule("ln_post")
    else:
        found = {"stem": visual.get_submodule("avgpool")}
        found |= {name: visual.get_submodule(name) for name in ("layer1", "layer2", "layer3", "layer4")}
    return {**found, "embedding": visual}


@torch.no_grad()
def activations(encoder: backbones.DualEncoder, data: Any) -> dict[str, np.ndarray]:
    """Layer -> (N, D) activations of the first images of a set, means over positions or tokens."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in layers_of(encoder.visual)}
    count = 0
    with _recorded(encoder.eval().visual, parts):
        for _, images, _ in eval_batches(data, BATCH_SIZE):
            encoder.image_features(images)
            count += len(images)
            if count >= MOST_IMAGES:
                break
    return {name: np.concatenate(found) for name, found in parts.items()}


@contextmanager
def _recorded(visual: nn.Module, parts: dict[str, list[np.ndarray]]) -> Iterator[None]:
    def keep(name: str) -> Any:
        return lambda module, inputs, output: parts[name].append(pooled(output).double().cpu().numpy())

    hooks = [module.register_forward_hook(keep(name)) for name, module in layers_of(visual).items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def pooled(output: Tensor) -> Tensor:
    """(N, D) of a layer's (N, D, H, W), (N, tokens, D) or (N, D)."""
    if output.ndim == 4:
        return output.mean(dim=(2, 3))
    return output.mean(dim=1) if output.ndim == 3 else output
