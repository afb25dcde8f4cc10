"""What follows `--set`: `key=value`, a grid `key=a,b`, a list `key=[a,b]`, or `method.key=value`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ..errors import UserError, fold, resolve_name, unknown
from ..host.redaction import refuse
from .suite.suite import parse_yaml

# Keys that people try, and the flag that they are.
FLAGS = {
    "seed": "--seed or --seeds",
    "seeds": "--seeds",
    "method": "--method",
    "backbone": "--backbone",
    "recipe": "--recipe",
    "rule": "--rule",
    "device": "--device",
    "jobs": "--jobs",
    "runs": "--runs",
}


@dataclass(frozen=True)
class Setting:
    """One `--set`: the values of a key, for every listed method that has it or for one method."""

    method: str | None
    key: str
    values: tuple[Any, ...]
    text: str


def parse(texts: Iterable[str], part: Mapping[str, Any] = MappingProxyType({})) -> list[Setting]:
    """Parse every `--set`; UserError where one is no `key=value`, has an empty value, or repeats a key.

    Args:
        part: keys and values that come after those, of flags that mean settings (`--limit`).
    """
    settings: list[Setting] = []

    def add(setting: Setting) -> None:
        for earlier in settings:
            if (earlier.method, earlier.key) == (setting.method, setting.key):
                raise UserError(
                    f"--set {setting.text}: the key is already in --set {earlier.text}; give all its values in one, "
                    f"as in {setting.text.partition('=')[0].strip()}=1,2."
                )
        settings.append(setting)

    for text in texts:
        left, equals, right = text.partition("=")
        method, dot, key = left.strip().rpartition(".")
        refuse({left.strip(): None}, "--set")
        if not equals or not key or (dot and not method):
            raise UserError(f"--set {text}: must be key=value, got '{text}'; write for example --set lr=0.001.")
        values = tuple(parse_yaml(part, f"--set {text}") for part in _split(right, text))
        add(Setting(fold(method) if dot else None, fold(key), values, text))
    for key, value in part.items():
        add(Setting(None, key, (value,), f"{key}={str(value).lower()}"))
    return settings


def _split(text: str, whole: str) -> list[str]:
    """Split at the commas outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            depth += (char in "[{(") - (char in "]})")
        if char == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += char
    if depth != 0 or quote:
        raise UserError(f"--set {whole}: brackets and quotes must be closed, got '{text}'; close them.")
    if any(not part.strip() for part in parts):
        raise UserError(f"--set {whole}: a value is empty; give one after each '=' and ','.")
    return [part.strip() for part in parts]


def assign(
    settings: list[Setting], listed: dict[str, list[str]], known: dict[str, list[str]]
) -> dict[str, dict[str, Setting]]:
    """Which setting goes to which method: method -> key -> Setting.

    A key goes to each listed method that has it; `method.key` goes to that method and wins over the bare key.

    Args:
        listed: listed method -> its keys.
        known: every method -> its keys, for better messages.
    """
    assigned: dict[str, dict[str, Setting]] = {method: {} for method in listed}
    for setting in sorted(settings, key=lambda s: s.method is not None):
        if setting.method is not None:
            where = f"--set {setting.text}: "
            name = _named(setting.method, where, listed, known)
            keys = {fold(key): key for key in listed[name]}
            if setting.key not in keys:
                raise UserError(where + _unknown_key(setting.key, listed[name], {}))
            assigned[name][keys[setting.key]] = setting
            continue
        owners = [name for name, keys in listed.items() if setting.key in map(fold, keys)]
        if not owners:
            every = sorted({key for keys in listed.values() for key in keys})
            raise UserError(f"--set {setting.text}: {_unknown_key(setting.key, every, known)}")
        for name in owners:
            key = next(key for key in listed[name] if fold(key) == setting.key)
            assigned[name][key] = setting
    return assigned


def _named(method: str, where: str, listed: dict[str, list[str]], known: dict[str, list[str]]) -> str:
    try:
        name = resolve_name("method", method, known)
    except UserError as error:
        raise UserError(where + str(error)) from None
    if name not in listed:
        raise UserError(f"{where}method '{name}' is not listed; add it to --method or remove the setting.")
    return name


def _unknown_key(key: str, keys: list[str], known: dict[str, list[str]]) -> str:
    if key in FLAGS:
        return f"'{key}' is a flag, not a key; use {FLAGS[key]}."
    owners = sorted(name for name, theirs in known.items() if key in map(fold, theirs))
    if owners:
        return f"no listed method has the key '{key}'; add {' or '.join(owners)} to --method."
    return unknown("key", key, keys)
