"""`robustft data pack`: class folders into shards."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal

import click

from ...host.places import Place
from ...host.printed import counted
from ..console import make_console

TELL_SECONDS = 30.0


@click.group()
def data() -> None:
    """Images on disk."""


@data.command()
@click.argument("folder", type=Place(file_okay=False))
@click.argument("target", type=Place(file_okay=False))
@click.option(
    "--format", "form", type=click.Choice(("tar", "parquet")), required=True, help="WebDataset's, or the hub's."
)
def pack(folder: Path, target: Path, form: Literal["tar", "parquet"]) -> int:
    """Write the images of FOLDER, which holds class folders, as shards in a new folder TARGET.

    Wherever FOLDER is read TARGET can stand in its place. A call that was stopped is gone on with.
    """
    from ....datasets import packing
    from ....datasets.contents import readable

    with _bar(f"{form} of {folder}") as advance:
        made = packing.pack(folder, target, form, advance)
    say = partial(make_console().print, markup=False, soft_wrap=True)
    kept = f", {made.kept} of them by an earlier call" if made.kept else ""
    about = f"{counted(len(made.tree), 'image')}, {readable(made.size)}, in {counted(made.files, 'shard')}{kept}"
    say(f"wrote {about}: {target}")
    count, first = made.tree.passed
    if count:
        say(f"{counted(count, 'entry', 'entries')} passed over, no images in a class folder, as {first}")
    if made.empty:
        say(f"not in the shards: {counted(len(made.empty), 'class folder')} without an image, as {made.empty[0]}")
    if form == "tar" and (merged := made.unlike_webdataset):
        say(
            f"caution: {counted(len(merged), 'image')}, as {merged[0]}, cannot be told apart by other readers of "
            "WebDataset, whose names end at their first dot; robustft reads them. --format parquet has no such limit."
        )
    return 0


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, a line now and then elsewhere; gives the function to call with bytes done and in all."""
    if not sys.stderr.isatty():
        told = [time.monotonic()]

        def tell(done: int, total: int) -> None:
            if time.monotonic() - told[0] > TELL_SECONDS:
                told[0] = time.monotonic()
                print(f"robustft: {title}: {100 * done // max(1, total)} %", file=sys.stderr, flush=True)

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(title)
        yield lambda done, total: bars.update(task, completed=done, total=total)
