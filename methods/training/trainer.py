"""The one loop that trains every method."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...backbones import DualEncoder
from ...datasets.loaders import train_batches
from ..base import Context, HeadBuilder, Method, Settings, Task, build_anew
from ..predictor import Predictor
from ..two_tower import TwoTower
from .checkpoints import Checkpoints
from .dynamics import Dynamics
from .parallel import World, check_settings
from .step import NonFinite, Training

if TYPE_CHECKING:
    from ...datasets.card import EvalData

__all__ = ["Fitted", "Interrupted", "NonFinite", "Settings", "Task", "Training", "fit"]


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written, and `fit` called again goes on from there."""


@dataclass
class Fitted:
    """What a run leaves."""

    classifier: Predictor
    curves: list[dict[str, float]] = field(default_factory=list)
    """One row every `log_every` steps and at the last: step, lr, each weighted term, total, logit_scale and logit_bias
    where there are such."""
    images_seen: int = 0
    train_seconds: float = 0.0
    """Wall time of preparation and steps, summed over resumes."""
    info: dict[str, Any] = field(default_factory=dict)
    """Small values that the method chose, e.g. the probe's C."""
    dynamics: list[dict[str, float | None]] = field(default_factory=list)
    """Teacher against student at 25, 50, 75 and 100 % of the steps: `dynamics.Dynamics.measure`. Empty
    without a probe, without a teacher, and where outputs are not embeddings of both modalities."""
    text: dict[str, Tensor] = field(default_factory=dict)
    """`DualEncoder.text_state` of the model that made the classifier, where its text tower was trained; else empty."""


