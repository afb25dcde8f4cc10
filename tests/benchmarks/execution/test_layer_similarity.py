"""Layers of image towers beside OpenAI's: blocks of a timm ViT are compared, other towers refused in one sentence."""

import families_kit
import numpy as np
import pytest
import torch

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.execution import layer_similarity


def test_layers_of_a_timm_vit_are_its_blocks(monkeypatch):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(layer_similarity, "eval_batches", lambda *_: iter([(None, images, None)]))
    encoder = families_kit.encoder("eva02")
    found = layer_similarity.activations(encoder, None)
    assert list(found) == ["patch_embed", "block_0", "block_1", "embedding"]
    assert all(each.shape[0] == 6 and each.ndim == 2 and np.isfinite(each).all() for each in found.values())
    assert not np.allclose(found["block_0"], found["block_1"])


def test_a_tower_without_equal_blocks_is_refused():
    with pytest.raises(UserError, match="of ViTs and of CLIP's ResNets, and this image tower is a ConvNeXt"):
        layer_similarity.layers_of(families_kit.encoder("convnext").visual)
