"""The report: one file, from records alone, that shows what the board says and lets nothing of a record act."""

import base64
import hashlib
import html
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from make_records import make_record
from runs_kit import call

from robustft.results.plots import gallery
from robustft.results.plots.figure_data import Material
from robustft.results.records.records import gather_reference, publish_record
from robustft.results.report.json_packing import pack, unpack
from robustft.results.report.report import Picture, inline_svg, render, write
from robustft.results.tables.cells import cell_text

HOSTILE = "<img src=x onerror=\"alert('1')\">"


def material(**more):
    local = [make_record("zero_shot", rules=(), accuracy=0.7)]
    local += [
        make_record(method, seed=seed, accuracy=0.8 + 0.01 * seed) for method in ("ft", "flyp") for seed in (0, 1)
    ]
    return Material(tuple(local), **more)


def data_of(page):
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1]
    return {"runs": unpack(json.loads(found))}


def cells_of(page):
    return [html.unescape(re.sub(r"<[^>]*>", "", cell)) for cell in re.findall(r"<td[^>]*>.*?</td>", page, re.DOTALL)]


@pytest.fixture(scope="module")
def committed():
    """The reference's runs of digits, and their page."""
    made = Material(reference=tuple(gather_reference("digits")))
    return made, render(made)


def test_the_committed_reference_alone_makes_a_report_that_says_what_the_board_says(committed):
    made, page = committed
    reference = made.reference
    assert page == render(Material(reference=reference))
    shown = cells_of(page)
    for section in made.board.sections:
        for row in section.rows:
            name = row.name.replace("_", "_<wbr>")
            assert f'<th scope="row" data-about="{row.backbone}, {row.provenance}">{name}' in page
            text = cell_text(row, "acc_ood_mean")
            assert any(cell.startswith(text) for cell in shown), text
    assert len(data_of(page)["runs"]) == len(reference)


def test_rows_of_one_method_beside_the_reference_are_told_apart_in_their_first_cells():
    reference = tuple(gather_reference("digits"))
    mine = [record for record in reference if record["method"] == "tracer" and record["seed"] < 3]
    page = render(Material(tuple(mine), reference))
    first = r'data-provenance="(\w+)">\s*<th [^>]*>(.*?)</th>\s*<td>(.*?)</td>\s*<td>(\w+)</td>'
    view = page.partition('<div class="view"')[2].partition('<div class="view"')[0]
    rows = re.findall(first, view, re.DOTALL)
    assert len(rows) == view.count('<th scope="row"') and len(set(rows)) == len(rows)
    assert {name for filtered, name, _, shown in rows if filtered == shown == "local"} == {"tracer"}


def test_the_page_loads_nothing_and_runs_its_own_script_only():
    page = render(material())
    code = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(code) == 1
    digest = base64.b64encode(hashlib.sha256(code[0].encode()).digest()).decode()
    assert f"default-src 'none'; script-src 'sha256-{digest}'" in page
    assert not re.findall(r"<link|<iframe|\bsrc=|@import|url\((?!#)", page)
    assert {found for found in re.findall(r"https?://[^\s\"'<]*", page)} <= {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("bad", [HOSTILE, "</script><script>alert(1)</script>", "a\u2028b & 'c' \"d\" $x_1$"])
def test_names_and_notes_of_a_record_stay_text(bad):
    record = make_record(bad, hyper={"note": bad}, sources={"note": bad})
    record["info"] = {"note": bad}
    page = render(Material((record,)))
    assert html.escape(bad).replace("&quot;", "&#34;").replace("&#x27;", "&#39;") in page
    if "<" in bad:
        assert bad not in page
    (run,) = data_of(page)["runs"].values()
    assert run["record"]["info"]["note"] == run["record"]["method"] == bad


def test_a_long_note_is_clipped_in_its_row_and_whole_on_the_page_of_its_run():
    note = "a long note, " * 100
    page = render(Material((make_record("ft", rules=(), hyper={"note": note}, sources={"note": "--set"}),)))
    assert max(len(cell) for cell in cells_of(page)) < 200
    names = re.findall(r'<th scope="row"[^>]*>(.*?)</th>', page, re.DOTALL)
    assert any("note=a long note" in html.unescape(name) for name in names) and max(map(len, names)) < 200
    (run,) = data_of(page)["runs"].values()
    assert run["record"]["spec"]["hyper"]["note"] == note


def test_a_row_names_the_runs_that_it_is_made_of():
    local = [make_record("ft", seed=seed, lr=lr) for seed in (0, 1) for lr in (1e-3, 1e-4)]
    made = Material(tuple(local), tuple(make_record("ft", seed=seed, lr=1e-3) for seed in (0, 1, 2)))
    for row in made.board.sections[0].rows:
        runs = made.records_of(row)
        assert [run["seed"] for run in runs] == list(row.seeds)
        assert {run["spec"]["lr"] for run in runs} == {row.settings["lr"]}
        assert all(run in (made.local if row.provenance == "local" else made.reference) for run in runs)


def test_what_finetuning_changed_is_told_against_zero_shot_of_the_same_backbone():
    local = [
        make_record("zero_shot", backbone, rules=(), accuracy=start) for backbone, start in (("a", 0.7), ("b", 0.6))
    ]
    local += [make_record("ft", backbone, accuracy=0.75) for backbone in ("a", "b")]
    page = render(Material(tuple(local)))
    line = {
        name: re.search(
            rf'<tr class="[^"]*" data-backbone="{name}"[^>]*>\s*<th scope="row"[^>]*>ft.*?</tr>', page, re.DOTALL
        )[0]
        for name in "ab"
    }
    assert '<span class="change better">+5.0</span>' in line["a"]
    assert '<span class="change better">+15.0</span>' in line["b"]
    assert '<span class="change ">+0.000</span>' in line["a"]  # calibration: no change is neither better nor worse


def test_curves_of_a_local_run_are_in_its_page(tmp_path):
    import pandas as pd

    record = make_record("ft")
    folder = tmp_path / "digits" / "ft" / record["backbone"] / f"seed0-{record['run_id']}"
    publish_record(folder, record)
    pd.DataFrame({"step": [0, 1], "total": [1.23456789, 0.5]}).to_parquet(folder / "curves.parquet")
    (run,) = data_of(render(Material((record,), runs=tmp_path)))["runs"].values()
    assert run["curves"] == {"step": [0.0, 1.0], "total": [1.23457, 0.5]}
    (folder / "curves.parquet").write_bytes(b"damaged")
    (run,) = data_of(render(Material((record,), runs=tmp_path)))["runs"].values()
    assert run["curves"] == {}


letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)  # as st.text(), which tries each of a million
nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | letters,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(letters, inner, max_size=4),
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(letters, st.lists(nested, max_size=2).map(lambda parts: [*parts, *parts])))
def test_what_is_packed_comes_back_the_same(values):
    packed = json.loads(json.dumps(pack(values)))
    assert json.dumps(unpack(packed)) == json.dumps(values)


