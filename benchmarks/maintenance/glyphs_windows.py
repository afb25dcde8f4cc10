"""The registered windows of the glyphs benchmark, and its validity test: both written before what they judge was run.

    python -m robustft.benchmarks.maintenance.glyphs_windows [--runs runs]           windows, on the development runs
    python -m robustft.benchmarks.maintenance.glyphs_windows --validity             the validity test, on the reference

The windows say what regime the benchmark must have: one in which finetuning learns its images by heart, gains on its
own kind of images, and forgets. They look at zero-shot, FT and FLYP on development weights and development families
alone (suites `glyphs_development` and `glyphs_scratch`), and were committed before a method that distils, averages or
interpolates was run on this data. A window that is not met is named on the card with its distance; none is widened.

The learning rate is selected by the mean negative log-likelihood on the validation set after temperature scaling of
each run (`validation_nll_scaled`, the metric of the suite's tuning), over the tuning seeds.

Accuracies differ by ten points and more between pretraining seeds of one recipe, so what a window says of them
(`by_seed`) holds for the mean over development seeds. Their weights do not ship; `glyphs_development.yaml` says how
they are made.

The validity test asks afterwards whether the order of methods agrees with the literature on CLIP. It is run once on the
reference's records, passed or failed; nothing is reshaped by it without new families and new pretraining seeds.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ... import backbones
from ...datasets.catalogue import get
from ...results.metrics import calibration
from ...results.published import rows
from ...results.records import predictions
from ...results.records.records import REFERENCE, Record, gather_reference, record_paths
from ...results.statistics.seed_summary import paired_difference

CARD = Path(__file__).resolve().parents[2] / "datasets" / "glyphs_card.json"
VALIDITY = REFERENCE / "glyphs_validity.json"
DEVELOPMENT, SCRATCH = "glyphs_development", "glyphs_scratch"
REGISTERED = ("zero_shot", "ft", "flyp")
"""The only methods that may have run on this data before the windows were committed."""
Bounds = tuple[float, float]
WINDOWS: dict[str, Bounds] = {
    "zero-shot ID accuracy": (55, 70),
    "zero-shot ID ECE": (0, 0.07),
    "FT - zero-shot, ID": (8, 16),
    "FT - zero-shot, OOD mean": (-8, 0),
    "shifts that rise with FT": (2, 7),
    "shifts that fall with FT": (2, 7),
    "FT - FT from random weights, ID": (10, 100),
    "FT train accuracy": (99, 100),
    "ft: steps of the grid from the selected rate to an end": (1, 9),
    "flyp: steps of the grid from the selected rate to an end": (1, 9),
    "ft: standard errors by which the better end is worse": (2, 1000),
    "flyp: standard errors by which the better end is worse": (2, 1000),
    "signs that doubling the steps turns around": (0, 0),
    "pairs of one class a row of the batch": (0, 1.5),
}
"""Name -> lowest and highest value, in points of percent where it is an accuracy. All must hold on each backbone."""


@dataclass(frozen=True)
class Run:
    """What the windows read of a record: its setting, accuracies in [0, 1] by set, and where its predictions lie."""

    backbone: str
    weights: str
    method: str
    benchmark: str
    lr: float
    steps: int
    batch_size: int
    seed: int
    accuracy: dict[str, float]
    ece: float
    folder: Path


def read(root: Path) -> list[Run]:
    """The development runs below a folder, and zero-shot runs of rows.

    Raises:
        SystemExit: a method that is not REGISTERED has run on this data.
    """
    found = []
    for path in record_paths(root):
        record: Record = json.loads(path.read_text())
        if record["benchmark"] == "forgetting" and record["method"] != "zero_shot":
            continue  # tuned and shown as it is: nothing about it was shaped by a window
        if not record["benchmark"].startswith(("glyphs", "forgetting")):
            continue
        if record["method"] not in REGISTERED:
            raise SystemExit(f"{path}: {record['method']} has run on this data; the windows are for before that.")
        if record["benchmark"] in (DEVELOPMENT, SCRATCH) or record["method"] == "zero_shot":
            spec = record["spec"]
            found.append(
                Run(record["backbone"], record["backbone_weights"], record["method"], record["benchmark"], spec["lr"],
                    spec["steps"], spec["batch_size"], spec["seed"],
                    {s: v["accuracy"] for s, v in record["sets"].items()}, record["sets"]["id"]["ece"], path.parent)
            )  # fmt: skip
    return found


def accuracies(runs: Sequence[Run]) -> dict[str, float]:
    """Mean over seeds, in points, by set; `ood` is the mean over the shifts."""
    shifts = get("glyphs").card.names("shift")
    mean = {s: 100 * fmean(run.accuracy[s] for run in runs) for s in runs[0].accuracy}
    return mean | {"ood": fmean(mean[s] for s in shifts)}


def by_rate(runs: Sequence[Run]) -> dict[float, list[Run]]:
    """Rate -> its runs by seed, rates in ascending order."""
    found: dict[float, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.lr, run.seed)):
        found[run.lr].append(run)
    return dict(found)


def select(rates: dict[float, list[Run]]) -> float:
    """The rate of the lowest validation NLL after temperature scaling, mean over seeds."""
    return min(rates, key=lambda lr: float(_losses(rates[lr])[0].mean()))


def edge(rates: dict[float, list[Run]]) -> tuple[int, float]:
    """Steps from the selected rate to the nearer end of the grid, and how many paired standard errors that end of the
    two is worse by that is worse by fewer; families are the units."""
    chosen, grid = select(rates), list(rates)
    place = grid.index(chosen)
    worse = []
    for end in {grid[0], grid[-1]} - {chosen}:
        (best, units), (other, _) = (_losses(rates[lr]) for lr in (chosen, end))
        difference, error = paired_difference(other, best, units)
        worse.append(difference / error if error > 0 else float("inf"))
    return min(place, len(grid) - 1 - place), min(worse, default=0.0)


def _losses(runs: Sequence[Run]) -> tuple[np.ndarray, list[str]]:
    """Validation NLL of every image after temperature scaling, over all seeds, and the image's family."""
    losses, units = [], []
    for run in runs:
        columns = predictions.read(run.folder / "predictions" / "validation.parquet")
        losses.append(calibration.scaled_nll(columns["logits"], columns["label"]))
        units += columns["unit_id"].tolist()
    return np.concatenate(losses), units


