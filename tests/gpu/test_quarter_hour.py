"""Every branch of the GPU script that a CPU can go through, and the page that shows its file."""

import json
import time
from functools import partial
from types import SimpleNamespace
from unittest import mock

import gpu_page
import pytest
import quarter_hour
import torch
from quarter_hour import CHECKS, DEVIATIONS, Entry, Failed, NotRun, Place, against_committed, carry_out
from runs_kit import run_here

import robustft
from robustft.benchmarks.executors.local import Launcher
from robustft.methods.training import dynamics
from robustft.results.records import records


def start(*words):
    """The script in this process; its exit code."""
    with pytest.raises(SystemExit) as ended:
        quarter_hour.main(list(map(str, words)), standalone_mode=False)
    return int(ended.value.code)


@pytest.fixture
def place(tmp_path):
    return Place("cpu", True, tmp_path)


# a rehearsal


@pytest.mark.programs
def test_a_rehearsal_goes_through_every_check(tmp_path, monkeypatch, capsys):
    """Of the speed table with its first backbone: the others are the same functions."""
    backbone, others = quarter_hour.SPEED[0][0], tuple(f" of {name}" for name, _ in quarter_hour.SPEED[1:])
    checks = [entry for entry in CHECKS if not entry.name.endswith(others)]
    monkeypatch.setattr(quarter_hour, "CHECKS", checks)
    few = mock.patch.object(dynamics, "PROBE_IMAGES", 16)
    with few, mock.patch.object(Launcher, "run", run_here):
        code = start("--device", "cpu", "--small", "--minutes", 600, "--out", tmp_path / "out.json")
    said, report = capsys.readouterr().out, json.loads((tmp_path / "out.json").read_text())
    assert [result["name"] for result in report["results"]] == [entry.name for entry in checks]
    assert [result for result in report["results"] if result["state"] != "passed"] == [] and code == 0
    found = {result["name"]: result["numbers"] for result in report["results"]}
    assert found["losses"] == dict.fromkeys(quarter_hour.METHODS, 0.0)
    assert found["resume"]["same_bits"] and found["resume"]["went_on_from"] == found["resume"]["steps"] // 2
    assert found["processes"]["processes"] == 1 and found["jobs"]["seconds"].keys() == set(quarter_hour.METHODS)
    assert found[f"step of {backbone}"]["tracer"]["images_per_second"] > 0
    assert len(found[f"parts of {backbone}"]) == 2
    for result in report["results"]:
        assert f"passed   {result['name']} (" in said and result["proves"] in said and result["numbers"]
    assert f"{len(checks)} passed, 0 failed, 0 not run; wrote" in said
    assert report["machine"]["packages"]["torch"] and report["machine"]["gpus"] == []

    with pytest.raises(ValueError, match="rehearsal"):
        gpu_page.page(tmp_path / "out.json")
    shown = gpu_page.page(of_a_gpu(report, tmp_path / "gpu.json"))
    for result in report["results"]:
        assert f"| {result['name']} | {result['proves']} | **passed** |" in shown
    assert f"step of {backbone}**, batch 4, bf16" in shown and "| open_clip |" in shown and "Stand-in (80 GB)" in shown


def of_a_gpu(report, path):
    """The same report as a GPU would have given it."""
    machine = report["machine"] | {"gpus": [{"name": "Stand-in", "gigabytes": 80.0}], "driver": "1.2", "cuda": "3.4"}
    path.write_text(json.dumps(report | {"device": "cuda", "small": False, "machine": machine}))
    return path


@pytest.mark.programs
def test_two_processes_share_batches(place, monkeypatch):
    """Forked here, which costs no imports; on GPUs they are started anew."""
    forked = partial(torch.multiprocessing.start_processes, start_method="fork")
    monkeypatch.setattr(torch.multiprocessing, "spawn", forked)
    numbers = quarter_hour.processes(place, ("cpu", "cpu"))
    assert numbers["processes"] == 2 and 0 < numbers["largest_difference"] <= quarter_hour.EXACT


# what fails, and what is not run


def fine(place):
    """All is well."""
    return {"ratio": 1.234567}


def wrong(place):
    """It is well."""
    raise Failed("it is not", {"ratio": 2.0})


def broken(place):
    """It ends."""
    raise ZeroDivisionError("by\nzero")


def nothing(place):
    """What is not there is well."""
    raise NotRun("nothing is there")


def endless(place):
    """It never ends."""
    while True:
        time.sleep(0.01)


def test_a_check_that_fails_does_not_stop_the_others(place, capsys):
    entries = [Entry(check.__name__, check, 0) for check in (wrong, broken, nothing, fine)]
    kept = []
    results = carry_out(entries, place, 100, lambda results: kept.append(len(results)))
    assert [result["state"] for result in results] == ["failed", "failed", "not run", "passed"] and kept == [1, 2, 3, 4]
    assert [result.get("reason") for result in results] == [
        "it is not",
        "ZeroDivisionError: by zero",
        "nothing is there",
        None,
    ]
    assert results[0]["numbers"] == {"ratio": 2.0} and place.found == {"fine": {"ratio": 1.234567}}
    said = capsys.readouterr().out
    assert "failed   wrong (0 s): It is well.\n         it is not\n         ratio: 2\n" in said
    assert "         ratio: 1.23\n" in said
    lines = gpu_page.checks(results)[2:]
    assert lines[0].startswith("| wrong | It is well. | **failed** | it is not; ratio 2 | ")
    assert "| **not run** | nothing is there |" in lines[2]


def test_a_check_that_no_longer_fits_is_not_run(place):
    results = carry_out([Entry("long", fine, 20), Entry("short", fine, 5)], place, 10, lambda results: None)
    assert [result["state"] for result in results] == ["not run", "passed"]
    assert "it may take 20 s, and " in results[0]["reason"] and "long" not in place.found


