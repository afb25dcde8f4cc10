"""Leases of processes that are not this one."""

import json
import subprocess
import sys

from robustft.benchmarks.run_folder.lease import Process


def plant(folder, token="t1", fence=1, **process):
    """A lease of some other process."""
    here = vars(Process.current())
    folder.lease.mkdir()
    (folder.lease / "owner.json").write_text(
        json.dumps({"token": token, "fence": fence, **here, **process, "job": None})
    )


def dead_process():
    """The identity of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return {"pid": child.pid, "start": "1"}