def by_seed(runs: Sequence[Run], backbone: str) -> list[dict[str, float]]:
    """Of each pretraining seed of development what the windows of accuracies look at, the weights that ship first.

    The rate is the one that the weights that ship select, on which alone a whole grid is run.
    """
    ours = backbones.weights_id(backbone)
    mine = [run for run in runs if run.backbone == backbone and run.benchmark == DEVELOPMENT]
    steps = min((run.steps for run in mine if run.method == "ft"), default=0)
    finetuned = [run for run in mine if run.method == "ft" and run.steps == steps]
    rates = by_rate([run for run in finetuned if run.weights == ours])
    shifts = get("glyphs").card.names("shift")
    scratch = by_rate([r for r in runs if r.benchmark == SCRATCH and r.backbone == f"{backbone}-scratch"])
    out = []
    for weights in sorted({run.weights for run in mine}, key=lambda weights: (weights != ours, weights)):
        zeros = [run for run in mine if run.method == "zero_shot" and run.weights == weights]
        zero = accuracies(zeros)
        row = {"zero-shot ID accuracy": zero["id"], "zero-shot ID ECE": fmean(run.ece for run in zeros)}
        if rates:
            ft = accuracies([run for run in finetuned if run.weights == weights and run.lr == select(rates)])
            change = {s: ft[s] - zero[s] for s in ("id", "ood", *shifts)}
            row |= {
                "FT - zero-shot, ID": change["id"],
                "FT - zero-shot, OOD mean": change["ood"],
                "shifts that rise with FT": sum(change[s] > 0 for s in shifts),
                "shifts that fall with FT": sum(change[s] < 0 for s in shifts),
                "FT train accuracy": ft["train"],
            }
            if scratch:
                row["FT - FT from random weights, ID"] = ft["id"] - accuracies(scratch[select(scratch)])["id"]
        out.append(row)
    return out


