"""What a cluster must know of a job: a YAML file of cluster keys, never of science."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from ....datasets import plain_yaml
from ...errors import UserError, explain, resolve_name
from ...host.places import expanded
from ...host.redaction import NAMED

SHIPPED = Path(__file__).resolve().parents[2] / "profiles"
Count = Annotated[int, Field(ge=1)]
# A shell line that sets a secret, as a variable or an option. Those of the environment reach a job without one.
SECRET = re.compile(rf"\w*({NAMED.pattern})\w*\s*=|--[\w-]*({NAMED.pattern})[\w-]*\s", re.IGNORECASE)
MINUTES = {"m": 1, "h": 60, "d": 24 * 60}
OF_SBATCH = {
    **{name: name for name in ("partition", "account", "qos", "constraint", "nodes", "gres", "time", "reservation")},
    **{name: name for name in ("exclude", "comment", "licenses")},
    **{"gpus-per-node": "gpus", "cpus-per-task": "cpus", "mem": "memory"},
}
"""sbatch's option -> the key of a profile that sets it."""
OF_THE_HARNESS = frozenset(
    "array chdir dependency error export export-file hold immediate input job-name kill-on-invalid-dep no-requeue "
    "ntasks ntasks-per-node open-mode output parsable quiet requeue signal test-only wait wrap".split()
)
"""Options of sbatch on which it depends that a run is neither lost nor made twice."""


def _one_line(value: str) -> str:
    if not value.isprintable():  # a line break would begin a line of the job's script
        raise ValueError(f"must be one line of text, got {value!r}")
    return value


Text = Annotated[str, AfterValidator(_one_line)]


class Keys(BaseModel):
    """One kind of job of one cluster. What is left out is the cluster's own default."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    partition: Text | None = None
    account: Text | None = None
    qos: Text | None = None
    constraint: Text | None = None
    """Features of the nodes, as sbatch takes them."""
    reservation: Text | None = None
    exclude: Text | None = None
    """Nodes that get no job: node7 or node[3-5]."""
    licenses: Text | None = None
    comment: Text | None = None
    nodes: Count = 1
    """Nodes of one run."""
    gpus: Annotated[int, Field(ge=0)] = 1
    """GPUs a node, with a process each, that train one run together; 0 is one process on processors."""
    gpu_type: Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")] | None = None
    """The kind of GPU, as the cluster calls it: a100, or a slice of one, 1g.10gb."""
    gres: Text | None = None
    """Generic resources in place of `--gpus-per-node`, where a cluster refuses that: gpu:2, gpu:a100:4; "" asks for
    none, where the partition gives GPUs by itself. The GPUs that it names are `gpus`."""
    cpus: Count | Literal["site"] = 1
    """Processors a process, that is a GPU; site: as the cluster gives them with a GPU, where it refuses a number."""
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
    stage: Text | None = None
    """A folder of the node's own disk, to which the images that runs read are copied: /scratch/$SLURM_JOB_ID."""
    python: str | None = None
    """The command that starts Python in a job, e.g. in a container; by default the Python that submits."""
    setup: list[str] = []
    """Shell lines at the start of each job: modules, conda."""
    extra: dict[str, Any] = {}
    """Any other option of sbatch by its long name: {mail-type: FAIL, exclusive: true}."""

    @model_validator(mode="before")
    @classmethod
    def _counts_gpus(cls, content: Any) -> Any:
        """`gres: gpu:4` says what `gpus` is, unless that is said too."""
        if isinstance(content, dict) and "gpus" not in content and _gpus_of(content.get("gres")):
            return {**content, "gpus": _gpus_of(content["gres"])}
        return content

    @model_validator(mode="after")
    def _agrees(self) -> "Keys":
        named = _gpus_of(self.gres)
        if named and named != self.gpus:
            raise ValueError(f"gres must name as many GPUs as gpus, {self.gpus}, got '{self.gres}'")
        if self.gres is not None and self.gpu_type is not None:
            raise ValueError(f"gpu_type must stand in gres where that is given, got both; write gpu:{self.gpu_type}:2")
        if self.cpus == "site" and not self.gpus:
            raise ValueError("cpus must be a number where gpus is 0, got 'site'")
        return self

    @field_validator("extra", mode="before")
    @classmethod
    def _is_free(cls, options: Any) -> Any:
        """Long names with hyphens; nothing that a key of its own or the harness sets, and no secret."""
        if not isinstance(options, dict):
            return options
        found = {str(name).lstrip("-").replace("_", "-"): value for name, value in options.items()}
        for name, value in found.items():
            if SECRET.search(f"{name}=") or SECRET.search(f"{value} "):
                raise ValueError(
                    f"must hold no secret, got '{name}' (its value is not shown); set it in the environment that "
                    "submits, which jobs inherit"
                )
            if name in OF_SBATCH:
                raise ValueError(f"must hold no '{name}', got one; the profile's key for it is {OF_SBATCH[name]}")
            if name in OF_THE_HARNESS:
                raise ValueError(f"must hold no '{name}', got one; the harness sets it so that no run is lost")
            if name == "clusters":
                raise ValueError(
                    "must hold no 'clusters', got one; set SLURM_CLUSTERS in the environment, which squeue knows too"
                )
            if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
                raise ValueError(f"must hold long names of sbatch's options such as mail-type, got '{name}'")
            if value is not True and type(value) is not int and not (isinstance(value, str) and value.isprintable()):
                raise ValueError(f"must have a line of text, a whole number or true for '{name}', got {value!r}")
        return found

    @field_validator("comment")
    @classmethod
    def _tells_no_secret(cls, value: str | None) -> str | None:
        if value is not None and SECRET.search(f"{value} "):
            raise ValueError("must hold no secret (got a value that is not shown); anyone can read it in the queue")
        return value

    @field_validator("cpus", mode="before")
    @classmethod
    def _is_count(cls, value: Any) -> Any:
        if value != "site" and (type(value) is not int or value < 1):
            raise ValueError(f"must be a whole number >= 1, or site, got {value!r}")
        return value

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

    @field_validator("stage")
    @classmethod
    def _is_whole_path(cls, value: str | None) -> str | None:
        if value is not None and value[:1] not in ("/", "~", "$"):
            raise ValueError(f"must be the whole path of a folder of the node's own disk, got '{value}'")
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
    def said(self) -> dict[str, Any]:
        """What its file says of these keys."""
        return self.model_dump(exclude_unset=True, include=set(Keys.model_fields))

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


