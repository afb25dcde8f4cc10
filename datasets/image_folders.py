"""Where images lie on disk: the data root, folders with one subfolder a class or in shards, and how many images there
should be."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import contents, plain_yaml, shards
from .card import DataError, MissingData
from .shards import Format, Shards, is_junk

StrPath = str | os.PathLike[str]
ROOT_VARIABLE = "ROBUSTFT_DATA"
SUFFIXES = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Files with another ending are passed over: README and checksums, but also images of the kinds below."""
NOT_READ = frozenset(
    ".jfif .jfi .jif .jpe .heic .heif .hif .avif .avifs .jp2 .j2k .jpf .jpx .jpm .jpc .j2c .jxl .jxr .wdp .hdp .dng "
    ".raw .cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .orf .rw2 .raf .srw .pef .x3f .3fr .erf .kdc .mrw .rwl .iiq .svg "
    ".svgz .ico .cur .icns .tga .psd .psb .xcf .exr .hdr .pcx .dds .dib .apng .qoi .pnm .pbm .pam .pfm .sgi .rgb "
    ".rgba .bw .ras .xbm .xpm .eps .wmf .emf .fits .dcm .nii .npy .npz".split()
)
"""Endings of images that are not read, because their pixels would depend on the decoder, or nobody asked for them."""
_BEGINNINGS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ",
    b"\0\0\0\x0cJXL ", b"\xff\x0a", b"8BPS", b"qoif", b"P4\n", b"P5\n", b"P6\n",
)  # fmt: skip
LISTS = ("classes.txt", "groups.txt", "prompts.txt")
"""What may lie beside class folders and is read: nothing that is passed over."""
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".zip")
FORMATS_FILE = "formats.yaml"
"""In the data root, where a set is there in several forms: `imagenet: {format: parquet}`."""
MAY_BE_SHARDS = ("imagenet", "imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch", "objectnet")
"""What that file may name; imagenet is train and validation."""
FORMATS: tuple[Format, ...] = ("folder", "tar", "parquet")


def data_root(root: str | os.PathLike[str] | None) -> Path:
    """The folder that holds all datasets: `root`, or the environment's; DataError where neither says."""
    chosen = root if root is not None else os.environ.get(ROOT_VARIABLE, "")
    if not str(chosen):
        raise DataError(f"no data root; set {ROOT_VARIABLE} to the folder that holds the datasets, or pass --data.")
    return expanded(chosen)


def expanded(path: str | os.PathLike[str]) -> Path:
    """A path with the home folder in place of a leading `~`, where that folder is known."""
    return Path(os.path.expanduser(path))


def own_place(path: str, root: str | os.PathLike[str] | None, start: str | os.PathLike[str] | None) -> Path:
    """Where one's own data are: a relative path begins at `start`, else at the data root, where that has it.

    Args:
        root: the data root; None takes the environment's.
        start: a folder; None is the current one.
    """
    base = root if root is not None else os.environ.get(ROOT_VARIABLE)
    given = expanded(start or "") / expanded(path)
    return given if given.exists() or not base else expanded(base) / expanded(path)


