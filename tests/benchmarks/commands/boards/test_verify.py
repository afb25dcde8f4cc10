"""A bundle holds, and whatever is changed in it is found."""

import csv
import json
import shutil

import matplotlib.image
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_records import make_record
from runs_kit import BACKBONE, call, plan_runs, write_suite

from robustft.benchmarks.commands.boards import verify
from robustft.benchmarks.commands.boards.rerun_verdict import judge
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.results.audit import bundle
from robustft.results.plots import gallery
from robustft.results.plots.figure_data import Material
from robustft.results.plots.style import save
from robustft.results.records import manifest, predictions
from robustft.results.records.records import REFERENCE, gather_reference, publish_record

pytestmark = pytest.mark.computes


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A bundle of zero_shot and ft on a few samples, made by the command, and the root that it was made from."""
    root = tmp_path_factory.mktemp("bundle")
    for method in ("zero_shot", "ft"):
        for folder in plan_runs(root, method, "limit=16"):
            assert work(folder.path, Options(), lambda: False)["event"] == "done"
    suite = write_suite(root)
    assert call("bundle", root / "out", "--benchmark", suite, "--runs", root / "runs") == 0
    return root


@pytest.fixture
def copied(exported, tmp_path):
    shutil.copytree(exported / "out", tmp_path / "out")
    return tmp_path / "out"


def told(capsys, *arguments):
    code = call("verify", *arguments)
    return code, capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(path.parent.name for path in REFERENCE.glob(f"*/{manifest.NAME}")))
def test_the_committed_reference_holds_in_every_cell(capsys, name, drawn_once):
    code, text = told(capsys, REFERENCE / name)
    cells = sum(len(row) for row in csv.DictReader((REFERENCE / name / "leaderboard.csv").open()))
    assert code == 0 and f"{cells} cells of the board checked: all hold" in text, text


def test_a_bundle_has_all_that_its_board_follows_from(exported, capsys):
    out = exported / "out"
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"leaderboard.csv", "leaderboard.md", "manifest.json"} < names
    assert len([name for name in names if name.startswith("runs/digits/") and name.endswith("/id.parquet")]) == 2
    assert not [name for name in names if "safetensors" in name or "log" in name]
    code, text = told(capsys, out)
    assert code == 0 and " 2 runs, " in text and "all hold" in text
    assert "compared: leaderboard_long.csv, leaderboard.md, leaderboard.tex, leaderboard.html\n" in text


def test_a_run_made_again_from_its_spec_is_the_same_bit_for_bit(exported, capsys):
    code, text = told(capsys, exported / "out", "--rerun", "any")
    (path,) = exported.glob("out/runs/digits/ft/*/*/record.json")
    weights = json.loads(path.read_text())["info"]["weights_sha256"]
    assert code == 0 and f"making ft {BACKBONE} seed 3 again" in text
    assert f"made again bit for bit: the same final weights, sha256 {weights[:12]}, and the same accuracy" in text
    assert text.rstrip().endswith("sets: holds")
    strange = make_record(spec={"field_of_tomorrow": 1})
    with pytest.raises(verify.UserError, match="rerun it with the version that made it"):
        verify._planned(strange, exported)
    with pytest.raises(verify.UserError, match="abc is not there"):
        verify._choose([make_record()], "abc")


def test_a_run_of_ones_own_suite_is_made_again_with_its_file(tmp_path, capsys, runs_here):
    """A record says what was run and not where the images were, so the suite's file must; the error says so."""
    suite, runs = write_suite(tmp_path, name="mine", tuning=None), tmp_path / "runs"
    arguments = ("--method", "zero_shot", "--set", "limit=16", "--runs", runs)
    assert call("run", suite, *arguments) == 0
    assert call("bundle", tmp_path / "out", "--benchmark", "mine", "--runs", runs) == 0
    capsys.readouterr()
    assert call("verify", tmp_path / "out", "--rerun", "any") == 2
    assert "'mine' is no suite that ships, and a bundle does not hold where" in (said := capsys.readouterr().err)
    assert "name its file with --suite FILE" in said
    (tmp_path / "other").mkdir()
    assert call("verify", tmp_path / "out", "--rerun", "any", "--suite", write_suite(tmp_path / "other")) == 2
    assert "must be the suite 'mine' of the run, got 'digits'" in capsys.readouterr().err
    code, text = told(capsys, tmp_path / "out", "--rerun", "any", "--suite", suite)
    assert code == 0 and "made again bit for bit" in text


