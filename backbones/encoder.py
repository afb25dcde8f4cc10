"""The one shape in which every backbone is seen: images and captions in, embeddings out."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .torchvision_ops import declare_missing_operators

if TYPE_CHECKING:
    from open_clip.model import CLIP

declare_missing_operators()  # open_clip imports torchvision; whoever imports either after this module is safe

PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's CLIP, for pixels in [0, 1]; open_clip's OPENAI_DATASET_MEAN and OPENAI_DATASET_STD."""

IMAGE_TOWER = "visual."
"""What the names of the image tower's tensors begin with in `clip`'s state."""


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 where it is of half precision, else as it is: whatever follows keeps its digits."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


class DualEncoder(nn.Module):
    """An open_clip CLIP with its tokenizer; `clip` is its only submodule, so state-dict keys begin with "clip.".

    Args:
        clip: the model; `clip.logit_scale` is the trainable log of `logit_scale`.
        tokenizer: texts -> (N, context) integers, padded with 0; the end token is the largest id, as CLIP's is.
        name: the backbone's registered name.
        mean: of the pixels, a colour each, that the image tower was pretrained with.
        std: their standard deviation.

    Attributes:
        mean, std: as given, of pixels in [0, 1].
        doubt: one sentence where its weights cannot be those that its name says, else "".
    """

    doubt = ""
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        clip: "CLIP",
        tokenizer: Callable[[list[str]], Tensor],
        name: str,
        mean: Sequence[float] = PIXEL_MEAN,
        std: Sequence[float] = PIXEL_STD,
    ):
        super().__init__()
        self.clip, self.tokenizer, self.name = clip, tokenizer, name
        self.mean, self.std = tuple(mean), tuple(std)
        self.register_buffer("_mean", torch.tensor(mean).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("_std", torch.tensor(std).view(1, 3, 1, 1) * 255, persistent=False)

    @property
    def embed_dim(self) -> int:
        """Width D of the shared embedding."""
        return self.clip.text_projection.shape[1]

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

        The tower runs over the L columns given, not the whole context. That is exact as long as L reaches the longest
        caption's end token: the mask is causal and the text is read there, so later positions influence nothing.
        """
        clip, length = self.clip, tokens.shape[1]
        x = clip.token_embedding(tokens) + clip.positional_embedding[:length]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
        x = clip.ln_final(x)
        return x[torch.arange(len(x), device=x.device), tokens.argmax(dim=-1)] @ clip.text_projection

    def tokenize(self, texts: list[str]) -> Tensor:
        """(N, L) int64 token ids on the CPU, padded with 0, cut after the longest text's end token."""
        tokens = self.tokenizer(texts)
        return tokens[:, : int(tokens.argmax(dim=-1).max()) + 1]

    @property
    def image_projection(self) -> Tensor:
        """(image width, D) weights of the last image layer; in a ModifiedResNet the attention pool's."""
        visual = self.clip.visual
        return visual.proj if getattr(visual, "proj", None) is not None else visual.attnpool.c_proj.weight.T

    @property
    def text_projection(self) -> Tensor:
        """(text width, D) weights of the last text layer."""
        return self.clip.text_projection

    def image_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the image tower, projection included."""
        return list(self.clip.visual.parameters())

    def text_parameters(self) -> list[nn.Parameter]:
        """Every parameter of the text tower, projection included; logit_scale belongs to neither tower."""
        image = {id(p) for p in self.image_parameters()} | {id(self.clip.logit_scale)}
        return [p for p in self.clip.parameters() if id(p) not in image]

    def text_state(self) -> dict[str, Tensor]:
        """Of `clip`'s state all that is not the image tower's: text tower, its projection and logit_scale; detached."""
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
