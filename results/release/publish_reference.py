"""Turn finished runs into the committed reference: `python -m robustft.results.release.publish_reference digits`.

results/reference/<benchmark>/ then holds
  records.jsonl.zst, samples.parquet, predictions.parquet   the runs, as `records.reference` describes them
  leaderboard.csv, leaderboard.md, and id_ood.svgz, id_ood.png where rows are ranked
  manifest.json    sha256 of every file of the runs: `robustft verify` checks the folder

A clone carries all of it, so that probabilities are rounded (`records.rounding`), and the records' numbers that follow
from rounded ones are made from these.
"""

from __future__ import annotations

import argparse
import gzip
import io
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..audit.rescoring import rescore_set
from ..board.grouping import sections
from ..board.per_sample import Outcomes
from ..board.rows import REFERENCE_METHOD
from ..plots.style import draw_id_ood, drawing, encode, save
from ..records import manifest, predictions, rounding
from ..records.atomic import OutputError
from ..records.records import NAME, REFERENCE, gather_reference, read_record, summarise, write_reference_records
from ..records.reference import ORDER, PREDICTIONS, SAMPLES, ReferencePredictions, write_predictions
from ..statistics.setting_selection import RULES
from ..tables.leaderboard import Board, write

BOARDS = ("leaderboard.csv", "leaderboard.md")
FOLLOWS = ("mean_confidence", "ece", "ece_debiased", "mce", "nll")
"""Metrics of a set that follow from what is rounded, and are kept."""


class PublishError(ValueError):
    """Runs that cannot become the reference."""


def publish(benchmark: str, runs: Path, reference: Path = REFERENCE, add: bool = False) -> Board:
    """Replace the reference of a benchmark by the ranked runs of a folder.

    Of a study, which ranks none, by all of its suite: those without a value that somebody gave by hand. Runs that were
    evaluated on a part of the data are never taken.

    Args:
        benchmark: name of the benchmark.
        runs: root of all run folders, searched as runs/<benchmark>/**/record.json.
        reference: root of all references.
        add: what the old reference has of a method on a backbone stays where the folder has no ranked run of the
            two; where it has one, all of theirs come from the folder. Without any run there, the old reference is
            written again as this version writes it. Where the old reference ranks, so must what is added.

    Returns:
        The board of the new reference.

    Raises:
        PublishError: no such run, two settings under one rule, or runs over different samples.
        RecordError, PredictionError, OutputError: a file is damaged or cannot be written.
    """
    old = gather_reference(benchmark, Path(reference), report=_refuse) if add else []
    # A damaged record stops here: the reference is all or nothing.
    runs_of = [(path.parent, read_record(path)) for path in sorted((Path(runs) / benchmark).rglob(NAME))]
    whole = [(folder, record) for folder, record in runs_of if record["kind"] == "run" and _is_whole(record)]
    taken = _is_ranked if any(map(_ranks, [*old, *(record for _, record in whole)])) else _is_of_suite
    # Run id -> its folder, None where its samples are those of the old reference, and its record.
    found: dict[str, tuple[Path | None, Mapping[str, Any]]] = {}
    found |= {record["run_id"]: (folder, record) for folder, record in whole if taken(record)}
    if not found and not add:
        raise PublishError(f"{runs}: has no ranked run of {benchmark} and none of a study; run the sweep first.")
    renewed = {(record["method"], record["backbone"]) for _, record in found.values()}
    for record in old:
        if (record["method"], record["backbone"]) not in renewed:
            found[record["run_id"]] = (None, record)
    found = dict(sorted(found.items()))
    records = [record for _, record in found.values()]
    _check_one_setting_per_rule(records)

    before = ReferencePredictions(Path(reference) / benchmark)

    def outcomes(run_id: str) -> dict[str, np.ndarray]:
        folder, recorded = found[run_id]
        return before.samples | before.read(run_id) if folder is None else _test_predictions(folder, recorded)

    first = outcomes(next(iter(found)))
    samples = {name: first[name] for name in ("set", "sample_id", "unit_id", "label")}
    for run_id in found:
        if not _same_samples(outcomes(run_id), samples):
            where = found[run_id][0] or run_id
            raise PublishError(f"{where}: has other test samples than the other runs; run it again.")
    # As long as samples are the same they keep their places, so that what was published before keeps its bytes.
    orders = dict(before.orders) if old and _same_samples(before.samples, samples) else {}
    backbones = {run_id: recorded["backbone"] for run_id, (_, recorded) in found.items()}
    for name in sorted(set(backbones.values()) - orders.keys()):
        orders[name] = rounding.order(outcomes(run_id) for run_id in found if backbones[run_id] == name)
    coded: dict[str, dict[str, bytes]] = {}
    for run_id, (runs_own, recorded) in found.items():
        places = orders[backbones[run_id]]
        coded[run_id] = rounding.encode(outcomes(run_id), samples["set"], places)
        kept = rounding.decode(coded[run_id], samples["label"], samples["set"], places)
        found[run_id] = (runs_own, rescored(recorded, samples | kept))
    records = [record for _, record in found.values()]

    folder = Path(reference) / f".{benchmark}-new"  # the old reference stays until the new one is whole
    shutil.rmtree(folder, ignore_errors=True)
    write_reference_records(folder, records)
    _write_samples(folder / SAMPLES, samples | {ORDER + name: places for name, places in orders.items()})
    write_predictions(folder / PREDICTIONS, coded, backbones)
    board = write([], records, folder, Outcomes(folders={benchmark: folder}), BOARDS)
    if any(section.ranks for section in board.sections):
        with drawing():
            save(small(encode(draw_id_ood(board))), folder / "id_ood")
    manifest.write(folder, "reference")
    shutil.rmtree(Path(reference) / benchmark, ignore_errors=True)
    folder.rename(Path(reference) / benchmark)
    return board


