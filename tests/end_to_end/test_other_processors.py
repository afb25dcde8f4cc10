"""What another processor rounds otherwise is told from what is wrong: pictures, cells, and runs made again."""

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import processors
import pytest
from make_records import make_record
from PIL import Image
from runs_kit import after, call, never, plan_runs, program, write_suite

from robustft.benchmarks.commands.boards.rerun_verdict import judge
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.host import environment
from robustft.results.audit import bundle
from robustft.results.audit.bundle import ROUNDED
from robustft.results.audit.redrawn import png_finding, svg_finding
from robustft.results.plots import gallery
from robustft.results.plots.figure_data import Material
from robustft.results.plots.style import save
from robustft.results.records import manifest
from robustft.results.records.records import REFERENCE, gather_reference

CARD = """
import hashlib, json
from robustft.datasets.catalogue import get
from robustft.datasets.digits import make_splits, splits
found = hashlib.sha256()
data = get("digits")
for name in data.painters:
    found.update(data.eval_data(name).images(0, 600).numpy().tobytes())
found.update(data.train_images([(epoch, image) for epoch in range(3) for image in range(200)], 1).numpy().tobytes())
fingerprints = [get(name).card.fingerprint for name in ("digits", "digits_uncorrelated")]
print(json.dumps([*fingerprints, found.hexdigest(), make_splits() == splits()]))
"""


@pytest.fixture(scope="module")
def drawn():
    return gallery.make("forgetting", Material(reference=tuple(gather_reference("forgetting"))))


def moved(svg, by):
    """The picture with every coordinate another, and so with other hashes as names of its clip paths."""
    text = re.sub(rb"(?<=[ \"])\d+\.\d+", lambda match: b"%.6f" % (float(match[0]) + by), svg)
    return re.sub(rb"\bp([0-9a-f]{10})\b", rb"pf\1", text)


@pytest.mark.programs
def test_data_of_the_embedded_benchmark_are_the_same_on_every_processor():
    with contextlib.redirect_stdout(io.StringIO()) as here:
        exec(CARD, {})
    plain = os.environ | processors.plain()
    there = subprocess.run([sys.executable, "-c", CARD], env=plain, check=True, capture_output=True, text=True)
    assert here.getvalue() == there.stdout and json.loads(there.stdout)[-1] is True


def test_a_picture_with_other_last_digits_is_the_same(drawn):
    svg = drawn[".svg"]
    assert svg_finding("a.svg", svg, svg) is None
    assert svg_finding("a.svg", svg.replace(b"\n", b"\r\n"), svg) is None
    found = svg_finding("a.svg", moved(svg, 2e-6), svg)
    assert not found.wrong and str(found) == "a.svg: numbers in it differ by up to 2e-06" and found.reason == ROUNDED


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda svg: moved(svg, 0.5), "but they give"),
        (lambda svg: svg.replace(b"#c51b7d", b"#c51b7e", 1), "but they give"),
        (lambda svg: re.sub(rb"(\d+\.\d+) (?=\nz)", rb"9.5 ", svg, count=1), "but they give"),
        (lambda svg: svg.replace(b"<!-- new task", b"<!-- old task", 1), "but they give"),
        (lambda svg: svg.replace(b'href="#DejaVuSans-11"', b'href="#DejaVuSans-13"', 1), "but they give"),
        (lambda svg: re.sub(rb"<use [^>]*>", b"", svg, count=1), "elements, but they give"),
        (lambda svg: re.sub(rb"fill: url\(#(h\w+)\)", rb"fill: none", svg, count=1), "but they give"),
        (lambda svg: svg[:-9], "it is no SVG ("),
    ],
)
def test_a_picture_of_other_numbers_words_or_colours_is_another(drawn, change, words):
    svg = drawn[".svg"]
    assert change(svg) != svg
    found = svg_finding("a.svg", change(svg), svg)
    assert found.wrong and found.what.startswith("is another picture than its runs give") and words in found.what


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_png_may_have_its_lines_a_pixel_aside_and_other_greys_and_nothing_more(drawn):
    theirs = np.asarray(Image.open(io.BytesIO(drawn[".png"])).convert("RGB"))
    again = png(theirs)  # written otherwise, with the same pixels
    assert again != drawn[".png"] and png_finding("a.png", again, drawn[".png"]) is None
    grey = np.clip(theirs.astype(int) + np.random.default_rng(0).integers(-9, 10, theirs.shape), 0, 255)
    for other in (np.roll(theirs, (1, -1), (0, 1)), grey.astype(np.uint8)):
        found = png_finding("a.png", png(other), drawn[".png"])
        assert not found.wrong and "shows the same, in " in found.what and found.reason == ROUNDED
    erased, added = theirs.copy(), theirs.copy()
    erased[:, 300:330] = 255
    added[5:8, 5:8] = 0
    for other in (erased, added, theirs[..., ::-1], np.roll(theirs, 9, 0), theirs[:-1], np.full_like(theirs, 255)):
        found = png_finding("a.png", png(np.ascontiguousarray(other)), drawn[".png"])
        assert found.wrong and found.what.startswith("is another picture than its runs give: "), other.shape
    assert "no PNG that can be read" in png_finding("a.png", b"x", drawn[".png"]).what


