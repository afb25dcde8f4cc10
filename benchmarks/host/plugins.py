"""Plug-ins: methods, datasets and backbones from outside of the package, from a file, a package or an installed one.

A plug-in is read once, and what is imported is compiled from what was read: the sha256 that stands in a run's spec is
of the code that made it. Whoever plans keeps a copy, `<runs>/.plugins/<sha256[:12]>/`; workers, `retry` and jobs import
that copy, whatever became of the original. One version of a plug-in is active at a time.
"""

import importlib
import importlib.metadata
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from .plugin_files import OPTION, Importer, Named, Plugin, PluginError, kept, read, read_files
from .redaction import discreet

GROUPS = {"robustft.methods": "method", "robustft.datasets": "dataset", "robustft.backbones": "backbone"}
"""Entry points of installed packages -> what they register."""


@dataclass
class _Loaded:
    """A plug-in that was imported: its modules, and what it registered as (kind, name)."""

    plugin: Plugin
    modules: dict[str, ModuleType] = field(default_factory=dict)
    registered: dict[tuple[str, str], Any] = field(default_factory=dict)
    hidden: dict[str, ModuleType] = field(default_factory=dict)
    """Modules of the same names that were imported before, put back when it is no longer active."""


_imported: dict[str, _Loaded] = {}
"""Every plug-in that this process has imported, by sha256."""
_active: list[_Loaded] = []
_told: set[str] = set()
_when_changed: list[Callable[[], None]] = []


def include(given: str | Path, where: str = OPTION, start: Path | None = None) -> Plugin:
    """Import a file or a package and make known what it registers; `read` and `_activate` say what may be wrong.

    Raises:
        PluginError: one sentence.
    """
    plugin = read(given, where, start)
    _activate(plugin, f"{where} {given}")
    return plugin


def discover() -> None:
    """Make known what installed packages register by their entry points; one that cannot be imported is told once."""
    found: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    installed = _installed(tuple((os.path.abspath(folder), _changed_at(folder)) for folder in sys.path))
    for group, kind in GROUPS.items():
        for entry in installed[group]:
            about = f"{entry.dist.metadata['Name']} {entry.dist.version}" if entry.dist else "an installed package"
            top = entry.value.partition(":")[0].partition(".")[0].strip()
            found.setdefault((about, top), []).append((kind, entry.name, entry.value))
    for (about, top), entries in sorted(found.items()):
        if any(loaded.plugin.module == top for loaded in _active):
            continue
        said = f"the installed plug-in {about}"
        try:
            spec = importlib.util.find_spec(top)
            if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                raise PluginError(
                    f"{said}: must be a module or package '{top}', got nothing to import; install it again."
                )
            path = Path(spec.origin)
            path = path.parent if path.name == "__init__.py" else path
            plugin = Plugin(path.name, about, top, read_files(path, said), path.parent, tuple(sorted(entries)))
            _activate(plugin, said)
        except PluginError as error:
            if str(error) not in _told:
                warnings.warn(f"left out: {error}", stacklevel=2)
            _told.add(str(error))


@lru_cache(maxsize=1)
def _installed(folders: tuple[tuple[str, int], ...]) -> dict[str, tuple[importlib.metadata.EntryPoint, ...]]:
    """Group -> entry points of installed packages; their files are read anew where one of the folders has changed."""
    every = importlib.metadata.entry_points()  # once: it reads a file of each installed package
    return {group: tuple(every.select(group=group)) for group in GROUPS}


def _changed_at(folder: str) -> int:
    try:
        return os.stat(folder or ".").st_mtime_ns
    except OSError:
        return 0


def _activate(plugin: Plugin, said: str) -> None:
    """Make known what a plug-in registers, importing it unless this process has.

    Raises:
        PluginError: it cannot be imported, registers nothing, or takes a name that another has.
    """
    if any(loaded.plugin.sha256 == plugin.sha256 for loaded in _active):
        return
    loaded = _imported.get(plugin.sha256)
    if loaded is None or loaded.plugin.place != plugin.place:
        loaded = _import(plugin, said)
    else:
        tables = _tables()
        for kind, name in loaded.registered:
            if name in tables[kind]:
                raise PluginError(f"{said}: registers the {kind} '{name}', which is registered already; rename it.")
        for (kind, name), thing in loaded.registered.items():
            tables[kind][name] = thing
        _put_modules(loaded)
    _active.append(loaded)
    _changed()