@dataclass(frozen=True, slots=True)
class Source:
    """A set of images that someone downloads: where it is looked for, how much it holds and who gives it out."""

    name: str
    folders: tuple[str, ...]
    """Accepted places below the data root; the first that exists is taken."""
    images: int
    classes: int
    supplier: str
    """What to download and from whom."""
    patterns: tuple[str, ...] = ()
    """Where else shards of it may lie below the data root, as others give them out."""
    synsets: tuple[str, ...] = ()
    """ImageNet's wnids in class order, where shards may have its own names (`shards`)."""

    def scan(self, root: str | os.PathLike[str] | None) -> "Tree":
        """Its images: of the first place that has any form of it, or the one that `formats.yaml` of the data root says.

        Raises:
            MissingData: there is no such place.
            DataError: as `scan`, or `formats.yaml` is not what it must be.
        """
        base = data_root(root)
        wanted = read_formats(base).get(self.name.partition(" ")[0])
        if wanted is None and any(os.path.isdir(base / folder) for folder in self.folders):
            return scan(self.find(root), synsets=self.synsets)
        for folder in self.folders if wanted is not None else ():
            place = self._inner(base / folder)
            if os.path.isdir(place) and wanted in _forms(place):
                ending = shards.ENDINGS.get(wanted)
                names = [entry.name for entry in _entries(place) if ending and entry.name.lower().endswith(ending)]
                return _scan_shards(place, sorted(names), SUFFIXES, self.synsets) if names else scan(place)
        for pattern in self.patterns if wanted != "folder" else ():
            found = sorted(base.glob(pattern))
            if found and (wanted is None or pattern.endswith(shards.ENDINGS[wanted])):
                return _scan_shards(found[0].parent, [path.name for path in found], SUFFIXES, self.synsets)
        if wanted is not None:
            places = ", ".join((*(str(base / folder) for folder in self.folders), *self.patterns))
            raise MissingData(
                f"{self.name}: {base / FORMATS_FILE} says {wanted}, and none of {places} has it; correct the file, or "
                f"get {self.supplier}."
            )
        return scan(self.find(root), synsets=self.synsets)

    def find(self, root: str | os.PathLike[str] | None) -> Path:
        """The folder on this machine; MissingData with what to download where there is none."""
        base = data_root(root)
        found = next((base / folder for folder in self.folders if os.path.isdir(base / folder)), None)
        if found is None:
            also = f" (nor as {', '.join(self.folders[1:])})" if len(self.folders) > 1 else ""
            archive = self._archive(base)
            get = f"unpack {archive}, which is" if archive else f"get {self.supplier}; unpack it"
            raise MissingData(
                f"{self.name}: no folder {base / self.folders[0]}{also}; {get} "
                f"there, or set {ROOT_VARIABLE} to the folder that holds it."
            )
        return self._inner(found)

    @staticmethod
    def _inner(found: Path) -> Path:
        """The folder in it, where an archive was unpacked into a folder of its own name."""
        inner = found / found.name
        return inner if os.path.isdir(inner) else found

    def _archive(self, base: Path) -> str:
        """An archive in the data root, or in the folder of the set, whose name begins like the set's; "" for none."""
        first = [folder.partition("/")[0] for folder in self.folders]
        begins = tuple(name.lower()[:10] for name in first if len(name) > 8)
        for folder in dict.fromkeys((base, *(base / name for name in first))):
            names = sorted(entry.name for entry in _entries(folder)) if os.path.isdir(folder) else []
            for name in names:
                if name.lower().startswith(begins) and name.lower().endswith(ARCHIVES):
                    return str(folder / name)
        return ""

    def check(self, tree: "Tree", labels: np.ndarray, known: Sequence[str], allow_partial: bool) -> None:
        """DataError unless every image and class is there, or `allow_partial` and at least one image is.

        Args:
            tree: the images found.
            labels: (N,) their positions in `known`.
            known: names of the class folders.
        """
        present, folder = set(np.unique(labels).tolist()), tree.folder
        if not present:
            count, first = tree.passed
            lie = "entry lies" if count == 1 else "entries lie"
            loose = f" ({count} {lie} elsewhere in it, first {first!r})" if count else ""
            raise MissingData(f"{self.name}: no images in class folders under {folder}{loose}; get {self.supplier}.")
        if (len(labels), len(present)) != (self.images, self.classes) and not allow_partial:
            missing = next((f", none in {name}" for i, name in enumerate(known) if i not in present), "")
            again = "unpack the archive again" if tree.shards is None else "fetch or pack the shards again"
            raise DataError(
                f"{self.name}: expected {self.images} images in {self.classes} classes under {folder}, found "
                f"{len(labels)} in {len(present)}{missing}; {again}, or pass --allow-partial to run on what is "
                "there."
            )


