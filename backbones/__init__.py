"""Pretrained dual encoders by name, and the zero-shot head. Only this folder imports open_clip, late: it is slow.

So is torch, which names alone do not need: what needs it is imported by the first use.
"""

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import places as _places
from .errors import BackboneError, UnusedWeights
from .places import SUFFIXES, WEIGHTS_VARIABLE, is_file_name, place_of, remember, remember_planned
from .registered import (
    BROUGHT,
    FROM_FOLDER,
    FROM_HUB,
    IN_SUITES,
    MADE_HERE,
    OPENAI,
    QUICK_GELU,
    SCRATCH,
    VISION,
    register,
)
from .registered import fold as _fold
from .traits import Traits

if TYPE_CHECKING:
    import torch

    from .checkpoint import Checkpoint
    from .cost import Cost
    from .encoder import DualEncoder

__all__ = [
    "BackboneError",
    "WEIGHTS_VARIABLE",
    "DualEncoder",
    "UnusedWeights",
    "available",
    "base_model",
    "check",
    "empty",
    "examine",
    "fetch",
    "file_hash",
    "file_of",
    "how_to_make",
    "image_size",
    "licence",
    "load",
    "local_weights",
    "names",
    "nobodys_weights",
    "other_weights",
    "place_of",
    "read_checkpoint",
    "register",
    "remember_planned",
    "resizing",
    "resolve",
    "step_cost",
    "tokenizer",
    "traits",
    "unused_weights",
    "unusual_preprocess",
    "weights_id",
]


def __getattr__(name: str) -> Any:
    """`DualEncoder`, and the modules `clip` and `tiny`, when they are asked for first."""
    if name == "DualEncoder":
        return import_module(".encoder", __name__).DualEncoder
    if name in ("clip", "tiny"):
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def names() -> list[str]:
    """Registered backbones; "-scratch" names the same architecture with random weights."""
    scratch = (f"{name}{SCRATCH}" for name in VISION if name != "glyph-vit-grey")
    return [*OPENAI, *VISION, *MADE_HERE, *scratch, *BROUGHT]


def _spellings() -> dict[str, str]:
    """Folded name -> registered name; open_clip's own name of a registered backbone is one of its spellings."""
    spellings = {_fold(name): name for name in names()}
    for name in OPENAI:
        for spelling in (f"{name}:openai", f"{name}{QUICK_GELU}", f"{name}{QUICK_GELU}:openai"):
            spellings[_fold(spelling)] = name
    return spellings


def resolve(name: str) -> str:
    """The one spelling of a backbone's name: "vit_b_16", "ViT-B/16" and "ViT-B-16-quickgelu:openai" are "ViT-B-16".

    Beside the registered names, a model of open_clip with an image and a text tower is a backbone as MODEL:TAG, as
    MODEL:PATH of a weights file, as hf-hub:org/name, and as local-dir:PATH (`places`); paths are no part of a name.

    Raises:
        BackboneError: unknown name, a model that is no backbone here, or an activation that its weights were not
            trained with.
    """
    name = name.strip()
    registered = _spellings().get(_fold(name))
    if registered is not None:
        return registered
    if name in IN_SUITES:
        return name
    if name.startswith(FROM_HUB):
        repository = name.removeprefix(FROM_HUB).strip("/").replace("/", "--")
        if not re.fullmatch(r"[\w.-]+?--[\w.-]+", repository, re.ASCII):
            raise BackboneError(f"backbone {name!r}: must be {FROM_HUB}org/name; write the repository's whole name.")
        return f"{FROM_HUB}{repository}"
    from . import clip

    if ":" in name:
        if name.startswith(FROM_FOLDER) or is_file_name(name):
            return _of_ones_own(name)
        model, _, tag = name.replace("/", "-").partition(":")
        clip.parse(f"{model}:{tag}")
        return f"{model}:{tag}"
    if tagged := _its_tags(name):
        raise BackboneError(f"unknown backbone {name!r}: {tagged}.")
    meant = {_fold(model): f"{model}:TAG" for model in clip.installed()} | _spellings()
    near = get_close_matches(_fold(name), meant, 1)
    hint = f"; did you mean {meant[near[0]]!r}?" if near else "."
    known = f"Known: {', '.join(names())}, and MODEL:TAG of open_clip (`robustft list backbones`)."
    raise BackboneError(f"unknown backbone {name!r}{hint} {known}")