def values(runs: Sequence[Run], backbone: str) -> dict[str, float]:
    """The value of every window on one backbone; those whose runs are not there are left out."""
    seeds = by_seed(runs, backbone)
    out = {name: fmean(row[name] for row in seeds) for name in seeds[0]}
    ours = backbones.weights_id(backbone)
    mine = [r for r in runs if r.backbone == backbone and r.benchmark == DEVELOPMENT and r.weights == ours]
    steps = min((run.steps for run in mine if run.method == "ft"), default=0)
    usual = {m: by_rate([r for r in mine if r.method == m and r.steps == steps]) for m in ("ft", "flyp")}
    if not usual["ft"]:
        return out
    zero = accuracies([run for run in mine if run.method == "zero_shot"])
    chosen = usual["ft"][select(usual["ft"])]
    ft, shifts = accuracies(chosen), get("glyphs").card.names("shift")
    change = {s: ft[s] - zero[s] for s in ("id", "ood", *shifts)}
    out["pairs of one class a row of the batch"] = (chosen[0].batch_size - 1) / len(get("glyphs").card.class_names)
    for method, rates in usual.items():
        if len(rates) > 1:
            inside, errors = edge(rates)
            out[f"{method}: steps of the grid from the selected rate to an end"] = inside
            out[f"{method}: standard errors by which the better end is worse"] = errors
    doubled = by_rate([r for r in mine if r.method == "ft" and r.steps == 2 * steps])
    if doubled:
        longer = accuracies(doubled[select(doubled)])
        turned = [s for s in change if (longer[s] - zero[s]) * change[s] < 0]
        out["signs that doubling the steps turns around"] = len(turned)
    return out


