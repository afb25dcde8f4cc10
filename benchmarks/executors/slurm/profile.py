"""What a cluster must know of a job: a YAML file of cluster keys, never of science."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ....datasets import plain_yaml
from ...errors import UserError, explain, resolve_name
from ...host.places import expanded
from ...host.redaction import NAMED

SHIPPED = Path(__file__).resolve().parents[2] / "profiles"
Count = Annotated[int, Field(ge=1)]
# A shell line that sets a secret, as a variable or an option. Those of the environment reach a job without one.
SECRET = re.compile(rf"\w*({NAMED.pattern})\w*\s*=|--[\w-]*({NAMED.pattern})[\w-]*\s", re.IGNORECASE)
MINUTES = {"m": 1, "h": 60, "d": 24 * 60}


class Profile(BaseModel):
    """One kind of job of one cluster. What is left out is the cluster's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    """Features of the nodes, as sbatch takes them."""
    nodes: Count = 1
    """Nodes of one run."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs a node, with a process each, that train one run together; 0 is one process on processors."""
    cpus: Count = 1
    """Processors a process, that is a GPU."""
    memory: str | None = None
    """Memory a node: 64G."""
    time: str = "24h"
    """Time that one job may take before it is saved and queued again: 90m, 24h, 2d, or "12:00:00"."""
    array_parallelism: Count = 256
    """Jobs of an array that run at the same time, at most."""
    signal_seconds: Annotated[int, Field(ge=1)] | None = None
    """How long before the end of its time a job is told to save; by default from how long saving took before."""
    micro_batch: Count | None = None
    """Images of one forward pass on a GPU, at most; only memory and the order of float sums depend on it."""
    python: str | None = None
    """The command that starts Python in a job, e.g. in a container; by default the Python that submits."""
    setup: list[str] = []
    """Shell lines at the start of each job: modules, conda."""

    @field_validator("memory")
    @classmethod
    def _is_memory(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[1-9]\d*[MGT]B?", value):
            raise ValueError(f"must be a whole number with a unit such as 64G, got '{value}'")
        return value

    @field_validator("time", mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        if not isinstance(value, str):  # a number has no unit
            raise ValueError(f'must be text such as 24h or "12:00:00" in quotes, got {value!r}')
        return value

    @field_validator("time")
    @classmethod
    def _is_time(cls, value: str) -> str:
        if _minutes(value) < 1:
            raise ValueError(f"must be at least a minute, as 90m, 24h, 2d or \"12:00:00\", got '{value}'")
        return value

    @field_validator("setup")
    @classmethod
    def _holds_no_secret(cls, lines: list[str]) -> list[str]:
        for number, line in enumerate(lines, start=1):
            if SECRET.search(line):
                raise ValueError(
                    f"must hold no secret, line {number} sets one (got a value that is not shown); "
                    "set it in the environment that submits, which jobs inherit"
                )
        return lines

    @property
    def minutes(self) -> int:
        """Time of one job."""
        return _minutes(self.time)

    @property
    def processes(self) -> int:
        """Processes that make one run together."""
        return self.nodes * max(1, self.gpus)

    @property
    def device(self) -> str:
        """Where the runs are made unless --device says otherwise."""
        return "cuda" if self.gpus else "cpu"


def _minutes(text: str) -> int:
    """Minutes of 90m, 24h, 2d, HH:MM:SS or D-HH:MM:SS, seconds rounded up; 0 for anything else."""
    found = re.fullmatch(r"(\d+)\s*([mhd])", text)
    if found:
        return int(found.group(1)) * MINUTES[found.group(2)]
    found = re.fullmatch(r"(?:(\d+)-)?(\d{1,3}):(\d\d):(\d\d)", text)
    if not found:
        return 0
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * MINUTES["d"] + hours * 60 + minutes + (seconds > 0)


def names() -> list[str]:
    """The profiles that come with the package."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def load(name: str) -> Profile:
    """A profile by the name of a shipped one, or by the path of a file; UserError where it is not right."""
    path = expanded(name, "--profile")
    if path.suffix not in (".yaml", ".yml") and path.parent == Path("."):
        remedy = f"shipped: {', '.join(names())}; or give the path of your own file, my-cluster.yaml"
        path = SHIPPED / f"{resolve_name('profile', name, names(), remedy)}.yaml"
    try:
        content = plain_yaml.read_mapping(path)
    except plain_yaml.YamlError as error:
        raise UserError(f"--profile: {error}") from None
    return read(content, path.name)


def read(content: Any, where: str) -> Profile:
    """A profile from what its file holds; UserError names `where` and the key."""
    if not isinstance(content, dict):
        raise UserError(f"{where}: must hold keys and values, got {type(content).__name__}; see `cpu` for one.")
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        unknown = [problem["loc"][0] for problem in error.errors() if problem["type"] == "extra_forbidden"]
        if unknown:  # without its value, which may be a secret
            known = ", ".join(Profile.model_fields)
            raise UserError(
                f"{where}: '{unknown[0]}' is no key of a cluster profile; known: {known}. "
                "What a run computes belongs into the suite or --set."
            ) from None
        raise UserError(explain(error, where)) from None
