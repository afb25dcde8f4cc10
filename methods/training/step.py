"""One step of a run: student, teacher, optimizer, and the gradients that move them."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...datasets.loaders import Batch
from ..base import Method, Settings, Start
from ..schedules import clip_limit, learning_rate
from ..teachers import StaticTeacher
from .named_state import load_optimizer, optimizer_state, packed, unpacked
from .parallel import UnsupportedSettings, World, backward_in_parts, check_settings, cut, join
from .towers import keep_activations


class NonFinite(ArithmeticError):
    """A loss term, a weight or another part of the state is NaN or infinite; the message names it and the step."""


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
        UnsupportedSettings: settings that could not be exact, or an optimizer that is not for what is trained.
    """

    def __init__(self, method: Method[Any, Any], student: nn.Module, settings: Settings, world: World | None = None):
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
        self.start = Start(self.parameters, [p.detach().clone() for p in self.parameters] if method.anchored else [])
        self.teacher = method.teacher(student, settings)
        if self.teacher is not None:
            _batch_norms_train(self.teacher.model, released)
        self.optimizer = method.optimizer(student, settings)
        _check_optimizer(self.optimizer, student)
        groups = self.optimizer.param_groups
        self._scales = [float(group["lr"]) / settings.lr if settings.lr else 1.0 for group in groups]
        """Of each group: its own rate at the peak, in shares of the run's."""
        self._group_start = [copy.deepcopy({k: v for k, v in group.items() if k != "params"}) for group in groups]
        if self.world.size > 1:
            self._share_state()
        # After the teacher was made, which has nothing to compute again.
        if settings.checkpoint_activations:
            keep_activations(student, False)

    def end(self) -> None:
        """From now on the towers compute as before: what is evaluated does not depend on how it was trained."""
        if self.settings.checkpoint_activations:
            keep_activations(self.student, True)

    def _share_state(self) -> None:
        """What `prepare` left in the method is the first process's everywhere."""
        own = {name: tensor.to(self.device) for name, tensor in packed("method", self.method.state()).items()}
        self.world.broadcast(list(own.values()))
        if own:
            self.method.load_state(unpacked("method", own, self.device))

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
        for group, scale in zip(self.optimizer.param_groups, self._scales, strict=True):
            group["lr"] = self.learning_rate(step) * scale
        self.optimizer.zero_grad(set_to_none=True)
        parts = cut(self.world.own(batch), settings.micro_batch)
        whole = self.world.size == 1 and len(parts) == 1
        terms = self._backward(step, batch) if whole else self._backward_in_parts(step, batch, parts)
        with torch.no_grad():
            method.before_step(self.student, self.start, step)
        limit = self._clip_limit(step)
        if limit:
            torch.nn.utils.clip_grad_norm_(self.parameters, limit, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            method.after_step(self.student, self.start, step)
        if self.teacher is not None:
            self._update_teacher(self.teacher, step)
        return {name: term.detach() for name, term in terms.items()}

    def _backward(self, step: int, batch: Batch) -> dict[str, Tensor]:
        """Gradients of a batch that goes through the models at once; returns the terms and their total."""
        with self._autocast():
            # The teacher goes first: what its layers leave behind is memory for the student's graph.
            teacher = self._teaching(step)
            taught = teacher.embed(batch) if teacher is not None else None
            outputs = self.student(batch)
        terms = self.method.loss(outputs, taught, batch) | self.method.penalty(self.student, self.start)
        total = _sum(terms)
        total.backward()
        return terms | {"total": total}

    def _backward_in_parts(self, step: int, batch: Batch, parts: list[Batch]) -> dict[str, Tensor]:
        """The same gradients from this process's parts of the batch, and from those of the other processes."""
        world, count, taught = self.world, len(batch.labels), None
        teacher = self._teaching(step)
        if teacher is not None:
            with self._autocast():
                taught = world.gather(join([teacher.embed(part) for part in parts]), count)
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

    def _teaching(self, step: int) -> StaticTeacher | None:
        """The teacher, at a step where `loss` reads what it says."""
        return self.teacher if self.method.teaches(step) else None

    def _autocast(self) -> AbstractContextManager[Any]:
        """Around forward passes, never around losses."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    @torch.no_grad()
    def _update_teacher(self, teacher: StaticTeacher, step: int) -> None:
        if self.settings.bn == "released":
            own, followed = (_statistics(model) for model in (teacher.model, self.student))
            self.world.broadcast([*own, *followed])
            if self.method.evaluates == "teacher":
                for mine, theirs in zip(own, followed, strict=True):
                    mine.copy_(theirs)
        teacher.update(step)

    def _clip_limit(self, step: int) -> float:
        s = self.settings
        return s.clip_norm if s.clip_norm_end is None else clip_limit(step, s.clip_norm, s.clip_norm_end, s.total_steps)

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
        tensors |= optimizer_state(self.optimizer, self._group_start)
        # A checkpoint holds no two names of one memory: what a method keeps may be a weight.
        tensors |= {name: tensor.clone() for name, tensor in packed("method", self.method.state()).items()}
        if self.teacher is not None:
            tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.state_dict().items()}
        tensors["rng.cpu"] = torch.get_rng_state()
        if self.device.type == "cuda":
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self.device)
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what `state` gave."""
        self.student.load_state_dict(_part(tensors, "student."))
        load_optimizer(self.optimizer, tensors)
        if state := unpacked("method", tensors, self.device):
            self.method.load_state(state)
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


def _sum(terms: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


def _check_optimizer(optimizer: torch.optim.Optimizer, student: nn.Module) -> None:
    """UnsupportedSettings unless its groups hold exactly the trained parameters."""
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = {id(p): name for name, p in student.named_parameters() if p.requires_grad}
    if left_out := [name for key, name in trained.items() if key not in held]:
        raise UnsupportedSettings(
            f"optimizer: must have every trained parameter, but {left_out[0]} (of {len(left_out)}) is in no group; add "
            "it, or let the student not require its gradient."
        )
    if odd := len(held - trained.keys()):
        raise UnsupportedSettings(
            f"optimizer: has {odd} parameters that are not the student's trained ones; remove them."
        )


def _batch_norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def _batch_norms_train(model: nn.Module, mode: bool) -> None:
    for module in _batch_norms(model):
        module.train(mode)


def _statistics(model: nn.Module) -> list[Tensor]:
    """Running statistics of the BatchNorm layers."""
    return [buffer for module in _batch_norms(model) for buffer in module.buffers()]


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
