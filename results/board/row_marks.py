"""What is wrong with a row, or sets it aside: its marks, each with a reason."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .rows import ASIDE, GRID, ORACLE, PLUGINS_NOW, TRANSDUCTIVE, UNRANKED, Row, natural, versions_text

Record = Mapping[str, Any]
KNOWN = "the final weights of"
"""So begins the source of a given checkpoint that a finished run of this package left."""


def marked(
    row: Row,
    records: Sequence[Record],
    roles: Mapping[str, str],
    expected_seeds: set[int],
    newest: Mapping[str, int],
    plugins: Mapping[tuple[str, str], Sequence[str]],
) -> Row:
    """The row with its marks; one of an older version of its method has no rule any more.

    Args:
        records: all from which the row was made, also those that lost to another of their seed.
        roles: set name -> role, of the whole table. newest: method -> version.
        plugins: as `current_plugins` gives it.
    """
    seeds = set(row.seeds)
    used = [record for record in records if record["seed"] in seeds]
    marks: dict[str, str] = {}
    if any(record["environment"].get("dirty") for record in used):
        marks["dirty"] = "made with uncommitted changes"
    missing = sorted(expected_seeds - seeds)
    expects = (row.rules or row.kind in (GRID, ORACLE, TRANSDUCTIVE)) and row.varies
    if expects and missing:
        few = f"{len(row.seeds)} of {len(expected_seeds)} seeds"
        marks["seeds"] = f"{few}, missing {', '.join(map(str, missing))}"
    lacking: set[str] = set()
    short: set[str] = set()
    for record in used:
        sets, limited = record["sets"], record["spec"].get("limit") is not None
        lacking |= roles.keys() - sets.keys()
        short |= {name for name in roles.keys() & sets if limited or sets[name]["n"] < sets[name]["n_expected"]}
    if lacking:
        absent = ", ".join(sorted(lacking, key=natural))
        marks["sets"] = f"not every run has {absent}; empty cells and means leave those runs out"
    if short:
        marks["partial"] = f"part of the images only: {', '.join(name for name in roles if name in short)}"
    elif any(map(is_partial, used)):
        marks["partial"] = "made where the data may be incomplete (--allow-partial), or trained on part of the images"
    gone = {name for record in used for name in record.get("info", {}).get("sets_left_out", ())}
    if gone:
        lacks = f"nothing of {', '.join(sorted(gone, key=natural))}"
        marks["partial"] = f"{marks['partial']}; {lacks}" if "partial" in marks else lacks
    if twice := _told_twice(used):
        marks["twice"] = f"{twice}; the first to finish is shown: find out which is right and remove the others"
    if pairs := _shared(used):
        marks["shared"] = f"by the bytes of the files, {'; '.join(pairs)}"
    if kinds := _unread(used):
        marks["unread"] = "; ".join(kinds)
    if any(map(is_transductive, used)):
        marks[TRANSDUCTIVE] = "transductive (it adapts to each set by all of its images before it predicts)"
    if row.is_given:
        told = [f"seed {r['seed']}: {given_text(r)}" if len(used) > 1 else given_text(r) for r in used]
        same = {given_text(record) for record in used}
        return replace(row, marks={**marks, UNRANKED: same.pop() if len(same) == 1 else "; ".join(told)})
    rules = row.rules
    if row.method_version < newest[row.method]:
        marks["stale"] = f"version {row.method_version} of a method that is at version {newest[row.method]}"
        rules = ()
    if brought := used[0]["spec"].get("plugins", []):
        marks["plug-in"] = f"plug-in, {versions_text(brought)}"
    if "stale" not in marks and is_replaced(used[0], plugins):
        marks["stale"] = (
            f"made with another version of {'its plug-in' if brought else 'the method'} than the current one"
        )
        rules = ()
    # What ranks nothing by design needs no excuse; nor does the reference, which is as it was published.
    reasons = sorted({record.get(UNRANKED, "") for record in used} - {""})
    if reasons and not rules and row.kind not in ASIDE:
        marks[UNRANKED] = "; ".join(reasons)
    return replace(row, marks=marks, rules=rules)


def given_text(record: Record) -> str:
    """Why a given checkpoint is not ranked: whose final weights it is, and what is known of its classes."""
    source, _, classes = str(record["sources"].get("given", "")).partition("; ")
    told = f"given: {source}" if source.startswith(KNOWN) else "given, not trained here"
    return "; ".join(filter(None, (told, classes)))


def current_plugins(records: Sequence[Record]) -> dict[tuple[str, str], Sequence[str]]:
    """(kind, name) -> the current version of the plug-ins that a method, backbone or the dataset come from.

    That is the version of today where a record says it (`PLUGINS_NOW`), else that of the run that finished last.
    """
    if not any(record["spec"].get("plugins") for record in records):
        return {}
    current: dict[tuple[str, str], Sequence[str]] = {}
    for record in sorted(records, key=lambda record: record["finished"]):
        current |= _versions(record, record["spec"].get("plugins", ()))
    for record in records:
        current |= _versions(record, record[PLUGINS_NOW]) if PLUGINS_NOW in record else {}
    return current


def _versions(record: Record, entries: Sequence[str]) -> dict[tuple[str, str], Sequence[str]]:
    """(kind, name) -> those of entries kind:sha256 that are of the kind."""
    names = {"method": record["method"], "backbone": record["backbone"], "dataset": ""}
    return {(kind, name): [one for one in entries if one.startswith(f"{kind}:")] for kind, name in names.items()}


def brings_method(record: Record) -> bool:
    """Whether a plug-in brought the method of a run."""
    return any(entry.startswith("method:") for entry in record["spec"].get("plugins", ()))


def is_replaced(record: Record, plugins: Mapping[tuple[str, str], Sequence[str]]) -> bool:
    """Whether a run was made with another version of a plug-in than the current one."""
    made_with = _versions(record, record["spec"].get("plugins", ()))
    return any(plugins.get(key, version) != version for key, version in made_with.items())


def _shared(records: Sequence[Record]) -> list[str]:
    """Which images stand in two sets; earlier records do not say."""
    found = {json.dumps(pair): pair for record in records for pair in record.get("info", {}).get("shared_images", ())}
    return [f"{p['images']} of {p['of']} images of {p['set']} are also in {p['also_in']}" for p in found.values()]


def _unread(records: Sequence[Record]) -> list[str]:
    """Which images were passed over because their kind is not read; earlier records do not say."""
    unread = (record.get("info", {}).get("not_read", {}).items() for record in records)
    return list(dict.fromkeys(unread_text(name, on["read"], on["endings"]) for sets in unread for name, on in sets))


def unread_text(name: str, read: int, endings: Mapping[str, int]) -> str:
    """12 of 18 images of shift1 are of a kind that is not read (.heic, .jfif)"""
    kinds = ", ".join(sorted(endings, key=lambda ending: (-endings[ending], ending)))
    count = sum(endings.values())
    return f"{count} of {read + count} images of {name} are of a kind that is not read ({kinds})"


def _told_twice(records: Sequence[Record]) -> str:
    """Where several records of one seed, which should be one run, have different numbers; else empty."""
    found: dict[int, list[Record]] = defaultdict(list)
    for record in records:
        found[record["seed"]].append(record)

    def numbers(record: Record) -> str:
        return json.dumps([record["sets"], record.get("path")], sort_keys=True)

    def whose(runs: list[Record]) -> str:
        names = sorted({record["run_id"] for record in runs})
        # A board names no paths: it may be published.
        if len(names) == 1:
            return f"{len(runs)} records of {names[0]} that contradict each other (in folders that end in -{names[0]})"
        return f"records of {' and '.join(names)}"

    several = {seed: whose(runs) for seed, runs in found.items() if len(runs) > 1 and len(set(map(numbers, runs))) > 1}
    return ", ".join(f"seed {seed} has {several[seed]}" for seed in sorted(several))


def with_budgets(rows: Sequence[Row]) -> list[Row]:
    """Ranked rows compare at equal budgets: those with another number of trained trials than most are marked.

    A value along the path of a run that was trained anyway costs an evaluation on ID validation and no training. Such
    trials are counted beside the others and set no row aside.
    """
    counts = Counter(row.trained for row in rows if row.rules and not row.is_reference_method)
    if len(counts) < 2:
        return list(rows)
    usual = max(counts, key=lambda trained: (counts[trained], trained))

    def beside(row: Row) -> Row:
        if not row.rules or row.is_reference_method or row.trained == usual:
            return row
        reason = f"{row.trained} trained settings, others {usual}: shown, not compared with them"
        return replace(row, marks={**row.marks, "budget": reason})

    return [beside(row) for row in rows]


def is_transductive(record: Record) -> bool:
    """Whether what a run says of an image depends on the other images of the set; earlier records never do."""
    return bool(record.get("transductive"))


def is_partial(record: Record) -> bool:
    """Whether a run saw, or may have seen, part of the images only."""
    spec = record["spec"]
    limited = spec.get("limit") is not None or spec.get("train_limit") is not None
    return limited or bool(spec.get("allow_partial"))
