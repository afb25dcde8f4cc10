"""Metrics of one evaluation set: accuracy, calibration, and what both become on shifts.

The names below are public: a notebook or another lab's code may call them.
"""

from .metrics import Meter, accuracy, expected_calibration_error

__all__ = ["Meter", "accuracy", "expected_calibration_error"]
