"""The folder of one job array: what it holds, how far its submission came, and what submitit keeps."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....results.records.records import write_json_atomic

OPTIONS = "batch.json"
"""Which runs the jobs make and how; jobs read it beside submitit's files."""


@dataclass(frozen=True)
class Batch:
    """The folder of one array: `batch.json`, and what submitit keeps."""

    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    def read(self) -> dict[str, Any]:
        """What is known of it; {} where there is nothing that can be read."""
        try:
            return json.loads((self.folder / OPTIONS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def intend(self, about: dict[str, Any]) -> None:
        """Write down what will be submitted, before anything is."""
        self.folder.mkdir(mode=0o700)
        write_json_atomic(self.folder / OPTIONS, {"phase": "intended", **about, "jobs": []})

    def put(self, **fields: Any) -> None:
        """Change fields."""
        write_json_atomic(self.folder / OPTIONS, {**self.read(), **fields})
