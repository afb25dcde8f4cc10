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
