"""The one loop that trains every method."""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..backbones import DualEncoder
from ..datasets.loaders import Batch, train_batches
from .base import Context, Method, Settings, Start, Task
from .checkpoints import Checkpoints
from .classifier import Classifier
from .dynamics import Dynamics
from .parallel import World, backward_in_parts, check_settings, cut, join
from .schedules import clip_limit, learning_rate

if TYPE_CHECKING:
    from ..datasets.card import EvalData

__all__ = ["Fitted", "Interrupted", "NonFinite", "Settings", "Task", "Training", "fit"]


class Interrupted(Exception):
    """The run was asked to stop; its checkpoint is written, and `fit` called again goes on from there."""


class NonFinite(ArithmeticError):
    """A loss term, a weight or another part of the state is NaN or infinite; the message names it and the step."""


@dataclass
class Fitted:
    """What a run leaves."""

    classifier: Classifier
    curves: list[dict[str, float]] = field(default_factory=list)
    """One row every `log_every` steps and at the last: step, lr, each weighted term, total, logit_scale
    where there is one."""
    images_seen: int = 0
    train_seconds: float = 0.0
    """Wall time of preparation and steps, summed over resumes."""
    info: dict[str, Any] = field(default_factory=dict)
    """Small values that the method chose, e.g. the probe's C."""
    dynamics: list[dict[str, float | None]] = field(default_factory=list)
    """Teacher against student at 25, 50, 75 and 100 % of the steps: `dynamics.Dynamics.measure`. Empty
    without a probe, without a teacher, and where outputs are not embeddings of both modalities."""


