"""WiSE-FT over LoRA: straight-line interpolation of the zero-shot classifier and a finished LoRA run.

Source: WiSE-FT (arXiv:2109.01903; mlfoundations/wise-ft:src/wise_ft.py) on LoRA (arXiv:2106.09685). As LoRA's change
is merged into the weights, a point of the line is the tower with alpha times the change, and the head between both
heads.
"""

from .registry import register
from .wise_ft import WiSEFT


@register("lora_wise")
class LoRAWiSE(WiSEFT):
    """Reads the LoRA run of the same backbone, seed and settings; never trains."""

    finetuned = "lora"
