"""A board with what it follows from, in one folder that somebody else can check.

<folder>/
  leaderboard.csv, ...     the board
  runs/<benchmark>/<method>/<backbone>/seed<k>-<run id>/
    record.json            with the selection that the board gave it
    predictions/           the samples of each set
  tuned.json               the tuned values that chose them, with the trials behind each (`tuned_evidence`)
  manifest.json            sha256 of every record and every file of samples, and of pictures; the name of the group

A committed reference, as `publish` writes it, is one too: its records and samples lie otherwise.
The board itself is not hashed: it is computed again, cell by cell, and so are its pages; its pictures are drawn again
(`redrawn`).
"""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..board.grouping import BoardError
from ..board.per_sample import OutcomeError, Outcomes
from ..board.rows import HOME, JOINT
from ..records import manifest
from ..records.atomic import write_atomic, write_json_atomic
from ..records.predictions import PredictionError
from ..records.records import (
    NAME,
    read_record,
    record_json,
    record_of_line,
    record_paths,
    reference_lines,
)
from ..records.reference import ReferencePredictions
from ..records.run_id import folder_name
from ..tables import leaderboard
from . import tuned_evidence
from .rescoring import Files, FolderFiles, Number, ReferenceFiles, rescore, with_rescored

KEYS = ("benchmark", "benchmark_version", "recipe", "rule", "backbone", "method", "method_version", "setting")
Record = Mapping[str, Any]


class BundleError(ValueError):
    """A folder that is no bundle."""


LONGEST = 60
"""Characters of a group's name."""
VERSION = "made by another version"
ROUNDED = "rounded as on another processor, and not wrong"


@dataclass(frozen=True)
class Finding:
    """What does not hold in a bundle, or differs from what is made here for a reason that makes nothing wrong."""

    where: str
    what: str
    reason: str = ""
    """VERSION or ROUNDED; empty: it is wrong."""

    @property
    def wrong(self) -> bool:
        """Whether it does not hold."""
        return not self.reason

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass(frozen=True)
class StoredRun:
    """Where a run of a bundle stands, and how its record and, by its run id, its samples are read."""

    where: str
    name: str
    """Of its folder, which ends in its run id; empty in a reference, which has none."""
    read: Callable[[], Record]
    files: Callable[[str], Files]


@dataclass(frozen=True)
class Bundle:
    """A folder's records, and which kind of rows they are."""

    folder: Path
    provenance: Literal["local", "reference"]
    hashes: Mapping[str, str]
    pictures: Mapping[str, str] = field(default_factory=dict)
    drawn_with: str = ""
    """The version of matplotlib that drew the pictures; empty where the manifest knows of none."""
    code: str = ""
    """`manifest.code` of what made the pages; empty where the manifest does not say."""
    name: str = ""
    """What the group is called whose runs these are; empty where the manifest does not say."""

    def runs(self) -> list[StoredRun]:
        """Every run of it, nothing read yet of one.

        Raises:
            RecordError: the file of a reference's records is missing or damaged.
        """
        if self.provenance == "reference":
            kept = ReferencePredictions(self.folder)
            return [
                StoredRun(where, "", partial(record_of_line, line, where), partial(ReferenceFiles, kept))
                for where, line in reference_lines(self.folder).items()
            ]
        return [
            StoredRun(str(path), path.parent.name, partial(read_record, path), partial(_folder_files, path.parent))
            for path in record_paths(self.folder / "runs")
        ]

    def build(self, records: Sequence[Record]) -> leaderboard.Board:
        """The board of these records."""
        if self.provenance == "local":
            return leaderboard.build(records, outcomes=Outcomes(runs=self.folder / "runs"))
        folders = {record["benchmark"]: self.folder for record in records}
        return leaderboard.build([], records, Outcomes(folders=folders))


def _folder_files(folder: Path, run_id: str) -> Files:
    return FolderFiles(folder / "predictions")


def checked_name(name: str, where: str) -> str:
    """The name of a group, as a board can show it.

    Raises:
        BundleError: begun with `where`; it is empty, long or no line of text, or could be read as another provenance.
    """
    plain = name.isprintable() and name == name.strip() and 0 < len(name) <= LONGEST and JOINT.strip() not in name
    if not plain:
        raise BundleError(
            f"{where}: must be one line of 1 to {LONGEST} characters without a comma, got {name!r}; take another name."
        )
    if name.casefold() in HOME:
        raise BundleError(f"{where}: must not be '{name}', which is what boards call other runs; take another name.")
    return name