class Training:
    """Student, teacher and optimizer of a run, and the step that moves them.

    BatchNorm keeps its pretrained statistics (`settings.bn` "frozen"), or takes those of the batch ("released"):
    then the student's running statistics follow its batches, and the teacher, in train mode in these layers
    alone, has its own that follow its own forward passes. A teacher that is evaluated and never teaches has no
    forward pass to learn them from: it is given the student's at each update.

    Args:
        method: whose loss is minimised.
        student: trained in place, on its device.
        settings: schedule and optimizer.
        world: the processes that share each batch; this one alone where torch.distributed has no group.

    Raises:
        UnsupportedSettings: settings that could not be exact.
    """

    def __init__(self, method: Method, student: nn.Module, settings: Settings, world: World | None = None):
        self.world = World() if world is None else world
        check_settings(settings, self.world)
        released = settings.bn == "released"
        if released and self.world.size > 1:
            student = nn.SyncBatchNorm.convert_sync_batchnorm(student)
        self.method, self.student, self.settings = method, student, settings
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        student.train()
        _batch_norms_train(student, released)
        self.start = Start(
            self.parameters, [p.detach().clone() for p in self.parameters] if method.anchored else []
        )
        self.teacher = method.teacher(student, settings)
        if self.teacher is not None:
            _batch_norms_train(self.teacher.model, released)
        self.optimizer = torch.optim.AdamW(
            self.parameters,
            lr=settings.lr,
            betas=(0.9, 0.999),
            eps=1e-8,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def learning_rate(self, step: int) -> float:
        """The rate of that step."""
        s = self.settings
        return learning_rate(step, s.lr, s.warmup_steps, s.total_steps, s.min_lr)

    def step(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """One update; returns the weighted terms and their "total" as detached scalars on the device.

        Args:
            step: from 0. batch: the whole batch, also where several processes share it; its images may be
                those of this process's share alone.
        """
        method, settings = self.method, self.settings
        method.at_step(step, settings)
        self.optimizer.param_groups[0]["lr"] = self.learning_rate(step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = cut(self.world.own(batch), settings.micro_batch)
        whole = self.world.size == 1 and len(parts) == 1
        terms = self._backward(step, batch) if whole else self._backward_in_parts(step, batch, parts)
        limit = self._clip_limit(step)
        if limit:
            torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)
        self.optimizer.step()
        method.after_step(self.student)
        if self.teacher is not None:
            self._update_teacher(step)
        return {name: term.detach() for name, term in terms.items()}

    def _backward(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Gradients of a batch that goes through the models at once; returns the terms and their total."""
        with self._autocast():
            # The teacher goes first: what its layers leave behind is memory for the student's graph.
            taught = self.teacher.embed(batch) if self._teaches(step) else None
            outputs = self.student(batch)
        terms = self.method.loss(outputs, taught, batch) | self.method.penalty(self.student, self.start)
        total = _sum(terms)
        total.backward()
        return terms | {"total": total}

    def _backward_in_parts(self, step: int, batch: Batch, parts: list[Batch]) -> dict[str, Tensor]:
        """The same gradients from this process's parts of the batch, and from those of the other processes."""
        world, count, taught = self.world, len(batch.labels), None
        if self._teaches(step):
            with self._autocast():
                taught = world.gather(join([self.teacher.embed(part) for part in parts]), count)
        terms = backward_in_parts(
            self.student,
            parts,
            lambda outputs: self.method.loss(outputs, taught, batch),
            count,
            world=world,
            seed=self.settings.seed,
            step=step,
            autocast=self._autocast,
        )
        penalties = self.method.penalty(self.student, self.start)
        if penalties:  # once a step: from the first process
            (_sum(penalties) * (1.0 if world.rank == 0 else 0.0)).backward()
        world.sum_gradients(self.parameters)
        terms |= penalties
        return terms | {"total": _sum(terms)}

    def _teaches(self, step: int) -> bool:
        return self.teacher is not None and self.method.teaches(step)

    def _autocast(self) -> AbstractContextManager[Any]:
        """Around forward passes, never around losses."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    @torch.no_grad()
    def _update_teacher(self, step: int) -> None:
        if self.settings.bn == "released":
            own, followed = (_statistics(model) for model in (self.teacher.model, self.student))
            self.world.broadcast([*own, *followed])
            if self.method.evaluates == "teacher":
                for mine, theirs in zip(own, followed, strict=True):
                    mine.copy_(theirs)
        self.teacher.update(step)

    def _clip_limit(self, step: int) -> float:
        s = self.settings
        return (
            s.clip_norm
            if s.clip_norm_end is None
            else clip_limit(step, s.clip_norm, s.clip_norm_end, s.total_steps)
        )

    def about(self) -> dict[str, str]:
        """What the record must say of how BatchNorm was trained; nothing where it was frozen."""
        if self.settings.bn != "released":
            return {}
        said = "statistics of the batch; the teacher's are its own"
        if self.method.evaluates == "teacher":
            said = "statistics of the batch; the teacher's are the student's"
        if self.world.size > 1:
            said += f"; synchronised over {self.world.size} processes, buffers broadcast before each teacher update"
        return {"batch_norm": f"released: {said}"}

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next step depends on, by name."""
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{key}": value for key, value in moments.items()}
        if self.teacher is not None:
            tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state_dict().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave."""
        self.student.load_state_dict(_part(tensors, "student."))
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _part(tensors, "optimizer.").items():
            i, key = name.split(".")
            moments.setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict(
            {"state": moments, "param_groups": self.optimizer.state_dict()["param_groups"]}
        )
        if self.teacher is not None:
            self.teacher.load_state_dict(_part(tensors, "teacher."))
        torch.set_rng_state(tensors["rng.cpu"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["rng.cuda"], self.device)

    def checked_state(self, step: int) -> dict[str, Tensor]:
        """`state`; NonFinite if anything in it is not finite, so that no such thing is ever saved."""
        weights = torch.stack(torch._foreach_norm([p.detach() for p in self.parameters]))
        state = self.state() if weights.sum().isfinite() else {"weights": weights.sum()}
        for name, tensor in state.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise NonFinite(f"{name}: not finite after {step} steps; lower lr or set clip_norm.")
        return state


def fit(
    method: Method,
    encoder: DualEncoder,
    task: Task,
    settings: Settings,
    *,
    checkpoints: Checkpoints,
    validate: Callable[[Classifier], float],
    inputs: Mapping[str, Mapping[str, Any]] | None = None,
    on_step: Callable[[int, int], None] = lambda step, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    probe: "EvalData | None" = None,
    workers: int = 0,
) -> Fitted:
    """Trains a method from its start or its newest checkpoint, and returns the classifier to evaluate.

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
        validate: ID-validation negative log-likelihood of a classifier; smaller is better.
        inputs: finished runs that `method.inputs` names: {"ft": {"tensors": ..., "meta": ...}}.
        on_step: called with (steps done, total) after each step, in every process.
        should_stop: asked before each step and during preparation; True saves a checkpoint and raises
            Interrupted.
        probe: fixed ID-validation images on which teacher and student are compared during the run; changes no
            weight.
        workers: processes that load batches ahead; 0 loads in this one. Changes nothing but speed.

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
            raise Interrupted("stopped before the first step; nothing to save.")

    torch.manual_seed(settings.seed)
    context = Context(encoder, task, settings, validate, inputs or {}, check_stop)
    if not method.trained:
        return Fitted(method.finish(None, context).eval())

    began = time.perf_counter()
    saved = checkpoints.latest()
    step = saved[0] if saved else 0
    if world.largest(step) != -world.largest(-step):
        raise RuntimeError(
            f"fit: processes see different checkpoints, this one step {step}; share their folder."
        )
    student = method.student(context).eval()
    # Before anything is prepared or restored, the student has the pretrained weights.
    distils = probe is not None and type(method).teacher is not Method.teacher
    watch = Dynamics(probe, task.caption_tokens, student, settings) if distils else None
    info = saved[2]["info"] if saved else method.prepare(student, context)
    world.broadcast(list(student.state_dict().values()))
    training = Training(method, student, settings, world)
    curves, dynamics, before = [], [], 0.0
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
    )
    for batch in batches:
        if stops():
            save()
            raise Interrupted(f"stopped after {step} of {settings.total_steps} steps.")
        terms = training.step(step, batch.to(training.device))
        step += 1
        if (step - 1) % settings.log_every == 0 or step == settings.total_steps:
            curves.append(_row(training, step - 1, terms))
        if watch is not None and training.teacher is not None:
            row = watch.measure(step, student, training.teacher.model)
            dynamics += [] if row is None else [_finite(row, step)]
        on_step(step, settings.total_steps)
        if step < settings.total_steps and checkpoints.due(step):
            save()
    training.checked_state(step)
    elapsed = seconds()
    model = training.teacher.model if method.evaluates == "teacher" else training.student
    classifier = method.finish(model, context).eval()
    if world.rank:
        curves, dynamics = [], []
    images = settings.total_steps * settings.batch_size
    return Fitted(classifier, curves, images, elapsed, info | training.about(), dynamics)


_STOP, _FAILED = 1, 2


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _batch_norms_train(model: nn.Module, mode: bool) -> None:
    for module in _batch_norms(model):
        module.train(mode)


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running statistics of the BatchNorm layers."""
    return [buffer for module in _batch_norms(model) for buffer in module.buffers()]


def _row(training: Training, step: int, terms: Mapping[str, Tensor]) -> dict[str, float]:
    """A row of the curves, in one transfer from the device; NonFinite if a term is not finite."""
    encoder = getattr(training.student, "encoder", None)
    scale = {} if encoder is None else {"logit_scale": encoder.logit_scale.detach()}
    named = {**terms, **scale}
    values = dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))
    return {"step": step, "lr": training.learning_rate(step), **_finite(values, step)}


def _finite(values: dict[str, Any], step: int) -> dict[str, Any]:
    """The values; NonFinite that names the first that is not finite."""
    for name, value in values.items():
        if value is not None and not abs(value) < float("inf"):
            raise NonFinite(f"{name}: {value} at step {step}; lower lr or set clip_norm.")
    return values


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
