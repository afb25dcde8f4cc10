"""How well confidences tell right predictions from wrong ones: selective prediction and the detection of failures.

All follows from what a file of predictions keeps of each sample, so that it can be computed again without the model.
Samples of one confidence have no order: a curve runs through such a group as it would on average over all orders, and a
threshold accepts all of it or none.

Sources: Geifman & El-Yaniv 2017, arXiv:1705.08500 (risk and coverage); Geifman et al. 2019, arXiv:1805.08206 (E-AURC);
Hendrycks & Gimpel 2017, arXiv:1610.02136 (detection of failures by AUROC).
"""

from __future__ import annotations

import numpy as np

from .metrics import MetricError

SELECTIVE = ("aurc", "e_aurc", "coverage_at_5_risk", "risk_at_80_coverage", "failure_auroc", "failure_fpr95")
"""What `selective` gives."""


def selective(confidence: np.ndarray, correct: np.ndarray) -> dict[str, float]:
    """Every number of selective prediction of (N,) confidences, compared in float32, and (N,) bool.

    Returns:
        Fractions. aurc: area under the curve of risk (share of wrong ones among the accepted) over coverage (share of
        samples that are accepted, the most confident first), from 1/N to 1 by trapezoids and divided by its width; the
        risk itself for one sample. e_aurc: how much of it a perfect order of the same predictions would not have.
        coverage_at_5_risk: the largest coverage of any threshold whose risk is at most 5 %; 0 where there is none.
        risk_at_80_coverage: risk of the ceil(0.8 N) most confident. failure_auroc: how often a right prediction has a
        larger confidence than a wrong one, ties half. failure_fpr95: share of the wrong ones accepted by the largest
        threshold that accepts 95 % of the right ones. The last two are left out where all are right, or all wrong.

    Example: confidences .9, .8, .7, the second wrong: risks 0, 1/2, 1/3, aurc 1/3; in perfect order 0, 0, 1/3 and
    1/12, so e_aurc is 1/4; coverage_at_5_risk 1/3, risk_at_80_coverage 1/3, failure_auroc 1/2, failure_fpr95 1.

    Raises:
        MetricError: no samples, or a confidence that is not finite.
    """
    if not len(confidence) or not np.isfinite(confidence).all():
        raise MetricError("selective: expected finite confidences of at least one sample; evaluate it again.")
    _, place, sizes = np.unique(-confidence.astype(np.float32), return_inverse=True, return_counts=True)
    accepted = np.cumsum(sizes)  # at each threshold, from the highest
    wrong = np.cumsum(np.bincount(place, weights=~correct, minlength=len(sizes)).astype(np.int64))
    total, failures = int(accepted[-1]), int(wrong[-1])
    count = np.arange(1, total + 1)
    risk = np.interp(count, [0, *accepted], [0, *wrong]) / count
    fits = accepted[20 * wrong <= accepted]
    most = -(-4 * total // 5)
    area = _area(risk)
    found = {
        "aurc": area,
        "e_aurc": area - _area(np.maximum(count - (total - failures), 0) / count),
        "coverage_at_5_risk": float(fits[-1] / total) if len(fits) else 0.0,
        "risk_at_80_coverage": float(risk[most - 1]),
    }
    if 0 < failures < total:
        right, rights = accepted - wrong, total - failures
        step = np.diff(right, prepend=0)
        below = failures - wrong + np.diff(wrong, prepend=0) / 2
        found["failure_auroc"] = float((step * below).sum() / (rights * failures))
        found["failure_fpr95"] = float(wrong[np.argmax(20 * right >= 19 * rights)] / failures)
    return found


def _area(risk: np.ndarray) -> float:
    if len(risk) == 1:
        return float(risk[0])
    return float((risk.sum() - (risk[0] + risk[-1]) / 2) / (len(risk) - 1))
