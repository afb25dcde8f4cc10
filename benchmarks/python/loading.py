"""A finished run as a model: what it classifies with, and what it says of the images of any set."""

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..run_folder.folder import RunFolder
from ..run_folder.plan import Plan
from .mistakes import one_error
from .places import StrPath

if TYPE_CHECKING:
    from torch import Tensor

    from ...backbones import DualEncoder
    from ...datasets.card import Dataset
    from ...methods.predictor import Predictor
    from ...results.records.records import Record
    from ..run_folder.spec import RunSpec


class LoadedRun:
    """A finished run with its final weights, read from its folder when they are first asked for.

    Attributes:
        folder: where it lies.
        spec: every value that its numbers depend on.
        record: as in record.json.
        device: where its model is, and where `logits` computes.
    """

    def __init__(self, folder: Path, plan: Plan, record: "Record", device: str) -> None:
        self.folder, self.record, self.device = folder, record, device
        self._plan = plan

    def __repr__(self) -> str:
        return f"<finished {self.spec.title}, id {self.spec.run_id}>"

    @property
    def spec(self) -> "RunSpec":
        return self._plan.spec

    @cached_property
    def dataset(self) -> "Dataset":
        """The data that it was trained and evaluated on, found now or where they were; with a rehearsal's part of them.

        Raises:
            DataError: they are not on this machine.
        """
        from ..execution import whereabouts
        from ..planning import data_check

        return data_check.part(whereabouts.find(self._plan, RunFolder(self.folder)), self.spec)

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names, in the order of the head's rows."""
        return self.dataset.card.class_names

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of its evaluation sets."""
        return tuple(entry.name for entry in self.dataset.card.sets)

    @cached_property
    def classifier(self) -> "Predictor":
        """A torch module in eval mode: uint8 images (B, 3, H, W) -> float32 logits (B, C)."""
        return self._restored[1]

    @property
    def encoder(self) -> "DualEncoder":
        """The backbone as the run left it; text tower and logit scale are the pretrained ones where it trained none.

        `encoder.image_features(images)`: uint8 (B, 3, H, W) -> float32 (B, D), not of unit length.
        """
        return self._restored[0]

    @property
    def head(self) -> "Tensor":
        """(C, D): the rows that features are multiplied with; its logit scale is in them. A bias: `classifier.bias`."""
        from ...methods.classifier import Classifier

        if not isinstance(self.classifier, Classifier):
            raise UserError(
                f"{self.folder.name}: ends in a predictor of kind {self.classifier.kind}, which has no linear head; "
                "use `classifier`, which gives logits."
            )
        return self.classifier.weight.detach()

    @cached_property
    def _restored(self) -> "tuple[DualEncoder, Predictor]":
        from ... import backbones
        from ...methods.predictor import restore
        from ..execution.final_weights import load_text, load_weights
        from ..run_folder.plan import make_known

        folder, spec = RunFolder(self.folder), self.spec
        make_known(self._plan, folder)
        found = spec.weights if spec.given else backbones.weights_id(spec.backbone)
        if found != spec.weights:
            raise UserError(
                f"{self.folder}: starts from the weights {spec.weights} of {spec.backbone}, got {found}; "
                f"{backbones.other_weights(spec.backbone)}."
            )
        if not folder.weights.exists():
            raise UserError(
                f"{folder.weights}: the final weights were not kept; delete the folder {self.folder.name} and make the "
                "run again, with keep final."
            )
        tensors, about = load_weights(folder)
        make = backbones.empty if spec.given else backbones.load
        encoder = make(spec.backbone, device=self.device)
        predictor = restore(encoder, tensors, about["classifier"])
        if text := load_text(folder, about):
            encoder.load_text_state(text)
        return encoder, predictor

    @one_error
    def logits(self, name: str, limit: int | None = None) -> "Tensor":
        """(N, K) float32 logits of the samples of a set, in its own order, on the CPU.

        K is C, or the number of the set's own classes where it has fewer (ImageNet-R).

        Args:
            name: of one of `sets`.
            limit: only the first so many.

        Raises:
            UserError: there is no such set, its images are not here, or the final weights were not kept.
        """
        import torch

        from ..execution.predict import BATCH_SIZE

        data, found = self._set(name), []
        size = len(data) if limit is None else min(limit, len(data))
        with torch.no_grad():
            for start in range(0, size, BATCH_SIZE):
                images = data.images(start, min(start + BATCH_SIZE, size)).to(self.device)
                found.append(data.project(self.classifier(images)).cpu())
        return torch.cat(found) if found else torch.zeros(0, len(self.class_names))

    @one_error
    def labels(self, name: str, limit: int | None = None) -> "Tensor":
        """(N,) int64 labels of the same samples.

        Raises:
            UserError: there is no such set.
        """
        import torch

        return torch.as_tensor(self._set(name).labels[:limit])

    def _set(self, name: str):  # type: ignore[no-untyped-def]
        if name not in self.sets:
            raise UserError(f"set: must be one of {', '.join(self.sets)}, got {name!r}; correct it.")
        return self.dataset.eval_data(name)


@one_error
def load_run(folder: StrPath, device: str = "cpu") -> LoadedRun:
    """The model of a finished run, with its spec and record.

    Args:
        folder: of the run, `<runs>/<benchmark>/<method>/<backbone>/seed<k>-<id>`; `records` has it in column "folder".
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        UserError: it is no run's folder, the run is not finished, or a file is damaged; one sentence.
    """
    from ...results.records.records import read_record
    from ..commands.sweep import check_device

    path = Path(os.path.abspath(os.path.expanduser(folder)))
    of = RunFolder(path)
    if not of.spec.exists():
        raise UserError(
            f"folder: must be that of a run, which has a spec.json, got '{folder}'; give runs/<benchmark>/<method>/"
            "<backbone>/seed<k>-<id>."
        )
    plan = Plan.read(of)
    if not of.done():
        state = of.read_state().get("state", "planned")
        raise UserError(f"folder: must be that of a finished run, got '{folder}', which is {state}; run it first.")
    check_device(device)
    return LoadedRun(path, plan, read_record(of.record), device)
