"""Combinations of values that no run may have; refused when it is planned."""

from collections.abc import Mapping
from typing import Any

from ...datasets.shots import few_text
from ...methods.base import Method
from ..errors import UserError
from ..run_folder.spec import TRAINING_FIELDS, RunSpec
from .request import DataFacts, Facts, MethodClass, check_chooses_nothing, learns
from .suite.suite import Suite


def check(spec: RunSpec, sources: dict[str, str], suite: Suite, facts: Facts, data: DataFacts) -> None:
    """UserError, with the source of the value, for a spec that cannot be run or would not be what its name says.

    Args:
        data: of the pictures that the run sees.
    """
    if learns(facts.methods[spec.method]):
        for key in TRAINING_FIELDS:
            if getattr(spec, key) is None:
                raise UserError(f"{key}: must be set for {spec.method}, got null ({sources[key]}); give a value.")
    _check_distillation(spec, sources, facts.methods[spec.method].distils_by)
    if reason := refusal(facts.methods[spec.method], spec.hyper, spec.backbone, facts):
        raise UserError(f"{reason}.")
    if facts.embedded and spec.decode != "exact":
        raise UserError(
            f"decode: must be 'exact' on {suite.dataset}, whose pictures are drawn and not read from files, "
            f"got '{spec.decode}' ({sources['decode']}); leave it out."
        )
    if spec.steps is not None and spec.warmup_steps is not None and spec.warmup_steps >= spec.steps:
        raise UserError(
            f"warmup_steps: must be below the {spec.steps} steps of the run, got {spec.warmup_steps} "
            f"({sources['warmup_steps']}); set it lower, or to 'scaled'."
        )
    if spec.shots is not None:
        _check_shots(spec, spec.shots, sources, suite, facts, data)
    images = data.images(spec.shots, spec.train_limit)
    if spec.batch_size is not None and spec.batch_size > images:
        raise UserError(
            f"batch_size: must be at most {images}, the number of training images of "
            f"{suite.dataset_of(spec.recipe)}, got {spec.batch_size} ({sources['batch_size']}); lower it."
        )
    if not data.has_validation:
        check_chooses_nothing(facts.methods[spec.method], spec, suite.dataset_of(spec.recipe))


def _check_shots(
    spec: RunSpec, shots: int, sources: dict[str, str], suite: Suite, facts: Facts, data: DataFacts
) -> None:
    """Refuse more shots than a class has images, and what reads runs of several seeds, each of which drew its own."""
    if data.rarest is not None and data.rarest[1] < shots:
        raise UserError(few_text(*data.rarest, shots, suite.dataset_of(spec.recipe)))
    if facts.methods[spec.method].pools():
        raise UserError(
            f"shots: must be left out of {spec.method}, which reads runs of several seeds, each trained on images of "
            f"its own, got {shots} ({sources['shots']}); leave out the method or the shots."
        )


def refusal(method: MethodClass, hyper: Mapping[str, Any], backbone: str, facts: Facts) -> str:
    """Why a method cannot be meant on a backbone, a sentence without its full stop; "" where it can.

    The backbone is looked at only for a method that has something to ask of it: most can be on any.
    """
    if facts.traits is None or method.refuses.__func__ is Method.refuses.__func__:  # type: ignore[attr-defined]
        return ""
    return method.refuses(method.Hyper(**{**method.introduced, **hyper}), facts.traits(backbone))


def _check_distillation(spec: RunSpec, sources: dict[str, str], groups: tuple[tuple[str, ...], ...]) -> None:
    """Refuse a distilling method whose weights are all 0, as in the released tracer.sh, unless a person says so.

    Args:
        groups: `Method.distils_by`.
    """
    off = [key for group in groups for key in group if all(spec.hyper.get(other) == 0 for other in group)]
    if off and not any(sources[key].startswith(("--set", "grid")) for key in off):
        raise UserError(
            f"{spec.method}: must distil with some weight above 0, got {off[0]}=0 ({sources[off[0]]}), which "
            f"trains plain FLYP; give a weight, or say that you mean it with --set {off[0]}=0."
        )
