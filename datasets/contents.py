"""What is in files: the sha256 of each, so that other images are other data whatever they are called and weigh.

Every byte is read once. What was found is kept in a file of the user's cache folder beside the file's size, times of
change and inode, and is taken from there as long as all of these are the same. The time of the last change of the
inode (ctime) is among them because nobody can set it: `cp -p` and `rsync -t` give other content the old size and date.
A file that changed in the last two seconds is read again next time, since clocks of file systems are coarse. The cache
only saves time: where it cannot be written, is damaged, or belongs to another machine, files are read again.
"""

import hashlib
import io
import itertools
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np

from .card import DataError

VARIABLE = "ROBUSTFT_CACHE"
SETTLED_NS = 2 * 10**9
THREADS = 16
"""More than cores: files on a network are waited for."""
SLICE = 256
SAVE_SECONDS = 30.0
MANY_FILES, MANY_BYTES = 20_000, 4 * 10**9
"""Above this a message says what takes so long."""
_BUFFER = 1 << 20
_TRIES = 3


def readable(count: int) -> str:
    """Bytes for a person."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def of_files(folder: Path, names: Sequence[str], what: str) -> np.ndarray:
    """(N, 32) uint8: the sha256 of each file.

    Args:
        folder: where they lie; what is known of its files is kept together.
        names: paths below it, or whole ones.
        what: they are, for a person who waits.

    Raises:
        DataError: one cannot be read, or is being written.
    """
    book = _Book(f"files {os.path.realpath(folder)}")
    digests = np.zeros((len(names), 32), dtype=np.uint8)
    slices = [range(start, min(start + SLICE, len(names))) for start in range(0, len(names), SLICE)]
    with threads() as pool:
        look = pool.map(lambda rows: [sign_at(folder / names[i]) for i in rows], slices)
        signs = [sign for found in look for sign in found]
        unknown = []
        for i, (name, sign) in enumerate(zip(names, signs, strict=True)):
            known = book.get(name, sign)
            if known is None:
                unknown.append(i)
            else:
                digests[i] = np.frombuffer(known, dtype=np.uint8)
        saved = time.monotonic()
        size = sum(signs[i][0] for i in unknown)
        with progress(what, f"content of {len(unknown)} images", len(unknown), size) as advance:
            some = [unknown[start : start + 16] for start in range(0, len(unknown), 16)]
            read = pool.map(lambda rows: [_read(folder / names[i]) for i in rows], some)
            for rows, found in zip(some, read, strict=True):
                for i, (sign, digest, settled) in zip(rows, found, strict=True):
                    digests[i] = np.frombuffer(digest, dtype=np.uint8)
                    if settled:
                        book.put(names[i], sign, digest)
                    advance(sign[0])
                if time.monotonic() - saved > SAVE_SECONDS:  # a kill loses half a minute of reading
                    book.save()
                    saved = time.monotonic()
    book.save(names)
    return digests


def of_rows(
    count: int, rows: Callable[[], Iterator[bytes | memoryview]], files: Sequence[str], key: str, what: str
) -> np.ndarray:
    """(N, 32) uint8: the sha256 of each of so many values that are read out of files.

    Args:
        rows: gives the values.
        files: which they are in; none where they are in memory.
        key: which values of these files they are.
        what: they are, for a person who waits.
    """
    signs = [sign_at(Path(file)) for file in files]
    book = _Book(f"rows {key} of {' '.join(map(os.path.realpath, files))}")
    sizes, contents, inodes, numbers = zip((0, 0, 0, 0), *signs, strict=True)
    sign = sum(sizes), sum(contents), sum(inodes), sum(numbers)
    stamp = hashlib.sha256(repr(signs).encode()).digest()
    known = [d for i in range(count) if (d := book.get(f"{i} {stamp.hex()}", sign)) is not None] if files else []
    if files and len(known) == count:
        return np.frombuffer(b"".join(known), dtype=np.uint8).reshape(count, 32).copy()
    begun, values = time.time_ns(), rows()
    digests: list[bytes] = []
    about, size = f"content of {count} images", sum(size for size, *_ in signs)
    with threads() as pool, progress(what, about, count, size) as advance:
        while some := list(itertools.islice(values, SLICE)):
            digests += pool.map(lambda value: hashlib.sha256(value).digest(), some)
            advance(sum(map(len, some)))
    if files and all(begun - max(each[1:3]) > SETTLED_NS for each in signs):
        for i, digest in enumerate(digests):
            book.put(f"{i} {stamp.hex()}", sign, digest)
        book.save([f"{i} {stamp.hex()}" for i in range(count)])
    return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(count, 32).copy()


def state_of(folder: Path) -> str:
    """sha256 over name, size and times of change of all files below a folder; reads none of them."""
    digest, seen = hashlib.sha256(), set()
    for place, below, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(place))
        below[:] = sorted(name for name in below if os.path.realpath(os.path.join(place, name)) not in seen)
        for name in sorted(files):
            with suppress(OSError):
                found = os.stat(os.path.join(place, name))
                digest.update(repr((place, name, found.st_size, found.st_mtime_ns, found.st_ctime_ns)).encode())
    return digest.hexdigest()


def cache_folder(part: str = "contents") -> Path | None:
    """A folder in `ROBUSTFT_CACHE`, else in robustft of the user's cache folder; None where there is no home."""
    given = os.environ.get(VARIABLE)
    base = given or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "robustft")
    with suppress(RuntimeError):
        return Path(base).expanduser() / part
    return None


