"""The house of this package, read from its files: which module imports which, and the rooms that they stand in.

tests/test_architecture.py asserts it; the documentation's page on architecture shows it.
"""

from __future__ import annotations

import ast
import html
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("benchmarks", "methods", "datasets", "backbones", "results")
MAY_IMPORT = {
    "benchmarks": {"methods", "datasets", "backbones", "results"},
    "methods": {"datasets", "backbones"},
    "datasets": set(),
    "backbones": set(),
    "results": set(),
}
# From the top down: a room imports from rooms below it, never from one above or beside it on the same line.
ROOMS = {
    "benchmarks": (
        ("__main__",),
        ("cli",),
        ("commands.boards", "commands.monitoring", "commands.doctor", "speed"),
        ("python",),
        ("commands",),
        ("executors",),
        ("executors.slurm",),
        ("execution",),
        ("planning",),
        ("planning.suite",),
        ("run_folder",),
        ("maintenance",),
        ("host",),
        ("errors",),
    ),
    "results": (
        ("release",),
        ("audit", "report"),
        ("plots",),
        ("tables",),
        ("published",),
        ("board",),
        ("records",),
        ("metrics", "statistics"),
    ),
}


def sources(*folders: str) -> list[Path]:
    """Every Python file below these folders."""
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(absolute module, whether at import time) for every import of a file."""
    tree, found = tree_of(path), []
    package = ["robustft", *path.relative_to(ROOT).parent.parts]
    late = set()
    for node in ast.walk(tree):
        is_typing = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_typing:
            late |= {id(child) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.append((alias.name, id(node) not in late))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            for alias in node.names:
                found.append((f"{module}.{alias.name}", id(node) not in late))
    return found


def dotted(path: Path) -> str:
    """The name of a file's module below robustft."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {dotted(path): path for path in sources(*FOLDERS)}


@cache
def module_graph() -> dict[str, set[str]]:
    """Module -> modules that it imports, whenever it does: late and typing-only imports are arrows too."""
    graph: dict[str, set[str]] = {name: set() for name in MODULES}
    for name, path in MODULES.items():
        for module, _ in imports(path):
            target = module.removeprefix("robustft.")
            target = target if target in MODULES else target.rpartition(".")[0]
            # A package's __init__ that lists its own modules is no circle: they import siblings, not the package.
            if target in MODULES and target != name and not target.startswith(name + "."):
                graph[name].add(target)
    return graph


def room_of(name: str) -> tuple[str, int, str] | None:
    """(folder, line from the top, room) of a module; None for a folder itself."""
    folder, _, inside = name.partition(".")
    found = [
        (len(room), line, room)
        for line, rooms in enumerate(ROOMS.get(folder, ()))
        for room in rooms
        if inside == room or inside.startswith(room + ".")
    ]
    return (folder, *max(found)[1:]) if found else None


def arrows(folder: str) -> dict[str, set[str]]:
    """Room -> rooms of the same folder that its modules import."""
    found: dict[str, set[str]] = {room: set() for line in ROOMS[folder] for room in line}
    for name, targets in module_graph().items():
        here = room_of(name)
        for there in map(room_of, targets):
            if here and there and here[0] == there[0] == folder and here[2] != there[2]:
                found[here[2]].add(there[2])
    return found


