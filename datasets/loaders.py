"""The loaders that every method shares: what a batch holds, and in which order samples come.

Order, augmentation and captions are functions of (seed, epoch, sample id). The sampler yields (epoch, index) pairs, so
no worker holds an epoch, any number of workers gives the same batches, and a resume starts at any step.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from .card import DataError, Dataset, EvalData
from .randomness import derive, permutation, stable_key, uniforms


@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch; row i of every field describes the same sample."""

    images: torch.Tensor
    """(B, 3, H, W) uint8; the backbone normalises on the device."""
    labels: torch.Tensor
    """(B,) int64 class indices."""
    tokens: torch.Tensor
    """(B, L) int64 caption ids of the sample's class, cut after the batch's longest caption unless padding is read."""
    sample_ids: torch.Tensor
    """(B,) int64 positions in the training set."""
    epoch: torch.Tensor
    """(B,) int64: which visit to the sample this is."""
    other_views: tuple[torch.Tensor, ...] = ()
    """Further views of the same samples, each like `images`: other draws of the same augmentation, in a method that
    asks for them. Data whose training images are fixed give the same picture again."""

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "Batch":
        """The batch with every tensor changed in the same way."""
        return Batch(
            change(self.images),
            change(self.labels),
            change(self.tokens),
            change(self.sample_ids),
            change(self.epoch),
            tuple(map(change, self.other_views)),
        )

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device; does not wait for the copy if the batch is pinned."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "Batch":
        """The same batch in page-locked memory; the DataLoader calls it, in a thread of its own."""
        return self.map(torch.Tensor.pin_memory)


class _Samples:
    """Turns a list of (epoch, index) pairs into a Batch, in whichever process it runs."""

    def __init__(self, dataset: Dataset, caption_tokens: torch.Tensor, seed: int, views: int, cut: bool):
        self.dataset, self.caption_tokens, self.seed, self.views = dataset, caption_tokens, seed, views
        self.cut = cut
        self.labels = dataset.train_labels()

    def __getitems__(self, items: list[tuple[int, int]]) -> Batch:
        epochs, indices = (np.array(column, dtype=np.int64) for column in zip(*items, strict=True))
        keys = derive(stable_key("caption", self.seed), epochs, indices)
        prompts = (uniforms(keys, 1)[:, 0] * self.caption_tokens.shape[1]).astype(np.int64)
        labels = self.labels[indices]
        tokens = self.caption_tokens[labels, prompts]
        longest = length(tokens, self.cut)
        images, *others = (self.dataset.train_images(items, view_seed(self.seed, view)) for view in range(self.views))
        return Batch(images, torch.from_numpy(labels), tokens[:, :longest],
                     torch.from_numpy(indices), torch.from_numpy(epochs), tuple(others))  # fmt: skip


def length(tokens: torch.Tensor, cut: bool) -> int:
    """Columns of (N, L) token ids that are needed: up to the last end token, which has the largest id, or all."""
    return int(tokens.argmax(dim=-1).max()) + 1 if cut else tokens.shape[1]


def view_seed(seed: int, view: int) -> int:
    """The seed that draws the augmentation of a view: the run's own for the first, 0."""
    return stable_key("view", seed, view) % 2**31 if view else seed


def steps_per_epoch(train_size: int, batch_size: int) -> int:
    """Full batches a pass; the rest of a pass is dropped (drop_last, the same for every method)."""
    if not 0 < batch_size <= train_size:
        raise DataError(f"batch_size: must lie in 1..{train_size}, the training images, got {batch_size}.")
    return train_size // batch_size


def visits(
    train_size: int, batch_size: int, seed: int, start_step: int, total_steps: int
) -> Iterator[list[tuple[int, int]]]:
    """The (epoch, index) pairs of each step from `start_step` to `total_steps`; each epoch is a fresh permutation."""
    per_epoch = steps_per_epoch(train_size, batch_size)
    order: np.ndarray | None = None
    for step in range(start_step, total_steps):
        epoch, k = divmod(step, per_epoch)
        if order is None or k == 0:
            order = permutation(stable_key("order", seed, epoch), train_size)
        yield [(epoch, int(i)) for i in order[k * batch_size : (k + 1) * batch_size]]


