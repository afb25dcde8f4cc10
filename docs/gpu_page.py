"""What a GPU gave: the file of tests/gpu/quarter_hour.py as tables, for the page on speed.

The file is `gpu.json` in this folder. Without one, the page says so; no number is written by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).resolve().parent / "gpu.json"
NONE = (
    "No GPU was at hand: none of this has run on one yet, so there are no numbers here. Whoever has a GPU can change "
    "that in 8 minutes, as is said above."
)
STEP = {
    "images_per_second": "images/s",
    "milliseconds": "ms a step",
    "over_open_clip": "time / open_clip's",
    "peak_gigabytes": "peak memory, GB",
}
"""What is told of each kind of step -> heading of its column."""


def page(file: Path = FILE) -> str:
    """Markdown of the committed file, or a sentence that there is none.

    Raises:
        ValueError: the file is a rehearsal's, whose numbers are no GPU's.
    """
    if not file.exists():
        return NONE
    report = json.loads(file.read_text(encoding="utf-8"))
    if report["device"] == "cpu" or report["small"]:
        raise ValueError(f"{file.name}: is a rehearsal's; commit one that a GPU gave.")
    results = report["results"]
    steps = [result for result in results if result["name"].startswith("step of ") and result["state"] == "passed"]
    parts = [about(report), "", *checks(results)]
    for result in steps:
        parts += ["", *speed(result)]
    return "\n".join(parts)


def about(report: Mapping[str, Any]) -> str:
    """Which machine and code it was."""
    machine = report["machine"]
    gpus = ", ".join(f"{gpu['name']} ({shown(gpu['gigabytes'])} GB)" for gpu in machine["gpus"])
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if version)
    commit = f"{machine['commit']}{' with changes' if machine['dirty'] else ''}" if machine["commit"] else "no checkout"
    return (
        f"{report['began'][:10]}: {gpus}; driver {machine['driver']}, CUDA {machine['cuda']}; {machine['cores']} cores "
        f"of {machine['cpu']}; Python {machine['python']}, {packages}; commit {commit}."
    )


def checks(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """A table with every check, also those that failed or were not run."""
    lines = ["| check | what it proves | state | numbers | seconds |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        told = [result["reason"]] if "reason" in result else []
        told += [f"{key.replace('_', ' ')} {shown(value)}" for key, value in result["numbers"].items()]
        cells = [result["name"], result["proves"], f"**{result['state']}**", "; ".join(told), shown(result["seconds"])]
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines


def speed(result: Mapping[str, Any]) -> list[str]:
    """A table of the steps of one backbone."""
    numbers = result["numbers"]
    lines = [f"**{result['name']}**, batch {numbers['batch']}, {numbers['precision']}, random weights:", ""]
    lines += [f"| | {' | '.join(STEP.values())} |", f"| --- |{' --- |' * len(STEP)}"]
    for name, told in numbers.items():
        if isinstance(told, Mapping):
            lines.append(f"| {name} | {' | '.join(shown(told[key]) for key in STEP)} |")
    return lines


def shown(value: Any) -> str:
    """A number in three digits, what holds numbers in one line."""
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{key.replace('_', ' ')} {shown(each)}" for key, each in value.items()) + ")"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
