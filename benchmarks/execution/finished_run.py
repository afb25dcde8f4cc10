"""A finished run as a model again: both towers in an encoder, and the classifier that was evaluated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ... import backbones
from ...backbones import DualEncoder
from ...datasets import catalogue
from ...datasets.card import DatasetCard
from ...methods.base import Context, Method
from ...methods.classifier import Classifier
from ...methods.predictor import Predictor
from ...methods.predictor import restore as restore_predictor
from ...methods.two_tower import TwoTowerMethod
from ...methods.zero_shot import ZeroShot
from ...results.records.records import Record, read_record
from ..errors import UserError
from ..planning import benchmark as facts
from ..planning import data_check
from ..run_folder.folder import RunFolder
from ..run_folder.plan import Plan, make_known
from ..run_folder.spec import RunSpec
from . import kept_heads, whereabouts
from .final_weights import load_input, load_text, load_weights
from .run import builds_head, make_method, make_settings, make_task

HEAD_TOLERANCE = 1e-2
"""By how much, in parts of logit_scale, the head that a text tower builds here may differ from the run's, which another
kind of processor may have built."""


@dataclass(frozen=True)
class Point:
    """A value on the path of a method, as alpha = 0.5."""

    parameter: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Point":
        """Of `alpha=0.5`; UserError where it is none."""
        parameter, _, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not parameter.strip() or not math.isfinite(number):
            raise UserError(f"--at: must be a parameter and a number, as alpha=0.5, got '{text}'.")
        return cls(parameter.strip(), number)


@dataclass(frozen=True)
class FinishedRun:
    """What a run ended in."""

    plan: Plan
    record: Record
    card: DatasetCard
    """Of its data: class names and prompts."""
    encoder: DualEncoder
    """Its image tower is the run's. Its text tower is, too, where `text_trained`, else the pretrained one."""
    classifier: Classifier
    """The one that was evaluated, or the one at `at`; it shares the image tower of `encoder`."""
    text_trained: bool
    head_of_text: bool
    """Whether the head is what the text tower of `encoder` builds of class names and prompts."""
    at: Point | None = None


def restore(folder: RunFolder, at: Point | None = None) -> FinishedRun:
    """The model of a finished run, on the CPU; reads no image of registered data.

    Args:
        at: a point of its method's path in place of the value that the run has.

    Raises:
        UserError: one sentence where the run is not finished, did not keep its weights, or where backbone, classes or
            method are no longer those that it was made with.
    """
    record, plan = _record(folder), Plan.read(folder)
    make_known(plan, folder)
    spec = plan.spec
    if spec.given:
        raise UserError(
            f"{folder.path.name}: is a checkpoint that was given, not trained here; take it from where it is."
        )
    method = make_method(spec)
    if at is not None:
        _check_path(at, spec, method)
    tensors, about = load_weights(folder)
    text = load_text(folder, about)
    if not text and spec.trainable == "all" and isinstance(method, TwoTowerMethod):
        raise UserError(
            f"{folder.path.name}: was made before text towers were kept, and {spec.method} trained its own, which is "
            f"lost; {_again(folder)}."
        )
    if backbones.weights_id(spec.backbone) != spec.weights:
        raise UserError(
            f"backbone {spec.backbone}: must have the weights {spec.weights} that the run began from, got "
            f"{backbones.weights_id(spec.backbone)}; {backbones.other_weights(spec.backbone)}."
        )
    card, encoder = _card(plan, folder), backbones.load(spec.backbone)
    if at is not None:
        classifier = _point(folder, spec, method, card, encoder, at)
    else:
        classifier = _linear(restore_predictor(encoder, tensors, about["classifier"]), spec)
    if text:
        encoder.load_text_state(text)
    head_of_text = builds_head(method, bool(text)) and at is None
    if head_of_text:
        head = kept_heads.head(encoder, card.class_names, card.prompts, trained=bool(text))
        apart = _apart(encoder, classifier, head)
        head_of_text = apart <= HEAD_TOLERANCE
        if not head_of_text and type(method).finish in (TwoTowerMethod.finish, ZeroShot.finish):
            raise UserError(
                f"{folder.path.name}: the text tower that it kept does not build its head (they differ by {apart:.2g} "
                f"of logit_scale); {_again(folder)}."
            )
    return FinishedRun(plan, record, card, encoder, classifier, bool(text), head_of_text, at)


