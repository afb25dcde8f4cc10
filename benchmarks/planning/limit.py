"""What a plan changes where fewer images are trained on than a recipe is for: in a rehearsal, or on few shots.

So any suite runs in minutes on the images that `--limit` leaves.
"""

from typing import Any, TypeGuard

from .request import DataFacts


def shrink(values: dict[str, Any], sources: dict[str, str], data: DataFacts) -> None:
    """Fit batch, steps and warm-up to the images that are left, in place; what a person gave with --set stays.

    The number of passes over the images is kept, so that epochs stay epochs. A limit from the grid of a study is no
    rehearsal, and changes nothing else; nor do the shots of a suite, whose recipe is for them. Shots that were set by
    hand always scale the warm-up with the steps.

    Args:
        values: key -> value; `epochs` not yet turned into steps.
        sources: key -> where its value is from.
        data: the facts of the whole set.
    """
    limit, shots, size = values.get("train_limit"), values.get("shots"), values.get("batch_size")
    by_hand = shots is not None and _given(sources, "shots")
    if sources.get("train_limit", "").startswith("grid"):
        return  # the study's own question: the same steps on fewer images
    whole = data.images(None if by_hand else shots, None)
    left = data.images(shots, limit)
    if not _positive(size) or left >= whole:
        return
    why = ", fitted to the shots" if left == data.images(shots, None) else ", fitted to the rehearsal"

    def put(key: str, value: Any) -> None:
        values[key] = value
        sources[key] += why

    if size > left and not _given(sources, "batch_size"):
        put("batch_size", left)
    size = values["batch_size"]
    if _positive(values.get("steps")) and not _given(sources, "steps"):
        put("steps", max(2, round(values["steps"] * left / whole)))
    steps = values["epochs"] * max(1, left // size) if _positive(values.get("epochs")) else values.get("steps")
    warmup = values.get("warmup_steps")
    if (
        _positive(steps)
        and type(warmup) is int
        and (by_hand or warmup >= steps)
        and not _given(sources, "warmup_steps")
    ):
        put("warmup_steps", "scaled")


def _positive(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _given(sources: dict[str, str], key: str) -> bool:
    return sources[key].startswith("--set")