def export(
    runs: Iterable[tuple[Path, Record]], folder: Path, name: str = "", tuned: tuned_evidence.Entries | None = None
) -> int:
    """Write a bundle of finished runs; returns their number.

    Args:
        runs: (run folder, its record with the selection that a board gives it).
        folder: to be made; empty or not there.
        name: what the group is called whose runs these are; empty to leave it open.
        tuned: the suite's tuned values; of them those of the methods and backbones of the runs are kept.

    Raises:
        BundleError: the folder holds something, there is no run, two are one by their run id, or a name cannot be
            shown.
        OutputError: the file system refuses.
    """
    if name:
        checked_name(name, "--name")
    if folder.exists() and any(folder.iterdir()):
        raise BundleError(f"{folder}: must be an empty or a new folder, but holds files; choose another.")
    records, places = [], dict[str, Path]()
    chosen = list(runs)
    for place, record in chosen:
        other = places.setdefault(record["run_id"], place)
        if other != place:
            raise BundleError(
                f"bundle: {other} and {place} both hold run {record['run_id']}; find out which is right and remove the "
                "other."
            )
    for place, record in chosen:
        run = f"seed{record['seed']}-{record['run_id']}"
        method = folder_name(record["method"], record["spec"])
        copy = folder / "runs" / record["benchmark"] / method / record["backbone"] / run
        write_atomic(copy / NAME, record_json(copy, record))
        for file in sorted((place / "predictions").glob("*.parquet")):
            write_atomic(copy / "predictions" / file.name, file.read_bytes())
        records.append(record)
    if not records:
        raise BundleError("bundle: must hold a finished run, found none; run the sweep first.")
    leaderboard.write(records, [], folder, Outcomes(runs=folder / "runs"))
    if used := tuned_evidence.used(tuned or {}, records):
        write_json_atomic(folder / manifest.TUNED, used)
    manifest.write(folder, "local", name)
    return len(records)


def read(folder: Path) -> Bundle:
    """A bundle, with nothing checked yet.

    Raises:
        BundleError: there is no manifest, or it cannot be read.
    """
    path = Path(folder) / manifest.NAME
    try:
        content = json.loads(path.read_bytes())
        if content["schema"] != 1 or content["provenance"] not in ("local", "reference"):
            raise ValueError("it is of another kind")
        drawn = {"matplotlib": "", "sha256": {}} | content.get("pictures", {})
        hashes, pictures = ({str(k): str(v) for k, v in of["sha256"].items()} for of in (content, drawn))
        made_by = (str(drawn["matplotlib"]), str(content.get("code", "")), str(content.get("name", "")))
        return Bundle(Path(folder), content["provenance"], hashes, pictures, *made_by)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{path}: must be the manifest of a bundle ({error}); make one with `robustft bundle`."
        ) from None


def hash_findings(bundle: Bundle) -> Iterator[Finding]:
    """Files that are not those of the manifest."""
    found, told = manifest.hashes(bundle.folder), dict(bundle.hashes)
    if bundle.drawn_with:
        found |= manifest.picture_hashes(bundle.folder)
        told |= bundle.pictures
    for name in sorted({*found, *told}):
        if name not in found:
            yield Finding(name, "is in the manifest but not in the folder")
        elif name not in told:
            yield Finding(name, "is in the folder but not in the manifest")
        elif found[name] != told[name]:
            yield Finding(name, "is not the file that the manifest was made of: its sha256 differs")


def rescored(run: StoredRun) -> tuple[Record, dict[str, Any], list[Number]]:
    """One record, the record as its samples give it, and the numbers of both.

    Raises:
        RecordError, PredictionError, MetricError: a file is missing or damaged.
    """
    record = run.read()
    numbers = list(rescore(record, run.files(record["run_id"]), more=False))
    return record, with_rescored(record, numbers), numbers


