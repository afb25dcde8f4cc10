"""Tensors and numbers under names, as a checkpoint holds them: the state of an optimizer, and a method's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .parallel import UnsupportedSettings

State = dict[str, Tensor | float]
"""Tensors, and numbers (float, int or bool) that come back as what they were."""


def packed(prefix: str, values: Mapping[str, Any]) -> dict[str, Tensor]:
    """Tensors as `prefix.name`, numbers as 0-dim tensors `prefix_number.name` that hold every bit of them.

    Raises:
        UnsupportedSettings: a value is something else.
    """
    tensors = {}
    for name, value in values.items():
        if isinstance(value, Tensor):
            tensors[f"{prefix}.{name}"] = value.detach()
        elif isinstance(value, float):
            tensors[f"{prefix}_number.{name}"] = torch.tensor(value, dtype=torch.float64)
        elif isinstance(value, int) and abs(value) < 2**63:
            tensors[f"{prefix}_number.{name}"] = torch.tensor(value)
        else:
            raise UnsupportedSettings(
                f"{prefix} state: must be tensors and numbers, which a checkpoint can hold, but {name} is a "
                f"{type(value).__name__}; keep it as such, or make it anew from them."
            )
    return tensors


def unpacked(prefix: str, tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> State:
    """What `packed` was given under this prefix, tensors on the device; other tensors are passed over."""
    found: State = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == prefix:
            found[rest] = tensor.to(device)
        elif kind == f"{prefix}_number":
            found[rest] = tensor.item()
    return found


def optimizer_state(optimizer: Optimizer, start: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """All that the next step of any optimizer depends on: what it keeps of each parameter, and what it has changed in
    its groups. The rates are not among it, the schedule writes them.

    Args:
        start: each group as it was made, without its parameters.

    Raises:
        UnsupportedSettings: it keeps something that is neither tensor nor number.
    """
    by_parameter = optimizer.state_dict()["state"]
    kept = {f"{i}.{key}": value for i, values in by_parameter.items() for key, value in values.items()}
    changed = {
        f"{i}.{key}": value
        for i, (group, first) in enumerate(zip(optimizer.param_groups, start, strict=True))
        for key, value in group.items()
        if key not in ("params", "lr") and (isinstance(value, Tensor) or key not in first or value != first[key])
    }
    return packed("optimizer", kept) | packed("optimizer_group", changed)


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restores what `optimizer_state` gave, each tensor in the type that it had."""
    kept: dict[int, dict[str, Any]] = {}
    for name, value in unpacked("optimizer", tensors).items():
        place, _, key = name.partition(".")
        kept.setdefault(int(place), {})[key] = value
    optimizer.load_state_dict({"state": kept, "param_groups": optimizer.state_dict()["param_groups"]})
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for i, values in kept.items():
        own = optimizer.state[parameters[i]]
        for key, value in values.items():  # torch gives state the type of its parameter: float64 sums would lose bits
            if isinstance(value, Tensor) and own[key].dtype != value.dtype:
                own[key] = value.to(own[key].device)
    for name, value in unpacked("optimizer_group", tensors).items():
        place, _, key = name.partition(".")
        group = optimizer.param_groups[int(place)]
        group[key] = value.to(group["params"][0].device) if isinstance(value, Tensor) else value