def _its_tags(name: str) -> str:
    """What a model of open_clip lacks that stands without a tag, as a clause; "" for other names.

    Raises:
        BackboneError: no tag makes it a backbone.
    """
    from . import architectures, clip

    model = {_fold(known): known for known in clip.installed()}.get(_fold(name))
    if model is None:
        return ""
    architectures.accept(name, model, clip.installed()[model])
    return f"{model} of open_clip needs a tag, {model}:TAG; {clip.tags(model)}"


def _of_ones_own(name: str) -> str:
    """The name, without its path, of a folder or weights file of one's own; what it stands for is remembered."""
    start, _, place = name.partition(":")
    if not place.strip():
        raise BackboneError(f"backbone {name!r}: must be {start}:PATH; write where it is.")
    path = Path(os.path.expanduser(place))
    own = path.name if path.name and place.strip("./") == path.name else path.resolve().name
    found = f"{start.replace('/', '-')}:{own}"
    if not re.fullmatch(r"[\w.-]+:[\w.+-]+", found, re.ASCII):
        raise BackboneError(
            f"backbone {name!r}: the name at the end must be ASCII letters, digits, . - + and _; rename it."
        )
    if path.exists() and (path.name != place or place_of(found) is None):
        if path.is_file() and name.startswith(FROM_FOLDER):
            raise BackboneError(f"backbone {name!r}: {path} is a file; give its folder, or MODEL:{path}.")
        return remember(found, path)
    if place_of(found) is None:
        raise BackboneError(f"backbone {name!r}: there is no {path}; write where it is, or {_places.remedy(found)}.")
    if path.name != place and not _places.was_said(found):  # a path is no wish for its namesake elsewhere
        raise BackboneError(f"backbone {name!r}: there is no {path}; write where it is, or {found}.")
    return found


def local_weights(name: str) -> Path | None:
    """The file `<backbone>.safetensors` (or .pt, .pth, .bin) in the folder that WEIGHTS_VARIABLE names, if it is there.

    It takes the place of the registered weights wherever that backbone is used. A scratch backbone has none.

    Raises:
        BackboneError: there is no such folder, it has two files of the backbone, as in two spellings of its name, or
            something in it would be passed over in silence (`UnusedWeights`).
    """
    name = resolve(name)
    if name.endswith(SCRATCH):
        return None
    found = [path for path, meant in _own_files() if meant == name]
    if len(found) > 1:
        both = " and ".join(path.name for path in found)
        raise BackboneError(f"{WEIGHTS_VARIABLE}: {both} are both weights of {name}; keep one in {found[0].parent}.")
    unused = unused_weights()
    if unused:
        more = f" (and {len(unused) - 1} more)" if len(unused) > 1 else ""
        raise UnusedWeights(f"{WEIGHTS_VARIABLE}: {unused[0]}{more}.")
    return found[0] if found else None


def nobodys_weights() -> list[Path]:
    """Weights files in that folder that no backbone takes, by their names."""
    return [path for path, meant in _own_files() if meant is None]


def unused_weights() -> list[str]:
    """A sentence for each of them, or on a folder without any weights file."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    if folder and not _own_files() and not _has_own_folder(folder):
        return [f"{folder}: must hold weights ({', '.join(SUFFIXES)}), got no such file; name another, or unset it"]
    return [f"{path}: {_why_unused(path.stem)}" for path in nobodys_weights()]


def _has_own_folder(folder: str) -> bool:
    """Whether a backbone of one's own, a folder, may be found in it."""
    from .clip import CONFIG

    return any(Path(os.path.expanduser(folder)).glob(f"*/{CONFIG}"))


def _why_unused(stem: str) -> str:
    spellings = _spellings()
    near = get_close_matches(_fold(stem).removesuffix(SCRATCH), set(spellings) - _scratch(), 1)
    hint = f"; did you mean {spellings[near[0]]}?" if near else "."
    if _fold(stem) in _scratch():
        return f"has the name of a backbone whose weights are random{hint} Rename it, or move it elsewhere"
    return f"is weights of no backbone by its name{hint} `robustft list` has the names; rename it, or move it elsewhere"


def _scratch() -> set[str]:
    return {folded for folded, name in _spellings().items() if name.endswith(SCRATCH)}


