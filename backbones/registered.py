"""The registered backbones: names and shapes alone, so that listing them loads no torch."""

from typing import TypedDict

OPENAI = {
    "RN50": "timm/resnet50_clip.openai",
    "ViT-B-16": "timm/vit_base_patch16_clip_224.openai",
    "ViT-L-14": "timm/vit_large_patch14_clip_224.openai",
}
"""Registered name -> repository of its weights on the Hugging Face hub."""

QUICK_GELU = "-quickgelu"
"""Ending of open_clip's name of a model with OpenAI's activation."""

IMAGE_SIZE = 32


class Tower(TypedDict, total=False):
    """open_clip's configuration of an image tower."""

    layers: int | list[int]
    width: int
    head_width: int
    patch_size: int
    image_size: int


VISION: dict[str, Tower] = {
    "tiny-vit-p8": Tower(layers=4, width=96, head_width=32, patch_size=8, image_size=IMAGE_SIZE),
    "tiny-vit-p16": Tower(layers=4, width=128, head_width=32, patch_size=16, image_size=IMAGE_SIZE),
    "tiny-rn": Tower(layers=[1, 1, 1, 1], width=12, head_width=64, image_size=IMAGE_SIZE),
    "tiny-vit-grey": Tower(layers=3, width=96, head_width=32, patch_size=8, image_size=IMAGE_SIZE),
}
"""Two ViTs of different patch size and a ModifiedResNet for `digits`; `tiny-vit-grey` is the forgetting study's."""

MADE_HERE: dict[str, Tower] = {"tiny-vit-mnist": Tower(layers=4, width=128, head_width=32, patch_size=7, image_size=28)}
"""Backbones whose weights do not ship, because their images do not: `pretrain NAME` makes them on this machine."""

SCRATCH = "-scratch"
"""Ending of a backbone's name that asks for random weights."""
