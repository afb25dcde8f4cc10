"""The data of a run: what it sees of them, and that they are complete before anything starts."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ...datasets import catalogue
from ...datasets.card import USUAL, DataError, Dataset, EvalData, EvalSet, MissingData
from ...datasets.image_folders import Tree
from ...datasets.image_sets import folders_of
from ...datasets.inventory import TRAIN
from ...datasets.overlaps import Shared, refuse_folders_of_others
from ...datasets.own_data import OwnData
from ...datasets.shots import check_shots
from ...datasets.subset import FewShots, Rehearsal
from ...results.board import absent_classes
from ...results.board.row_marks import unread_text
from ...results.records.atomic import create_atomic
from ...results.records.schema import CLUSTERS
from ..host.environment import cores
from ..host.printed import counted
from ..run_folder.plan import Plan
from ..run_folder.spec import RunSpec

OWN = {"macro_f1": "macro_f1_labels", "worst_group_accuracy": "worst_group_accuracy"}
"""`EvalSet.metric` -> its name among the metrics of a record."""


def fingerprint(data: Dataset, allow_partial: bool) -> str:
    """The card's fingerprint; of a partial copy also of which images it has, of training and of each set, by name.

    So runs on two copies that lack different images are runs on different data, and share no row of a board; and so are
    runs on pictures that were brought to size in another way than CLIP's. Retention sets are part of it: class names,
    templates and content of each.
    """
    of_sets = _fingerprint_of_sets(data, allow_partial)
    if data.resizing != USUAL:
        of_sets = hashlib.sha256(json.dumps([of_sets, *data.resizing]).encode()).hexdigest()
    if not data.retention:
        return of_sets
    asked = [[kept.name, kept.class_names, kept.prompts, kept.content] for kept in data.retention]
    return hashlib.sha256(json.dumps([of_sets, asked]).encode()).hexdigest()


def _fingerprint_of_sets(data: Dataset, allow_partial: bool) -> str:
    if not allow_partial:
        return data.card.fingerprint
    parts = f"{data.card.fingerprint} partial {data.train_size}"
    if not _drawn(data):  # of those, nothing can be missing
        trained = _content(data.train_names)
        parts += f"\ntrain {trained}" if trained else ""
        parts += "".join(
            f"\n{entry.name} {_content(partial(_sample_ids, data, entry.name))}" for entry in data.card.sets
        )
    return hashlib.sha256(parts.encode()).hexdigest()


def _sample_ids(data: Dataset, name: str) -> list[str]:
    return data.eval_data(name).sample_ids


def _content(names: Callable[[], list[str] | None]) -> str:
    """How many images there are, and a hash of their names; "none" where there are none, "" where they have none."""
    try:
        found = names()
    except MissingData:
        return "none"
    if found is None:
        return ""
    content = "\n".join(found).encode("utf-8", "surrogateescape")
    return f"{len(found)} {hashlib.sha256(content).hexdigest()}"


def _drawn(data: Dataset) -> bool:
    """Whether all of it comes with this package."""
    return data.card.name in catalogue.embedded() and not _own_shifts(data)


def loaders(plan: Plan) -> int:
    """Processes that load a run's images by default: one for each of its threads and cores; 0 where they are drawn."""
    return 0 if catalogue.comes_with_package(plan.dataset) else min(plan.spec.threads, cores())


def many_cores(images: int) -> int:
    """Processes that load so many images outside of a run: one for each core; 0 for a few, which start sooner here."""
    return cores() if images > 1000 else 0


def part(data: Dataset, spec: RunSpec) -> Dataset:
    """The dataset as a run sees it: with shots or a training limit, a part of it."""
    seen = data if spec.shots is None else FewShots(data, spec.shots, spec.seed)
    return seen if spec.train_limit is None else Rehearsal(seen, spec.train_limit, spec.limit)


def validation(data: Dataset) -> EvalData | None:
    """The ID validation set; None for data without one."""
    names = data.card.names("validation")
    return data.eval_data(names[0]) if names else None


def withheld(data: Dataset) -> bytes:
    """The training images that a rule by hash makes the validation set: their sample ids, sorted, one a line.

    Empty for data whose validation set is not made by a rule.
    """
    chosen_on = validation(data) if data.withholds else None
    if chosen_on is None:
        return b""
    names = (name.encode("utf-8", "surrogateescape") for name in chosen_on.sample_ids)
    return b"".join(name + b"\n" for name in sorted(names))


