"""What a step of a model of open_clip costs: read off its architecture on the device "meta", where nothing is computed.

The numbers of the installed open_clip's models are kept in `open_clip_costs.json`, for to build all of them takes two
minutes; a model whose configuration is another one there is measured anew.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from .encoder import DualEncoder

KEPT = Path(__file__).with_name("open_clip_costs.json")
"""`python -m robustft.benchmarks.maintenance.backbone_costs` writes it."""
BYTES_A_WEIGHT = 16
"""float32: the weight, its gradient, and both moments of AdamW."""


@dataclass(frozen=True)
class Cost:
    """Of one image and one text."""

    parameters: int
    image_parameters: int
    """Of the image tower, its projection among them; the others are the text tower's, with scale and bias."""
    embed_dim: int
    """D of both towers' features: a head of C classes has C (D + 1) numbers."""
    image_flops: int
    """Of a forward pass; a multiplication and an addition are two."""
    text_flops: int
    image_bytes: int
    """What a forward pass in float32 keeps for the backward pass."""
    text_bytes: int

    def step_flops(self, batch_size: int) -> int:
        """Of a step that trains both towers: the backward pass is taken for two forward passes."""
        return 3 * batch_size * (self.image_flops + self.text_flops)

    def memory(self, batch_size: int, half: bool = True) -> int:
        """Bytes of a step that trains both towers, by estimate: weights, gradients, AdamW, and what is kept for the
        backward pass, in half precision half as much, with fused attention."""
        kept = batch_size * (self.image_bytes + self.text_bytes)
        return BYTES_A_WEIGHT * self.parameters + (kept // 2 if half else kept)


def of_model(model: str, config: Mapping[str, Any]) -> Cost:
    """The cost of a model of open_clip."""
    kept = _kept().get(model)
    if kept is not None and kept["config"] == digest(config):
        return Cost(**{key: value for key, value in kept.items() if key != "config"})
    from open_clip.model import CLIP, CustomTextCLIP

    settings = json.loads(json.dumps(config))
    made = CustomTextCLIP if settings.pop("custom_text", False) else CLIP
    with torch.device("meta"):
        return measure(DualEncoder(made(**settings), lambda texts: torch.empty(0), model))


def entry(model: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """What the table keeps of a model."""
    return {"config": digest(config), **asdict(of_model(model, config))}


def digest(config: Mapping[str, Any]) -> str:
    """The beginning of a configuration's hash."""
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]


@cache
def _kept() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.is_file() else {}
    return found


def measure(encoder: DualEncoder) -> Cost:
    """The cost of an encoder on the device "meta"."""
    pixels = torch.empty(1, 3, encoder.image_size, encoder.image_size, device="meta")
    tokens = torch.empty(1, encoder.clip.context_length, dtype=torch.long, device="meta")
    encoder.train()
    weights = {p.untyped_storage()._cdata for p in encoder.parameters()}
    (image_flops, image_bytes), (text_flops, text_bytes) = (
        _pass(run, given, weights)
        for run, given in ((encoder.clip.encode_image, pixels), (encoder.clip.encode_text, tokens))
    )
    every, image = (sum(p.numel() for p in part.parameters()) for part in (encoder, encoder.visual))
    return Cost(every, image, encoder.embed_dim, image_flops, text_flops, image_bytes, text_bytes)


class _Attention(torch.autograd.Function):
    """Attention as a fused kernel leaves it: without the matrix of who sees whom."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        seen: Tensor = query @ key.transpose(-2, -1) @ value
        ctx.save_for_backward(query, key, value, seen)
        return seen


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    attended: Tensor = _Attention.apply(query, key, value)  # type: ignore[no-untyped-call]
    return attended


def _pass(run: Any, given: Tensor, weights: set[int]) -> tuple[int, int]:
    """(operations, bytes kept for the backward pass) of a forward pass; weights, which are kept anyway, are none."""
    from torch.utils.flop_counter import FlopCounterMode

    seen: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in weights and tensor.grad_fn is not None:
            seen[tensor.untyped_storage()._cdata] = tensor
        return tensor

    fused = mock.patch.object(functional, "scaled_dot_product_attention", _attention)
    with fused, FlopCounterMode(display=False) as counter, saved_tensors_hooks(keep, lambda tensor: tensor):
        run(given)
    return counter.get_total_flops(), sum(t.untyped_storage().nbytes() for t in seen.values())
