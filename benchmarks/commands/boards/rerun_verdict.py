"""Whether a run that was made again from its spec is the recorded one.

On the same kind of machine, with the same packages and code, training is the same bit for bit. Elsewhere the last
bits of sums differ, and hundreds of steps amplify them: the run is then another draw, as another seed is one.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

EXACT = 1e-6
"""Of any metric of the same weights: evaluation is the same, and this is more than it rounds."""
SPREADS = 4
"""Standard deviations over its row's seeds that a set's accuracy may differ by elsewhere: twice the largest of 72 that
were measured, 9 reference runs of an Intel processor again on an AMD (up to 3.1 points on tiny-rn, 0.1 on ViTs)."""
LEAST = 0.005
"""Accuracy that it may always differ by elsewhere: seeds may happen to lie close. All that the same weights may."""
ALONE = 0.02
"""The same, where the bundle has no other seed of the row."""
METRICS = ("accuracy", "ece", "nll")


def judge(record: Record, made: Record, records: Sequence[Record]) -> tuple[bool, str]:
    """Whether `made` repeats `record`, and a sentence: what is equal, what differs, and what may differ.

    Args:
        record, made: of one spec, recorded and made now.
        records: of the whole bundle; other seeds of the row give the tolerance.
    """
    apart = _apart(record["environment"], made["environment"])
    weights, now = (one["info"].get("weights_sha256") for one in (record, made))
    name, key, off = max(_differences(record, made), key=lambda found: found[2])
    if weights == now and off <= EXACT:
        start = f"the same final weights, sha256 {weights[:12]}, and" if weights else "no weights to compare,"
        return True, f"bit for bit: {start} the same accuracy, ECE and NLL on each of {len(_sets(made))} sets"
    if not apart and weights == now and weights:
        return False, f"with the same final weights, but {key} on {name} differs by {off:.3g}"
    if not apart:
        return False, (
            f"with other final weights (largest difference: {off:.3g} of {key} on {name}), although machine, packages "
            "and code go by the same names, where it must be the same bit for bit"
        )
    return _elsewhere(record, made, [] if weights == now and weights else records, apart)


def _elsewhere(record: Record, made: Record, records: Sequence[Record], apart: Sequence[str]) -> tuple[bool, str]:
    """`judge` where the last bits may differ; without any records the weights are the same, and evaluation rounds."""
    row = [other for other in records if _is_of_row(other, record)]
    found = []
    for name, key, off in _differences(record, made):
        if key == "accuracy":
            seeds = [_sets(other)[name]["accuracy"] for other in row if name in _sets(other)]
            allowed = _allowed(seeds) if records else LEAST
            found.append((off / allowed, name, off, allowed))
    ratio, name, off, allowed = max(found)
    rounds, why = "other last bits are amplified as another seed would be", "one seed"
    if len(row) > 1:
        why = f"{SPREADS} standard deviations over {len(row)} seeds, at least {100 * LEAST:g}"
    if not records:
        rounds, why = "the same final weights are evaluated with other last bits", "the same weights"
    return ratio <= 1, (
        f"elsewhere ({'; '.join(apart)}), where {rounds}: accuracy is nearest to what is allowed on {name}, "
        f"{100 * off:.2f} points off of {100 * allowed:.2f} ({why})"
    )


def _allowed(accuracies: Sequence[float]) -> float:
    return max(LEAST, SPREADS * statistics.stdev(accuracies)) if len(accuracies) > 1 else ALONE


def _sets(record: Record) -> dict[str, Any]:
    """Metrics of every set, of the retention sets too."""
    kept = record.get("retention", {})
    return {**record["sets"], **{f"{name} (retained)": metrics for name, metrics in kept.items()}}


def _differences(record: Record, made: Record) -> list[tuple[str, str, float]]:
    """(set, metric, absolute difference); an infinite likelihood, null in a record, must be one again."""
    found = []
    again = _sets(made)
    for name, metrics in _sets(record).items():
        for key in METRICS:
            pair = (metrics[key], again[name][key])
            missing = float("inf") if pair[0] != pair[1] else 0.0
            found.append((name, key, missing if None in pair else abs(pair[0] - pair[1])))
    return found


def _is_of_row(other: Record, record: Record) -> bool:
    """Whether two runs differ in their seed alone."""
    specs = ({k: v for k, v in one["spec"].items() if k not in ("seed", "inputs")} for one in (other, record))
    return len({repr(sorted(spec.items())) for spec in specs}) == 1


def _apart(recorded: Record, here: Record) -> list[str]:
    """What differs of machine, packages and code, in words; records before `vectors` do not say which they had."""
    pairs = [(key, recorded.get(key), here.get(key)) for key in ("cpu", "platform", "device", "threads", "python")]
    pairs += [(key, recorded.get(key, here[key]), here[key]) for key in ("vectors",) if key in here]
    packages = [one.get("packages", {}) for one in (recorded, here)]
    pairs += [(name, packages[0].get(name), packages[1].get(name)) for name in sorted({*packages[0], *packages[1]})]
    if recorded.get("code_hash") and here.get("code_hash"):  # another commit may have the same code
        pairs.append(("code", recorded["code_hash"], here["code_hash"]))
    else:
        commits = [str(one.get("commit"))[:8] for one in (recorded, here)]
        dirty = ["yes" if one.get("dirty") else "no" for one in (recorded, here)]
        pairs += [("commit", commits[0], commits[1]), ("uncommitted changes", dirty[0], dirty[1])]
    found = [f"{key} {now}, recorded {before}" for key, before, now in pairs if before != now]
    if len(recorded.get("processors", ())) > 1:
        found.append(f"recorded on several processors: {', '.join(recorded['processors'])}")
    return found