def test_verify_tells_what_is_rounded_otherwise_from_what_is_wrong(drawn, tmp_path, capsys):
    out = tmp_path / "forgetting"
    shutil.copytree(REFERENCE / "forgetting", out, ignore=shutil.ignore_patterns("*.svgz", "*.png"))
    image = np.roll(np.asarray(Image.open(io.BytesIO(drawn[".png"]))), 1, 0)
    save({".svg": moved(drawn[".svg"], 1e-6), ".png": png(image)}, out / "forgetting")
    manifest.write_pictures(out)
    board = out / "leaderboard.csv"
    text = board.read_text()
    number = re.search(r"(?<=,)\d+\.\d{3}[1-8](?=,)", text)[0]
    board.write_text(text.replace(number, f"{float(number) + 0.0001:.4f}", 1))
    assert call("verify", out) == 0
    said = capsys.readouterr().out
    assert "cells of the board checked: all hold\n" in said and "forgetting.png, forgetting.svg\n" in said
    assert f"{ROUNDED}: leaderboard.csv: 1 of 840 cells differ in their last digit, the first: " in said
    assert f"{ROUNDED}: forgetting.svg: numbers in it differ by up to 1e-06\n" in said
    assert f"{ROUNDED}: forgetting.png: shows the same, in " in said
    board.write_text(text.replace(number, f"{float(number) + 0.0003:.4f}", 1))
    assert call("verify", out) == 1
    assert "but its samples give" in capsys.readouterr().out


@pytest.mark.parametrize(
    "one, other, near",
    [
        ("81.2500", "81.2501", True), ("81.2500", "81.2502", False), ("0.123", "0.12", False), ("0.121", "0.12", True),
        ("1.23e-05", "1.24e-05", True), ("1.23e-05", "1.3e-05", False), ("1.2e-05", "1.21e-05", True),
        ("1.2e-07", "1.2e-09", False), ("5", "4", False), ("1", "0.999", True), ("nan", "0.1", False),
        ("", "0.1", False), ("yes", "no", False),
    ],
)  # fmt: skip
def test_cells_differ_in_their_last_digit_or_are_others(one, other, near):
    assert bundle.differ_in_last_digit(one, other) is bundle.differ_in_last_digit(other, one) is near


def made_elsewhere(off, weights="a", **more):
    record = make_record("zero_shot", seed=0, accuracy=0.8)
    record["info"] = {"weights_sha256": "a" * 64}
    record["environment"] = {"cpu": "X", "device": "cpu", "packages": {}, "commit": "0" * 40, "vectors": "AVX2"}
    made = json.loads(json.dumps(record))
    made["info"] = {"weights_sha256": weights * 64}
    made["environment"] |= more
    made["sets"]["writers"]["accuracy"] += off
    return record, made


def test_the_same_weights_elsewhere_may_be_evaluated_with_other_last_bits():
    record, made = made_elsewhere(0.002, vectors="DEFAULT")
    holds, text = judge(record, made, [record])
    assert holds and "elsewhere (vectors DEFAULT, recorded AVX2), where the same final weights are evaluated" in text
    assert text.endswith("on writers, 0.20 points off of 0.50 (the same weights)")
    assert not judge(*made_elsewhere(0.006, vectors="DEFAULT"), [record])[0]
    assert not judge(*made_elsewhere(0.002), [record])[0]  # here, where it must be the same
    del record["environment"]["vectors"]  # as records before did not say it
    assert not judge(record, made, [record])[0]


def test_a_run_that_several_processors_worked_on_need_not_be_the_same_bit_for_bit():
    record, made = made_elsewhere(0.002, "b")
    assert not judge(record, made, [record])[0]
    record["environment"]["processors"] = ["X with AVX2", "Y with AVX512"]
    holds, text = judge(record, made, [record])
    assert holds and "elsewhere (recorded on several processors: X with AVX2, Y with AVX512)" in text


def test_a_record_names_every_kind_of_processor_that_worked_on_its_run(tmp_path, monkeypatch):
    (folder,) = plan_runs(tmp_path, "flyp", "limit=16")
    work(folder.path, Options(checkpoint_seconds=0), after(2))
    (first,) = folder.read_state()["processors"]
    assert first == f"{environment.describe()['cpu']} with {environment.vectors()}"
    monkeypatch.setattr(environment, "vectors", lambda: "NEON")
    assert work(folder.path, Options(), never)["event"] == "done"
    about = json.loads(folder.record.read_text())["environment"]
    assert about["vectors"] == "NEON" and about["processors"] == sorted([first, first.rpartition(" ")[0] + " NEON"])


def test_the_record_of_a_run_on_one_kind_of_processor_names_it_once(tmp_path):
    (folder,) = plan_runs(tmp_path, "zero_shot", "limit=16")
    work(folder.path, Options(), never)
    about = json.loads(folder.record.read_text())["environment"]
    assert about["vectors"] == environment.vectors() and "processors" not in about


@pytest.mark.programs
def test_a_run_made_again_with_other_vector_extensions_is_judged_as_made_elsewhere(tmp_path):
    (folder,) = plan_runs(tmp_path, "ft", "limit=16")
    assert work(folder.path, Options(), never)["event"] == "done"
    assert call("bundle", tmp_path / "out", "--benchmark", write_suite(tmp_path), "--runs", tmp_path / "runs") == 0
    process = program("verify", tmp_path / "out", "--rerun", "any", env=os.environ | processors.plain())
    said = process.communicate()[0]
    assert process.returncode == 0 and said.rstrip().endswith(": holds")
    assert f"elsewhere (vectors DEFAULT, recorded {environment.vectors()}), where " in said or "bit for bit" in said