def test_what_runs_share_is_in_the_page_once():
    records = [make_record("ft", seed=seed, sources={"note": "the same long sentence " * 9}) for seed in range(5)]
    page = render(Material(tuple(records)))
    assert page.count("the same long sentence " * 9) == 1 and page.count('"macro_f1"') == 1
    runs = data_of(page)["runs"]
    assert [runs[f"local/{record['run_id']}"]["record"] for record in records] == records


def test_a_picture_stands_in_its_benchmark_without_ids_that_could_clash():
    svg = '<?xml version="1.0"?><!-- <b> --><svg><g id="figure_1"/><path id="m1"/><use href="#m1"/></svg>'
    assert inline_svg(svg) == '<svg><g/><path id="m1"/><use href="#m1"/></svg>'
    page = render(material(), {"digits": [Picture("p", "A <title>", "Words.", svg)], "other": []})
    assert "A &lt;title&gt;" in page and page.count('<use href="#m1"/>') == 1


def test_a_picture_has_the_pages_ink_and_card_and_its_methods_colours():
    style = '<svg><g style="fill: {}; stroke: {}"/><rect fill="{}"/></svg>'
    grey = "color-mix(in srgb, var(--ink) 25%, var(--card))"
    assert inline_svg(style.format("#000000", "#c51b7d", "#ffffff")) == style.format(
        "var(--ink)", "#c51b7d", "var(--card)"
    )
    assert inline_svg(style.format("#bfbfbf", "none", "#1b7837")) == style.format(grey, "none", "#1b7837")


def test_without_runs_the_page_says_so(tmp_path):
    assert "No finished runs yet" in write(Material(), tmp_path / "report.html").read_text()


def test_the_command_writes_the_file_and_refuses_a_benchmark_without_runs(tmp_path, capsys, monkeypatch):
    kept = {"forgetting": gallery.ENTRIES["forgetting"]}  # the others cost time only
    monkeypatch.setattr(gallery, "ENTRIES", kept)
    record = make_record("ft", benchmark="mine")
    publish_record(tmp_path / "runs" / "mine" / "ft" / "b" / "seed0-x", record)
    where = ("--runs", tmp_path / "runs", "--results", tmp_path)
    assert call("report", "mine", *where) == 0
    assert list(data_of((tmp_path / "report.html").read_text())["runs"]) == [f"local/{record['run_id']}"]
    assert call("report", *where) == 0
    assert len(data_of((tmp_path / "report.html").read_text())["runs"]) > 1
    capsys.readouterr()
    assert call("report", "yours", *where) == 2
    known = "digits, forgetting, forgetting_strength, glyphs, mine"
    assert f"unknown benchmark 'yours'; finished runs are of: {known}." in capsys.readouterr().err


def test_the_page_marks_what_cannot_be_told_from_the_best_as_the_board_does(committed):
    made, page = committed
    signs = re.findall(r'<span class="sign"> (.)</span>', page)
    shown = [
        cell.sign for block in made.board.blocks for line in getattr(block, "rows", ()) for cell in line if cell.sign
    ]
    assert sorted(signs) == sorted(shown) and "≈" in signs
    assert "is not separable from the best of its column" in page
