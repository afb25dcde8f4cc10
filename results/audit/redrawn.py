"""The pictures of a bundle, drawn again from its records: only the matplotlib that drew them draws the same lines.

The file that was published is checked by its hash. What is drawn again is compared by what it shows, not by its bytes:
the last digits of coordinates and the grey of a line's edge are the processor's, and nobody promised them.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import warnings
import zlib
from collections.abc import Sequence
from importlib import metadata
from xml.etree import ElementTree

import numpy as np

from ..plots import gallery
from ..plots.figure_data import Material, Missing
from ..records import manifest
from ..records.records import gather_reference
from .bundle import ROUNDED, Bundle, Finding, Record

TOLERANCE = 1e-4
"""Of a number of an SVG, relative where it is above 1: a few hundredths of a point of a coordinate, which nobody sees.
Processors differ by a millionth."""
REACH = 2
"""Pixels that what a PNG shows may lie elsewhere: a line is put on whole pixels, and a last bit can move it by one."""
LEVELS = 32
"""Of 255, that a pixel of a PNG may be beside all that the other one shows within REACH."""
ANOTHER = "is another picture than its runs give"
_REFERENCE = re.compile(r"(?<=url\(#)[^)]+|(?<=^#).+")
_TOKEN = re.compile(r"#\w+|[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?")


def picture_findings(bundle: Bundle, records: Sequence[Record]) -> tuple[list[str], dict[str, str], list[Finding]]:
    """Pictures that were drawn again, those that were not with the reason, and what differs.

    Args:
        records: as they were read.

    An SVG must have the same elements, colours and texts, and numbers to TOLERANCE; a PNG must show the same within
    REACH and LEVELS. The figure of effective robustness has its line from the references that lie beside a reference.
    """
    drawn, skipped, findings = [], {}, []
    files = sorted(path for suffix in manifest.PICTURES for path in bundle.folder.glob(f"*{suffix}"))
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
            if path.suffix == ".png":
                found = png_finding(path.name, path.read_bytes(), made[path.stem][".png"])
            else:
                found = svg_finding(path.name, path.read_bytes(), made[path.stem][".svg"])
            findings += [found] if found else []
            drawn += [] if found and found.wrong else [path.name]
    return drawn, skipped, findings


def _material(bundle: Bundle, records: Sequence[Record]) -> Material:
    if bundle.provenance == "local":
        return Material(tuple(records), runs=bundle.folder / "runs")
    root = bundle.folder.resolve().parent
    beside = gather_reference(root=root, report=lambda sentence: None)
    made = Material(reference=tuple(records), reference_root=root, controls=tuple(beside))
    return made.of(records[0]["benchmark"]) if records else made


def svg_finding(name: str, theirs: bytes, ours: bytes) -> Finding | None:
    """What an SVG file shows that ours does not; None where they differ in nothing but how they are written.

    Theirs may be under gzip, as an .svgz is.
    """
    try:
        if theirs.startswith(b"\x1f\x8b"):
            theirs = gzip.GzipFile(fileobj=io.BytesIO(theirs)).read(10 * len(ours))  # not what a bomb unpacks to
        if theirs == ours:
            return None
        pair = [_elements(content) for content in (theirs, ours)]
    except (ElementTree.ParseError, OSError, EOFError, zlib.error) as error:
        return Finding(name, f"{ANOTHER}: it is no SVG ({error})")
    if len(pair[0]) != len(pair[1]):
        return Finding(name, f"{ANOTHER}: it has {len(pair[0])} elements, but they give {len(pair[1])}")
    largest = 0.0
    for one, other in zip(*pair, strict=True):
        off = _apart(one, other)
        if off is None or off > TOLERANCE:
            return Finding(name, f"{ANOTHER}: it has '{_clipped(one, other)}', but they give '{_clipped(other, one)}'")
        largest = max(largest, off)
    return Finding(name, f"numbers in it differ by up to {largest:.1g}", ROUNDED) if largest else None


def _elements(content: bytes) -> list[str]:
    """Each element with its attributes, its text and how many children it has; matplotlib writes words as comments.

    Names of elements that others refer to are hashes of coordinates: they are numbered in the order of their coming.
    """
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    names: dict[str, str] = {}

    def numbered(name: str) -> str:
        return names.setdefault(name, f"n{len(names)}")

    found = []
    for element in ElementTree.fromstring(content, parser).iter():
        tag = element.tag if isinstance(element.tag, str) else "comment"
        parts = [f"<{tag} {len(element)}"]
        for key, value in sorted(element.attrib.items()):
            value = numbered(value) if key == "id" else _REFERENCE.sub(lambda match: numbered(match[0]), value)
            parts.append(f'{key}="{value}"')
        found.append(" ".join([*parts, *(element.text or "").split(), *(element.tail or "").split()]))
    return found


def _apart(one: str, other: str) -> float | None:
    """The largest difference of their numbers, relative above 1; None where they differ in more than numbers."""
    if one == other:
        return 0.0
    if one.startswith("<comment") or _TOKEN.sub("#", one) != _TOKEN.sub("#", other):
        return None
    largest = 0.0
    for a, b in zip(_TOKEN.findall(one), _TOKEN.findall(other), strict=True):
        if a != b:
            if "#" in (a[0], b[0]):
                return None
            off = abs(float(a) - float(b)) / max(1.0, abs(float(a)), abs(float(b)))
            largest = max(largest, off if math.isfinite(off) else math.inf)
    return largest


def _clipped(text: str, other: str) -> str:
    """Of the text what is around its first difference from the other."""
    at = next((i for i, pair in enumerate(zip(text, other, strict=False)) if pair[0] != pair[1]), 0)
    start = max(0, at - 30)
    return "..." * (start > 0) + text[start : at + 30] + "..." * (len(text) > at + 30)


def png_finding(name: str, theirs: bytes, ours: bytes) -> Finding | None:
    """What a PNG file shows that ours does not; None where every pixel is the same."""
    if theirs == ours:
        return None
    from PIL import Image
    from scipy.ndimage import maximum_filter, minimum_filter

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            images = [Image.open(io.BytesIO(content), formats=("PNG",)) for content in (theirs, ours)]
            if images[0].size != images[1].size:
                sizes = ["{} x {}".format(*image.size) for image in images]
                return Finding(name, f"{ANOTHER}: it has {sizes[0]} pixels, but they give {sizes[1]}")
            one, other = (np.asarray(image.convert("RGBA")).astype(np.int16) for image in images)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return Finding(name, f"{ANOTHER}: it is no PNG that can be read")  # a SyntaxError is how Pillow says so
    if np.array_equal(one, other):
        return None
    around = (2 * REACH + 1, 2 * REACH + 1, 1)
    beyond = 0
    for a, b in ((one, other), (other, one)):
        beyond = max(beyond, int((a - maximum_filter(b, around)).max()), int((minimum_filter(b, around) - a).max()))
    if beyond > LEVELS:
        return Finding(name, f"{ANOTHER}: by {beyond} of 255 levels, and not for {REACH} pixels that lines may move")
    share = (one != other).any(axis=2).mean()
    return Finding(name, f"shows the same, in {100 * share:.2g} % other pixels", ROUNDED)
