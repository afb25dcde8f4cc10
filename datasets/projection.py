"""From logits over all classes to logits over the classes of one evaluation set.

ImageNet-R and -A keep 200 of the 1000 columns; ObjectNet's classes are each the maximum over one or more ImageNet
classes. It happens before softmax: dropping classes afterwards would leave probabilities that do
not add up to one, and so another calibration error.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, tensor

from .card import DataError


@dataclass(frozen=True, slots=True)
class Projection:
    """Output column k is the maximum over the input columns `columns[k]`."""

    columns: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.columns or not all(self.columns):
            raise DataError("projection: each class of the set needs at least one column, got none for some.")

    @classmethod
    def subset(cls, indices: Iterable[int]) -> "Projection":
        """Keeps the columns `indices`, in this order."""
        return cls(tuple((int(i),) for i in indices))

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, K) logits of (B, C); differentiable, on the same device, of the same type."""
        longest = max(map(len, self.columns))
        # A class with fewer columns repeats its first one, which cannot change a maximum.
        padded = [row + row[:1] * (longest - len(row)) for row in self.columns]
        index = tensor(padded, device=logits.device)  # (K, longest)
        return logits[:, index[:, 0]] if longest == 1 else logits[:, index].amax(dim=2)
