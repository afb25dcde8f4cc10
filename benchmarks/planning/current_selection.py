"""Finished runs beside their suites: what a command that only reads records needs of a suite, and does without.

A record holds all that a board shows. Its suite adds which rules choose the run by the tuned values of today. Where the
suite's file, or the data behind it, is on another machine, a record counts for what it was when it was made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...datasets.card import DataError
from ...results.board.rows import OOD_MEANS, PLUGINS_NOW, UNRANKED
from ..errors import resolve_name
from ..host.plugin_files import PluginError
from ..run_folder.spec import RunSpec
from . import unranked
from .request import choose_backbone
from .suite import suite

if TYPE_CHECKING:
    from .benchmark import Benchmark

Tell = Callable[[str], None]


class Suites:
    """The suites of finished runs, each loaded when it is asked for, as far as they are at hand.

    Args:
        tell: called with one sentence for each suite that exists and cannot be read here.
        known: suites that were loaded before, by the name of their benchmark.
    """

    def __init__(self, tell: Tell, known: Mapping[str, "Benchmark"] | None = None) -> None:
        self.tell = tell
        self._known: dict[str, Benchmark | None] = dict(known or {})
        self._told: set[str] = set()

    def of(self, asked: str, runs: Path) -> str:
        """The benchmark that a name or a suite file means; the name may be that of runs alone.

        Raises:
            UserError: neither a suite nor a run has the name, or the file is no suite.
        """
        if not asked.endswith((".yaml", ".yml")):
            of_runs = {path.name for path in runs.glob("*/") if not path.name.startswith(".")}
            return resolve_name("benchmark", asked, {*suite.names(), *of_runs})
        path = suite.find(asked)
        name = suite.load(path).name
        self._known[name] = self._load(str(path), name)
        return name

    def get(self, name: str) -> "Benchmark | None":
        """The suite of a benchmark; None where only the records know it."""
        if name not in self._known:
            self._known[name] = self._load(name, name) if name in suite.names() else None
        return self._known[name]

    def _load(self, source: str, name: str) -> "Benchmark | None":
        from .benchmark import Benchmark  # methods and backbones, and so torch: only for a suite that is at hand

        try:
            return Benchmark(source)
        except (DataError, PluginError) as error:
            self._gone(name, error)
            return None

    def _gone(self, name: str, error: Exception) -> None:
        if name not in self._told:
            why = f"its suite needs what is not here: {error}"
            self.tell(f"{name}: runs count as they were chosen when they were made, because {why}")
        self._told.add(name)

    def with_selections(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """Each record with the selection that the tuned values of today give it.

        A run that was made before the tuning, or under an earlier one, counts for what its values are now: so a
        board never mixes two tunings under one rule.
        """
        for record in records:
            benchmark = self.get(record["benchmark"])
            yield record if benchmark is None else self._selected(benchmark, record)

    def for_board(self, records: Iterable[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        """`with_selections`, and beside the keys of a record what a board says of its row.

        That is why no rule ranks it, which versions its plug-ins have now, and over which shifts its suite takes
        means of their own, where that is known.
        """
        for record in self.with_selections(records):
            if means := self._means(record["benchmark"]):
                record = {**record, OOD_MEANS: means}
            if (now := self._plugins_now(record)) is not None:
                record = {**record, PLUGINS_NOW: now}
            reason = self._reason(record)
            yield {**record, UNRANKED: reason} if reason else record

    def _means(self, name: str) -> dict[str, list[str]]:
        benchmark = self.get(name)
        return benchmark.suite.ood_mean if benchmark else {}

    def _plugins_now(self, record: Mapping[str, Any]) -> list[str] | None:
        """The versions that a run of the same names would have; None where no plug-in is, or none is at hand."""
        benchmark = self.get(record["benchmark"]) if record["spec"].get("plugins") else None
        if benchmark is None or record["recipe"] not in benchmark.suite.recipe_names or not at_hand(benchmark, record):
            return None
        data = benchmark.suite.dataset_of(record["recipe"])
        return benchmark.facts.plugins(record["method"], data, record["backbone"])

    def _reason(self, record: Mapping[str, Any]) -> str:
        try:
            return unranked.reason(record, self.get(record["benchmark"]))
        except ValueError:  # its suite needs what is not here, which was said
            return unranked.reason(record, None)

    def _selected(self, benchmark: "Benchmark", record: Mapping[str, Any]) -> Mapping[str, Any]:
        from ...backbones import BackboneError

        try:
            return _with_selection(benchmark, record)
        except (DataError, BackboneError) as error:
            self._gone(record["benchmark"], error)
            return record


def at_hand(benchmark: "Benchmark", record: Mapping[str, Any]) -> bool:
    """Whether method and backbone of a record are known here: of a plug-in they may be not, and it need not be."""
    try:
        known = choose_backbone(record["backbone"], benchmark.facts)
    except ValueError:
        return False
    return known == record["backbone"] and record["method"] in benchmark.facts.methods


def _with_selection(benchmark: "Benchmark", record: Mapping[str, Any]) -> Mapping[str, Any]:
    if record["benchmark_version"] != benchmark.suite.version:
        return record
    if record["recipe"] not in benchmark.suite.recipe_names:
        return record
    if record["spec"].get("plugins") and not at_hand(benchmark, record):
        return record
    try:
        spec = RunSpec.model_validate(record["spec"])
    except ValidationError:
        return record
    selection = selection_of(benchmark, spec)
    changed = {**record, "selection": selection}
    if selection["tuning"]:
        changed["sources"] = benchmark.selector(spec.recipe).sources(selection["rules"][0], spec)
    return changed


def selection_of(benchmark: "Benchmark", spec: RunSpec) -> dict[str, Any]:
    """The rules that a run is a result of; none where the trials behind the tuned values are not today's."""
    from . import tuning

    def current(method: str, backbone: str) -> bool:
        return tuning.is_current(benchmark, method, backbone, spec.recipe)

    return benchmark.selector(spec.recipe).of(spec, current)
