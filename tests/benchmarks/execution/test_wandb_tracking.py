"""--wandb: what it writes without an account, what it never writes, and that no failure of it stops a run."""

import getpass
import json
import os
import socket
from pathlib import Path

import pytest
from make_records import make_record
from repository import ROOT
from runs_kit import call, essence, folders, plan_runs, write_suite

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution import wandb_tracking
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.run_folder.plan import Plan

BLOCK = 32768  # of the log format


def messages(path):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format, whose items are protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, at, parts = path.read_bytes(), 7, []
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if BLOCK - at % BLOCK < 7:  # no room for another head: the block is padded
            at += BLOCK - at % BLOCK
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        parts.append(content[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(b"".join(parts))
            parts = []


def written(folder):
    """(run ids, config, rows, summary) of everything that wandb has kept of a run folder, in order."""
    ids, config, rows, summary = [], {}, [], {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for message in messages(path):
            if message.HasField("run"):
                ids.append(message.run.run_id)
                config |= {item.key: json.loads(item.value_json) for item in message.run.config.update if item.key}
            if message.HasField("history"):
                found = {(item.key or "/".join(item.nested_key)): item.value_json for item in message.history.item}
                rows.append({key: json.loads(text) for key, text in found.items() if not key.startswith("_")})
            if message.HasField("summary"):
                for item in message.summary.update:
                    summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    return ids, config, rows, summary


@pytest.fixture(scope="module")
def tracked(tmp_path_factory):
    """A run that was asked to stop in its middle and went on in a second attempt, followed offline."""
    root = tmp_path_factory.mktemp("tracked")
    (folder,) = plan_runs(root, "flyp", "limit=32")
    wandb_tracking.choose(folder.path, "offline")
    patch = pytest.MonkeyPatch()
    patch.setenv("ROBUSTFT_TEST_SECRET", "value-that-must-not-leave")
    asked = iter([False, False, True])
    try:
        first = work(folder.path, Options(checkpoint_seconds=0), lambda: next(asked, True))
        second = work(folder.path, Options(checkpoint_seconds=0), lambda: False)
    finally:
        patch.undo()
    assert (first["event"], second["event"]) == ("interrupted", "done"), folder.log.read_text()
    return folder


def test_two_attempts_are_one_wandb_run_with_settings_curves_and_final_metrics(tracked):
    import pandas as pd

    ids, config, rows, summary = written(tracked.path)
    spec = Plan.read(tracked).spec
    assert len(list(tracked.path.glob("wandb/offline-run-*"))) == 2 and set(ids) == {spec.run_id}
    assert config["lr"] == spec.lr and config["hyper"] == spec.hyper and config["method"] == "flyp"
    curves = pd.read_parquet(tracked.curves).to_dict("records")
    sent = {row["step"]: row for row in rows}
    assert sorted(sent) == [row["step"] for row in curves]
    for row in curves:
        assert {key: sent[row["step"]][key] for key in row} == pytest.approx(row)
    record = json.loads(tracked.record.read_text())
    assert summary["acc_ood_mean"] == record["summary"]["acc_ood_mean"]
    for name, metrics in record["sets"].items():
        assert summary[f"{name}/accuracy"] == metrics["accuracy"] and summary[f"{name}/ece"] == metrics["ece"]
    assert summary["cost/images_seen"] == record["cost"]["images_seen"]


def test_nothing_of_the_environment_or_the_machine_is_sent(tracked):
    sent = [
        path for path in tracked.path.glob("wandb/offline-run-*/**/*") if path.is_file() and path.parent.name != "logs"
    ]
    assert len(sent) >= 2
    content = b"".join(path.read_bytes() for path in sent)
    assert b"images_seen" in content
    secrets = {"value-that-must-not-leave", str(Path.home()), str(tracked.path), os.getcwd(), socket.gethostname()}
    secrets |= {str(ROOT), f"user={getpass.getuser()}"}
    for secret in secrets - {"/"}:
        if len(secret) > 3:
            assert secret.encode() not in content, secret


def test_tracking_changes_no_bit_of_a_run_and_not_its_id(tracked, tmp_path):
    (plain,) = plan_runs(tmp_path, "flyp", "limit=32")
    assert work(plain.path, Options(), lambda: False)["event"] == "done"
    assert plain.path.name == tracked.path.name and essence(plain.path) == essence(tracked.path)
    assert not (plain.path / "wandb").exists()


@pytest.mark.parametrize("error", [RuntimeError("no account"), SystemExit(1), KeyboardInterrupt()])
def test_a_failure_of_wandb_is_a_line_in_the_log_and_the_run_is_done(tmp_path, monkeypatch, error):
    import wandb

    def fail(**_):
        raise error

    monkeypatch.setattr(wandb, "init", fail)
    (folder,) = plan_runs(tmp_path, "flyp", "limit=32")
    wandb_tracking.choose(folder.path, "online")
    assert work(folder.path, Options(), lambda: False)["event"] == "done"
    assert f"wandb: {type(error).__name__}" in folder.log.read_text() and folder.done()


def test_a_wandb_that_hangs_delays_the_end_only(tmp_path, monkeypatch):
    import threading

    import wandb

    for_ever = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **_: for_ever.wait())
    monkeypatch.setitem(wandb_tracking.PATIENCE_SECONDS, "online", 0.01)
    spec = Plan.read(plan_runs(tmp_path, "flyp")[0]).spec
    wandb_tracking.choose(tmp_path, "online")
    with wandb_tracking.following(tmp_path, spec) as tracker:
        tracker.row({"step": 0, "total": 1.0})
        tracker.record(make_record("flyp"))
    assert tracker.thread.is_alive() and tracker.thread.daemon
    for_ever.set()


def test_the_choice_is_the_folders_until_another_is_made(tmp_path):
    assert wandb_tracking.chosen(tmp_path) == "off"
    wandb_tracking.choose(tmp_path, "offline")
    assert wandb_tracking.chosen(tmp_path) == "offline"
    wandb_tracking.choose(tmp_path, "off")
    assert wandb_tracking.chosen(tmp_path) == "off" and list(tmp_path.iterdir()) == []


def test_only_numbers_of_a_record_are_final_values():
    record = make_record("ft")
    record["sets"]["id"]["group_accuracy"] = {"a": 0.5}
    record["cost"]["note"] = "text"
    values = wandb_tracking.final_values(record)
    assert values["id/accuracy"] == 0.8 and values["cost/wall_seconds"] == 60.0 and values["acc_id"] == 0.8
    assert not [key for key in values if "note" in key or "group" in key or key.endswith("role")]


def test_the_flag_reaches_the_runs_and_asks_for_the_package(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path)
    flags = ("run", suite, "--method", "zero_shot", "--limit", "32", "--wandb", "offline")
    monkeypatch.setattr(wandb_tracking.importlib.util, "find_spec", lambda name: None)
    assert call(*flags) == 2
    assert "--wandb: must be off where wandb is not installed, got offline" in capsys.readouterr().err
    assert folders("runs") == [] or wandb_tracking.chosen(folders("runs")[0]) == "off"
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "_launch", lambda *_: [])  # what a followed run does is tested above
    call(*flags)
    (folder,) = folders("runs")
    assert wandb_tracking.chosen(folder) == "offline"
    call(*flags[:-2])
    assert wandb_tracking.chosen(folder) == "offline"  # what goes on with a run goes on following it
    call(*flags[:-1], "off")
    assert wandb_tracking.chosen(folder) == "off"