def _record(folder: RunFolder) -> Record:
    if not folder.path.is_dir() or not folder.done():
        raise UserError(f"{folder.path}: must be the folder of a finished run; see `robustft status`.")
    record = read_record(folder.record)
    if record["kind"] != "run":
        raise UserError(f"{folder.path.name}: must be a run, got a trial of the tuning; name a run with its settings.")
    if not folder.weights.exists():
        raise UserError(
            f"{folder.path.name}: its final weights were not kept (--keep {folder.keeps()}); {_again(folder)}."
        )
    return record


def _again(folder: RunFolder) -> str:
    """How to have a run made once more, with what it keeps."""
    return f"delete {folder.path} and start its sweep again with --keep final"


def _check_path(at: Point, spec: RunSpec, method: Method) -> None:
    if method.path is None:
        raise UserError(
            f"--at: is for methods with a path, as wise_ft, got a run of {spec.method}; export it without --at."
        )
    if at.parameter != method.path:
        raise UserError(f"--at: must name {method.path}, along which {spec.method} runs, got '{at.parameter}'.")


def _card(plan: Plan, folder: RunFolder) -> DatasetCard:
    """Class names and prompts, which registered data tell without their images."""
    spec = plan.spec
    if catalogue.has_own(plan.dataset):
        data = whereabouts.find(plan, folder)
    else:
        data = facts.dataset_now(plan.dataset, spec.backbone, spec.allow_partial, spec.decode)
    now = spec.fingerprint if spec.allow_partial else data_check.fingerprint(data, False)
    if now != spec.fingerprint:
        raise UserError(
            f"{plan.dataset}: must be the data of the run, {spec.fingerprint[:12]}, got {now[:12]}; the "
            "classes of its head may be others."
        )
    return data.card


def _point(
    folder: RunFolder, spec: RunSpec, method: Method, card: DatasetCard, encoder: DualEncoder, at: Point
) -> Classifier:
    """The classifier at a value of the path, in the towers of the encoder, which has the pretrained weights."""
    inputs: Mapping[str, Any] = {name: load_input(folder, spec, name) for name in spec.inputs}
    context = Context(
        encoder,
        make_task(_Classes(card), encoder, spec.trainable),
        make_settings(spec, "cpu"),
        _no_validation,
        inputs,
        head_builder=kept_heads.head,
    )
    torch.manual_seed(spec.seed)  # as the run does
    line = method.line(context)
    first, last = line.values[0], line.values[-1]
    if not first <= at.value <= last:
        raise UserError(f"--at: {at.parameter} must be from {first:g} to {last:g}, got {at.value:g}.")
    return _linear(line.at(at.value), spec).eval()


@dataclass(frozen=True)
class _Classes:
    """Data of which only the card is needed."""

    card: DatasetCard


def _linear(predictor: Predictor, spec: RunSpec) -> Classifier:
    """The predictor, which must be an image tower under a linear head."""
    if isinstance(predictor, Classifier):
        return predictor
    raise UserError(
        f"{spec.method}: ends in a predictor of kind {predictor.kind}; what can be exported is an image tower under a "
        "linear head."
    )


def _no_validation(predictor: Predictor) -> float:
    raise UserError("--at: the method chooses its path on images, which an export does not read.")


def _apart(encoder: DualEncoder, classifier: Classifier, head: torch.Tensor) -> float:
    """Largest difference of the run's head to the one that the text tower builds, in parts of logit_scale."""
    off = (head - classifier.weight).abs().max()
    return (torch.maximum(off, classifier.bias.abs().max()) / encoder.logit_scale).item()
