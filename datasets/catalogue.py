"""Datasets by name."""

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from .card import USUAL, DataError, Dataset, Resizing, RetentionSet
from .image_folders import StrPath, own_place

if TYPE_CHECKING:
    from .decoding import Decode


def _digits() -> Dataset:
    from .digits import Digits

    return Digits()


def _digits_uncorrelated() -> Dataset:
    from .digits import Uncorrelated

    return Uncorrelated()


def _forgetting() -> Dataset:
    from .forgetting import Forgetting

    return Forgetting()


def _glyphs() -> Dataset:
    from .glyphs import Glyphs

    return Glyphs()


def _glyphs_augmented() -> Dataset:
    from .glyphs import Augmented

    return Augmented()


def _glyphs_development() -> Dataset:
    from .glyphs import Development

    return Development()


def _imagenet(**options: Any) -> Dataset:
    from .imagenet import ImageNet

    return ImageNet(**options)


def _imagenet_full_train(**options: Any) -> Dataset:
    from .imagenet import ImageNetFullTrain

    return ImageNetFullTrain(**options)


def _imagenet_c(**options: Any) -> Dataset:
    from .imagenet_c import ImageNetC

    return ImageNetC(**options)


def _iwildcam(**options: Any) -> Dataset:
    from .wilds_data import IWildCam

    return IWildCam(**options)


def _fmow(**options: Any) -> Dataset:
    from .wilds_data import FMoW

    return FMoW(**options)


def _camelyon17(**options: Any) -> Dataset:
    from .wilds_data import Camelyon17

    return Camelyon17(**options)


def _waterbirds(**options: Any) -> Dataset:
    from .waterbirds import Waterbirds

    return Waterbirds(**options)


def _domainnet(**options: Any) -> Dataset:
    from .domainnet import DomainNet

    return DomainNet(**options)


def _mnist_forgetting(**options: Any) -> Dataset:
    from .mnist import MNISTForgetting

    return MNISTForgetting(**options)


def _folder(path: str, root: StrPath | None, start: StrPath | None, **options: Any) -> Dataset:
    """A path that does not exist as it stands is looked for below the data root, where there is one."""
    from .folder import Folder

    return Folder(own_place(path, root, start), **options)


JOINT = " + "
"""Between a dataset and shifts of one's own: `imagenet + mine=folder:mine`."""


def _domains(
    path: str, root: StrPath | None, start: StrPath | None, pool: tuple[str, ...] = (), **options: Any
) -> Dataset:
    from .domains import Domains

    return Domains(own_place(path, root, start), pool, **options)


POOL = "!pool"
"""Stands where the name of a shift does; its value names the domains of `domains:<path>` that are trained on."""
PRESENT = "!present"
"""Stands where the name of a shift does; its value names the shifts whose logits are cut to the classes they have."""


def with_shifts(name: str, shifts: Mapping[str, str], present: Iterable[str] = (), pool: Iterable[str] = ()) -> str:
    """The name of a dataset with further shifts: set -> `folder:<path>` or `huggingface:<name>`.

    Args:
        present: shifts whose logits are cut to the classes that they have.
        pool: domains that are trained on.
    """
    said = {PRESENT: ",".join(present), POOL: ",".join(pool)}
    every = {**shifts, **{key: value for key, value in said.items() if value}}
    return JOINT.join([name, *(f"{key}={source}" for key, source in every.items())])


def parts(name: str) -> tuple[str, dict[str, str]]:
    """The dataset that a name begins with, and what `with_shifts` put beside it: shifts of one's own, `PRESENT` and
    `POOL`."""
    base, *shifts = name.partition(RETAINED)[0].split(JOINT)
    return base, {key: source for key, _, source in (shift.partition("=") for shift in shifts)}


RETAINED = " ~ "
"""Before each set of other classes that is asked for beside a dataset: `digits ~ colours=digits/colours`."""


def with_retention(name: str, sets: Mapping[str, str]) -> str:
    """The name of a dataset with retention sets: name -> source, as `retention` has them."""
    return RETAINED.join([name, *(f"{key}={source}" for key, source in sets.items())])


