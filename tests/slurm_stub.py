"""SLURM's commands as one small script that only keeps a queue: no job ever starts.

`install` puts them first in PATH. A command imports hardly anything, for it starts for longer than it works. The queue
is a file with a literal of Python; its settings are `max_array` (MaxArraySize), `room` (how many jobs may wait),
`silent` (the controller does not answer) and, if set, `wrong` (what sbatch has against any job) and `grumbles` (what
scontrol says of jobs that it releases all the same).
"""

import ast
import os
import stat
import sys
from pathlib import Path

COMMANDS = ("sbatch", "squeue", "scontrol", "scancel", "srun")
SCRIPT = """#!{python} -SE
import fcntl, os, sys
place = {place!r}
lock = open(place + "/lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
world = eval(open(place + "/world").read())
command, arguments = sys.argv[0].rpartition("/")[2], sys.argv[1:]
def keep():
    open(place + "/world", "w").write(repr(world))
if world["silent"]:
    sys.exit(command + ": error: Unable to contact slurm controller (connect failure)")
if command == "sbatch":
    text = open(arguments[-1]).read()
    if "wrong" in world:
        sys.exit(world["wrong"])
    given = [line[len("#SBATCH --"):] for line in text.splitlines() if line.startswith("#SBATCH --")]
    options = dict(line.partition("=")[::2] for line in given)
    count = int(options.get("array", "0-0").split("%")[0].split("-")[1]) + 1
    if count > world["max_array"]:
        sys.exit("sbatch: error: Batch job submission failed: Invalid job array specification")
    if len(world["jobs"]) + count > world["room"]:
        sys.exit("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)")
    world["last"] += 1
    world["calls"] += 1
    for task in range(count):
        job = str(world["last"]) + ("_%d" % task if "array" in options else "")
        world["jobs"][job] = dict(
            name=options["job-name"], held="hold" in options, after=options.get("dependency", ""), text=text,
            environment=sorted(os.environ),
        )
    print("Submitted batch job", world["last"])
elif command == "squeue":
    for job, about in world["jobs"].items():
        why = "JobHeldUser" if about["held"] else about.get("reason", "Priority")
        print("|".join([job, "PENDING", why, about["name"]]))
elif command == "scontrol" and arguments[0] == "release":
    for job, about in world["jobs"].items():
        if job.split("_")[0] == arguments[1]:
            about["held"] = False
    if "grumbles" in world:
        keep()
        sys.exit(arguments[1] + ": " + world["grumbles"])
elif command == "scontrol" and "partition" in arguments:
    print("PartitionName=normal Default=YES PreemptMode=REQUEUE State=UP")
    print("PartitionName=idle Default=NO PreemptMode=GANG,CANCEL State=UP")
elif command == "scontrol":
    print("MaxArraySize            =", world["max_array"])
    print("PreemptType             = preempt/partition_prio")
elif command == "scancel":
    for job in arguments:
        world["jobs"].pop(job, None)
keep()
"""


class Stub:
    """The queue of the commands that `install` made."""

    def __init__(self, place):
        self.path = Path(place) / "world"

    @property
    def world(self):
        return ast.literal_eval(self.path.read_text())

    def set(self, **fields):
        """Change settings, or `jobs`."""
        self.path.write_text(repr({**self.world, **fields}))

    @property
    def jobs(self):
        return self.world["jobs"]

    def wait_for(self, reason, *jobs):
        """These jobs wait for another reason than their priority."""
        self.set(jobs={job: {**about, "reason": reason} if job in jobs else about for job, about in self.jobs.items()})

    def finish(self, *jobs):
        """These jobs are over; without any, all are."""
        self.set(jobs={job: about for job, about in self.jobs.items() if jobs and job not in jobs})


def install(place, monkeypatch):
    """The stub in a folder of its own, its commands first in PATH."""
    place = Path(place)
    (place / "bin").mkdir(parents=True)
    (place / "world").write_text(
        repr({"jobs": {}, "last": 0, "calls": 0, "max_array": 1001, "room": 10**6, "silent": False})
    )
    for name in COMMANDS:
        path = place / "bin" / name
        path.write_text(SCRIPT.format(python=sys.executable, place=str(place)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return Stub(place)
