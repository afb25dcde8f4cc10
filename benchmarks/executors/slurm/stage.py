"""The key `stage` of a profile: where a node's copies of images may lie, and what a dry run says of them."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from ....datasets import catalogue
from ....datasets.card import DataError
from ....datasets.contents import readable
from ....datasets.image_folders import ROOT_VARIABLE
from ....datasets.staging import Stage, place_of
from ...host.printed import counted
from ...planning import data_check
from ...planning.benchmark import dataset_for, method_of
from ...run_folder.spec import RunSpec
from .arrays import Array
from .profile import Profile

WEIGHED = 2000
"""Files whose sizes are asked for; of more, so many of them, evenly spread."""


def _apart(runs: Path) -> dict[str, Path | None]:
    root = os.environ.get(ROOT_VARIABLE)
    return {"the folder of runs": runs, "the data root": Path(root) if root else None}


def of_job(pattern: str | None, runs: Path) -> Stage | None:
    """What the processes of a job use, where its profile says so."""
    return None if pattern is None else Stage(pattern, _apart(runs))


def check(profile: Profile, runs: Path) -> None:
    """DataError where a profile's stage, as far as it is known here, is no place for copies."""
    for keys in (profile, *profile.methods.values(), *profile.backbones.values()):
        if keys.stage is not None:
            place_of(keys.stage, _apart(runs), known=False)


def told(arrays: Iterable[Array], specs: dict[Path, RunSpec], dataset: str) -> Iterator[str]:
    """A sentence on each stage of some arrays: what would be copied to it, as far as that is known on this machine."""
    of_stage: dict[str, list[RunSpec]] = {}
    for array in arrays:
        if array.profile.stage is not None:
            of_stage.setdefault(array.profile.stage, []).extend(specs[folder.path] for folder in array.runs)
    for stage, some in of_stage.items():
        yield f"stage {stage}: {_copied(some, dataset)}"


def _copied(specs: list[RunSpec], dataset: str) -> str:
    if catalogue.comes_with_package(dataset):
        return "nothing is copied, the images come with the package"
    views = {
        (method_of(spec).trained, spec.kind, spec.allow_partial, spec.limit, spec.train_limit)
        + ((spec.shots, spec.seed) if spec.shots else ()): spec
        for spec in specs
    }
    try:
        files = {
            file
            for spec in views.values()
            for file in data_check.files_read(
                data_check.part(dataset_for(dataset, spec.backbone, spec.allow_partial), spec),
                spec,
                method_of(spec).trained,
            )
        }
    except DataError as error:
        return f"what would be copied is not known on this machine ({str(error).rstrip('.')})"
    if not files:
        return f"nothing is copied, {dataset} is not read from image files"
    some = sorted(files)[:: -(-len(files) // WEIGHED)]
    size = sum(os.stat(file).st_size for file in some) * len(files) // len(some)
    about = f"about {readable(size)}, by {len(some)} of them" if len(some) < len(files) else readable(size)
    return f"up to {counted(len(files), 'file')} ({about}) would be copied, once a node, and removed at the end"