def train_batches(
    dataset: Dataset,
    caption_tokens: torch.Tensor,
    *,
    batch_size: int,
    seed: int,
    start_step: int,
    total_steps: int,
    workers: int = 0,
    pin: bool = False,
    views: int = 1,
    cut: bool = True,
) -> Iterator[Batch]:
    """Training batches of steps start_step..total_steps-1; the batch of a step depends on (seed, step) alone.

    Args:
        dataset: where images come from.
        caption_tokens: (C, P, L) int64 token ids, one caption a class and prompt, padded with 0.
        batch_size: samples a step; a last short batch of an epoch is dropped.
        seed: the run's seed.
        start_step: first step to yield, in 0..total_steps.
        total_steps: steps of the whole run.
        workers: loader processes; 0 loads in this one. Changes nothing but speed.
        pin: whether what workers load is put in page-locked memory, for a device that copies it while it computes.
        views: pictures of each sample; `images`, and further ones in `other_views`.
        cut: whether captions are cut after the batch's longest; False for text towers that read padding.
    """
    sampler = visits(dataset.train_size, batch_size, seed, start_step, total_steps)
    samples = _Samples(dataset, caption_tokens, seed, views, cut)
    if workers == 0:
        yield from map(samples.__getitems__, sampler)
        return
    yield from _from_workers(samples, sampler, workers, pin)


Item = TypeVar("Item")
Loaded = TypeVar("Loaded")
Made = TypeVar("Made", covariant=True)


class _Batches(Protocol[Item, Made]):
    """Makes a batch out of a list of items."""

    def __getitems__(self, items: list[Item]) -> Made: ...


class _Quiet(TorchDataset[Loaded | DataError], Generic[Item, Loaded]):
    """Returns a DataError as a value: raised in a worker process, it would arrive as a page of traceback."""

    def __init__(self, batches: _Batches[Item, Loaded]):
        self.batches = batches

    def __getitems__(self, items: list[Item]) -> Loaded | DataError:
        try:
            return self.batches.__getitems__(items)
        except DataError as error:
            return error


def _as_it_is(batch: Loaded) -> Loaded:
    return batch


def _from_workers(
    batches: _Batches[Item, Loaded], sampler: Iterable[list[Item]], workers: int, pin: bool
) -> Iterator[Loaded]:
    for batch in DataLoader(
        _Quiet(batches), batch_sampler=sampler, num_workers=workers, collate_fn=_as_it_is, pin_memory=pin
    ):
        if isinstance(batch, DataError):
            raise batch
        yield batch


class _Slices:
    """Turns [(start, stop)] into an evaluation batch, in whichever process it runs."""

    def __init__(self, data: EvalData):
        self.data = data

    def __getitems__(self, items: list[tuple[int, int]]) -> tuple[int, torch.Tensor, torch.Tensor]:
        [(start, stop)] = items
        return start, self.data.images(start, stop), torch.from_numpy(self.data.labels[start:stop])


def eval_batches(
    data: EvalData, batch_size: int, workers: int = 0, share: tuple[int, int] = (0, 1), pin: bool = False
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
    """(start, images uint8 (B, 3, H, W), labels (B,)) over the whole set, in its order; the last batch may be short.

    `workers` processes decode ahead; 0 decodes in this one. Changes nothing but speed. Of a `share` (rank, size), every
    size-th batch is read, from batch `rank` on. `pin`: as for training.
    """
    starts = range(share[0] * batch_size, len(data), share[1] * batch_size)
    slices = ([(start, min(start + batch_size, len(data)))] for start in starts)
    if workers == 0:
        yield from map(_Slices(data).__getitems__, slices)
        return
    yield from _from_workers(_Slices(data), slices, workers, pin)
