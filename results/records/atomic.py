"""Files that are never half written, on local disks and on NFS or Lustre.

A file is made under a unique name in its own folder, flushed, renamed (or linked), and the folder is flushed.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


class OutputError(ValueError):
    """A file that cannot be written."""


def write_atomic(path: Path, data: bytes | Iterable[bytes], guard: Callable[[], None] | None = None) -> None:
    """Replace a file in one step, durably; readers see the old bytes or the new ones.

    Args:
        path: file to make; its folder is made if need be.
        data: all bytes of the file, whole or in parts.
        guard: called just before the replacement; it raises if this process may no longer write here.

    Raises:
        OutputError: the file system refuses (full, not writable, a file in the way).
    """
    path = Path(path)
    temporary = _write_beside(path, data)
    try:
        if guard:
            guard()
        with _plain(path):
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_json_atomic(path: Path, value: Any, guard: Callable[[], None] | None = None) -> None:
    """`write_atomic` of a value as indented JSON; NaN and infinity are refused."""
    write_atomic(path, to_json(path, value), guard)


def create_atomic(path: Path, data: bytes, guard: Callable[[], None] | None = None) -> bool:
    """Make a file in one step unless there is one: the first writer wins, and a file is never replaced.

    Arguments and errors as `write_atomic`.

    Returns:
        True if this call made the file, False if one was there.
    """
    path = Path(path)
    temporary = _write_beside(path, data)
    try:
        if guard:
            guard()
        with _plain(path):
            try:
                os.link(temporary, path)
            except FileExistsError:
                # An NFS server may answer "exists" to the retry of a link that it has made.
                if os.stat(temporary).st_nlink != 2:
                    return False
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return True


def to_json(path: Path | str, value: Any) -> bytes:
    """Indented UTF-8 JSON; `path` only names the file in an error."""
    try:
        return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written as JSON: {error}.") from error


def _write_beside(path: Path, data: bytes | Iterable[bytes]) -> Path:
    """A flushed temporary file in the folder of `path`, under a name that no other writer has."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}")
    with _plain(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return temporary


def _sync_folder(folder: Path) -> None:
    """Make a rename or link durable; file systems that cannot sync a folder are left alone."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)


class _plain:
    """Turns an operating system error into one sentence about the file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, OSError):
            raise OutputError(
                f"{self.path}: cannot be written: {error.strerror}; make room or choose another folder."
            ) from error
