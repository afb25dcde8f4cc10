"""Copies of image files on a node's own disk: made once, taken while they are right, and gone with the last reader."""

import os
import shutil
import socket
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import imagenet_kit
import own_data_kit
import pytest

from robustft.datasets import catalogue, decoding, staging
from robustft.datasets.card import DataError, MissingData
from robustft.datasets.staging import Brought, Stage, StageError, content, place_of
from robustft.datasets.subset import FewShots, Rehearsal

COUNT = 40


class Stopped(Exception):
    """What `check_stop` raises in these tests."""


def never():
    return None


@pytest.fixture
def shared(tmp_path):
    """The whole paths of the files of two folders on the shared disk."""
    paths = []
    for folder in ("train/a", "train/b"):
        (tmp_path / "shared" / folder).mkdir(parents=True)
        for number in range(COUNT // 2):
            path = tmp_path / "shared" / folder / f"{number} é.png"
            path.write_bytes(f"{folder} {number}".encode() * 100)
            paths.append(str(path))
    return paths


@pytest.fixture
def stages(tmp_path, monkeypatch):
    """Makes users of one place, all of which leave in the end; what was just written counts as settled."""
    monkeypatch.setattr(staging, "SETTLED_NS", 0)
    monkeypatch.setattr(staging, "WAIT_SECONDS", 0.02)
    (tmp_path / "disk").mkdir()
    with ExitStack() as stack:

        def make(pattern=tmp_path / "disk" / "mine"):
            stage = Stage(str(pattern), {})
            stack.callback(stage.leave)
            return stage

        yield make


def copies(tmp_path):
    """The copies that lie in the place."""
    return sorted(path for path in (tmp_path / "disk").glob("mine/.robustft-*/files/**/*") if path.is_file())


def overwrite(paths):
    """Other bytes of the same size: that copies are read can be seen."""
    for path in paths:
        size = os.stat(path).st_size
        with open(path, "r+b") as file:
            file.write(b"x" * size)


def test_copies_are_read_and_the_last_user_removes_them(shared, stages, tmp_path):
    first, second = stages(), stages()
    size = sum(os.stat(path).st_size for path in shared)
    assert first.bring(iter(shared), never) == Brought(COUNT, COUNT, size)
    assert second.bring([*shared, shared[0]], never) == Brought(COUNT, 0, 0)
    before = [content(path) for path in shared]
    assert len(copies(tmp_path)) == COUNT
    overwrite(shared)
    assert [content(path) for path in shared] == before
    first.leave()
    assert len(copies(tmp_path)) == COUNT
    second.leave()
    assert not list((tmp_path / "disk").iterdir())
    assert content(shared[0]).startswith(b"xxx")


def test_a_folder_that_was_there_stays(shared, stages, tmp_path):
    (tmp_path / "disk" / "mine").mkdir()
    stage = stages()
    stage.bring(shared, never)
    stage.leave()
    assert (tmp_path / "disk" / "mine").is_dir() and not list((tmp_path / "disk" / "mine").iterdir())


def test_more_files_are_copied_beside_those_that_are_there(shared, stages):
    assert stages().bring(shared[:5], never).copied == 5
    assert stages().bring(shared[3:8], never).copied == 3


def killed(stage):
    """As if the process had died: its locks end, and its files stay."""
    os.close(stage._lock)
    stage._lock = None
    staging._copies.clear()


def test_what_a_killed_process_left_is_used_again(shared, stages, tmp_path):
    stage = stages()
    stage.bring(shared, never)
    home = stage._home
    killed(stage)
    (home / "parts" / "half").write_bytes(b"half of a file")
    books = list((home / "books").iterdir())
    books[0].write_bytes(books[0].read_bytes()[:-10])  # the last line was being written
    again = stages()
    assert again.bring(shared, never).copied == 1
    assert not list((home / "parts").iterdir())
    assert again.bring(shared, never).copied == 0
    again.leave()
    assert not list((tmp_path / "disk").iterdir())


def test_a_source_that_was_replaced_is_copied_again(shared, stages):
    killed_one = stages()
    killed_one.bring(shared, never)
    killed(killed_one)
    overwrite(shared[:2])
    stage = stages()
    assert stage.bring(shared[2:], never).copied == 0
    assert content(shared[0]).startswith(b"xxx"), "the copy of a file that nobody asks for was not as the file"
    assert stage.bring(shared, never).copied == 2
    assert content(shared[1]).startswith(b"xxx")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: overwrite([path])], ids=["gone", "other"])
