"""What finetuned towers still know: each retention set of a suite, by the head that the run's text tower builds."""

import shutil
from collections.abc import Callable
from functools import partial
from typing import Any

from ...backbones import DualEncoder
from ...datasets import catalogue
from ...datasets.card import Dataset
from ...methods.classifier import Classifier
from ...methods.training.parallel import World
from ...results.records import predictions
from ..run_folder.folder import RunFolder
from ..run_folder.plan import Plan
from . import kept_heads
from .predict import Stopped, lineage_batch, predict, score
from .sharded_evaluation import Share


def measure_retention(
    plan: Plan,
    folder: RunFolder,
    dataset: Dataset,
    encoder: DualEncoder,
    trained: bool,
    *,
    device: str,
    should_stop: Callable[[], bool],
    guard: Callable[[], None],
    after_set: Callable[[], None],
    workers: int = 0,
) -> dict[str, Any]:
    """Evaluate both towers on every retention set of the data; the files of samples lie beside those of the sets.

    Args:
        encoder: with the towers and logit_scale of the run.
        trained: whether the text tower is the run's own.
        others: as in `evaluate_run.measure`; all processes of a run call this, the first one writes.

    Returns:
        Set -> how many classes it has, and its metrics; for the record.
    """
    # A folder of its own: another process may still be removing that of the sets.
    parts = folder.predictions / "retention-parts"
    share = Share.of(World(), parts)
    batch_size, found = lineage_batch(catalogue.parts(plan.dataset)[0], plan.spec.backbone), {}

    def check_stop() -> None:
        if share.any(should_stop()):
            raise Stopped

    for kept in dataset.retention:
        data, head = kept.data(), kept_heads.head(encoder, kept.class_names, kept.prompts, check_stop, trained)
        data.name = f"{kept.name}.retained"  # no set of the run has it: one metric draws by the name
        classifier = Classifier(encoder, head).to(device).eval()
        (columns,) = predict(
            [partial(_itself, classifier)],
            data,
            device=device,
            limit=plan.spec.limit,
            should_stop=should_stop,
            share=share,
            workers=workers,
        )
        found[kept.name] = {"classes": len(kept.class_names), **score(columns, data, batch_size, plan.spec.limit)}
        if share.rank == 0:
            predictions.write(folder.retained_predictions(kept.name), columns, guard)
        after_set()
    if share.rank == 0:
        shutil.rmtree(parts, ignore_errors=True)  # all have read what was in it
    return found


def _itself(classifier: Classifier) -> Classifier:
    return classifier