def _own_files() -> list[tuple[Path, str | None]]:
    """Weights files in the folder that WEIGHTS_VARIABLE names, each with the backbone that takes it."""
    folder = os.environ.get(WEIGHTS_VARIABLE)
    if not folder:
        return []
    place = Path(os.path.expanduser(folder))  # without a home folder, ~ is a name like any other
    try:
        files = sorted(path for path in place.iterdir() if path.suffix in SUFFIXES and not path.name.startswith("."))
    except OSError as error:
        remedy = f"name its folder, {place.parent}" if place.is_file() else "name a folder, or unset it"
        raise BackboneError(f"{WEIGHTS_VARIABLE}: {folder} cannot be read ({error.strerror}); {remedy}.") from None
    return [(path, _places.name_of(path.absolute()) or _taker(path.stem)) for path in files]


def _taker(stem: str) -> str | None:
    """The backbone that takes weights of this file name; None where there is none, or its weights are random."""
    try:
        name = resolve(stem)
    except BackboneError:
        return None
    return None if name.endswith(SCRATCH) else name


def load(name: str, pretrained: str | Path | None = None, device: "str | torch.device" = "cpu") -> "DualEncoder":
    """A pretrained dual encoder, float32, eval mode.

    Args:
        name: as in `resolve`; it decides the architecture, activation included.
        pretrained: a weights file of that architecture instead of the registered weights (default: that of
            `local_weights`, if there is one): safetensors, or a state dict (also OpenAI's) or training checkpoint of
            tensors alone. It cannot say which activation it was trained with: the name must.
        device: where to put it.

    Raises:
        BackboneError: unknown name, missing or damaged weights, or weights that are not in the cache without network.
    """
    import torch

    torch.backends.cudnn.allow_tf32 = False  # float32 is float32 in convolutions too, on every GPU
    name = resolve(name)
    return _family(name).load(name, device, pretrained or local_weights(name))


def check(name: str) -> None:
    """BackboneError where `load` would raise it. What ships here is known by its hash, without making a model."""
    name = resolve(name)
    if _bundled(name) and name not in MADE_HERE and not local_weights(name):
        weights_id(name)
    else:
        load(name)


def empty(name: str, device: "str | torch.device" = "cpu") -> "DualEncoder":
    """The architecture of a backbone, float32, eval mode, with numbers that mean nothing: its weights come later."""
    import torch

    torch.backends.cudnn.allow_tf32 = False
    name = resolve(name)
    with torch.random.fork_rng(devices=[]):
        made = _family(name).build(name.removesuffix(SCRATCH) if _bundled(name) else name)
    return made.to(device).eval()


def file_of(path: Path, name: str) -> Path:
    """The weights file that a path means, see `checkpoint.file_of`; BackboneError for a folder without one."""
    from . import checkpoint

    return checkpoint.file_of(path, resolve(name))


def read_checkpoint(path: Path, name: str, resample: bool = False) -> "Checkpoint":
    """What somebody else trained of a backbone, see `checkpoint.read`; needs no pretrained weights."""
    import torch

    from . import checkpoint

    name = resolve(name)
    with torch.device("meta"):  # names and shapes alone
        model = _family(name).build(name.removesuffix(SCRATCH) if _bundled(name) else name).clip
    return checkpoint.read(path, name, model, resample)


def file_hash(path: Path) -> str:
    """The hash of a file, as "sha256:..."; BackboneError where it cannot be read."""
    from .weights import weights_hash

    return weights_hash(path)


def weights_id(name: str, pretrained: str | Path | None = None) -> str:
    """What pins the weights; downloads nothing.

    "sha256:..." of the file that `load` would read, tag and hub repository for weights of the hub, or "random" for a
    scratch backbone.
    """
    name = resolve(name)
    file = pretrained or local_weights(name)
    from .weights import weights_hash

    return weights_hash(Path(file)) if file else _family(name).weights_id(name)


def other_weights(name: str) -> str:
    """What to do where a backbone has other weights than a run of it, as the end of a sentence."""
    name = resolve(name)
    if (place := place_of(name)) is not None:
        return f"put those back at {place}, or {_places.remedy(name)}"
    unset = ", or unset it" if os.environ.get(WEIGHTS_VARIABLE) else ""
    return f"name the folder that has those with {WEIGHTS_VARIABLE}{unset}"


def available(name: str) -> bool:
    """Whether the weights are on this machine, so that `load` needs no network; reads none of them."""
    name = resolve(name)
    return local_weights(name) is not None or _family(name).cached(name) is not None


