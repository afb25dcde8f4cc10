"""Commands that a sentence prints as a remedy, made so that they work as they are printed: in the place asked for.

Whoever writes "run `robustft sweep NAME --method ft`" says what to do and not where: the sentence is completed where it
is shown, by the suite and the flags of place that the command line in progress was given.
"""

import os
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import click

OF_PLACE = ("include", "data", "runs")
"""Options that a remedy keeps: what is there, and where."""
SUITE = re.compile(r"(?<= )(BENCHMARK|SUITE)(?= |$)")
"""Stands in a printed command for a suite, where the sentence does not know which one was asked for."""
_PRINTED = re.compile(r"`robustft (?P<name>[a-z][a-z-]*)(?P<rest>| [^`]*)`")


@dataclass(frozen=True)
class _Typed:
    """A command line.

    Attributes:
        commands: every command there is, by name.
        suite: as it was typed; "" for none.
        flags: name of an option of place -> its values, as they were typed.
    """

    commands: dict[str, click.Command] = field(default_factory=dict)
    suite: str = ""
    flags: dict[str, tuple[str, ...]] = field(default_factory=dict)


_typed = _Typed()


@contextmanager
def completing(program: click.Group, arguments: list[str]) -> Iterator[None]:
    """Here sentences are completed by this command line."""
    global _typed
    before, _typed = _typed, _read(program, arguments)
    try:
        yield
    finally:
        _typed = before


def _read(program: click.Group, arguments: list[str]) -> _Typed:
    commands = dict(program.commands)
    start = next((i for i, word in enumerate(arguments) if not word.startswith("-")), None)
    command = None if start is None else commands.get(arguments[start].replace("_", "-"))
    if start is None or command is None:
        return _Typed(commands)
    try:
        found, _, _ = command.make_parser(click.Context(command)).parse_args(list(arguments[start + 1 :]))
    except click.ClickException:
        return _Typed(commands)  # the command itself says what is wrong

    def values(key: str) -> tuple[str, ...]:
        given = found.get(key)
        every = given if isinstance(given, list | tuple) else (given,)
        return tuple(value for value in every if isinstance(value, str))

    suites = [*values("benchmark"), *values("benchmarks"), *values("prefetch")]
    flags = {key: given for key in OF_PLACE if (given := values(key))}
    if os.environ.get("ROBUSTFT_RUNS"):
        flags.setdefault("runs", (os.environ["ROBUSTFT_RUNS"],))
    return _Typed(commands, suites[0] if len(suites) == 1 else "", flags)


def counted(count: int, noun: str, several: str = "") -> str:
    """1 run, 2 runs; `several` where its plural is another than with an s."""
    return f"{count} {noun if count == 1 else several or noun + 's'}"


def complete(sentence: str) -> str:
    """The sentence, its `robustft ...` commands with the suite and the flags of place that were asked for.

    A command keeps what it says itself, and gets no flag that it does not have.
    """
    return _PRINTED.sub(_completed, sentence)


def _completed(match: re.Match[str]) -> str:
    command = _typed.commands.get(match["name"])
    if command is None:
        return match[0]
    suite = shlex.quote(_typed.suite)
    rest = SUITE.sub(lambda _: suite, match["rest"]) if _typed.suite else match["rest"]
    first = command.params[0] if command.params else None
    takes_suite = isinstance(first, click.Argument) and first.name == "benchmark"
    word = next(iter(rest.split()), "--")
    if takes_suite and _typed.suite:
        if word.startswith("-") and first is not None and first.required:
            rest = f" {suite}{rest}"
        elif word == Path(_typed.suite).name:  # a file that lies elsewhere
            rest = f" {suite}{rest.removeprefix(f' {word}')}"
    for option in command.params:
        if isinstance(option, click.Option) and not set(option.opts) & set(rest.split()):
            usual = "" if option.default is None else str(option.default)
            given = [value for value in _typed.flags.get(option.name or "", ()) if value != usual]
            rest += "".join(f" {option.opts[0]} {shlex.quote(value)}" for value in given)
    return f"`robustft {match['name']}{rest}`"
