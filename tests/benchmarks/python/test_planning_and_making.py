"""Plans and runs as values: the same ids and the same bytes as from the command line."""

import json
import os
import signal
import sys
import threading

import pytest
from runs_kit import BACKBONE, call, essence, write_suite

import robustft
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.python import making
from robustft.methods import registry
from robustft.methods.ft import FT

pytestmark = pytest.mark.filterwarnings("error")
SETTINGS = {"steps": 3, "limit": 16}


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return write_suite(tmp_path_factory.mktemp("suite"))


@pytest.fixture
def method():
    """Puts methods that a test registers away again."""
    before = dict(registry._methods)
    yield registry.register
    registry._methods.clear()
    registry._methods.update(before)


def test_a_plan_is_that_of_the_sweep(suite, tmp_path, capsys):
    planned = robustft.plan(suite, ["wise_ft", "zero-shot"], settings={"steps": (3, 4), "lr": 1e-5}, limit=16)
    words = ["--method", "wise_ft,zero-shot", "--set", "steps=3,4", "--set", "lr=0.00001", "--limit", "16"]
    capsys.readouterr()
    assert call("sweep", suite, *words, "--runs", tmp_path, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert planned and all(run.id in shown for run in planned)
    assert f"{len(planned)} runs" in shown
    assert [run.spec.method for run in planned if not run.requested] == ["ft", "ft"]
    assert {run.sources["steps"] for run in planned if run.requested and run.spec.steps} == {"--set"}
    assert any("optimiser steps" in caution for caution in planned[0].cautions)
    assert planned[0].id in repr(planned[0]) and len(repr(planned)) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "more, says",
    [
        ({"methods": "tracerr"}, "unknown method 'tracerr'; did you mean 'tracer'"),
        ({"settings": {"stepz": 1}}, "unknown key 'stepz'"),
        ({"settings": {"lr": float("nan")}}, "settings: lr must be a finite number"),
        ({"settings": {"lr": object()}}, "settings: lr must be"),
        ({"settings": {"lr": -1.0}}, "lr: input should be greater than 0"),
        ({"methods": []}, "methods: must name at least one method"),
        ({"seeds": ["a"]}, "seed: "),
        ({"limit": 1}, "limit: must be a whole number of at least 2"),
        ({"rule": "luck"}, "unknown rule 'luck'"),
        ({"recipe": "luck"}, "unknown recipe 'luck'"),
        ({"backbones": "RN51"}, "RN51"),
    ],
)
def test_a_mistake_is_one_error_with_one_sentence(suite, more, says, capfd):
    with pytest.raises(robustft.UserError) as caught:
        robustft.plan(suite, **{"methods": "ft", **more})
    assert says in str(caught.value) and "\n" not in str(caught.value) and isinstance(caught.value, ValueError)
    assert not str(caught.value).startswith("-") and capfd.readouterr() == ("", "")


def test_activations_that_a_tower_cannot_compute_again_are_refused_before_a_folder_is_made(tmp_path):
    planned = robustft.plan(write_suite(tmp_path, backbones=["tiny-rn"]), "ft", seeds=[0])
    with pytest.raises(robustft.UserError, match="checkpoint-activations: must be left out for tiny-rn"):
        robustft.run(planned, tmp_path / "runs", checkpoint_activations=True)
    assert not list((tmp_path / "runs").rglob("spec.json"))


def test_an_unknown_suite_is_such_a_mistake():
    with pytest.raises(robustft.UserError, match="digit"):
        robustft.plan("digitz", "ft")


def test_a_run_made_here_is_the_run_of_the_command(suite, tmp_path, monkeypatch, capfd):
    here, there = tmp_path / "here", tmp_path / "there"
    planned = robustft.plan(suite, "wise_ft", settings=SETTINGS)
    records = robustft.run(planned, here)
    assert capfd.readouterr() == ("", "")  # neither a terminal nor a notebook
    assert [record["run_id"] for record in records] == [run.id for run in planned]
    from runs_kit import run_here

    monkeypatch.setattr(Launcher, "run", run_here)
    words = ["--method", "wise_ft", "--set", "steps=3", "--set", "limit=16", "--results", tmp_path / "results"]
    assert call("sweep", suite, *words, "--runs", there) == 0
    folders = sorted(path.parent.relative_to(here) for path in here.rglob("record.json"))
    assert len(folders) == len(planned) and folders == sorted(
        p.parent.relative_to(there) for p in there.rglob("record.json")
    )
    for folder in folders:
        assert essence(here / folder) == essence(there / folder)
        assert (here / folder / "spec.json").read_bytes() == (there / folder / "spec.json").read_bytes()
        assert " start " in (here / folder / "log").read_text()


