"""Which folders Python imports from: never the one that a command is called in.

`python -m` and `python -c` look into the current folder first, and so does an empty entry of PYTHONPATH, which a
`PYTHONPATH=$PYTHONPATH:/mine` leaves: a queue.py or a folder datasets/ of somebody's project would stand in for the
library of that name. What PYTHONPATH names by its full path is meant, and stays.
"""

import os
import sys

MEANT_HERE = ("", ".", "./")


def leave_out_current_folder() -> None:
    """Take the current folder from where this process imports first; to be called before anything is imported."""
    try:
        here = os.getcwd()
    except OSError:  # it was deleted
        here = ""
    library = os.path.dirname(os.__file__)
    before = sys.path.index(library) if library in sys.path else 1  # what stands behind it hides nothing of it
    meant = {os.path.abspath(place) for place in _entries(os.environ) if os.path.isabs(place)}
    kept = (place for place in sys.path[:before] if place)
    sys.path[:before] = [place for place in kept if os.path.abspath(place) in meant or os.path.abspath(place) != here]


def environment() -> dict[str, str]:
    """The environment for a Python that this one starts, which then does not look here either."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(_entries(os.environ)), "PYTHONSAFEPATH": "1"}


def starting(module: str, function: str) -> list[str]:
    """Arguments of Python that call a function of a module, as `-m` would, but without a look into this folder.

    Python 3.10 knows no PYTHONSAFEPATH.
    """
    leave = "import sys; sys.path[:1] = filter(None, sys.path[:1])"
    more = "from robustft.benchmarks.host import imports; imports.leave_out_current_folder()"
    return ["-c", f"{leave}; {more}; from {module} import {function}; {function}()"]


def _entries(environment: "os._Environ[str]") -> list[str]:
    """What PYTHONPATH names, the current folder left out."""
    return [place for place in environment.get("PYTHONPATH", "").split(os.pathsep) if place not in MEANT_HERE]
