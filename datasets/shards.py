"""Class folders in shards: tar files, as WebDataset has them, and Parquet, as Hugging Face's library writes it.

An image of a shard has the name that it has in class folders, `<class>/<file>`, and the bytes of that file, so it is
the same sample, whatever holds it:

    tar       a member <class>/<file>; beside it <class>/<stem>.cls, .json and .txt, which are not read
    Parquet   a row of image {bytes, path}, whose path is <class>/<file>; or <file>, and its label names the class

Two more are ImageNet's own: the path of Hugging Face's ILSVRC/imagenet-1k, <file>_<wnid>.JPEG; and members without a
folder, as n01440764.tar has them, or with a .json that has a "filename" and a "label", or a .cls.

Where each image lies is looked up once and kept in a file of the user's cache, beside size, times and inode of each
shard; a shard that has changed is looked through again. An image of a tar, or of a Parquet column that is not
compressed, is then a part of a file that is read by its position. In a compressed column nothing can be read without
its row group, of some hundred images; `robustft data pack` writes columns that are not compressed. Nothing in a shard
is run: other members, pickles among them, are never opened.
"""

import hashlib
import json
import os
import re
import tarfile
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from . import contents, staging
from .card import DataError
from .contents import Sign

Format = Literal["folder", "tar", "parquet"]
ENDINGS: dict[Format, str] = {"tar": ".tar", "parquet": ".parquet"}
VERSION = 1
"""Of the index: another one is not read."""
JUNK = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db", "__macosx", "@eadir", "lost+found"})
"""What systems leave in folders, in lower case; the rest of it is hidden."""
SIDECARS = frozenset({".cls", ".json", ".txt"})
"""Endings of what WebDataset has beside an image."""
_IMAGENET = re.compile(r"(?:(n\d{8})_\d+|ILSVRC2012_val_\d{8})\.JPEG")
"""The names of ImageNet's files, of train with their class."""
_WITH_CLASS = re.compile(r"(.+)_(n\d{8})(\.JPEG)")
"""<file>_<wnid>.JPEG"""
TAR_THREADS, PARQUET_THREADS = 16, 4
"""Of a tar only headers are read, of a Parquet file whole row groups."""
_ARRAYS = ("classes", "files", "starts", "sizes", "over")
_ROW_GROUPS = 2
"""Compressed row groups that a process keeps: images are evaluated in order."""


@dataclass(frozen=True, slots=True)
class Shards:
    """Where each image of a tree lies."""

    files: tuple[str, ...]
    """Whole paths."""
    signs: tuple[Sign, ...]
    """What each file was when it was looked through."""
    shard: np.ndarray
    """(N,) int32 positions in `files`."""
    start: np.ndarray
    """(N,) int64 first byte; in a compressed column, the row."""
    size: np.ndarray
    """(N,) int64 bytes; -1 in a compressed column."""

    def take(self, rows: np.ndarray) -> "Shards":
        """Those of the images at these positions."""
        return replace(self, shard=self.shard[rows], start=self.start[rows], size=self.size[rows])

    def file(self, i: int) -> str:
        """The shard of image i."""
        return self.files[self.shard[i]]

    def content(self, i: int) -> bytes:
        """The bytes of image i, as its file has them; DataError where they cannot be read."""
        number, start, size = self.shard[i], int(self.start[i]), int(self.size[i])
        path, sign = self.files[number], self.signs[number]
        return _of_row(path, sign, start) if size < 0 else staging.part(path, sign, start, size)

    @property
    def compressed(self) -> int:
        """How many images lie in compressed columns."""
        return int(np.count_nonzero(self.size < 0))


@dataclass(frozen=True, slots=True)
class Listed:
    """The images in the shards of a folder, sorted by class folder and file name."""

    classes: tuple[str, ...]
    """Names of the class folders."""
    class_of: np.ndarray
    """(N,) int64 positions in `classes`."""
    files: np.ndarray
    """(N,) file names in UTF-8 bytes."""
    shards: Shards
    over: tuple[str, ...]
    """What was passed over."""