Sign = tuple[int, int, int, int]
"""Size, time of the last change of content and of inode in nanoseconds, and inode of a file."""


def unsigned(sign: Sign) -> Sign:
    """As the file of a book has it."""
    size, content, inode, number = sign
    return size % 2**64, content % 2**64, inode % 2**64, number % 2**64


def sign_at(path: Path) -> Sign:
    """What the file of a path is now; DataError where there is none that can be looked at."""
    try:
        return sign_of(os.stat(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file or take it away.") from None


def sign_of(found: os.stat_result) -> Sign:
    """What a file is, by what is told of it."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _read(path: Path) -> tuple[Sign, bytes, bool]:
    """What a file is while it is read, the sha256 of its bytes, and whether it was left alone for long enough."""
    try:
        for _ in range(_TRIES):
            begun, digest = time.time_ns(), hashlib.sha256()
            with open(path, "rb", buffering=0) as file:
                before = sign_of(os.fstat(file.fileno()))
                while part := file.read(_BUFFER):
                    digest.update(part)
                after = sign_of(os.fstat(file.fileno()))
            if before == after == sign_at(path):
                return before, digest.digest(), begun - max(before[1:3]) > SETTLED_NS
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file or take it away.") from None
    raise DataError(f"{path}: changes while it is read; wait until whatever writes it is done.")


def kept_in(path: Path) -> dict[str, np.ndarray]:
    """What `keep` wrote; {} where there is no such file, or it is damaged."""
    with suppress(OSError, ValueError, KeyError):
        content = path.read_bytes()
        whole, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() == whole:
            with np.load(io.BytesIO(content), allow_pickle=False) as kept:
                return {name: kept[name] for name in kept.files}
    return {}


def keep(path: Path, **arrays: np.ndarray) -> None:
    """Writes a file of the cache, whole or not at all; of several processes that do it at once, the last one's stays.

    Nothing is said where it cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{uuid.uuid4().hex}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.*"):  # by a process that was killed while it wrote
            if time.time() - left.stat().st_mtime > 3600:
                left.unlink()
        try:
            with open(temporary, "xb") as file:
                file.write(hashlib.sha256(content.getvalue()).digest())
                file.write(content.getvalue())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class _Book:
    """What is known of some files: name -> sign and digest. Whoever writes last wins; what is lost is read again."""

    def __init__(self, key: str) -> None:
        folder = cache_folder()
        self.path = folder / f"{hashlib.sha256(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.npz"\
            if folder else None  # fmt: skip
        self.known: dict[bytes, tuple[Sign, bytes]] = {}
        self.changed = False
        with suppress(ValueError, KeyError):
            kept = kept_in(self.path) if self.path else {}
            signs: list[Sign] = [
                (size, content, inode, number) for size, content, inode, number in kept["signs"].tolist()
            ]
            digests = kept["digests"].tobytes()
            parts = (digests[start : start + 32] for start in range(0, len(digests), 32))
            self.known = dict(zip(kept["names"].tolist(), zip(signs, parts, strict=True), strict=True))

    def get(self, name: str, sign: Sign) -> bytes | None:
        """The digest of a file that has not changed since it was read; None for any other."""
        kept = self.known.get(os.fsencode(name))
        return kept[1] if kept is not None and kept[0] == unsigned(sign) else None

    def put(self, name: str, sign: Sign, digest: bytes) -> None:
        """Keep what a file is and what was read."""
        self.known[os.fsencode(name)] = unsigned(sign), digest
        self.changed = True

    def save(self, names: Sequence[str] | None = None) -> None:
        """Write what is new; of `names` alone where they are given. Nothing is said where that cannot be done."""
        if not self.changed or self.path is None:
            return
        if names is not None:
            there = set(map(os.fsencode, names))
            self.known = {name: kept for name, kept in self.known.items() if name in there}
        keep(
            self.path,
            names=np.array(list(self.known), dtype=bytes),
            signs=np.array([sign for sign, _ in self.known.values()], dtype=np.uint64).reshape(-1, 4),
            digests=np.frombuffer(b"".join(digest for _, digest in self.known.values()), dtype=np.uint8),
        )
        self.changed = False


@contextmanager
def threads(count: int = THREADS) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more once something went wrong."""
    pool = ThreadPoolExecutor(count)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def progress(what: str, about: str, steps: int, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, one line elsewhere where it may take minutes; gives the function to call with the bytes that
    were read of each of so many steps.

    Args:
        what: it is that is read.
        about: what is to be known of it.
        size: bytes in all.
    """
    if not sys.stderr.isatty():
        if steps > MANY_FILES or size > MANY_BYTES:
            where = cache_folder()
            kept = f" (what is found is kept in {where})" if where else ""
            note = f"robustft: {what}: reading {about}, {readable(size)}, once{kept}"
            print(note, file=sys.stderr, flush=True)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=max(steps, size // 10**6) < 1000) as bars:
        task = bars.add_task(f"{what}: {about}", total=max(1, size))
        yield lambda done: bars.advance(task, done)
