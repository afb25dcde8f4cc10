"""What a run is called: a hash of its spec."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

# Fields of a spec that came after the first ids were given out, with the value that means "as before": a
# spec that has this value hashes as if the field did not exist, so that a new field renames no finished run.
INTRODUCED: dict[str, Any] = {
    "kind": "run",
    "limit": None,
    "inputs": {},
    "bn": "frozen",
    "train_limit": None,
    "allow_partial": False,
    "decode": "exact",
    "given": None,
    "plugins": [],
    "method_code": None,
    "shots": None,
    "unique_captions": False,
}
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def canonical_json(value: Any) -> str:
    """JSON text that depends on the content alone; ValueError on NaN or infinity."""
    return _ENCODER.encode(value)


def canonical(spec: Mapping[str, Any]) -> str:
    """JSON with sorted keys and no spaces: the text that the run id hashes."""
    return canonical_json({k: v for k, v in spec.items() if k not in INTRODUCED or v != INTRODUCED[k]})


def folder_name(method: str, spec: Mapping[str, Any]) -> str:
    """The name of a method's folder; of a checkpoint that was given, whose name is free text, one of its own."""
    if not spec.get("given"):
        return method
    plain = unicodedata.normalize("NFKD", method).encode("ascii", "ignore").decode().lower()
    short = re.sub("[^a-z0-9]+", "-", plain).strip("-")[:40].strip("-") or "checkpoint"
    return f"given-{short}-{hashlib.sha256(method.encode()).hexdigest()[:8]}"


def run_id(spec: Mapping[str, Any]) -> str:
    """12 hexadecimal digits; equal exactly when every field that the science depends on is equal."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:12]