def test_what_is_done_is_not_made_again_and_the_process_is_as_before(suite, tmp_path, capsys):
    import torch

    (planned,) = robustft.plan(suite, "ft", settings={**SETTINGS, "steps": 2})
    torch.manual_seed(5)
    expected = torch.rand(2).tolist()
    torch.manual_seed(5)
    handler = signal.getsignal(signal.SIGINT)
    (first,) = robustft.run(planned, tmp_path, progress=True, keep="none")
    assert f"done    ft {BACKBONE} seed 0" in capsys.readouterr().out
    assert torch.rand(2).tolist() == expected and signal.getsignal(signal.SIGINT) is handler
    (folder,) = tmp_path.glob("*/*/*/*")
    assert not (folder / "weights" / "final.safetensors").exists()
    (again,) = robustft.run([planned], tmp_path)
    assert again == first and (folder / "log").read_text().count(" start ") == 1


class Stopping(FT):
    """Presses Ctrl-C in its second step, once."""

    pressed = 0

    def loss(self, student, teacher, batch):
        type(self).pressed += 1
        if type(self).pressed == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return super().loss(student, teacher, batch)


def test_an_interrupt_leaves_a_checkpoint_and_a_second_call_goes_on(suite, tmp_path, method):
    method("stopping")(Stopping)
    planned = robustft.plan(suite, "stopping", settings={**SETTINGS, "steps": 4})
    with pytest.raises(KeyboardInterrupt):
        robustft.run(planned, tmp_path)
    (folder,) = tmp_path.glob("*/stopping/*/*")
    assert json.loads((folder / "state.json").read_text())["state"] == "checkpointed"
    assert list((folder / "checkpoints").iterdir()) and not (folder / "record.json").exists()
    (record,) = robustft.run(planned, tmp_path)
    assert record["method"] == "stopping" and Stopping.pressed == 4  # no step was made twice
    assert record["spec"]["method_code"] == planned[0].spec.method_code
    (frame,) = {tuple(robustft.board(None, tmp_path, reference=False)["method"])}
    assert frame == ("stopping",)


def test_an_error_of_ones_own_comes_out_as_it_is(suite, tmp_path, method):
    @method("wrong")
    class Wrong(FT):
        def loss(self, student, teacher, batch):
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine") as caught:
        robustft.run(robustft.plan(suite, "wrong", settings=SETTINGS), tmp_path)
    assert caught.traceback[-1].name == "loss"
    (folder,) = tmp_path.glob("*/wrong/*/*")
    assert json.loads((folder / "state.json").read_text())["state"] == "failed"


def test_a_method_that_changed_since_it_was_planned_is_refused(suite, tmp_path, method):
    def define(value):
        registry._methods.pop("mine", None)

        @method("mine")
        class Mine(FT):
            def penalty(self, student, start):
                return {} if value else {}

    define(1)
    first = robustft.plan(suite, "mine", settings=SETTINGS)
    define(2)
    assert robustft.plan(suite, "mine", settings=SETTINGS)[0].id != first[0].id
    with pytest.raises(robustft.UserError, match="method_code: must be"):
        robustft.run(first, tmp_path)


def test_a_cell_that_is_run_again_replaces_its_class(method):
    def define(module):
        return type("Mine", (FT,), {"__module__": module})

    method("mine")(define("__main__"))
    again = method("mine")(define("__main__"))
    assert registry.get("mine") is again
    with pytest.raises(ValueError, match="registered twice"):
        method("mine")(define("other"))
    with pytest.raises(ValueError, match="registered twice"):
        method("ft")(define("__main__"))


def test_a_part_of_a_plan_needs_what_it_reads_and_may_have_any_order(suite, tmp_path):
    planned = robustft.plan(suite, "wise_ft", settings=SETTINGS)
    with pytest.raises(robustft.UserError, match="reads the run .* which must be in the plan"):
        robustft.run([run for run in planned if run.requested], tmp_path)
    assert [run.spec.method for run in making._ordered({run.id: run for run in planned[::-1]}).copy()][0] == "ft"


def test_a_place_that_cannot_be_is_refused_before_anything_is_written(suite, tmp_path):
    planned = robustft.plan(suite, "ft", settings=SETTINGS)
    (tmp_path / "file").write_text("")
    with pytest.raises(robustft.UserError, match="^runs: must be a folder"):
        robustft.run(planned, tmp_path / "file")
    with pytest.raises(robustft.UserError, match="^device: must be cpu"):
        robustft.run(planned, tmp_path / "runs", device="tpu")
    assert not (tmp_path / "runs").exists()


def test_runs_are_made_in_a_thread_too(suite, tmp_path):
    planned, found = robustft.plan(suite, "zero_shot", settings={"limit": 8}), []
    thread = threading.Thread(target=lambda: found.extend(robustft.run(planned, tmp_path)))
    thread.start()
    thread.join()
    assert [record["backbone"] for record in found] == [BACKBONE]


def test_what_a_notebook_prints_meanwhile_goes_to_the_log(suite, tmp_path, method, monkeypatch):
    """A notebook's streams are no files of the process."""
    import io

    @method("loud")
    class Loud(FT):
        def loss(self, student, teacher, batch):
            print("said by the method")
            return super().loss(student, teacher, batch)

    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    robustft.run(robustft.plan(suite, "loud", settings=SETTINGS), tmp_path)
    (folder,) = tmp_path.glob("*/loud/*/*")
    assert (folder / "log").read_text().count("said by the method") == 3 and shown.getvalue() == ""
