"""`robustft data pack`: shards that others read too, whole or not there, the same bytes for the same images."""

import hashlib
import os
import shutil
import tarfile
import threading

import own_data_kit
import pytest
from runs_kit import call

from robustft.benchmarks.commands.doctor import pack as command
from robustft.datasets import packing
from robustft.datasets.card import DataError
from robustft.datasets.image_folders import scan

FORMS = ("tar", "parquet")
CLASSES = ("10", "2", "0")


def quietly(done, total):
    pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Classes that are numbers, as ImageNet-V2 has them; one without an image, and what is no image."""
    monkeypatch.setattr(packing, "SHARD_BYTES", 15_000)
    for c, name in enumerate(CLASSES):
        (tmp_path / "set" / name).mkdir(parents=True)
        for j in range(4):
            own_data_kit.picture(c, j, 0).save(tmp_path / "set" / name / f"{j}.é.png")
    (tmp_path / "set" / "1").mkdir()
    (tmp_path / "set" / "README").write_text("")
    return tmp_path / "set"


def files(place):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}


def named(tree):
    return [tree.name(i) for i in range(len(tree))], tree.contents("images").tobytes()


def test_names_that_webdataset_would_take_for_one_sample_are_found(tmp_path):
    for name in ("plain.png", "dots.0.png", "dots.1.png", "same.png", "same.jpg", "one.two.png"):
        (tmp_path / "set" / "c").mkdir(parents=True, exist_ok=True)
        own_data_kit.picture(0, 0, 0).save(tmp_path / "set" / "c" / name)
    made = packing.pack(tmp_path / "set", tmp_path / "out", "tar", quietly)
    assert {name.removeprefix("c/") for name in made.unlike_webdataset} == {
        "dots.0.png", "dots.1.png", "same.png", "same.jpg", "one.two.png",
    }  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_command_says_what_it_wrote(folder, tmp_path, form, capsys, monkeypatch):
    monkeypatch.setattr(command, "TELL_SECONDS", -1)
    assert call("data", "pack", str(folder), str(tmp_path / "deep" / "out"), "--format", form) == 0
    told, made = capsys.readouterr(), files(tmp_path / "deep" / "out")
    assert (
        f"wrote 12 images, {sum(p.stat().st_size for p in folder.glob('*/*')) / 1000:.0f} kB, in {len(made)} shards:"
        in told.out
    )
    assert "1 entry passed over, no images in a class folder, as README" in told.out
    assert "not in the shards: 1 class folder without an image, as 1" in told.out
    merged = "caution: 12 images, as 0/0.é.png, cannot be told apart by other readers of WebDataset"
    assert (merged in told.out) == (form == "tar")
    assert f"robustft: {form} of {folder}: 100 %" in told.err
    assert sorted(made) == [f"out-{i:05d}-of-{len(made):05d}.{form}" for i in range(len(made))] and len(made) > 2
    assert os.listdir(tmp_path / "deep") == ["out"]
    assert named(scan(tmp_path / "deep" / "out")) == named(scan(folder))
    shutil.copytree(folder, tmp_path / "elsewhere" / "copy")  # other dates, another place
    packing.pack(tmp_path / "elsewhere" / "copy", tmp_path / "again" / "out", form, quietly)
    assert files(tmp_path / "again" / "out") == made
    other = "parquet" if form == "tar" else "tar"
    packing.pack(tmp_path / "deep" / "out", tmp_path / "back", other, quietly)  # shards are a source as well
    assert named(scan(tmp_path / "back")) == named(scan(folder))


def test_tars_are_as_webdataset_reads_them(folder, tmp_path):
    """Key, image and label stand together; numbered classes keep their order."""
    (folder / "0" / "0.é.jpg").write_bytes(b"of the same key")
    packing.pack(folder, tmp_path / "out", "tar", quietly)
    members = []
    for path in sorted((tmp_path / "out").iterdir()):
        with tarfile.open(path) as tar:
            members += [(m.name, tar.extractfile(m).read(), (m.mtime, m.uid, m.uname)) for m in tar]
    assert [name for name, _, _ in members][:5] == ["0/0.é.jpg", "0/0.cls", "0/0.é.png", "0/1.é.png", "0/1.cls"]
    labels = {name.partition("/")[0]: data for name, data, _ in members if name.endswith(".cls")}
    assert labels == {"0": b"0", "2": b"2", "10": b"3"}  # class 1 has no image, and its number all the same
    assert {about for _, _, about in members} == {(0, 0, "")}


def test_tables_are_as_the_hubs_library_reads_them(folder, tmp_path):
    import datasets

    packing.pack(folder, tmp_path / "data" / "train", "parquet", quietly)
    held = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "data/train/*.parquet"), split="train", cache_dir=str(tmp_path / "hub")
    )
    assert held.features["label"].names == ["0", "1", "2", "10"] and isinstance(held.features["image"], datasets.Image)
    rows, tree = held.cast_column("image", datasets.Image(decode=False)), scan(folder)
    read = {(held.features["label"].int2str(row["label"]), row["image"]["bytes"]) for row in rows}
    assert read == {(path.parent.name, path.read_bytes()) for path in folder.glob("*/*")} and len(rows) == len(tree)
    assert scan(tmp_path / "data" / "train").shards.compressed == 0


class Killed(Exception):
    """What ends a call in these tests."""


@pytest.mark.parametrize("form", FORMS)
def test_a_call_that_was_stopped_is_gone_on_with(folder, tmp_path, form):
    calls = [0]

    def advance(done, total):
        calls[0] += 1
        if calls[0] == 9:
            raise Killed

    with pytest.raises(Killed):
        packing.pack(folder, tmp_path / "out", form, advance)
    (left,) = tmp_path.glob(".out.packing")
    assert not (tmp_path / "out").exists() and list(left.glob(".part-*"))
    whole = packing.pack(folder, tmp_path / "whole" / "out", form, quietly)
    made = packing.pack(folder, tmp_path / "out", form, quietly)
    assert 0 < made.kept < made.files and whole.kept == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole" / "out") and not left.exists()


def test_what_was_begun_of_other_images_is_not_gone_on_with(folder, tmp_path):
    def kill(done, total):
        raise Killed

    with pytest.raises(Killed):
        packing.pack(folder, tmp_path / "out", "tar", kill)
    path = next((folder / "2").iterdir())
    path.write_bytes(path.read_bytes())  # another date
    os.utime(path, (1, 1))
    with pytest.raises(DataError, match=r"\.out\.packing: is left by an earlier call that packed other images"):
        packing.pack(folder, tmp_path / "out", "tar", quietly)


def test_two_calls_do_not_write_one_folder(folder, tmp_path):
    second = []

    def other():
        try:
            packing.pack(folder, tmp_path / "out", "tar", quietly)
        except DataError as error:
            second.append(str(error))

    def advance(done, total):
        if not second:
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

    packing.pack(folder, tmp_path / "out", "tar", advance)
    assert second == [f"{tmp_path / 'out'}: another process packs it; wait for that."]


def test_mistakes_are_one_sentence(folder, tmp_path, capsys):
    def refused(source, target, says):
        assert call("data", "pack", str(source), str(target), "--format", "tar") == 2
        said = capsys.readouterr().err
        assert says in said and said.count("\n") == 1

    (tmp_path / "there").mkdir()
    refused(folder, tmp_path / "there", "there: is there already, and nothing is overwritten; remove it")
    refused(
        tmp_path / "no", tmp_path / "out", "no: there is no such folder; name the one that holds the class folders."
    )
    refused(folder, folder / "out", "out: lies in ")
    refused(
        tmp_path,
        tmp_path.parent / "other",
        f"no images in class folders; pack {folder}, and each other set, by itself.",
    )
    refused(tmp_path / "there", tmp_path / "out", "no images in class folders; name the folder that has some.")
    (tmp_path / "file").write_text("")
    refused(folder, tmp_path / "file" / "out", "cannot be written")
    assert not list(tmp_path.glob(".*.packing"))


def test_a_file_that_changes_is_not_packed(folder, tmp_path):
    def advance(done, total):
        for path in (folder / "2").iterdir():
            path.write_bytes(b"other")

    with pytest.raises(DataError, match="changed while it was packed; start the command again"):
        packing.pack(folder, tmp_path / "out", "tar", advance)


def test_a_disk_that_gives_back_other_bytes_is_told(folder, tmp_path, monkeypatch):
    look = packing.shards.look

    def damaged(place, names, endings):
        with open(place / names[0], "r+b") as file:
            file.seek(3000)
            file.write(b"xxx")
        return look(place, names, endings)

    monkeypatch.setattr(packing.shards, "look", damaged)
    with pytest.raises(DataError, match="is not read as it was written; the disk may be damaged"):
        packing.pack(folder, tmp_path / "out", "tar", quietly)
    assert not (tmp_path / "out").exists()
