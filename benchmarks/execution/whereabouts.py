"""Where the data of a run are: where they can be found now, else where they were when the run was planned.

What data a run is of, its fingerprint says; where they lie is no part of it, and stands beside the plan, in
`place.json`. So `robustft retry`, and a job that starts days later, find what `sweep --data` named.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ... import backbones
from ...datasets import catalogue
from ...datasets.card import DataError, Dataset
from ...datasets.image_folders import ROOT_VARIABLE
from ...results.records.records import write_atomic
from ..errors import UserError
from ..host.redaction import discreet
from ..planning import benchmark as facts
from ..planning import data_check
from ..run_folder.folder import RunFolder, read_json
from ..run_folder.plan import Plan
from ..run_folder.spec import RunSpec


@dataclass(frozen=True)
class Whereabouts:
    """Where a command found its data."""

    root: str | None
    """The data root, of `--data` or its variable."""
    start: str
    """The folder in which the command was called: where a relative `folder:own` begins."""

    @classmethod
    def now(cls) -> "Whereabouts":
        """Of this process."""
        return cls(os.environ.get(ROOT_VARIABLE) or None, os.getcwd())

    @classmethod
    def planned(cls, folder: RunFolder) -> "Whereabouts | None":
        """Of the command that last planned this run, or found its data; None where nothing says."""
        kept = read_json(folder.place) or {}
        root, start = kept.get("root"), kept.get("start")
        if not isinstance(start, str):
            return None
        return cls(os.path.expanduser(root) if isinstance(root, str) else None, os.path.expanduser(start))

    def keep(self, plan: Plan, folder: RunFolder) -> None:
        """Write it beside a plan whose data do not come with the package."""
        if catalogue.comes_with_package(plan.dataset) or Whereabouts.planned(folder) == self:
            return
        kept = {key: discreet(value or "") or None for key, value in asdict(self).items()}
        write_atomic(folder.place, json.dumps(kept).encode())  # escaped: the name of a folder may be no text


def find(plan: Plan, folder: RunFolder) -> Dataset:
    """The data of a run: the planned ones, where they are found now or where they were.

    Where neither place has them, whatever is there, which does not fit the plan.

    Raises:
        DataError: there are none.
    """
    then = Whereabouts.planned(folder)
    if then is None or then == Whereabouts.now():
        return _load(plan, None)
    found, failed = None, []
    for place in (None, then):
        try:
            data = _load(plan, place)
            data_check.check(data, plan.spec, facts.method_of(plan.spec).trained)
        except DataError as error:
            failed.append(error)
            continue
        found = found or data
        if data_check.fingerprint(data, plan.spec.allow_partial) == plan.spec.fingerprint:
            return data
    if found is None and str(failed[0]) != str(failed[1]):
        raise DataError(f"{str(failed[0]).rstrip('.')}; nor are they where the run was planned ({failed[1]})")
    if found is None:
        raise failed[0]
    return found


def missing(plan: Plan, folder: RunFolder) -> str:
    """One sentence, without its full stop, where a run would fail for its backbone, data or weights, else ""."""
    try:
        return _missing(plan, folder)
    except backbones.BackboneError as error:  # it is gone, and with it the size of the pictures
        return str(error).rstrip(".")


def _missing(plan: Plan, folder: RunFolder) -> str:
    spec = plan.spec
    if not spec.given and backbones.weights_id(spec.backbone) != spec.weights:  # first: data depend on the backbone
        return (
            f"the weights of {spec.backbone} are others than when the run was planned; "
            f"{backbones.other_weights(spec.backbone)}, or start the sweep again to plan anew"
        )
    try:
        data = find(plan, folder)
        data_check.check(data, spec, facts.method_of(spec).trained)
    except DataError as error:
        remedy = f"name the data root with --data or {ROOT_VARIABLE}"
        return f"{str(error).rstrip('.')}; {remedy}" if ROOT_VARIABLE not in str(error) else str(error).rstrip(".")
    if data_check.fingerprint(data, spec.allow_partial) != spec.fingerprint:
        return (
            f"the data {plan.dataset} are others than when the run was planned; name the data root that has those with "
            f"--data or {ROOT_VARIABLE}, or start the sweep again to plan anew"
        )
    if spec.given and not folder.weights.exists():
        try:
            given_file(plan.spec, folder)
        except UserError as error:
            return str(error).rstrip(".")
    return ""


def keep_given(checkpoint: Path, folder: RunFolder) -> None:
    """Write beside a plan where the checkpoint lies that it evaluates."""
    write_atomic(folder.given, json.dumps({"path": discreet(str(checkpoint.absolute()))}).encode())


def given_file(spec: RunSpec, folder: RunFolder) -> Path:
    """The checkpoint of a run, looked at: it is there, and is the one that was planned.

    Raises:
        UserError: it is gone, or another one.
    """
    path = os.path.expanduser((read_json(folder.given) or {}).get("path", ""))
    again = "put it back, or call `robustft evaluate` with the place where it is"
    if not os.path.isfile(path):
        raise UserError(f"{spec.title}: its checkpoint {path or '(unknown)'} was moved or deleted; {again}.")
    now = backbones.file_hash(Path(path)).removeprefix("sha256:")
    if spec.given is None or now != spec.given.sha256:
        raise UserError(f"{spec.title}: its checkpoint {path} was changed since the run was planned; {again}.")
    return Path(path)


def _load(plan: Plan, place: Whereabouts | None) -> Dataset:
    spec = plan.spec
    options = {} if place is None else asdict(place)
    return facts.dataset_now(plan.dataset, spec.backbone, spec.allow_partial, spec.decode, **options)
