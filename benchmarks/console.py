"""Where commands print, and what they say on stderr beside it."""

from rich.console import Console


def make_console(stderr: bool = False) -> Console:
    """A console that wraps nothing when its output is no terminal."""
    plain = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}  # a path may hold [a] or :a:
    console = Console(**plain)
    return console if console.is_terminal else Console(**plain, width=200, no_color=True)


def complain(sentence: str) -> None:
    """One line on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True, emoji=False).print(f"robustft: {sentence}", markup=False)
