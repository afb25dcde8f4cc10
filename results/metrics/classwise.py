"""Calibration of every class's probability, not of the prediction's alone: it needs all of them, so it is streamed."""

from __future__ import annotations

import numpy as np

from .metrics import UNIT, MetricError, as_kept, bin_edges, binned


class ClasswiseECE:
    """Mean over classes of the ECE of the class's own probability against whether the label is that class.

    Sums are whole numbers in units of 2**-40, so that neither batches nor processes change a bit. A class that no label
    has counts too: its probabilities should be 0.

    Source: Kull et al. 2019, arXiv:1910.12656, section 2 (classwise ECE).

    Example: probabilities (.8, .2) of label 0: each class is .2 off, and so is their mean.
    """

    def __init__(self, num_classes: int, bins: int = 15) -> None:
        self.num_classes, self._edges = num_classes, bin_edges(bins)
        self.sums = np.zeros((2, num_classes, bins + 1), dtype=np.int64)
        """Labels of the class, and probabilities in units of 2**-40, by class and bin."""
        self.n = 0

    def add(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        """Add samples: (B, C) rows that sum to 1, which `metrics.sample_columns` has checked, and (B,) labels."""
        hits, total = self.sums
        kept = as_kept(probabilities)
        units = np.multiply(kept, UNIT, dtype=np.float64)
        np.rint(units, out=units)
        np.add.at(hits, (labels, binned(kept[np.arange(len(labels)), labels], self._edges)[1]), 1)
        # Rows sum to 1: of many classes all but a few are in the first bin, and only those few are looked up.
        row, column = np.nonzero(kept >= self._edges[1])
        few = units[row, column].astype(np.int64)
        np.add.at(total, (column, binned(kept[row, column], self._edges)[1]), few)
        total[:, 0] += units.sum(axis=0).astype(np.int64)  # exact: a batch's total is far below 2**53 units
        np.subtract.at(total[:, 0], column, few)
        self.n += len(labels)

    def error(self) -> float:
        """In [0, 1].

        Raises:
            MetricError: nothing was added.
        """
        if not self.n:
            raise MetricError("classwise ECE: no samples; pass at least one.")
        return float(np.abs(self.sums[0] - self.sums[1] / UNIT).sum() / self.n / self.num_classes)