def test_a_copy_that_is_gone_or_was_changed_is_made_again(shared, stages, tmp_path, damage):
    one = stages()
    one.bring(shared, never)
    before = content(shared[0])
    damage(copies(tmp_path)[0])
    assert stages().bring(shared, never).copied == 1
    assert content(shared[0]) == before


def test_a_copy_that_vanishes_later_is_read_where_it_came_from(shared, stages, tmp_path):
    stages().bring(shared, never)
    before = content(shared[0])
    for path in copies(tmp_path):
        path.unlink()
    assert content(shared[0]) == before


def test_what_is_another_folder_has_copies_of_its_own(shared, stages, tmp_path, monkeypatch):
    """Of the same relative path, seen from elsewhere; of the same whole path, as two containers may have it."""
    stages().bring(shared, never)
    first = {path: path.read_bytes() for path in copies(tmp_path)}
    (tmp_path / "shared" / "train").rename(tmp_path / "shared" / "before")
    shutil.copytree(tmp_path / "shared" / "before", tmp_path / "shared" / "train")
    overwrite(shared)
    assert stages().bring(shared, never).copied == COUNT
    assert content(shared[0]).startswith(b"xxx")
    for name in ("before", "train"):
        monkeypatch.chdir(tmp_path / "shared" / name)
        stages().bring(["a/0 é.png"], never)
        assert content("a/0 é.png") == (tmp_path / "shared" / name / "a" / "0 é.png").read_bytes()
    assert {path: path.read_bytes() for path in first} == first


def test_after_the_machine_was_started_anew_nothing_is_trusted(shared, stages, monkeypatch):
    one = stages()
    one.bring(shared, never)
    killed(one)
    monkeypatch.setattr(staging, "_boot", lambda: "another")
    assert stages().bring(shared, never).copied == COUNT


def test_of_a_file_that_was_just_written_the_copy_is_for_this_process_alone(shared, stages, monkeypatch):
    monkeypatch.setattr(staging, "SETTLED_NS", 10**12)
    assert stages().bring(shared, never).copied == COUNT
    assert stages().bring(shared, never).copied == COUNT


