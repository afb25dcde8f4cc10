"""Bundles of several groups in one board: each verified, each group's runs in rows of its own, nothing pooled.

What stands on it is what each bundle says of its runs, checked: their numbers follow from their samples, and a rule
ranks a run only if the bundle holds the tuned values by which that rule chose it. Runs of the committed reference of a
benchmark stand beside them.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..board.per_sample import GroupOutcomes
from ..board.rows import UNRANKED
from ..records import manifest
from ..records.records import REFERENCE, gather_reference
from ..records.reference import SAMPLES, ReferencePredictions
from ..tables import leaderboard
from . import tuned_evidence
from .bundle import Bundle, BundleError, Record, checked_name, read
from .check import Checked, check

PREFACE = (
    "Runs of several groups: provenance names the group, and reference the runs that are committed with this package. "
    "Each bundle was verified before it was shown: its files are those of its manifest, and its numbers follow from "
    "its samples. That its runs were made as they say is its group's word. Bundles: {bundles}."
)
_Samples = tuple[str, ...]
"""Benchmark, version, data fingerprint, limit and set: all runs of it are on the same samples."""


@dataclass(frozen=True)
class Submission:
    """A bundle under the name of its group."""

    name: str
    bundle: Bundle

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.bundle.folder

    @property
    def benchmarks(self) -> list[str]:
        """Whose runs it holds, by its folders."""
        return sorted(path.name for path in (self.folder / "runs").glob("*/"))

    def checked(self) -> Checked:
        """What came of computing everything in it again.

        Raises:
            BundleError: something in it does not hold.
        """
        found = check(self.bundle)
        if found.problems:
            count = f" (the first of {len(found.problems)} problems)" if len(found.problems) > 1 else ""
            raise BundleError(
                f"merge: {self.folder} does not verify: {found.problems[0]}{count}; see `robustft verify "
                f"{self.folder}`, and leave it out until its group has corrected it."
            )
        return found


def submissions(folders: Iterable[Path]) -> list[Submission]:
    """The bundles in these folders, each under the name that its manifest gives, else that of its folder.

    Raises:
        BundleError: a folder is no bundle, or a committed reference; or two are of one group and one benchmark.
    """
    found: list[Submission] = []
    for folder in folders:
        bundle = read(folder)
        if bundle.provenance == "reference":
            raise BundleError(
                f"merge: {folder} is a committed reference, which stands beside the groups' runs anyway; leave it out."
            )
        remedy = "" if bundle.name else ", by the name of its folder"
        name = checked_name(bundle.name or folder.resolve().name, f"merge: the name of the group of {folder}{remedy}")
        new = Submission(name, bundle)
        if not bundle.name and name in new.benchmarks:
            raise BundleError(
                f"merge: {folder}: must say whose runs it holds, for its folder has the name of the benchmark; make it "
                "with `robustft bundle --name`, or rename the folder."
            )
        for other in found:
            if _folded(other.name) == _folded(name) and (other.name != name or {*other.benchmarks} & {*new.benchmarks}):
                raise BundleError(
                    f"merge: {other.folder} and {folder} are both of '{name}'; give each group's bundle of a benchmark "
                    "once, and tell groups apart by `robustft bundle --name` (without it, rename a folder)."
                )
        found.append(new)
    return found


def _folded(name: str) -> str:
    """Two names that are equal so look alike."""
    return unicodedata.normalize("NFKC", name).casefold()


def board(checked: Sequence[tuple[Submission, Checked]]) -> leaderboard.Board:
    """One board of all these bundles and of the committed reference of their benchmarks.

    Raises:
        BundleError: two of them have other samples of one set.
        BoardError: their records contradict each other, for example on a set's role.
    """
    groups: dict[str, list[Record]] = {}
    for submission, found in checked:
        entries = tuned_evidence.read(submission.folder)
        groups.setdefault(submission.name, []).extend(_as_told(record, entries) for record in found.records)
    benchmarks = sorted({record["benchmark"] for records in groups.values() for record in records})
    reference = [record for name in benchmarks for record in gather_reference(name)]
    _check_samples(checked, reference)
    told = (_about(submission, found) for submission, found in checked)
    preface = PREFACE.format(bundles="; ".join(told))
    places = {(one.name, benchmark): one.folder / "runs" for one, _ in checked for benchmark in one.benchmarks}
    return leaderboard.of_groups({**groups, "reference": reference}, GroupOutcomes(places), preface=[preface])


def _as_told(record: Record, entries: tuned_evidence.Entries) -> Record:
    """The record, without the rules for which its bundle has no evidence, and with the reason."""
    reason = tuned_evidence.not_ranked(entries, record)
    if not reason:
        return record
    selection: Mapping[str, Any] = record["selection"]
    rules = [rule for rule in selection["rules"] if rule not in tuned_evidence.CHOOSING]
    return {**record, "selection": {**selection, "rules": rules}, UNRANKED: reason}


def _about(submission: Submission, found: Checked) -> str:
    hashed = hashlib.sha256((submission.folder / manifest.NAME).read_bytes()).hexdigest()[:12]
    return f"{submission.name}: {len(found.records)} runs of {', '.join(submission.benchmarks)}, manifest {hashed}"


def _check_samples(checked: Sequence[tuple[Submission, Checked]], reference: Sequence[Record]) -> None:
    """Runs on the same data must be on the same samples with the same labels, whoever made them.

    A bundle's numbers follow from its own labels: only another one can tell that these are not the benchmark's.
    """
    known: dict[_Samples, tuple[str, str]] = {}
    for benchmark in sorted({record["benchmark"] for record in reference}):
        mine = [record for record in reference if record["benchmark"] == benchmark]
        data = {_samples_of(record, "") for record in mine}
        if len(data) == 1 and (REFERENCE / benchmark / SAMPLES).is_file():
            samples = ReferencePredictions(REFERENCE / benchmark).samples
            for name in dict.fromkeys(samples["set"].tolist()):
                of_set = {key: values[samples["set"] == name] for key, values in samples.items()}
                known[_samples_of(mine[0], name)] = ("the committed reference", _digest(of_set))
    for submission, found in checked:
        by_id = {run.name.rpartition("-")[2]: run for run in submission.bundle.runs()}
        for record in found.records:
            files = by_id[record["run_id"]].files(record["run_id"])
            for name in record["sets"] if not record["spec"].get("allow_partial") else ():
                if (columns := files.columns(name)) is None:
                    continue
                digest = _digest(columns)
                whose, first = known.setdefault(_samples_of(record, name), (submission.name, digest))
                if digest != first:
                    raise BundleError(
                        f"merge: {submission.folder}: run {record['run_id']} has other samples or labels of {name} "
                        f"than {whose}, of one data fingerprint; leave out the one that is wrong."
                    )


def _samples_of(record: Record, name: str) -> _Samples:
    spec = record["spec"]
    about = [spec.get("fingerprint"), spec.get("limit"), name]
    if spec.get("shots") and record["sets"].get(name, {}).get("role") == "validation":
        about += [spec["shots"], spec["seed"]]  # what is chosen on is drawn by the seed, as what is trained on
    return (record["benchmark"], record["benchmark_version"], *map(str, about))


def _digest(columns: Mapping[str, np.ndarray]) -> str:
    """Of the ids of samples and source images, and of the labels, in their order."""
    texts = ("\0".join(map(str, columns[key].tolist())) for key in ("sample_id", "unit_id", "label"))
    return hashlib.sha256("\1".join(texts).encode()).hexdigest()