@dataclass(frozen=True, slots=True)
class _Content:
    """What is in one shard: (N,) arrays of its images, and names of what is none of them."""

    classes: np.ndarray
    files: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    over: np.ndarray

    @classmethod
    def of(cls, path: str, images: list[tuple[str, int, int]], over: list[str]) -> "_Content":
        """(`<class>/<file>`, first byte, bytes) of each image; DataError where a name is no UTF-8."""
        try:
            classes = [name.partition("/")[0].encode() for name, _, _ in images]
            files = [name.partition("/")[2].encode() for name, _, _ in images]
            others = [name.encode() for name in over]
        except UnicodeEncodeError as error:
            wrong = os.fsencode(error.object)
            raise DataError(f"{path}: the name {wrong!r} is not UTF-8; rename it, and pack again.") from None
        starts, sizes = (np.array([image[i] for image in images], dtype=np.int64) for i in (1, 2))
        return cls(_texts(classes), _texts(files), starts, sizes, _texts(others))


def _texts(names: list[bytes]) -> np.ndarray:
    return np.array(names, dtype=bytes)


def in_folder(names: Iterable[str], folder: Path) -> list[str]:
    """The sorted names of those files that are shards; DataError where they are of both kinds."""
    found = {ending: sorted(n for n in names if n.lower().endswith(ending)) for ending in ENDINGS.values()}
    if all(found.values()):
        raise DataError(f"{folder}: has both tar and Parquet shards; take those of one kind away.")
    return next(filter(None, found.values()), [])


def look(folder: Path, names: Sequence[str], endings: tuple[str, ...], synsets: Sequence[str] = ()) -> Listed:
    """What is in these shards of a folder, by the index that is kept of them.

    Args:
        endings: of images, in lower case.
        synsets: ImageNet's wnids in class order, where its own names are understood, too.

    Raises:
        DataError: a shard cannot be read, is compressed as a whole, or has an image without a class or a name.
    """
    files = [os.path.join(folder, name) for name in names]
    signs = [contents.sign_at(Path(file)) for file in files]
    index = _Index(folder, (*endings, *synsets))
    kept = [index.get(name, sign) for name, sign in zip(names, signs, strict=True)]
    unknown = [i for i, found in enumerate(kept) if found is None]
    saved = time.monotonic()
    about = f"where the images of {len(unknown)} shard{'s' * (len(unknown) != 1)} are"
    with contents.progress(str(folder), about, len(unknown), sum(signs[i][0] for i in unknown)) as advance:

        def read(i: int) -> tuple[_Content, bool]:
            begun = time.time_ns()
            found = _through(files[i], endings, synsets)
            if contents.sign_at(Path(files[i])) != signs[i]:
                raise DataError(f"{files[i]}: changes while it is read; wait until whatever writes it is done.")
            return found, begun - max(signs[i][1:3]) > contents.SETTLED_NS

        with contents.threads(TAR_THREADS if names[0].lower().endswith(".tar") else PARQUET_THREADS) as pool:
            for i, (found, settled) in zip(unknown, pool.map(read, unknown), strict=True):
                kept[i] = found
                if settled:
                    index.put(names[i], signs[i], found)
                advance(signs[i][0])
                if time.monotonic() - saved > contents.SAVE_SECONDS:  # a kill loses half a minute of reading
                    index.save()
                    saved = time.monotonic()
    index.save(frozenset(os.listdir(folder)))  # not of `names`: ImageNet's train and validation may lie in one folder
    return _joined(folder, files, signs, [found for found in kept if found is not None])


def _joined(folder: Path, paths: list[str], signs: list[Sign], every: list[_Content]) -> Listed:
    """What several shards hold, as if it lay in class folders; DataError where two have an image of one name."""
    joined = {what: np.concatenate([getattr(found, what) for found in every]) for what in _ARRAYS}
    classes, class_of = np.unique(joined["classes"], return_inverse=True)  # bytes of UTF-8 are in the order of text
    files, shard = joined["files"], np.repeat(np.arange(len(every), dtype=np.int32), [len(f.files) for f in every])
    order = np.lexsort((files, class_of))
    class_of, files, shard = class_of[order].astype(np.int64), files[order], shard[order]
    same = np.flatnonzero((class_of[1:] == class_of[:-1]) & (files[1:] == files[:-1]))
    if len(same):
        name = f"{os.fsdecode(classes[class_of[same[0]]])}/{os.fsdecode(files[same[0]])}"
        one, other = (os.path.basename(paths[shard[same[0] + i]]) for i in (0, 1))
        raise DataError(f"{folder}: {name!r} is in {one} and again in {other}; keep the shards of one set only.")
    shards = Shards(tuple(paths), tuple(signs), shard, joined["starts"][order], joined["sizes"][order])
    return Listed(tuple(map(os.fsdecode, classes)), class_of, files, shards, tuple(map(os.fsdecode, joined["over"])))


