"""Blocks as one plain HTML page: no script, nothing loaded; for reading and for pasting."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from .blocks import Block, Cell, Heading, Notes, Table, Text

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem; max-width: 110rem; }
p, li { max-width: 50rem; }
div { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; margin: 0.5rem 0; }
th, td { padding: 0.15rem 0.6rem; text-align: left; }
.n { text-align: right; }
thead th { border-bottom: 1px solid; }
tbody tr:last-child td { border-bottom: 1px solid; }
caption { text-align: left; font-size: 0.85em; opacity: 0.75; }
"""


def html(blocks: Iterable[Block], title: str = "Leaderboard") -> str:
    """A page that needs no other file; hostile names stay text."""
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
    ]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"<h{block.level}>{escape(block.text)}</h{block.level}>")
        elif isinstance(block, Text):
            parts.append(f"<p>{escape(block.text)}</p>")
        elif isinstance(block, Notes):
            parts.append("<ul>\n" + "\n".join(f"<li>{escape(item)}</li>" for item in block.items) + "\n</ul>")
        elif isinstance(block, Table):
            parts.append(_table(block))
    return "\n".join([*parts, "</body>\n</html>\n"])


def _table(table: Table) -> str:
    def place(i: int) -> str:
        return ' class="n"' if i in table.numbers else ""

    head = "".join(f'<th scope="col"{place(i)}>{escape(title)}</th>' for i, title in enumerate(table.head))
    lines = [f"<div><table>\n<caption>{escape(table.caption)}</caption>\n<thead><tr>{head}</tr></thead>\n<tbody>"]
    for row in table.rows:
        lines.append("<tr>" + "".join(f"<td{place(i)}>{_cell(cell)}</td>" for i, cell in enumerate(row)) + "</tr>")
    return "\n".join([*lines, "</tbody>\n</table></div>"])


def _cell(cell: Cell) -> str:
    text = f"<b>{escape(cell.text)}</b>" if cell.best and cell.text else escape(cell.text)
    return f"{text}&nbsp;{escape(cell.sign)}" if cell.sign else text
