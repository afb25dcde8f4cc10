"""Ten thousand records in memory: the parts of each are kept as bytes, and made anew when they are asked for."""

from __future__ import annotations

import marshal
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

_loads = lru_cache(maxsize=64)(marshal.loads)
_OF_A_SEED = ("seed", "inputs")
"""What the specs of one setting differ in; the rest of them is kept once, and found again without being made anew."""


class Packed(Mapping[str, Any]):
    """A record in a fifth of the memory, read as any other.

    A part (its sets, its path, its spec) is made at a look, and given to looks that soon follow: never change it.

    Args:
        record: as `records.gather` gives it.
        shared: one for all records that are kept together; what is equal in several of them is kept once.
    """

    __slots__ = ("_places", "_values")

    def __init__(self, record: Mapping[str, Any], shared: dict[Any, Any]) -> None:
        keys = tuple(record)
        self._places: dict[str, int] = shared.setdefault(keys, dict(zip(keys, range(len(keys)), strict=True)))
        values: list[Any] = []
        for key, value in record.items():
            own = {name: value[name] for name in _OF_A_SEED if name in value} if key == "spec" else None
            common = {**value, **dict.fromkeys(own)} if own else value
            kept = marshal.dumps(common) if isinstance(common, dict) else common
            if isinstance(kept, (bytes, str)):
                kept = shared.setdefault(kept, kept)
            values.append((kept, own) if own else kept)
        self._values = tuple(values)

    def __getitem__(self, key: str) -> Any:
        return _made(self._values[self._places[key]])

    def get(self, key: str, default: Any = None) -> Any:
        """As of any mapping, without raising and catching an error for each key that is not there."""
        place = self._places.get(key)
        return default if place is None else _made(self._values[place])

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _made(kept: Any) -> Any:
    """A part as it was before it was packed."""
    if type(kept) is tuple:
        return {**_loads(kept[0]), **kept[1]}
    return _loads(kept) if type(kept) is bytes else kept
