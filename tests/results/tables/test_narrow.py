"""A narrow terminal: no heading is broken inside a word, on a board and in any other table."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from robustft.benchmarks.commands.console import Terminal
from robustft.results.records import records
from robustft.results.tables import leaderboard


def console(width, kind=Console):
    return kind(width=width, file=io.StringIO(), color_system=None, highlight=False, markup=False, emoji=False)


@pytest.fixture(scope="module")
def reference():
    return records.gather_reference("digits")


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("width", [34, 40, 60, 80, 200])
def test_every_heading_of_a_board_is_whole(reference, width, published):
    screen, board = console(width), leaderboard.build(reference, reference, published=published)
    parts = list(board.to_console().__rich_console__(screen, screen.options))
    tables = [part for part in parts if isinstance(part, Table)]
    assert tables
    for table in tables:
        lines = [line.rstrip() for line in io_text(screen, table).splitlines()]
        assert max(map(len, lines)) <= width
        words = {word for line in lines for word in line.split()}
        assert {word for column in table.columns for word in column.header.split()} <= words
        assert len(table.columns) < 2 or {"ID", "method"} <= words


def io_text(screen, part):
    screen.file = io.StringIO()
    screen.print(part)
    return screen.file.getvalue()


def test_a_narrow_board_says_what_each_row_is_of(reference):
    text = io_text(console(40), leaderboard.build([], reference).to_console())
    assert "(reference)" in text and "OOD" in text and "provenance" not in text


def test_another_table_is_printed_row_by_row_where_its_headings_have_no_room():
    table = Table("benchmark", "backbone", "planned", title="what there is")
    table.add_row("digits", "tiny-vit-p8", "3")
    table.add_row("imagenet", "", "1")
    wide, narrow = (io_text(console(width, Terminal), table) for width in (80, 24))
    assert "benchmark" in wide and "│" in wide
    assert narrow.split("\n")[:4] == ["what there is", "digits", "  backbone tiny-vit-p8; ", "planned 3"]
    assert "  planned 1" in narrow