def judge(found: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Window -> value, bounds, whether it holds, and by how much it does not."""
    out: dict[str, dict[str, Any]] = {}
    for name, (low, high) in WINDOWS.items():
        if name not in found:
            out[name] = {"value": None, "bounds": [low, high], "holds": False, "distance": None}
            continue
        value = found[name]
        distance = max(low - value, value - high, 0.0)
        out[name] = {"value": round(value, 3), "bounds": [low, high], "holds": distance == 0,
                     "distance": round(distance, 3)}  # fmt: skip
    return out


WITHOUT_DISTILLATION = ("zero_shot", "ft", "l2_sp", "lp_ft", "flyp", "model_stock")
"""Rows of the paper's Table 2 whose loss has no term on another model's outputs (CAR-FT, Lipsum-FT and ARF have)."""


def published_ood() -> dict[str, float]:
    """Method -> OOD mean of the paper's Table 2 in points, of the rows WITHOUT_DISTILLATION."""
    table = [row for row in rows.rows() if row.table == "table2" and row.method in WITHOUT_DISTILLATION]
    return {row.method: 100 * row.cells["acc_ood_mean"][0] for row in table}


def validity(records: Sequence[Record], published: dict[str, float]) -> dict[str, dict[str, Any]]:
    """The validity test: each question, its value and whether it is passed.

    Args:
        records: of the reference runs, all six backbones, at the selected settings, and of WiSE-FT at alpha 0.5.
        published: method -> OOD mean of the paper's Table 2, as `published_ood` has it.
    """
    from scipy.stats import spearmanr

    shifts = get("glyphs").card.names("shift")
    cells: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    alphas = []
    for record in records:
        name = record["method"]
        if name == "wise_ft" and "fixed" in record["selection"]["rules"]:
            name = "wise_ft 0.5"
        elif name == "wise_ft":
            alphas.append(float(record["spec"]["hyper"]["alpha"]))
        cells[name]["id"].append(100 * record["sets"]["id"]["accuracy"])
        cells[name]["ood"].append(100 * fmean(record["sets"][s]["accuracy"] for s in shifts))
    mean = {name: {s: fmean(numbers) for s, numbers in sets.items()} for name, sets in cells.items()}

    def above(one: str, other: str, where: str) -> float:
        return mean[one][where] - mean[other][where]

    common = sorted(set(published) & set(mean))
    rank = spearmanr([published[m] for m in common], [mean[m]["ood"] for m in common]).statistic
    asked = {
        "alpha that ID validation selects for WiSE-FT, below 1": (fmean(alphas), fmean(alphas) < 1),
        "WiSE-FT 0.5 above FT in OOD": (d := above("wise_ft 0.5", "ft", "ood"), d > 0),
        "WiSE-FT 0.5 against FT in ID, at least -0.5": (d := above("wise_ft 0.5", "ft", "id"), d >= -0.5),
        "LP-FT above FT in OOD": (d := above("lp_ft", "ft", "ood"), d > 0),
        "FLYP above FT in OOD": (d := above("flyp", "ft", "ood"), d > 0),
        "Spearman with Table 2 over rows that do not distil, at least 0.6": (rank, rank >= 0.6),
    }
    return {name: {"value": round(float(value), 3), "passed": bool(passed)} for name, (value, passed) in asked.items()}


def card(runs: Sequence[Run]) -> dict[str, Any]:
    """The committed card as JSON: the datasets, the windows of each development backbone, zero-shot of the others."""
    out: dict[str, Any] = {}
    for name in ("glyphs", DEVELOPMENT, "forgetting"):
        about = get(name).card
        sets = {
            s.name: {"role": s.role, "measures": s.measures, "in pretraining": s.in_pretraining,
                     "in finetuning": s.in_finetuning, "units": len(set(get(name).eval_data(s.name).unit_ids))}
            for s in about.sets
        }  # fmt: skip
        out[name] = {"version": about.version, "fingerprint": about.fingerprint, "prompts": list(about.prompts),
                     "sets": sets, "backbones": {}}  # fmt: skip
    for run in runs:
        if run.benchmark in ("glyphs", "forgetting"):
            zero = {s: round(value, 4) for s, value in run.accuracy.items()}
            if run.benchmark == "glyphs":
                zero["ood"] = round(accuracies([run])["ood"] / 100, 4)
            out[run.benchmark]["backbones"][run.backbone] = {"weights": run.weights, "zero_shot": zero}
    for backbone in sorted({run.backbone for run in runs if run.benchmark == DEVELOPMENT}):
        ours = backbones.weights_id(backbone)
        mine = [r for r in runs if r.backbone == backbone and r.benchmark == DEVELOPMENT and r.weights == ours]
        steps = min((run.steps for run in mine if run.method != "zero_shot"), default=0)
        row: dict[str, Any] = {"weights": ours}
        for method in REGISTERED:
            rates = by_rate([r for r in mine if r.method == method and (method == "zero_shot" or r.steps == steps)])
            if rates:
                chosen = rates[select(rates)]
                row[method] = {"lr": chosen[0].lr} if method != "zero_shot" else {}
                row[method] |= {s: round(value / 100, 4) for s, value in accuracies(chosen).items()}
        row["seeds"] = [{name: round(x, 3) for name, x in of.items()} for of in by_seed(runs, backbone)]
        out[DEVELOPMENT]["backbones"][backbone] = row | {"windows": judge(values(runs, backbone))}
    return out


def main() -> None:
    """Print the windows with their values, or the validity test."""
    parser = argparse.ArgumentParser(description="Check the registered windows of glyphs, or its validity test.")
    parser.add_argument("--runs", type=lambda text: Path(text).expanduser(), default=Path("runs"))
    parser.add_argument("--validity", action="store_true", help="the validity test, on the reference's records")
    parser.add_argument("--write", action="store_true", help=f"write {CARD.name}, or {VALIDITY.name}")
    arguments = parser.parse_args()
    found: dict[str, Any]
    if arguments.validity:
        found = validity(gather_reference("glyphs"), published_ood())
        if arguments.write:
            version = get("glyphs").card.version
            VALIDITY.write_text(json.dumps({"version": version, "questions": found}, indent=1) + "\n")
        for name, row in found.items():
            print(f"{'passed' if row['passed'] else 'FAILED'}  {name}: {row['value']}")
    else:
        runs = read(arguments.runs)
        names = sorted({run.backbone for run in runs if run.benchmark == DEVELOPMENT})
        if not names:
            print(f"no runs of {DEVELOPMENT} below {arguments.runs}: run `robustft sweep {DEVELOPMENT} --method all`")
        found = {name: judge(values(runs, name)) for name in names}
        for backbone, judged in found.items():
            seeds = len(by_seed(runs, backbone))
            print(f"{backbone}, with {seeds} pretraining seed{'s' * (seeds > 1)}")
            for name, row in judged.items():
                low, high = row["bounds"]
                print(f"  {'ok  ' if row['holds'] else 'MISS'} {name}: {row['value']}  [{low:g}, {high:g}]")
        if arguments.write:
            CARD.write_text(json.dumps(card(runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