@pytest.mark.parametrize("left, state", [(100, "failed"), (0.04, "not run")], ids=["it hangs", "time is up"])
def test_a_check_that_does_not_end_is_ended(tmp_path, left, state):
    entry, place = Entry("endless", endless, 0.03), Place("cpu", False, tmp_path)
    result = quarter_hour.attempt(entry, place, left)
    assert result["state"] == state and "it had not ended after 0 s" == result["reason"]


def test_all_checks_fit_into_eight_minutes_and_say_in_a_sentence_what_they_prove():
    assert sum(entry.budget for entry in CHECKS) <= 480
    assert len({entry.name for entry in CHECKS}) == len(CHECKS)
    for entry in CHECKS:
        assert entry.proves.endswith(".") and ". " not in entry.proves


def test_without_a_gpu_there_is_one_sentence_and_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert start("--out", tmp_path / "out.json") == 2
    assert capsys.readouterr().err.startswith("no GPU: ") and not list(tmp_path.iterdir())


def test_the_exit_code_says_that_something_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quarter_hour, "CHECKS", (Entry("wrong", wrong, 0), Entry("fine", fine, 0)))
    assert start("--device", "cpu", "--out", tmp_path / "out.json") == 1
    assert "1 passed, 1 failed, 0 not run; wrote" in capsys.readouterr().out
    assert len(json.loads((tmp_path / "out.json").read_text())["results"]) == 2


def test_checks_that_build_on_others_are_not_run_without_them(place):
    for check in (quarter_hour.shared, lambda place: quarter_hour.compiled(place, "ViT-B-16", 4)):
        with pytest.raises(NotRun):
            check(place)


# what is judged


def test_the_committed_row_judges_the_very_runs_that_the_script_makes():
    """Else nothing would be compared: of TRACER and FT there is a row of several seeds with the suite's settings."""
    committed = [record for record in records.gather_reference("digits") if record["backbone"] == quarter_hour.BACKBONE]
    planned = robustft.plan("digits", quarter_hour.METHODS, backbones=quarter_hour.BACKBONE, seeds=0)
    known = {record["run_id"]: record for record in committed}
    now = {each.id: {"spec": each.spec.model_dump(mode="json")} for each in planned}
    made = [known[run_id] | written for run_id, written in now.items() if run_id in known]
    numbers = against_committed(made, committed)
    assert {"tracer", "ft"} <= numbers.keys() and all(told["seeds"] >= 3 for told in numbers.values())

    (record,) = [record for record in made if record["method"] == "ft"]
    told = numbers["ft"]
    for factor, passes in ((DEVIATIONS - 0.1, True), (DEVIATIONS + 0.1, False)):
        accuracy = (told["acc_id_committed"] - factor * told["acc_id_deviation"]) / 100
        moved = record | {"summary": record["summary"] | {"acc_id": accuracy}}
        if passes:
            against_committed([moved], committed)
        else:
            with pytest.raises(Failed, match="ft acc_id") as failure:
                against_committed([moved], committed)
            assert failure.value.numbers["ft"]["acc_id"] == pytest.approx(100 * accuracy, abs=0.01)
    other = record | {"run_id": "of other settings"}
    assert against_committed([other], committed)["ft"]["committed"] == "no row of these settings"


def test_not_a_number_is_far_from_everything():
    committed = [record for record in records.gather_reference("digits") if record["method"] == "ft"]
    broken = committed[0] | {"summary": committed[0]["summary"] | {"acc_id": float("nan")}}
    with pytest.raises(Failed):
        against_committed([broken], committed)


@pytest.mark.parametrize(
    "check, made, why",
    [
        (quarter_hour.losses, {"0.total": torch.tensor([1.0])}, "differs by 2.0e-04"),
        (quarter_hour.micro_batches, {"0.total": torch.tensor([1.0])}, "0.total differs"),
        (quarter_hour.bfloat16, {"1.total": torch.tensor([float("nan")])}, "1.total is not finite"),
    ],
    ids=["losses", "micro-batches", "bfloat16"],
)
def test_numbers_that_differ_or_are_none_fail(place, monkeypatch, check, made, why):
    calls = iter([made, {name: tensor + 2e-4 for name, tensor in made.items()}] * 3)
    monkeypatch.setattr(quarter_hour, "trained", lambda *words, **more: next(calls))
    with pytest.raises(Failed, match=why):
        check(place)


def test_a_run_that_ended_before_it_was_killed_proves_nothing(place, monkeypatch):
    ended = SimpleNamespace(returncode=0, stderr="all done")
    monkeypatch.setattr(quarter_hour.subprocess, "run", lambda *words, **more: ended)
    with pytest.raises(Failed, match="it was to be killed, and ended with 0: all done"):
        quarter_hour.resume(place)


def test_what_only_one_side_has_is_far():
    assert quarter_hour.furthest({"a": torch.ones(1)}, {"b": torch.ones(1)})[0] == float("inf")


def test_gpus_driver_and_packages_are_told(monkeypatch):
    about = SimpleNamespace(name="Stand-in", total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: about)
    monkeypatch.setenv("PATH", "")
    told = quarter_hour.machine("cuda")
    assert told["gpus"] == [{"name": "Stand-in", "gigabytes": 80.0}] * 2 and told["driver"] is None


# the page


def test_without_a_file_the_page_says_that_no_gpu_was_at_hand(tmp_path):
    assert gpu_page.page(tmp_path / "gpu.json").startswith("No GPU was at hand: ")


def test_the_page_has_a_place_for_it():
    assert (gpu_page.FILE.parent / "speed.md").read_text().count("<!-- speed: gpu -->") == 1
