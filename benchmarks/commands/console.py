"""Where commands print, and what they say on stderr beside it."""

import codecs
import os
import sys
import unicodedata
from collections.abc import Iterable
from functools import partial
from typing import Any

from rich.console import Console, Group
from rich.table import Table

from ..host.printed import complete

PLAIN = {
    "±": "+-",
    "≈": "~",
    "²": "^2",
    "×": "x",
    "–": "-",
    "—": "-",
    "…": "...",
    "→": "->",
    "≥": ">=",
    "≤": "<=",
    "█": "#",
}
"""Signs of ours for a terminal that has not got them."""


class Terminal(Console):
    """A console whose sentences print commands as they were asked for (`printed.complete`)."""

    def print(self, *objects: Any, **more: Any) -> None:
        """As rich does it; a table that is too wide for the words of its headings is printed row by row."""
        super().print(*(part for each in objects for part in self._shown(each)), **more)

    def _shown(self, given: Any) -> Iterable[Any]:
        if isinstance(given, Table):
            from ...results.tables.narrow import as_lines, keep_words

            return [given] if keep_words(given, self.width) else [Group(*as_lines(given))]
        return [complete(given) if isinstance(given, str) else given]


def make_console(stderr: bool = False) -> Console:
    """A console that wraps nothing when its output is no terminal, unless COLUMNS says how wide it is."""
    plain = partial(Terminal, stderr=stderr, highlight=False, markup=False, emoji=False)  # a path may hold [a] or :a:
    console = plain()
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    return plain(width=int(columns) if columns.isdecimal() and int(columns) else 200, no_color=True)


def complain(sentence: str) -> None:
    """One line on stderr."""
    Terminal(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(f"robustft: {sentence}", markup=False)


def speak_plainly() -> None:
    """Replace characters that the terminal's encoding lacks; printing them would end the command with an error."""
    codecs.register_error("robustft-plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="robustft-plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_sign, error.object[error.start : error.end])), error.end


def _sign(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte of a file name that is no text
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return PLAIN.get(sign) or unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode() or "?"
