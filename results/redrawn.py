"""The pictures of a bundle, drawn again from its records: only the matplotlib that drew them draws the same lines."""

from __future__ import annotations

import io
from collections.abc import Sequence
from importlib import metadata

import numpy as np

from . import gallery
from .bundle import Bundle, Finding, Record
from .material import Material, Missing
from .records import gather_reference


def picture_findings(bundle: Bundle, records: Sequence[Record]) -> tuple[list[str], dict[str, str], list[Finding]]:
    """Pictures that were drawn again, those that were not with the reason, and what differs.

    Args:
        records: as they were read.

    An SVG must be the same to the letter and a PNG in every pixel. The figure of effective robustness has its line from
    the references that lie beside a reference.
    """
    drawn, skipped, findings = [], {}, []
    files = sorted(path for suffix in ("svg", "png") for path in bundle.folder.glob(f"*.{suffix}"))
    material = _material(bundle, records)
    here, made = metadata.version("matplotlib"), {}
    for path in files:
        if path.stem not in gallery.ENTRIES:
            skipped[path.name] = "no figure of this name"
        elif bundle.drawn_with != here:
            skipped[path.name] = f"drawn by matplotlib {bundle.drawn_with or 'of an unknown version'}, here is {here}"
        else:
            try:
                if path.stem not in made:
                    made[path.stem] = gallery.make(path.stem, material)
            except Missing as error:
                skipped[path.name] = str(error)
                continue
            if _same(path.suffix, path.read_bytes(), made[path.stem][path.suffix]):
                drawn.append(path.name)
            else:
                findings.append(Finding(path.name, "is another picture than its runs give"))
    return drawn, skipped, findings


def _material(bundle: Bundle, records: Sequence[Record]) -> Material:
    if bundle.provenance == "local":
        return Material(tuple(records), runs=bundle.folder / "runs")
    root = bundle.folder.resolve().parent
    beside = gather_reference(root=root, report=lambda sentence: None)
    made = Material(reference=tuple(records), reference_root=root, controls=tuple(beside))
    return made.of(records[0]["benchmark"]) if records else made


def _same(suffix: str, theirs: bytes, ours: bytes) -> bool:
    if suffix == ".svg" or theirs == ours:
        return theirs == ours
    from matplotlib.image import imread

    try:
        return np.array_equal(*(imread(io.BytesIO(content), format="png") for content in (theirs, ours)))
    except (OSError, SyntaxError, ValueError):  # as Pillow says that it is no PNG
        return False
