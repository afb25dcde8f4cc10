"""The package as it was when a sweep was submitted: jobs that start days later run the same code.

A snapshot lies in `<runs>/.code/<hash>/robustft/`, and `<runs>/.code/<hash>` goes in front of PYTHONPATH. The hash is
that of its content, so that a sweep that is submitted again from the same code makes no second one.
"""

import json
import os
import shutil
import uuid
from pathlib import Path

from ....results.records.records import write_json_atomic
from ...errors import UserError
from ...host import environment
from ...host.package import content_hash, files

ABOUT = environment.SNAPSHOT


def place(runs: Path, name: str) -> Path:
    """The folder of a snapshot, which PYTHONPATH must begin with."""
    return runs / ".code" / name


def exists(runs: Path, name: str) -> bool:
    """Whether this snapshot is there, complete."""
    return (place(runs, name) / ABOUT).exists()


def take(runs: Path) -> str:
    """The hash of a snapshot of the code as it is now, made unless it is there; UserError where that fails."""
    running = environment.snapshot()
    if running is not None and exists(runs, running):  # submitted from a snapshot itself
        return running
    name = content_hash()
    if exists(runs, name):
        return name
    draft = runs / ".code" / f".{name}-{uuid.uuid4().hex}"
    try:
        for installed, path in files():
            copy = draft / "robustft" / installed
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        if content_hash(draft / "robustft") != name:
            raise UserError("the code changed while it was copied for the jobs; start the command again.")
        about = environment.describe()
        write_json_atomic(draft / ABOUT, {"hash": name, "commit": about["commit"], "dirty": about["dirty"]})
        try:
            os.rename(draft, place(runs, name))
        except OSError:
            if not exists(runs, name):
                raise
    except OSError as error:
        raise UserError(
            f"{runs / '.code'}: must be writable to keep the code that jobs run ({error.strerror}); free space, choose "
            "another folder with --runs, or use --live."
        ) from None
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return name


def about(runs: Path, name: str) -> dict[str, object]:
    """What is kept of a snapshot: hash, commit, and whether the commit's files were changed."""
    return json.loads((place(runs, name) / ABOUT).read_text(encoding="utf-8"))
