"""Per-sample scores of the runs of a row, as sums over source images: from run folders, or from the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from ..metrics.metrics import bin_edges, binned
from ..records import predictions
from ..records.records import REFERENCE
from ..records.reference import ReferencePredictions, opened
from ..statistics import jackknife
from ..statistics.paired import Difference
from .rows import JOINT, Row, Section

_EDGES = bin_edges(15)
"""Of the ECE that records and boards have."""


class OutcomeError(ValueError):
    """Per-sample files that contradict their records, or each other."""


@dataclass(frozen=True, eq=False)
class SetScores:
    """What runs scored on one set, summed over the renderings of each source image.

    Attributes:
        units: (M,) ids of the source images, sorted.
        counts: (M,) renderings of each.
        sums: (n, M) sums of the scores over the renderings, a row per seed.
    """

    units: np.ndarray
    counts: np.ndarray
    sums: np.ndarray

    def of_seeds(self, rows: list[int]) -> SetScores:
        return SetScores(self.units, self.counts, self.sums[rows])


@dataclass(frozen=True, eq=False)
class _RunScores:
    """What one run scored on one set.

    Attributes:
        units, inverse, counts: as `Outcomes._layout_of`.
        right: (N,) whether each sample is right. share: of them that are.
        sums: score -> (M,) as `_sums`, of the scores that were asked for.
    """

    units: np.ndarray
    inverse: np.ndarray
    counts: np.ndarray
    right: np.ndarray
    share: float
    sums: dict[str, np.ndarray | None] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _OfReference:
    """What is kept of a reference as long as its files are the same: a process makes many boards with it on each.

    Attributes:
        runs: run id, set -> its scores.
        rows: run ids, set, score -> the scores of these runs as one, made from these of `runs`.
        differences: as `Outcomes.differences` says.
    """

    runs: dict[tuple[str, str], _RunScores] = field(default_factory=dict)
    rows: dict[tuple[tuple[str, ...], str, str], tuple[list[_RunScores], SetScores]] = field(default_factory=dict)
    differences: dict[tuple[object, ...], tuple[object, Difference]] = field(default_factory=dict)


_KEPT: WeakKeyDictionary[ReferencePredictions, _OfReference] = WeakKeyDictionary()


class Outcomes:
    """Reads the per-sample files that lie beside records; every file once for the scores that all boards ask for.

    Args:
        runs: root of all run folders, for local rows.
        reference: root of all references, for reference rows.
        folders: benchmark -> folder, where a reference lies elsewhere.

    Attributes:
        compared: what `comparison.compare` found, by the ids of section and rows and by column, beside these objects:
            they are kept, so that no other has the id of one of them.
    """

    def __init__(
        self, runs: Path | None = None, reference: Path = REFERENCE, folders: Mapping[str, Path] | None = None
    ) -> None:
        self._runs, self._reference, self._folders = runs, Path(reference), dict(folders or {})
        self._places: dict[str, dict[str, Path]] = {}  # benchmark -> run id -> run folder
        self._kept: dict[str, ReferencePredictions | None] = {}  # of benchmarks; None where there are none
        self._last_run: tuple[tuple[str, str], dict[str, np.ndarray]] | None = None  # of the reference, whole
        self._layouts: dict[tuple[str, ...], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = {}
        self._scored: dict[tuple[str, str, str, str], _RunScores] = {}
        self._scores: dict[tuple[str, str, str, tuple[str, ...], str], SetScores | None] = {}
        self.compared: dict[tuple[int, int, int, str], tuple[tuple[Section, Row, Row], object]] = {}
        self._at_points: dict[tuple[str, str, str, str], dict[float, np.ndarray] | None] = {}

    def scores(self, benchmark: str, row: Row, name: str, score: str = "accuracy") -> SetScores | None:
        """The scores of a row's seeds on a set; None where a run has no per-sample file of it.

        Args:
            name: the set.
            score: "accuracy" (1 for right, 0 for wrong), "nll" (nats) or one of `jackknife.METRICS`, which are no sums
                over samples: their place is taken by sums whose mean is the score, and which differ between images as
                the score without each does.

        Raises:
            OutcomeError: the files are not those that the record's numbers were computed from, or two runs are over
                other samples.
            PredictionError: a file is damaged.
        """
        key = (benchmark, row.provenance, name, tuple(row.runs.values()), score)
        if key not in self._scores:
            self._scores[key] = self._read(benchmark, row, name, score)
        return self._scores[key]

    def at_point(
        self, benchmark: str, row: Row, provenance: str, runs: Mapping[int, str], at: tuple[str, float], name: str,
        score: str = "accuracy",
    ) -> SetScores | None:  # fmt: skip
        """The scores of runs at one point of their path, as `scores`; None where the samples of paths are not kept.

        Args:
            row: any of the same table: its data are theirs.
            provenance: of the runs. runs: seed -> run id.
            at: parameter of the path, and its value there.
        """
        sums = []
        for run_id in runs.values():
            columns = self.columns(benchmark, provenance, run_id, name)
            if columns is None:
                return None
            units, inverse, counts = self._layout_of(self._data(benchmark, row, name), columns, run_id)
            key = (benchmark, run_id, name, score)
            if key not in self._at_points:
                along = self.along(benchmark, provenance, run_id, name, at[0])
                self._at_points[key] = None if along is None else {
                    value: made for value, point in along.items()
                    if (made := _sums(score, columns | point, inverse, counts)) is not None
                }  # fmt: skip
            found = (self._at_points[key] or {}).get(at[1])
            if found is None:
                return None
            sums.append(found)
        return SetScores(units, counts, np.stack(sums)) if sums else None

    def right(self, benchmark: str, row: Row, name: str) -> np.ndarray | None:
        """(n, N) whether each seed of a row was right on each sample of a set, in the set's own order."""
        if self.scores(benchmark, row, name) is None:
            return None
        return np.stack([self._scored[benchmark, row.provenance, name, run].right for run in row.runs.values()])

    def _read(self, benchmark: str, row: Row, name: str, score: str) -> SetScores | None:
        runs, sums = [], []
        for seed, run_id in row.runs.items():
            of_run = self._of_run(benchmark, row, name, run_id, score)
            if of_run is None:
                return None
            recorded = row.values.get(f"acc/{name}", {}).get(seed)
            # Both are a whole number over N.
            if recorded is None or abs(of_run.share - recorded) > 1e-9:
                raise OutcomeError(
                    f"run {run_id}: its predictions on {name} are {of_run.share:.6f} right and its record says "
                    f"{recorded}; run it again."
                )
            made = of_run.sums[score]
            recorded = row.values.get(f"{score}/{name}", {}).get(seed)
            if made is None or (score in jackknife.METRICS and recorded is None):
                return None
            found = made.sum() / of_run.counts.sum()
            if score in jackknife.METRICS and abs(found - recorded) > 1e-9:
                raise OutcomeError(
                    f"run {run_id}: its predictions on {name} have {score} {found:.6f} and its record says "
                    f"{recorded}; run it again."
                )
            runs.append(of_run)
            sums.append(made)
        if not sums:
            return None
        key = (tuple(row.runs.values()), name, score)
        kept = self._kept_of(self._reference_of(benchmark, row.provenance))
        if kept is not None and key in kept.rows and _all_same(kept.rows[key][0], runs):
            return kept.rows[key][1]
        scores = SetScores(runs[0].units, runs[0].counts, np.stack(sums))
        if kept is not None:
            kept.rows[key] = runs, scores
        return scores

    def differences(
        self, benchmark: str, first: Row, second: Row
    ) -> dict[tuple[object, ...], tuple[object, Difference]]:
        """Where to keep how two rows differ, by the ids of objects that are kept beside it, so that no other has one's.

        Of two rows of the reference it is there for the next board.
        """
        one, other = (self._kept_of(self._reference_of(benchmark, row.provenance)) for row in (first, second))
        return one.differences if one is not None and one is other else {}

    @staticmethod
    def _kept_of(reference: ReferencePredictions | None) -> _OfReference | None:
        return None if reference is None else _KEPT.setdefault(reference, _OfReference())

    def _of_run(self, benchmark: str, row: Row, name: str, run_id: str, score: str) -> _RunScores | None:
        """What a run of a row scored on a set, `score` among its sums; None where there is no file of it."""
        known = self._known(benchmark, row, name, run_id)
        if known is None or score not in known.sums:
            self._score(benchmark, row, name, run_id, score)
            reference = self._reference_of(benchmark, row.provenance)
            # All sets of a run of the reference are read at once, and take more memory than what they scored.
            for other in [each for each in reference.sets if each != name] if reference is not None else ():
                with suppress(OutcomeError):  # which is raised when that set is asked for
                    self._score(benchmark, row, other, run_id, score)
        return self._scored.get((benchmark, row.provenance, name, run_id))

    def _known(self, benchmark: str, row: Row, name: str, run_id: str) -> _RunScores | None:
        """What was found of a run on a set, for this board or for one before it."""
        key, reference = (benchmark, row.provenance, name, run_id), self._reference_of(benchmark, row.provenance)
        if key not in self._scored and reference is not None:
            kept = _KEPT.setdefault(reference, _OfReference()).runs.get((run_id, name))
            data = self._data(benchmark, row, name)
            if kept and _same(kept.inverse, self._layout_of(data, reference.sets[name], run_id)[1]):
                self._scored[key] = kept
        return self._scored.get(key)

    def _score(self, benchmark: str, row: Row, name: str, run_id: str, score: str) -> None:
        """Adds a score to what is known of a run on a set, with those that most boards ask for, where its file is."""
        columns = self.columns(benchmark, row.provenance, run_id, name)
        if columns is None:
            return
        layout = self._layout_of(self._data(benchmark, row, name), columns, run_id)
        right = columns["prediction"] == columns["label"]
        found = self._known(benchmark, row, name, run_id) or _RunScores(*layout, right, float(right.mean()))
        needs = {"accuracy": "prediction", "nll": "p_label", "ece": "confidence"}
        always = {each for each, column in needs.items() if column in columns}  # while the file is open
        for each in {*always, score} - found.sums.keys():
            found.sums[each] = _sums(each, columns, layout[1], layout[2])
        self._scored[benchmark, row.provenance, name, run_id] = found
        kept = self._kept_of(self._reference_of(benchmark, row.provenance))
        if kept is not None:
            kept.runs[run_id, name] = found

    @staticmethod
    def _data(benchmark: str, row: Row, name: str) -> tuple[str, ...]:
        """Benchmark, version, data fingerprint and set, of which all runs have the same samples, and its clusters."""
        about = (str(row.settings.get(key)) for key in ("benchmark_version", "fingerprint"))
        return (benchmark, *about, name, *row.clusters.get(name, ()))

    def _layout_of(
        self, key: tuple[str, ...], columns: Mapping[str, np.ndarray], run_id: str
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source images, index and count of each sample's, of a set; `key` as `_data` gives it.

        Where a set's images come from few sources, these are the units, in place of the images.
        """
        known, sample_ids = self._layouts.get(key), columns["sample_id"]
        if known is None:
            unit_ids = columns["unit_id"].astype(str)
            if len(key) > 4:
                starts = np.array(key[4:])
                unit_ids = starts[np.maximum(np.searchsorted(starts, unit_ids, side="right") - 1, 0)]
            units, inverse, counts = np.unique(unit_ids, return_inverse=True, return_counts=True)
            known = self._layouts[key] = (sample_ids, units, inverse, counts)
        elif known[0] is not sample_ids and not np.array_equal(known[0], sample_ids):
            raise OutcomeError(f"run {run_id}: its samples of {key[3]} are not those of the other runs; run it again.")
        return known[1:]

    def columns(self, benchmark: str, provenance: str, run_id: str, name: str) -> dict[str, np.ndarray] | None:
        """The per-sample columns of a run on a set; None where there is no file of them.

        Raises:
            PredictionError: a file is damaged.
        """
        if provenance == "reference":
            return self._reference_columns(benchmark, run_id, name)
        folder = self._run_folders(benchmark).get(run_id)
        path = folder / "predictions" / f"{name}.parquet" if folder else None
        return predictions.read(path) if path and path.is_file() else None

    def along(
        self, benchmark: str, provenance: str, run_id: str, name: str, parameter: str
    ) -> dict[float, dict[str, np.ndarray]] | None:
        """The per-sample columns at every point of a run's path; None where no file keeps them, as in the reference.

        Raises:
            PredictionError: a file is damaged.
        """
        folder = None if provenance == "reference" else self._run_folders(benchmark).get(run_id)
        path = folder / "predictions" / f"{name}.path.parquet" if folder else None
        return predictions.read_path(path, parameter) if path and path.is_file() else None

    def _run_folders(self, benchmark: str) -> dict[str, Path]:
        if benchmark not in self._places:
            found = sorted(self._runs.glob(f"{benchmark}/*/*/seed*-*")) if self._runs else []
            self._places[benchmark] = {path.name.rpartition("-")[2]: path for path in found}
        return self._places[benchmark]

    def _reference_of(self, benchmark: str, provenance: str) -> ReferencePredictions | None:
        """The predictions of the reference, where a row's runs are its, and it has them."""
        if provenance != "reference":
            return None
        if benchmark not in self._kept:
            self._kept[benchmark] = opened(self._folders.get(benchmark, self._reference / benchmark))
        return self._kept[benchmark]

    def _reference_columns(self, benchmark: str, run_id: str, name: str) -> dict[str, np.ndarray] | None:
        kept = self._reference_of(benchmark, "reference")
        if kept is None or run_id not in kept or name not in kept.sets:
            return None
        samples = kept.sets[name]
        if self._last_run is None or self._last_run[0] != (benchmark, run_id):
            self._last_run = (benchmark, run_id), kept.read(run_id)
        return samples | {key: values[samples["rows"]] for key, values in self._last_run[1].items()}


def _sums(score: str, columns: Mapping[str, np.ndarray], inverse: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """(M,) sums of a score over each source image's samples; None where the columns do not give the score."""
    units = len(counts)
    if score not in jackknife.METRICS:
        values = columns["prediction"] == columns["label"] if score == "accuracy" else predictions.nll(columns)
        return np.bincount(inverse, weights=values, minlength=units)
    if score == "ece":
        confidence, index = binned(columns["confidence"], _EDGES)
        columns = {**columns, "confidence": confidence, "bin": index}
    pseudo = jackknife.pseudovalues(score, columns, inverse, units)
    if pseudo is None:
        return None
    # An image moves the mean over samples by its sum; a pseudovalue by what it moves the mean over images.
    return counts * pseudo.mean() + (pseudo - pseudo.mean()) * len(inverse) / units


class GroupOutcomes(Outcomes):
    """Those of several groups' bundles, and of the reference.

    Args:
        bundles: (name of the group, benchmark) -> its bundle's folder of runs.
        reference: root of all references.
    """

    def __init__(self, bundles: Mapping[tuple[str, str], Path], reference: Path = REFERENCE) -> None:
        super().__init__(None, reference)
        self._bundles = {place: Outcomes(runs, reference) for place, runs in bundles.items()}

    def columns(self, benchmark: str, provenance: str, run_id: str, name: str) -> dict[str, np.ndarray] | None:
        """As `Outcomes.columns`; of a row that several groups hold, those of the first, whose runs it shows."""
        owner = provenance.split(JOINT)[0]
        bundle = self._bundles.get((owner, benchmark))
        if bundle is None:
            return super().columns(benchmark, owner, run_id, name)
        return bundle.columns(benchmark, "local", run_id, name)

    def _reference_of(self, benchmark: str, provenance: str) -> ReferencePredictions | None:
        owner = provenance.split(JOINT)[0]
        return None if (owner, benchmark) in self._bundles else super()._reference_of(benchmark, owner)

    def along(
        self, benchmark: str, provenance: str, run_id: str, name: str, parameter: str
    ) -> dict[float, dict[str, np.ndarray]] | None:
        """As `Outcomes.along`, of the group that `columns` reads."""
        owner = provenance.split(JOINT)[0]
        bundle = self._bundles.get((owner, benchmark))
        if bundle is None:
            return super().along(benchmark, owner, run_id, name, parameter)
        return bundle.along(benchmark, "local", run_id, name, parameter)


def tables(first: Mapping[str, SetScores], second: Mapping[str, SetScores], names: Sequence[str]) -> list[np.ndarray]:
    """Tables (n, M) for `paired` whose means add up to the mean over sets of first - second.

    Sets that show some of the same source images are one table: an image counts once, with all its renderings in all
    of them. Where images have different numbers of renderings, an entry is what the image moves the set's mean by.

    Raises:
        OutcomeError: the two are over other images.
    """
    share = 1 / len(names)
    return combined({name: [(share, first[name]), (-share, second[name])] for name in names})


def combined(terms: Mapping[str, Sequence[tuple[float, SetScores]]]) -> list[np.ndarray]:
    """`tables` of any sum of means: set -> factors, each with the scores whose mean over the set it stands before."""
    parts = []
    for group, images, places in _layout({name: of[0][1].units for name, of in terms.items()}):
        table = np.zeros(())
        for name in group:
            first = terms[name][0][1]
            if not all(_same(s.units, first.units) and _same(s.counts, first.counts) for _, s in terms[name]):
                raise OutcomeError(f"set {name}: two runs are over other images; run them again.")
            total, sums = first.counts.sum(), np.zeros(())
            for factor, scores in terms[name]:
                sums = sums + factor * scores.sums
            mean = sums.sum(axis=1, keepdims=True) / total
            moved = np.zeros((len(sums), images))
            moved[:, places[name]] = sums - first.counts * mean
            table = table + mean + moved * images / total
        parts.append(table)
    return parts


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one is other or np.array_equal(one, other)


def _all_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


@dataclass(frozen=True)
class _Known:
    """What `_layout` found for these very arrays: they are kept, so that no other has the id of one of them."""

    units: tuple[np.ndarray, ...]
    found: list[tuple[list[str], int, dict[str, np.ndarray]]]


_KNOWN: dict[tuple[tuple[str, int], ...], _Known] = {}


def _layout(units: Mapping[str, np.ndarray]) -> list[tuple[list[str], int, dict[str, np.ndarray]]]:
    """Groups of `_sharing`, each with its number of images and, for each set, which of them it shows.

    A board compares thousands of pairs over the same few sets, whose ids `Outcomes` holds once: they are compared once.
    """
    key = tuple((name, id(ids)) for name, ids in units.items())
    if key not in _KNOWN:
        found = []
        for group in _sharing(units):
            every = np.unique(np.concatenate([units[name] for name in group]))
            found.append((group, len(every), {name: np.searchsorted(every, units[name]) for name in group}))
        if len(_KNOWN) >= 64:
            _KNOWN.clear()
        _KNOWN[key] = _Known(tuple(units.values()), found)
    return _KNOWN[key].found


def _sharing(units: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Sets in groups: two are together if they show a common source image, or both do with a third."""
    groups: list[tuple[list[str], set[str]]] = []
    for name, ids in units.items():
        names, seen = [name], set(ids.tolist())
        apart = []
        for group in groups:
            if group[1] & seen:
                names, seen = group[0] + names, group[1] | seen
            else:
                apart.append(group)
        groups = [*apart, (names, seen)]
    return [names for names, _ in groups]
