"""User mistakes as one sentence: where, what must hold, what was found, what to do."""

import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class UserError(ValueError):
    """A mistake in a file, a flag or a folder; the command line prints it and exits with code 2."""


def is_mistake(error: BaseException) -> bool:
    """Whether an error is a user's mistake: a ValueError subclass of this package, its text one sentence."""
    return isinstance(error, ValueError) and type(error).__module__.startswith("robustft.")


def fold(name: str) -> str:
    """The form in which names are compared: lower case, `-` and `_` are the same."""
    return name.strip().lower().replace("-", "_")


def resolve_name(kind: str, name: str, known: Iterable[str], remedy: str = "") -> str:
    """Return the entry of `known` that `name` means, or raise UserError with the nearest right name.

    Args:
        kind: what is named, for the message ("method", "backbone").
        remedy: replaces the list of known names in the message.
    """
    known = list(known)
    by_fold = {fold(entry): entry for entry in known}
    if name in known:  # two names of checkpoints may differ in capital letters alone
        return name
    found = by_fold.get(fold(name))
    if found is not None:
        return found
    raise UserError(unknown(kind, name, by_fold.values(), remedy))


def unknown(kind: str, name: str, known: Iterable[str], remedy: str = "") -> str:
    """The sentence for a name that does not exist: its nearest right name, and all known ones or `remedy`."""
    by_fold = {fold(entry): entry for entry in known}
    near = difflib.get_close_matches(fold(name), by_fold, n=1, cutoff=0.5)
    hint = f"did you mean '{by_fold[near[0]]}'? Known: " if near else "known: "
    listing = remedy or hint + ", ".join(sorted(by_fold.values()))
    return f"unknown {kind} '{name}'; {listing}."


def explain(error: "ValidationError", where: str, remedy: str = "", joint: str = ": ") -> str:
    """The first problem of a pydantic error as one sentence with its key, its value and a remedy."""
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    key = joint.join(part for part in (where, path) if part)
    correct = remedy or "correct it"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] in ("missing", "missing_keyword_only_argument"):
        return f"{key}: is missing{more}; {remedy or 'add it'}."
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        rename = remedy or "remove it or correct its name"
        return f"{key}: is no known key (its value is {first['input']!r}){more}; {rename}."
    if first["type"] == "value_error" and "got " in message:
        return f"{key}: {message}{more}; {correct}."
    message = message[:1].lower() + message[1:]
    return f"{key}: {message}, got {first['input']!r}{more}; {correct}."
