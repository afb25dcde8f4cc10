"""Many alike values as JSON of a third of the size: names of fields and what stands in several values are kept once.

A packed dict is [shape, value, ...] with the names in `shapes[shape]`, a packed list [-1, value, ...], and {"at": i} is
the packed value `repeated[i]`. The report's script reads it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

SHORT = 60
"""Characters of JSON that are not worth a reference."""


def pack(values: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> packed value as `values`, with `shapes` and `repeated`; same values, same bytes."""
    counts: Counter[str] = Counter()
    texts: dict[int, str] = {}  # of each dict and list, which live as long as `values`
    for value in values.values():
        _count(value, counts, texts)
    shapes: dict[tuple[str, ...], int] = {}
    places: dict[str, int] = {}
    repeated: list[Any] = []

    def packed(value: Any) -> Any:
        if not isinstance(value, (dict, list)):
            return value
        text = texts[id(value)]
        if counts[text] < 2 or len(text) < SHORT:
            return body(value)
        if text not in places:
            content = body(value)
            places[text] = len(repeated)
            repeated.append(content)
        return {"at": places[text]}

    def body(value: dict[str, Any] | list[Any]) -> list[Any]:
        if isinstance(value, list):
            return [-1, *map(packed, value)]
        return [shapes.setdefault(tuple(value), len(shapes)), *map(packed, value.values())]

    made = {key: packed(value) for key, value in values.items()}
    return {"values": made, "shapes": [list(shape) for shape in shapes], "repeated": repeated}


def unpack(data: Mapping[str, Any]) -> dict[str, Any]:
    """The values that `pack` was given."""

    def unpacked(value: Any) -> Any:
        if isinstance(value, dict):
            return unpacked(data["repeated"][value["at"]])
        if not isinstance(value, list):
            return value
        shape, *rest = value
        found = list(map(unpacked, rest))
        return found if shape == -1 else dict(zip(data["shapes"][shape], found, strict=True))

    return {key: unpacked(value) for key, value in data["values"].items()}


def _count(value: Any, counts: Counter[str], texts: dict[int, str]) -> str:
    """The JSON of a value, put together from that of its parts; counts that of each dict and list."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{json.dumps(key)}: {_count(part, counts, texts)}" for key, part in value.items()) + "}"
    elif isinstance(value, list):
        text = "[" + ", ".join([_count(part, counts, texts) for part in value]) + "]"
    else:
        return json.dumps(value)
    counts[text] += 1
    texts[id(value)] = text
    return text
