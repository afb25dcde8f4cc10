"""The real command line, from flags to a board, with runs of a second."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from runs_kit import BACKBONE, QUICK, SUITE, call, essence, folders, run_here, starts, write_suite

from robustft.backbones import tiny
from robustft.benchmarks import cli
from robustft.benchmarks.commands import sweep as sweeps
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.planning import tuning
from robustft.benchmarks.planning.request import Request
from robustft.results.records.predictions import read
from robustft.results.records.records import read_record

SETS = {"validation", "id", "fresh", "renditions", "sketches", "reversed", "writers", "pretraining_mixture"}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """One sweep of every method: its folder, suite and output."""
    root = tmp_path_factory.mktemp("swept")
    suite = write_suite(root)

    def run_and_tell(launcher):
        with launcher.reporter.following(launcher.jobs):
            for job in launcher.jobs:
                run_here(SimpleNamespace(jobs=[job]))
                launcher.reporter.ended(job)
        return launcher.jobs

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.setattr(Launcher, "run", run_and_tell)
        patch.chdir(root)
        assert call("sweep", suite, "--method", "all", *QUICK, "--jobs", "1") == 0
    return root, suite, output.getvalue()


def test_a_sweep_of_all_methods_leaves_a_true_record_each(swept):
    root, _, output = swept
    found = {path.parts[-3]: path for path in folders(root / "runs")}
    assert set(found) == set(SUITE["methods"])
    for method, path in found.items():
        record = read_record(path / "record.json")
        assert record["method"] == method and record["seed"] == 0 and record["kind"] == "run"
        assert set(record["sets"]) == SETS
        assert all(metrics["n"] == metrics["n_expected"] == 32 for metrics in record["sets"].values())
        assert set(record["spec"]["hyper"]) <= set(record["sources"])
        assert record["environment"]["threads"] == 1 and record["cost"]["peak_memory_bytes"] > 1e6
        assert (path / "record.json").stat().st_size < 16_000
        points = {f"{name}.path" for name in SETS if method == "wise_ft"}
        assert {file.stem for file in path.glob("predictions/*.parquet")} == SETS | points
        assert not (path / "lease").exists() and not (path / "checkpoints").exists()
        assert json.loads((path / "state.json").read_text())["state"] == "done"
        for name, metrics in record["sets"].items():
            columns = read(path / "predictions" / f"{name}.parquet")
            assert (columns["label"] == columns["prediction"]).mean() == pytest.approx(metrics["accuracy"])
        trained = method not in ("zero_shot", "wise_ft")
        assert record["cost"]["images_seen"] == (48 if trained else 0)
    assert "7/7" in output and BACKBONE in output


def test_a_second_sweep_does_no_work_and_says_so(swept, capsys, monkeypatch):
    root, suite, _ = swept
    monkeypatch.chdir(root)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("runs/**/*") if path.is_file()}
    assert call("sweep", suite, "--method", "all", *QUICK) == 0
    assert "7 runs, all finished earlier; nothing to do" in capsys.readouterr().out
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in root.rglob("runs/**/*") if path.is_file()}
    assert after == before
    assert all(starts(path) == 1 for path in folders(root / "runs"))


def test_the_board_is_a_function_of_the_records(swept, tmp_path, capsys, monkeypatch):
    root, suite, _ = swept
    monkeypatch.chdir(root)
    assert call("leaderboard", suite, "--results", tmp_path) == 0
    for name in ("leaderboard.csv", "leaderboard.md"):
        assert (tmp_path / name).read_bytes() == (root / "results" / name).read_bytes()
    assert "zero_shot" in capsys.readouterr().out


def test_activations_that_a_tower_cannot_compute_again_are_refused_first(tmp_path, capsys):
    suite, said = write_suite(tmp_path, backbones=[BACKBONE, "tiny-rn"]), "--checkpoint-activations: must be left out"
    options = ("--backbone", "tiny-rn", "--checkpoint-activations", "--runs", tmp_path / "runs")
    assert call("sweep", suite, "--method", "ft", *QUICK, *options) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not list((tmp_path / "runs").rglob("spec.json"))


def test_a_damaged_record_is_named_and_neither_run_over_nor_counted(swept, tmp_path, capsys):
    root, suite, _ = swept
    shutil.copytree(root / "runs", tmp_path / "runs")
    damaged = folders(tmp_path / "runs", "tracer")[0] / "record.json"
    damaged.write_text("{")
    assert call("sweep", suite, "--method", "tracer", *QUICK, "--runs", tmp_path / "runs") == 2
    assert "record.json: must be the record of this run" in capsys.readouterr().err
    assert damaged.read_text() == "{"
    assert call("leaderboard", suite, "--runs", tmp_path / "runs", "--results", tmp_path) == 0
    assert "left out:" in capsys.readouterr().out


def test_wise_ft_is_the_mean_of_both_ends(swept):
    from safetensors.numpy import load_file

    ends = {
        name: load_file(folders(swept[0] / "runs", name)[0] / "weights" / "final.safetensors")
        for name in ("zero_shot", "wise_ft", "ft")
    }
    for name, tensor in ends["wise_ft"].items():
        assert tensor == pytest.approx((ends["zero_shot"][name] + ends["ft"][name]) / 2, abs=1e-6)


def test_status_counts_from_the_folders_alone(swept, tmp_path, capsys):
    runs = tmp_path / "runs"
    shutil.copytree(swept[0] / "runs", runs)
    stopped, failed = folders(runs, "ft")[0], folders(runs, "ema")[0]
    for path, state in ((stopped, "running"), (failed, "failed")):
        (path / "record.json").unlink()
        (path / "state.json").write_text(json.dumps({"state": state, "step": 2, "total": 3, "reason": "it broke"}))
    assert call("status", "--runs", runs) == 0
    output = capsys.readouterr().out
    assert "vanished: digits/ft/" in output and "at step 2: the process that had it is gone" in output
    assert "failed: digits/ema/" in output and "it broke" in output
    assert call("status", "--runs", tmp_path / "none") == 0
    assert "no runs below" in capsys.readouterr().out


def test_a_dry_run_shows_each_value_with_its_source_and_starts_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path)
    assert call("sweep", suite, "--method", "tracer,wise-ft", "--set", "beta=0.2,0.5", "--dry-run") == 0
    output = capsys.readouterr().out
    for words in ("0.2  (1 of 2 runs)", "--set", "method default", "recipe common", "ft (input)", "4 to run"):
        assert words in output
    assert [path.name for path in tmp_path.iterdir()] == ["quick.yaml"]


def test_list_names_everything_and_explains_one_method(capsys):
    assert call("list") == 0
    output = capsys.readouterr().out
    for name in ("tracer", "zero_shot", BACKBONE, "digits", "forgetting"):
        assert name in output
    assert call("list", "TRACER") == 0
    output = capsys.readouterr().out
    assert "lambda_sd" in output and "0.9" in output and "section 5.2.1" in output
    assert call("list", "wise-ft", "--benchmark", "digits", "--backbone", "tiny_rn") == 0
    output = capsys.readouterr().out
    assert "alpha" in output and "lr" in output and "recipe common" in output or "tuned" in output
    for name in (BACKBONE, "digits"):
        assert call("list", name) == 0


# Tuning


def test_tuning_writes_both_rules_and_a_sweep_uses_them(tmp_path, capsys, monkeypatch, runs_here, few_pictures):
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path)
    tuned = tmp_path / "quick.tuned.yaml"
    assert call("tune", suite, "--method", "ft,wise_ft") == 0
    entries = yaml.safe_load(tuned.read_text())["entries"]
    for method in ("ft", "wise_ft"):
        entry = entries[method][BACKBONE]
        assert len(entry["trials"]) == 2 and len(entry["tuning"]) == 12
        assert entry["best_id"]["nll"] == min(trial["nll"] for trial in entry["trials"])
        for rule in ("one_se", "best_id"):
            assert entry["trials"][entry[rule]["trial"]]["values"] == entry[rule]["values"]
    # FT's two trials, of which WiSE-FT's two read one: nothing is trained twice
    trials = folders(tmp_path / "runs")
    assert sorted(path.parts[-3] for path in trials) == ["ft", "ft", "wise_ft", "wise_ft"]
    records = [read_record(path / "record.json") for path in trials]
    assert {record["kind"] for record in records} == {"trial"}
    assert all(set(record["sets"]) == {"validation"} and record["seed"] == 100 for record in records)
    nlls = {record["run_id"]: record["sets"]["validation"]["nll"] for record in records}
    for trial in entries["ft"][BACKBONE]["trials"]:
        assert trial["nll"] == pytest.approx(nlls[trial["runs"][0]], abs=1e-6)  # predictions are float32

    capsys.readouterr()
    assert call("tune", suite, "--method", "ft,wise_ft") == 0
    assert "nothing to do" in capsys.readouterr().out

    assert call("sweep", suite, "--method", "ft") == 0
    assert "come from other trials" not in capsys.readouterr().err
    (run,) = (path for path in folders(tmp_path / "runs", "ft") if path not in trials)
    record = read_record(run / "record.json")
    assert record["spec"]["lr"] == entries["ft"][BACKBONE]["one_se"]["values"]["lr"]
    assert record["sources"]["lr"] == "tuned one_se"
    assert "one_se" in record["selection"]["rules"]
    assert record["selection"]["tuning"] == entries["ft"][BACKBONE]["tuning"]
    assert record["selection"]["trials"] == 2
    assert "one_se,yes" in (tmp_path / "results" / "leaderboard.csv").read_text()

    # other trials than those behind the values: told, whoever asks
    Path(suite).write_text(Path(suite).read_text().replace("steps: 3", "steps: 4"))
    capsys.readouterr()
    assert call("sweep", suite, "--method", "ft", "--dry-run") == 0
    assert "the tuned values of ft on tiny-vit-p16 come from other trials" in capsys.readouterr().err

    # an entry that was changed by hand is refused
    tuned.write_text(tuned.read_text().replace("nll: ", "nll: 1", 1))
    capsys.readouterr()
    assert call("sweep", suite, "--method", "ft") == 2
    assert "was changed by hand" in capsys.readouterr().err


def test_a_rehearsed_tuning_is_marked_and_ranks_nothing(tmp_path, capsys, monkeypatch, runs_here):
    monkeypatch.chdir(tmp_path)
    suite, tuned = write_suite(tmp_path), tmp_path / "quick.tuned.yaml"
    arguments = ("tune", suite, "--method", "ft")
    assert call(*arguments, "--limit", "24", "--allow-partial") == 0
    part = {"limit": 24, "train_limit": 24, "allow_partial": True}
    assert yaml.safe_load(tuned.read_text())["entries"]["ft"][BACKBONE]["part"] == part
    for folder in folders(tmp_path / "runs"):
        record = read_record(folder / "record.json")
        assert {key: record["spec"][key] for key in part} == part and record["sets"]["validation"]["n"] == 24

    # a sweep may rehearse with these values; one on all images is told, and not ranked
    capsys.readouterr()
    sweep = ("sweep", suite, "--method", "ft", "--dry-run")
    assert call(*sweep, "--limit", "24") == 0
    said = capsys.readouterr()
    assert "tuned one_se of a rehearsal, --limit 24 --allow-partial" in " ".join(said.out.split()) and not said.err
    assert call(*sweep) == 0
    assert "chosen in a rehearsal (--limit 24 --allow-partial), so these runs are not ranked" in capsys.readouterr().err
    benchmark = sweeps.load(suite)
    (run,) = sweeps.expand(benchmark, Request(("ft",)))
    assert sweeps.selection_of(benchmark, run.spec)["rules"] == []

    # values that were chosen on all images are not replaced by those of a rehearsal
    whole = benchmark.tuned.entries["ft"][BACKBONE].model_copy(update={"part": {}})
    tuning.write(benchmark, {"ft": {BACKBONE: whole.model_copy(update={"tuning": whole.digest()})}})
    assert "part" not in yaml.safe_load(tuned.read_text())["entries"]["ft"][BACKBONE]
    assert call(*arguments, "--limit", "24") == 2
    assert f"--limit 24: must not replace the values of ft on {BACKBONE} in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"ft": {"lr": [1e-4]}}, "tuning.space.ft: must give 2 settings, as for every method, got 1"),
        ({"ft": {"lr": [1e-4, 1e-4]}}, "must give 2 settings, as for every method, got 1"),
        ({"ft": {"weight_decay": [0, 1]}}, "may search only lr, got weight_decay"),
        ({"tracer": {"lambda_sd": [0, 1], "beta": [0.5]}}, "may search only lr and lambda_sd, got beta"),
        ({"flyp": {"lr": [1, 2]}}, "ft: digits.tuning.space must name it, got only flyp"),
    ],
)
def test_tuning_gives_every_method_the_same(tmp_path, capsys, space, words):
    suite = write_suite(tmp_path, tuning={"trials": 2, "seeds": [100], "space": space})
    assert call("tune", suite, "--method", "ft", "--runs", tmp_path / "runs") == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


# Bad input


def refused(capsys, *arguments):
    """The sentence that a command was refused with."""
    assert call(*arguments) == 2
    captured = capsys.readouterr()
    sentence = captured.err.strip()
    assert "\n" not in sentence and sentence.startswith("robustft: ") and sentence.endswith((".", "?")), sentence
    return sentence


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["swep", "digits"], "unknown command 'swep'; did you mean 'sweep'?"),
        (["sweep", "digit", "--method", "ft"], "unknown benchmark 'digit'; did you mean 'digits'?"),
        (["sweep", "nowhere.yaml", "--method", "ft"], "no such file"),
        (["sweep", "digits"], "--method: must name at least one method"),
        (["sweep", "digits", "--method", "tracr"], "did you mean 'tracer'?"),
        (["sweep", "digits", "--method", "ft", "--seeds", "0,x"], "--seeds: must be whole numbers"),
        (["sweep", "digits", "--method", "ft", "--jobs", "0"], "--jobs"),
        (["sweep", "digits", "--method", "ft", "--frob"], "--frob"),
        (["sweep", "digits", "--method", "ft", "--device", "tpu"], "--device: must be cpu"),
        (["run", "digits", "--method", "ft", "--set", "lr=0.1,0.2"], "run: makes one run, got 2"),
        (["run", "digits", "--method", "wise_ft", "--set", "alpha=1.5"], "wise_ft.alpha:"),
        (["run", "digits", "--method", "ft", "--set", "batch_size=4096"], "batch_size: must be at most 200"),
        (["run", "digits", "--method", "ft", "--set", "api_key=1"], "must hold no secrets, got the key 'api_key'"),
        (["run", "digits", "--method", "ft", "--set", "lr=null"], "lr: must be set for ft, got null (--set)"),
        (["run", "digits", "--method", "ft", "--set", "lr=2024-13-45"], "got '2024-13-45'"),
        (["run", "digits", "--method", "ft", "--set", "steps=" + "9" * 5000], "not a value that YAML can hold"),
        (["sweep", "digits", "--method", "ft", "--seeds", "0-99999999999"], "must be seeds below 2**31"),
        (["sweep", "digits", "--method", "ft", "--results", "/dev/full"], "--results: must be a folder"),
        (["tune", "digits", "--method", "zero_shot"], "has nothing to tune"),
        (["list", "tracr"], "did you mean 'tracer'?"),
        (["list", "--backbone", "tiny-rn"], "name a method"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert words in refused(capsys, *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("name: [", "not valid YAML"),
        ("- a\n- b", "must be a mapping"),
        (
            {"version": "digits-v0"},
            "version: must be digits-v1, the version of the dataset's card, got digits-v0",
        ),
        ({"backbones": ["tiny-vit-p9"]}, "digits.backbones: unknown backbone 'tiny-vit-p9'; did you mean"),
        ({"methods": ["flip"]}, "digits.methods: unknown method 'flip'; did you mean 'flyp'?"),
        ({"name": "../escaped"}, "quick.yaml: name:"),
        ({"dataset": "digit"}, "unknown dataset 'digit'; did you mean 'digits'?"),
        ({"seeds": "0"}, "quick.yaml: seeds: input should be a valid list, got '0'"),
        ({"seeds": [0, 100]}, "tuning.seeds must be disjoint from seeds, got [100] in both"),
        ({"colour": "red"}, "quick.yaml: colour: is no known key"),
        ({"recipes": {"common": {"steps": 3}}}, "recipes.common.batch_size: is missing"),
        ({"recipes": {"common": {**SUITE["recipes"]["common"], "lr": "big"}}}, "recipes.common.lr:"),
        ({"methods_settings": {"tracer": {"lamda_sd": 1}}}, "did you mean 'lambda_sd'?"),
        ({"methods_settings": {"tracer": {"lambda_sd": -1}}}, "tracer.lambda_sd:"),
    ],
)
def test_a_wrong_suite_is_refused(tmp_path, capsys, change, words):
    suite = write_suite(tmp_path, **(change if isinstance(change, dict) else {}))
    if isinstance(change, str):
        Path(suite).write_text(change)
    assert words in refused(capsys, "sweep", suite, "--method", "tracer", "--runs", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_a_key_that_stands_twice_in_a_suite_is_refused(tmp_path, capsys):
    suite = write_suite(tmp_path)
    Path(suite).write_text(Path(suite).read_text() + "threads: 2\n")
    assert "the key 'threads' stands twice" in refused(capsys, "sweep", suite, "--method", "ft")


def test_a_damaged_or_missing_weights_file_is_refused(tmp_path, monkeypatch, capsys):
    weights = tmp_path / "weights"
    weights.write_bytes(tiny.weights_file(BACKBONE).read_bytes()[:1000])
    monkeypatch.setattr(tiny, "weights_file", lambda name: weights)
    arguments = ("run", write_suite(tmp_path), "--method", "ft", "--runs", tmp_path / "runs")
    assert "weights" in refused(capsys, *arguments)
    weights.unlink()
    assert "weights" in refused(capsys, *arguments)
    assert not folders(tmp_path / "runs")


@pytest.mark.parametrize(
    "command",
    [
        "sweep SUITE --method ft --runs {}", "sweep SUITE --method ft --results {}", "run SUITE --method ft --data {}",
        "leaderboard --runs {}", "leaderboard --results {}", "report --results {}", "figures all --results {}",
        "theory --results {}", "compare ft flyp --benchmark digits --runs {}", "rescore --runs {}", "status --runs {}",
        "retry --data {}", "cancel --all --runs {}", "doctor digits --data {}", "bundle {} --benchmark digits",
        "verify {}", "tune digits --runs {}",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["/dev/full", "file/runs"])
def test_a_file_where_a_folder_is_wanted_is_refused(tmp_path, monkeypatch, capsys, command, place):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    words = command.replace("SUITE", "mine.yaml").format(place).split()
    sentence = refused(capsys, *words)
    where = next((word for word in words if word in ("--runs", "--results", "--data")), "FOLDER")
    got = "the file '/dev/full'" if place == "/dev/full" else "'file/runs', and 'file' is a file"
    assert sentence == f"robustft: {where}: must be a folder, got {got}; name a folder, which may be a new one."
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("variable", ["ROBUSTFT_RUNS", "ROBUSTFT_DATA"])
def test_so_is_one_that_a_variable_names(monkeypatch, capsys, variable):
    monkeypatch.setenv(variable, "/dev/full")
    with pytest.raises(SystemExit) as end:
        cli.main(["status"])
    assert end.value.code == 2 and f"{variable}: must be a folder, got the file '/dev/full'" in capsys.readouterr().err


def test_one_run_ends_with_its_numbers(swept, monkeypatch, capsys):
    root, suite, _ = swept
    monkeypatch.chdir(root)
    assert call("run", suite, "--method", "wise_ft", *QUICK) == 0
    output = capsys.readouterr().out
    assert "OOD mean" in output and "record.json" in output


@pytest.mark.programs
def test_a_run_that_fails_is_told_with_its_log_and_the_others_go_on(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path)
    arguments = ("--method", "ft,wise_ft,flyp", "--set", "ft.lr=1e30", "--set", "wise_ft.lr=1e30", *QUICK)
    assert call("sweep", suite, *arguments, "--jobs", "1") == 1
    output, errors = capsys.readouterr()
    assert f"ft {BACKBONE} seed 0: NonFinite:" in errors and "  | " in errors
    assert f"its input ft {BACKBONE} seed 0 failed" in errors
    assert "done    flyp" in output
    assert essence(folders(tmp_path / "runs", "flyp")[0])[0]["kind"] == "run"
