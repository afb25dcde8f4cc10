"""The README says what the committed reference says."""

import csv
import re
from importlib import metadata

from robustft.results.readme import BEGIN, END, PICTURES, README, pictures, renew, table
from robustft.results.records import REFERENCE


def test_the_table_is_that_of_the_committed_reference():
    text = README.read_text(encoding="utf-8")
    assert renew(text, table()) == text


def test_the_differences_in_the_prose_are_those_of_the_committed_reference():
    text = " ".join(README.read_text(encoding="utf-8").split())
    with open(REFERENCE / "digits" / "leaderboard.csv", encoding="utf-8", newline="") as file:
        rows = {(r["method"], r["backbone"]): r for r in csv.DictReader(file) if r["rule"] == "one_se"}

    def between(first, second, column):
        values = [
            float(rows[first, b][f"acc_{column}_percent_mean"]) - float(rows[second, b][f"acc_{column}_percent_mean"])
            for b in {backbone for _, backbone in rows}
        ]
        return f"{min(values):.1f} to {max(values):.1f} points"

    above, below = between("tracer", "flyp", "ood_mean"), between("flyp", "tracer", "id")
    assert f"TRACER is {above} above FLYP in OOD mean for {below} ID" in text
    assert f"and {between('tracer', 'ema', 'ood_mean')} above `ema`" in text
    resolved = dict(re.findall(r"- (tiny-[\w-]+): Smallest OOD-mean difference .*?: ([\d.]+) points", text))
    assert resolved["tiny-vit-p8"] == resolved["tiny-vit-p16"]
    assert f"about {resolved['tiny-vit-p8']} points of OOD mean on the ViTs, {resolved['tiny-rn']} on tiny-rn" in text


def test_the_pictures_are_those_of_the_committed_reference():
    constraints = (README.parent / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.findall(r"^matplotlib==(\S+)", constraints, flags=re.MULTILINE)
    shown = README.read_text(encoding="utf-8")
    for name in PICTURES:
        assert f"(results/reference/digits/{name}.png)" in shown and (REFERENCE / "digits" / f"{name}.png").exists()
    if metadata.version("matplotlib") in pinned:  # another one draws the same numbers with other bytes
        for name, files in pictures():
            assert (REFERENCE / "digits" / f"{name}.svg").read_bytes() == files[".svg"], f"{name}: run `make readme`"


def test_every_file_that_the_readme_names_exists():
    text = README.read_text(encoding="utf-8")
    outside = re.sub(f"{BEGIN}.*{END}", "", text, flags=re.DOTALL)
    paths = re.findall(r"`((?:benchmarks|methods|datasets|backbones|results|tests)/[\w./-]*)`", outside)
    links = re.findall(r"\]\(([\w./-]+)\)", outside)
    generated = {f"results/leaderboard{end}" for end in (".md", ".csv", "_long.csv")} | {"results/report.html"}
    missing = [p for p in [*paths, *links] if p not in generated and not (README.parent / p).exists()]
    assert len(paths) > 5 and not missing