@dataclass(frozen=True, slots=True)
class Tree:
    """The images below `folder/<class>/`, sorted by class folder and file name."""

    folder: Path
    classes: tuple[str, ...]
    """Names of the class folders, empty ones among them, sorted."""
    class_of: np.ndarray
    """(N,) int64 positions in `classes`."""
    files: np.ndarray
    """(N,) file names in UTF-8 bytes: one array, because a million Python strings would be copied by every worker."""
    passed: tuple[int, str] = (0, "")
    """How many entries were passed over, and the first: files outside of class folders, folders inside of them, and
    files with no ending of an image; not the hidden ones."""
    unread: tuple[tuple[str, int], ...] = ()
    """(ending, how many) of the files of a class that are images by their ending or their first bytes, and are passed
    over all the same, the most frequent first; "no ending" is one."""
    lost: tuple[str, ...] = ()
    """Class folders that hold such files and no image that is read."""
    astray: tuple[int, str] = (0, "")
    """How many images lie outside of class folders, or folders inside of them, and the first of these entries."""
    shards: Shards | None = None
    """Where the images are, if they are in no files of their own."""

    def __len__(self) -> int:
        return len(self.files)

    def name(self, i: int) -> str:
        """`<class folder>/<file>` of image i; with "/" on every system."""
        return f"{self.classes[self.class_of[i]]}/{os.fsdecode(self.files[i])}"

    def take(self, rows: np.ndarray) -> "Tree":
        """The images at these positions, in this order."""
        some = None if self.shards is None else self.shards.take(rows)
        return replace(self, class_of=self.class_of[rows], files=self.files[rows], shards=some)

    def path(self, i: int) -> str:
        """The file that image i is, or is in."""
        return f"{self.folder}/{self.name(i)}" if self.shards is None else self.shards.file(i)

    def contents(self, what: str) -> np.ndarray:
        """(N, 32) uint8: the sha256 of the bytes of each image, the same in whatever holds it.

        Args:
            what: they are, for a person who waits.
        """
        if self.shards is None:
            return contents.of_files(self.folder, [self.name(i) for i in range(len(self))], what)
        held, key = self.shards, hashlib.sha256(self.class_of.tobytes())
        key.update(self.files.tobytes())
        values = lambda: (held.content(i) for i in range(len(self)))  # noqa: E731
        return contents.of_rows(len(self), values, held.files, key.hexdigest(), what)


def read_formats(base: Path) -> dict[str, Format]:
    """Set -> form, of `formats.yaml` in a data root; {} where there is none.

    Raises:
        DataError: it says anything else.
    """
    path = base / FORMATS_FILE
    if not path.is_file():
        return {}
    try:
        said = plain_yaml.read_mapping(path)
    except plain_yaml.YamlError as error:
        raise DataError(f"{path}: {error}") from None
    found: dict[str, Format] = {}
    for name, value in said.items():
        if name not in MAY_BE_SHARDS:
            raise DataError(f"{path}: {name!r} is none of {', '.join(MAY_BE_SHARDS)}; correct or remove it.")
        chosen = value.get("format") if isinstance(value, dict) and len(value) == 1 else None
        form = next((form for form in FORMATS if form == chosen), None)
        if form is None:
            raise DataError(f"{path}: {name} must be {{format: folder}}, tar or parquet, got {value!r}; correct it.")
        found[name] = form
    return found


def _forms(folder: Path) -> set[Format]:
    """In which forms a folder holds images, by the names in it."""
    entries = _entries(folder)
    found = {form for form, ending in shards.ENDINGS.items() if any(e.name.lower().endswith(ending) for e in entries)}
    return found | ({"folder"} if any(map(_is_folder, entries)) else set())


def scan(folder: Path, endings: tuple[str, ...] = SUFFIXES, synsets: Sequence[str] = ()) -> Tree:
    """Lists the images of a folder of class folders, those with one of the endings; opens none of them.

    Where there is no class folder, and shards are, those in the shards.

    Args:
        synsets: as `Source` has them.

    Raises:
        DataError: a folder or shard that cannot be read, or a name that is no UTF-8.
    """
    folder, listed = Path(folder), []
    unread: Counter[str] = Counter()
    passed: list[tuple[int, str]] = []
    lost: list[str] = []
    astray: list[str] = []
    top = {entry.name: _is_folder(entry) for entry in _entries(folder)}
    classes = sorted(name for name, is_folder in top.items() if is_folder)
    outside = [name for name, is_folder in top.items() if not is_folder and name not in LISTS]
    if not classes and (held := shards.in_folder(outside, folder)):
        return _scan_shards(folder, held, endings, synsets, sorted(set(outside) - set(held)))
    for name in classes:
        names = [e.name for e in _entries(folder / name)]  # not asked what they are: that may take long on a cluster
        images = [f for f in names if f.lower().endswith(endings)]
        _check_names(folder, f"{name}/", images)
        listed.append(sorted(map(os.fsencode, images)))
        if len(images) < len(names):
            first = min(f for f in names if not f.lower().endswith(endings))
            passed.append((len(names) - len(images), f"{name}/{first}"))
            others = [f for f in names if not f.lower().endswith(endings)]
            astray += [f"{name}/{f}" for f in others if os.path.isdir(folder / name / f)]
            left = _unread(folder / name, others)
            unread.update(left)
            lost += [name] if left and not images else []
    astray = [f for f in outside if f.lower().endswith(endings)] + astray
    if outside:
        passed.insert(0, (len(outside), min(outside)))
    class_of = np.repeat(np.arange(len(classes)), [len(files) for files in listed])
    files = np.array([f for files in listed for f in files], dtype=bytes)
    over = (sum(count for count, _ in passed), passed[0][1]) if passed else (0, "")
    kinds = tuple(sorted(unread.items(), key=lambda kind: (-kind[1], kind[0])))
    aside = (len(astray), min(astray)) if astray else (0, "")
    return Tree(folder, tuple(classes), class_of, files, over, kinds, tuple(lost), aside)


