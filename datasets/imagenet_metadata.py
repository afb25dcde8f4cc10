"""What open_clip and timm ship about ImageNet: class names, prompt templates, synsets and index lists.

Neither package is imported for it. Both are slow to import, a plan needs no model, and in this project only
`backbones` may know open_clip: its file of names and templates imports nothing, so that one file is loaded by its path;
timm's lists are text files.
"""

from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from .card import DataError


def package_file(package: str, *parts: str) -> Path:
    """A file inside an installed package, which is not imported; DataError where it is not there."""
    spec = find_spec(package)
    path = Path(*(spec.submodule_search_locations or [""]), *parts) if spec else None
    if path is None or not path.is_file():
        distribution = {"open_clip": "open_clip_torch", "sklearn": "scikit-learn"}.get(package, package)
        raise DataError(f"{package}: {'/'.join(parts)} was not found; install {distribution} again.")
    return path


@cache
def _open_clip_metadata() -> ModuleType:
    spec = spec_from_file_location("robustft_zero_shot_metadata", package_file("open_clip", "zero_shot_metadata.py"))
    assert spec is not None and spec.loader is not None  # it is a file of Python
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def imagenet_names() -> tuple[str, ...]:
    """1000 class names by index. Some occur twice ("missile", "sunglasses"): never look an index up by name."""
    return tuple(_open_clip_metadata().IMAGENET_CLASSNAMES)


@cache
def imagenet_prompts() -> tuple[str, ...]:
    """The 80 templates of OpenAI's ImageNet evaluation, each with one "{}"."""
    prompts = tuple(template("{}") for template in _open_clip_metadata().OPENAI_IMAGENET_TEMPLATES)
    if any(prompt.count("{}") != 1 for prompt in prompts):
        raise DataError("open_clip: a template does not hold the class name once; install the pinned version.")
    return prompts


def _lines(name: str) -> list[str]:
    return package_file("timm", "data", "_info", name).read_text().split()


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """1000 WordNet ids in class order, which is their sorted order."""
    return tuple(_lines("imagenet_synsets.txt"))


@cache
def imagenet_subset(which: str) -> tuple[int, ...]:
    """The 200 ascending ImageNet indices of ImageNet-`which`, "a" or "r"."""
    return tuple(map(int, _lines(f"imagenet_{which}_indices.txt")))
