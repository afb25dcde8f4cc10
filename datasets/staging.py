"""Copies of image files and shards on a disk of this machine, read in place of those on one that many machines share.

Below the folder that a user names, everything of this user and machine is in one folder, and a lock beside it, both
hidden, so that they are no part of any data:

    .robustft-<machine>-<user>/files/<a hash for each folder>/<file>    copies, put in place when they are whole
    .robustft-<machine>-<user>/books/<that hash>                        a line a copy, with what it is one of
    .robustft-<machine>-<user>.lock                                     held by every process that reads copies

The hash is of whole path, device and inode of the folder: in two containers, one path may lead to two folders.

Whoever comes first copies, the others wait for it and take what is there. A copy is taken while source and copy have
the sizes, times of change and inodes of the moment in which the bytes of both had one sha256, and the machine was not
started anew since; so what a killed process left is used again, and copies of files that were replaced are made again.
Locks end with their processes. The last process that reads removes everything; one that is killed cannot, and leaves it
to the next. A copy that is gone is no fault: its source is read.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Event

from .card import DataError
from .contents import SETTLED_NS, SLICE, THREADS, Sign, readable, sign_of

KEPT_FREE = 64 * 2**20
"""Bytes of the disk that copies leave free."""
WAIT_SECONDS = 0.5
SIGN_SECONDS = 30.0
"""Between the lines that say how far copying is."""
OPEN_FILES = 128
"""Files read in parts that a process keeps open; a limit of 1,024 for all is common."""
_BUFFER = 1 << 20
_AT_ONCE = 16
"""Files that a thread copies before it says so."""
_FOLDERS_AT_ONCE = 64
"""Folders whose books are in memory at a time."""
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")
_copies: dict[str, str] = {}
"""Folder, as datasets name it -> the folder of its copies; processes that load images inherit it."""


class StageError(DataError):
    """There can be no copies here; one sentence. Whoever wanted them reads the sources."""


def content(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a file, from its copy where one is read in its place."""
    folder, name = os.path.split(os.fspath(path))
    copies = _copies.get(folder)
    if copies is not None:
        with suppress(OSError):
            return Path(copies, name).read_bytes()
    return Path(path).read_bytes()


