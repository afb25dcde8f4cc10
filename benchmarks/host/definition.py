"""What a class is made of that a notebook or a script defines: a change of it is another method.

Files of the package have a version that is raised with each change. What somebody writes in a notebook has none, is
changed and run again within minutes, and must never get the numbers of an earlier definition.
"""

import contextlib
import dataclasses
import dis
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

PLAIN = (type(None), bool, int, float, complex, str, bytes)
PASSED_OVER = ("__doc__", "__module__", "__qualname__", "__dict__", "__weakref__", "__firstlineno__")
_LIBRARIES = {sysconfig.get_paths()[name] for name in ("stdlib", "purelib", "platlib")}
INSTALLED = tuple(os.path.realpath(place) + os.sep for place in _LIBRARIES)
CONTAINERS = (list, dict, set)
ITEM = "[]"
INTO_CONTAINERS = {ITEM, "append", "extend", "insert", "update", "add", "setdefault", "pop", "clear"}
"""What a function does that keeps something in a container."""
PACKAGE = __name__.partition(".")[0]


def sha256(cls: type) -> str | None:
    """Hash of a class with all that it uses of what is not installed; None for a class of an installed library.

    Followed are functions, classes and plain values, by their names. Of a function its compiled code counts: that is
    what runs, whatever its file says by now, and neither comments nor lines move it; another version of Python compiles
    to another hash. What is read from files or taken from tensors is not seen, nor what the class itself changes while
    it works, as the list that it logs its losses to.
    """
    if not _is_own(cls):
        return None
    digest, seen = hashlib.sha256(), set[int]()
    for part in _parts(cls, seen):
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


def _is_own(thing: Any) -> bool:
    name = getattr(thing, "__module__", None) if not isinstance(thing, ModuleType) else thing.__name__
    if not isinstance(name, str) or name.partition(".")[0] == PACKAGE or name == "builtins":
        return False
    file = getattr(sys.modules.get(name), "__file__", None)
    if name == "__main__" or name not in sys.modules:
        return True
    return file is not None and not os.path.realpath(file).startswith(INSTALLED)


def _parts(thing: Any, seen: set[int]) -> Iterator[str]:
    """Texts that change when the thing is another one."""
    if isinstance(thing, (staticmethod, classmethod)):
        thing = thing.__func__
    if isinstance(thing, PLAIN):
        yield f"{type(thing).__name__} {thing!r}"
        return
    if isinstance(thing, (type, FunctionType, ModuleType)) and not _is_own(thing):
        yield f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', thing.__name__)}"
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, (tuple, list, set, frozenset)):
        yield type(thing).__name__
        for part in sorted(thing, key=repr) if isinstance(thing, (set, frozenset)) else thing:
            yield from _parts(part, seen)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from _parts(key, seen)
            yield from _parts(value, seen)
    elif isinstance(thing, property):
        for function in (thing.fget, thing.fset):
            yield from _parts(function, seen)
    elif isinstance(thing, FunctionType):
        yield from _function(thing, seen)
    elif isinstance(thing, type):
        yield from _class(thing, seen)
    elif isinstance(thing, CodeType):
        yield f"{thing.co_code.hex()} {thing.co_names} {thing.co_varnames} {thing.co_flags}"
        yield from _parts(thing.co_consts, seen)
    elif isinstance(thing, ModuleType):
        yield thing.__name__
    else:
        yield f"a {type(thing).__module__}.{type(thing).__qualname__}"


def _class(cls: type, seen: set[int]) -> Iterator[str]:
    yield f"class {cls.__qualname__}"
    for base in cls.__bases__:
        yield from _parts(base, seen)
    made = dataclasses.is_dataclass(cls)
    if made:
        for field in dataclasses.fields(cls):
            yield f"field {field.name} {field.type!r}"
            default = getattr(field.default, "default", field.default)  # of pydantic's Field
            yield from _parts(None if default is dataclasses.MISSING else default, seen)
    functions = [
        value.fget if isinstance(value, property) else getattr(value, "__func__", value) for value in vars(cls).values()
    ]
    changed = set().union(*(_changed(value.__code__) for value in functions if isinstance(value, FunctionType)))
    for name, value in sorted(vars(cls).items()):
        if name in changed and not isinstance(value, FunctionType):
            continue
        machinery = name.startswith("__pydantic_") or name.startswith("_abc_") or name.startswith("__dataclass_")
        generated = made and isinstance(value, FunctionType) and value.__code__.co_filename.startswith("<string>")
        special = made and name.startswith("__") and name != "__post_init__"
        if name not in PASSED_OVER and not machinery and not generated and not special:
            yield name
            yield from _parts(value, seen)


def _function(function: FunctionType, seen: set[int]) -> Iterator[str]:
    yield from _parts(function.__code__, seen)
    for value in (function.__defaults__, function.__kwdefaults__):
        yield from _parts(value, seen)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # not yet filled
            held = cell.cell_contents
            if not isinstance(held, CONTAINERS):
                yield from _parts(held, seen)
    used, changed = _names(function.__code__), _changed(function.__code__)
    for name in sorted((used & function.__globals__.keys()) - changed):
        thing = function.__globals__[name]
        yield name
        if isinstance(thing, CONTAINERS) and (INTO_CONTAINERS & (used | changed)):
            continue
        yield from _parts(thing, seen)
        if isinstance(thing, ModuleType) and _is_own(thing):
            for attribute in sorted(used & vars(thing).keys()):
                yield attribute
                yield from _parts(vars(thing)[attribute], seen)


def _names(code: CodeType) -> set[str]:
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _changed(code: CodeType) -> set[str]:
    """Names of globals and attributes that code sets; ITEM where it sets one of something."""
    found = set()
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("STORE_GLOBAL", "STORE_ATTR"):
            found.add(instruction.argval)
        elif instruction.opname == "STORE_SUBSCR":
            found.add(ITEM)
    inner = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return found.union(*map(_changed, inner))
