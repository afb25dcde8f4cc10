"""README and docs/benchmark.md say what the committed reference says, and every file that a page names exists."""

import csv
import re
from importlib import metadata

import pytest
from make_records import make_record

from robustft.results.audit.redrawn import svg_finding
from robustft.results.records.records import REFERENCE
from robustft.results.release import readme_tables
from robustft.results.release.readme_tables import (
    FINDINGS,
    PAGES,
    PICTURES,
    README,
    ROOT,
    SHORT,
    paper_table,
    picture_lines,
    pictures,
    renew,
    short_table,
    strength_table,
    table,
)

pytestmark = pytest.mark.computes


@pytest.mark.parametrize("benchmark", PICTURES)
def test_the_table_is_that_of_the_committed_reference(benchmark):
    text = PAGES[benchmark].read_text(encoding="utf-8")
    assert renew(text, f"{benchmark} table", table(benchmark)) == text


def test_the_differences_in_the_prose_are_those_of_the_committed_reference():
    text = " ".join(FINDINGS.read_text(encoding="utf-8").split())
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
    assert f"and {between('tracer', 'flyp_wma', 'id')} ID" in text
    backbones = ("tiny-rn", "tiny-vit-p8", "tiny-vit-p16")

    def three(method):
        return ", ".join(f"{float(rows[method, b]['acc_ood_mean_percent_mean']):.1f}" for b in backbones)

    assert f"a static one ({three('tracer_static_teacher')}) keeps more than the WMA ({three('tracer')};" in text
    assert f"the WMA more than an EMA ({three('tracer_ema_teacher')})" in text
    with open(REFERENCE / "digits" / "leaderboard.md", encoding="utf-8") as file:
        matched = file.read().split("### OOD accuracy at matched ID accuracy")[1].split("### ")[0]

    def above(method):
        lines = [line.split(" | ") for line in matched.replace("\\", "").splitlines() if f"| {method} |" in line]
        return [re.search(r"\(\+?(.*)\)", cells[5])[1].replace(", seeds", "") for cells in lines]

    assert "At equal ID accuracy TRACER is {}, {} and {} above FLYP's line".format(*above("tracer")) in text
    assert f"Model Stock, three FT runs in one ({', '.join(above('model_stock'))};" in text
    resolved = dict(re.findall(r"- (tiny-[\w-]+): Smallest OOD-mean difference .*?: ([\d.]+) points", text))
    first, *others = (resolved[backbone] for backbone in ("tiny-vit-p8", "tiny-vit-p16", "tiny-rn"))
    assert "about {} points of OOD mean on tiny-vit-p8, {} on tiny-vit-p16 and {} on".format(first, *others) in text


def test_the_forgetting_in_the_page_is_that_of_the_committed_references():
    page = FINDINGS.read_text(encoding="utf-8")
    assert renew(page, "forgetting paper", paper_table()) == page
    assert renew(page, "forgetting strength", strength_table()) == page
    text = " ".join(page.split())
    with open(REFERENCE / "forgetting" / "leaderboard.csv", encoding="utf-8", newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file) if row["rule"] == "one_se"}
    old = {method: float(row["acc_original_percent_mean"]) for method, row in rows.items()}
    lost = {method: f"{old['zero_shot'] - old[method]:.1f}" for method in rows}
    assert f"FLYP forgets {lost['flyp']} points, where the paper prints 37.9, and TRACER {lost['tracer']} where" in text
    assert max(rows, key=lambda method: float(rows[method]["acc_id_percent_mean"])) == "l2_sp"
    assert max(set(rows) - {"zero_shot"}, key=old.__getitem__) == "l2_sp"
    assert float(rows["l2_sp"]["acc_original_percent_sd"]) > old["l2_sp"] - old["flyp"]
    with open(REFERENCE / "forgetting_strength" / "leaderboard.csv", encoding="utf-8", newline="") as file:
        pulls = [(row["method"], float(row["acc_id_percent_mean"]), row) for row in csv.DictReader(file)]
    kept = {(method, f"{new:.1f}"): float(row["acc_original_percent_mean"]) for method, new, row in pulls}
    assert f"At 86.9 % on the new task TRACER keeps {kept['tracer', '86.9']:.1f} % of the old one" in text
    static = {new: kept[method, f"{new:.1f}"] for method, new, _ in pulls if "static" in method and 80 < new < 86.9}
    assert f"keep at most {max(static.values()):.1f} % where they still learn more than 80 % (83.9 and 81.1)" in text
    assert [f"{new:.1f}" for new in sorted(static, reverse=True)] == ["83.9", "81.1"]
    learned = f"{float(rows['flyp']['acc_id_percent_mean']):.1f}"
    assert f"{kept['l2_sp', learned]:.1f} % kept at {learned} % learned, what FLYP learns" in text
    (spread,) = (
        row["acc_original_percent_sd"] for method, new, row in pulls if (method, f"{new:.1f}") == ("l2_sp", learned)
    )
    assert f"varies by {float(spread):.1f} points" in text


