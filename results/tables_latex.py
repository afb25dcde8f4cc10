"""Blocks as LaTeX for a paper: a table environment each, with booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .blocks import Block, Cell, Heading, Notes, Table, Text

PREAMBLE = r"""% Needs \usepackage{booktabs} and \usepackage[T1]{fontenc}; for pdflatex from before 2018 also
% \usepackage[utf8]{inputenc}. Wide tables: set in a landscape page, or take out columns.
"""
SIGNS = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "≈": r"$\approx$",
    "−": r"$-$",
    "–": "--",
    "×": r"$\times$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "‖": r"$\Vert$",
    "Δ": r"$\Delta$",
}
CONTROL = "[\x00-\x1f\x7f\x85\u2028\u2029]"  # a lone carriage return would end the line
LIGATURE = "(?<=[-`',])(?=[-`',])|(?<=[?!])(?=`)"  # two signs that LaTeX would print as one: a long dash, a quote
_SIGN = re.compile("|".join([*map(re.escape, SIGNS), CONTROL, LIGATURE]))


def latex(blocks: Iterable[Block]) -> str:
    """A file to \\input: headings are comments, texts and notes stand in the caption's place below each table."""
    parts = [PREAMBLE]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append("% " + " ".join(block.text.split()) + "\n")
        elif isinstance(block, Text):
            parts.append(escape(block.text) + "\n")
        elif isinstance(block, Notes):
            items = "\n".join(rf"\item {escape(item)}" for item in block.items)
            parts.append("\\begin{itemize}\n" + items + "\n\\end{itemize}\n")
        elif isinstance(block, Table):
            parts.append(_table(block))
    return "\n".join(parts)


def _table(table: Table) -> str:
    columns = "".join("r" if i in table.numbers else "l" for i in range(len(table.head)))
    lines = [r"\begin{table}[ht]", r"\centering", r"\footnotesize", r"\setlength{\tabcolsep}{3pt}"]
    lines += [rf"\caption{{{escape(table.caption)}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(escape, table.head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best and text else text
    return f"{text}\\,{escape(cell.sign)}" if cell.sign else text


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, on one line; other letters than those above are left to the font."""
    text = _SIGN.sub(lambda match: SIGNS.get(match[0], " " if match[0] else "{}"), text)
    # Right after \\ or \item a bracket or a star would be read as an argument.
    return "{}" + text if text.lstrip().startswith(("[", "*")) else text
