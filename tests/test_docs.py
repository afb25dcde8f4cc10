"""What the documentation's page on architecture says is so, and its picture has every room."""

import ast
import re
import xml.etree.ElementTree as xml

import house
import pytest

PAGE = (house.ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
WAYS = {
    title: re.findall(r"^\d+\. `([\w/]+\.py)` `(\w+)`: ", text, re.M)
    for title, text in re.findall(r"^### From `([^`]*)` to .*?\n(.*?)(?=^#|\Z)", PAGE, re.M | re.S)
}


def test_the_page_follows_three_commands():
    assert set(WAYS) == {"run", "sweep --executor slurm", "leaderboard"}
    assert PAGE.count("\n1. `") == 3 and sum(map(len, WAYS.values())) == len(re.findall(r"^\d+\. `", PAGE, re.M))


@pytest.mark.parametrize("command", WAYS)
def test_a_command_is_followed_in_at_most_a_dozen_hops_that_are_there(command):
    hops = WAYS[command]
    assert 1 < len(hops) <= 12
    graph, seen = house.module_graph(), []
    for file, function in hops:
        path = house.ROOT / file
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, file
        module = house.dotted(path)
        # From a hop before: imported there, or named in a string, as a process is that is started.
        told = [name for name in seen if module in graph[name] or module in house.MODULES[name].read_text()]
        assert not seen or module in seen or told, f"{command}: none of the hops before knows {file}"
        seen.append(module)


def test_the_picture_and_the_table_have_every_room():
    drawn = "".join(xml.fromstring(house.picture()).itertext())
    table = house.table()
    for folder, lines in house.ROOMS.items():
        for room in (room for line in lines for room in line):
            assert f"{folder}/{room.replace('.', '/')}: " in drawn
            assert f"| `{folder}/{room.replace('.', '/')}` | {house.purpose(folder, room)[:15]}" in table
            assert house.purpose(folder, room)


def test_arrows_that_another_way_tells_are_left_out():
    graph = {"a": {"b", "c", "d"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert house.direct(graph) == {"a": {"b"}, "b": {"c"}, "c": {"d"}, "d": set()}


def test_the_lines_in_the_readme_are_those_of_the_committed_board():
    """What the first command prints: reference rows to the digit, a local one nearly."""
    readme = (house.ROOT / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```text\n(method .*?)\n```", readme, re.M | re.S)
    head, title, *rows = [re.split(r"\s{2,}", line.strip()) for line in block.splitlines()]
    board = (house.ROOT / "results" / "reference" / "digits" / "leaderboard.md").read_text(encoding="utf-8")
    first = board.split(f"\n#### {title[0].strip('[]')}\n")[1].split("\n#### ")[0]
    lines = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in first.splitlines() if line[:1] == "|"
    ]
    kept = {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}
    assert len(rows) == 5 and {row[1] for row in rows} == {"local", "reference"}
    for method, provenance, _, *cells in rows:
        told = [kept[method][column].replace(" ", "") for column in head[3:]]
        if provenance == "reference":
            assert cells == told, method
        else:
            for mine, other in zip(cells, told, strict=True):
                value, expected = float(mine.split("±")[0].rstrip("≈")), float(other.split("±")[0].rstrip("≈"))
                assert abs(value - expected) <= (0.5 if value > 1 else 0.01), method
