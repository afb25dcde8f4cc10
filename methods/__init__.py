"""Methods. Importing the package registers them; a new method file is added to this list."""

from . import ema, flyp, ft, l2_sp, lp_ft, static_sd, tracer, wise_ft, zero_shot

__all__ = ["ema", "flyp", "ft", "l2_sp", "lp_ft", "static_sd", "tracer", "wise_ft", "zero_shot"]
