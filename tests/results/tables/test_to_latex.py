"""The LaTeX of a board, read back by a small parser of its own: nothing may be lost, and nothing be more than text."""

import re
import unicodedata
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from make_records import make_record

from robustft.results.tables import to_latex
from robustft.results.tables.blocks import Notes, Table
from robustft.results.tables.leaderboard import build
from robustft.results.tables.to_latex import ACCENTS, SIGNS, escape, latex

HOSTILE = [
    r"\input{/etc/passwd}",
    r"a\\b & c \\ [2em] \hline",
    r"\end{tabular}\end{document}",
    "100 % # of $x_1^2$ {~}",
    "*starred",
    "[optional]",
    "]{}[",
    "a\nb\r\nc\rd\te\x0bf\x00g\u2028h",
    "a -- b --- c ,, ' `` '' <<q>> ?` !`",
    '| < > " ± ≈ − – × † ‡ § ¶ ‖ Δ α → … λ² ω',
    "caf\u00e9 ma\u00f1ana \u010c 中 \u200b 𝛼",
]
COMMANDS = {
    *("begin", "end", "centering", "footnotesize", "setlength", "tabcolsep", "caption", "toprule", "midrule"),
    *("bottomrule", "textbf", "item", ","),
    *ACCENTS.values(),
    *(name for text in SIGNS.values() for name in re.findall(r"\\([a-zA-Z]+|.)", text)),
}
"""All that a board may ask LaTeX to do."""
TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|[{}&$]|[^\\{}&$]+", re.S)
FITTED = re.compile(re.escape(to_latex.FITTED) + r"\n(\\begin\{tabular\}.*?\n\\end\{tabular\})%\n\}\n", re.S)
"""A tabular in the box that makes it no wider than the line."""
BACK = {text.strip("{}").removesuffix("{}"): sign for sign, text in SIGNS.items() if len(sign.strip()) == 1}


class Broken(AssertionError):
    """What no LaTeX would set as it is meant."""


@dataclass
class Tabular:
    columns: str
    rows: list[list[str]] = field(default_factory=list)


def parse(text: str) -> tuple[list[Tabular], list[str]]:
    """The tables, rows as the text that is printed, and the items of lists; Broken where something does not close."""
    if re.search(r"[\x00-\x09\x0b-\x1f\x7f\x85\u2028\u2029]", text):
        raise Broken("a control character")
    text = FITTED.sub(r"\1\n", text)  # what is left of a box that does not close is a command that no board may use
    text = re.sub(r"(?<!\\)(?:\\\\)*%.*", "", text)
    open_, tables, items = [], [], []
    for kind, name, body in environments(text, open_):
        if kind == "tabular":
            tables.append(rows_of(name, body))
        elif kind == "itemize":
            items += [printed(item) for item in re.split(r"\\item(?![a-zA-Z])\s*", body)[1:]]
    return tables, items


def environments(text, open_):
    """(kind, columns, body) of every tabular and itemize, after a look at the whole: braces, maths and nesting."""
    depth, maths, places = 0, False, []
    for match in TOKEN.finditer(text):
        token = match[0]
        if token in "{}":
            depth += 1 if token == "{" else -1
            if depth < 0:
                raise Broken(f"a closing brace too many near {text[match.start() - 40 : match.end()]!r}")
        elif token == "$":
            maths = not maths
        elif token in (r"\begin", r"\end"):
            kind = re.match(r"\{(\w+)\}(?:\[ht\])?(?:\{([lr]+)\})?", text[match.end() :])
            if kind is None or maths or depth:
                raise Broken(f"{token} in a strange place")
            if token == r"\begin":
                open_.append(kind[1])
                places.append((match.end() + kind.end(), kind[2]))
                continue
            if not open_ or open_.pop() != kind[1]:
                raise Broken(f"\\end{{{kind[1]}}} closes another environment")
            start, columns = places.pop()
            yield kind[1], columns, text[start : match.start()]
        elif token[0] == "\\" and token != "\\\\" and token[1:] not in COMMANDS:
            raise Broken(f"the command {token}")
        elif token[0] != "\\" and re.search("[#^_~]", token) and not maths:
            raise Broken(f"a bare sign in {token!r}")
    if depth or maths or open_:
        raise Broken(f"left open: {depth} braces, maths {maths}, {open_}")


def rows_of(columns, body):
    """Lines end in a double backslash and have one & less than columns; what follows must be no argument of the end."""
    table, rows = Tabular(columns), re.split(r"\\\\", body)
    if rows.pop().replace(r"\midrule", "").strip() != r"\bottomrule":
        raise Broken("text behind the last row")
    for row in rows:
        row = row.lstrip()
        while row.startswith((r"\toprule", r"\midrule")):
            row = row[8:].lstrip()
        if row.startswith(("[", "*")):
            raise Broken(f"an argument of the row's end: {row[:20]!r}")
        cells = re.split(r"(?<!\\)&", row)
        if len(cells) != len(columns):
            raise Broken(f"{len(cells)} cells in {len(columns)} columns: {row!r}")
        table.rows.append([printed(cell) for cell in cells])
    return table


