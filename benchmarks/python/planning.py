"""Plans as values: which runs a request means, before anything is made."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..commands import cautions, sweep
from ..errors import UserError
from ..host import plugins
from ..planning.benchmark import Benchmark
from ..planning.request import Planned, Request
from .mistakes import one_error
from .places import StrPath


@dataclass(frozen=True)
class PlannedRun(Planned):
    """A run that could be made: what it is, and where each value comes from.

    Attributes:
        spec: every value that its numbers depend on (`spec.steps`, `spec.hyper`, ...).
        sources: key -> where its value comes from, as "recipe common" or "--set".
        requested: False where it is there only because another run reads it, as WiSE-FT its FT.
        needs: ids of the runs that it reads.
        cautions: sentences on what may not be what was meant.
    """

    cautions: tuple[str, ...] = field(default=(), compare=False)
    benchmark: Benchmark = field(default=None, compare=False)  # type: ignore[assignment]

    @property
    def id(self) -> str:
        """12 hexadecimal digits: a hash of the spec, and the end of the folder's name."""
        return self.spec.run_id

    def __repr__(self) -> str:
        more = f", {len(self.cautions)} cautions" if self.cautions else ""
        return f"<{self.spec.title}, id {self.id}{more}>"


@one_error
def plan(
    benchmark: StrPath,
    methods: str | Sequence[str] = "all",
    *,
    backbones: str | Sequence[str] = (),
    seeds: int | Sequence[int] = (),
    settings: Mapping[str, Any] | None = None,
    rule: str = "one_se",
    recipe: str | None = None,
    limit: int | None = None,
    allow_partial: bool = False,
    device: str = "cpu",
    include: StrPath | Sequence[StrPath] = (),
) -> list[PlannedRun]:
    """The runs of a grid, inputs before the runs that read them; nothing is made or written.

    They are those of `robustft sweep` with the options of the same names, under the same ids.

    Args:
        benchmark: name of a suite, or path of a suite file.
        methods: names, those that this process has registered among them; "all" are the suite's.
        backbones: names; the suite's by default.
        seeds: the suite's by default.
        settings: key -> value for every method that has the key, or "method.key" -> value. A tuple is a grid of
            values, a list is one value.
        rule: which tuned values apply: "one_se" or "best_id"; "fixed" of methods with a path.
        recipe: of the suite; its first one by default.
        limit: at most so many images of each set, in training too: a rehearsal, which is not ranked.
        allow_partial: plan although images or sets are missing; not ranked.
        device: where the runs will be made, for the cautions.
        include: files or packages with methods, datasets and backbones of your own, as `--include`; known to this
            process from then on.

    Raises:
        UserError: an unknown name or key, a value out of range, or a combination that is none; one sentence.
    """
    plugins.discover()
    for each in (include,) if isinstance(include, (str, os.PathLike)) else include:
        plugins.include(os.fspath(each))
    loaded = sweep.load(os.fspath(benchmark))
    if limit is not None and (not isinstance(limit, int) or limit < 2):
        raise UserError(f"limit: must be a whole number of at least 2 images, got {limit!r}; correct it.")
    part: dict[str, Any] = {} if limit is None else {"limit": limit, "train_limit": limit}
    part |= {"allow_partial": True} if allow_partial else {}
    request = Request(
        _several(methods),
        _several(backbones),
        (seeds,) if isinstance(seeds, int) else tuple(seeds),
        tuple(f"{key}={_text(key, value)}" for key, value in (settings or {}).items()),
        rule,
        recipe,
        companions=True,
        part=part,
    )
    shared: list[str] = []
    planned = sweep.expand(loaded, request, shared.append)
    shared += sweep.doubts(loaded, planned)
    shared += cautions.one_run(planned, request.seeds or loaded.suite.seeds, loaded.facts.methods)
    sweep.check_captions(loaded, [run.spec for run in planned])

    def of(run: Planned) -> tuple[str, ...]:
        return (*shared, *cautions.of_plan(loaded, [run], device, 1, here=True))

    return [
        PlannedRun(run.spec, run.sources, run.requested, run.needs, cautions=of(run), benchmark=loaded)
        for run in planned
    ]


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _text(key: str, value: Any) -> str:
    """A value, or a tuple of several, as they follow `--set key=`."""
    try:
        values = value if isinstance(value, tuple) else (value,)
        return ",".join(json.dumps(_plain(each), allow_nan=False) for each in values)
    except (TypeError, ValueError):
        raise UserError(
            f"settings: {key} must be a finite number, a text, True, False, None, or a list of those, got {value!r}; "
            "give a tuple for a grid of values."
        ) from None


def _plain(value: Any) -> Any:
    """NumPy's and torch's numbers as Python's."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value