def test_a_run_that_comes_to_something_else_is_code_1(copied, capsys):
    (path,) = copied.glob("runs/digits/zero_shot/*/*/record.json")
    record = json.loads(path.read_text())
    record["sets"]["fresh"]["accuracy"] -= 0.25
    del record["summary"]["acc_ood_mean"]
    path.write_text(json.dumps(record))
    code, text = told(capsys, copied, "--rerun", record["run_id"])
    assert code == 1 and "accuracy on fresh differs by 0.25" in text and text.rstrip().endswith("DIFFERS")


def made_again(weights="b", off=0.0, **environment):
    """A recorded run of three seeds, 80, 81 and 82 % right, and the first of them made again."""
    row = [make_record("ft", seed=seed, accuracy=0.8 + 0.01 * seed) for seed in range(3)]
    for record in row:
        record["info"] = {"weights_sha256": "a" * 64}
        record["environment"] = {"cpu": "X", "device": "cpu", "packages": {"torch": "2.13"}, "commit": "0" * 40}
    made = json.loads(json.dumps(row[0]))
    made["info"] = {"weights_sha256": weights * 64}
    made["environment"] |= environment
    made["sets"]["writers"]["accuracy"] += off
    return row[0], made, [*row, make_record("ft", "tiny-rn", 4, 0.1), make_record("flyp", accuracy=0.1)]


def test_the_same_weights_with_other_numbers_differ():
    assert judge(*made_again("a")) == (True, "bit for bit: the same final weights, sha256 aaaaaaaaaaaa, and the same "
        "accuracy, ECE and NLL on each of 8 sets")  # fmt: skip
    holds, text = judge(*made_again("a", off=0.001))
    assert not holds and text == "with the same final weights, but accuracy on writers differs by 0.001"
    assert judge(*made_again("a", cpu="Y"))[0]  # elsewhere, and still bit for bit
    record, made, row = made_again("a")
    made["sets"]["id"]["nll"] = None
    assert not judge(record, made, row)[0]


def test_the_same_machine_and_commit_must_give_the_same_weights():
    holds, text = judge(*made_again(off=0.001))
    assert not holds and "0.001 of accuracy on writers" in text and "the same bit for bit" in text


def test_elsewhere_a_run_may_differ_as_seeds_do_and_what_differs_is_said():
    for change, words in (
        ({"cpu": "Y"}, "cpu Y, recorded X"),
        ({"packages": {"torch": "2.14"}}, "torch 2.14, recorded 2.13"),
        ({"commit": "1" * 40}, "commit 11111111, recorded 00000000"),
    ):
        holds, text = judge(*made_again(off=0.039, **change))  # one standard deviation of the row's seeds is 1 point
        assert holds and f"elsewhere ({words})" in text
        assert "on writers, 3.90 points off of 4.00 (4 standard deviations over 3 seeds, at least 0.5)" in text
        assert not judge(*made_again(off=-0.041, **change))[0]
    record, made, _ = made_again(off=0.019, cpu="Y")
    assert judge(record, made, [record])[0] and "of 2.00 (one seed)" in judge(record, made, [record])[1]
    record, made, _ = made_again(off=0.021, cpu="Y")
    assert not judge(record, made, [record])[0]


def change_record(out):
    path = sorted(out.rglob("record.json"))[0]
    record = json.loads(path.read_text())
    record["sets"]["writers"]["ece"] += 0.01
    del record["summary"]["ece_ood_mean"]
    path.write_text(json.dumps(record))


def change_sample(out):
    path = sorted(out.rglob("sketches.parquet"))[0]
    columns = predictions.read(path)
    columns["prediction"] = np.where(np.arange(16) == 0, (columns["label"] + 1) % 10, columns["label"])
    predictions.write(path, columns)


def change_cell(out):
    path = out / "leaderboard.csv"
    rows = list(csv.reader(path.open()))
    at = rows[0].index("acc_ood_mean_percent_mean")
    rows[1][at] = f"{float(rows[1][at]) + 0.01:.4f}"
    csv.writer(path.open("w", newline=""), lineterminator="\n").writerows(rows)


def drop_row(out):
    path = out / "leaderboard.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def change_page(out):
    path = out / "leaderboard.md"
    lines = path.read_text().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if line.startswith("| ft "))
    lines[at] = lines[at].replace(" | 1 | ", " | 5 | ", 1)
    path.write_text("".join(lines))


def drop_page_row(out):
    path = out / "leaderboard.tex"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if line[:3] != "ft "))


def change_long(out):
    path = out / "leaderboard_long.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:-1], f"{lines[-1].rstrip()}1\n"]))


