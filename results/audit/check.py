"""All that can be checked of a bundle: what `robustft verify` says, and what `robustft merge` asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..metrics.metrics import MetricError
from ..records.manifest import TUNED
from ..records.predictions import PredictionError
from ..records.records import REFERENCE_RECORDS, RecordError
from . import tuned_evidence
from .bundle import Bundle, Finding, Record, StoredRun, board_findings, hash_findings, page_findings, rescored
from .redrawn import picture_findings
from .rescoring import Number


@dataclass(frozen=True)
class Checked:
    """What came of a bundle's hashes, records, metrics, board, pages and pictures.

    Attributes:
        problems: what does not hold. notes: what differs for a reason that makes nothing wrong.
        records: as they were read, those that can be.
        numbers: every metric, as recorded and as its samples give it.
        files: how many have a hash. cells: how many the board has.
        remade: pages and pictures that were made again. skipped: pictures that were not, with the reason.
    """

    problems: Sequence[Finding]
    notes: Sequence[Finding]
    records: list[Record]
    numbers: list[Number]
    files: int
    cells: int
    remade: Sequence[str]
    skipped: Mapping[str, str]

    @property
    def summary(self) -> str:
        """How much was checked, and how many problems there are."""
        checked = sum(n.recorded is not None and n.rescored is not None for n in self.numbers)
        files, runs = _counted(self.files, "file"), _counted(len(self.records), "run")
        return f"{files}, {runs}, {checked} numbers and {self.cells} cells of the board checked: " + (
            _counted(len(self.problems), "problem") if self.problems else "all hold"
        )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def check(bundle: Bundle) -> Checked:
    """Compute everything in a bundle again and compare."""
    findings = list(hash_findings(bundle))
    recorded, computed, every = list[Record](), list[Record](), list[Number]()
    seen: dict[str, str] = {}
    try:
        runs = bundle.runs()
    except RecordError as error:
        runs, findings = [], [*findings, Finding(REFERENCE_RECORDS, str(error))]
    for run in runs:
        try:
            record, again, numbers = rescored(run)
        except (RecordError, PredictionError, MetricError) as error:
            findings.append(Finding(run.name or REFERENCE_RECORDS, str(error)))
            continue
        findings += _places(bundle, run, record, seen)
        name = run.name or record["run_id"]
        findings += [
            Finding(name, f"{n.set} {n.metric} is {n.recorded:.9g}, but its samples give {n.rescored:.9g}")
            for n in numbers
            if n.differs
        ]
        every += numbers
        recorded.append(record)
        computed.append(again)
    try:
        entries = tuned_evidence.read(bundle.folder)
        findings += [Finding(where, what) for where, what in tuned_evidence.findings(entries, recorded)]
    except tuned_evidence.TunedError as error:
        findings.append(Finding(TUNED, str(error)))
    cells, turned = board_findings(bundle, computed)
    pages, odd = page_findings(bundle, recorded)
    drawn, skipped, other = picture_findings(bundle, recorded)
    found = [*findings, *turned, *odd, *other]
    return Checked(
        problems=[one for one in found if one.wrong],
        notes=[one for one in found if not one.wrong],
        records=recorded,
        numbers=every,
        files=len(bundle.hashes) + len(bundle.pictures),
        cells=cells,
        remade=[*pages, *drawn],
        skipped=skipped,
    )


def _places(bundle: Bundle, run: StoredRun, record: Record, seen: dict[str, str]) -> list[Finding]:
    """Whether a run lies where its record says, and once."""
    name, found = run.name or record["run_id"], []
    if not name.endswith(record["run_id"]):
        found.append(Finding(name, f"must be named by its run id, which is {record['run_id']}"))
    if record["run_id"] in seen:
        found.append(Finding(run.where, f"is the same run as {seen[record['run_id']]}"))
    seen.setdefault(record["run_id"], run.where)
    if run.name and Path(run.where).relative_to(bundle.folder / "runs").parts[0] != record["benchmark"]:
        found.append(Finding(name, f"must lie below runs/{record['benchmark']}"))
    return found
