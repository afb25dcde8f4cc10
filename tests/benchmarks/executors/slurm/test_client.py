"""SLURM's queue is read as its commands print it, with accounts and without."""

import os
import stat

import pytest

from robustft.benchmarks.executors.slurm import client as queue
from robustft.benchmarks.executors.slurm.client import Entry, QueueError


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Puts a command that prints and exits as told in front of the real ones."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def make(name, output="", errors="", code=0):
        path = tmp_path / name
        path.write_text(
            f'#!/bin/sh\necho "$@" >> {tmp_path}/{name}.calls\ncat <<"END"\n{output}\nEND\n'
            f'printf "%s" "{errors}" >&2\nexit {code}\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return lambda: (tmp_path / f"{name}.calls").read_text().splitlines()

    return make


def test_jobs_are_listed_by_name_with_state_and_reason(command):
    command("squeue", "7_0|RUNNING|None|robustft-a\n7_1|PENDING|BeginTime|robustft-a\n9|PENDING|Priority|mine")
    assert queue.listed("robustft-") == [
        Entry("7_0", "robustft-a", "RUNNING", "None"),
        Entry("7_1", "robustft-a", "PENDING", "BeginTime"),
    ]
    assert len(queue.listed()) == 3


def test_a_users_own_defaults_hide_no_job(command, tmp_path, monkeypatch):
    """Jobs that are not listed count as gone, and would be submitted again."""
    command("squeue")
    (tmp_path / "squeue").write_text('#!/bin/sh\necho "7|PENDING|None|robustft-a$SQUEUE_STATES"\n')
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    assert [entry.name for entry in queue.listed()] == ["robustft-a"]


def test_a_silent_controller_is_one_sentence(command):
    command("squeue", errors="slurm_load_jobs error: Unable to contact slurm controller (connect failure)", code=1)
    with pytest.raises(QueueError, match="squeue: .*Unable to contact slurm controller"):
        queue.listed()


def test_endings_come_from_the_accounts_where_there_are_any(command):
    command("sacct", "7_0|COMPLETED\n7_1|CANCELLED by 1000\n7_[2-5]|PENDING")
    assert queue.states(["7_0", "7_1", "7_2"]) == {"7_0": "COMPLETED", "7_1": "CANCELLED"}
    command("sacct", errors="Slurm accounting storage is disabled", code=1)
    assert queue.states(["7_0"]) == {}


def test_cancelling_what_is_over_is_no_error_and_other_refusals_are(command):
    calls = command("scancel", errors="scancel: error: Kill job error on job id 7: Invalid job id specified", code=1)
    queue.cancel(["8", "7", "7"])
    assert calls() == ["7 8"]
    command("scancel", errors="scancel: error: Kill job error on job id 7: Access/permission denied", code=1)
    with pytest.raises(QueueError, match="permission denied"):
        queue.cancel(["7"])


def test_the_cluster_says_how_long_an_array_may_be(command):
    command("scontrol", "AccountingStorageType   = (null)\nMaxArraySize            = 1001\nMaxJobCount = 10")
    assert queue.setting("MaxArraySize") == "1001"
    assert queue.setting("Missing") is None
