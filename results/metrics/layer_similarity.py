"""How alike two models represent the same images: linear CKA and SVCCA, as in the paper's Figure 4."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


class SimilarityError(ValueError):
    """Activations that cannot be compared."""


def linear_cka(first: ArrayLike, second: ArrayLike) -> float:
    """Linear centred kernel alignment.

    Args:
        first, second: (N, D1) and (N, D2) activations of the same N images; not centred.

    Returns:
        ||Y^T X||_F^2 / (||X^T X||_F ||Y^T Y||_F) of the centred activations, in [0, 1]; 1 where they differ by a
        rotation and a factor alone.

    Raises:
        SimilarityError: other images, fewer than two, or activations that do not vary.

    Source: Kornblith et al. 2019, arXiv:1905.00414, section 3.
    """
    x, y = _centred(first, second)
    norms = np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)
    return float(np.linalg.norm(y.T @ x) ** 2 / norms)


def svcca(first: ArrayLike, second: ArrayLike, variance: float = 0.99) -> float:
    """Mean canonical correlation of the directions that hold most of each model's variance.

    Args:
        first, second: (N, D1) and (N, D2) activations of the same N images; not centred.
        variance: share of the variance that the kept singular directions explain, in (0, 1].

    Returns:
        Mean over the min(k1, k2) canonical correlations, in [0, 1]; 1 where they differ by an invertible linear map of
        the kept directions.

    Raises:
        SimilarityError: as `linear_cka`; or not more images than k1 + k2, where any two models correlate.

    Source: Raghu et al. 2017, arXiv:1706.05806, section 2.
    """
    bases = []
    for values in _centred(first, second):
        left, sizes, _ = np.linalg.svd(values, full_matrices=False)
        share = np.cumsum(sizes**2) / np.sum(sizes**2)
        # Below 1e-12, a share falls short of `variance` by rounding only.
        bases.append(left[:, : int(np.searchsorted(share, variance - 1e-12)) + 1])
    kept, images = sum(base.shape[1] for base in bases), len(bases[0])
    if images <= kept:
        raise SimilarityError(f"svcca: needs more images than the {kept} kept directions, got {images}; add images.")
    correlations = np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)
    return float(np.clip(correlations, 0, 1).mean())


def _centred(first: ArrayLike, second: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    x, y = (np.asarray(values, dtype=np.float64) for values in (first, second))
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 2:
        raise SimilarityError(f"similarity: expected (N, D1) and (N, D2) with N >= 2, got {x.shape} and {y.shape}.")
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    if not np.any(x) or not np.any(y):
        raise SimilarityError("similarity: the activations do not vary over the images.")
    return x, y
