"""What a plan changes for a rehearsal, so that any suite runs in minutes on the images that `--limit` leaves."""

from typing import Any, TypeGuard


def shrink(values: dict[str, Any], sources: dict[str, str], train_size: int) -> None:
    """Fit batch, steps and warm-up to `train_limit` images, in place; what a person gave with --set stays.

    The number of passes over the images is kept, so that epochs stay epochs. A limit from the grid of a study is no
    rehearsal, and changes nothing else.

    Args:
        values: key -> value; `epochs` not yet turned into steps.
        sources: key -> where its value is from.
        train_size: training images of the whole set.
    """
    limit, size = values.get("train_limit"), values.get("batch_size")
    if sources.get("train_limit", "").startswith("grid"):
        return  # the study's own question: the same steps on fewer images
    if not _positive(limit) or not _positive(size) or limit >= train_size:
        return
    if size > limit and not _given(sources, "batch_size"):
        _put(values, sources, "batch_size", limit)
    size = values["batch_size"]
    if _positive(values.get("steps")) and not _given(sources, "steps"):
        _put(values, sources, "steps", max(2, round(values["steps"] * limit / train_size)))
    steps = values["epochs"] * max(1, limit // size) if _positive(values.get("epochs")) else values.get("steps")
    warmup = values.get("warmup_steps")
    if _positive(steps) and type(warmup) is int and warmup >= steps and not _given(sources, "warmup_steps"):
        _put(values, sources, "warmup_steps", "scaled")


def _positive(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def _given(sources: dict[str, str], key: str) -> bool:
    return sources[key].startswith("--set")


def _put(values: dict[str, Any], sources: dict[str, str], key: str, value: Any) -> None:
    values[key] = value
    sources[key] += ", fitted to the rehearsal"
