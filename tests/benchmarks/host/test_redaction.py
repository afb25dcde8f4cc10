"""Secrets and home folders: keys that ask for them are refused, and a canary is found in no file that is written."""

import json
import os
import subprocess
import sys

import pytest
from runs_kit import call, plan_runs, write_suite

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.executors import local as launch
from robustft.benchmarks.executors.slurm import profile as slurm_profile
from robustft.benchmarks.host.redaction import discreet, refuse
from robustft.benchmarks.run_folder.plan import Plan

CANARY = "canary-7f3a9"
KEYS = ["token", "hf_token", "HF-TOKEN", "apiToken", "secret", "client_secret", "password", "DB_PASSWD", "api_key"]
KEYS += ["wandb_api_key", "APIKEY", "access-key", "private_key", "credentials", "passphrase"]
INNOCENT = [
    "lr",
    "tokens",
    "caption_tokens",
    "tokenizer",
    "key",
    "keys",
    "monkey",
    "partition",
    "random_texts",
    "crd_weight",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_key_named_like_a_secret_is_refused_without_its_value(key):
    for content in ({key: CANARY}, {"a": [{"b": {key: CANARY}}]}):
        with pytest.raises(UserError) as caught:
            refuse(content, "my.yaml")
        assert key in str(caught.value) and "environment" in str(caught.value) and CANARY not in str(caught.value)


@pytest.mark.parametrize("key", INNOCENT)
def test_other_keys_are_no_secrets(key):
    refuse({key: "x"}, "my.yaml")


def test_a_secret_is_refused_in_a_suite_a_profile_a_plan_and_a_flag(tmp_path, capsys):
    suite = write_suite(tmp_path, methods_settings={"ft": {"hf_token": CANARY}})
    assert call("sweep", suite, "--method", "ft", "--dry-run") == 2
    assert CANARY not in (told := capsys.readouterr().err) and "'hf_token'" in told
    suite = write_suite(tmp_path)
    for text in (f"api_key={CANARY}", f"ft.api_key={CANARY}"):
        assert call("sweep", suite, "--method", "ft", "--set", text, "--dry-run") == 2
        assert CANARY not in (told := capsys.readouterr().err) and "must hold no secrets" in told
    with pytest.raises(UserError, match="'password' is no key") as caught:
        slurm_profile.read({"partition": "gpu", "password": CANARY}, "cluster.yaml")
    assert CANARY not in str(caught.value)
    (folder,) = plan_runs(tmp_path, "ft")
    content = json.loads(folder.spec.read_text())
    content["spec"]["hyper"]["secret"] = CANARY
    folder.spec.write_text(json.dumps(content))
    with pytest.raises(UserError, match="must hold no secrets") as caught:
        Plan.read(folder)
    assert CANARY not in str(caught.value)


def test_text_is_made_discreet(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("HF_TOKEN", "hf_abcdef123")
    monkeypatch.setenv("HF_TOKEN_2", "hf_abcdef123456")
    monkeypatch.setenv("SECRET_SHORT", "1")
    monkeypatch.setenv("LANG", "en_GB.UTF-8")
    for text, wanted in (
        ('File "/home/ada/robustft/x.py", line 1', 'File "~/robustft/x.py", line 1'),
        ("/home/ada", "~"),
        ("/home/ada2/x /mnt/home/ada/x /home/ada.old", "/home/ada2/x /mnt/home/ada/x /home/ada.old"),
        ("GET ?t=hf_abcdef123&x and hf_abcdef123456", "GET ?t=$HF_TOKEN&x and $HF_TOKEN_2"),
        ("1 en_GB.UTF-8", "1 en_GB.UTF-8"),
    ):
        assert discreet(text) == wanted
    monkeypatch.setenv("HOME", "/")
    assert discreet("/home/ada") == "/home/ada"


FAILS = """
import os, sys, warnings
from pathlib import Path
from robustft.benchmarks.execution import run, worker
def fit(*_, **__):
    place = os.environ["HOME"] + "/data"
    print("reading", place, "with", os.environ["HF_TOKEN"])
    warnings.warn(f"slow: {place}")
    raise RuntimeError(f"{place}: refused {os.environ['HF_TOKEN']}")
ok, bad = map(Path, sys.argv[1:])
assert worker.work(ok, run.Options(), lambda: False)["event"] == "done"
run.fit = fit
outcome = worker.work(bad, run.Options(), lambda: False)
assert outcome["event"] == "failed" and CANARY not in str(outcome), outcome
"""


@pytest.mark.programs
def test_a_canary_of_the_environment_and_the_home_folder_are_in_no_file(tmp_path, capsys, monkeypatch):
    home = tmp_path / f"home-{CANARY}"
    home.mkdir()
    for name in ("HF_TOKEN", "WANDB_API_KEY", "MY_PASSWORD", "AWS_SECRET_ACCESS_KEY", "INNOCENT"):
        monkeypatch.setenv(name, f"{CANARY}-{name}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", os.environ["PATH"])
    (ok,) = plan_runs(home, "ft", "limit=16")
    (bad,) = plan_runs(home, "flyp", "limit=16")
    script = FAILS.replace("CANARY", repr(CANARY))
    done = subprocess.run(
        [sys.executable, "-c", script, ok.path, bad.path], capture_output=True, text=True, timeout=600, cwd=home
    )
    assert done.returncode == 0, done.stderr
    log = bad.log.read_text()
    assert "reading ~/data with $HF_TOKEN" in log and "RuntimeError: ~/data: refused $HF_TOKEN" in log
    assert bad.read_state()["reason"] == "RuntimeError: ~/data: refused $HF_TOKEN"
    assert call("status", "--json", "--runs", home / "runs") == 0
    assert call("leaderboard", "--runs", home / "runs", "--results", home / "results") == 0
    assert CANARY not in capsys.readouterr().out
    written = [path for path in home.rglob("*") if path.is_file()]
    assert len([path for path in written if path.name == "record.json"]) == 1
    assert [str(path) for path in written if CANARY.encode() in path.read_bytes()] == []


def test_the_last_words_of_a_worker_that_died_are_made_discreet(tmp_path, monkeypatch, capsys):
    """Python itself may print a path or a value before our own streams stand in front."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", CANARY)
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    (tmp_path / "python").write_text(f"#!/bin/sh\necho {tmp_path}/x.py: no {CANARY} >&2\nexit 3\n")
    (tmp_path / "python").chmod(0o700)
    suite = write_suite(tmp_path)
    words = ("--method", "ft", "--set", "limit=16", "--jobs", "1")
    assert call("sweep", suite, *words, "--runs", tmp_path / "runs", "--results", tmp_path / "results") == 1
    told = "".join(capsys.readouterr())
    assert "its process ended with exit code 3 (~/x.py: no $HF_TOKEN)" in told
    assert CANARY not in told and f"{tmp_path}/x.py" not in told
