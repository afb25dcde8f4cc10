"""The one shape in which every backbone is seen: images and captions in, embeddings out."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .image_parts import image_parts, recomputes
from .torchvision_ops import declare_missing_operators
from .traits import Traits

if TYPE_CHECKING:
    from open_clip.model import CLIP, CustomTextCLIP

declare_missing_operators()  # open_clip imports torchvision; whoever imports either after this module is safe

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP, for pixels in [0, 1]; open_clip's OPENAI_DATASET_MEAN and OPENAI_DATASET_STD."""

IMAGE_TOWER = "visual."
"""What the names of the image tower's tensors begin with in `clip`'s state."""

USUAL_RESIZING = ("shortest", "bicubic")
"""How CLIP's pictures are brought to size: open_clip's resize_mode and interpolation."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is of half precision, else as it is: whatever follows keeps its digits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def project(features: Tensor, projection: "Tensor | nn.Linear | None") -> Tensor:
    """(N, D) of (N, width): by a matrix, by a linear layer with its bias, or as they are."""
    if isinstance(projection, nn.Linear):
        projected: Tensor = projection(features)
        return projected
    return features if projection is None else features @ projection


class DualEncoder(nn.Module):
    """An open_clip CLIP with its tokenizer; `clip` is its only submodule, so state-dict keys begin with "clip.".

    Args:
        clip: the model; `clip.logit_scale` is the trainable log of `logit_scale`, `clip.logit_bias` the bias of
            backbones with a sigmoid loss. Its text tower is the model's own parts, or the module `clip.text`.
        tokenizer: texts -> (N, context) integers. Of a text tower with `cuts_text`, padded with 0, and the end token is
            the largest id, as CLIP's is.
        name: the backbone's registered name.
        mean: of the pixels, a colour each, that the image tower was pretrained with.
        std: their standard deviation.
        resizing: open_clip's resize_mode and interpolation of its pictures.

    Attributes:
        mean, std: as given, of pixels in [0, 1].
        resizing: as given.
        doubt: one sentence where its weights cannot be those that its name says, else "".
    """

    doubt = ""
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        clip: "CLIP | CustomTextCLIP",
        tokenizer: Callable[[list[str]], Tensor],
        name: str,
        mean: Sequence[float] = PIXEL_MEAN,
        std: Sequence[float] = PIXEL_STD,
        resizing: tuple[str, str] = USUAL_RESIZING,
    ):
        super().__init__()
        self.clip, self.tokenizer, self.name = clip, tokenizer, name
        self.mean, self.std, self.resizing = tuple(mean), tuple(std), resizing
        self.register_buffer("_mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    def __deepcopy__(self, memo: dict[int, Any]) -> "DualEncoder":
        """A copy that shares the tokenizer, whose tables nobody changes and which take seconds to copy."""
        memo[id(self.tokenizer)] = self.tokenizer
        made = memo[id(self)] = type(self).__new__(type(self))
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    @property
    def embed_dim(self) -> int:
        """Width D of the shared embedding."""
        projection = self.text_projection
        return self.text.ln_final.weight.shape[0] if projection is None else projection.shape[1]

    @property
    def text(self) -> Any:
        """The module that has the text tower's parts: the whole model, or `clip.text` where the tower is its own."""
        return getattr(self.clip, "text", self.clip)

    @property
    def cuts_text(self) -> bool:
        """Whether a text may be cut after its end token: the tower is causal and read at the largest id, as CLIP's.

        Any other tower reads padding too, and is always given the whole context.
        """
        text = self.text
        pool = getattr(text, "text_pool_type", getattr(text, "pool_type", None))
        return text.attn_mask is not None and pool == "argmax" and getattr(text, "cls_emb", None) is None

    @property
    def image_size(self) -> int:
        """Side of the square images that the image tower takes, in pixels."""
        size = self.clip.visual.image_size
        return size if isinstance(size, int) else size[0]

    @property
    def visual(self) -> nn.Module:
        """Image tower with its projection: float pixels (B, 3, H, W) -> (B, D), not unit length."""
        return self.clip.visual

    @property
    def logit_scale(self) -> Tensor:
        """() multiplier on cosine similarity, after exp, in the graph."""
        return self.clip.logit_scale.exp()

    @property
    def logit_bias(self) -> Tensor | None:
        """() added to the logits of all pairs, in the graph, of a backbone with a sigmoid loss; None of all others."""
        bias: Tensor | None = getattr(self.clip, "logit_bias", None)
        return bias

    def pixels(self, images: Tensor) -> Tensor:
        """Float32 pixels as the towers want them, on the images' device; floats pass through unchanged."""
        if images.is_floating_point():
            return images
        return images.float().sub_(self._mean).div_(self._std)  # in place: new memory costs more than the arithmetic

    def image_features(self, images: Tensor) -> Tensor:
        """(B, D), not unit length, of (B, 3, H, W) bytes or normalised floats."""
        return self.clip.encode_image(self.pixels(images))

    def text_features(self, tokens: Tensor) -> Tensor:
        """(N, D), not unit length, of (N, L) token ids.

        Where the encoder `cuts_text`, the tower runs over the L columns given, not the whole context. That is exact as
        long as L reaches the longest caption's end token: the mask is causal and the text is read there, so later
        positions influence nothing. Other towers need all columns of the context.

        Raises:
            ValueError: columns are lacking that the tower reads.
        """
        text, length = self.text, tokens.shape[1]
        if not self.cuts_text:
            if length != self.clip.context_length:
                whole = self.clip.context_length
                raise ValueError(f"text_features: {self.name} reads all {whole} columns, got {length}; do not cut it.")
            features: Tensor = self.clip.encode_text(tokens)
            return features
        x = text.token_embedding(tokens) + text.positional_embedding[:length]
        x = text.transformer(x, attn_mask=text.attn_mask[:length, :length])
        x = text.ln_final(x)
        return project(x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)], text.text_projection)

    def tokenize(self, texts: list[str]) -> Tensor:
        """(N, L) int64 token ids on the CPU; where the encoder `cuts_text`, cut after the longest text's end token."""
        tokens = self.tokenizer(texts)
        return tokens[:, : int(tokens.argmax(dim=-1).max()) + 1] if self.cuts_text else tokens

    @property
    def image_projection(self) -> Tensor | None:
        """(image width, D) weights of the last image layer; in a ModifiedResNet the attention pool's.

        The bias of a layer that has one is no part of it. None where the last layer is no projection, as in SigLIP.
        """
        visual = self.clip.visual
        if not hasattr(visual, "trunk"):
            own: Tensor = visual.proj if getattr(visual, "proj", None) is not None else visual.attnpool.c_proj.weight.T
            return own
        linear = [module for module in visual.head.modules() if isinstance(module, nn.Linear)]
        linear = linear or [
            module for module in visual.trunk.get_classifier().modules() if isinstance(module, nn.Linear)
        ]
        return linear[-1].weight.T if linear else None

    @property
    def text_projection(self) -> Tensor | None:
        """(text width, D) weights of the last text layer, without its bias; None where there is no projection."""
        last: Tensor | nn.Linear | None = self.text.text_projection
        return last.weight.T if isinstance(last, nn.Linear) else last

    def traits(self, sigmoid: bool | None = None, clip_tokens: bool = True) -> Traits:
        """What methods must know of it; of tokens it knows nothing itself."""
        parts = image_parts(self.visual)
        return Traits(
            self.name,
            sigmoid=self.logit_bias is not None if sigmoid is None else sigmoid,
            clip_tokens=clip_tokens,
            image_projection=self.image_projection is not None,
            text_projection=self.text_projection is not None,
            recomputes=recomputes(self.visual),
            blocks=0 if parts is None else len(parts.blocks),
        )

    def image_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the image tower, projection included."""
        return list(self.clip.visual.parameters())

    def text_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the text tower, projection included; logit_scale and bias belong to neither tower."""
        other = {id(p) for p in (*self.image_parameters(), *self.logit_parameters())}
        return [p for p in self.clip.parameters() if id(p) not in other]

    def logit_parameters(self) -> list[nn.Parameter]:
        """The log of logit_scale, and the bias where there is one."""
        bias = self.clip.logit_bias
        return [self.clip.logit_scale, *([] if bias is None else [bias])]

    def text_state(self) -> dict[str, Tensor]:
        """Of `clip`'s state all that is not the image tower's: text tower, its projection, scale and bias; detached."""
        state = self.clip.state_dict()
        return {name: tensor.contiguous() for name, tensor in state.items() if not name.startswith(IMAGE_TOWER)}

    @torch.no_grad()
    def load_text_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes what `text_state` gave, in place.

        Raises:
            ValueError: names or shapes are those of another architecture.
        """
        own = self.text_state()
        if own.keys() != tensors.keys():
            odd = sorted(own.keys() ^ tensors.keys())[0]
            raise ValueError(f"text tower: {odd!r} is in one of the file and backbone {self.name!r} only.")
        for name, tensor in tensors.items():
            if own[name].shape != tensor.shape:
                shapes = f"{tuple(tensor.shape)} and {tuple(own[name].shape)}"
                raise ValueError(f"text tower: {name!r} has shapes {shapes} in the file and backbone {self.name!r}.")
            own[name].copy_(tensor)
