"""What the columns of a table that Hugging Face's library reads may hold: encoded images, and labels.

Images are what `datasets.Image()` takes as they are stored: files in {bytes, path} or plain bytes, as pandas writes
them too. Labels are integers, with names or without, or text.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .card import DataError


def group_names(rows: Any, column: str | None) -> list[str] | None:
    """The group of each row, by the names of a column that has such, "" where it is empty.

    None without the column, or where it is empty throughout: the library gives each split the columns of all.
    """
    if column is None or column not in rows.column_names:
        return None
    names = getattr(rows.features[column], "names", None)
    groups = ["" if value is None else names[value] if names else str(value) for value in rows[column]]
    return groups if any(groups) else None


def encoded(rows: Any, column: str, place: str) -> Any:
    """The image column alone, undecoded, as (bytes, path) whatever wrote it.

    Args:
        rows: a `datasets.Dataset`.
        column: its image column.
        place: dataset and split, for messages.

    Raises:
        DataError: it holds something else, or a row is empty; says which cast helps.
    """
    import datasets

    feature = rows.features[column]
    kind = getattr(feature, "dtype", None)
    stored = isinstance(feature, dict) and {"bytes"} <= set(feature) <= {"bytes", "path"}
    if not isinstance(feature, datasets.Image) and not stored and kind not in ("binary", "large_binary"):
        cast = f"cast_column({column!r}, datasets.Image())"
        if kind in ("string", "large_string"):
            fix = f"text; where it is the paths of image files, {cast} and to_parquet() store the files themselves"
        elif isinstance(feature, (datasets.Value, datasets.ClassLabel)):
            fix = f"{kind}; set image in YAML to the column that does"
        else:
            fix = f"arrays; map each row to PIL.Image.fromarray(numpy.asarray(row[{column!r}], 'uint8')), then {cast}"
        raise DataError(f"{place}: column {column!r} does not hold images but {fix}.")
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    _check_rows(images, column, place)
    return images


def _check_rows(images: Any, column: str, place: str) -> None:
    """DataError where a row has neither bytes nor a path by which it is found from everywhere."""
    import pyarrow.compute as compute

    stored = images.data.column(column)
    without = compute.is_null(compute.struct_field(stored, "bytes"))
    if images._indices is not None or not compute.any(without).as_py():
        return
    paths = compute.struct_field(stored, "path").to_pylist()
    for row in compute.indices_nonzero(without).to_pylist():
        if not paths[row]:
            raise DataError(f"{place}, row {row}: column {column!r} is empty; leave the row out.")
        if not os.path.isabs(paths[row]) and "://" not in paths[row]:
            raise DataError(
                f"{place}, row {row}: column {column!r} has no bytes but the path {paths[row]!r}, another file in "
                f"every folder; where the files are, cast_column({column!r}, datasets.Image()) and to_parquet()."
            )


def label_names(rows: Any, column: str, place: str) -> list[str] | None:
    """The names of a label column's classes, None where it has none; DataError where it is no label."""
    feature = rows.features[column]
    names, kind = getattr(feature, "names", None), getattr(feature, "dtype", None)
    if names is None and not re.fullmatch(r"u?int\d+|(large_)?string|null", str(kind)):
        raise DataError(
            f"{place}: column {column!r} holds {kind or feature}, which is no label; "
            f"cast_column({column!r}, datasets.ClassLabel(names=[...])), or to integers or text."
        )
    return names


def are_numbers(names: Sequence[str] | None) -> bool:
    """Whether the names say no more than the integers: none, or those that ClassLabel(num_classes=...) makes up."""
    return names is None or list(names) == [str(i) for i in range(len(names))]


def check_names_of_files(folder: Path, config: str | None, split: str, column: str, names: list[str] | None) -> None:
    """DataError where a Parquet file on this machine has other class names than those that it is read with.

    The library takes the columns' types of the first file, or of the README, for all: another order of the names in
    another file would change what its integers mean, in silence.
    """
    import datasets
    import pyarrow.parquet
    from datasets.info import DatasetInfosDict

    builder = datasets.load_dataset_builder(str(folder), config)
    parts = re.split(r"[+\[]", split)
    files = [file for part, found in (builder.config.data_files or {}).items() if part in parts for file in found]
    # Not the builder's own features: those are of the last time that the folder was read.
    stated = any(column in (info.features or {}) for info in DatasetInfosDict.from_directory(str(folder)).values())
    for file in files:
        if not str(file).endswith(".parquet") or not Path(file).is_file():
            continue
        feature = datasets.Features.from_arrow_schema(pyarrow.parquet.read_schema(file)).get(column)
        found = getattr(feature, "names", None)
        if found == names or found is None and stated:
            continue
        has = f"the classes {_first(found)}" if found else "bare integers"
        raise DataError(
            f"{file}: column {column!r} has {has}, and the library would read it with {_first(names)} from another "
            "file of the folder; cast its column to the same datasets.ClassLabel, or keep it in a folder of its own "
            "as a shift."
        )


def _first(names: Sequence[str] | None) -> str:
    """The first names, for a sentence."""
    return "no names" if names is None else ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