def fit(
    method: Method[Any, Any],
    encoder: DualEncoder,
    task: Task,
    settings: Settings,
    *,
    checkpoints: Checkpoints,
    validate: Callable[[Predictor], float],
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    on_row: Callable[[Mapping[str, float]], None] = lambda row: None,
    should_stop: Callable[[], bool] = lambda: False,
    probe: "EvalData | None" = None,
    workers: int = 0,
    head_builder: HeadBuilder = build_anew,
) -> Fitted:
    """Trains a method from its start or its newest checkpoint, and returns the predictor to evaluate.

    On CPU with a fixed thread count, a run that was interrupted anywhere ends with the same bits as one
    that was not.

    Where torch.distributed has a process group, its processes train one run together, each on its own
    `settings.device`, and all call this with the same arguments: each makes the images of its share of every
    batch. They stop at the same step when any is asked to. The first alone saves checkpoints, in a folder that
    all can read, and has curves and dynamics to return; the classifier is the same in all.

    Args:
        method: with its hyperparameters.
        encoder: pretrained, on `settings.device`; the run trains it in place.
        task: data, classes, prompts.
        settings: schedule, optimizer, seed.
        checkpoints: where to resume from and to save to; they stay there, the caller clears them.
        validate: ID-validation negative log-likelihood of a predictor; smaller is better.
        inputs: finished runs that `method.inputs` names: {"ft": {"tensors": ..., "meta": ...}}.
        on_step: called with (steps done, total) after each step, in every process.
        on_row: called with each new row of the curves.
        should_stop: asked before each step, which saves a checkpoint, and while a method prepares or a head is built;
            True raises Interrupted.
        probe: fixed ID-validation images on which teacher and student are compared during the run; changes no
            weight.
        workers: processes that load batches ahead; 0 loads in this one. Changes nothing but speed.
        head_builder: what builds, or has kept, the zero-shot heads that the method asks for. Changes nothing but speed.

    Raises:
        UnsupportedSettings: settings that could not be exact; nothing has been trained.
        Interrupted: see should_stop.
        NonFinite: a term, a weight or another part of the run's state is NaN or infinite.
        OSError: a checkpoint cannot be written.
        RuntimeError: another process of the run has failed, or sees other checkpoints.
    """
    world = World()
    check_settings(settings, world)

    def stops() -> bool:
        flag = world.largest(_STOP if should_stop() else 0)
        if flag == _FAILED:
            raise RuntimeError("fit: another process of this run failed; see its message.")
        return flag == _STOP

    def check_stop() -> None:
        if stops():
            raise Interrupted("stopped before the first or after the last step; nothing new to save.")

    torch.manual_seed(settings.seed)
    context = Context(encoder, task, settings, validate, inputs or {}, check_stop, head_builder)
    if not method.trained:
        return Fitted(method.finish(None, context).eval())

    began = time.perf_counter()
    saved = checkpoints.latest()
    step = saved[0] if saved else 0
    if world.largest(step) != -world.largest(-step):
        raise RuntimeError(f"fit: processes see different checkpoints, this one step {step}; share their folder.")
    student = method.student(context).eval()
    # Before anything is prepared or restored, the student has the pretrained weights.
    watch = None
    if probe is not None and type(method).teacher is not Method.teacher:
        watch = Dynamics(probe, task.caption_tokens, student, settings, method.views, task.cuts_text)
    info = saved[2]["info"] if saved else method.prepare(student, context)
    world.broadcast(list(student.state_dict().values()))
    training = Training(method, student, settings, world)
    curves, dynamics, before = [], [], 0.0
    unread: list[tuple[int, dict[str, Tensor]]] = []  # terms since the last row, on the device
    if saved:
        meta = saved[2]
        curves, dynamics, before = meta["curves"], meta.get("dynamics", []), meta["train_seconds"]
        training.restore(saved[1])

    def seconds() -> float:
        return before + time.perf_counter() - began

    def save() -> None:
        if world.rank:
            return
        try:
            state = training.checked_state(step)
            meta = {"info": info, "curves": curves, "dynamics": dynamics, "train_seconds": seconds()}
            checkpoints.save(step, state, meta)
        except BaseException:
            world.largest(_FAILED)  # the others ask whether to stop next
            raise

    batches = train_batches(
        world.images(task.dataset),
        task.caption_tokens,
        batch_size=settings.batch_size,
        seed=settings.seed,
        start_step=step,
        total_steps=settings.total_steps,
        workers=workers,
        pin=training.device.type == "cuda",
        views=method.views,
        cut=task.cuts_text,
    )
    for batch in batches:
        if stops():
            save()
            raise Interrupted(f"stopped after {step} of {settings.total_steps} steps.")
        terms = training.step(step, batch.to(training.device))
        unread.append((step, terms))
        step += 1
        if (step - 1) % settings.log_every == 0 or step == settings.total_steps:
            _check_terms(unread)
            curves.append(_row(training, step - 1, terms))
            unread.clear()
            on_row(curves[-1])
        if watch is not None and training.teacher is not None:
            row = watch.measure(step, student, training.teacher.model)
            dynamics += [] if row is None else [_finite(row, step)]
        on_step(step, settings.total_steps)
        if step < settings.total_steps and checkpoints.due(step):
            save()
    training.checked_state(step)
    elapsed = seconds()
    training.end()
    evaluated = training.teacher if method.evaluates == "teacher" else None
    model = training.student if evaluated is None else evaluated.model
    classifier = method.finish(model, context).eval()
    if world.rank:
        curves, dynamics = [], []
    images = settings.total_steps * settings.batch_size * method.views
    text = model.encoder.text_state() if isinstance(model, TwoTower) and task.trainable == "all" else {}
    return Fitted(classifier, curves, images, elapsed, info | training.about(), dynamics, text)


_STOP, _FAILED = 1, 2


def _check_terms(unread: list[tuple[int, dict[str, Tensor]]]) -> None:
    """NonFinite that names the first term and step; one transfer from the device for all of them."""
    if unread:
        values = iter(torch.stack([term for _, terms in unread for term in terms.values()]).tolist())
        for step, terms in unread:
            _finite({name: next(values) for name in terms}, step)


def _row(training: Training, step: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """A row of the curves, in one transfer from the device; NonFinite if a term is not finite."""
    encoder = getattr(training.student, "encoder", None)
    named = dict(terms)
    if encoder is not None:
        named["logit_scale"] = encoder.logit_scale.detach()
        if encoder.logit_bias is not None:
            named["logit_bias"] = encoder.logit_bias.detach()
    values = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
    return {"step": step, "lr": training.learning_rate(step), **_finite(values, step)}


def _finite(values: dict[str, Any], step: int) -> dict[str, Any]:
    """The values; NonFinite that names the first that is not finite."""
    for name, value in values.items():
        if value is not None and not abs(value) < float("inf"):
            raise NonFinite(f"{name}: {value} at step {step}; lower lr or set clip_norm.")
    return values