def test_several_processes_at_once_copy_each_file_once(shared, stages, monkeypatch):
    """Threads here: a lock is one of an open file, and each has its own."""
    copied, found, copy = [], [], Stage._copy_one
    note = lambda self, file, halt: (copied.append(file.name), copy(self, file, halt))[1]  # noqa: E731
    monkeypatch.setattr(Stage, "_copy_one", note)
    every = [stages() for _ in range(6)]
    threads = [threading.Thread(target=lambda s=s: found.append(s.bring(shared, never))) for s in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(copied) == COUNT
    assert sorted(each.copied for each in found) == [0] * 5 + [COUNT]
    leaving = [threading.Thread(target=stage.leave) for stage in every]
    for thread in leaving:
        thread.start()
    for thread in leaving:
        thread.join()
    assert not every[0].place.exists()


def test_who_comes_while_the_last_one_removes_makes_copies_of_its_own(shared, stages, monkeypatch):
    first, second = stages(), stages()
    first.bring(shared, never)
    found, rmtree = [], staging.shutil.rmtree
    coming = threading.Thread(target=lambda: found.append(second.bring(shared, never)))

    def slowly(path, **more):
        if path == first._home and not coming.ident:
            coming.start()
            coming.join(0.2)
            assert not found
        rmtree(path, **more)

    monkeypatch.setattr(staging.shutil, "rmtree", slowly)
    first.leave()
    coming.join()
    assert found[0].copied == COUNT


def test_a_stop_leaves_what_was_copied_to_whoever_goes_on(shared, stages, monkeypatch):
    monkeypatch.setattr(staging, "_AT_ONCE", 1)
    looks = [0]

    def check_stop():
        looks[0] += 1
        if looks[0] > 10:
            raise Stopped

    stage = stages()
    with pytest.raises(Stopped):
        stage.bring(shared, check_stop)
    assert content(shared[0]) and not staging._copies
    assert stages().bring(shared, never).copied < COUNT


def test_a_stop_is_heard_while_a_shard_is_copied(tmp_path, stages, monkeypatch):
    """What is left of it is no copy."""
    shard = tmp_path / "train.tar"
    shard.write_bytes(bytes(8 * staging._BUFFER))
    reading, halts, sha256 = threading.Event(), [], staging.hashlib.sha256
    monkeypatch.setattr(staging, "Event", lambda: halts.append(threading.Event()) or halts[-1])

    class Slow:
        def __init__(self, *about):
            self.made = sha256(*about)
            self.digest, self.hexdigest = self.made.digest, self.made.hexdigest

        def update(self, piece):
            reading.set()
            halts[0].wait()
            self.made.update(piece)

    def check_stop():
        if reading.is_set():
            raise Stopped

    stage = stages()
    monkeypatch.setattr(staging.hashlib, "sha256", Slow)
    with pytest.raises(Stopped):
        stage.bring([str(shard)], check_stop)
    monkeypatch.setattr(staging.hashlib, "sha256", sha256)
    assert not copies(tmp_path)
    assert stages().bring([str(shard)], never).copied == 1


def refused(stage, files):
    with pytest.raises(StageError) as error:
        stage.bring(files, never)
    assert not staging._copies
    return str(error.value)


def test_without_room_nothing_is_copied(shared, stages, tmp_path, monkeypatch):
    whole = os.statvfs(tmp_path)
    few = SimpleNamespace(f_bavail=10, f_frsize=100, f_favail=whole.f_favail, f_files=whole.f_files)
    monkeypatch.setattr(staging.os, "statvfs", lambda _: few)
    assert "has room for 0 B in" in refused(stages(), shared)
    assert not copies(tmp_path)


def test_where_a_later_run_can_have_no_copies_those_of_an_earlier_one_are_not_read(shared, stages, monkeypatch):
    stage = stages()
    stage.bring(shared, never)
    overwrite(shared)
    monkeypatch.setattr(Stage, "_amiss", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
    assert "Input/output error" in refused(stage, shared)
    assert content(shared[0]).startswith(b"xxx")


def test_a_disk_that_is_full_all_the_same_is_given_back(shared, stages, tmp_path, monkeypatch):
    copy, left = Stage._copy_one, [5]

    def until_full(self, file, halt):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        return copy(self, file, halt)

    monkeypatch.setattr(Stage, "_copy_one", until_full)
    assert refused(stages(), shared) == f"{tmp_path}/disk/mine cannot be used (No space left on device)."
    assert not copies(tmp_path)


def test_a_disk_that_gives_back_other_bytes_is_not_read(shared, stages, tmp_path, monkeypatch):
    replace = os.replace

    def damaged(part, copy):
        replace(part, copy)
        with open(copy, "r+b") as file:
            file.truncate(3)

    monkeypatch.setattr(staging.os, "replace", damaged)
    assert "is not read as it was written; the disk may be damaged." in refused(stages(), shared)
    assert not copies(tmp_path)


def test_a_place_that_cannot_be_used_is_named(shared, stages, tmp_path):
    assert "no/such cannot be used (No such file or directory)." in refused(stages(tmp_path / "no" / "such"), shared)
    (tmp_path / "file").write_text("")
    assert "cannot be used (Not a directory)." in refused(stages(tmp_path / "file"), shared)


@pytest.mark.parametrize("kind", ["link", "open to all"])
def test_what_another_user_could_have_put_there_is_not_read_or_removed(shared, stages, tmp_path, kind):
    place, name = tmp_path / "disk" / "mine", f".robustft-{socket.gethostname()}-{os.geteuid()}"
    place.mkdir()
    other = tmp_path / "other"
    other.mkdir()
    (other / "theirs").write_text("")
    if kind == "link":
        (place / name).symlink_to(other)
    else:
        (place / name).mkdir()
        (place / name).chmod(0o777)
    stage = stages()
    assert "is no folder of yours alone." in refused(stage, shared)
    stage.leave()
    assert (other / "theirs").exists() and (place / name).exists()


def test_a_source_that_cannot_be_read_is_named(shared, stages):
    os.mkfifo(f"{os.path.dirname(shared[0])}/pipe")  # to open it would wait forever
    for name in ("pipe", "none"):
        path = f"{os.path.dirname(shared[0])}/{name}"
        assert refused(stages(), [*shared, path]) == f"{path} is no file that can be read."


def test_variables_are_those_of_this_machine(monkeypatch, tmp_path):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert str(place_of("/scratch/$SLURM_JOB_ID/${SLURM_JOB_ID}x", {})) == "/scratch/4711/4711x"
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(DataError, match=r"stage: \$SLURM_JOB_ID is not set on .*, got '/scratch/\$SLURM_JOB_ID'; name"):
        place_of("/scratch/$SLURM_JOB_ID", {})
    assert place_of("/scratch/$SLURM_JOB_ID", {}, known=False).parent.name == "scratch"
    assert place_of("$NOT_SET_HERE/x", {}, known=False).name == "x"  # the node decides
    with pytest.raises(DataError, match=r"must name variables as \$NAME or \$\{NAME\}, got '/scratch/\$\{X:-d\}'"):
        place_of("/scratch/${X:-d}", {}, known=False)
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")  # a job that is in no array
    assert place_of("/scratch/$SLURM_ARRAY_JOB_ID", {}).name == "17"
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "16")
    assert place_of("/scratch/${SLURM_ARRAY_JOB_ID}", {}).name == "16"
    monkeypatch.setenv("NOT_WHOLE", "a/b")
    with pytest.raises(DataError, match=r"must be the whole path of a folder .*, got '\$NOT_WHOLE'; begin with /"):
        place_of("$NOT_WHOLE", {})


@pytest.mark.parametrize("pattern", ["{}", "{}/$UNSET_HERE", "{}/../data/x", "{}/link/x"])
def test_no_copies_among_what_they_are_copies_of(tmp_path, pattern):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "data")
    with pytest.raises(DataError, match=r"stage: .*which is in the data root, '.*'; name another"):
        place_of(pattern.format(tmp_path / "data"), {"the data root": tmp_path / "data"}, known=False)
    place_of(str(tmp_path), {"the data root": tmp_path / "data", "the folder of runs": None})


