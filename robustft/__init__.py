"""Robust finetuning of vision-language models, compared: what a notebook or a script calls.

Importing it loads nothing else: each name is loaded when it is first used.
"""

import os  # with sys the only module that every Python has loaded already: nothing of the current folder is imported
import sys

TYPE_CHECKING = False  # as typing's, which type checkers know by its name
if TYPE_CHECKING:
    from .benchmarks.errors import UserError
    from .benchmarks.python.comparing import Compared, compare
    from .benchmarks.python.evaluating import ece, evaluate
    from .benchmarks.python.loading import LoadedRun, load_run
    from .benchmarks.python.making import run
    from .benchmarks.python.planning import PlannedRun, plan
    from .benchmarks.python.tables import board, records

    __version__: str

__all__ = [
    "Compared",
    "LoadedRun",
    "PlannedRun",
    "UserError",
    "__version__",
    "board",
    "compare",
    "ece",
    "evaluate",
    "load_run",
    "plan",
    "records",
    "run",
]
_MODULES = {
    "Compared": "comparing",
    "LoadedRun": "loading",
    "PlannedRun": "planning",
    "board": "tables",
    "compare": "comparing",
    "ece": "evaluating",
    "evaluate": "evaluating",
    "load_run": "loading",
    "plan": "planning",
    "records": "tables",
    "run": "making",
}

# In a clone the five folders lie beside this one, in an installed package inside of it. So a clone that is the current
# folder is whole, whatever is installed.
if not os.path.isdir(os.path.join(__path__[0], "benchmarks")):
    __path__.append(os.path.dirname(os.path.abspath(__path__[0])))


def __getattr__(name: str) -> object:
    from importlib import import_module, metadata

    value: object
    if name == "__version__":
        try:
            value = metadata.version("robustft")
        except metadata.PackageNotFoundError:  # a clone that nobody installed
            value = "0+unknown"
    elif name == "UserError":
        value = import_module(".benchmarks.errors", __name__).UserError
    elif name in _MODULES:
        value = getattr(import_module(f".benchmarks.python.{_MODULES[name]}", __name__), name)
    else:
        raise AttributeError(f"module 'robustft' has no attribute {name!r}")
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__} - {"TYPE_CHECKING", "_MODULES", "os", "sys"})
