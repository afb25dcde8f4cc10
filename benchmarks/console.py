"""Where commands print, and what they say on stderr beside it."""

import os

from rich.console import Console


def make_console(stderr: bool = False) -> Console:
    """A console that wraps nothing when its output is no terminal, unless COLUMNS says how wide it is."""
    plain = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}  # a path may hold [a] or :a:
    console = Console(**plain)
    if console.is_terminal:
        return console
    columns = os.environ.get("COLUMNS", "")
    return Console(**plain, width=int(columns) if columns.isdecimal() and int(columns) else 200, no_color=True)


def complain(sentence: str) -> None:
    """One line on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(f"robustft: {sentence}", markup=False)
