"""spec.json: what a run folder says of its run, written by whoever plans, read by whoever works."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ... import backbones
from ...results.records.atomic import create_atomic, to_json, write_atomic
from ..errors import UserError, explain
from ..host.plugin_files import Named
from ..host.plugins import need
from ..host.redaction import discreet, refuse
from .folder import RunFolder, read_json
from .spec import RunSpec


@dataclass(frozen=True)
class Plan:
    """A spec with all that its record will say of where it came from."""

    spec: RunSpec
    dataset: str
    sources: dict[str, str]
    selection: dict[str, Any]
    plugins: tuple[Named, ...] = ()
    """What must be imported before its method, dataset and backbone are known by name."""

    def write(self, folder: RunFolder) -> None:
        """Make the run folder, its spec.json and its first state; those that are there stay as they are.

        Whoever plans a run wants it: an earlier wish to cancel it is forgotten, and so is where its backbone lay.
        """
        folder.forget_cancel()
        if (place := backbones.place_of(self.spec.backbone)) is not None:  # it may have been moved since
            write_atomic(folder.backbone, to_json(folder.backbone, {"path": discreet(str(place))}))
        if folder.spec.exists():
            return
        content = {
            "run_id": self.spec.run_id,
            "spec": self.spec.model_dump(mode="json"),
            "dataset": self.dataset,
            "sources": self.sources,
            "selection": self.selection,
            **({"plugins": [asdict(named) for named in self.plugins]} if self.plugins else {}),
        }
        create_atomic(folder.state, to_json(folder.state, {"state": "planned"}))
        create_atomic(folder.spec, to_json(folder.spec, content))

    @classmethod
    def read(cls, folder: RunFolder) -> "Plan":
        """The plan of a run folder; UserError where it is damaged or was changed."""
        remedy = f"delete {folder.spec} and start the command again"
        try:
            content = json.loads(folder.spec.read_text(encoding="utf-8"))
            refuse(content, str(folder.spec))
            spec = RunSpec.model_validate(content["spec"])
            named = tuple(Named(entry["name"], entry["sha256"]) for entry in content.get("plugins", ()))
            plan = cls(spec, content["dataset"], content["sources"], content["selection"], named)
        except ValidationError as error:
            raise UserError(explain(error, str(folder.spec), remedy)) from None
        except UserError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{folder.spec}: must hold the plan of a run, got a damaged file ({error!r}); {remedy}."
            ) from None
        if spec.run_id != folder.path.name.rpartition("-")[2]:
            raise UserError(
                f"{folder.spec}: must be the plan of {folder.path.name}, got that of {spec.run_id}; {remedy}."
            )
        kept = (read_json(folder.backbone) or {}).get("path")
        if isinstance(kept, str):
            backbones.remember_planned(spec.backbone, Path(os.path.expanduser(kept)))
        return plan


def make_known(plan: Plan, folder: RunFolder) -> None:
    """Import what the names of a plan need, from the copy below its runs; PluginError where that is gone."""
    need(folder.runs, plan.plugins)


def input_path(path: Path, spec: RunSpec, name: str) -> Path:
    """The folder of an input: same benchmark and backbone, below the same root.

    Args:
        path: folder of the run that reads it.
        name: its key in `spec.inputs`: a method, of the run's own seed, or "method:seed".
    """
    method, _, seed = name.partition(":")
    return path.parents[2] / method / spec.backbone / f"seed{seed or spec.seed}-{spec.inputs[name]}"