def copy_as_another_seed(out):
    """One run told as two: only what the record says of itself is changed."""
    path = sorted(out.rglob("runs/digits/ft/*/*/record.json"))[0]
    record = json.loads(path.read_text())
    copy = shutil.copytree(path.parent, path.parent.with_name(f"seed9-{record['run_id']}"))
    (copy / "record.json").write_text(json.dumps(record | {"seed": 9}))


def rename_method(out):
    path = sorted(out.rglob("runs/digits/ft/*/*/record.json"))[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "ema"}))


def copy_run(out):
    path = sorted(out.rglob("runs/digits/ft/*/*/record.json"))[0]
    shutil.copytree(path.parent, path.parents[1] / "copied" / path.parent.name)


def spoil_sample(out):
    path = sorted(out.rglob("sketches.parquet"))[0]
    table = pq.read_table(path)
    spoilt = pa.array([float("nan")] * 16, pa.float32())
    pq.write_table(table.set_column(table.column_names.index("confidence"), "confidence", spoilt), path)


def drop_run(out):
    path = sorted(out.rglob("record.json"))[0]
    shutil.rmtree(path.parent)


def change_spec(out):
    path = sorted(out.rglob("record.json"))[0]
    record = json.loads(path.read_text())
    record["spec"]["fingerprint"] = "00"
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "change, words",
    [
        (change_record, "writers ece is"),
        (change_sample, "sketches accuracy is"),
        (change_cell, "acc_ood_mean_percent_mean is"),
        (drop_row, "0 rows, but its runs give 1"),
        (change_page, "leaderboard.md: a line of a table is '| ft "),
        (drop_page_row, "lines of tables, but its runs give"),
        (change_long, "leaderboard_long.csv: a line of a table is"),
        (drop_run, "1 row, but its runs give 0"),
        (change_spec, "but its spec has the run id "),
        (copy_as_another_seed, "seed is 9, but its spec says 3"),
        (rename_method, "method is 'ema', but its spec says 'ft'"),
        (spoil_sample, "sketches.parquet: is damaged: confidence must hold probabilities, 0 to 1, and does not"),
        (copy_run, "record.json: is the same run as "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_changed_is_found_even_with_fresh_hashes(copied, capsys, change, words):
    change(copied)
    hashed = change not in (change_cell, drop_row, change_page, drop_page_row, change_long)
    assert (manifest.hashes(copied) != bundle.read(copied).hashes) == hashed
    code, text = told(capsys, copied)
    assert code == 1 and words in text and ("manifest" in text) == hashed
    manifest.write(copied, "local")
    code, text = told(capsys, copied)
    assert code == 1 and words in text and "sha256" not in text


@pytest.fixture
def drawn(tmp_path, drawn_once):
    """A copy of a committed reference whose pictures were drawn here."""
    out = tmp_path / "forgetting"
    shutil.copytree(REFERENCE / "forgetting", out, ignore=shutil.ignore_patterns("*.svgz", "*.png"))
    made = gallery.make("forgetting", Material(reference=tuple(gather_reference("forgetting"))))
    save(made, out / "forgetting")
    manifest.write_pictures(out)
    return out


def recolour(path):
    path.write_bytes(path.read_bytes().replace(b"#c51b7d", b"#2166ac", 1))


def blank(path):
    image = np.ones((9, 9, 3))
    matplotlib.image.imsave(path, image)


def damage(path):
    path.write_bytes(b"x")


@pytest.mark.parametrize("suffix, change", [(".svg", recolour), (".png", blank), (".png", damage)])
def test_a_picture_that_was_changed_is_found_even_with_a_fresh_hash(drawn, capsys, suffix, change):
    code, text = told(capsys, drawn)
    assert code == 0 and "compared: leaderboard.md, forgetting.png, forgetting.svg\n" in text, text
    change(drawn / f"forgetting{suffix}")
    code, text = told(capsys, drawn)
    assert code == 1 and f"forgetting{suffix}: is not the file that the manifest was made of" in text
    manifest.write_pictures(drawn)
    code, text = told(capsys, drawn)
    assert code == 1 and f"forgetting{suffix}: is another picture than its runs give" in text


def test_a_picture_of_another_matplotlib_is_hashed_and_said_not_to_be_drawn_again(drawn, capsys):
    path = drawn / manifest.NAME
    content = json.loads(path.read_text())
    content["pictures"]["matplotlib"] = "1.0"
    path.write_text(json.dumps(content))
    code, text = told(capsys, drawn)
    assert code == 0 and "not drawn again: forgetting.png, forgetting.svg: drawn by matplotlib 1.0, here is" in text
    (drawn / "forgetting.png").unlink()
    recolour(drawn / "forgetting.svg")
    code, text = told(capsys, drawn)
    assert code == 1 and "forgetting.png: is in the manifest but not in the folder" in text
    assert "forgetting.svg: is not the file that the manifest was made of" in text
    del content["pictures"]
    path.write_text(json.dumps(content))
    code, text = told(capsys, drawn)
    assert code == 0 and "not drawn again: forgetting.svg: drawn by matplotlib of an unknown version" in text


def test_a_figure_that_these_runs_do_not_give_is_said_not_to_be_drawn_again(tmp_path, capsys):
    shutil.copytree(REFERENCE / "forgetting", tmp_path / "forgetting")
    shutil.copy(REFERENCE / "digits" / "id_ood.svgz", tmp_path / "forgetting" / "robustness.svgz")
    manifest.write_pictures(tmp_path / "forgetting")
    code, text = told(capsys, tmp_path / "forgetting")
    assert (
        "not drawn again: robustness.svgz: figure robustness: needs 15 models without pretraining on the data" in text
    )


def test_what_no_sample_tells_is_said_to_be_unchecked(copied, capsys):
    code, text = told(capsys, copied)
    assert code == 0 and "all hold" in text
    untold = "16 numbers without samples (ece_classwise), cost, numbers of trials, what chose each value, dynamics, "
    untold += "environment"
    assert text.rstrip().endswith(f"not checked, for no sample tells it: {untold}")
    for path in copied.rglob("id.parquet"):
        columns = predictions.read(path)
        columns.pop("sum_p2")
        predictions.write(path, columns)
    manifest.write(copied, "local")
    code, text = told(capsys, copied)
    assert code == 0 and "no sample tells it: 18 numbers without samples (brier, ece_classwise), cost, " in text
    _, text = told(capsys, REFERENCE / "forgetting")
    printed = "aurc, brier, coverage_at_5_risk, e_aurc, ece_adaptive, ece_classwise, ece_expected, "
    assert f"numbers without samples ({printed}" in text and ", validation), cost" in text


@pytest.mark.parametrize("suffix", [".md", ".tex", ".html"])
def test_text_that_was_added_to_a_page_is_found(copied, capsys, suffix):
    path = copied / f"leaderboard{suffix}"
    path.write_text("FT wins everywhere.\n" + path.read_text())
    code, text = told(capsys, copied)
    sentence = f"leaderboard{suffix}: its text is not what this version writes, in 1 line: has 'FT wins everywhere.'"
    assert code == 1 and sentence in text
    content = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(content | {"code": "of another version"}))
    code, text = told(capsys, copied)
    assert code == 0 and f"made by another version: {sentence}" in text


def test_files_that_come_go_or_change_are_named(copied, capsys):
    (copied / "runs" / "extra.json").write_text("{}")
    path = sorted(copied.rglob("id.parquet"))[0]
    path.write_bytes(path.read_bytes()[:-9])
    sorted(copied.rglob("fresh.parquet"))[1].unlink()
    code, text = told(capsys, copied)
    assert code == 1
    assert "extra.json: is in the folder but not in the manifest" in text
    assert "fresh.parquet: is in the manifest but not in the folder" in text
    assert "id.parquet: is not the file that the manifest was made of" in text
    assert "id.parquet: cannot be read" in text


def test_what_is_no_bundle_is_a_mistake(tmp_path, copied, capsys):
    assert call("verify", tmp_path) == 2
    assert "must be the manifest of a bundle" in capsys.readouterr().err
    (tmp_path / "manifest.json").write_text("[]")
    assert call("verify", tmp_path) == 2
    assert call("bundle", copied, "--benchmark", "digits", "--runs", tmp_path) == 2
    assert "must be an empty or a new folder" in capsys.readouterr().err
    with pytest.raises(bundle.BundleError, match="found none"):
        bundle.export([], tmp_path / "new")


def test_two_records_of_one_run_go_into_no_bundle(tmp_path, capsys):
    places = [tmp_path / f"runs/digits/ft/{name}/seed0-{make_record()['run_id']}" for name in ("copy", "tiny")]
    for place in places:
        publish_record(place, make_record())
    assert call("bundle", tmp_path / "out", "--benchmark", "digits", "--runs", tmp_path / "runs") == 2
    assert f"{places[0]} and {places[1]} both hold run " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_finished_runs_go_into_a_bundle(tmp_path, capsys):
    publish_record(tmp_path / "runs/digits/ft/tiny/seed0-a", make_record(kind="trial"))
    assert call("bundle", tmp_path / "out", "--benchmark", "digits", "--runs", tmp_path / "runs") == 2
    assert "must hold a finished run" in capsys.readouterr().err
