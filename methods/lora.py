"""LoRA: cross-entropy finetuning of low-rank changes to matrices of the image tower, and of the head.

Source: Hu et al., LoRA, ICLR 2022, arXiv:2106.09685, equation 3: W + (alpha / r) B A with W frozen, A drawn and B 0;
microsoft/LoRA:loralib/layers.py (Linear, MergedLinear, Conv2d). After training the change is added to W, so that what
is evaluated is an ordinary classifier of unchanged cost. The head starts as zero-shot's and is trained whole, as in
`ft`.
Departures: for CLIP, CLIP-LoRA (Zanella and Ben Ayed 2024, arXiv:2405.18541; MaxZanella/CLIP-LoRA) adapts both towers,
keeps the text head, drops out a quarter of the inputs and has r = 2, alpha = 1; here, as for the other rows with a
head, the image tower, and no dropout. Of a ResNet: the convolutions of its blocks, in loralib's form, and its
attention pool. Weight decay acts on A, B and the head, so it decays the change, not W. A larger learning rate is
usual.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ..backbones.traits import Traits
from .base import Context, hyperparameters
from .classifier import Classifier
from .ft import FT, ImageStudent
from .image_blocks import image_parts, refusal
from .registry import register


@hyperparameters
class Hyper:
    """Which matrices, and how far they may change."""

    rank: Annotated[int, Field(ge=1)] = 4
    """r of each change; >= 1. Ours: 4, as in the smaller settings of Hu et al.; CLIP-LoRA: 2."""
    alpha: Annotated[float, Field(gt=0)] = 4.0
    """The change is alpha / r times B A; no unit, > 0. Ours: 4, factor 1 at the default rank."""
    matrices: Literal["qv", "qkv", "qkvo", "all"] = "qkv"
    """Which of each block: attention's query, key, value and output, or these and both of the MLP. Hu et al.: "qv";
    CLIP-LoRA: "qkv". Of a ResNet the letters name matrices of its attention pool, beside all convolutions."""
    blocks: Annotated[int, Field(ge=0)] = 0
    """Last blocks of the image tower that are adapted; 0 is all. Hu et al. and CLIP-LoRA: all."""


class LowRank(nn.Module):
    """A parametrization: the frozen weight plus scale * B A for some of the equal parts that its rows fall into.

    Args:
        weight: (out, in) or (out, in, k, k). rank, scale: r and alpha / r.
        generator: draws A.
        parts: how many equal parts the rows have (3 for query, key and value in one). chosen: which are changed.
    """

    _chosen: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        scale: float,
        generator: torch.Generator,
        parts: int = 1,
        chosen: tuple[int, ...] = (0,),
    ):
        super().__init__()
        rows, columns, side = weight.shape[0] // parts, weight.shape[1], weight.shape[2] if weight.ndim == 4 else 1
        inner, fan_in = rank * side, columns * side
        drawn = (2 * torch.rand(len(chosen), inner, fan_in, generator=generator) - 1) / fan_in**0.5
        self.a = nn.Parameter(drawn.to(weight))  # kaiming_uniform with a = sqrt(5), as in nn.Linear and loralib
        self.b = nn.Parameter(weight.new_zeros(len(chosen), rows * side, inner))
        self.scale, self.parts = scale, parts
        # A buffer: made in `forward`, it would be a transfer to the device in each pass.
        self.register_buffer("_chosen", torch.tensor(chosen, device=weight.device), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            change = self.scale * self.b @ self.a
            if len(self._chosen) < self.parts:
                whole = change.new_zeros(self.parts, *change.shape[1:])
                change = whole.index_copy(0, self._chosen, change)
            return weight + change.reshape(weight.shape)


@register("lora")
class LoRA(FT):
    """FT of low-rank changes; merged at the end."""

    Hyper = Hyper
    strength = "rank"
    conservative = "smaller"

    @classmethod
    def refuses(cls, hyper: Any, traits: Traits) -> str:
        """A tower without so many blocks."""
        return refusal("lora", traits, hyper.blocks)

    def student(self, context: Context) -> ImageStudent:
        """Image tower with changes that are 0, and zero-shot head.

        Raises:
            ValueError: the tower has fewer blocks than are to be adapted.
        """
        student, hyper = super().student(context), self.hyper
        blocks = image_parts(context.encoder, "lora", hyper.blocks).blocks
        visual = student.classifier.visual
        visual.requires_grad_(False)
        generator = torch.Generator().manual_seed(context.settings.seed)
        for module, key, parts, chosen in _places(visual, blocks[-hyper.blocks :], hyper.matrices):
            weight = module.get_parameter(key)
            change = LowRank(weight, hyper.rank, hyper.alpha / hyper.rank, generator, parts, chosen)
            parametrize.register_parametrization(module, key, change)
        return student

    def finish(self, student: ImageStudent, context: Context) -> Classifier:
        """The tower with its changes added, and the trained head."""
        for module in list(student.classifier.visual.modules()):
            for key in list(getattr(module, "parametrizations", ())):
                parametrize.remove_parametrizations(module, key)
        return student.classifier


Place = tuple[nn.Module, str, int, tuple[int, ...]]


def _places(visual: Any, blocks: list[Any], matrices: str) -> Iterator[Place]:
    """Module and name of each weight to change, its parts, and which of them."""
    letters = "qkvo" if matrices == "all" else matrices
    for block in blocks:
        if hasattr(block, "attn"):
            attention = block.attn
            chosen = tuple("qkv".index(letter) for letter in letters if letter != "o")
            if hasattr(attention, "in_proj_weight"):
                yield attention, "in_proj_weight", 3, chosen
            elif isinstance(getattr(attention, "qkv", None), nn.Linear):
                yield attention.qkv, "weight", 3, chosen
            else:
                yield from (
                    (attention.get_submodule(f"{letter}_proj"), "weight", 1, (0,))
                    for letter in letters
                    if letter != "o"
                )
            if "o" in letters:
                yield (attention.out_proj if hasattr(attention, "out_proj") else attention.proj), "weight", 1, (0,)
            if matrices == "all":
                layers = (module for module in block.mlp.modules() if isinstance(module, nn.Linear))
                yield from ((layer, "weight", 1, (0,)) for layer in layers)
        else:
            yield from ((module, "weight", 1, (0,)) for module in block.modules() if isinstance(module, nn.Conv2d))
    if hasattr(visual, "attnpool"):
        names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "c_proj"}
        yield from ((visual.attnpool.get_submodule(names[letter]), "weight", 1, (0,)) for letter in letters)