def rescored(record: Mapping[str, Any], samples: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The record with what the kept probabilities of its test sets give, for they are rounded.

    Args:
        samples: of all its test sets, with the column set.
    """
    sets = {name: dict(metrics) for name, metrics in record["sets"].items()}
    for name, metrics in sets.items():
        rows = samples["set"] == name
        if rows.any():
            own = {key: values[rows] for key, values in samples.items() if key != "set"}
            metrics |= rescore_set(name, metrics, own, more=False, given=FOLLOWS)
    return {**record, "sets": sets, "summary": {**record["summary"], **summarise(sets)}}


def _same_samples(one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in ("set", "sample_id", "label"))


def small(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Pictures as a clone carries them: the SVG under gzip, as .svgz, and the PNG's same pixels in fewer bytes."""
    from PIL import Image

    packed = io.BytesIO()
    Image.open(io.BytesIO(files[".png"])).convert("RGB").save(packed, "PNG", optimize=True)
    return {".svgz": gzip.compress(files[".svg"], mtime=0), ".png": packed.getvalue()}


def _refuse(message: str) -> None:
    raise PublishError(message.removeprefix("left out: "))


def _ranks(record: Mapping[str, Any]) -> bool:
    return bool(record["selection"]["rules"]) and record["method"] != REFERENCE_METHOD


def _is_whole(record: Mapping[str, Any]) -> bool:
    """Evaluated on every image; on how many it was trained is free, for a study may vary that."""
    return record["spec"].get("limit") is None and not record["spec"].get("allow_partial")


def _is_ranked(record: Mapping[str, Any]) -> bool:
    return _ranks(record) or record["method"] == REFERENCE_METHOD


def _is_of_suite(record: Mapping[str, Any]) -> bool:
    """Whether nobody gave a value of its by hand."""
    return not any(source.startswith("--") for source in record["sources"].values())


def _check_one_setting_per_rule(records: Sequence[Mapping[str, Any]]) -> None:
    for section in sections({"reference": records}, RULES):
        for rule in RULES:
            for backbone in section.backbones:
                rows = section.table(rule, backbone)
                for row in rows:
                    if row.label:
                        raise PublishError(
                            f"{row.method} on {backbone}: two settings under rule {rule}, one of them "
                            f"{row.label}; remove the runs of the older tuning."
                        )


def _test_predictions(folder: Path, record: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The columns of all test sets of a run, one set after the other, and the set of each sample."""
    names = [name for name, metrics in record["sets"].items() if metrics["role"] != "validation"]
    parts = {name: predictions.read(folder / "predictions" / f"{name}.parquet") for name in names}
    sets = [np.full(len(part["label"]), name, dtype=object) for name, part in parts.items()]
    shared = [name for name in predictions.SCHEMA.names if all(name in part for part in parts.values())]
    joined = {name: np.concatenate([part[name] for part in parts.values()]) for name in shared}
    return joined | {"set": np.concatenate(sets)}


def _write_samples(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    known = {field.name: field.type for field in predictions.SCHEMA} | {"set": pa.string()}
    arrays = {name: pa.array(values, type=known.get(name, pa.int32())) for name, values in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table(arrays),
        path,
        compression="brotli",
        compression_level=11,
        use_dictionary=["set", "unit_id", "label"],
        column_encoding={"sample_id": "DELTA_BYTE_ARRAY"},
        write_statistics=False,
    )


def main(arguments: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(
        prog="python -m robustft.results.release.publish_reference", description=__doc__.split(":")[0]
    )
    parser.add_argument("benchmark")
    parser.add_argument("--runs", type=lambda text: Path(text).expanduser(), default=Path("runs"))
    parser.add_argument("--reference", type=Path, default=REFERENCE)
    parser.add_argument("--add", action="store_true", help="keep what the reference has and the runs have not")
    options = parser.parse_args(arguments)
    if options.reference == REFERENCE and not (REFERENCE.parents[1] / "pyproject.toml").exists():
        parser.error("--reference: must be named where the package is not in a clone, whose reference is committed.")
    try:
        board = publish(options.benchmark, options.runs, options.reference, options.add)
    except (ValueError, OSError, OutputError) as error:
        print(f"publish: {error}", file=sys.stderr)
        return 2
    rows = sum(len(section.rows) for section in board.sections)
    print(f"wrote {options.reference / options.benchmark}: {rows} rows")
    return 0


if __name__ == "__main__":
    sys.exit(main())