def keep_withheld(data: Dataset, folder: Path) -> dict[str, str]:
    """Writes that list as withheld-<first 12 digits of its sha256>.txt unless it is there.

    Returns:
        What a record says of it; {} where no rule withholds.
    """
    content = withheld(data)
    if not content:
        return {}
    digest = hashlib.sha256(content).hexdigest()
    path = folder / f"withheld-{digest[:12]}.txt"
    if not path.exists():
        create_atomic(path, content)
    return {"withheld_sha256": digest}


def about(data: Dataset, folder: Path) -> dict[str, Any]:
    """What a record says of the data: `keep_withheld`, and where there are any, how many files of one's own are no
    images of a class (`passed_over`), which of them are images all the same (`not_read`), which images stand in two
    sets (`shared_images`), which classes a set has no image of (`absent_classes`), whether the fingerprint is of the
    content of one's own data (`fingerprint_of`), which sets are judged by another metric than accuracy
    (`own_metrics`), and whose images come from few sources (`clusters`)."""
    unread = {name: (len(tree), dict(tree.unread)) for name, tree in _trees(data).items() if tree.unread}
    info = {
        "passed_over": {name: count for name, (count, _) in passed_over(data).items()},
        "not_read": {name: {"read": read, "endings": endings} for name, (read, endings) in unread.items()},
        "shared_images": [
            {"set": pair.name, "also_in": pair.other, "images": pair.images, "of": pair.of} for pair in shared(data)
        ],
        absent_classes.ABSENT: {
            name: {"of": of, "names": names} | ({"cut": True} if name in _cut(data) else {})
            for name, of, names in absent(data)
        },
        "fingerprint_of": "content" if catalogue.is_own(data.card.name) or _own_shifts(data) else "",
        "own_metrics": {entry.name: OWN[entry.metric] for entry in data.card.sets if entry.metric in OWN},
        CLUSTERS: {entry.name: list(entry.clusters) for entry in data.card.sets if entry.clusters},
    }
    return {**keep_withheld(data, folder), **{key: value for key, value in info.items() if value}}


def shared(data: Dataset) -> list[Shared]:
    """The pairs of sets of one's own data that share images; of registered data nobody looks."""
    return data.shared if isinstance(data, OwnData) else []


def _trees(data: Dataset) -> dict[str, Tree]:
    """Set -> what lies in its folder, of one's own data in folders."""
    return data.trees if isinstance(data, OwnData) else {}


def passed_over(data: Dataset) -> dict[str, tuple[int, str]]:
    """Set or folder of one's own data -> how many entries in it are no images of a class, and the first."""
    return data.passed_over if isinstance(data, OwnData) else {}


def _cut(data: Dataset) -> tuple[str, ...]:
    """The shifts whose logits are cut to the classes that they have."""
    return data.cut if isinstance(data, OwnData) else ()


def _own_shifts(data: Dataset) -> tuple[str, ...]:
    return data.own_shifts if isinstance(data, OwnData) else ()


def absent(data: Dataset) -> Iterator[tuple[str, int, list[str]]]:
    """(set, classes, names of those without an image) of train and each set of one's own that lacks any.

    Also of shifts of one's own beside other data; of registered sets nobody looks, unless they are cut.
    """
    if not isinstance(data, OwnData):
        return
    own, classes = catalogue.is_own(data.card.name), data.card.class_names
    for name in ([TRAIN] if own else []) + [entry.name for entry in data.card.sets]:
        if own or name in data.own_shifts or name in data.cut:
            try:
                there = set(data.train_labels().tolist() if name == TRAIN else data.present(name))
            except DataError:
                if own or name in data.own_shifts:
                    raise
                continue  # a registered set that is not there may be planned on
            lacking = [title for i, title in enumerate(classes) if i not in there]
            if lacking:
                yield name, len(classes), lacking


def permitted(data: Dataset) -> Iterator[str]:
    """A sentence on each set of one's own that lacks classes and may: a shift, and what a rule withholds of train."""
    return _absent_texts(data, _may_lack(data))


def _may_lack(data: Dataset) -> tuple[str, ...]:
    return (
        *data.card.names("iid"),
        *data.card.names("shift"),
        *(data.card.names("validation") if data.withholds else ()),
    )


def _absent_texts(data: Dataset, among: Collection[str]) -> Iterator[str]:
    for name, of, names in absent(data):
        if name in among:
            yield f"{data.card.name}: {absent_classes.text(name, of, names, name in _cut(data))}."


