"""Many alike values as JSON of a third of the size: names of fields and what stands in several values are kept once.

A packed dict is [shape, value, ...] with the names in `shapes[shape]`, a packed list [-1, value, ...], and {"at": i} is
the packed value `repeated[i]`. The report's script reads it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

SHORT = 60
"""Characters of JSON that are not worth a reference."""


def pack(values: Mapping[str, Any]) -> dict[str, Any]:
    """Key -> packed value as `values`, with `shapes` and `repeated`; same values, same bytes."""
    counts = Counter(text for value in values.values() for text in _texts(value))
    shapes: dict[tuple[str, ...], int] = {}
    places: dict[str, int] = {}
    repeated: list[Any] = []

    def packed(value: Any) -> Any:
        if not isinstance(value, (dict, list)):
            return value
        text = json.dumps(value)
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


def _texts(value: Any) -> Iterator[str]:
    """The JSON of a value's dicts and lists, its own too."""
    if isinstance(value, (dict, list)):
        yield json.dumps(value)
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _texts(inner)