def _put_modules(loaded: _Loaded) -> None:
    top = loaded.plugin.module
    loaded.hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == top}
    sys.modules.update(loaded.modules)
    sys.meta_path.insert(0, Importer(loaded.plugin))


def _take_modules(loaded: _Loaded) -> None:
    top = loaded.plugin.module
    loaded.modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == top}
    sys.modules.update(loaded.hidden)
    sys.meta_path[:] = [f for f in sys.meta_path if not (isinstance(f, Importer) and f.plugin is loaded.plugin)]


def _import(plugin: Plugin, said: str) -> _Loaded:
    tables = _tables()
    before = {kind: dict(table) for kind, table in tables.items()}
    loaded = _Loaded(plugin)
    _put_modules(loaded)
    try:
        importlib.import_module(plugin.module)
        for kind, name, value in plugin.entries:
            _enter(kind, name, value)
        loaded.registered = {
            (kind, name): thing
            for kind, table in tables.items()
            for name, thing in table.items()
            if name not in before[kind]
        }
        if not loaded.registered:
            raise PluginError(
                f"{said}: must register a method, dataset or backbone, got none; put @register(NAME) above its class."
            )
        for (kind, name), thing in loaded.registered.items():
            if kind == "method":
                _check_method(name, thing, said)
    except BaseException as error:
        for kind, table in tables.items():
            for name in table.keys() - before[kind].keys():
                del table[name]
        _take_modules(loaded)
        if isinstance(error, (PluginError, KeyboardInterrupt)):
            raise
        raise PluginError(_why_not(error, plugin, said)) from None
    loaded.modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == plugin.module}
    _imported[plugin.sha256] = loaded
    return loaded


def _check_method(name: str, method: Any, said: str) -> None:
    """PluginError where a plan could not make this method."""
    from ...methods.base import Method

    if not (isinstance(method, type) and issubclass(method, Method)):
        raise PluginError(f"{said}: {name} must be a subclass of methods.base.Method, got {method!r}; derive it.")
    try:
        method.Hyper(**method.introduced)
    except Exception as error:
        text = " ".join(str(error).split("For further information")[0].split())
        raise PluginError(
            f"{said}: {name}.Hyper must have a default for each field, and the fields of the Hyper that its base class "
            f"has, got '{text[:200]}'; derive it from that one."
        ) from None


def _enter(kind: str, name: str, value: str) -> None:
    """Register what an entry point names under the entry point's name, unless it has registered itself."""
    module, _, path = value.partition(":")
    thing: Any = importlib.import_module(module.strip())
    for part in filter(None, path.strip().split(".")):
        thing = getattr(thing, part)
    table = _tables()[kind]
    if isinstance(thing, ModuleType) or any(known is thing for known in table.values()):
        return
    _register(kind)(name)(thing)


def _why_not(error: BaseException, plugin: Plugin, said: str) -> str:
    """The sentence for an import that failed: the line of the plug-in's file that is to be mended."""
    places = {str(plugin.place / path) for path in plugin.files}
    line, file = None, ""
    if isinstance(error, SyntaxError) and error.filename in places:
        line, file = error.lineno, error.filename
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in places:
            line, file = trace.tb_lineno, trace.tb_frame.f_code.co_filename
        trace = trace.tb_next
    where = f", line {line}" + (f" of {PurePosixPath(file).name}" if len(plugin.files) > 1 else "") if line else ""
    text = " ".join((error.msg if isinstance(error, SyntaxError) else str(error)).split()).rstrip(".")
    if isinstance(error, ValueError) and type(error).__module__.startswith("robustft."):
        return f"{said}{where}: {text}."
    hint = "mend the line"
    if isinstance(error, ModuleNotFoundError):
        hint = "install it, or make one package of the file and what stands beside it, imported as `from . import name`"
    return f"{said}{where}: cannot be imported ({type(error).__name__}: {text}); {hint}."


