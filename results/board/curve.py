"""A method as a curve in the ID/OOD plane, over alpha or the learning rate, and its OOD mean at matched ID score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise


@dataclass(frozen=True)
class Stop:
    """A point of a curve, by the scores that the sets are judged by, as fractions; None where they are missing.

    Attributes:
        id_score, ood: means over seeds.
        runs: seed -> (ID score, OOD mean) of its run.
        run_ids: seed -> id of its run.
    """

    value: float
    seeds: int
    id_score: float | None
    ood: float | None
    runs: Mapping[int, tuple[float | None, float | None]] = field(default_factory=dict)
    run_ids: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Crossing:
    """Where a curve has an ID score: on the line between two neighbouring stops.

    Attributes:
        ood: the OOD mean there.
        weight: how far it is from `first` to `second`, 0 to 1.
        slope: OOD points that one ID point costs or gives there.
    """

    first: Stop
    second: Stop
    ood: float
    weight: float
    slope: float


@dataclass(frozen=True)
class Curve:
    """The points in the ID/OOD plane at which a method on a backbone can stop.

    Attributes:
        parameter: "alpha", "lr".
        label: what else was set, where two curves differ in that alone.
        stops: by rising value, at least two.
        of_one_run: whether a seed's stops are points of one run's path, and not runs of their own.
    """

    method: str
    backbone: str
    provenance: str
    parameter: str
    label: str
    stops: tuple[Stop, ...]
    of_one_run: bool = False

    @property
    def name(self) -> str:
        return f"{self.method} over {self.parameter}" + (f" [{self.label}]" if self.label else "")

    def crossing(self, score: float) -> Crossing | None:
        """Where the curve has this ID score, a fraction; None beyond its ends.

        Linear between neighbouring stops; the better where the curve passes it twice, and at a stop the steeper side.
        """
        found = []
        for first, second in pairwise(self.stops):
            x0, y0, x1, y1 = first.id_score, first.ood, second.id_score, second.ood
            if x0 is None or y0 is None or x1 is None or y1 is None or not min(x0, x1) <= score <= max(x0, x1):
                continue
            if x0 == x1:
                weight, slope = float(y1 > y0), 0.0
            else:
                weight, slope = (score - x0) / (x1 - x0), (y1 - y0) / (x1 - x0)
            found.append(Crossing(first, second, y0 + weight * (y1 - y0), weight, slope))
        return max(found, key=lambda crossing: (crossing.ood, abs(crossing.slope)), default=None)
