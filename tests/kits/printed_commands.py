"""Every command that we print: in README and docs, the Makefile, headers of suites and profiles, and --help."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

PROGRAMS = ("make", "robustft", "python", "torchrun", "pip")
"""What a text in `backticks`, or after a # in a suite, begins with if it is a command."""
SHELLS = ("", "sh", "bash", "shell", "console")
"""Languages of a fenced block in which each line is a command, or is explained in a table of the tests."""


@dataclass(frozen=True)
class Printed:
    """A command as a reader would type it, and where we print it."""

    text: str
    where: str


def printed(root: Path) -> list[Printed]:
    """All commands of a checkout, in the order of a reader, each text once."""
    found: dict[str, Printed] = {}
    for command in (*_pages(root), *_makefile(root), *_headers(root), *_help()):
        command = replace(command, text=command.text.removeprefix(".venv/bin/"))  # which a clone has on its PATH here
        found.setdefault(command.text, command)
    return list(found.values())


def _pages(root: Path) -> Iterator[Printed]:
    for page in (root / "README.md", *sorted((root / "docs").glob("**/*.md"))):
        yield from of_markdown(page.read_text(encoding="utf-8"), page.relative_to(root).as_posix())


def of_markdown(text: str, where: str) -> Iterator[Printed]:
    """Lines of its shell blocks, and what stands in backticks and begins with a program."""
    language: str | None = None
    prose: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        fence = re.match(r"\s*```\s*(\w*)", line)
        if fence:
            if language is None:
                yield from _inline("\n".join(prose), where)
                prose = []
            language = fence[1] if language is None else None
        elif language is None:
            prose.append(line)
        elif language in SHELLS and (command := plain(line)):
            yield Printed(command, f"{where}:{number}")
    yield from _inline("\n".join(prose), where)


def _inline(prose: str, where: str) -> Iterator[Printed]:
    for code in re.findall(r"`([^`]+)`", prose):
        text = " ".join(code.split())
        if is_command(text):
            yield Printed(text, where)


def _makefile(root: Path) -> Iterator[Printed]:
    """Each target that `make` lists, and the examples of `make help`."""
    text = (root / "Makefile").read_text(encoding="utf-8")
    yield Printed("make", "Makefile")
    for target in re.findall(r"^([a-z-]+):.*## ", text, re.M):
        yield Printed(f"make {target}", "Makefile")
    for line in re.findall(r'^\t@echo "(.*)"$', text, re.M):
        for example in re.findall(r"\bmake [a-z][^;.]*", line.partition("or pass")[0]):
            yield Printed(example.strip(), "Makefile, help")


def _headers(root: Path) -> Iterator[Printed]:
    """Commands in the comments of suites and profiles: indented lines of their own, and backticks."""
    for folder in ("suites", "profiles"):
        for path in sorted((root / "benchmarks" / folder).glob("*.yaml")):
            where = path.relative_to(root).as_posix()
            comments = re.findall(r"^#(.*)$", path.read_text(encoding="utf-8"), re.M)
            for line in comments:
                if line.startswith("   ") and is_command(line.strip()):
                    yield Printed(_before_words(line), where)
            yield from _inline("\n".join(comments), where)


def _help() -> Iterator[Printed]:
    """Commands in the help of the program and of each of its commands."""
    import click

    from robustft.benchmarks.cli import robustft

    for name, command in (("", robustft), *robustft.commands.items()):
        context = click.Context(command, info_name=f"robustft {name}".strip())
        text = command.get_help(context)
        where = f"robustft {name} --help".replace("  ", " ")
        yield Printed(where, "command line")
        for line in text.splitlines():
            if is_command(line.strip()):
                yield Printed(_before_words(line), where)
        yield from _inline(text, where)


def is_command(text: str) -> bool:
    """Whether a text begins with one of our programs: alone, or followed by what such a program takes."""
    program, _, rest = text.removeprefix("$ ").removeprefix(".venv/bin/").partition(" ")
    if program == "python":
        return rest.startswith("-m robustft")
    if program == "pip":
        return rest.startswith("install")
    return program in PROGRAMS and (bool(rest) or program == "make")


def plain(line: str) -> str:
    """A line without prompt, comment and spaces around; "" where no more is left."""
    text = line.strip().removeprefix("$ ")
    return re.split(r"(?:^|\s+)#", text)[0].strip()


def _before_words(line: str) -> str:
    """The command of a line that says after two spaces what it does."""
    return plain(re.split(r"\s{2,}", line.strip())[0])