def board_findings(bundle: Bundle, records: Sequence[Record]) -> tuple[int, list[Finding]]:
    """How many cells leaderboard.csv has, and those that are others on the board of these records.

    A cell must be the same but for its last printed digit, which float32 and the order of a sum may turn; those are
    counted and told. Whole numbers and words must be the same.
    """
    path = bundle.folder / "leaderboard.csv"
    try:
        written = _rows(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        return 0, [Finding(path.name, f"cannot be read ({error})")]
    try:
        computed = _rows(bundle.build(records).to_csv())
    except (BoardError, OutcomeError, PredictionError) as error:
        return 0, [Finding(path.name, f"cannot be computed again: {error}")]
    cells, findings, turned = 0, [], list[str]()
    for key in [*written, *(key for key in computed if key not in written)]:
        theirs, ours = written.get(key, []), computed.get(key, [])
        name = " ".join(part for part in (key[5], key[4], key[7], key[3]) if part)
        if len(theirs) != len(ours):
            count = f"{len(theirs)} row{'s' * (len(theirs) != 1)}"
            findings.append(Finding(path.name, f"{name}: {count}, but its runs give {len(ours)}"))
            continue
        for row, own in zip(theirs, ours, strict=True):
            cells += len(row)
            for column, text in row.items():
                here = own.get(column)
                if text == here:
                    continue
                if here is not None and differ_in_last_digit(text, here):
                    turned.append(f"{name}: {column} is '{text}', here '{here}'")
                    continue
                said = "nothing" if here is None else here
                findings.append(Finding(path.name, f"{name}: {column} is '{text}', but its samples give '{said}'"))
    if turned:
        what = f"{len(turned)} of {cells} cells differ in their last digit, the first: {turned[0]}"
        findings.append(Finding(path.name, what, ROUNDED))
    return cells, findings


def page_findings(bundle: Bundle, records: list[Record]) -> tuple[list[str], list[Finding]]:
    """The other files of the board that are there, what does not hold in them, and text that may be another version's.

    Args:
        records: as they were read, so that rows must be the same to the letter; `rescored` checks their numbers.

    Every line of the other CSV files and every row of a table is compared, and the text around them too: it must be
    the same where the same code made the pages, and is told of where another one did. Files that are not there are not
    missed.
    """
    try:
        board = bundle.build(records)
        texts = (board.to_long_csv(), board.to_markdown(), board.to_latex(), board.to_html(), board.to_models_csv())
    except (BoardError, OutcomeError, PredictionError):
        return [], []  # `board_findings` has said so
    compared, findings = [], []
    for name, text in zip((*leaderboard.FILES[1:], leaderboard.MODELS_FILE), texts, strict=True):
        path = bundle.folder / name
        lines = str.splitlines if path.suffix == ".csv" else _table_rows
        try:
            page = path.read_bytes().decode("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            findings.append(Finding(name, f"cannot be read ({error})"))
            continue
        compared.append(name)
        theirs, ours = lines(page), lines(text)
        if len(theirs) != len(ours):
            findings.append(Finding(name, f"{len(theirs)} lines of tables, but its runs give {len(ours)}"))
            continue
        other = [
            Finding(name, f"a line of a table is '{row}', but its runs give '{own}'")
            for row, own in zip(theirs, ours, strict=True)
            if row != own
        ]
        findings += other
        if page != text and not other:
            reason = "" if bundle.code == manifest.code() else VERSION
            findings.append(Finding(name, _text_difference(page, text), reason))
    return compared, findings


def _text_difference(page: str, own: str) -> str:
    theirs, ours = ([line for line in text.splitlines() if line.strip()] for text in (page, own))
    pairs = ((theirs, set(ours)), (ours, set(theirs)))
    added, missing = ([line for line in lines if line not in known] for lines, known in pairs)
    examples = [*(f"has '{line}'" for line in added), *(f"lacks '{line}'" for line in missing), "order or empty lines"]
    count, example = max(len(added), len(missing), 1), examples[0]
    return f"its text is not what this version writes, in {count} line{'s' * (count > 1)}: {_clipped(example)}"


def _clipped(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _table_rows(page: str) -> list[str]:
    """Lines of tables, in Markdown, HTML or LaTeX."""
    return [line for line in page.splitlines() if line.startswith(("|", "<tr")) or line.endswith("\\\\")]


def _rows(text: str) -> dict[tuple[str, ...], list[dict[str, str]]]:
    rows = defaultdict(list)
    for row in csv.DictReader(io.StringIO(text)):
        rows[tuple(row.get(key) or "" for key in KEYS)].append({str(k): v or "" for k, v in row.items()})
    return rows


def differ_in_last_digit(one: str, other: str) -> bool:
    """Whether two cells are decimal numbers at most one unit apart, of the finer one's last digit; never whole ones."""
    try:
        pair = Decimal(one), Decimal(other)
    except InvalidOperation:
        return False
    # The exponent of an infinite number is a letter.
    exponents = [exponent for number in pair if isinstance(exponent := number.as_tuple().exponent, int)]
    if len(exponents) < 2 or min(exponents) >= 0:
        return False
    return abs(pair[0] - pair[1]) <= Decimal(1).scaleb(min(exponents))
