"""Run folders: one process at a time, whoever dies when; and a finished run stays finished."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from lease_kit import dead_process, plant

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.lease import Holder, LeaseLost, Observer, Process, claim, tidy


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "toy" / "ft" / "tiny-a" / "seed0-0123456789ab"
    path.mkdir(parents=True)
    return RunFolder(path)


def test_a_lease_has_one_holder(folder):
    first = claim(folder, Observer())
    assert first is not None
    assert claim(folder, Observer()) is None
    first.check()
    first.release()
    assert claim(folder, Observer()).holder.fence == 2


def test_the_lease_of_a_dead_process_is_taken_over(folder):
    plant(folder, fence=7, **dead_process())
    lease = claim(folder, Observer())
    assert lease.holder.fence == 8


def test_a_pid_that_was_given_out_again_is_another_process(folder):
    plant(folder, start="12345")  # our own pid, but another start time
    assert claim(folder, Observer()) is not None


def test_a_zombie_holds_nothing(folder):
    child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    start = open(f"/proc/{child.pid}/stat").read().rpartition(")")[2].split()[19]
    plant(folder, pid=child.pid, start=start)
    assert claim(folder, Observer()) is None
    os.kill(child.pid, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while Process(**{**vars(Process.current()), "pid": child.pid, "start": start}).alive():
        assert time.monotonic() < deadline
    assert claim(folder, Observer()) is not None  # not waited for yet: a zombie
    child.wait()


def test_a_lease_from_before_a_reboot_is_dead(folder):
    plant(folder, boot="00000000-0000-0000-0000-000000000000 pid:[1]")
    assert claim(folder, Observer()) is not None


def test_a_lease_of_another_machine_is_dead_after_three_intervals_without_a_beat(folder):
    now = [0.0]
    observer = Observer(interval=10, clock=lambda: now[0])
    plant(folder, token="far", host="elsewhere")
    assert observer.alive(folder.lease) is not None
    now[0] = 29
    assert observer.alive(folder.lease) is not None
    (folder.lease / "beat").write_text("1")
    now[0] = 31
    assert observer.alive(folder.lease) is not None  # it beat, so its time starts anew
    now[0] = 60
    assert observer.alive(folder.lease) is not None
    now[0] = 61.5
    assert observer.alive(folder.lease) is None
    assert claim(folder, Observer()) is None  # an observer that has seen nothing takes nothing
    assert claim(folder, Observer(), dead="far") is not None


def test_another_container_on_this_host_is_judged_by_its_heartbeat():
    here = Process.current()
    other = Process(here.host, here.boot.partition(" ")[0] + " pid:[1]", 1, "1")
    assert other.alive() is None


def test_who_lost_its_lease_writes_nothing(folder):
    old = claim(folder, Observer())
    folder.write_state(guard=old.check, state="running", step=1)
    taken = claim(folder, Observer(), dead=old.holder.token)  # as after a long stop of this process
    assert taken.holder.fence == old.holder.fence + 1
    for write in (old.check, old.beat, lambda: folder.write_state(guard=old.check, state="running", step=2)):
        with pytest.raises(LeaseLost):
            write()
    old.release()  # must not give away what is no longer its own
    taken.check()
    assert folder.read_state()["step"] == 1


def test_a_slow_taker_cannot_bury_the_lease_of_a_faster_one(folder, monkeypatch):
    plant(folder, token="dead", **dead_process())
    real, stolen = os.rename, []

    def rename(source, target):
        if not stolen and str(source) == str(folder.lease):
            stolen.append(True)
            stolen.append(claim(folder, Observer()))  # another taker does it all in between
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    assert claim(folder, Observer()) is None
    stolen[1].check()


def race(path, start, won):
    start.wait()
    if claim(RunFolder(path), Observer()) is not None:
        won.put(os.getpid())
        time.sleep(3)  # live on, so that the lease is not a dead one


@pytest.mark.parametrize("dead", [False, True], ids=["free", "dead lease"])
def test_of_many_processes_one_wins(folder, dead):
    if dead:
        plant(folder, **dead_process())
    context = multiprocessing.get_context("fork")
    start, won = context.Event(), context.Queue()
    racers = [context.Process(target=race, args=(folder.path, start, won)) for _ in range(12)]
    for racer in racers:
        racer.start()
    start.set()
    winner = won.get(timeout=30)
    for racer in racers:
        racer.join(timeout=30)
    assert won.empty() and winner in {racer.pid for racer in racers}


def test_a_lease_is_never_without_an_owner(folder, monkeypatch):
    monkeypatch.setattr(os, "rename", lambda *_: os._exit(1))
    pid = os.fork()
    if pid == 0:
        claim(folder, Observer())
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    monkeypatch.undo()
    assert not folder.lease.exists()  # killed before the rename: as if it had never tried
    assert claim(folder, Observer()) is not None


@pytest.mark.parametrize("owner", [None, "", "{}", "[]", '{"host": "h"}'])
def test_a_damaged_lease_is_buried_and_stops_nobody(folder, owner):
    folder.lease.mkdir()
    if owner is not None:
        (folder.lease / "owner.json").write_text(owner)
    assert Holder.read(folder.lease) is None
    lease = claim(folder, Observer())
    assert lease is not None and Holder.read(folder.lease) == lease.holder
    assert claim(folder, Observer()) is None


def test_a_lease_that_is_taken_between_two_looks_is_not_buried(folder, monkeypatch):
    first = claim(folder, Observer())
    looks = iter([None, None])
    real = Holder.read.__func__
    monkeypatch.setattr(Holder, "read", classmethod(lambda cls, path: _late(looks, real, cls, path)))
    assert claim(folder, Observer()) is None
    monkeypatch.undo()
    assert Holder.read(folder.lease) == first.holder


def _late(looks, real, cls, path):
    """None for the first two looks, as if the lease were not there yet; the truth afterwards."""
    for answer in looks:
        return answer
    return real(cls, path)


def test_a_record_alone_means_done(folder):
    folder.write_state(state="done")
    assert not folder.done()
    folder.record.write_text(json.dumps({"run_id": "0123456789ab"}))
    assert folder.done()


@pytest.mark.parametrize("content", ["", "{", '{"run_id": "ffffffffffff"}', "[]", "null"])
def test_a_damaged_record_is_refused_and_not_run_over(folder, content):
    folder.record.write_text(content)
    with pytest.raises(UserError, match="restore it, or delete it to run again"):
        folder.done()
    assert folder.record.read_text() == content


def test_tidy_keeps_the_record_and_the_weights_and_the_leases_of_the_living(folder):
    claim(folder, Observer()).release()
    folder.checkpoints.mkdir()
    (folder.checkpoints / "step-1.json").write_text("{}")
    tidy(folder, Observer())
    assert folder.checkpoints.exists()  # not done: they are needed
    folder.weights.parent.mkdir()
    folder.weights.write_bytes(b"w")
    folder.record.write_text(json.dumps({"run_id": "0123456789ab"}))
    lease = claim(folder, Observer())
    tidy(folder, Observer())
    assert folder.checkpoints.exists()
    lease.release()
    tidy(folder, Observer())
    assert sorted(path.name for path in folder.path.iterdir()) == ["record.json", "weights"]


def test_a_holder_is_read_back_as_it_was_written(folder):
    lease = claim(folder, Observer())
    assert Holder.read(folder.lease) == lease.holder
    assert lease.holder.process.alive() is True
