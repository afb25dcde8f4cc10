"""One HTML file that shows every result: tables, figures and runs. Same records, same bytes; no network.

The tables are plain HTML, so that they can be read and printed without JavaScript, which adds sorting, filters and the
pages of single runs. Everything that comes from records is escaped by jinja2, or reaches the page as JSON and from
there as text nodes; a content security policy lets no other script run and nothing be loaded.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..board.grouping import Record
from ..board.rows import ASIDE, FIXED, FORGOTTEN, REFERENCE_METHOD, Row, Section, in_percent, shots_text
from ..plots.figure_data import Material
from ..plots.style import own_first
from ..records.atomic import write_atomic
from ..statistics.setting_selection import RULES
from ..tables.blocks import Cell
from ..tables.cells import (
    ASIDE_TITLES,
    empty_cells,
    footnotes,
    marks_text,
    metric_columns,
    remarks,
    resolution,
)
from ..tables.page import (
    ASIDE_TEXT,
    FIXED_TEXT,
    HEADER,
    POOLED_TEXT,
    RULE_TEXT,
    TESTED,
    TESTED_SCORES,
    TITLES,
    UNRANKED_TEXT,
    compared,
)
from .json_packing import pack

PAGE = Path(__file__).with_name("page")
WIDE = 520
"""Points: two panels of a figure are narrower."""
LONGEST = 120
"""Characters of a name or a setting in a row."""
GREY = re.compile(r'((?:fill|stroke)(?:: ?|="))#([0-9a-f]{2})\2\2\b')


@dataclass(frozen=True)
class Picture:
    """A figure of the report: SVG as text, and what to say of it."""

    name: str
    title: str
    caption: str
    svg: str


def render(
    material: Material,
    pictures: Mapping[str, Sequence[Picture]] | None = None,
    absent: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """The page: what was run here first, then the committed reference.

    Args:
        material: records, with the files beside them where there are any.
        pictures: benchmark -> figures; the benchmark's section shows them.
        absent: benchmark -> title of a figure that there is none of -> why.

    Returns:
        HTML that needs no other file. Without a finished run it says so.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    def asset(name: str) -> Markup:
        return Markup((PAGE / name).read_text(encoding="utf-8"))

    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    short = {"sort_keys": False, "allow_nan": False, "separators": (",", ":")}  # records have an order
    environment.policies["json.dumps_kwargs"] = short
    environment.tests["wide"] = lambda picture: is_wide(picture.svg)
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))  # at its underscores
    environment.filters["svg"] = lambda picture: Markup(inline_svg(picture.svg))
    script = asset("page.js")
    found = [_section(section, material, pictures or {}, absent or {}) for section in in_order(material)]
    return environment.get_template("page.html.j2").render(
        sections=found,
        runs=[_run_line(provenance, record) for provenance, record in material.entries()],
        data=pack({key_of(p, r): _run_data(p, r, material) for p, r in material.entries()}),
        provenance=_provenance(material),
        header=HEADER,
        style=asset("page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode(),
    )


def write(
    material: Material,
    path: Path,
    pictures: Mapping[str, Sequence[Picture]] | None = None,
    absent: Mapping[str, Mapping[str, str]] | None = None,
) -> Path:
    """Write the page that `render` makes, atomically; OutputError where the file system refuses."""
    write_atomic(Path(path), render(material, pictures, absent).encode())
    return Path(path)


def in_order(material: Material) -> list[Section]:
    """Sections as a reader wants them: with local runs first, of those the newest; studies behind what ranks."""
    newest: dict[str, str] = {}
    for record in material.local:
        newest[record["benchmark"]] = max(record["finished"], newest.get(record["benchmark"], ""))
    late_first = sorted(material.board.sections, key=lambda section: newest.get(section.benchmark, ""), reverse=True)
    return own_first(replace(material.board, sections=tuple(late_first)))


def key_of(provenance: str, record: Record) -> str:
    """How the page names a run."""
    return f"{provenance}/{record['run_id']}"


def inline_svg(text: str) -> str:
    """The SVG element alone: no prologue, comments or metadata, and no ids but those that it refers to itself.

    Black, white and the greys between become the page's ink and card, light or dark; methods keep their colours.
    """
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = GREY.sub(_of_the_page, text)
    used = set(re.findall(r"(?:href=\"#|url\(#)([^\")]+)", text))
    text = re.sub(r">\s+<", "><", text)
    return re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", text)


def _of_the_page(match: re.Match[str]) -> str:
    share = round(100 - int(match[2], 16) / 2.55)
    mixed = {0: "var(--card)", 100: "var(--ink)"}.get(share, f"color-mix(in srgb, var(--ink) {share}%, var(--card))")
    return f"{match[1]}{mixed}"


def is_wide(text: str) -> bool:
    """Whether an SVG has more than two panels side by side, whose letters need the whole width of the page."""
    box = re.search(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+) ([\d.]+)"', text)
    return box is not None and float(box[1]) > WIDE


# Tables


def _section(
    section: Section,
    material: Material,
    pictures: Mapping[str, Sequence[Picture]],
    absent: Mapping[str, Mapping[str, str]],
) -> dict[str, Any]:
    same = [other for other in in_order(material) if other.benchmark == section.benchmark]
    name = section.benchmark
    if len({other.recipe for other in same}) > 1:
        name += f", {section.recipe}"
    if len({other.shots for other in same}) > 1:
        name += f", {shots_text(section.shots) if section.shots else 'all images'}"
    if sum((other.recipe, other.shots) == (section.recipe, section.shots) for other in same) > 1:
        name += f", data {section.fingerprint[:6] or 'unknown'}"
    few = [f"{section.shots}shot"] if section.shots else []
    return {
        "id": "-".join([section.benchmark, section.recipe, section.fingerprint[:6], *few]),
        "name": name,
        "about": f"{section.version} · recipe {section.recipe} · {_count(len(section.shifts))}",
        "backbones": section.backbones,
        "provenances": sorted({row.provenance for row in section.rows}),
        "views": [_view(section, material, *view) for view in _views(section)],
        "pictures": list(pictures.get(section.benchmark, ())) if section is same[0] else [],
        "absent": list(absent.get(section.benchmark, {}).items()) if section is same[0] else [],
    }


def _count(shifts: int) -> str:
    return {0: "no shift", 1: "1 shift"}.get(shifts, f"{shifts} shifts")


def _views(section: Section) -> Iterable[tuple[str, str, list[str], list[Row], bool]]:
    """(key, title, explanations, rows, whether they are ranked) of each table of a section."""
    for rule in RULES if section.shows_rules else ():
        rows = [row for backbone in section.backbones for row in section.table(rule, backbone)]
        if rows and (rule == RULES[0] or not all(row.is_reference_method for row in rows)):
            yield rule, f"Selection rule {TITLES[rule]}", [RULE_TEXT[rule], *_asides(rows)], rows, True
    for kind in ASIDE:
        if section.aside(kind):
            yield kind, ASIDE_TITLES[kind], [ASIDE_TEXT[kind]], section.aside(kind), False
    if section.unranked():
        yield "unranked", "Not ranked", [UNRANKED_TEXT], section.unranked(), False


def _asides(rows: Sequence[Row]) -> list[str]:
    fixed = sorted({row.title for row in rows if row.kind == FIXED})
    pooled = sorted({row.title for row in rows if row.pooled})
    texts = [FIXED_TEXT.format(names=", ".join(fixed))] if fixed else []
    return texts + ([POOLED_TEXT.format(names=", ".join(pooled))] if pooled else [])


def _view(
    section: Section, material: Material, key: str, title: str, texts: list[str], rows: list[Row], ranked: bool
) -> dict[str, Any]:
    columns = metric_columns(section)
    judge = material.board.judge if ranked else None
    numbers: dict[int, list[Cell]] = {}
    for backbone in section.backbones:
        mine = [row for row in rows if row.backbone == backbone]
        found = compared(section, mine, columns, judge)
        numbers |= {id(row): cells for row, cells in zip(mine, found, strict=True)}
    lines, previous = [], None
    for row in rows:
        start = _start_of(row, section.rows)
        lines.append(
            {
                "name": _clipped(row.name),
                "marks": marks_text(row),
                "backbone": row.backbone,
                "provenance": row.provenance,
                "is_reference": row.is_reference_method,
                "begins": previous is not None and previous != row.backbone,
                "seeds": len(row.seeds),
                "setting": _clipped(row.setting),
                "runs": [(record["seed"], key_of(row.provenance, record)) for record in material.records_of(row)],
                "cells": [
                    _cell(row, column, start, number)
                    for (column, _), number in zip(columns, numbers[id(row)], strict=True)
                ],
            }
        )
        previous = row.backbone
    notes = footnotes(rows) + [empty_cells(section, rows)]
    for backbone in section.backbones if ranked else ():
        mine = [row for row in rows if row.backbone == backbone]
        resolved = material.board.judge.resolution(section, mine) or resolution(section, mine)
        notes += [f"{backbone}: {resolved}"] if resolved else []
    tested = TESTED + (TESTED_SCORES if section.own_metrics else "")
    signs = any(number.sign for cells in numbers.values() for number in cells)
    return {
        "key": key,
        "title": title,
        "texts": [text for text in (*remarks(section), *texts, tested if signs else "") if text],
        "columns": columns,
        "rows": lines,
        "notes": [note for note in notes if note],
    }


def _clipped(text: str) -> str:
    """What a cell has room for; the whole stands on the page of each run."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _start_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The zero-shot row of its backbone, from the same place if there is one."""
    mine = [other for other in rows if other.is_reference_method and other.backbone == row.backbone]
    return min(mine, key=lambda other: other.provenance != row.provenance, default=None)


def _cell(row: Row, column: str, start: Row | None, number: Cell) -> dict[str, Any]:
    mean = row.mean(column)
    before = start.mean(column) if start is not None and not row.is_reference_method else None
    change, side = "", ""
    if mean is not None and before is not None and column != FORGOTTEN:
        scale, digits = (100.0, 1) if in_percent(column) else (1.0, 3)
        difference = scale * (mean - before)
        change = f"{difference:+.{digits}f}".replace("-", "−")
        good = (difference > 0) == in_percent(column)
        side = "" if float(f"{difference:.{digits}f}") == 0 else "better" if good else "worse"
    text, _, spread = number.text.partition(" ± ")
    value = "Infinity" if mean == math.inf else mean  # as JavaScript spells it
    shown = {"text": text, "spread": spread, "sign": number.sign, "value": value, "best": number.best}
    return {**shown, "change": change, "side": side}


# Runs


def _run_line(provenance: str, record: Record) -> dict[str, Any]:
    summary, cost = record["summary"], record["cost"]

    def shown(key: str, scale: float, digits: int) -> tuple[float | None, str]:
        value = summary.get(key)
        return value, "" if value is None else f"{scale * value:.{digits}f}"

    speed, seconds = cost.get("images_per_second"), cost.get("wall_seconds")
    return {
        "key": key_of(provenance, record),
        "names": [record["benchmark"], record["method"], record["backbone"], provenance],
        "seed": record["seed"],
        "id": record["run_id"],
        "numbers": [
            shown("acc_id", 100, 1),
            shown("acc_ood_mean", 100, 1),
            shown("ece_id", 1, 3),
            shown("ece_ood_mean", 1, 3),
            (seconds, "" if seconds is None else f"{seconds:.0f}"),
            (speed, f"{speed:.0f}" if speed else ""),
        ],
    }


def _run_data(provenance: str, record: Record, material: Material) -> dict[str, Any]:
    curves = material.curves(record) if provenance == "local" else {}
    return {"provenance": provenance, "record": dict(record), "curves": curves}


def _provenance(material: Material) -> dict[str, Any]:
    """What the page was made from, from the records alone."""
    entries = [record for _, record in material.entries()]
    places: Counter[tuple[str, bool]] = Counter()
    for record in entries:
        environment = record["environment"]
        code = environment.get("commit") or environment.get("code_hash")  # a wheel has no commit
        places[str(code)[:12], bool(environment.get("dirty"))] += 1
    canonical = sorted(json.dumps([p, r], sort_keys=True) for p, r in material.entries())
    packages: dict[str, set[str]] = {}
    for record in entries:
        for name, version in record["environment"].get("packages", {}).items():
            packages.setdefault(name, set()).add(str(version))
    return {
        "local": sum(record["kind"] == "run" for record in material.local),
        "reference": sum(record["kind"] == "run" for record in material.reference),
        "trials": sum(record["kind"] == "trial" for record in (*material.local, *material.reference)),
        "newest": max((record["finished"] for record in entries), default=""),
        "commits": [(commit, dirty, count) for (commit, dirty), count in sorted(places.items())],
        "packages": [f"{name} {' and '.join(sorted(packages[name]))}" for name in sorted(packages)],
        "devices": sorted({str(record["environment"].get("device", "unknown")) for record in entries}),
        "processors": sorted({str(record["environment"].get("cpu", "unknown")) for record in entries}),
        "hash": hashlib.sha256("\n".join(canonical).encode()).hexdigest(),
        "starting_point": REFERENCE_METHOD,
    }