class _Index:
    """What is known of the shards of a folder."""

    def __init__(self, folder: Path, about: Sequence[str]) -> None:
        cache, key = contents.cache_folder("shards"), repr((VERSION, os.path.realpath(folder), about))
        name = hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self.path = cache / f"{name}.npz" if cache else None
        self.known: dict[str, tuple[Sign, _Content]] = {}
        self.changed = False
        kept = contents.kept_in(self.path) if self.path else {}
        with suppress(KeyError):
            parts = {what: np.split(kept[what], np.cumsum(kept[f"{what} in each"])[:-1]) for what in _ARRAYS}
            for i, (shard, sign) in enumerate(zip(kept["shards"].tolist(), kept["signs"].tolist(), strict=True)):
                found = _Content(**{what: parts[what][i] for what in _ARRAYS})
                self.known[os.fsdecode(shard)] = (sign[0], sign[1], sign[2], sign[3]), found

    def get(self, name: str, sign: Sign) -> _Content | None:
        """What is in a shard that has not changed since it was looked through."""
        kept = self.known.get(name)
        return kept[1] if kept is not None and kept[0] == contents.unsigned(sign) else None

    def put(self, name: str, sign: Sign, found: _Content) -> None:
        """Keep what is in a shard."""
        self.known[name] = contents.unsigned(sign), found
        self.changed = True

    def save(self, there: Container[str] | None = None) -> None:
        """Write what is new; of the shards that are `there` alone, where that is given."""
        if there is not None:
            self.known = {name: found for name, found in self.known.items() if name in there}
        if not self.changed or self.path is None:
            return
        every = [found for _, found in self.known.values()]
        arrays = {what: [getattr(found, what) for found in every] for what in _ARRAYS}
        contents.keep(
            self.path,
            shards=_texts(list(map(os.fsencode, self.known))),
            signs=np.array([sign for sign, _ in self.known.values()], dtype=np.uint64).reshape(-1, 4),
            **{what: np.concatenate(several) for what, several in arrays.items()},
            **{f"{what} in each": np.array(list(map(len, several))) for what, several in arrays.items()},
        )
        self.changed = False


def _through(path: str, endings: tuple[str, ...], synsets: Sequence[str]) -> _Content:
    return (_tar if path.lower().endswith(".tar") else _parquet)(path, endings, synsets)


# tar


def _tar(path: str, endings: tuple[str, ...], synsets: Sequence[str]) -> _Content:
    """The images of a tar: its headers are read, and of ImageNet the labels that stand in members of their own."""
    images: list[tuple[str, int, int]] = []
    loose: list[tuple[str, int, int]] = []
    others: dict[str, tuple[int, int]] = {}
    for name, start, size in _members(path):
        parts = name.split("/")
        if any(map(is_junk, parts)):
            continue
        image = parts[-1].lower().endswith(endings)
        if image and len(parts) == 2:
            images.append((name, start, size))
        elif image and len(parts) == 1 and synsets:
            loose.append((name, start, size))
        else:
            others[name] = start, size
    stems = {stem(name) for name, _, _ in (*images, *loose)}
    if loose:
        with open(path, "rb") as file:
            for name, start, size in loose:
                told = _told(path, file, name, others)
                images.append((_of_imagenet(path, *told, synsets), start, size))
    return _Content.of(path, images, [name for name in others if not _is_sidecar(name, stems)])


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """(name, first byte, bytes) of each plain file of a tar, whose end must be the file's."""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # else a million of them stay in memory
                name = member.name.removeprefix("./").strip("/")
                if member.isreg() and not member.issparse():
                    yield name, member.offset_data, member.size
                elif not member.isdir():
                    yield f"{name} (a link)", member.offset_data, 0
            end = tar.offset
    except (OSError, tarfile.TarError, ValueError) as error:
        why = "it is compressed, and shards are read by position" if _is_gzip(path) else str(error)
        raise DataError(f"{path}: cannot be read as a tar ({why}); fetch it again, or pack it as plain tar.") from None
    with open(path, "rb") as file:  # tarfile takes damage, too, for the end
        file.seek(end)
        rest = file.read(1 << 20)
        while rest and rest.count(0) == len(rest) and (more := file.read(1 << 20)):
            rest = more
    if not rest or rest.count(0) != len(rest):
        why = "has more behind its end, or is damaged" if rest else "has no end"
        raise DataError(f"{path}: {why}; fetch or pack it again.")


