"""What must not be written down: secrets, and where the home folder is.

Secrets come from the environment or from the login files of the tools that need them. A key that asks for one is
refused, without telling its value; logs and reasons have ~ for the home folder and the variable's name for the value of
a variable that is named like a secret.
"""

import io
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError

NAMED = re.compile(
    r"token(?!s|iz)|secret|passw(or)?d|passphrase|credential|(api|access|auth|private)[_-]?key", re.IGNORECASE
)
"""Names of secrets; tokens and tokenizers are of text."""
SHORTEST = 6
"""A shorter value of a variable is too common a text to be hidden."""


def refuse(content: Any, where: str) -> None:
    """UserError where a mapping, or one inside it, has a key named like a secret; the value is not shown."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            if isinstance(key, str) and NAMED.search(key):
                raise UserError(
                    f"{where}: must hold no secrets, got the key '{key}' (its value is not shown); set it in the "
                    "environment or log in with the tool's own command."
                )
            refuse(value, where)
    elif isinstance(content, list):
        for value in content:
            refuse(value, where)


def discreet(text: str) -> str:
    """The text with ~ for the home folder and without the values of secret environment variables."""
    if not text:
        return text
    home, values = _hidden(os.environ.get("HOME", ""), tuple(sorted(os.environ.items())))
    for name, value in values:
        text = text.replace(value, f"${name}")
    return home.sub("~", text) if home is not None else text


@lru_cache(maxsize=4)
def _hidden(
    home: str, environment: tuple[tuple[str, str], ...]
) -> tuple[re.Pattern[str] | None, list[tuple[str, str]]]:
    values = [(name, value) for name, value in environment if NAMED.search(name) and len(value) >= SHORTEST]
    values.sort(key=lambda pair: -len(pair[1]))  # one may be a part of another
    homes = {home.rstrip("/"), os.path.realpath(home), str(Path("~").expanduser())} if home else set()
    named = sorted((re.escape(place) for place in homes if len(place) > 1), key=len, reverse=True)
    # At the borders of a path only: /mnt/root and /rootfs are not below /root.
    return re.compile(rf"(?<![\w.-])(?:{'|'.join(named)})(?![\w.-])") if named else None, values


class Discreet(io.TextIOBase):
    """A text stream that writes `discreet` text to another."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(discreet(text))
        return len(text)

    def flush(self) -> None:
        self.stream.flush()

    def fileno(self) -> int:
        return self.stream.fileno()

    def isatty(self) -> bool:
        return self.stream.isatty()
