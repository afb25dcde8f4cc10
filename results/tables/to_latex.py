"""Blocks as LaTeX for a paper: a table environment each, with booktabs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from .blocks import Block, Cell, Heading, Notes, Table, Text

PREAMBLE = r"""% Needs \usepackage{booktabs}, \usepackage{graphicx} and \usepackage[T1]{fontenc}.
% A table wider than the line is set smaller: give it a landscape page, or take out columns.
"""
FITTED = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
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
    "≠": r"$\neq$",
    "−": r"$-$",
    "–": "--",
    "×": r"$\times$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "§": r"\S{}",
    "¶": r"\P{}",
    "‖": r"$\Vert$",
    "◊": r"$\diamond$",
    "△": r"$\triangle$",
    "⊕": r"$\oplus$",
    "♯": r"$\sharp$",
    "…": r"\dots{}",
    "→": r"$\rightarrow$",
    "·": r"$\cdot$",
    "²": "$^2$",
    "°": r"$^\circ$",
}
SIGNS |= {
    letter: f"$\\{name}$"
    for letters, names in (
        ("αβγδεζηθικλμ", "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu"),
        ("νξπρστυφχψω", "nu xi pi rho sigma tau upsilon phi chi psi omega"),
        ("ΓΔΘΛΞΠΣΥΦΨΩ", "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"),
    )
    for letter, name in zip(letters, names.split(), strict=True)
}
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0308": '"', "\u030c": "v", "\u0327": "c"}
CONTROL = "[\x00-\x1f\x7f\x85\u2028\u2029]"  # a lone carriage return would end the line
LIGATURE = "(?<=[-`',])(?=[-`',])|(?<=[?!])(?=`)"  # two signs that LaTeX would print as one: a long dash, a quote
_SIGN = re.compile("|".join([*map(re.escape, SIGNS), CONTROL, LIGATURE, r"[^\x00-\x7f]"]))


def latex(blocks: Iterable[Block]) -> str:
    """A file to \\input: headings are comments, texts and notes stand in the caption's place below each table."""
    parts = [PREAMBLE]
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"% {escape(block.text)}\n")
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
    lines += [rf"\caption{{{escape(table.caption)}}}", FITTED, rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(escape, table.head)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}%", "}", r"\end{table}", ""])


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    text = rf"\textbf{{{text}}}" if cell.best and text else text
    return f"{text}\\,{escape(cell.sign)}" if cell.sign else text


def escape(text: str) -> str:
    """ASCII that LaTeX prints as the text, on one line; a letter that it has no name for by its number, U+4E2D."""
    text = _SIGN.sub(_written, text)
    # Right after \\ or \item a bracket or a star would be read as an argument.
    return "{}" + text if text.lstrip().startswith(("[", "*")) else text


def _written(match: re.Match[str]) -> str:
    sign = match[0]
    if sign in SIGNS or not sign:
        return SIGNS.get(sign, "{}")  # nothing: between two signs that would be one
    if re.match(CONTROL, sign):
        return " "
    base, accent = unicodedata.normalize("NFD", sign)[0], unicodedata.normalize("NFD", sign)[1:]
    if base.isascii() and accent in ACCENTS:
        return f"\\{ACCENTS[accent]}{{{base}}}"
    return f"U+{ord(sign):04X}"
