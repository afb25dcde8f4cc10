"""What a plan will take, judged by earlier records and run folders, and where there are none by the suite's cost and
by the layout of a run's folder: GPU-hours and disk."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

from ....results.records import records
from ...planning.benchmark import method_of
from ...run_folder.folder import RunFolder
from ...run_folder.size import CHECKPOINTS, Size
from ...run_folder.spec import RunSpec

CHECKPOINT_WEIGHTS = 4 * CHECKPOINTS
"""Of student, two moments and teacher, in sizes of the final weights."""


@dataclass(frozen=True)
class Estimate:
    """Sums over the runs that something is known of."""

    hours: float
    """Hours of one GPU, or of one process without GPUs."""
    timed: int
    """Runs that `hours` covers."""
    printed_hours: float
    """Hours of training by the suite's own cost, of runs that are like no earlier one."""
    printed: int
    """Runs that `printed_hours` covers."""
    kept_bytes: int
    """What finished runs keep."""
    passing_bytes: int
    """What checkpoints take, at most, while runs are made."""
    weighed: int
    """Runs that `kept_bytes` covers."""
    laid_out_bytes: int
    """What runs will keep by the layout of their folders, of those that are like no earlier one."""
    laid_out: int
    """Runs that `laid_out_bytes` covers."""
    runs: int


@dataclass(frozen=True)
class Pace:
    """Medians of finished runs: seconds per trained image of one process, and seconds of everything else."""

    image_seconds: float
    other_seconds: float

    def seconds(self, spec: RunSpec) -> float:
        """Seconds of one process that a run will take."""
        return self.image_seconds * (spec.steps or 0) * (spec.batch_size or 0) + self.other_seconds


def estimate(
    specs: list[RunSpec],
    runs: Path,
    device: str,
    at_once: int,
    image_seconds: Mapping[str, float],
    size: Callable[[RunSpec], Size | None],
) -> Estimate:
    """What these runs will take.

    Args:
        runs: root of earlier runs; the committed reference records are asked as well.
        device: cpu or cuda; records of the other kind say nothing.
        at_once: runs that are made at the same time.
        image_seconds: backbone -> seconds of training on an image of one GPU, as the suite has them.
        size: of a run by its layout; None where nobody knows the backbone's.
    """
    earlier = chain(records.gather(runs, lambda _: None), records.gather_reference(report=lambda _: None))
    paces = _paces(r for r in earlier if (r["environment"].get("device", "cpu") == "cpu") == (device == "cpu"))
    sizes, weights = _sizes(runs)
    seconds = [paces[key].seconds(spec) for spec in specs if (key := (spec.method, spec.backbone)) in paces]
    printed = [
        image_seconds[spec.backbone] * spec.steps * (spec.batch_size or 0)
        for spec in specs
        if device != "cpu" and spec.backbone in image_seconds and (spec.method, spec.backbone) not in paces
        if spec.steps and method_of(spec).trained
    ]
    kept = [sizes[key] for spec in specs if (key := (spec.method, spec.backbone)) in sizes]
    laid_out = [found for spec in specs if (spec.method, spec.backbone) not in sizes and (found := size(spec))]
    heavy = [CHECKPOINT_WEIGHTS * weights[spec.backbone] for spec in specs if spec.steps and spec.backbone in weights]
    heavy += [found.passing for spec in specs if spec.steps and spec.backbone not in weights and (found := size(spec))]
    return Estimate(
        hours=sum(seconds) / 3600,
        timed=len(seconds),
        printed_hours=sum(printed) / 3600,
        printed=len(printed),
        kept_bytes=sum(kept),
        passing_bytes=sum(sorted(heavy, reverse=True)[:at_once]),
        weighed=len(kept),
        laid_out_bytes=sum(found.kept for found in laid_out),
        laid_out=len(laid_out),
        runs=len(specs),
    )


def _paces(earlier: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], Pace]:
    found: dict[tuple[str, str], list[Pace]] = defaultdict(list)
    for record in earlier:
        cost, processes = record["cost"], record["environment"].get("processes", 1)
        trained, images = cost.get("train_seconds") or 0.0, cost.get("images_seen") or 0
        if cost.get("wall_seconds") is None or record["kind"] != "run":
            continue
        pace = Pace(processes * trained / images if images else 0.0, processes * (cost["wall_seconds"] - trained))
        found[record["method"], record["backbone"]].append(pace)
    return {
        key: Pace(median(p.image_seconds for p in paces), median(p.other_seconds for p in paces))
        for key, paces in found.items()
    }


def _sizes(runs: Path) -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """Median bytes of finished run folders by method and backbone, and of final weights by backbone.

    Of weights those of both towers, where any run has kept both: checkpoints hold them whatever is kept at the end.
    """
    kept, weights, text = defaultdict(list), defaultdict(list), defaultdict(list)
    for path in runs.glob("*/*/*/seed*/record.json"):
        folder = RunFolder(path.parent)
        method, backbone = path.parts[-4], path.parts[-3]
        kept[method, backbone].append(sum(_bytes(folder.path)))
        if folder.weights.exists():
            weights[backbone].append(folder.weights.stat().st_size)
        if folder.text_weights.exists():
            text[backbone].append(folder.text_weights.stat().st_size)
    return (
        {key: int(median(found)) for key, found in kept.items()},
        {key: int(median(found) + median(text[key] or [0])) for key, found in weights.items()},
    )


def _bytes(folder: Path) -> Iterable[int]:
    for place, _, files in os.walk(folder):
        for name in files:
            yield (Path(place) / name).stat().st_size
