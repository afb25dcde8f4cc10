"""Any model on the sets of a benchmark, scored by the code that scores the runs."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import UserError, resolve_name
from .loading import LoadedRun, load_run
from .mistakes import one_error
from .places import StrPath

if TYPE_CHECKING:
    from numpy.typing import ArrayLike
    from torch import Tensor

    from ...datasets.card import Dataset

Model = Callable[["Tensor"], "Tensor"]


@one_error
def evaluate(
    model: "Model | LoadedRun | StrPath",
    data: "str | Dataset | None" = None,
    *,
    sets: Sequence[str] | None = None,
    limit: int | None = None,
    device: str = "cpu",
    size: int = 224,
    workers: int = 0,
) -> dict[str, dict[str, Any]]:
    """Metrics of a model on each evaluation set, as a record has them of a run.

    One temperature is fitted on the ID validation set, and applied to every set (`ece_scaled`), as in a run.

    Args:
        model: a finished run (its folder, or what `load_run` gives); or any function from images, uint8
            (B, 3, H, W), to logits (B, C) over the classes of the data, in their order. A torch module is put into
            eval mode, and back.
        data: name of a benchmark, a suite file, "folder:<path>", "huggingface:<name>" or a dataset; of a run by
            default its own.
        sets: names of those to evaluate; all by default. Without the validation set no temperature is fitted.
        limit: at most so many samples of each set, those that `--limit` takes.
        device: where images are before the model gets them; a loaded run's own by default.
        size: side in pixels of pictures that are made from image files; a run's backbone knows its own.
        workers: processes that load images ahead.

    Returns:
        Set -> metrics, in the order of the data's card: role, n, n_expected; accuracy, brier, macro_f1, ece, ece_scaled
        and the other calibration errors, as fractions; nll in nats; worst_group_accuracy and group_accuracy where the
        set has groups.

    Raises:
        UserError: the data are not here, a set is unknown, or the model gives something else; one sentence.
    """
    from ...datasets.subset import Rehearsal
    from ...results.metrics import calibration
    from ...results.metrics.classwise import ClasswiseECE
    from ..execution.predict import class_count, lineage_batch, predict, score

    part = limit  # as a rehearsal of that size sees the sets, so that its numbers can be compared with these
    if isinstance(model, LoadedRun) or not callable(model):
        loaded = model if isinstance(model, LoadedRun) else load_run(model, device)
        dataset, backbone, device = _data_of(loaded, data), loaded.spec.backbone, loaded.device
        limit = loaded.spec.limit if limit is None and data is None else limit
        made: Any = loaded.classifier
    else:
        if data is None:
            raise UserError("data: must be given for a model that is no run; name a benchmark.")
        dataset, backbone = _data(data, size), ""
        made = _given(model, len(dataset.card.class_names))
    if part is not None:
        dataset = Rehearsal(dataset, part, part)
    card, found = dataset.card, {}
    wanted = {resolve_name("set", name, [s.name for s in card.sets]) for name in sets} if sets is not None else None
    batch, temperature = lineage_batch(card.name, backbone), None
    with _evaluating(made):
        for entry in sorted(card.sets, key=lambda entry: entry.role != "validation"):
            if wanted is not None and entry.name not in wanted:
                continue
            images = dataset.eval_data(entry.name)
            calibrates = entry.role == "validation" and temperature is None
            classwise = ClasswiseECE(class_count(images, len(card.class_names)))
            (columns,) = predict(
                [lambda: made],
                images,
                device=device,
                limit=limit,
                keep_logits=calibrates,
                temperature=temperature,
                workers=workers,
                classwise=classwise,
            )
            if calibrates:
                temperature = calibration.fit_temperature(columns["logits"], columns["label"])
                columns["confidence_scaled"] = calibration.confidence_at(columns["logits"], temperature)
            found[entry.name] = {"role": entry.role, **score(columns, images, batch, limit, classwise)}
    return {entry.name: found[entry.name] for entry in card.sets if entry.name in found}


@one_error
def ece(probabilities: "ArrayLike", labels: "ArrayLike", bins: int = 15) -> float:
    """Expected calibration error of predictions over a whole set: L1, bins of equal width.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) integers in [0, C).
        bins: on [0, 1).

    Returns:
        Error in [0, 1]. One sample, right, with confidence 0.9 gives 0.1.

    Raises:
        UserError: wrong shapes, rows that are no probabilities, labels outside [0, C), or no sample.
    """
    from ...results.metrics import expected_calibration_error

    return expected_calibration_error(probabilities, labels, bins)


def _data(data: "str | Dataset", size: int, **options: Any) -> "Dataset":
    from ...datasets import catalogue
    from ..planning.benchmark import dataset
    from ..planning.suite import suite

    if not isinstance(data, str):
        return data
    return dataset(data if catalogue.is_own(data) else suite.load(suite.find(data)).dataset, size, **options)


def _data_of(loaded: LoadedRun, data: "str | Dataset | None") -> "Dataset":
    from ... import backbones

    if data is None:
        return loaded.dataset
    name = loaded.spec.backbone
    other = _data(data, backbones.image_size(name), resizing=backbones.resizing(name))
    if other.card.class_names != loaded.class_names:
        raise UserError(
            f"data: must have the {len(loaded.class_names)} classes of the run, {_shown(loaded.class_names)}, got "
            f"{len(other.card.class_names)}, {_shown(other.card.class_names)}; a head knows its own classes alone."
        )
    return other


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _given(model: Model, classes: int) -> Any:
    """A module that calls somebody's function, and checks what it returns."""
    import torch

    class Given(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model  # a module among its own, so that `eval` reaches it

        def forward(self, images: "Tensor") -> "Tensor":
            logits = self.model(images)
            expected = (len(images), classes)
            if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != expected:
                got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
                raise UserError(
                    f"model: must return a tensor of logits of shape {expected}, a row an image and a column a class, "
                    f"got {got}; wrap it in a function that does."
                )
            return logits.detach().float()

    return Given()


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """Eval mode, and then every part's own again."""
    before = {part: part.training for part in module.modules()}
    try:
        yield
    finally:
        for part, training in before.items():
            part.training = training