def _tables() -> dict[str, dict[str, Any]]:
    """Kind -> the table in which it is registered."""
    from ...backbones import registered
    from ...datasets import catalogue
    from ...methods import registry

    return {"method": registry.table(), "dataset": catalogue.BROUGHT, "backbone": registered.BROUGHT}


def _register(kind: str) -> Callable[[str], Callable[[Any], Any]]:
    from ...backbones import registered
    from ...datasets import catalogue
    from ...methods import registry

    known: dict[str, Any] = {
        "method": registry.register,
        "dataset": catalogue.register,
        "backbone": registered.register,
    }
    found: Callable[[str], Callable[[Any], Any]] = known[kind]
    return found


# What is active


def when_changed(call: Callable[[], None]) -> None:
    """Have this called whenever names may mean something else: for what is remembered by name."""
    _when_changed.append(call)


def _changed() -> None:
    for call in _when_changed:
        call()


def _deactivate(which: Iterable[_Loaded]) -> None:
    tables = _tables()
    for loaded in list(which):
        _active.remove(loaded)
        for kind, name in loaded.registered:
            tables[kind].pop(name, None)
        _take_modules(loaded)
        _changed()


@contextmanager
def session() -> Iterator[None]:
    """What is made known within is forgotten at its end: a command's plug-ins are its own."""
    before = list(_active)
    try:
        yield
    finally:
        if _active != before:
            _deactivate(_active)
            for loaded in before:
                _activate(loaded.plugin, loaded.plugin.origin)


def behind(method: str, dataset: str, backbone: str) -> dict[str, list[Plugin]]:
    """Kind -> the plug-ins that a run's method, dataset or backbone come from, with those of their base classes."""
    from ...datasets import catalogue

    names = {"method": method, "dataset": catalogue.parts(dataset)[0], "backbone": backbone}
    return {kind: _behind(kind, name) for kind, name in names.items()}


def _behind(kind: str, name: str) -> list[Plugin]:
    thing = next((loaded.registered[kind, name] for loaded in _active if (kind, name) in loaded.registered), None)
    tops = {base.__module__.partition(".")[0] for base in (thing.__mro__ if isinstance(thing, type) else ())}
    return [loaded.plugin for loaded in _active if (kind, name) in loaded.registered or loaded.plugin.module in tops]


def versions(method: str, dataset: str, backbone: str) -> list[str]:
    """kind:sha256 of each of `behind`, sorted: what a spec has."""
    found = behind(method, dataset, backbone)
    return sorted(f"{kind}:{plugin.sha256}" for kind, plugins in found.items() for plugin in plugins)


def origin(kind: str, name: str) -> Plugin | None:
    """Where a name comes from; None for one of the package itself."""
    return next((loaded.plugin for loaded in _active if (kind, name) in loaded.registered), None)


def lines() -> list[str]:
    """For a person: a line for each active plug-in, with what it registers."""
    said = []
    for loaded in _active:
        what = ", ".join(f"{kind} {name}" for kind, name in loaded.registered)
        said.append(f"plug-in {discreet(loaded.plugin.origin)} (sha256 {loaded.plugin.sha256[:8]}): {what}")
    return said


def need(runs: Path, wanted: Sequence[Named]) -> None:
    """Make known what the plug-ins of a plan register, in exactly the version that was planned.

    Raises:
        PluginError: the copy is gone or was changed.
    """
    there = {loaded.plugin.sha256 for loaded in _active}
    if {named.sha256 for named in wanted} <= there:
        return
    _deactivate(_active)
    for named in wanted:
        known = _imported.get(named.sha256)
        plugin = known.plugin if known else kept(runs, named)
        _activate(plugin, f"the plug-in {named.name} of this run")


def of_run(method: str, dataset: str, backbone: str, inputs: Iterable[str] = ()) -> list[Plugin]:
    """What the plan of a run names: `behind` it and its inputs, and every backbone, whose weights are told by name."""
    behind_all = (behind(one, dataset, backbone) for one in (method, *inputs))
    wanted = {plugin.sha256 for found in behind_all for plugins in found.values() for plugin in plugins}
    return [
        loaded.plugin
        for loaded in _active
        if loaded.plugin.sha256 in wanted or any(kind == "backbone" for kind, _ in loaded.registered)
    ]
