"""A batch in parts: cut into micro-batches, shared between processes, and still one loss with exact gradients.

A contrastive loss needs every pair of the batch at once, its forward passes do not. So each part is embedded by
itself, the embeddings of all parts and processes are put together, the loss is computed once on the whole, and its
gradient with respect to the embeddings is sent back through the parts. With more than one part the first pass keeps
no graph and a second pass runs each part again, with the same random numbers (gradient caching: Gao et al. 2021,
arXiv:2101.06983). Loss and gradients are those of the whole batch, up to the order of float sums, as long as a
sample's embedding does not depend on its neighbours: BatchNorm with statistics of the batch is refused.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn

from ...datasets.loaders import Batch
from ...datasets.randomness import derive, stable_key
from ..base import LossTerms, Outputs, Settings

if TYPE_CHECKING:
    from ...datasets.card import Dataset

BUCKET = 1 << 25
"""Numbers summed over processes in one call, about: 128 MiB of float32."""


class UnsupportedSettings(ValueError):
    """Settings that would train something else than they say; one sentence."""


class World:
    """The processes that train one run together: those of torch.distributed's group, or this one alone.

    Every process calls every method at the same point. `rank` counts from 0, `size` is their number.
    """

    def __init__(self) -> None:
        ready = distributed.is_available() and distributed.is_initialized()
        self.size = distributed.get_world_size() if ready else 1
        self.rank = distributed.get_rank() if ready else 0
        # Flags go between the hosts' memories, so that no process waits for its device to read one.
        apart = self.size > 1 and distributed.get_backend() != "gloo"
        self._flags = distributed.new_group(backend="gloo") if apart else None

    def rows(self, count: int, rank: int | None = None) -> slice:
        """The rows, of `count`, that are a process's (this one's) share: contiguous, sizes that differ by 1 at most."""
        return _share(count, self.rank if rank is None else rank, self.size)

    def images(self, dataset: "Dataset") -> "Dataset":
        """The dataset for a loader that draws whole batches: only the images of this process's share are made."""
        return dataset if self.size == 1 else _OwnImages(dataset, self.rank, self.size)  # type: ignore[return-value]

    def own(self, batch: Batch) -> Batch:
        """This process's share of a batch, whose images may be those of the share already."""
        count = len(batch.labels)
        rows = self.rows(count)
        return batch.map(lambda tensor: tensor[rows] if len(tensor) == count else tensor)

    def gather(self, outputs: Outputs, count: int) -> Outputs:
        """Outputs of the whole batch of `count` rows, without graph, from those of each process's share."""
        if self.size == 1:
            return outputs
        return _map(lambda part: part if part.ndim == 0 else self._gather(part, count), outputs)

    def _gather(self, own: Tensor, count: int) -> Tensor:
        shares = [self.rows(count, rank) for rank in range(self.size)]
        sizes = [rows.stop - rows.start for rows in shares]
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own.detach()
        found = [torch.empty_like(padded) for _ in sizes]
        distributed.all_gather(found, padded)
        return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])

    def sum_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Adds up every gradient over the processes, in place; each must hold gradients of the same parameters."""
        if self.size > 1:
            for flat in _flattened([p.grad for p in parameters if p.grad is not None]):
                distributed.all_reduce(flat)

    @torch.no_grad()
    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Gives every process the first one's values, in place."""
        if self.size > 1:
            for flat in _flattened(tensors):
                distributed.broadcast(flat, src=0)

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.size == 1:
            return value
        flag = torch.tensor(value)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX, group=self._flags)
        return int(flag)

    @contextmanager
    def randomness(self, device: torch.device, seed: int, step: int) -> Iterator[None]:
        """Inside, random numbers of this process and step alone; outside, those that all processes share.

        A process alone draws from the stream that it has.
        """
        if self.size == 1:
            yield
            return
        with _forked(device):
            torch.manual_seed(int(derive(stable_key("rank", seed), step, self.rank)[0]))
            yield


def check_settings(settings: Settings, world: World) -> None:
    """Refuses what cannot be exact, before anything is trained.

    Raises:
        UnsupportedSettings: see the sentences.
    """
    size, micro = settings.batch_size, settings.micro_batch
    if micro is not None and micro < 1:
        raise UnsupportedSettings(f"micro_batch: must be >= 1, got {micro}; leave it out for the whole batch.")
    if world.size > size:
        raise UnsupportedSettings(f"batch_size: must be at least {world.size}, the number of processes, got {size}.")
    if settings.bn == "released" and micro is not None and micro < size:
        raise UnsupportedSettings(
            f"bn: 'released' takes statistics of the whole batch, which micro_batch {micro} of batch_size {size} never "
            "sees; set bn to 'frozen' or leave micro_batch out."
        )
    if settings.bn == "released" and world.size > 1 and torch.device(settings.device).type != "cuda":
        raise UnsupportedSettings(
            f"bn: 'released' on {world.size} processes needs synchronised BatchNorm, which is for CUDA devices, got "
            f"{settings.device!r}; set bn to 'frozen' or train in one process."
        )


def cut(batch: Batch, size: int | None) -> list[Batch]:
    """The batch in parts of at most `size` rows, in order; every field is cut by rows."""
    count = len(batch.labels)
    if size is None or size >= count:
        return [batch]
    return [batch.map(itemgetter(slice(first, first + size))) for first in range(0, count, size)]