def where(path: str, sign: Sign) -> str:
    """Of a file that is read in parts: its copy where one is read in its place, else itself.

    Raises:
        DataError: the file is gone, or no longer what it was when somebody noted where its parts are.
    """
    try:
        now = sign_of(os.stat(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    if now != sign:
        raise DataError(f"{path}: was changed since it was looked through; start the command again.")
    folder, name = os.path.split(path)
    copies = _copies.get(folder)
    if copies is not None:
        with suppress(OSError):
            if os.stat(f"{copies}/{name}").st_size == sign[0]:
                return f"{copies}/{name}"
    return path


def part(path: str, sign: Sign, start: int, size: int) -> bytes:
    """So many bytes of a file from a position on, from its copy where one is read in its place.

    The file stays open for the next part. No position is kept with it, so processes that inherit it, and threads, do
    not disturb each other.

    Raises:
        DataError: as `where`, or the file ends too early.
    """
    try:
        data = _open(path, sign, _copies.get(os.path.dirname(path))).read(start, size)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file.") from None
    if len(data) != size:
        raise DataError(f"{path}: ends too early; it was changed or cut off: fetch it again.")
    return data


class _Opened:
    """A file that is open as long as somebody may read parts of it."""

    def __init__(self, path: str) -> None:
        self._file = -1
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, start: int, size: int) -> bytes:
        parts = []
        while size and (data := os.pread(self._file, size, start)):
            parts.append(data)
            start, size = start + len(data), size - len(data)
        return b"".join(parts)

    def __del__(self) -> None:
        if self._file >= 0:
            os.close(self._file)


@lru_cache(maxsize=OPEN_FILES)
def _open(path: str, sign: Sign, copies: str | None) -> _Opened:
    """`copies` tells files that are read from a copy from those that are not."""
    return _Opened(where(path, sign))


def place_of(pattern: str, apart: Mapping[str, Path | None], known: bool = True) -> Path:
    """The folder that a pattern with variables of the environment names on this machine.

    Args:
        apart: what it is -> a folder in which copies may not lie.
        known: whether each variable must be set here; else one that is not set may be anything.

    Raises:
        DataError: a variable is not set, or the folder is no place for copies.
    """
    if "$" in _VARIABLE.sub("", pattern):
        raise DataError(f"stage: must name variables as $NAME or ${{NAME}}, got '{pattern}'; correct it.")
    unset = [name for found in _VARIABLE.finditer(pattern) if not _value(name := found[1] or found[2])]
    if unset and known:
        raise DataError(
            f"stage: ${unset[0]} is not set on {socket.gethostname()}, got '{pattern}'; name the folder by variables "
            "that jobs have there, or set it in the profile's setup."
        )
    anything = "/unset" if pattern.startswith("$") else "unset"
    text = _VARIABLE.sub(lambda found: _value(found[1] or found[2]) or anything, pattern)
    place = Path(os.path.expanduser(text))
    if not place.is_absolute():
        raise DataError(
            f"stage: must be the whole path of a folder of the node's own disk, got '{pattern}'; begin with /."
        )
    for what, folder in apart.items():
        if folder is not None and _inside(place, folder):
            raise DataError(
                f"stage: must be a folder of the node's own disk, got '{pattern}', which is in {what}, '{folder}'; "
                "name another, or leave stage out."
            )
    return place


def _value(variable: str) -> str | None:
    """Of the environment. SLURM gives a job that is in no array no number of one; it is taken as an array by itself."""
    found = os.environ.get(variable)
    return found or (os.environ.get("SLURM_JOB_ID") if variable == "SLURM_ARRAY_JOB_ID" else None)


def _inside(place: Path, folder: Path) -> bool:
    whole = Path(os.path.realpath(folder))
    return whole in (real := Path(os.path.realpath(place)), *real.parents)


@dataclass(frozen=True)
class Brought:
    """What `Stage.bring` did."""

    files: int
    copied: int
    """Files that had no copy."""
    copied_bytes: int


_Book = dict[str, tuple[Sign, Sign]]
"""File -> what it and its copy were when they had the same bytes."""


@dataclass(frozen=True, slots=True)
class _File:
    folder: str
    name: str
    size: int


class Stage:
    """This process's use of the copies in one folder.

    Args:
        pattern: the folder, with variables of the environment; they need not be set before `bring` is called.
        apart: as `place_of` takes them.
    """

    def __init__(self, pattern: str, apart: Mapping[str, Path | None]) -> None:
        self.pattern, self.apart = pattern, apart
        self.place = Path()
        self._lock: int | None = None
        self._keys: dict[str, str] = {}
        """Folder -> its hash."""

    @property
    def _home(self) -> Path:
        return self.place / f".robustft-{socket.gethostname()}-{os.geteuid()}"

    @property
    def _lock_path(self) -> Path:
        return self._home.with_name(f"{self._home.name}.lock")

    def bring(
        self, files: Iterable[str], check_stop: Callable[[], object], tell: Callable[[str], object] = lambda _: None
    ) -> Brought:
        """From now on these files are read from copies, which are made where there are none.

        Args:
            files: whole paths, as datasets name them when they read.
            check_stop: called between files and while another process is waited for; what it raises ends the work. What
                has been copied stays for whoever goes on.
            tell: is given how far it is, now and then.

        Raises:
            StageError: there can be no copies.
            DataError: the pattern names no folder on this machine.
        """
        wanted: dict[str, set[str]] = {}
        for path in files:
            folder, name = os.path.split(path)
            wanted.setdefault(folder, set()).add(name)
            _copies.pop(folder, None)  # those of an earlier run: where there can be none now, the sources are read
        if not wanted:
            return Brought(0, 0, 0)
        lacking: list[_File] = []
        try:
            self._keys |= {folder: _key(folder) for folder in wanted}
            if self._lock is None:
                self.place = place_of(self.pattern, self.apart)
                self._lock = self._enter(check_stop)
            with self._hold(fcntl.LOCK_SH, check_stop, tell):
                complete = self._is_of_this_start() and not any(self._amiss(wanted, check_stop))
            if not complete:
                with self._hold(fcntl.LOCK_EX, check_stop, tell):
                    self._tidy()
                    lacking = self._lacking(wanted, check_stop)
                    self._copy(lacking, check_stop, tell)
        except OSError as error:
            raise StageError(f"{error.filename or self.place} cannot be used ({error.strerror}).") from None
        _copies.update({folder: self._copies_of(folder) for folder in wanted})
        return Brought(sum(map(len, wanted.values())), len(lacking), sum(file.size for file in lacking))

    def leave(self) -> None:
        """Read sources again; the last process that leaves removes all copies."""
        if self._lock is None:
            return
        mine = f"{self._home}/"
        for folder in [folder for folder, copies in _copies.items() if copies.startswith(mine)]:
            del _copies[folder]
        _open.cache_clear()  # a copy that is open takes its room on the disk
        with suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: somebody else reads them
            shutil.rmtree(self._home, ignore_errors=True)
            made = os.pread(self._lock, 1, 0)
            self._lock_path.unlink()
            if made:
                self.place.rmdir()  # unless something else is in it
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # processes that load images have it open, too
        os.close(self._lock)
        self._lock = None

    # who is here

    def _enter(self, check_stop: Callable[[], object]) -> int:
        """The lock, held with all others who read: from now on nobody removes anything."""
        while True:
            made = False
            with suppress(FileExistsError):
                self.place.mkdir(mode=0o700)
                made = True
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if made:
                    os.pwrite(lock, b"made", 0)
                _wait_for(lock, fcntl.LOCK_SH, check_stop)
                if not _is_still(self._lock_path, lock):  # the last one took it away while we waited
                    continue
                with suppress(FileExistsError):
                    self._home.mkdir(mode=0o700)
                found = os.lstat(self._home)
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
                    raise StageError(f"{self._home} is no folder of yours alone.")
                kept, lock = lock, -1
                return kept
            finally:
                if lock >= 0:
                    os.close(lock)

    @contextmanager
    def _hold(self, how: int, check_stop: Callable[[], object], tell: Callable[[str], object]) -> Iterator[None]:
        """Many may look (LOCK_SH), or one may copy (LOCK_EX)."""
        lock = os.open(self._home / "copying.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _taken(lock, how):
                tell("another process of this machine copies; waiting for it")
                _wait_for(lock, how, check_stop)
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)
            os.close(lock)

    # what is there

    def _copies_of(self, folder: str) -> str:
        return f"{self._home}/files/{self._keys[folder]}"

    def _book_of(self, folder: str) -> Path:
        return self._home / "books" / self._keys[folder]

    def _is_of_this_start(self) -> bool:
        told = self._home / "boot"
        return told.exists() and told.read_text() == _boot()

    def _tidy(self) -> None:
        """Remove what a process that was killed had not put in place, and all that is older than the machine's start:

        after a crash of the machine a file may have its size and times, and not its bytes.
        """
        old = () if self._is_of_this_start() else ("books", "files")
        for part in (*old, "parts"):
            shutil.rmtree(self._home / part, ignore_errors=True)
            if (self._home / part).exists():
                raise StageError(f"{self._home / part} of an earlier job cannot be removed.")
        for part in ("books", "files", "parts"):
            (self._home / part).mkdir(mode=0o700, exist_ok=True)
        (self._home / "boot").write_text(_boot())

    def _amiss(
        self, wanted: Mapping[str, set[str]], check_stop: Callable[[], object]
    ) -> Iterator[tuple[str, str, Sign | None]]:
        """(folder, file, what the source is now) of each file that is wanted or was copied, and has no valid copy."""

        def look(some: tuple[str, _Book, list[str]]) -> list[tuple[str, str, Sign | None]]:
            folder, book, names = some
            copies, found = self._copies_of(folder), []
            for name in names:
                now = _sign(f"{folder}/{name}")
                if now is None or book.get(name) != (now, _sign(f"{copies}/{name}")):
                    found.append((folder, name, now))
            return found

        folders, pool = list(wanted), ThreadPoolExecutor(THREADS)
        try:
            for first in range(0, len(folders), _FOLDERS_AT_ONCE):
                few = folders[first : first + _FOLDERS_AT_ONCE]
                some = []
                for folder, book in zip(few, pool.map(_read_book, map(self._book_of, few)), strict=True):
                    names = sorted(wanted[folder] | book.keys())
                    some += [(folder, book, names[at : at + SLICE]) for at in range(0, len(names), SLICE)]
                for found in pool.map(look, some):
                    check_stop()
                    yield from found
        finally:
            pool.shutdown(cancel_futures=True)

    def _lacking(self, wanted: Mapping[str, set[str]], check_stop: Callable[[], object]) -> list[_File]:
        """The files that are to be copied; copies of what is no longer as it was go."""
        lacking = []
        for folder, name, now in self._amiss(wanted, check_stop):
            with suppress(FileNotFoundError):
                os.unlink(f"{self._copies_of(folder)}/{name}")
            if name in wanted[folder]:
                if now is None:
                    raise StageError(f"{folder}/{name} is no file that can be read.")
                lacking.append(_File(folder, name, now[0]))
        return lacking

    def _copy(self, lacking: list[_File], check_stop: Callable[[], object], tell: Callable[[str], object]) -> None:
        """Copies, all of them or, where they do not fit, none."""
        size = sum(file.size for file in lacking)
        disk = os.statvfs(self._home)
        free = max(0, disk.f_bavail * disk.f_frsize - KEPT_FREE)
        if size > free or (disk.f_files and len(lacking) > disk.f_favail):
            raise StageError(
                f"{self.place} has room for {readable(free)} in {disk.f_favail} files, and {readable(size)} in "
                f"{len(lacking)} files are to be copied."
            )
        for folder in dict.fromkeys(file.folder for file in lacking):
            os.makedirs(self._copies_of(folder), mode=0o700, exist_ok=True)
        pool, done, told = ThreadPoolExecutor(THREADS), 0, time.monotonic()
        halt = Event()
        try:
            some = [pool.submit(self._copy_some, few, halt) for few in _few_at_once(lacking)]
            for copied in some:
                check_stop()
                while wait([copied], WAIT_SECONDS).not_done:
                    check_stop()  # also while a shard is copied
                done += copied.result()
                if time.monotonic() - told > SIGN_SECONDS:
                    told = time.monotonic()
                    tell(f"{readable(done)} of {readable(size)} copied")
        except (OSError, StageError):  # others want the disk, and nobody reads these copies
            halt.set()
            pool.shutdown(cancel_futures=True)
            for file in lacking:
                with suppress(OSError):
                    os.unlink(f"{self._copies_of(file.folder)}/{file.name}")
            raise
        finally:
            halt.set()
            pool.shutdown(cancel_futures=True)

    def _copy_some(self, files: list[_File], halt: Event) -> int:
        """Copies some files of one folder, then writes them down; their bytes."""
        lines = []
        for file in files:
            begun = time.time_ns()
            source, copy, digest = self._copy_one(file, halt)
            if begun - max(source[1:3]) > SETTLED_NS:  # else it may change without another time
                lines.append("\n" + json.dumps([file.name, source, copy, digest]))
        with open(self._book_of(files[0].folder), "ab", buffering=0) as book:
            book.write("".join(lines).encode())  # in one call: several threads write in one book
        return sum(file.size for file in files)

    def _copy_one(self, file: _File, halt: Event) -> tuple[Sign, Sign, str]:
        """What source and copy are, and the sha256 of both."""
        source, copy = f"{file.folder}/{file.name}", f"{self._copies_of(file.folder)}/{file.name}"
        part = self._home / "parts" / uuid.uuid4().hex
        read, written = hashlib.sha256(), hashlib.sha256()
        with open(source, "rb", buffering=0) as old, open(part, "xb", buffering=0) as new:
            before = _of_plain(os.fstat(old.fileno()), source)
            buffer = min(_BUFFER, before[0] + 1)  # a larger one costs more than to read a small file
            while piece := old.read(buffer):
                read.update(piece)
                if halt.is_set():
                    raise StageError(f"{source} was not copied whole.")
                if new.write(piece) != len(piece):
                    raise StageError(f"{self.place} is full.")
        with open(part, "rb", buffering=0) as new:
            while piece := new.read(buffer):
                written.update(piece)
        os.replace(part, copy)
        kept = _sign(copy)
        if before != _sign(source):
            raise StageError(f"{source} changed while it was copied.")
        if kept is None or kept[0] != before[0] or read.digest() != written.digest():
            raise StageError(f"{copy} is not read as it was written; the disk may be damaged.")
        return before, kept, read.hexdigest()


def _few_at_once(files: Iterable[_File]) -> Iterator[list[_File]]:
    """The files, some of one folder at a time: many small ones, or a large one."""
    of_folder: dict[str, list[_File]] = {}
    for file in files:
        of_folder.setdefault(file.folder, []).append(file)
    for several in of_folder.values():
        few: list[_File] = []
        for file in several:
            if few and (len(few) == _AT_ONCE or few[0].size > _BUFFER):
                yield few
                few = []
            few.append(file)
        yield few


def _key(folder: str) -> str:
    found = os.stat(folder)
    about = os.path.abspath(folder), found.st_dev, found.st_ino
    return hashlib.sha256(repr(about).encode("utf-8", "surrogateescape")).hexdigest()[:32]


def _read_book(path: Path) -> _Book:
    """What copies there are; a line that a kill cut off says nothing."""
    book: _Book = {}
    with suppress(FileNotFoundError):
        for line in path.read_bytes().splitlines():
            with suppress(ValueError):
                name, source, copy, _ = json.loads(line)
                book[name] = tuple(source), tuple(copy)
    return book


def _sign(path: str) -> Sign | None:
    """What a file is now; None where there is none that can be looked at."""
    try:
        return _of_plain(os.stat(path), path)
    except (OSError, StageError):
        return None


def _of_plain(found: os.stat_result, path: str) -> Sign:
    if not stat.S_ISREG(found.st_mode):
        raise StageError(f"{path} is no plain file.")
    return sign_of(found)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return "unknown"


def _taken(lock: int, how: int) -> bool:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait_for(lock: int, how: int, check_stop: Callable[[], object]) -> None:
    while not _taken(lock, how):
        check_stop()
        time.sleep(WAIT_SECONDS)


def _is_still(path: Path, lock: int) -> bool:
    """Whether a lock that is held is still the one that others find."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(lock))
    except FileNotFoundError:
        return False
