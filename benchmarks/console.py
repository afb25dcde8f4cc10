"""Where commands print."""

from rich.console import Console


def make_console(stderr: bool = False) -> Console:
    """A console that wraps nothing when its output is no terminal."""
    plain = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}  # a path may hold [a] or :a:
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=200, no_color=True)
