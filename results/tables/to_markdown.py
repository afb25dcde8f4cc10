"""Blocks as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .blocks import Block, Cell, Heading, Notes, Table, Text


def markdown(blocks: Iterable[Block]) -> str:
    """A page; hostile names stay text."""
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append("#" * block.level + " " + escape(block.text))
        elif isinstance(block, Text):
            parts.append(block.text if block.ours else escape(block.text))
        elif isinstance(block, Notes):
            parts.append("\n".join(f"- {escape(item)}" for item in block.items))
        elif isinstance(block, Table):
            parts.append("\n".join(_table(block)))
    return "\n\n".join(parts) + "\n"


def _table(table: Table) -> list[str]:
    rule = "".join("---:|" if i in table.numbers else "---|" for i in range(len(table.head)))
    lines = ["| " + " | ".join(map(escape, table.head)) + " |", "|" + rule]
    return lines + ["| " + " | ".join(map(number, row)) + " |" for row in table.rows]


def number(cell: Cell) -> str:
    """A cell with its sign, the best of a column in bold."""
    text = escape(cell.text)
    text = f"**{text}**" if cell.best and text else text
    return f"{text} {cell.sign}" if cell.sign else text


def escape(text: str) -> str:
    """Text that Markdown, and the HTML it becomes, show as it is."""
    text = re.sub(r"([\\|*`$\[\]])|(?<!\w)(_)|(_)(?!\w)", lambda m: "\\" + m[0], text)
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