def retention_of(name: str) -> tuple[str, dict[str, str]]:
    """A name without its retention sets, and these, as `with_retention` put them beside it."""
    rest, *sets = name.split(RETAINED)
    return rest, {key: source for key, _, source in (entry.partition("=") for entry in sets)}


def _retention_set(key: str, source: str, **where: Any) -> RetentionSet:
    """One's own images, or a set of a registered dataset."""
    if is_own(source):
        from .retention import of_own

        return of_own(key, source, **{key: where[key] for key in ("root", "start", "size", "decode", "resizing")})
    base, _, name = source.partition("/")
    return replace(get(base, **where).as_retention(name), name=key)


def _hub(name: str, root: StrPath | None, start: StrPath | None, **options: Any) -> Dataset:
    from .hub import Hub

    return Hub(name, root=root, start=start, **options)


_EMBEDDED: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "digits_uncorrelated": _digits_uncorrelated,
    "forgetting": _forgetting,
    "glyphs": _glyphs,
    "glyphs_augmented": _glyphs_augmented,
    "glyphs_development": _glyphs_development,
}
_ON_DISK: dict[str, Callable[..., Dataset]] = {
    "imagenet": _imagenet,
    "imagenet_full_train": _imagenet_full_train,
    "imagenet_c": _imagenet_c,
    "iwildcam": _iwildcam,
    "fmow": _fmow,
    "camelyon17": _camelyon17,
    "waterbirds": _waterbirds,
    "domainnet": _domainnet,
    "mnist_forgetting": _mnist_forgetting,
}

Made = TypeVar("Made", bound=Callable[..., Dataset])
BROUGHT: dict[str, Callable[..., Dataset]] = {}
"""Name -> what makes the dataset, of those that `register` made known."""


def register(name: str) -> Callable[[Made], Made]:
    """Class decorator: makes a dataset known as `name`, beside those of this package.

    A class that takes no argument makes its images itself, as `digits` does. Any other reads files: it is given what it
    takes of `root`, `allow_partial`, `size` and `decode`, by name (see `get`).

    Raises:
        DataError: the name is taken, or can be no name of a dataset.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
        raise DataError(f"dataset {name!r}: must be named by letters, digits, - and _; rename it.")
    if _fold(name) in {_fold(known) for known in names()}:
        raise DataError(f"dataset {name!r} is registered twice; rename one.")

    def add(made: Made) -> Made:
        BROUGHT[name] = made
        return made

    return add


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _taken(made: Callable[..., Dataset]) -> set[str]:
    """The options that a registered dataset takes."""
    known, parameters = {"root", "allow_partial", "size", "decode"}, inspect.signature(made).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return known
    return known & {parameter.name for parameter in parameters}


_FROM_HUB = ("mnist_forgetting",)
"""Registered datasets that are loaded from the Hugging Face hub."""

_PREFIXED: dict[str, Callable[..., Dataset]] = {"folder": _folder, "huggingface": _hub, "domains": _domains}
"""`<prefix>:<rest>` names data that nobody registered."""


def embedded() -> list[str]:
    """Datasets that need no file: their images come with this package, or are made by who registered them."""
    return [*_EMBEDDED, *(name for name, made in BROUGHT.items() if not _taken(made))]


def names() -> list[str]:
    """Registered datasets."""
    return [*_EMBEDDED, *_ON_DISK, *BROUGHT]


def is_own(name: str) -> bool:
    """Whether the name says by itself where the data are, as `folder:<path>` and `huggingface:<name>` do."""
    name, _ = parts(name)
    prefix, _, rest = name.partition(":")
    return prefix in _PREFIXED and bool(rest)


def has_own(name: str) -> bool:
    """Whether any of it is one's own data: the dataset, shifts or retention sets beside it."""
    beside = set(parts(name)[1]) - {PRESENT, POOL}
    return is_own(name) or bool(beside) or any(map(is_own, retention_of(name)[1].values()))


