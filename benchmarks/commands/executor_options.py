"""Where the runs of a command are made: on this machine, or by SLURM with a profile."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError, resolve_name
from ..executors.slurm import profile as slurm_profile
from ..executors.slurm import stage as slurm_stage
from ..executors.slurm.arrays import Cluster
from .options import Asked

EXECUTORS = ("local", "slurm")
MINUTES = {"local": 0.5, "slurm": 10.0}
"""Time between checkpoints: here a kill is rare and a checkpoint small; on a cluster neither is sure."""


@dataclass(frozen=True)
class Executor:
    """Who makes the runs of a command, where, and how.

    Attributes:
        runs: root of their folders.
        jobs: how many side by side; None: one for each core, or GPU.
        dry_run: print what would be made, and start nothing.
        keep: what stays of a finished run; None: its final weights.
        cluster: None: this machine.
        workers: processes of each run that load images ahead; None: as the run itself decides.
        checkpoint_activations: less memory in training for more time, with the same numbers.
        keep_going: with a cluster, watch and submit again until all is done.
    """

    runs: Path
    jobs: int | None = None
    dry_run: bool = False
    keep: str | None = None
    device: str = "cpu"
    checkpoint_minutes: float = MINUTES["local"]
    cluster: Cluster | None = None
    workers: int | None = None
    checkpoint_activations: bool = False
    keep_going: bool = False


def choose(asked: Asked) -> Executor:
    """What the options of a command mean, with what follows from them."""
    executor = resolve_name("executor", asked.executor, EXECUTORS)
    more = {key: value for key in ("memory", "time") if (value := getattr(asked, key)) is not None}
    cluster = None
    if executor == "slurm":
        if asked.profile is None and asked.device not in (None, "cpu"):
            raise UserError(
                f"--profile: must say what the cluster needs for {asked.device}, got none; give the path of a YAML "
                f"file or one of: {', '.join(slurm_profile.names())}."
            )
        profile = slurm_profile.load(asked.profile or "cpu")  # by default on processors, as on this machine
        if more:
            profile = slurm_profile.read(profile.with_keys(more), "--memory, --time")
        slurm_stage.check(profile, asked.runs)
        cluster = Cluster(profile, asked.pack or 1, asked.live, asked.workers, asked.checkpoint_activations)
    elif asked.profile is not None or asked.pack is not None or asked.live or asked.keep_going or more:
        raise UserError(
            "--profile, --pack, --live, --keep-going, --memory, --time: are for a cluster; add --executor slurm or "
            "leave them out."
        )
    device = asked.device or (cluster.profile.device if cluster else "cpu")
    minutes = MINUTES[executor] if asked.checkpoint_minutes is None else asked.checkpoint_minutes
    work = asked.runs, asked.jobs, asked.dry_run, asked.keep
    how = asked.workers, asked.checkpoint_activations, asked.keep_going
    return Executor(*work, device, minutes, cluster, *how)