def test_the_findings_on_glyphs_are_those_of_its_summary_over_models():
    text = " ".join(PAGES["glyphs"].read_text(encoding="utf-8").split())
    with open(REFERENCE / "glyphs" / "leaderboard_models.csv", encoding="utf-8", newline="") as file:
        rows = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    columns = {
        "ID": "acc_id_percent",
        "OOD mean": "acc_ood_mean_percent",
        "ID ECE": "ece_id_15_bins_global",
        "OOD ECE": "ece_ood_mean_15_bins_global",
    }

    def mean(method, title):
        return float(rows[method, columns[title]]["mean"])

    for title, metric in columns.items():
        for verdict, word in (("higher", "above"), ("lower", "below")):
            named = [f"`{name}`" for (name, of), row in rows.items() if of == metric and row["verdict"] == verdict]
            assert f"{word} `ft` in {title}: {', '.join(named) or 'none'}" in text, (title, verdict)
    assert f"gains {mean('ft', 'ID') - mean('zero_shot', 'ID'):.1f} points ID" in text
    assert f"loses {mean('zero_shot', 'OOD mean') - mean('ft', 'OOD mean'):.1f} of the OOD mean" in text
    best = max(
        (name for name, metric in rows if metric == columns["OOD mean"]), key=lambda name: mean(name, "OOD mean")
    )
    assert f"The best OOD mean is that of `{best}`, {mean(best, 'OOD mean'):.1f} %" in text
    tracer = rows["tracer", columns["OOD mean"]]
    of_six = f"{float(tracer['difference']):+.1f} points, {tracer['models_same_sign']} of 6 models"
    assert f"`tracer` is no exception ({of_six}" in text
    below = mean("flyp_wma", "OOD mean") - mean("tracer", "OOD mean")
    assert f"`flyp_wma`, TRACER's averaging without its teacher, is {below:.1f} above it" in text
    assert tracer["verdict"] == "no order claimed"


@pytest.mark.parametrize("benchmark", PICTURES)
def test_the_pictures_are_those_of_the_committed_reference(benchmark, drawn_once):
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = re.findall(r"^matplotlib==(\S+)", constraints, flags=re.MULTILINE)
    drawn, text = dict(pictures(benchmark)), PAGES[benchmark].read_text(encoding="utf-8")
    assert set(drawn) == set(PICTURES[benchmark])
    reasons = {name: found for name, found in drawn.items() if isinstance(found, str)}
    assert not reasons
    assert renew(text, f"{benchmark} pictures", picture_lines(benchmark, drawn)) == text
    folder = REFERENCE / benchmark
    assert not any((folder / f"{name}.png").exists() for name in reasons)
    for name, files in ((name, drawn[name]) for name in drawn if name not in reasons):
        assert (folder / f"{name}.png").exists()
        if metadata.version("matplotlib") in pinned:  # another one draws the same numbers otherwise
            found = svg_finding(name, (folder / f"{name}.svgz").read_bytes(), files[".svg"])
            assert found is None or not found.wrong, f"{found}: run `make readme`"


def test_the_teachers_are_shown_as_soon_as_the_records_of_both_tell_of_them(monkeypatch):
    def of(**gaps):
        made = [make_record(m, seed=seed, gaps=gaps.get(m)) for m in gaps for seed in (0, 1)]
        return [make_record("zero_shot", rules=(), accuracy=0.7), *made]

    monkeypatch.setitem(PICTURES, "digits", ["dynamics"])  # the others cost time only
    gaps = [0.4, 0.3, 0.2, 0.1]
    for records, shown in ((of(tracer=gaps, tracer_ema_teacher=gaps), True), (of(tracer=None, flyp=gaps), False)):
        monkeypatch.setattr(readme_tables, "gather_reference", lambda benchmark=None, records=records: records)
        assert isinstance(dict(pictures())["dynamics"], dict) == shown


def test_the_short_table_is_that_of_the_committed_reference():
    text = README.read_text(encoding="utf-8")
    assert renew(text, "short table", short_table()) == text
    assert len(SHORT) <= 8


def test_the_readme_fits_a_few_screens():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 150
    assert len(re.findall(r"!\[", text)) == 1


def test_a_row_that_the_reference_lacks_is_named(monkeypatch):
    records = [make_record("zero_shot", rules=(), accuracy=0.7), make_record("ft")]
    monkeypatch.setattr(readme_tables, "gather_reference", lambda benchmark=None: records)
    with pytest.raises(ValueError, match="has no row wise_ft"):
        short_table()


GENERATED = {
    *(f"results/leaderboard{end}" for end in (".md", ".csv", "_long.csv", "_models.csv", ".html", ".tex")),
    *("results/report.html", "results/figures/.cache"),
}
EVERY_PAGE = [README, *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    outside = re.sub("<!-- [a-z]+ table: begin.*?: end -->", "", text, flags=re.DOTALL)
    paths = re.findall(r"`((?:benchmarks|methods|datasets|backbones|results|tests|docs)/[\w./-]*)`", outside)
    links = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", outside)
    made = {link for link in links if page.name == "methods.md" and link.startswith("methods/")}
    missing = [path for path in paths if path not in GENERATED and not (ROOT / path).exists()]
    missing += [link for link in links if link not in made and not (page.parent / link).exists()]
    assert not missing
    assert page != README or len(links) > 5
