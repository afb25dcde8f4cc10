"""One JSON record a run: writing and gathering. A correction is a new record."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import OutputError, create_atomic, to_json, write_atomic, write_json_atomic
from .schema import SCHEMA, Record, RecordError, parse, summarise, validate

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "SCHEMA",
    "OutputError",
    "Record",
    "RecordError",
    "gather",
    "gather_reference",
    "publish_record",
    "read_record",
    "record_json",
    "summarise",
    "validate",
    "write_atomic",
    "write_json_atomic",
]

NAME = "record.json"
PATH_NAME = "path.json"
"""The points of a path, beside the record that they would make larger than LARGEST."""
LARGEST = 16_000
"""Bytes of a record that is written for a run: a page."""
REFERENCE = Path(__file__).parents[1] / "reference"
"""Committed runs, results/reference/<benchmark>/."""
REFERENCE_RECORDS = "records.jsonl.zst"
"""The records of a reference, one a line in the order of their run ids, and this under zstd."""


def publish_record(folder: Path, record: Mapping[str, Any], guard: Callable[[], None] | None = None) -> bool:
    """Write a run's record.json unless there is one; the first writer wins.

    Args:
        folder: the run folder.
        record: content; checked against the schema first.
        guard: called just before the file appears; it raises if this process may no longer write here.

    Returns:
        True if this call made the record, False if one was there.

    Raises:
        RecordError: the record does not fit the schema.
        OutputError: the file system refuses.
    """
    path = Path(folder) / NAME
    content = validate(record, str(path))
    text = record_json(path, content)
    if len(text) > LARGEST and "path" in content:
        side = path.with_name(PATH_NAME)
        create_atomic(side, _lines(side, content["path"]), guard)
        text = record_json(path, content | {"path": {**content["path"], "points": PATH_NAME}})
    return create_atomic(path, text, guard)


def record_json(path: Path | str, record: Mapping[str, Any]) -> bytes:
    """Indented JSON; each point of a path is one line, or a record of 11 points would be too large for a page.

    Args:
        path: only names the file in an error.
        record: as `validate` returns it.
    """
    points = (record.get("path") or {}).get("points")
    if not isinstance(points, list):
        return to_json(path, record)
    text = to_json(path, {**record, "path": None}).decode()
    before, found, after = text.rpartition('"path": null')
    return (before + found[:-4] + _lines(path, record["path"]).decode().rstrip().replace("\n", "\n ") + after).encode()


def _lines(path: Path | str, line: Mapping[str, Any]) -> bytes:
    """A path as indented JSON, but each point is one line."""
    text = to_json(path, {**line, "points": []}).decode()
    points = [json.dumps(point, ensure_ascii=False, separators=(",", ":"), allow_nan=False) for point in line["points"]]
    before, found, after = text.rpartition('"points": []')
    return (before + found[:-1] + "\n  " + ",\n  ".join(points) + "\n ]" + after).encode()


def read_record(path: Path | str) -> Record:
    """One record, checked against the schema.

    Raises:
        RecordError: missing, damaged, or not this schema.
    """
    record = parse(_read(path))
    if record is not None:
        return record
    # Its path may lie beside it; else `validate` says what is wrong in our own words.
    content = _read_json(path)
    line = content.get("path") if isinstance(content, dict) else None
    if isinstance(line, dict) and line.get("points") == PATH_NAME:
        content["path"] = _read_json(Path(path).with_name(PATH_NAME))
    return validate(content, str(path))


def _read(path: Path | str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error.strerror}.") from error


def _read_json(path: Path | str) -> Any:
    try:
        return json.loads(_read(path))
    except ValueError as error:
        raise RecordError(f"{path}: is no JSON ({error}); remove the run folder to run it again.") from error


def gather(root: Path, report: Callable[[str], None] = warnings.warn) -> Iterator[Record]:
    """All records below a folder of runs, in the order of their paths; each is read when it is asked for.

    Args:
        root: searched as root/**/record.json; a folder that does not exist holds no records.
        report: called with one sentence for each record that cannot be read, which is left out, and for each run that
            lies there twice, which is not left out.
    """
    return _read_all(record_paths(root), report)


def record_paths(root: Path) -> list[Path]:
    """Every record.json below a folder of runs, sorted."""
    folders: list[str] = []
    for folder, below, files in os.walk(root):
        if NAME in files:
            folders.append(folder)
        if NAME in files or "spec.json" in files:
            below.clear()  # a run folder: its weights and checkpoints hold no records
    # In the order of paths, of which a part is compared with a part: twice as fast as comparing Path objects.
    return [Path(folder, NAME) for folder in sorted(folders, key=lambda folder: folder.split(os.sep))]


def gather_reference(
    benchmark: str | None = None, root: Path = REFERENCE, report: Callable[[str], None] = warnings.warn
) -> list[Record]:
    """The committed reference records, of one benchmark or of all; they never count as finished runs."""
    found = []
    for path in sorted(Path(root).glob(f"{benchmark or '*'}/{REFERENCE_RECORDS}")):
        try:
            lines = reference_lines(path.parent)
        except RecordError as error:
            report(f"left out: {error}")
            continue
        for where, line in lines.items():
            try:
                found.append(record_of_line(line, where))
            except RecordError as error:
                report(f"left out: {error}")
    return found


def reference_lines(folder: Path) -> dict[str, bytes]:
    """Where each record of a reference stands, for errors, and its JSON.

    Raises:
        RecordError: the file is missing or damaged.
    """
    path = Path(folder) / REFERENCE_RECORDS
    try:
        text = _pyarrow().CompressedInputStream(_pyarrow().BufferReader(_read(path)), "zstd").read()
    except OSError as error:
        raise RecordError(f"{path}: cannot be read: {error}; take it from the repository again.") from error
    return {f"{path}, line {number}": line for number, line in enumerate(text.splitlines(), 1)}


def record_of_line(line: bytes, where: str) -> Record:
    """One of `reference_lines`, checked against the schema; RecordError where it does not fit."""
    record = parse(line)
    if record is not None:
        return record
    try:
        return validate(json.loads(line), where)
    except ValueError as error:
        raise RecordError(f"{where}: is no JSON ({error}); take the file from the repository again.") from error


def write_reference_records(folder: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write the records of a reference, by run id; same records, same bytes. OutputError where it cannot be."""
    path = Path(folder) / REFERENCE_RECORDS
    lines = [
        json.dumps(json.loads(to_json(path, dict(record))), ensure_ascii=False, separators=(",", ":")) + "\n"
        for record in sorted(records, key=lambda record: record["run_id"])
    ]
    packed = _pyarrow().Codec("zstd", compression_level=22).compress("".join(lines).encode(), asbytes=True)
    write_atomic(path, packed)


def _pyarrow() -> pa:
    """Imported where a reference is read: its import takes longer than most commands."""
    import pyarrow

    return pyarrow


def _read_all(paths: list[Path], report: Callable[[str], None]) -> Iterator[Record]:
    places: dict[str, Path] = {}
    for path in paths:
        try:
            record = read_record(path)
        except RecordError as error:
            report(f"left out: {error}")
            continue
        first = places.setdefault(record["run_id"], path)
        if first != path:
            report(f"{path}: holds the same run as {first}; find out which is right and remove the other.")
        yield record


TUNED = re.compile(r"tuned (\w+)(?: on (\S+?),?)?( of .+)?")
"""Where a tuned value is from: the rule, the backbone of the trials if it is another, and whose trials they were."""


def tuned_on(record: Mapping[str, Any]) -> str:
    """The backbone whose trials chose a run's values: its own, unless its sources name another (`tuning.on`)."""
    found = (TUNED.fullmatch(source) for source in record["sources"].values())
    return next((match[2] for match in found if match and match[2]), str(record["backbone"]))
