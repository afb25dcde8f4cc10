"""`robustft doctor` counts what data sets with lists, corruptions and domains should have, and what is there."""

import io

import pytest
from imagenet_kit import WNIDS, picture
from rich.console import Console

from robustft.benchmarks.commands.doctor.doctor import Doctor
from robustft.datasets import domainnet, imagenet_c


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """Prints what doctor says of a dataset below a root, without opening an image."""
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))

    def of(name):
        text = io.StringIO()
        look = Doctor(Console(file=text, width=300), fast=True)
        look.dataset(name)
        cells = [
            [cell.strip() for cell in line.split("│")[1:-1]] for line in text.getvalue().splitlines() if "│" in line
        ]
        return {row[0]: row[1:] for row in cells}, text.getvalue(), look.whole

    return of


def test_each_list_of_domainnet_is_counted(tmp_path, looked):
    base = tmp_path / "domainnet"
    for name, count in (("real_train", 20), ("real_test", 2), ("sketch_test", 1)):
        lines = [f"{name.partition('_')[0]}/bee/{name}{k}.jpg {domainnet.FOLDERS.index('bee')}" for k in range(count)]
        base.mkdir(exist_ok=True)
        (base / f"{name}.txt").write_text("\n".join(lines))
        for line in lines[1:]:
            picture(base / line.rpartition(" ")[0], (9, 9, 9))
    rows, text, whole = looked("domainnet")
    assert rows["train"][:4] == ["19, 17 of them in it", "120906", "1", "345"] and not whole
    assert rows["real"] == ["1", "52041", "1", "345", "not complete"]
    assert rows["sketch"][4] == "missing" and rows["clipart"][4] == "missing"
    assert "found 1 of 2 that are listed, real/bee/real_test0.jpg is missing" in text
    assert "no list" in text and "clipart_test.txt" in text


def test_a_missing_corruption_is_named(tmp_path, looked, monkeypatch):
    for family, names in imagenet_c.CORRUPTIONS.items():
        for name in names:
            for severity in imagenet_c.SEVERITIES:
                if (name, severity) != ("snow", 4):
                    picture(tmp_path / "imagenet-c" / family / name / str(severity) / WNIDS[0] / "a.JPEG", (9, 9, 9))
    monkeypatch.setattr(imagenet_c, "IMAGES", 1)
    monkeypatch.setattr(imagenet_c, "CLASSES", 1)
    rows, text, whole = looked("imagenet_c")
    assert rows["imagenet_c"] == ["74", "75", "1", "1000", "not complete"] and not whole
    assert "imagenet_c snow/4: no folder" in text
