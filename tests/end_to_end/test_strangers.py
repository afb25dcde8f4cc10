"""A stranger's methods, dataset and backbone go through every command, and no table or picture needs their names."""

import csv

import pytest
import strangers_kit
import yaml
from runs_kit import call
from strangers_kit import BACKBONE, METHODS, TRAINED

from robustft.results.plots import gallery
from robustft.results.plots.style import SPARE, STYLES, style
from robustft.results.records.records import read_record

SUITE = {
    "name": "strange",
    "dataset": "strange",
    "version": "strange-v1",
    "backbones": [BACKBONE],
    "methods": ["zero_shot", "ft", *METHODS],
    "seeds": [0, 1],
    "threads": 1,
    "recipes": {"common": {"steps": 3, "batch_size": 8, "lr": 3e-4, "weight_decay": 0.1, "warmup_steps": 1}},
    "methods_settings": {"car_soup": {"members": 2, "source": "short"}},
    "tuning": {
        "trials": 2,
        "seeds": [100],
        "space": {**dict.fromkeys(["ft", *TRAINED], {"lr": [1e-4, 1e-3]}), "car_wise": {"alpha": [0.0, 0.5, 1.0]}},
    },
}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Everything tuned and swept once by the commands; (folder, suite file)."""
    root = tmp_path_factory.mktemp("strange")
    suite = root / "strange.yaml"
    suite.write_text(yaml.safe_dump(SUITE, sort_keys=False))
    with pytest.MonkeyPatch.context() as patch:
        strangers_kit.register(patch)
        patch.chdir(root)
        assert call("tune", suite, "--method", "all") == 0
        assert call("sweep", suite, "--method", "all") == 0
        yield root, suite


@pytest.fixture(autouse=True)
def there(swept, monkeypatch):
    monkeypatch.chdir(swept[0])


def test_every_method_is_listed_and_explained(capsys):
    assert call("list") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*METHODS, "strange", BACKBONE))
    for name in (*METHODS, "strange", BACKBONE):
        assert call("list", name) == 0


def test_the_sweep_made_a_run_of_every_method_and_the_board_ranks_them(swept):
    records = [read_record(path) for path in (swept[0] / "runs/strange").rglob("record.json")]
    runs = [record for record in records if record["kind"] == "run"]
    assert {record["method"] for record in runs} == set(SUITE["methods"])
    with (swept[0] / "results/leaderboard.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["benchmark"] == "strange" and row["rule"] == "one_se"]
    assert {row["method"] for row in rows} == set(SUITE["methods"])
    dynamics = {record["method"] for record in runs if record["info"].get("dynamics")}
    assert dynamics == {"mixed_towers"}  # the one with a teacher


def test_board_status_and_paired_tests_know_them(swept, capsys):
    _, suite = swept
    assert call("leaderboard", suite, "--with-published", "--results", "board") == 0
    assert call("status", "strange") == 0
    assert call("compare", "car_ft", "car-wise", "--benchmark", suite) == 0
    out = capsys.readouterr().out
    assert "car_ft - car_wise on strange-vit-scratch" in out and "night" in out
    assert call("rescore", "strange") == 0


@pytest.fixture(scope="module")
def drawn(swept):
    """What `figures all` wrote, as name -> SVG."""
    assert call("figures", "all", "--benchmark", "strange") == 0
    return {path.stem: path.read_text() for path in (swept[0] / "results/figures/strange").glob("*.svg")}


def test_every_figure_is_drawn_that_their_runs_can_give(drawn):
    needs_more = {"robustness", "dynamics", "forgetting", "ablation"}  # a line of models, studies of other methods
    assert set(drawn) == set(gallery.ENTRIES) - needs_more
    assert not any("ValueError" in text for text in drawn.values())
    for name in ("id_ood", "calibration", "reliability", "flips", "layers", "cost"):
        assert "<!-- car_ft -->" in drawn[name], name
    assert "<!-- car_wise (path) -->" in drawn["paths"]
    assert "<!-- car_wise -->" not in drawn["layers"] and "<!-- car_soup -->" not in drawn["layers"]  # train nothing


def test_a_stranger_has_one_colour_in_every_figure_and_no_other_methods(drawn):
    colour = style("car_ft", SUITE["methods"])[0]
    for name in ("id_ood", "calibration", "reliability", "flips", "layers", "cost"):
        assert colour in drawn[name], name
    for count in (3, 30):
        names = [*STYLES, *(f"stranger_{i}" for i in range(count))]
        assert len({style(name, names) for name in names}) == len(names)
    before = {name: style(name, ["a", "b", "c"]) for name in "abc"}
    assert sum(before[name] == style(name, "abcd") for name in "abc") >= 2  # a new one changes few of the old
    assert style("alone", ()) in [(colour, marker) for colour, marker in SPARE]


def test_the_report_has_them_all_and_opens_with_their_benchmark(swept, drawn, drawn_once):
    assert call("report") == 0
    page = (swept[0] / "results/report.html").read_text()
    sections = [part.split('"')[0] for part in page.split('<section class="benchmark" id="')[1:]]
    assert sections[0].startswith("strange-") and any(name.startswith("digits-") for name in sections[1:])
    assert page.count('<figure id="strange-') == len(drawn)
    assert "figures not drawn" in page and "Effective robustness: figure robustness: needs" in page
    assert all(name.replace("_", "_<wbr>") in page for name in METHODS)


def test_a_bundle_of_them_holds_and_a_run_is_made_again(swept, capsys):
    _, suite = swept
    assert call("bundle", "bundled", "--benchmark", suite) == 0
    capsys.readouterr()
    assert call("verify", "bundled", "--rerun", "any", "--suite", suite) == 0
    out = capsys.readouterr().out
    assert "all hold" in out and "holds" in out.rpartition("made again")[2]


def test_the_theory_is_printed_as_ever(capsys):
    assert call("theory", "--results", "theory") == 0


# What fails to be drawn


def broken(material):
    raise ZeroDivisionError("by\nnothing")


def test_a_figure_that_fails_costs_itself_alone(swept, monkeypatch, capsys):
    kept = {name: gallery.ENTRIES[name] for name in ("id_ood", "flips")}
    kept["cost"] = gallery.Entry("Cost", "", broken)
    monkeypatch.setattr(gallery, "ENTRIES", kept)
    assert call("report", "strange", "--results", "broken") == 1
    error, page = capsys.readouterr().err, (swept[0] / "broken/report.html").read_text()
    sentence = "figure cost: could not be drawn (ZeroDivisionError: by nothing); the others are; please report this."
    assert f"robustft: strange: {sentence}" in error and "Traceback" not in error
    assert page.count("<figure ") == 2 and f"<li>Cost: {sentence}</li>" in page
    assert call("figures", "all", "--benchmark", "strange", "--results", "broken") == 1
    assert sorted(path.name for path in (swept[0] / "broken/figures/strange").iterdir()) == [
        "flips.png", "flips.svg", "id_ood.png", "id_ood.svg",
    ]  # fmt: skip


# What is drawn once


@pytest.fixture
def made(monkeypatch):
    """Names of the figures that are drawn from now on, by this process."""
    from robustft.benchmarks.host import environment

    names, make = [], gallery.make
    monkeypatch.setattr(gallery, "make", lambda name, *more: names.append(name) or make(name, *more))
    monkeypatch.setattr(environment, "cores", lambda: 1)
    return names


def test_a_picture_is_drawn_once_and_again_when_what_it_shows_has_changed(swept, drawn, made):
    root, _ = swept
    asked = ("figures", "flips", "--benchmark", "strange")
    assert call(*asked) == 0 and made == []
    before = (root / "results/figures/strange/flips.svg").read_bytes()
    for path in (root / "results/figures/strange/flips.svg", root / "results/figures/strange/flips.png"):
        path.unlink()
    assert call(*asked) == 0 and made == []
    assert (root / "results/figures/strange/flips.svg").read_bytes() == before
    kept = root / "results/figures/.cache/strange/flips.png"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-9])  # cut, as by a full disk
    assert call(*asked) == 0 and made == ["flips"] and kept.read_bytes() == whole
    for path in sorted(root.glob("runs/strange/ft/*/*/predictions/night.parquet"))[:1]:
        path.write_bytes(path.read_bytes())  # the same content, a new time: it must be looked at again
    assert call(*asked) == 0 and made == ["flips"] * 2


def test_the_report_draws_no_png_and_one_process_draws_what_two_do(swept, drawn, few_figures, made):
    root, _ = swept
    assert call("report", "strange", "--results", "fresh") == 0
    assert {path.name for path in (root / "fresh/figures/.cache/strange").iterdir()} == {"id_ood.svg", "layers.svg"}
    assert call("figures", "all", "--benchmark", "strange", "--results", "fresh") == 0
    assert made == [*few_figures, *few_figures]  # the PNG was asked for then
    for name in few_figures:
        assert (root / f"fresh/figures/strange/{name}.svg").read_text() == drawn[name]
        one, two = (root / folder / f"figures/strange/{name}.png" for folder in ("fresh", "results"))
        assert one.read_bytes() == two.read_bytes()