def doubts(data: Dataset) -> Iterator[str]:
    """A sentence on each thing about one's own data that a person should know before a run starts."""
    where = data.card.name
    for name, tree in _trees(data).items():
        if tree.unread:
            folders = f"class folder{'s' if len(tree.lost) > 1 else ''} {', '.join(map(repr, tree.lost))}"
            lost = f", and none is left of the {folders}" if tree.lost else ""
            yield (
                f"{where}: {unread_text(name, len(tree), dict(tree.unread))}{lost}; convert them to PNG (a .jfif is a "
                ".jpg: rename it), or take them away."
            )
        if tree.astray[0]:
            yield (
                f"{where}: {counted(tree.astray[0], 'entry', 'entries')} of {name} passed over, images outside of "
                f"class folders or folders inside of them, first {tree.astray[1]!r}; move the images into their class "
                "folders."
            )
    right, sentence = counts(data)
    if not right:
        yield sentence
    must_have_all = {TRAIN, *(entry.name for entry in data.card.sets)} - {*_may_lack(data)}
    yield from _absent_texts(data, must_have_all)
    for pair in shared(data):
        if not pair.withheld:
            yield (
                f"{where}: {pair.text()}, first {pair.example[0]} as {pair.example[1]}; take the copies away, or say "
                "so beside the numbers."
            )


def counts(data: Dataset) -> tuple[bool, str]:
    """Whether one's own data have as many images as the published data that they are by their domains' names."""
    return data.counted if isinstance(data, OwnData) else (True, "")


def copies_in_train(data: Dataset) -> Iterator[str]:
    """A sentence where train holds images twice, of which the rule by hash withheld one and left the other."""
    for pair in shared(data):
        if pair.withheld:
            yield (
                f"{data.card.name}: train holds images twice, so that {pair.text()}, first {pair.example[0]} as "
                f"{pair.example[1]}; choices are made on images that are trained on."
            )


def evaluation_sets(data: Dataset, spec: RunSpec) -> Iterator[tuple[EvalSet, EvalData]]:
    """The sets that a run is evaluated on, validation first, each read when it is asked for.

    A trial sees validation alone. With `allow_partial`, a shift of which nothing is there is left out, and the record
    names it.

    Raises:
        DataError: a set is missing or not complete.
    """
    for entry in sorted(data.card.sets, key=lambda entry: entry.role != "validation"):
        if spec.kind == "trial" and entry.role != "validation":
            continue
        try:
            found = data.eval_data(entry.name)
        except MissingData:
            if not spec.allow_partial or entry.role in ("id", "validation"):
                raise
            continue
        yield entry, found


def check(data: Dataset, spec: RunSpec, trains: bool) -> list[str]:
    """DataError unless every set that the run reads is complete, or may be partial.

    Of one's own data the first image of each set is opened, since all images of a set come from one program, and what
    is wrong with them should be known before anything is trained; `robustft doctor` opens all. Of others, none is.

    Args:
        trains: whether training images are read.

    Returns:
        The shifts that are left out, because nothing of them is there.
    """
    for kept in data.retention if spec.kind == "run" else ():
        kept.data().images(0, 1)
    if _drawn(data):
        return []
    own, beside = catalogue.is_own(data.card.name), _own_shifts(data)
    if trains:
        data.train_labels()
        if spec.shots is not None:
            check_shots(data, spec.shots)
        if own:
            data.train_images([(0, 0)], 0)
    read = {}
    for entry, found in evaluation_sets(data, spec):
        read[entry.name] = folders_of(found)
        if own or entry.name in beside:
            found.images(0, 1)
    trees = {name: tree for name, tree in read.items() if tree is not None}
    refuse_folders_of_others(data.card.name, {name: trees[name] for name in beside if name in trees}, trees)
    return [] if spec.kind == "trial" else [entry.name for entry in data.card.sets if entry.name not in read]


def files_read(data: Dataset, spec: RunSpec, trains: bool) -> Iterator[str]:
    """The files of the images that a run reads, where images are files: paths as they are read.

    Args:
        data: what the run sees, as `part` gives it.
        trains: whether training images are read.
    """
    if trains:
        yield from data.train_files()
    for entry, found in evaluation_sets(data, spec):
        yield from found.files() if entry.role == "validation" else found.files()[: spec.limit]
    for kept in data.retention if spec.kind == "run" else ():
        yield from kept.data().files()


def training_images(data: Dataset) -> dict[str, int]:
    """How many training images there are on the disk and should be, where somebody knows; {} else."""
    return {} if data.expected is None else {"train_found": data.found, "train_expected": data.expected}