def printed(text: str) -> str:
    """What is set: the signs back, bold and empty groups gone."""
    text = text.strip()
    if text.startswith("["):
        raise Broken(f"an optional argument: {text[:20]!r}")
    for written, sign in sorted(((text, sign) for sign, text in SIGNS.items()), key=lambda pair: -len(pair[0])):
        if sign not in "\\{}":
            text = text.replace(written, sign)
    text = re.sub(r"\\textbf\{((?:[^{}\\]|\\.[a-z]*(?:\{\})?|\{\})*)\}", r"\1", text)
    text = re.sub(r"\\([`'^~\"vc])\{(\w)\}", lambda match: accented(*match.groups()), text)
    text = text.replace(r"\,", " ").replace(r"\textbackslash{}", "\0").replace(r"\{", "\1").replace(r"\}", "\2")
    text = text.replace("{}", "")
    if "\\" in text or "{" in text:
        raise Broken(f"not read back: {text!r}")
    return text.replace("\0", "\\").replace("\1", "{").replace("\2", "}")


def accented(command, letter):
    (mark,) = (mark for mark, name in ACCENTS.items() if name == command)
    return unicodedata.normalize("NFC", letter + mark)


def one_line(text):
    """A name as a line of a table shows it: letters that LaTeX has no name for by their number."""
    for letter in ("中", "\u200b", "𝛼"):
        text = text.replace(letter, f"U+{ord(letter):04X}")
    return re.sub(r" +", " ", re.sub(r"[\x00-\x1f\x7f\x85\u2028\u2029]", " ", text)).strip()


def hostile_board():
    records = [make_record("zero_shot", rules=(), accuracy=0.7)]
    for i, name in enumerate(HOSTILE):
        records += [make_record(name, seed=seed, accuracy=0.8 + 0.01 * i) for seed in (0, 1)]
        note = {"hyper": {"note": name}, "sources": {"note": "--set"}}
        records += [make_record("ft", f"{name}-x", rules=(), dirty=True, **note)]
    return build(records)


def test_every_table_has_its_columns_in_every_row_whatever_a_method_is_called():
    board = hostile_board()
    assert board.to_latex().isascii()
    tables, items = parse(board.to_latex())
    wanted = [block for block in board.blocks if isinstance(block, Table)]
    assert len(tables) == len(wanted) >= 3
    for table, block in zip(tables, wanted, strict=True):
        assert table.columns.count("r") == len(block.numbers)
        rows = [[*block.head], *([f"{cell.text} {cell.sign}".strip() for cell in row] for row in block.rows)]
        assert [[*map(one_line, row)] for row in table.rows] == [[*map(one_line, row)] for row in rows]
    names = {cell for table in tables for row in table.rows for cell in row[:1]}
    assert {one_line(name) for name in HOSTILE} <= {one_line(name) for name in names}
    notes = [item for block in board.blocks if isinstance(block, Notes) for item in block.items]
    assert [*map(one_line, items)] == [*map(one_line, notes)]
    assert any("uncommitted changes" in item for item in items)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_list_and_a_caption_are_text_too(name):
    table = Table(name, ("a",), ())
    tables, items = parse(latex([table, Notes((name,))]))
    assert tables[0].rows == [["a"]] and one_line(items[0]) == one_line(name)


@pytest.mark.parametrize(
    "text",
    [
        r"\begin{table}",
        r"\begin{table}\end{tabular}",
        r"\textbf{a",
        "a}",
        r"\input{x}",
        "a_b",
        r"\begin{tabular}{lr}a & b & c \\ \bottomrule\end{tabular}",
        r"\begin{tabular}{l}a \\ [b] \\ \bottomrule\end{tabular}",
        r"\begin{itemize}\item [b]\end{itemize}",
    ],
)
def test_the_parser_finds_what_is_broken(text):
    with pytest.raises(Broken):
        parse(text)


def test_bold_signs_and_spreads_are_set():
    records = [make_record(name, seed=s, accuracy=0.8 + 0.02 * s) for name in ("a_b", "ft") for s in (0, 1, 2)]
    text = build(records).to_latex()
    assert r"82.0 $\pm$ 2.0" in text and r"\textbf{" in text and r"a\_b" in text
    assert escape("a_b & 5 % ≈ ±") == r"a\_b \& 5 \% $\approx$ $\pm$"
    assert set(SIGNS) >= set("\\&%$#_{}~^")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))  # as st.text(), which tries each of a million
def test_any_text_is_ascii_on_one_line_that_closes(text):
    """What pdflatex's utf8 does not know stops it: no letter is left to it."""
    written = escape(text)
    assert written.isascii() and written.isprintable()
    parse("\\begin{itemize}\n\\item " + written + "\n\\end{itemize}")


def test_a_greek_name_is_set_as_maths():
    record = make_record("wise_ft α=0.5")
    assert r"wise\_ft $\alpha$=0.5" in build([record]).to_latex()
