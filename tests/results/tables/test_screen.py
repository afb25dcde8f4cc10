"""What a sweep ends with: the real command on the shipped suite, its lines and columns counted."""

import pytest
from runs_kit import call

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.results.records import predictions
from robustft.results.records.records import gather_reference, publish_record
from robustft.results.records.reference import read_reference_predictions
from robustft.results.tables.screen import LINES, WIDTH

BACKBONES = ["tiny-rn", "tiny-vit-p8", "tiny-vit-p16"]


def make_runs(root, *methods):
    """Run folders of what `robustft sweep digits --method ...` makes, with the records of the committed reference."""
    records = {record["run_id"]: record for record in gather_reference("digits")}
    plan = sweep.expand(sweep.load("digits"), Request(methods, companions=True))
    for planned in plan:
        folder = RunFolder.of(root, planned.spec).path
        columns = read_reference_predictions("digits", planned.spec.run_id)
        of = columns.pop("set")
        for name in dict.fromkeys(of):
            rows = {key: values[of == name] for key, values in columns.items()}
            predictions.write(folder / "predictions" / f"{name}.parquet", rows)
        publish_record(folder, records[planned.spec.run_id])
    return len(plan)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A folder with the runs of three sweeps, the first command of the README among them."""
    root = tmp_path_factory.mktemp("done")
    assert make_runs(root / "runs", "tracer") == 9
    assert make_runs(root / "runs", "ft", "flyp", "ema") == 27
    return root


def last_screen(capsys, *arguments):
    """What `robustft sweep` prints from its table on, as lines."""
    assert call("sweep", *arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(printed) if ", recipe " in line)
    assert " ".join(printed[:first]).endswith("all finished earlier; nothing to do")
    return printed[first:]


def groups(screen):
    """Backbone -> (name, provenance) of each of its rows, as far as a name and its provenance are on one line."""
    found = {}
    for line in screen[2:]:
        name = line.strip().removeprefix("[").removesuffix("]")
        if name in BACKBONES:
            rows = found[name] = []
        elif found and (" local " in line or " reference " in line):
            rows.append((line.split("  ")[0], "local" if " local " in line else "reference"))
    return found


@pytest.mark.parametrize("columns", [200, 100, 80, 40])
def test_the_first_sweep_ends_on_one_screen(done, capsys, monkeypatch, columns):
    monkeypatch.chdir(done)
    monkeypatch.setenv("COLUMNS", str(columns))
    screen = last_screen(capsys, "digits", "--method", "tracer")
    assert max(map(len, screen)) <= min(columns, WIDTH)
    text = " ".join(" ".join(screen).split())
    assert text.startswith("digits (digits-v1), recipe common, rule one_se ")
    assert "Chance accuracy (a uniform guess): 10.0 on every set (10 classes)." in text
    for place in ("`robustft leaderboard digits`", "results/leaderboard.html", "`robustft report digits`"):
        assert place in text, place
    assert (done / "results" / "leaderboard.html").is_file()
    if columns >= 80:
        assert len(screen) <= LINES
        assert screen[1].split() == "method provenance n ID OOD mean ID ECE OOD ECE".split()
        found = groups(screen)
        assert list(found) == BACKBONES
        for rows in found.values():
            assert len(set(rows)) == len(rows)
            assert ("tracer", "local") in rows and rows[0] == ("zero_shot", "reference")
            assert {("tracer", "reference"), ("ft", "local")} <= set(rows)
            assert 2 <= len(rows) - 2 <= 3


def test_every_row_of_a_larger_sweep_is_there_and_the_others_make_room(done, capsys, monkeypatch):
    monkeypatch.chdir(done)
    monkeypatch.setenv("COLUMNS", "100")
    screen = last_screen(capsys, "digits", "--method", "tracer,ft,flyp,ema")
    assert len(screen) <= LINES
    for rows in groups(screen).values():
        assert rows[0] == ("zero_shot", "reference")
        assert {row for row in rows if row[1] == "local"} == {(m, "local") for m in ("tracer", "ft", "flyp", "ema")}


def test_seeds_that_were_not_asked_for_are_told(done, capsys, monkeypatch):
    monkeypatch.chdir(done)
    screen = last_screen(capsys, "digits", "--method", "tracer", "--seeds", "0,1", "--backbone", "tiny-vit-p8")
    assert list(groups(screen)) == ["tiny-vit-p8"]
    told = "Only 2 of the 3 seeds of digits; for all: the same command with --seeds 0,1,2 (make: SEEDS=0,1,2)."
    assert told in screen


def test_compare_takes_what_is_ranked_and_says_what_is_not_there(done, capsys, monkeypatch):
    monkeypatch.chdir(done)
    assert call("compare", "tracer", "ft", "--benchmark", "digits", "--backbone", "tiny-vit-p8") == 0
    assert "tracer - ft on tiny-vit-p8" in capsys.readouterr().out
    for pair, said in (
        (("tracer", "carot"), "--runs runs has no run of carot of digits: run `robustft sweep digits --method carot`"),
        (("tracer", "trcaer"), "unknown method 'trcaer'; did you mean 'tracer'?"),
        (("tracer", "Tracer"), "must be given two methods, got tracer twice"),
    ):
        assert call("compare", *pair, "--benchmark", "digits") == 2
        error = capsys.readouterr().err
        assert said in error and len(error.splitlines()) == 1