def _is_gzip(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"\x1f\x8b"


def is_junk(name: str) -> bool:
    """Whether it is hidden, or what systems leave in folders."""
    return name.startswith(".") or name.lower() in JUNK


def stem(name: str) -> str:
    """What WebDataset calls the key: the name up to the first dot of its last part."""
    folder, slash, file = name.rpartition("/")
    return f"{folder}{slash}{file.partition('.')[0]}"


def _is_sidecar(name: str, stems: set[str]) -> bool:
    """Whether it is what WebDataset has beside one of the images with these stems."""
    key = stem(name)
    return key in stems and name[len(key) :].lower() in SIDECARS


def _told(path: str, file: BinaryIO, image: str, others: Mapping[str, tuple[int, int]]) -> tuple[str, int | None]:
    """Name and label of an image that stands in no folder, as members beside it say them."""

    def text(ending: str) -> bytes | None:
        place = others.get(f"{stem(image)}.{ending}")
        if place is None:
            return None
        file.seek(place[0])
        return file.read(place[1])

    name, label = image, None
    try:
        if (about := text("json")) is not None:
            said = json.loads(about)
            name, label = said.get("filename", image), said.get("label")
        if label is None and (number := text("cls")) is not None:
            label = int(number)
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: what is beside {image} cannot be read ({error}); pack it again.") from None
    if not isinstance(name, str) or not isinstance(label, int | None):
        raise DataError(f"{path}: the .json beside {image} has no text as filename, or no number as label; pack again.")
    return name, label


def _of_imagenet(path: str, name: str, label: int | None, synsets: Sequence[str]) -> str:
    """`<wnid>/<file>` of an image of ImageNet, by its name, or its label where the name has no class.

    Raises:
        DataError: the name is not the file's of ImageNet, by which images are withheld; or name and label differ.
    """
    file, synset = name.rpartition("/")[2], None
    if found := _WITH_CLASS.fullmatch(file):
        file, synset = found[1] + found[3], found[2]
    known = _IMAGENET.fullmatch(file)
    if known is None:
        raise DataError(
            f"{path}: {name!r} is no name of a file of ImageNet, as n01440764_10026.JPEG, and images are known by "
            "their names; pack the original files with `robustft data pack`."
        )
    of_label = synsets[label] if label is not None and 0 <= label < len(synsets) else None
    said = {one for one in (synset, known[1], of_label) if one is not None}
    if len(said) != 1 or (label is not None and of_label is None):
        what = f"the label {label} and the class {synset or known[1]}" if said or label is not None else "no class"
        raise DataError(f"{path}: {name!r} has {what}; pack the original files with `robustft data pack`.")
    return f"{said.pop()}/{file}"


# Parquet


def _parquet(path: str, endings: tuple[str, ...], synsets: Sequence[str]) -> _Content:
    """The images of a Parquet file. Where they are not compressed each is searched for in the file's bytes."""
    images: list[tuple[str, int, int]] = []
    over: list[str] = []
    with _one_sentence(path):
        table = _opened(path)
        classes, row = _classes(table, path), 0
        has_label = "label" in table.schema_arrow.names
        for group in range(table.num_row_groups):
            about = table.metadata.row_group(group)
            column = next(
                column
                for column in map(about.column, range(about.num_columns))
                if column.path_in_schema == "image.bytes"
            )
            plain = column.compression == "UNCOMPRESSED"
            wanted = ["image.path", *(["label"] if has_label else []), *(["image.bytes"] if plain else [])]
            part = table.read_row_group(group, columns=wanted, use_threads=False)
            stored = part.column("image").combine_chunks()
            labels = part.column("label").to_pylist() if has_label else [None] * len(part)
            paths = stored.field("path").to_pylist()
            places = _places(path, column, stored.field("bytes")) if plain else None
            for i, (given, label) in enumerate(zip(paths, labels, strict=True)):
                name = _name_of_row(path, row + i, given, label, classes, synsets)
                start, size = (row + i, -1) if places is None else places[i]
                if not name.lower().endswith(endings):
                    over.append(name)
                elif not any(map(is_junk, name.split("/"))):
                    images.append((name, start, size))
            row += len(part)
    return _Content.of(path, images, over)


def _classes(table: Any, path: str) -> list[str] | None:
    """The names of the label column, which Hugging Face's library keeps beside the columns; None where it has none."""
    import pyarrow

    schema = table.schema_arrow
    kind = schema.field("image").type if "image" in schema.names else None
    if kind is None or not pyarrow.types.is_struct(kind) or {"bytes", "path"} - {field.name for field in kind}:
        raise DataError(
            f"{path}: needs a column image of {{bytes, path}}, has {', '.join(schema.names)}; write it with "
            "`robustft data pack`."
        )
    about = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = about.get("info", {}).get("features", {}).get("label", {}).get("names")
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None


def _name_of_row(path: str, row: int, name: Any, label: Any, classes: list[str] | None, synsets: Sequence[str]) -> str:
    if not name or not isinstance(name, str):
        raise DataError(
            f"{path}, row {row}: has no path, and images are known by their names; write it with `robustft data pack`."
        )
    parts = name.removeprefix("./").split("/")
    if len(parts) == 2 and all(parts):
        return "/".join(parts)
    if synsets:
        return _of_imagenet(path, name, label if isinstance(label, int) else None, synsets)
    if classes is not None and isinstance(label, int) and 0 <= label < len(classes):
        label = classes[label]
    if len(parts) == 1 and isinstance(label, str) and label and "/" not in label:
        return f"{label}/{name}"
    raise DataError(
        f"{path}, row {row}: {name!r} is in no class folder, and its label names none; write it with "
        "`robustft data pack`."
    )


def _places(path: str, column: Any, values: Any) -> list[tuple[int, int]] | None:
    """(first byte, bytes) in the file of each value of a column that is not compressed; None where one is not
    found there, as where equal images are stored once."""
    first = min(at for at in (column.dictionary_page_offset, column.data_page_offset) if at is not None)
    with open(path, "rb") as file:
        file.seek(first)
        stored = file.read(column.total_compressed_size)
    places, at = [], 0
    for value in values:
        if not value.is_valid:
            raise DataError(f"{path}: has a row without an image; leave the row out.")
        data = value.as_py()
        begin = len(data).to_bytes(4, "little") + data[:64]
        at = stored.find(begin, at)
        while at >= 0 and not stored.startswith(data, at + 4):
            at = stored.find(begin, at + 1)
        if at < 0:
            return None
        places.append((first + at + 4, len(data)))
        at += 4 + len(data)
    return places


def _of_row(path: str, sign: Sign, row: int) -> bytes:
    """The image of a row of a compressed column."""
    with _one_sentence(path):
        values, first = _row_group(staging.where(path, sign), sign, os.getpid(), row)
        value = values[row - first]
        if not value.is_valid:
            raise DataError(f"{path}, row {row}: has no image; leave the row out.")
        return bytes(value.as_buffer())


def _row_group(path: str, sign: Sign, process: int, row: int) -> tuple[Any, int]:
    """The images of the row group of a row, and its first row."""
    ends = _ends(path, sign, process)
    group = int(np.searchsorted(ends, row, side="right"))
    return _images(path, sign, process, group), int(ends[group - 1]) if group else 0


@lru_cache(maxsize=_ROW_GROUPS)
def _images(path: str, sign: Sign, process: int, group: int) -> Any:
    table = _table(path, sign, process).read_row_group(group, columns=["image.bytes"], use_threads=False)
    return table.column("image").combine_chunks().field("bytes")


@lru_cache(maxsize=staging.OPEN_FILES)
def _ends(path: str, sign: Sign, process: int) -> np.ndarray:
    about = _table(path, sign, process).metadata
    return np.cumsum([about.row_group(group).num_rows for group in range(about.num_row_groups)])


@lru_cache(maxsize=staging.OPEN_FILES)
def _table(path: str, sign: Sign, process: int) -> Any:
    """A Parquet file, opened in this process alone."""
    return _opened(path)


def _opened(path: str) -> Any:
    from pyarrow.parquet import ParquetFile

    return ParquetFile(path, pre_buffer=False)  # threads of its own would not be there in a process that is forked


@contextmanager
def _one_sentence(path: str) -> Iterator[None]:
    """Turns what pyarrow raises into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"{path}: cannot be read as Parquet ({reason}); fetch or pack it again.") from None
