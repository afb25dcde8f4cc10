"""Class folders packed into shards: tar files for WebDataset, Parquet files for Hugging Face's library.

What is written is a function of the images, their names and the form alone: the order is that of the folders, and no
date, owner or place is in it. Each shard is read again before it counts; what a killed call left is gone on with, and
the folder has its name when all is there.
"""

import fcntl
import hashlib
import io
import json
import os
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from . import contents, shards
from .card import DataError
from .image_folders import SUFFIXES, Tree, scan

SHARD_BYTES = 512 * 10**6
ROW_GROUP = 100
"""Images of a Parquet row group."""
_PLAN = ".plan"


@dataclass(frozen=True, slots=True)
class Packed:
    """What `pack` did."""

    tree: Tree
    """The images that were packed, as they lay."""
    files: int
    size: int
    """Bytes of the images."""
    kept: int
    """Shards that an earlier call had written."""

    @property
    def empty(self) -> list[str]:
        """Class folders without an image, of which nothing is in shards."""
        there = {self.tree.classes[number] for number in np.unique(self.tree.class_of)}
        return [name for name in self.tree.classes if name not in there]

    @property
    def unlike_webdataset(self) -> list[str]:
        """Names that other readers of tars do not take for a sample with one image: WebDataset's key ends at the first
        dot, so that cat/cat.0.jpg and cat/cat.1.jpg are one sample, and a.jpg and a.png are."""
        names = [self.tree.name(i) for i in range(len(self.tree))]
        shared = Counter(map(shards.stem, names))
        return [name for name in names if shared[shards.stem(name)] > 1 or name.count(".", len(shards.stem(name))) > 1]


def pack(source: Path, target: Path, form: Literal["tar", "parquet"], advance: Callable[[int, int], object]) -> Packed:
    """Writes the images of a folder of class folders, or of shards, as shards of one form.

    Args:
        source: the folder.
        target: the folder to make.
        advance: is given the bytes of images that are written, and of all.

    Raises:
        DataError: the source has no images, the target is there, or something cannot be read or written.
    """
    if os.path.lexists(target):
        raise DataError(f"{target}: is there already, and nothing is overwritten; remove it, or name another folder.")
    if not source.is_dir():
        raise DataError(f"{source}: there is no such folder; name the one that holds the class folders.")
    if Path(os.path.realpath(source)) in Path(os.path.realpath(target)).parents:
        raise DataError(f"{target}: lies in {source}, which is packed; name a folder outside of it.")
    tree = scan(source)
    if not len(tree):
        below = next(
            (name for name in sorted(os.listdir(source)) if (source / name).is_dir() and len(scan(source / name))), None
        )
        fix = f"pack {source / below}, and each other set, by itself" if below else "name the folder that has some"
        raise DataError(f"{source}: no images in class folders; {fix}.")
    sizes, times = _found(tree)
    starts = _cuts(sizes)
    parts = target.with_name(f".{target.name}.packing")
    kept, done, total = 0, 0, int(sizes.sum())
    try:
        with _alone(parts, _plan(tree, sizes, times, form, starts), target):
            for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(tree)], strict=True)):
                path = parts / f"{target.name}-{number:05d}-of-{len(starts):05d}{shards.ENDINGS[form]}"
                if path.exists():
                    kept += 1
                else:
                    rows = range(start, stop)
                    _write_checked(path, tree, rows, form, sizes, partial(_advance, advance, done, total))
                done += int(sizes[start:stop].sum())
                advance(done, total)
            os.rename(parts, target)
            (target / _PLAN).unlink()
    except OSError as error:
        raise DataError(f"{error.filename or target}: cannot be written ({error.strerror}).") from None
    return Packed(tree, len(starts), total, kept)


def _advance(advance: Callable[[int, int], object], before: int, total: int, done: int) -> None:
    advance(before + done, total)


def _found(tree: Tree) -> tuple[np.ndarray, np.ndarray]:
    """(N,) int64 each: bytes of each image, and when its file was last changed, in nanoseconds."""
    held = tree.shards
    if held is not None:
        sizes = [len(held.content(i)) if size < 0 else size for i, size in enumerate(held.size.tolist())]
        return np.array(sizes, dtype=np.int64), np.array([held.signs[shard][1] for shard in held.shard], dtype=np.int64)
    with contents.threads() as pool:
        signs = list(pool.map(lambda i: contents.sign_at(Path(tree.path(i)))[:2], range(len(tree))))
    sizes, times = zip(*signs, strict=True)
    return np.array(sizes, dtype=np.int64), np.array(times, dtype=np.int64)


