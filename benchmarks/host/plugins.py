"""Plug-ins: methods, datasets and backbones from outside of the package, from a file, a package or an installed one.

A plug-in is read once, and what is imported is compiled from what was read: the sha256 that stands in a run's spec is
of the code that made it. Whoever plans keeps a copy, `<runs>/.plugins/<sha256[:12]>/`; workers, `retry` and jobs import
that copy, whatever became of the original. One version of a plug-in is active at a time.
"""

import hashlib
import importlib
import importlib.abc
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath
from types import CodeType, ModuleType
from typing import Any

from ...results.records.atomic import write_json_atomic
from ..errors import UserError
from .places import expanded
from .redaction import discreet

GROUPS = {"robustft.methods": "method", "robustft.datasets": "dataset", "robustft.backbones": "backbone"}
"""Entry points of installed packages -> what they register."""
LARGEST = 64 << 20
"""Bytes of all files of a plug-in: it is copied for the runs. Weights and images lie elsewhere."""
ABOUT = "plugin.json"
"""In the folder of a copy: what it is, written last."""
OPTION = "--include"


class PluginError(UserError):
    """A plug-in that is missing, cannot be imported, registers nothing, or takes a name that another has."""


@dataclass(frozen=True)
class Named:
    """A plug-in as a plan names it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Plugin:
    """What was read of a plug-in.

    Attributes:
        name: of the file (mine.py) or the package (mine).
        origin: for a person: its path, or the distribution that it was installed with.
        module: what it is imported as: a file under a name of its own, a package under its name.
        files: path below `place` -> content; of a package every file but hidden ones and Python's caches.
        place: where its files are.
        entries: (kind, name, module:object) of its entry points; none where it was included.
    """

    name: str
    origin: str
    module: str
    files: Mapping[str, bytes]
    place: Path
    entries: tuple[tuple[str, str, str], ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes; of a package or entry points: of all names and contents."""
        if len(self.files) == 1 and not self.entries:
            return hashlib.sha256(next(iter(self.files.values()))).hexdigest()
        digest = hashlib.sha256(json.dumps(self.entries).encode())
        for path in sorted(self.files):
            digest.update(b"\0" + path.encode() + b"\0" + hashlib.sha256(self.files[path]).digest())
        return digest.hexdigest()

    @property
    def named(self) -> Named:
        return Named(self.name, self.sha256)


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


# Reading


def read(given: str | Path, where: str = OPTION, start: Path | None = None) -> Plugin:
    """The plug-in at a path: a Python file, or a folder with an __init__.py.

    Args:
        where: the flag or key that names it, for the message.
        start: the folder in which a relative path begins; None is the current one.

    Raises:
        PluginError: there is none.
    """
    path = Path(os.path.abspath((start or Path()) / expanded(given, where)))
    said = f"{where} {given}"
    if path.is_dir():
        if not (path / "__init__.py").is_file():
            raise PluginError(f"{said}: must be a Python file or a package, got a folder without __init__.py; add it.")
        name = module = path.name
        if not name.isidentifier():
            raise PluginError(f"{said}: must have a name that Python can import, got '{name}'; rename the folder.")
        taken = None if name in sys.modules and _of_plugin(name) else _other_module(name, path)
        if taken:
            raise PluginError(f"{said}: must have a name of its own, got that of {taken}; rename the folder.")
    elif path.is_file():
        if path.suffix != ".py":
            raise PluginError(
                f"{said}: must be a Python file or a package, got '{path.suffix or path.name}'; see docs."
            )
        name, module = path.name, ""
    else:
        raise PluginError(f"{said}: there is no such file or package; give a path that exists.")
    files = _read_files(path, said)
    if not module:
        module = f"robustft_plugin_{hashlib.sha256(files[name]).hexdigest()[:12]}"
    return Plugin(name, str(path), module, files, path.parent)


def _read_files(path: Path, said: str) -> dict[str, bytes]:
    """Name below the parent of `path` -> content."""
    found: dict[str, bytes] = {}
    size = 0
    try:
        for file in _listed(path):
            size += file.stat().st_size
            if size > LARGEST:
                raise PluginError(
                    f"{said}: must have at most {LARGEST >> 20} MiB, because it is copied for the runs, got more; keep "
                    "weights and images elsewhere and name them by their path."
                )
            found[file.relative_to(path.parent).as_posix()] = file.read_bytes()
    except OSError as error:
        raise PluginError(f"{said}: {error.filename or path} cannot be read ({error.strerror}); mend that.") from None
    return found