def examine(name: str, thorough: bool = False) -> str:
    """Looks at the weights on this machine, in a moment; one sentence where they cannot be what the name says, else "".

    Args:
        thorough: read every byte, where their hash is known. The weights that ship are always checked so.

    Raises:
        BackboneError: they are damaged.
    """
    name = resolve(name)
    local, family = local_weights(name), _family(name)
    path = local or family.cached(name)
    if path is None or (_bundled(name) and local is None):
        return ""
    return family.examine(name, path, thorough)


def how_to_make(name: str) -> str:
    """The command that makes the weights, of a backbone whose weights nobody gives out; "" for all others."""
    name = resolve(name)
    return _family(name).how_to_make(name) if name in MADE_HERE else ""


def fetch(name: str) -> str:
    """Downloads weights, and a tokenizer that ships with nothing, where they are not on this machine yet.

    Returns:
        Where its tokenizer comes from, as the end of a sentence.

    Raises:
        BackboneError: if they cannot be downloaded.
    """
    name = resolve(name)
    family, own = _family(name), local_weights(name)
    if hasattr(family, "prefetch"):
        said: str = family.prefetch(name, own is None)
        return said
    if own is None:
        family.fetch(name)
    return "its tokenizer ships with open_clip or with this package"


def tokenizer(name: str) -> "Callable[[list[str]], torch.Tensor]":
    """Texts -> (N, context) token ids as the backbone's text tower takes them, padded; needs no weights."""
    name = resolve(name)
    return _family(name).tokenizer_of(name)


def image_size(name: str) -> int:
    """Side in pixels of the pictures that the backbone takes; needs no weights."""
    name = resolve(name)
    return _family(name).image_size(name)


def resizing(name: str) -> tuple[str, str]:
    """open_clip's resize_mode and interpolation of the pictures that a backbone takes; needs no weights."""
    name = resolve(name)
    found: tuple[str, str] = _family(name).resizing(name)
    return found


def step_cost(name: str) -> "Cost | None":
    """What a step of a model of open_clip costs; None of other backbones, which nobody has measured. No weights."""
    name = resolve(name)
    if _bundled(name) or name in BROUGHT:
        return None
    from . import clip

    return clip.cost(name)


def unusual_preprocess(name: str) -> dict[str, Any]:
    """What is done to the pictures of a model of open_clip (`clip.preprocess`); {} where it is what CLIP does."""
    name = resolve(name)
    if _bundled(name) or name in BROUGHT or name in OPENAI:
        return {}
    from . import clip

    found = clip.preprocess(name)
    return {} if found == clip.USUAL else found


def traits(name: str) -> Traits:
    """What methods must know of a backbone before a run is planned; needs no weights."""
    name = resolve(name)
    found: Traits = TRAITS[name] if name in TRAITS else _family(name).traits(name)
    return found


TRAITS = {
    "RN50": Traits("RN50", recomputes=False, blocks=16),
    "ViT-B-16": Traits("ViT-B-16", blocks=12),
    "ViT-L-14": Traits("ViT-L-14", blocks=24),
}
"""Of the registered ones without open_clip, which is slow to import."""


def base_model(name: str, weights: str) -> str:
    """The hub's repository of pretrained weights, "" where it is not known.

    Args:
        weights: what `weights_id` said of them.
    """
    name = resolve(name)
    return OPENAI[name] if name in OPENAI and weights.endswith(f":{OPENAI[name]}") else ""


def licence(name: str, weights: str) -> tuple[str, str]:
    """The hub's identifier of the licence of pretrained weights, and a sentence; "other" where it is not known.

    Args:
        weights: what `weights_id` said of them.
    """
    if base_model(name, weights):
        return "mit", "The pretrained weights are OpenAI's, given out under the MIT licence (openai/CLIP)."
    name = resolve(name)
    if weights == "random" or (name in VISION and weights == _family(name).weights_id(name)):
        return "apache-2.0", "The pretrained weights are robustft's own, under the Apache licence 2.0."
    return "other", f"The licence of the pretrained weights of {name} is not known here; look where they came from."


def _family(name: str) -> Any:
    if name in BROUGHT:
        return import_module(".brought", __name__)
    return import_module(".tiny" if _bundled(name) else ".clip", __name__)


def _bundled(name: str) -> bool:
    return name in VISION | MADE_HERE or name.endswith(SCRATCH)