def join(outputs: Sequence[Outputs]) -> Outputs:
    """Outputs of parts as those of the whole: rows one after the other; a 0-dim tensor is shared by all rows."""
    if len(outputs) == 1:
        return outputs[0]
    columns = zip(*map(_parts, outputs), strict=True)
    return _rebuild(outputs[0], [parts[0] if parts[0].ndim == 0 else torch.cat(parts) for parts in columns])


def backward_in_parts(
    model: nn.Module,
    parts: Sequence[Batch],
    loss: Callable[[Outputs], LossTerms],
    count: int,
    *,
    world: World,
    seed: int,
    step: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> LossTerms:
    """Adds to each parameter's gradient this process's part of the gradient of a loss on the whole batch.

    Summed over processes, the gradients are those of the whole batch. A 0-dim output (the logit scale, the bias)
    gets its gradient once, from the first part of the first process.

    Args:
        model: batch -> a tensor with a row per sample, or a NamedTuple of such, of 0-dim tensors and of NamedTuples.
        parts: this process's share of the batch, one forward pass each; more than one are run twice.
        loss: terms of the whole batch's outputs; every process computes all of it.
        count: rows of the whole batch.
        world, seed, step: whose random numbers the forward passes draw.
        autocast: makes the context of a forward pass.

    Returns:
        The terms, the same in every process.
    """
    device, once = next(model.parameters()).device, len(parts) == 1
    states: list[tuple[Tensor, Tensor | None]] = []
    outputs: list[Outputs] = []
    with world.randomness(device, seed, step), torch.set_grad_enabled(once), autocast():
        for part in parts:
            states.append(_random_state(device))
            outputs.append(model(part))
    whole = world.gather(_map(Tensor.detach, join(outputs)), count)
    leaves = [part.requires_grad_() for part in _parts(whole)]
    terms = loss(_rebuild(whole, leaves))
    torch.stack(list(terms.values())).sum().backward()

    first = world.rows(count).start
    with _forked(device):
        for i, part in enumerate(parts):
            if once:
                again = outputs[0]
            else:
                _set_random_state(device, states[i])
                with autocast():
                    again = model(part)
            last = first + len(part.labels)
            share = 1.0 if world.rank == 0 and i == 0 else 0.0
            # A leaf that the loss does not read has no gradient, and none may come of it: AdamW would decay it.
            _push(
                (own, leaf.grad * share if leaf.ndim == 0 else leaf.grad[first:last])
                for own, leaf in zip(_parts(again), leaves, strict=True)
                if leaf.grad is not None
            )
            first = last
    return terms


def _push(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Sends gradients back through those of the outputs that have a graph; pairs of output and gradient."""
    with_graph = [pair for pair in pairs if pair[0].requires_grad]
    if with_graph:
        torch.autograd.backward([output for output, _ in with_graph], [gradient for _, gradient in with_graph])


def _parts(outputs: Any) -> list[Tensor]:
    """The tensors of outputs, those of NamedTuples inside of them too, in order."""
    return [outputs] if isinstance(outputs, Tensor) else [part for entry in outputs for part in _parts(entry)]


def _rebuild(like: Outputs, parts: Sequence[Tensor]) -> Outputs:
    """Tensors in the shape of `like`: a tensor or its NamedTuple."""
    rest = iter(parts)

    def made(shape: Any) -> Any:
        return next(rest) if isinstance(shape, Tensor) else type(shape)(*map(made, shape))

    rebuilt: Outputs = made(like)
    return rebuilt


def _map(function: Callable[[Tensor], Tensor], outputs: Outputs) -> Outputs:
    return _rebuild(outputs, [function(part) for part in _parts(outputs)])


def _flattened(tensors: Sequence[Tensor]) -> Iterator[Tensor]:
    """A few long vectors, of one type each, in place of many tensors; what is done to them reaches the tensors."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        bucket: list[Tensor] = []
        size = 0
        for tensor in [*(tensor for tensor in tensors if tensor.dtype == dtype), None]:
            if bucket and (tensor is None or size + tensor.numel() > BUCKET):
                flat = torch.cat([one.reshape(-1) for one in bucket])
                yield flat
                for one, part in zip(bucket, flat.split([one.numel() for one in bucket]), strict=True):
                    one.copy_(part.view_as(one))
                bucket, size = [], 0
            if tensor is not None:
                bucket.append(tensor)
                size += tensor.numel()


def _forked(device: torch.device) -> AbstractContextManager[None]:
    """After it, the random numbers go on as if nothing had been drawn inside."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def _set_random_state(device: torch.device, state: tuple[Tensor, Tensor | None]) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


class _OwnImages:
    """A dataset that makes, of every batch asked for, only the images of one process's share."""

    def __init__(self, dataset: "Dataset", rank: int, size: int) -> None:
        self.dataset, self.rank, self.size = dataset, rank, size
        self.card, self.train_size, self.train_labels = dataset.card, dataset.train_size, dataset.train_labels

    def train_images(self, items: list[tuple[int, int]], seed: int) -> Tensor:
        return self.dataset.train_images(items[_share(len(items), self.rank, self.size)], seed)


def _share(count: int, rank: int, size: int) -> slice:
    return slice(count * rank // size, count * (rank + 1) // size)