def _listed(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for folder, below, files in os.walk(path):
        below[:] = sorted(name for name in below if name != "__pycache__" and not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and not name.endswith((".pyc", ".pyo")):
                yield Path(folder, name)


def _other_module(name: str, path: Path) -> str:
    """What would be imported under this name, unless it is the package itself; "" for nothing."""
    if name in sys.builtin_module_names:
        return "a module of Python"
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None or (spec.origin and Path(spec.origin).parent.resolve() == path.resolve()):
        return ""
    return f"the installed module {spec.origin or name}"


def _of_plugin(module: str) -> bool:
    return any(module == loaded.plugin.module for loaded in _imported.values())


# Importing


class _Importer(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules of one plug-in from what was read of it; never from Python's caches."""

    def __init__(self, plugin: Plugin) -> None:
        self.plugin = plugin

    def _path(self, module: str) -> str | None:
        """The file of a module of the plug-in."""
        if module == self.plugin.module and self.plugin.name.endswith(".py"):
            return self.plugin.name
        base = module.replace(".", "/")
        return next((path for path in (f"{base}/__init__.py", f"{base}.py") if path in self.plugin.files), None)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != self.plugin.module or (file := self._path(fullname)) is None:
            return None
        place = self.plugin.place / file
        spec = ModuleSpec(fullname, self, origin=str(place), is_package=file.endswith("__init__.py"))
        spec.has_location = True
        if spec.submodule_search_locations is not None:
            spec.submodule_search_locations.append(str(place.parent))
        return spec

    def is_package(self, fullname: str) -> bool:
        return (self._path(fullname) or "").endswith("/__init__.py")

    def get_source(self, fullname: str) -> str:
        return importlib.util.decode_source(self._content(fullname)[1])

    def get_code(self, fullname: str) -> CodeType:
        path, content = self._content(fullname)
        code: CodeType = compile(content, str(self.plugin.place / path), "exec", dont_inherit=True)
        return code

    def _content(self, fullname: str) -> tuple[str, bytes]:
        path = self._path(fullname)
        if path is None:
            raise ImportError(f"no module {fullname} in {self.plugin.name}")
        return path, self.plugin.files[path]


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
    for group, kind in GROUPS.items():
        for entry in importlib.metadata.entry_points(group=group):
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
            plugin = Plugin(path.name, about, top, _read_files(path, said), path.parent, tuple(sorted(entries)))
            _activate(plugin, said)
        except PluginError as error:
            if str(error) not in _told:
                warnings.warn(f"left out: {error}", stacklevel=2)
            _told.add(str(error))


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
    sys.meta_path.insert(0, _Importer(loaded.plugin))


def _take_modules(loaded: _Loaded) -> None:
    top = loaded.plugin.module
    loaded.modules = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == top}
    sys.modules.update(loaded.hidden)
    sys.meta_path[:] = [f for f in sys.meta_path if not (isinstance(f, _Importer) and f.plugin is loaded.plugin)]


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


def behind(method: str, dataset: str, backbone: str) -> list[Plugin]:
    """The plug-ins that a run's method, dataset or backbone come from, with those of their base classes."""
    from ...datasets import catalogue

    wanted = {("method", method), ("dataset", catalogue.parts(dataset)[0]), ("backbone", backbone)}
    modules = set()
    for loaded in _active:
        for key in wanted & loaded.registered.keys():
            thing = loaded.registered[key]
            modules |= {one.__module__ for one in (thing.__mro__ if isinstance(thing, type) else ())}
    return [
        loaded.plugin
        for loaded in _active
        if wanted & loaded.registered.keys() or any(name.partition(".")[0] == loaded.plugin.module for name in modules)
    ]


def versions(method: str, dataset: str, backbone: str) -> list[str]:
    """The sha256 of each of `behind`, sorted: what a spec has."""
    return sorted(plugin.sha256 for plugin in behind(method, dataset, backbone))


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


# The copy for workers and jobs


def place(runs: Path, sha256: str) -> Path:
    """The folder of a copy."""
    return runs / ".plugins" / sha256[:12]


def keep(runs: Path, wanted: Iterable[Plugin]) -> None:
    """Copy plug-ins below the runs, each once; UserError where that fails."""
    for plugin in wanted:
        target = place(runs, plugin.sha256)
        if (target / ABOUT).exists():
            continue
        own = target.with_name(f".{target.name}-{uuid.uuid4().hex}")
        try:
            for path, content in plugin.files.items():
                copy = own / path
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(content)
            about = {key: getattr(plugin, key) for key in ("name", "module", "sha256", "entries")}
            write_json_atomic(own / ABOUT, {**about, "origin": discreet(plugin.origin), "files": sorted(plugin.files)})
            try:
                os.rename(own, target)
            except OSError:
                if not (target / ABOUT).exists():
                    raise
        except OSError as error:
            raise UserError(
                f"{target.parent}: must be writable to keep the plug-ins of runs ({error.strerror}); free space "
                "or choose another folder with --runs."
            ) from None
        finally:
            shutil.rmtree(own, ignore_errors=True)


def _kept(runs: Path, named: Named) -> Plugin:
    folder = place(runs, named.sha256)
    said = f"the plug-in {named.name} of this run, {folder}"
    remedy = f"start the command again with {OPTION}"
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        files = {path: (folder / path).read_bytes() for path in about["files"]}
        entries = tuple((kind, name, value) for kind, name, value in about["entries"])
        plugin = Plugin(about["name"], about["origin"], about["module"], files, folder, entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PluginError(f"{said}: must be there to import, got {type(error).__name__}; {remedy}.") from None
    if plugin.sha256 != named.sha256:
        raise PluginError(
            f"{said}: must have the sha256 {named.sha256[:12]}, got {plugin.sha256[:12]}: it was changed; delete the "
            f"folder and {remedy}."
        )
    return plugin


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
        plugin = known.plugin if known else _kept(runs, named)
        _activate(plugin, f"the plug-in {named.name} of this run")


def of_run(method: str, dataset: str, backbone: str, inputs: Iterable[str] = ()) -> list[Plugin]:
    """What the plan of a run names: `behind` it and its inputs, and every backbone, whose weights are told by name."""
    wanted = {plugin.sha256 for one in (method, *inputs) for plugin in behind(one, dataset, backbone)}
    return [
        loaded.plugin
        for loaded in _active
        if loaded.plugin.sha256 in wanted or any(kind == "backbone" for kind, _ in loaded.registered)
    ]
