"""A method as a curve in the ID/OOD plane, over alpha or the learning rate, and its OOD mean at matched ID score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Stop:
    """A point of a curve, by the scores that the sets are judged by, as fractions; None where they are missing.

    Attributes:
        id_score, ood: means over seeds.
        runs: seed -> (ID score, OOD mean) of its run.
    """

    value: float
    seeds: int
    id_score: float | None
    ood: float | None
    runs: Mapping[int, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Curve:
    """The points in the ID/OOD plane at which a method on a backbone can stop.

    Attributes:
        parameter: "alpha", "lr".
        label: what else was set, where two curves differ in that alone.
        stops: by rising value, at least two.
    """

    method: str
    backbone: str
    provenance: str
    parameter: str
    label: str
    stops: tuple[Stop, ...]

    @property
    def name(self) -> str:
        return f"{self.method} over {self.parameter}" + (f" [{self.label}]" if self.label else "")

    def at_id(self, score: float) -> float | None:
        """OOD mean where the curve has this ID score, as fractions.

        Linear between neighbouring stops; the better where the curve passes it twice, and None beyond its ends.
        """
        return _crossing([(s.id_score, s.ood) for s in self.stops], score)

    def gaps(self, runs: Mapping[int, tuple[float, float]]) -> list[float]:
        """OOD mean of each run minus that of the curve of the same seed, where that has its ID score.

        Args:
            runs: seed -> (ID score, OOD mean).

        Returns:
            A fraction a seed; empty unless the curve has a run of each seed and each reaches that ID score.
        """
        found = []
        for seed, (id_score, ood) in runs.items():
            there = _crossing([s.runs.get(seed, (None, None)) for s in self.stops], id_score)
            found += [] if there is None else [ood - there]
        return found if len(found) == len(runs) else []


def _crossing(points: Sequence[tuple[float | None, float | None]], score: float) -> float | None:
    """OOD mean at this ID score, between points (ID score, OOD mean); None beyond their ends."""
    known = [(x, y) for x, y in points if x is not None and y is not None]
    found = [y for x, y in known if x == score]
    for (x0, y0), (x1, y1) in zip(known, known[1:], strict=False):
        if min(x0, x1) < score < max(x0, x1):
            found.append(y0 + (y1 - y0) * (score - x0) / (x1 - x0))
    return max(found, default=None)
