"""Where the runs of a command are made: on this machine, or by SLURM with a profile."""

from typing import Any

from ..errors import UserError, resolve_name
from ..executors.slurm import profile as slurm_profile
from ..executors.slurm.arrays import Cluster

EXECUTORS = ("local", "slurm")
MINUTES = {"local": 0.5, "slurm": 10.0}
"""Time between checkpoints: here a kill is rare and a checkpoint small; on a cluster neither is sure."""


def choose(work: dict[str, Any]) -> dict[str, Any]:
    """The options of a command with `cluster` in place of those that choose it, and with what follows from it."""
    executor = resolve_name("executor", work.pop("executor"), EXECUTORS)
    profile, pack, live = work.pop("profile"), work.pop("pack"), work.pop("live")
    more = {key: value for key in ("memory", "time") if (value := work.pop(key, None)) is not None}
    cluster = None
    if executor == "slurm":
        if profile is None and work["device"] not in (None, "cpu"):
            raise UserError(
                f"--profile: must say what the cluster needs for {work['device']}, got none; give the path of a YAML "
                f"file or one of: {', '.join(slurm_profile.names())}."
            )
        asked = slurm_profile.load(profile or "cpu")  # as runs of this machine are on processors unless told
        if more:
            asked = slurm_profile.read({**asked.model_dump(exclude_unset=True), **more}, "--memory, --time")
        cluster = Cluster(asked, pack or 1, live, work.get("workers"))
    elif profile is not None or pack is not None or live or more:
        raise UserError(
            "--profile, --pack, --live, --memory, --time: are for a cluster; add --executor slurm or leave them out."
        )
    device = work["device"] or (cluster.profile.device if cluster else "cpu")
    minutes = work["checkpoint_minutes"]
    return {
        **work,
        "device": device,
        "checkpoint_minutes": MINUTES[executor] if minutes is None else minutes,
        "cluster": cluster,
    }