def _scan_shards(
    folder: Path, names: Sequence[str], endings: tuple[str, ...], synsets: Sequence[str], beside: Sequence[str] = ()
) -> Tree:
    """What these shards of a folder hold, as `scan` gives what lies in class folders; `beside` them lie other files."""
    found = shards.look(folder, names, endings, synsets)
    over = [*beside, *found.over]
    kinds: Counter[str] = Counter()
    lost: set[str] = set()
    for name in found.over:
        ending = os.path.splitext(name)[1].lower()
        if ending in NOT_READ:
            kinds[ending] += 1
            lost.update([name.partition("/")[0]] if name.count("/") == 1 else [])
    astray = [name for name in over if name.lower().endswith(endings)]
    return Tree(
        folder,
        found.classes,
        found.class_of,
        found.files,
        (len(over), over[0]) if over else (0, ""),
        tuple(sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))),
        tuple(sorted(lost - set(found.classes))),
        (len(astray), min(astray)) if astray else (0, ""),
        found.shards,
    )


def _unread(folder: Path, names: list[str]) -> Counter[str]:
    """Ending -> how many of these files of a folder are images: by the ending, or by how the first one begins."""
    of_ending: dict[str, list[str]] = {}
    for name in sorted(names):
        of_ending.setdefault(os.path.splitext(name)[1].lower(), []).append(name)
    found: Counter[str] = Counter()
    for ending, several in of_ending.items():
        if ending in NOT_READ or _begins_like_an_image(folder / several[0]):
            found[ending or "no ending"] = len(several)
    return found


def _begins_like_an_image(path: Path) -> bool:
    """Whether the first bytes are those of a known format; not of a folder, or of what cannot be read."""
    try:
        with open(path, "rb") as file:
            begin = file.read(16)
    except OSError:
        return False
    bitmap, webp = begin[:2] == b"BM" and begin[6:10] == bytes(4), begin[8:12] == b"WEBP"
    return begin.startswith(_BEGINNINGS) or bitmap or webp or begin[4:12] in (b"ftypavif", b"ftypheic")


def kinds_text(kinds: Iterable[tuple[str, int]]) -> str:
    """.heic, .jfif"""
    return ", ".join(ending for ending, _ in kinds)


def _check_names(folder: Path, below: str, names: list[str]) -> None:
    """Names are sample ids, which per-sample files keep as text."""
    try:
        "".join((below, *names)).encode()
    except UnicodeEncodeError:
        wrong = next(n for n in (below, *names) if os.fsencode(n).decode("utf-8", "replace") != n)
        raise DataError(f"{folder}: the name {os.fsencode(wrong)!r} is not UTF-8; rename it.") from None


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder or a link to one; a link that leads nowhere or back to itself is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, neither hidden nor left there by a system."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not is_junk(entry.name)]
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable.") from None


def subfolders(folder: Path) -> list[str]:
    """Sorted names of the folders in a folder that are not hidden; DataError where it may not be read."""
    return sorted(entry.name for entry in _entries(folder) if _is_folder(entry))


def size_of(path: Path) -> int:
    """Bytes of a file; DataError where it is a link to nothing, or may not be looked at."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); restore the file or take it away.") from None


def composed(name: str) -> str:
    """The name with one code point for a letter and its accent: macOS writes two, and they look alike."""
    return unicodedata.normalize("NFC", name)


def relabel(
    tree: Tree, source: str, known: Sequence[str], remedy: str = "this is another dataset, or another variant of it"
) -> np.ndarray:
    """(N,) int64 labels: the position of each image's class folder in `known`.

    Raises:
        DataError: a class folder that is not in `known`.
    """
    position = {composed(name): i for i, name in enumerate(known)}
    strange = [name for name in tree.classes if composed(name) not in position]
    if strange:
        are = "folder that is" if len(strange) == 1 else "folders that are"
        raise DataError(
            f"{source}: {tree.folder} has {len(strange)} {are} none of its classes, first {strange[0]!r}; {remedy}."
        )
    return np.array([position[composed(name)] for name in tree.classes], dtype=np.int64)[tree.class_of]
