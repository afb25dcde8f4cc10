"""WiSE-FT over FLYP: straight-line interpolation of the zero-shot classifier and a finished FLYP run.

Source: FLYP, arXiv:2212.00638 (its rows with weight ensembling); HesamAsad/TRACER:src/wise_ft.py and CaRot's, which
interpolate the image tower and the two heads, as here. Interpolating both towers and building the head from the
result is another model.
"""

from .registry import register
from .wise_ft import WiSEFT


@register("flyp_wise")
class FLYPWiSE(WiSEFT):
    """Reads the FLYP run of the same backbone, seed and settings; never trains."""

    finetuned = "flyp"