# What datasets name for copying is what they read


def imagenet(root, _):
    imagenet_kit.write_tree(root)
    return catalogue.get("imagenet", root=root, allow_partial=True, size=16)


def wilds(_, iwildcam):
    return catalogue.get("iwildcam", root=iwildcam, allow_partial=True, size=16)


def waterbirds(root, _):
    """With a list that names one image of train and one of test."""
    base = root / "waterbirds"
    rows = [("a.jpg", 0, 0, 0), ("b.jpg", 1, 2, 1)]
    lines = [f"{i},{name},{y},{split},{place},x" for i, (name, y, split, place) in enumerate(rows)]
    for name, *_ in rows:
        imagenet_kit.picture(base / name, (9, 9, 9))
    (base / "metadata.csv").write_text("\n".join(["img_id,img_filename,y,split,place,place_filename", *lines]))
    return catalogue.get("waterbirds", root=root, allow_partial=True, size=16)


def own_with_shift(root, _):
    """Without a validation folder, a third of the images as a shift beside it, and a few shots of it."""
    name = own_data_kit.folder(root / "mine", {"a": "zero", "b": "one"})
    shutil.rmtree(root / "mine" / "validation")
    (root / "mine" / "shift1").rename(root / "beside")
    data = catalogue.get(catalogue.with_shifts(name, {"more": f"folder:{root}/beside"}), size=16)
    return Rehearsal(FewShots(data, 3, 0), 4, 2)


def domains(root, _):
    for number, name in enumerate(("one", "two", "three")):
        for item in range(12):
            imagenet_kit.picture(root / "mine" / name / "ab"[item % 2] / f"{item}.png", (number * 50, item * 20, 1))
    return catalogue.get(catalogue.with_shifts(f"domains:{root}/mine", {catalogue.POOL: "one,two"}), size=16)


@pytest.mark.parametrize("made", [imagenet, wilds, waterbirds, own_with_shift, domains])
def test_the_files_that_a_dataset_names_are_those_that_it_reads(tmp_path, iwildcam, made, monkeypatch):
    data, read = made(tmp_path, iwildcam), []
    monkeypatch.setattr(decoding, "staging", SimpleNamespace(content=lambda path: read.append(path) or content(path)))
    if data.train_size:
        data.train_images([(0, i) for i in range(data.train_size)], 0)
    assert read == list(data.train_files()) and len(read) == data.train_size
    for entry in data.card.sets:
        try:
            found = data.eval_data(entry.name)
        except MissingData:
            continue
        read.clear()
        found.images(0, len(found))
        assert read == list(found.files()) and len(read) == len(found) > 0
