"""The one reader of YAML: suites, tuned values, cluster profiles, `--set` and the files that describe hub data.

A value without quotes is what JSON makes of it: a number, true, false or null (also ~ and nothing). All else is text
as it stands: `no` and `on` (which YAML 1.1 takes for false and true), `010` (8), `1_000`, `12:30:45` (45045), `0x1F`,
2024-01-01. A key is text always. So a class may be called no or 010, and a seed of 010 is refused as no number.
What one could read in two ways is refused: a key that stands twice, aliases that multiply or contain themselves, other
tags than those of JSON's types, other encodings than UTF-8.
"""

import math
import re
from collections.abc import Hashable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

_PREFIX = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_LITERALS = {"true": True, "false": False, "null": None, "~": None, "": None}
_EXPANDED = 100_000
"""Values that a file may come to with its aliases written out, beyond those that it holds."""


class YamlError(ValueError):
    """A file or text that is no YAML, or could be read in two ways; one sentence."""


class _Loader(yaml.SafeLoader):
    """Reads YAML by the rules in the module's docstring."""

    yaml_implicit_resolvers = {
        first: [
            (f"{_PREFIX}null", re.compile(r"^(?:null|Null|NULL|~|)$")),
            (f"{_PREFIX}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")),
            (f"{_PREFIX}int", re.compile(rf"^{_INT.pattern}$")),
            (f"{_PREFIX}float", re.compile(rf"^(?:{_FLOAT.pattern})$")),
            (f"{_PREFIX}merge", re.compile(r"^<<$")),
        ]
        for first in [*"nN~tTfF-+.0123456789<", ""]
    }
    yaml_constructors = {
        tag: make for tag, make in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in {f"{_PREFIX}{kind}" for kind in ("str", "seq", "map")}
    }  # fmt: skip

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            return super().construct_scalar(node)
        kind, text = node.tag.removeprefix(_PREFIX), node.value
        if kind == "int" and _INT.fullmatch(text):
            return int(text)
        if kind == "float" and _FLOAT.fullmatch(text):
            value = float(re.sub(r"(?i)\.(inf|nan)", r"\1", text))
            if math.isinf(value) and "inf" not in text.lower():
                raise _mistake(f"{text} is too large for a number", node)
            return value
        if kind in ("bool", "null") and text.lower() in _LITERALS:
            return _LITERALS[text.lower()]
        if kind in ("int", "float", "bool", "null"):
            raise _mistake(f"{text!r} is no {kind}", node)
        return text

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Keys are text as they stand; none stands twice. Those that `<<` takes over give way to the mapping's own."""
        keys = [key for key, _ in node.value if key.tag != f"{_PREFIX}merge"]
        taken: set[Any] = set()
        for key in keys:
            if not isinstance(key, yaml.ScalarNode):
                raise _mistake("a key must be text, not a list or a mapping", key)
            if key.value in taken:
                raise _mistake(f"the key {key.value!r} stands twice", key)
            taken.add(key.value)
        self.flatten_mapping(node)  # what is taken over comes first, and is checked where it stands itself
        return {str(key.value): self.construct_object(value, deep=deep) for key, value in node.value}


_LIBYAML: tuple[type, ...] = (yaml.CSafeLoader,) if hasattr(yaml, "CSafeLoader") else ()


class _OfOwnFiles(*_LIBYAML, _Loader):  # type: ignore[misc]
    """`_Loader` in a fifth of the time where libyaml is, which reads a few things otherwise that a person may write."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers
    yaml_constructors = _Loader.yaml_constructors


def _mistake(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _kind in ("int", "float", "bool", "null"):
    _Loader.add_constructor(f"{_PREFIX}{_kind}", _Loader.construct_scalar)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that YAML 1.1 or `_Loader` would read as something else: a run id may be 12 digits around an e."""


_Dumper.add_implicit_resolver(
    f"{_PREFIX}float",
    re.compile(rf"^(?:{_FLOAT.pattern}|[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+)$"),
    list("-+.0123456789"),
)


def dump(value: Any) -> str:
    """The YAML text that `parse` reads as the same value, keys in their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=110)


def parse(text: str, where: str, own: bool = False) -> Any:
    """The value of a YAML text.

    Args:
        own: the text is from `dump`, and what it holds is checked by a hash.

    Raises:
        YamlError: begun with `where` and the line.
    """
    try:
        return _copied(_value(text, own))
    except (ValueError, RecursionError) as error:  # thousands of brackets or digits
        raise YamlError(f"{where}: not a value that YAML can hold ({type(error).__name__}); correct it.") from None
    except yaml.reader.ReaderError as error:
        raise YamlError(
            f"{where}: not valid YAML (the character {chr(error.character)!r} at {error.position}); save it as text in "
            "UTF-8."
        ) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        said = filter(None, (getattr(error, "context", None), getattr(error, "problem", None)))
        problem = " ".join(" ".join(said).split()) or str(error).splitlines()[0]
        raise YamlError(f"{where}{line}: not valid YAML ({problem}); correct the file.") from None


@lru_cache(maxsize=32)
def _value(text: str, own: bool) -> Any:
    """The value of a text: once, for a process asks for the same suites again. Whoever changes it copies it."""
    if own:
        with suppress(yaml.YAMLError):  # what is wrong is said below, in one way
            return _made(_OfOwnFiles(text))
    return _made(_Loader(text))


def _made(loader: _Loader) -> Any:
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_aliases(node)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def read(path: Path, own: bool = False) -> Any:
    """The value that a YAML file holds, None for an empty one; with or without a byte order mark.

    Args:
        own: as of `parse`.

    Raises:
        YamlError: it cannot be read, is no UTF-8, or as in `parse`.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise YamlError(f"{path}: cannot be read ({error.strerror}); give the path of a YAML file.") from None
    except UnicodeDecodeError as error:
        raise YamlError(f"{path}: is not in UTF-8 (byte {error.start + 1}); save it as UTF-8.") from None
    return parse(text, path.name, own)


def read_mapping(path: Path, own: bool = False) -> dict[str, Any]:
    """The keys and values that a YAML file holds.

    Args:
        own: as of `parse`.

    Raises:
        YamlError: it holds something else or nothing, or as in `read`.
    """
    content = read(path, own)
    if not isinstance(content, dict):
        found = "nothing" if content is None else type(content).__name__
        raise YamlError(f"{path.name}: must be a mapping of keys to values, got {found}; correct it.")
    return content


def _check_aliases(root: yaml.Node) -> None:
    """ConstructorError where an alias stands inside of what it names, or written out the values would be too many."""
    sizes: dict[int, int | None] = {}

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node), 0)
        if known is None:
            raise _mistake("an alias stands inside of what it names", node)
        if known:
            return known
        sizes[id(node)] = None
        inside = node.value if isinstance(node, yaml.CollectionNode) else ()
        parts = [part for pair in inside for part in pair] if isinstance(node, yaml.MappingNode) else inside
        sizes[id(node)] = total = 1 + sum(map(size, parts))
        return total

    if size(root) > len(sizes) + _EXPANDED:
        raise _mistake("its aliases multiply to more values than anybody wrote", root)