def comes_with_package(name: str) -> bool:
    """Whether it needs no file from outside: all of it is in this package, or is made by who registered it."""
    (rest, retained), known = retention_of(name), embedded()
    base, shifts = parts(rest)
    return {base, *(source.partition("/")[0] for source in retained.values())} <= {*known} and not {*shifts} - {PRESENT}


def same_files(name: str) -> str:
    """The dataset whose files it reads: itself, unless it is a variant of another one."""
    base, shifts = parts(name)
    shifts.pop(POOL, None)
    same = with_shifts({"imagenet_full_train": "imagenet"}.get(base, base), shifts)
    return with_retention(same, retention_of(name)[1])


def from_hub(name: str) -> bool:
    """Whether the Hugging Face hub has the data, so that they can be fetched there."""
    return name in _FROM_HUB or name.startswith("huggingface:")


def get(
    name: str, *, root: StrPath | None = None, allow_partial: bool = False, size: int = 224,
    decode: "Decode" = "exact", start: StrPath | None = None, resizing: Resizing = USUAL,
) -> Dataset:  # fmt: skip
    """The dataset of that name, registered, `folder:<path>` or `huggingface:<name>`; with what `with_shifts` added.

    Of registered data, card and `train_size` need no image; what reads images looks for them then, not here.

    Args:
        root: folder that holds the datasets that are not embedded; None takes the environment's (`trees`).
        allow_partial: also run where images of registered data are missing.
        size: side in pixels of the pictures made from image files, which the backbone must take.
        decode: "exact" or "fast", how they are made from files (`pixels`); embedded pictures are drawn, always alike.
        start: folder in which a relative path of one's own data begins; None is the current one.
        resizing: how pictures made from image files are brought to size, as the backbone was pretrained.

    Raises:
        DataError: no dataset has this name; says the nearest right one.
    """
    name, retained = retention_of(name)
    if retained:
        where: dict[str, Any] = {
            "root": root,
            "allow_partial": allow_partial,
            "size": size,
            "decode": decode,
            "start": start,
            "resizing": resizing,
        }
        data = get(name, **where)
        data.retention = tuple(_retention_set(key, source, **where) for key, source in retained.items())
        return data
    base, shifts = parts(name)
    if shifts:
        from .extra_shifts import WithShifts, load

        present, pool = (tuple(filter(None, shifts.pop(key, "").split(","))) for key in (PRESENT, POOL))
        if pool and not base.startswith("domains:"):
            raise DataError(f"pool: needs data in domains, as domains:<path>, got {base}; leave it out.")
        if pool:
            data = _resized(_domains(base.partition(":")[2], root, start, pool, size=size, decode=decode), resizing)
        else:
            data = get(
                base, root=root, allow_partial=allow_partial, size=size, decode=decode, start=start, resizing=resizing
            )
        if not shifts and not present:
            return data
        data.resizing = resizing  # of the shifts, which are files, also beside pictures that are drawn
        beside = {key: load(source, root, start) for key, source in shifts.items()}
        return WithShifts(data, beside, size, decode, present)
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name in _ON_DISK:
        return _resized(_ON_DISK[name](root=root, allow_partial=allow_partial, size=size, decode=decode), resizing)
    if name in BROUGHT:
        given = {"root": root, "allow_partial": allow_partial, "size": size, "decode": decode}
        return _resized(BROUGHT[name](**{key: given[key] for key in _taken(BROUGHT[name])}), resizing)
    if is_own(name):
        prefix, _, rest = name.partition(":")
        return _resized(_PREFIXED[prefix](rest, root, start, size=size, decode=decode), resizing)
    near = get_close_matches(name, names(), 1)
    hint = f"; did you mean {near[0]!r}" if near else ""
    raise DataError(
        f"unknown dataset {name!r}{hint}? Known: {', '.join(names())}, folder:<path>, "
        "domains:<path>, huggingface:<name>."
    )


def _resized(data: Dataset, resizing: Resizing) -> Dataset:
    """The dataset, whose pictures are brought to size so where they are made from files in the common way."""
    from .image_sets import TrainsOnPictures

    if isinstance(data, TrainsOnPictures):
        data.resizing = resizing
    return data
