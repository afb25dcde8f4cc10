"""Files that are never half written, on local disks and on NFS or Lustre.

A file is made under a unique name in its own folder, flushed, renamed (or linked), and the folder is flushed.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
    with _placing(path, data, guard) as temporary:
        os.replace(temporary, path)


def write_json_atomic(path: Path, value: Any, guard: Callable[[], None] | None = None) -> None:
    """`write_atomic` of a value as indented JSON; NaN and infinity are refused."""
    write_atomic(path, to_json(path, value), guard)


def create_atomic(path: Path, data: bytes, guard: Callable[[], None] | None = None) -> bool:
    """Make a file in one step unless there is one: the first writer wins, and a file is never replaced.

    Arguments and errors as `write_atomic`.

    Returns:
        True if this call made the file, False if one was there.
    """
    path, made = Path(path), True
    with _placing(path, data, guard) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            # An NFS server may answer "exists" to the retry of a link that it has made.
            made = os.stat(temporary).st_nlink == 2
    return made


def to_json(path: Path | str, value: Any) -> bytes:
    """Indented UTF-8 JSON; `path` only names the file in an error."""
    try:
        return (json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode()
    except (TypeError, ValueError) as error:
        raise OutputError(f"{path}: cannot be written as JSON: {error}.") from error


@contextmanager
def _placing(path: Path, data: bytes | Iterable[bytes], guard: Callable[[], None] | None) -> Iterator[Path]:
    """A temporary file of these bytes, which the block puts in the place of `path`; then the folder is flushed."""
    temporary = _write_beside(path, data)
    try:
        if guard:
            guard()
        with _plain(path):
            yield temporary
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


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


@contextmanager
def _plain(path: Path) -> Iterator[None]:
    """Turns an operating system error into one sentence about the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written: {error.strerror}; make room or choose another folder."
        ) from error
