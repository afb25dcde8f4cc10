"""One plug-in: its files as they were read, their sha256, modules made of exactly these, and the copy for the runs."""

import hashlib
import importlib.abc
import importlib.util
import json
import os
import shutil
import sys
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import CodeType
from typing import Any

from ...results.records.atomic import write_json_atomic
from ..errors import UserError
from .places import expanded
from .redaction import discreet

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
        taken = _other_module(name, path)
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
    files = read_files(path, said)
    if not module:
        module = f"robustft_plugin_{hashlib.sha256(files[name]).hexdigest()[:12]}"
    return Plugin(name, str(path), module, files, path.parent)


def read_files(path: Path, said: str) -> dict[str, bytes]:
    """Name below the parent of `path` -> content; PluginError, begun with `said`, where that cannot be."""
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
    if isinstance(getattr(sys.modules.get(name), "__loader__", None), Importer):
        return ""  # another version of it
    if name in sys.builtin_module_names:
        return "a module of Python"
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ""
    if spec is None or (spec.origin and Path(spec.origin).parent.resolve() == path.resolve()):
        return ""
    return f"the installed module {spec.origin or name}"


class Importer(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
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


def kept(runs: Path, named: Named) -> Plugin:
    """The copy of a plug-in; PluginError where it is gone or was changed."""
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
