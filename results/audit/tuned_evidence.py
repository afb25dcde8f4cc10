"""The tuned values in a bundle: by which trials the setting of each ranked run was chosen.

`tuned.json` holds entries of the suite's tuned file as they are: method -> backbone -> entry. The hash of an entry, its
key `tuning`, is what a record names; so a record's values, its rule and its number of trials can be checked without the
suite. Bundles of earlier versions have no such file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..board.rows import FIXED, REFERENCE_METHOD
from ..records import manifest
from ..records.records import TUNED, tuned_on
from ..records.run_id import canonical_json
from ..statistics.setting_selection import RULES

Record = Mapping[str, Any]
Entry = Mapping[str, Any]
Entries = Mapping[str, Mapping[str, Entry]]
"""Method -> backbone -> entry."""

CHOOSING = (*RULES, FIXED)
"""Rules that rank a run which they chose."""


class TunedError(ValueError):
    """A file of tuned values that cannot be read."""


def used(tuned: Entries, records: Iterable[Record]) -> dict[str, dict[str, Entry]]:
    """Of a suite's tuned values those of the methods and backbones of these runs, and of the runs that they read."""
    found: dict[str, dict[str, Entry]] = {}
    for record in records:
        for method in (record["method"], *_read_by(record)):
            if (key := _key_of(tuned, method, record)) is not None:
                found.setdefault(method, {})[key] = tuned[method][key]
    return {method: dict(sorted(found[method].items())) for method in sorted(found)}


def read(folder: Path) -> Entries:
    """The tuned values of a bundle, nothing checked yet of an entry; none where it holds no file of them.

    Raises:
        TunedError: the file cannot be read.
    """
    path = folder / manifest.TUNED
    try:
        content = json.loads(path.read_bytes())
        return {str(m): {str(b): dict(entry) for b, entry in of.items()} for m, of in content.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TunedError(f"cannot be read ({error})") from None


def digest(entry: Entry) -> str:
    """The hash that an entry's key `tuning` must hold."""
    hashed = {key: value for key, value in entry.items() if key != "tuning"}
    return hashlib.sha256(canonical_json(hashed).encode()).hexdigest()[:12]


def findings(entries: Entries, records: Iterable[Record]) -> Iterator[tuple[str, str]]:
    """(where, what) of entries that are not what their hash says, and of runs that contradict the entry they name."""
    damaged = False
    for method, backbones in entries.items():
        for backbone, entry in backbones.items():
            try:
                wrong = entry.get("tuning") != digest(entry) or not isinstance(entry["trials"], list)
                wrong = wrong or any(not isinstance(entry[rule]["values"], dict) for rule in RULES)
            except (ValueError, KeyError, TypeError):
                wrong = True
            if wrong:
                damaged = True
                yield manifest.TUNED, f"{method}.{backbone} is no entry of tuned values, or not the one of its hash"
    if not damaged:
        for record in records:
            if told := _contradiction(entries, record):
                yield f"seed{record['seed']}-{record['run_id']}", told


def _contradiction(entries: Entries, record: Record) -> str:
    """What a run says of its choice that the entry it names does not; empty where all agrees, or it holds none."""
    own = _entry_of(entries, record)
    if not _chosen(record) or own is None:
        return ""
    if own.get("part"):
        return f"is ranked, but its tuning {own['tuning']} is a rehearsal's"
    if own.get("recipe") != record["recipe"]:
        return f"its tuning {own['tuning']} is of the recipe {own.get('recipe')}, and the run of {record['recipe']}"
    keys = ((name, _key_of(entries, name, record)) for name in _read_by(record))
    read = [entries[name][key] for name, key in keys if key is not None]
    values = {**record["spec"], **record["spec"].get("hyper", {})}
    for key, source in record["sources"].items():
        if match := TUNED.fullmatch(source):
            rule = match[1]
            told = [entry[rule]["values"].get(key) for entry in (own, *read) if rule in RULES]
            if values.get(key) not in told:
                chosen = ", ".join(str(value) for value in told if value is not None) or "nothing"
                return f"{key} is {values.get(key)}, but {rule} chose {chosen} in {manifest.TUNED}"
    counts = {len(own["trials"]), len(own["trials"]) + sum(len(entry["trials"]) for entry in read if entry != own)}
    selection = record["selection"]
    free = selection.get("evaluated", 0)
    if selection["trials"] not in counts or free and (free != len(own["trials"]) or free == selection["trials"]):
        return (
            f"its selection counts {selection['trials']} trials, {free} of them evaluated, and {manifest.TUNED} others"
        )
    return ""


def not_ranked(entries: Entries, record: Record) -> str:
    """Why no rule ranks a run on a board of several groups, without its full stop; empty where one does.

    A rule ranks a run that its bundle says it chose, and whose tuned values the bundle holds. What learns nothing needs
    no values, and the reference method is ranked by no rule.
    """
    if record["method"] == REFERENCE_METHOD:
        return ""
    if not _chosen(record):
        return "not ranked, its bundle names no rule that chose its setting"
    if record["spec"].get("steps") is None and record["selection"]["tuning"] is None:
        return ""
    if _entry_of(entries, record) is None:
        return (
            "not ranked, its bundle does not hold the tuned values of its rule: bundle the runs again with their suite"
        )
    return ""


def _chosen(record: Record) -> bool:
    return not set(record["selection"]["rules"]).isdisjoint(CHOOSING)


def _entry_of(entries: Entries, record: Record) -> Entry | None:
    """The entry whose hash a record names, of its method or of one that it reads; None where there is none."""
    names = (record["method"], *_read_by(record))
    keys = ((name, _key_of(entries, name, record)) for name in names)
    hashed, found = record["selection"]["tuning"], (entries[name][key] for name, key in keys if key is not None)
    return next((entry for entry in found if hashed and entry.get("tuning") == hashed), None)


def _key_of(entries: Entries, method: str, record: Record) -> str | None:
    """Under which the entry of a method stands that chose for a run: of its recipe alone, where there is one."""
    of_method, backbone = entries.get(method, {}), tuned_on(record)
    return next((key for key in (f"{backbone}, recipe {record['recipe']}", backbone) if of_method.get(key)), None)


def _read_by(record: Record) -> Sequence[str]:
    """The methods whose runs a run reads."""
    return list(dict.fromkeys(name.partition(":")[0] for name in record["spec"].get("inputs", {})))
