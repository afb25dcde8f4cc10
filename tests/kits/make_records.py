"""Records as a run would write them, for tests of what reads records."""

from robustft.results.records.records import summarise
from robustft.results.records.run_id import run_id

SHIFTS = ("fresh", "renditions", "sketches", "reversed", "writers")


def make_record(
    method="ft",
    backbone="tiny-vit-p8",
    seed=0,
    accuracy=0.8,
    *,
    rules=("one_se", "best_id"),
    benchmark="digits",
    version="digits-v1",
    method_version=1,
    recipe="common",
    dirty=False,
    lr=1e-3,
    hyper=None,
    sources=None,
    shifts=SHIFTS,
    kind="run",
    n=600,
    finished="2026-01-01T00:00:00Z",
    tuning="ab12cd34",
    inputs=None,
    line=None,
    gaps=None,
    weights="sha256:00",
    spec=None,
):
    """A run whose accuracies fall by one point a set, starting at `accuracy` on the ID set.

    Args:
        inputs: what spec.inputs is.
        line: alpha -> accuracy on every shift at that point of the path; on other sets it is 0.83.
        spec: more of it; the run id is of all.
        gaps: teacher-student gaps after equal parts of the steps.
    """
    names = ["id", *shifts, "pretraining_mixture", "validation"]
    roles = {"id": "id", "pretraining_mixture": "diagnostic", "validation": "validation"}
    sets = {}
    for i, name in enumerate(names):
        sets[name] = {
            "role": roles.get(name, "shift"),
            "n_expected": 600,
            "n": n,
            "accuracy": accuracy - 0.01 * i,
            "ece": 0.05 + 0.01 * i,
            "nll": 0.5 + 0.1 * i,
            "brier": 0.3,
            "macro_f1": accuracy - 0.01 * i,
            "mean_confidence": 0.9,
        }
    if kind == "trial":
        sets = {"validation": sets["validation"]}
    spec = (spec or {}) | {
        "benchmark": benchmark,
        "benchmark_version": version,
        "method": method,
        "method_version": method_version,
        "backbone": backbone,
        "weights": weights,
        "seed": seed,
        "recipe": recipe,
        "kind": kind,
        "steps": 500,
        "lr": lr,
        "limit": None,
        "hyper": hyper or {},
        **({"inputs": inputs} if inputs else {}),
    }
    # As a search along the line counts: nine trained trials of the input, and the points of the line.
    trials = 9 + (len(line) if line and (sources or {}).get("alpha", "").startswith("tuned") else 0)
    points = [{"value": alpha, "sets": point_of(sets, value)} for alpha, value in (line or {}).items()]
    return {
        "schema": 1,
        "kind": kind,
        "run_id": run_id(spec),
        "benchmark": benchmark,
        "benchmark_version": version,
        "method": method,
        "method_version": method_version,
        "backbone": backbone,
        "backbone_weights": weights,
        "seed": seed,
        "recipe": recipe,
        "spec": spec,
        "sources": {"lr": "tuned one_se", "steps": "recipe common"} | (sources or {}),
        "selection": {"rules": list(rules), "tuning": tuning if rules else None, "trials": trials if rules else 0},
        "environment": {"python": "3.11", "commit": "0" * 40, "dirty": dirty},
        "cost": {"wall_seconds": 60.0, "train_seconds": 50.0, "images_seen": 32000},
        "sets": sets,
        "summary": summarise(sets),
        "info": {"dynamics": dynamics(gaps)} if gaps else {},
        "finished": finished,
        **({"path": {"parameter": "alpha", "points": points}} if points else {}),
    }


def point_of(sets, accuracy):
    """A path's point: `accuracy` on the shifts and 0.83 on the others."""
    return {
        name: {
            "accuracy": accuracy if metrics["role"] == "shift" else 0.83,
            "ece": metrics["ece"],
            "nll": metrics["nll"],
        }
        for name, metrics in sets.items()
    }


def dynamics(gaps):
    """Rows as a distilling run records them; only the gap differs."""
    rows = []
    for i, gap in enumerate(gaps, start=1):
        row = {"step": 125 * i, "fraction": i / len(gaps), "kl_teacher_student": 0.1, "kl_start_student": 0.2}
        rows.append({**row, "teacher_entropy": 1.0, "student_entropy": 1.0, "gap": gap})
    return rows