def direct(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph without arrows that a way over others tells already."""

    def reached(name: str) -> set[str]:
        return graph[name].union(*map(reached, graph[name]))

    return {name: targets.difference(*map(reached, targets)) for name, targets in graph.items()}


def purpose(folder: str, room: str) -> str:
    """The first sentence of what a room says of itself."""
    path = ROOT / folder / Path(*room.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(tree_of(path)) or ""
    return " ".join(text.partition("\n\n")[0].split())


def table() -> str:
    """Markdown: every room with what it is for and which rooms of its folder it imports."""
    lines = ["| room | what it is for | imports |", "| --- | --- | --- |"]
    for folder, rows in ROOMS.items():
        known = arrows(folder)
        for room in (room for line in rows for room in line):
            told = purpose(folder, room)
            told = f"{told.partition(':')[0]}." if "|" in told else told  # which ends a cell, also inside of code
            below = ", ".join(f"`{name}`" for name in sorted(known[room])) or "none"
            lines.append(f"| `{folder}/{room.replace('.', '/')}` | {told} | {below} |")
    return "\n".join(lines)


# the picture

WIDE, HIGH, LINE = 118, 34, 62
"""Of a room's box, and from one line of rooms to the next."""


class Box:
    """A rectangle by its middle, with where arrows begin and end."""

    def __init__(self, x: float, y: float, wide: float = WIDE, high: float = HIGH) -> None:
        self.x, self.y, self.wide, self.high = x, y, wide, high

    def drawn(self, text: str, told: str = "", kind: str = "room") -> str:
        """Its SVG."""
        place = f'x="{self.x - self.wide / 2:g}" y="{self.y - self.high / 2:g}"'
        size = f'width="{self.wide:g}" height="{self.high:g}"'
        title = f"<title>{html.escape(told)}</title>" if told else ""
        word = f'<text x="{self.x:g}" y="{self.y + 5:g}">{text}</text>'
        return f'<g class="{kind}">{title}<rect {place} {size} rx="5"/>{word}</g>'


def arrow(one: Box, other: Box, boxes: Iterable[Box]) -> str:
    """SVG of an arrow downwards that goes around the boxes on its way, on the right."""
    start, end, edge = one.y + one.high / 2, other.y - other.high / 2, other.x + other.wide / 2
    passed = [box for box in boxes if one.y < box.y < other.y]
    if not passed or one.x == other.x and all(abs(box.x - one.x) > box.wide / 2 for box in passed):
        middle = (start + end) / 2
        way = f"M{one.x:g},{start:g} C{one.x:g},{middle:g} {other.x:g},{middle:g} {other.x:g},{end - 3:g}"
    elif other.x > one.x:
        way = f"M{one.x + one.wide / 2:g},{one.y:g} Q{other.x:g},{one.y:g} {other.x:g},{end - 3:g}"
    elif other.x == one.x:
        right = edge + 36
        way = f"M{edge:g},{one.y:g} C{right:g},{one.y:g} {right:g},{other.y:g} {edge + 3:g},{other.y:g}"
    else:
        right = one.x + one.wide / 2
        way = f"M{one.x:g},{start:g} C{one.x:g},{start + LINE:g} {right:g},{other.y:g} {edge + 3:g},{other.y:g}"
    return f'<path d="{way}"/>'


def column(folder: str, left: float, wide: float, top: float) -> tuple[Box, list[str]]:
    """The frame of a folder, and its SVG with all rooms in it."""
    rows, known = ROOMS[folder], arrows(folder)
    boxes = {
        room: Box(left + wide * (i + 0.5) / len(line), top + 52 + LINE * row)
        for row, line in enumerate(rows)
        for i, room in enumerate(line)
    }
    high = 52 + LINE * (len(rows) - 1) + 32
    frame = Box(left + wide / 2, top + high / 2, wide, high)
    ways = [arrow(boxes[a], boxes[b], boxes.values()) for a, targets in direct(known).items() for b in sorted(targets)]
    rooms = [
        box.drawn(room.rpartition(".")[2], f"{folder}/{room.replace('.', '/')}: {purpose(folder, room)}")
        for room, box in boxes.items()
    ]
    edge = f'<rect x="{left:g}" y="{top:g}" width="{wide:g}" height="{high:g}" rx="8"/>'
    head = f'<text x="{left + 12:g}" y="{top + 22:g}">{folder}/</text>'
    return frame, [f'<g class="folder">{edge}{head}</g>', *ways, *rooms]


STYLE = """
.house { min-width: 640px; width: 100%; height: auto; font: 14px sans-serif; }
.house text { fill: currentColor; text-anchor: middle; }
.house .folder text { text-anchor: start; font-weight: bold; }
.house rect { fill: var(--md-default-bg-color, white); stroke: currentColor; stroke-width: 1; }
.house .folder rect { fill: currentColor; fill-opacity: 0.05; stroke-opacity: 0.3; }
.house path { fill: none; stroke: currentColor; stroke-opacity: 0.7; marker-end: url(#house-arrow); }
.house .between path { stroke-width: 2; }
.house marker path { fill: currentColor; stroke: none; marker-end: none; }
"""


def picture() -> str:
    """SVG of the five folders and the rooms in two of them, with the arrows that no way over others tells already."""
    upper, drawn = column("benchmarks", 10, 540, 10)
    lower, more = column("results", 640, 290, 10)
    top = lower.y + lower.high / 2
    boxes = {"benchmarks": upper, "results": lower}
    for i, name in enumerate(("methods", "datasets", "backbones")):
        boxes[name] = Box(lower.x, top + 66 + 84 * i, 180, 44)
    ways = []
    between: dict[str, set[str]] = {folder: set() for folder in FOLDERS}
    for name, targets in module_graph().items():
        between[name.partition(".")[0]] |= {target.partition(".")[0] for target in targets}
    for one, targets in between.items():
        for other in sorted(targets - {one}):
            a, b = boxes[one], boxes[other]
            if one == "benchmarks":
                ways.append(f'<path d="M{a.x + a.wide / 2:g},{b.y:g} H{b.x - b.wide / 2 - 4:g}"/>')
            else:
                ways.append(arrow(a, b, [boxes[name] for name in ("methods", "datasets", "backbones")]))
    folders = [boxes[name].drawn(f"{name}/") for name in ("methods", "datasets", "backbones")]
    marker = (
        '<marker id="house-arrow" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="8" markerHeight="8" '
        'markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L8,4 L0,8 Z"/></marker>'
    )
    high = upper.y + upper.high / 2 + 10
    inside = "".join([*drawn, *more, f'<g class="between">{"".join(ways)}</g>', *folders])
    label = "The five folders, the rooms of benchmarks and results, and who imports whom"
    head = f'<svg class="house" role="img" aria-label="{label}" viewBox="0 0 960 {high:g}">'
    style = " ".join(STYLE.split())
    return f"{head}<style>{style}</style><defs>{marker}</defs>{inside}</svg>"