class Profile(Keys):
    """The kind of job of most runs of a sweep, and what is other for some methods and backbones."""

    methods: dict[str, Keys] = {}
    """Method -> keys that its runs have otherwise."""
    backbones: dict[str, Keys] = {}
    """Backbone -> the same; a method's keys go before a backbone's."""

    @model_validator(mode="after")
    def _all_agree(self) -> "Profile":
        for method in (None, *self.methods):
            for backbone in (None, *self.backbones):
                try:
                    keys = self.of(method, backbone)
                except ValidationError as error:
                    named = " and ".join(name for name in (method, backbone) if name)
                    raise ValueError(f"for {named}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
                if bool(keys.gpus) != bool(self.gpus):
                    raise ValueError(
                        f"gpus must be 0 for all runs of a sweep or for none, got {self.gpus} and "
                        f"{keys.gpus} for {method or backbone}; sweep these by a profile of their own"
                    )
        return self

    def of(self, method: str | None, backbone: str | None) -> Keys:
        """The keys of a run of this method on this backbone."""
        parts = [self, *_named(self.backbones, backbone), *_named(self.methods, method)]
        return Keys.model_validate({key: value for part in parts for key, value in part.said.items()})

    def with_keys(self, more: Mapping[str, Any]) -> dict[str, Any]:
        """The content of this profile with other values of some keys, for all its runs."""
        parts = {
            kind: {name: {**keys.said, **more} for name, keys in getattr(self, kind).items()}
            for kind in ("methods", "backbones")
        }
        return {**self.said, **more, **{kind: found for kind, found in parts.items() if found}}


def _named(parts: Mapping[str, Keys], name: str | None) -> Iterator[Keys]:
    if name is not None and name in parts:
        yield parts[name]


def _gpus_of(gres: Any) -> int:
    """GPUs that generic resources name: 4 of gpu:a100:4; 0 where they name none."""
    count = 0
    for part in gres.split(",") if isinstance(gres, str) else ():
        kind, *rest = part.strip().split(":")
        if kind == "gpu":
            count += int(rest[-1]) if rest and rest[-1].isdecimal() else 1
    return count


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
        unknown = [problem["loc"][-1] for problem in error.errors() if problem["type"] == "extra_forbidden"]
        if unknown:  # without its value, which may be a secret
            known = ", ".join(Profile.model_fields)
            raise UserError(
                f"{where}: '{unknown[0]}' is no key of a cluster profile; known: {known}. "
                "What a run computes belongs into the suite or --set."
            ) from None
        raise UserError(explain(error, where)) from None