def _cuts(sizes: np.ndarray) -> list[int]:
    """First image of each shard: as many as fit, at least one."""
    starts, room = [0], SHARD_BYTES
    for i, size in enumerate(sizes.tolist()):
        if size > room and i > starts[-1]:
            starts.append(i)
            room = SHARD_BYTES
        room -= size
    return starts


def _plan(tree: Tree, sizes: np.ndarray, times: np.ndarray, form: str, starts: list[int]) -> str:
    """sha256 of what is to be written, as far as names, sizes and times say it."""
    about = [form, str(tree.folder.absolute()), tree.classes, starts]
    digest = hashlib.sha256(json.dumps(about).encode("utf-8", "surrogateescape"))
    for array in (tree.class_of, tree.files, sizes, times):
        digest.update(array.tobytes())
    return digest.hexdigest()


@contextmanager
def _alone(parts: Path, plan: str, target: Path) -> Iterator[None]:
    """The folder of what is written, this process's alone; DataError where another has it, or had another plan."""
    parts.mkdir(parents=True, exist_ok=True)
    with open(parts / _PLAN, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"{target}: another process packs it; wait for that.") from None
        file.seek(0)
        before = file.read()
        if before and before != plan:
            raise DataError(f"{parts}: is left by an earlier call that packed other images or another form; remove it.")
        if not before:
            file.write(plan)
            file.flush()
        for left in parts.glob(".part-*"):
            left.unlink()
        yield


def _write_checked(
    path: Path, tree: Tree, rows: range, form: str, sizes: np.ndarray, advance: Callable[[int], object]
) -> None:
    """A shard, put in place when what is read from it is what was written."""
    part = path.with_name(f".part-{uuid.uuid4().hex}{path.suffix}")
    names = _numbers(tree.classes)
    digests: dict[str, bytes] = {}
    done = 0

    def images() -> Iterator[tuple[str, bytes, int]]:
        nonlocal done
        for i in rows:
            data = _content(tree, i)
            if len(data) != sizes[i]:
                raise DataError(f"{tree.path(i)}: changed while it was packed; start the command again.")
            digests[tree.name(i)] = hashlib.sha256(data).digest()
            yield tree.name(i), data, names[tree.classes[tree.class_of[i]]]
            done += len(data)
            advance(done)

    (_write_tar if form == "tar" else _write_parquet)(part, images(), list(names))
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    found = shards.look(part.parent, [part.name], SUFFIXES)
    for k in range(len(found.files)):
        name = f"{found.classes[found.class_of[k]]}/{os.fsdecode(found.files[k])}"
        if digests.pop(name, None) != hashlib.sha256(found.shards.content(k)).digest():
            raise DataError(f"{part}: {name} is not read as it was written; the disk may be damaged.")
    if digests:
        raise DataError(f"{part}: {next(iter(digests))} cannot be read again; rename it.")
    os.replace(part, path)


def _content(tree: Tree, i: int) -> bytes:
    if tree.shards is not None:
        return tree.shards.content(i)
    try:
        return Path(tree.path(i)).read_bytes()
    except OSError as error:
        raise DataError(f"{tree.path(i)}: cannot be read ({error.strerror}); restore it or take it away.") from None


def _numbers(classes: tuple[str, ...]) -> dict[str, int]:
    """Class folder -> its label: sorted as text, or, where all are numbers as in ImageNet-V2, by these."""
    numbers = all(name.isdecimal() for name in classes)
    return {name: i for i, name in enumerate(sorted(classes, key=int) if numbers else classes)}


def _write_tar(path: Path, images: Iterator[tuple[str, bytes, int]], classes: list[str]) -> None:
    last = ""
    with tarfile.open(path, "x", format=tarfile.PAX_FORMAT) as tar:
        for name, data, label in images:
            told = f"{shards.stem(name)}.cls"
            for member, content in ((name, data), (told, str(label).encode())):
                if member != last:  # a.png behind a.jpg has the same
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))
            last = told


def _write_parquet(path: Path, images: Iterator[tuple[str, bytes, int]], classes: list[str]) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    features = {"image": {"_type": "Image"}, "label": {"names": classes, "_type": "ClassLabel"}}
    image = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    schema = pyarrow.schema([("image", image), ("label", pyarrow.int64())])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    options: dict[str, Any] = {"compression": "NONE", "use_dictionary": False, "write_statistics": False}
    with ParquetWriter(path, schema, **options) as writer:
        some: list[tuple[str, bytes, int]] = []

        def write() -> None:
            rows = [{"image": {"bytes": data, "path": name}, "label": label} for name, data, label in some]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
            some.clear()

        for found in images:
            some.append(found)
            if len(some) == ROW_GROUP:
                write()
        if some:
            write()
