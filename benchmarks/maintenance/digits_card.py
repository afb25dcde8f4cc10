"""Writes the committed card of the embedded benchmark: hashes, zero-shot numbers, and the windows its difficulty was
shaped by, all read from records.

    robustft sweep digits --method zero_shot,ft,flyp --seeds 0    (and control_colour, control_scratch)
    python -m robustft.benchmarks.maintenance.digits_card

The windows look at zero-shot, FT and FLYP only; no distillation method was run before the card was committed. After
that, a change of pictures, prompts, splits or weights is a new version, and a test holds the code to the card.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ... import backbones
from ...datasets.catalogue import get
from ...results.records.records import Record, gather

CARD = Path(__file__).resolve().parents[2] / "datasets" / "digits_card.json"
SHIFTS = ("fresh", "renditions", "sketches", "reversed", "writers")


def windows(zero_shot: dict[str, float], ft: dict[str, float]) -> dict[str, dict[str, Any]]:
    """What must hold of a backbone, from accuracies in [0, 1] by set; values in points."""
    change = {s: 100 * (ft[s] - zero_shot[s]) for s in SHIFTS}
    total = sum(map(abs, change.values()))
    shown = [100 * zero_shot[s] for s in SHIFTS]
    rows = {
        "zero-shot ID, 65 to 85": (100 * zero_shot["id"], 65 <= 100 * zero_shot["id"] <= 85),
        "FT ID above zero-shot, at least 8": (100 * (ft["id"] - zero_shot["id"]), ft["id"] - zero_shot["id"] >= 0.08),
        "FT OOD mean below zero-shot, 0 to 6": (-fmean(change.values()), 0 <= -fmean(change.values()) <= 6),
        "shifts rising by 3, at least 1": (sum(c >= 3 for c in change.values()), any(c >= 3 for c in change.values())),
        "shifts falling by 3, at least 2": (n := sum(c <= -3 for c in change.values()), n >= 2),
        "lowest zero-shot shift, at least 45": (min(shown), min(shown) >= 45),
        "highest zero-shot shift, at most 90": (max(shown), max(shown) <= 90),
        "largest share of one shift in the change, at most 40 %": (
            share := 100 * max(map(abs, change.values())) / total, share <= 40,
        ),
    }  # fmt: skip
    return {name: {"value": round(value, 1), "holds": bool(holds)} for name, (value, holds) in rows.items()}


def _accuracies(
    records: Sequence[Record], benchmark: str, method: str, backbone: str, digits: int = 4
) -> dict[str, float]:
    """Mean accuracy over seeds by set; empty where there is no such record."""
    wanted = (benchmark, method, backbone, "run")
    found = [r for r in records if (r["benchmark"], r["method"], r["backbone"], r["kind"]) == wanted]
    if len({json.dumps({**r["spec"], "seed": 0}, sort_keys=True) for r in found}) > 1:
        raise SystemExit(f"{benchmark} {method} {backbone}: --runs must hold one setting; remove the other runs.")
    sets = found[0]["sets"] if found else {}
    return {s: round(fmean(r["sets"][s]["accuracy"] for r in found), digits) for s in sets}


def build(records: Sequence[Record]) -> dict[str, Any]:
    """The card as JSON, from records of the benchmark and its controls."""
    card: dict[str, Any] = {}
    tested_on = {"digits": ("tiny-vit-p8", "tiny-vit-p16", "tiny-rn")}
    for dataset in ("digits", "digits_uncorrelated"):
        about = get(dataset).card
        entry: dict[str, Any] = {
            "version": about.version,
            "fingerprint": about.fingerprint,
            "prompts": list(about.prompts),
        }
        entry["sets"] = {
            s.name: {"role": s.role, "measures": s.measures, "in pretraining": s.in_pretraining,
                     "in finetuning": s.in_finetuning} for s in about.sets
        }  # fmt: skip
        entry["backbones"] = {}
        for name in tested_on.get(dataset, ()):
            row: dict[str, Any] = {"weights": backbones.weights_id(name)}
            row |= {m: a for m in ("zero_shot", "ft", "flyp") if (a := _accuracies(records, dataset, m, name))}
            if dataset == "digits":
                row["windows"] = windows(row["zero_shot"], row["ft"])
                row["controls"] = {
                    "ft from random weights": _accuracies(records, "control_scratch", "ft", f"{name}-scratch"),
                    "ft at colour correlation 0.5": _accuracies(records, "control_colour", "ft", name),
                    "flyp at colour correlation 0.5": _accuracies(records, "control_colour", "flyp", name),
                }
            entry["backbones"][name] = row
        card[dataset] = entry
    return card


def main() -> None:
    """Print the windows; `--write` commits the card."""
    parser = argparse.ArgumentParser(description="The card of the digits benchmark, from records.")
    parser.add_argument("--runs", type=lambda text: Path(text).expanduser(), default=Path("runs"))
    parser.add_argument("--write", action="store_true", help=f"write {CARD.name}")
    arguments = parser.parse_args()
    card = build(list(gather(arguments.runs)))
    for name, row in card["digits"]["backbones"].items():
        print(name, "zero-shot", row["zero_shot"], "\n  FT", row["ft"], "\n  FLYP", row.get("flyp"))
        for window, result in row["windows"].items():
            print(f"  {'ok  ' if result['holds'] else 'FAIL'} {window}: {result['value']}")
    if arguments.write:
        CARD.write_text(json.dumps(card, indent=1) + "\n")


if __name__ == "__main__":
    main()
