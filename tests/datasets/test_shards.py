"""Tar and Parquet shards: the samples, bits and identity of the class folders that they were made from."""

import io
import json
import multiprocessing
import os
import shutil
import tarfile

import imagenet_kit
import numpy as np
import own_data_kit
import pytest
from runs_kit import call, essence

from robustft.datasets import catalogue, contents, image_folders, packing, shards, staging
from robustft.datasets.card import DataError, MissingData
from robustft.datasets.image_folders import scan
from robustft.datasets.imagenet import SOURCES, ImageNet
from robustft.datasets.loaders import eval_batches
from robustft.datasets.staging import Stage

WNIDS = imagenet_kit.WNIDS
FORMS = ("tar", "parquet")
PLACES = [source.folders[0] for source in SOURCES.values()]


def quietly(done, total):
    pass


def png(number):
    return own_data_kit.png(own_data_kit.picture(number % 3, number, 0))


def tar(path, members):
    """A tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def table(path, rows, names=None, **options):
    """A Parquet file of (path, bytes, label), as Hugging Face's library writes it, or as its options say."""
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"image": datasets.Image(), "label": label})
    columns = {"image": [{"path": name, "bytes": data} for name, data, _ in rows], "label": [row[2] for row in rows]}
    made = datasets.Dataset.from_dict(columns, features=features)
    if not options:
        made.to_parquet(str(path))
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(made.with_format("arrow")[:], path, **options)
    return path


@pytest.fixture(autouse=True)
def settled(monkeypatch):
    monkeypatch.setattr(contents, "SETTLED_NS", 0)


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """Form -> a data root with ImageNet and its shifts; several shards for train."""
    root = tmp_path_factory.mktemp("roots")
    imagenet_kit.write_tree(root / "folder")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTFT_CACHE", str(root / "cache"))
        patch.setattr(packing, "SHARD_BYTES", 6000)
        for form in FORMS:
            for place in PLACES:
                packing.pack(root / "folder" / place, root / form / place, form, quietly)
            shutil.copytree(root / "folder" / "objectnet-1.0" / "mappings", root / form / "objectnet-1.0" / "mappings")
    return root


def imagenet(root):
    return ImageNet(root, allow_partial=True, size=imagenet_kit.SIZE)


def seen(data):
    """All that a run sees of a dataset."""
    found = {"card": data.card, "names": data.train_names(), "labels": data.train_labels().tolist()}
    order = [(1, int(i)) for i in np.random.default_rng(0).permutation(data.train_size)]
    found["train"] = data.train_images(order, 3).numpy().tobytes()
    for entry in data.card.sets:
        held = data.eval_data(entry.name)
        images = b"".join(batch.numpy().tobytes() for _, batch, _ in eval_batches(held, 8))
        found[entry.name] = held.sample_ids, held.labels.tolist(), held.groups, images
    return found


@pytest.fixture(scope="module")
def of_folders(roots):
    return seen(imagenet(roots / "folder"))


@pytest.mark.parametrize("form", FORMS)
def test_imagenet_in_shards_is_the_imagenet_of_folders(roots, of_folders, form):
    data = imagenet(roots / form)
    assert seen(data) == of_folders
    files = set(data.train_files())
    assert len(files) > 2 and {os.path.splitext(file)[1] for file in files} == {f".{form}"}
    assert all((roots / form) in image_folders.Path(file).parents for file in files)


@pytest.mark.parametrize("form", FORMS)
def test_processes_that_load_read_the_same(roots, of_folders, form):
    """They inherit files that are open here, and read them at once."""
    data = imagenet(roots / form)
    held = data.eval_data("validation")
    held.images(0, 2)
    batches = {start: batch.numpy().tobytes() for start, batch, _ in eval_batches(held, 2, workers=2)}
    assert b"".join(batches[start] for start in sorted(batches)) == of_folders["validation"][3]


def originals(root):
    """(file name, wnid, bytes) of the training images of a tree."""
    folder = root / "ILSVRC2012" / "train"
    return [(path.name, path.parent.name, path.read_bytes()) for path in sorted(folder.glob("*/*.JPEG"))]


HUB = ({}, {"compression": "snappy", "row_group_size": 7}, {"compression": "none", "data_page_size": 100})


@pytest.mark.parametrize("options", HUB, ids=["as written today", "compressed", "dictionary"])
def test_what_the_hub_has_of_imagenet_is_read(roots, of_folders, tmp_path, options):
    rows = [
        (f"{name.removesuffix('.JPEG')}_{wnid}.JPEG", data, WNIDS.index(wnid))
        for name, wnid, data in originals(roots / "folder")
    ]
    rows = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    table(tmp_path / "imagenet-1k/data/train-00000-of-00002.parquet", rows[:40], **options)
    table(tmp_path / "imagenet-1k/data/train-00001-of-00002.parquet", rows[40:], **options)
    table(tmp_path / "imagenet-1k/data/test-00000-of-00001.parquet", [("x.JPEG", rows[0][1], -1)])
    data = imagenet(tmp_path)
    assert data.train_names() == of_folders["names"]
    pictures = data.train_images([(1, int(i)) for i in np.random.default_rng(0).permutation(data.train_size)], 3)
    assert pictures.numpy().tobytes() == of_folders["train"]
    held = data.eval_data("validation")
    there = b"".join(batch.numpy().tobytes() for _, batch, _ in eval_batches(held, 5, workers=2))
    assert there == of_folders["validation"][3]
    tree = held.tree
    assert tree.shards.compressed == (len(tree) if "snappy" in options.values() else 0)


def test_train_and_validation_of_one_folder_keep_each_others_index(tmp_path, monkeypatch):
    folder = tmp_path / "imagenet-1k/data"
    for k, (split, name) in enumerate((("train", "n01440764_1"), ("validation", "ILSVRC2012_val_00000001"))):
        table(folder / f"{split}-00000-of-00001.parquet", [(f"{name}_{WNIDS[0]}.JPEG", png(k), 0)])
    data = imagenet(tmp_path)
    assert data.eval_data("imagenet").sample_ids == [f"{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG"]
    assert data.train_names() == [f"{WNIDS[0]}/n01440764_1.JPEG"]
    monkeypatch.setattr(shards, "_through", None)
    assert len(imagenet(tmp_path).train_names()) == len(imagenet(tmp_path).eval_data("imagenet")) == 1


def test_the_tars_that_imagenet_comes_in_are_read_without_unpacking(roots, of_folders, tmp_path):
    every = originals(roots / "folder")
    for wnid in {wnid for _, wnid, _ in every}:
        members = [(name, data) for name, synset, data in every if synset == wnid]
        tar(tmp_path / "ILSVRC2012/train" / f"{wnid}.tar", members)
    assert imagenet(tmp_path).train_names() == of_folders["names"]


def test_labels_beside_the_images_of_a_tar_are_read_for_imagenet(tmp_path):
    known = {"filename": "ILSVRC2012_val_00000002.JPEG", "label": 1}
    members = [
        ("0001.jpg", png(0)), ("0001.json", json.dumps(known).encode()),
        ("ILSVRC2012_val_00000001.JPEG", png(1)), ("ILSVRC2012_val_00000001.cls", b"0"),
    ]  # fmt: skip
    tar(tmp_path / "imagenet-1k-wds/imagenet1k-validation-00.tar", members)
    held = imagenet(tmp_path).eval_data("imagenet")
    assert held.sample_ids == [f"{WNIDS[0]}/ILSVRC2012_val_00000001.JPEG", f"{WNIDS[1]}/ILSVRC2012_val_00000002.JPEG"]
    assert held.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("members", "says"),
    [
        ([("n01440764_1.jpg", b"")], "'n01440764_1.jpg' is no name of a file of ImageNet"),
        ([("s0000001.JPEG", b""), ("s0000001.cls", b"0")], "is no name of a file of ImageNet"),
        ([("n01440764_1.JPEG", b""), ("n01440764_1.cls", b"1")], "has the label 1 and the class n01440764"),
        ([("n01440764_1.JPEG", b""), ("n01440764_1.cls", b"1000")], "has the label 1000 and the class n01440764"),
        ([("ILSVRC2012_val_00000001.JPEG", b"")], "has no class"),
        ([("n01440764_1.JPEG", b""), ("n01440764_1.json", b"[]")], "what is beside n01440764_1.JPEG cannot be read"),
        ([("n01440764_1.JPEG", b""), ("n01440764_1.json", b'{"label": "0"}')], "no number as label"),
    ],
)  # fmt: skip
def test_an_image_of_imagenet_of_which_name_or_class_is_not_known_is_refused(tmp_path, members, says):
    tar(tmp_path / "ILSVRC2012/train/train.tar", members)
    with pytest.raises(DataError, match=says):
        imagenet(tmp_path).train_labels()


def test_the_data_root_says_which_form_is_read(roots, tmp_path):
    for form in ("folder", *FORMS):
        shutil.copytree(roots / form / "imagenet-r", tmp_path / "imagenet-r", dirs_exist_ok=True)
    shutil.copytree(roots / "parquet" / "sketch", tmp_path / "imagenet-sketch")
    shutil.copytree(roots / "folder" / "sketch", tmp_path / "sketch")
    data, said = imagenet(tmp_path), tmp_path / image_folders.FORMATS_FILE

    def ending(name):
        return os.path.splitext(imagenet(tmp_path).eval_data(name).files()[0])[1]

    assert (ending("imagenet_r"), ending("imagenet_sketch")) == (".jpg", ".JPEG")
    for form in FORMS:
        said.write_text(f"imagenet_r: {{format: {form}}}\nimagenet_sketch: {{format: parquet}}\n")
        assert (ending("imagenet_r"), ending("imagenet_sketch")) == (f".{form}", ".parquet")
        assert data.eval_data("imagenet_r").sample_ids == imagenet(roots / "folder").eval_data("imagenet_r").sample_ids
    said.write_text("imagenet_r: {format: folder}\nimagenet_sketch: {format: tar}\n")
    assert ending("imagenet_r") == ".jpg"
    with pytest.raises(MissingData, match="says tar, and none of .*sketch.* has it; correct the file"):
        data.eval_data("imagenet_sketch")
    for text, message in (
        ("imagnet: {format: tar}", "'imagnet' is none of imagenet, imagenet_v2"),
        ("imagenet: tar", "must be {format: folder}, tar or parquet, got 'tar'"),
        ("imagenet: {format: zip}", "must be {format: folder}, tar or parquet, got {'format': 'zip'}"),
        ("a: {", "formats.yaml"),
    ):
        said.write_text(text)
        with pytest.raises(DataError, match=message):
            data.eval_data("imagenet_r")


# the index


@pytest.fixture
def looked(monkeypatch):
    """The shards that are looked through."""
    found, through = [], shards._through
    monkeypatch.setattr(
        shards, "_through", lambda path, *about: (found.append(os.path.basename(path)), through(path, *about))[1]
    )
    return found


@pytest.mark.parametrize("form", FORMS)
def test_a_shard_is_looked_through_once_and_again_when_it_has_changed(roots, tmp_path, looked, form, monkeypatch):
    monkeypatch.setenv("ROBUSTFT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "train"
    shutil.copytree(roots / form / PLACES[0], folder)
    names = sorted(os.listdir(folder))
    first = scan(folder)
    assert sorted(looked) == names and len(names) > 2
    second = scan(folder)
    assert sorted(looked) == names
    assert all(np.array_equal(getattr(first.shards, what), getattr(second.shards, what)) for what in ("start", "size"))
    data = (folder / names[1]).read_bytes()
    (folder / names[1]).unlink()
    (folder / names[1]).write_bytes(data)  # another file of the same size and content
    (folder / names[0]).unlink()
    looked.clear()
    assert len(scan(folder)) < len(first) and looked == [names[1]]
    for kept in (tmp_path / "cache" / "shards").iterdir():
        kept.write_bytes(kept.read_bytes()[:-5])  # damaged
    looked.clear()
    assert len(scan(folder)) and sorted(looked) == names[1:]


def _scan_there(folder, cache, out):
    os.environ["ROBUSTFT_CACHE"] = cache
    out.put((len(scan(folder)), scan(folder).contents("these").tobytes()))


def test_several_processes_make_the_index_at_once(roots, tmp_path):
    folder, out = roots / "tar" / PLACES[0], multiprocessing.Queue()
    every = [
        multiprocessing.get_context("fork").Process(target=_scan_there, args=(folder, str(tmp_path), out))
        for _ in range(3)
    ]
    for process in every:
        process.start()
    found = [out.get() for _ in every]
    for process in every:
        process.join()
    tree = scan(roots / "folder" / PLACES[0])
    assert found == [(len(tree), tree.contents("these").tobytes())] * 3
    assert len(list((tmp_path / "shards").iterdir())) == 1


def test_a_shard_that_changes_under_a_run_ends_it(roots, tmp_path, monkeypatch):
    shutil.copytree(roots / "tar" / "sketch", tmp_path / "sketch")
    held = imagenet(tmp_path).eval_data("imagenet_sketch")
    (path,) = (tmp_path / "sketch").iterdir()
    os.utime(path, (1, 1))
    with pytest.raises(
        DataError, match="sketch.*tar: was changed since it was looked through; start the command again"
    ):
        held.images(0, 1)
    path.unlink()
    with pytest.raises(DataError, match="sketch.*tar: cannot be read .*; restore the file"):
        held.images(0, 1)


def test_a_shard_that_is_cut_off_while_it_is_open_is_named(roots, tmp_path):
    shutil.copytree(roots / "tar" / "sketch", tmp_path / "sketch")
    held = imagenet(tmp_path).eval_data("imagenet_sketch")
    held.images(0, 1)
    (path,) = (tmp_path / "sketch").iterdir()
    os.truncate(path, 600)
    with pytest.raises(DataError, match="ends too early"):
        held.images(0, 1)


# what is refused, and what is passed over


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def test_members_that_are_no_images_are_never_opened(tmp_path, monkeypatch):
    import pickle

    monkeypatch.chdir(tmp_path)
    bomb = pickle.dumps(Bomb())
    members = [
        ("./a/1.png", png(0)), ("a/1.pyd", bomb), ("a/1.pickle", bomb), ("a/1.cls", b"0"), ("a/1.json", b"{"),
        ("a/.hidden.png", b""), ("__MACOSX/a/2.png", b""), ("3.png", png(1)), ("x/y/4.png", png(2)), ("b/5.heic", b""),
    ]  # fmt: skip
    tree = scan(tar(tmp_path / "set/0.tar", members).parent)
    assert [tree.name(i) for i in range(len(tree))] == ["a/1.png"] and tree.classes == ("a",)
    assert tree.shards.content(0) == png(0)
    assert tree.passed == (5, "a/1.pyd")
    assert (tree.astray, tree.unread, tree.lost) == ((2, "3.png"), ((".heic", 1),), ("b",))
    assert not (tmp_path / "unpickled").exists()


def damaged(path, how):
    good = tar(path, [("a/1.png", png(0)), ("a/2.png", png(1))]).read_bytes()
    if how == "gzip":
        import gzip

        path.write_bytes(gzip.compress(good))
    elif how == "cut":
        path.write_bytes(good[:1500])
    elif how == "no end":
        path.write_bytes(good[: 2 * (512 + -(-len(png(0)) // 512) * 512)])
    elif how == "two":
        path.write_bytes(good + good)
    elif how == "header":
        second = 512 + -(-len(png(0)) // 512) * 512
        path.write_bytes(good[:second] + b"x" * 512 + good[second + 512 :])
    elif how == "empty":
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "says"),
    [("gzip", "it is compressed"), ("cut", "cannot be read as a tar"), ("no end", "has no end"),
     ("two", "has more behind its end"), ("header", "or is damaged"), ("empty", "cannot be read as a tar")],
)  # fmt: skip
def test_a_tar_that_would_lose_images_is_refused(tmp_path, how, says):
    damaged(tmp_path / "0.tar", how)
    with pytest.raises(DataError, match=rf"0\.tar: .*{says}"):
        scan(tmp_path)


def test_tables_that_would_lose_images_are_refused(tmp_path):
    import pandas

    def refused(says):
        with pytest.raises(DataError, match=says):
            scan(tmp_path / "set")

    path = tmp_path / "set/0.parquet"
    table(path, [(None, png(0), 0)])
    refused("row 0: has no path, and images are known by their names")
    table(path, [("1.png", png(0), 0)])
    refused("row 0: '1.png' is in no class folder, and its label names none")
    table(path, [("1.png", png(0), 0)], names=["a/b", "c"])
    refused("'1.png' is in no class folder")
    pandas.DataFrame({"pixels": [b"1"]}).to_parquet(path)
    refused("needs a column image of {bytes, path}, has pixels")
    path.write_bytes(b"PAR1 no PAR1")
    refused("0.parquet: cannot be read as Parquet")
    table(path, [("a/1.png", png(0), 0)])
    table(tmp_path / "set/1.parquet", [("a/1.png", png(1), 0)])
    refused("'a/1.png' is in 0.parquet and again in 1.parquet")
    tar(tmp_path / "set/2.tar", [("a/1.png", png(0))])
    refused("has both tar and Parquet shards")


def test_names_of_the_label_column_are_class_folders(tmp_path):
    table(
        tmp_path / "0.parquet", [("2.png", png(0), 1), ("1.png", png(1), 0), ("b/3.png", png(2), 0)], names=["z", "b"]
    )
    tree = scan(tmp_path)
    assert [tree.name(i) for i in range(3)] == ["b/2.png", "b/3.png", "z/1.png"]


def test_class_folders_go_before_archives_beside_them(tmp_path):
    """Many leave the archive where they unpacked it."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(png(0))
    (tmp_path / "a.tar").write_bytes(b"anything")
    tree = scan(tmp_path)
    assert (len(tree), tree.shards, tree.passed) == (1, None, (1, "a.tar"))


# own data, runs


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Form -> the same data of one's own, with groups."""
    root = tmp_path_factory.mktemp("own")
    own_data_kit.folder(root / "folder", {"a b": "zero", "a": "one", "c é": "two"})
    lines = [f"shift1/{c}/{j:03d}.png\t{'left' if j % 2 else 'right'}\n" for c in ("a b", "a", "c é") for j in range(4)]
    (root / "folder" / "groups.txt").write_text("".join(lines))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ROBUSTFT_CACHE", str(root / "cache"))
        patch.setattr(packing, "SHARD_BYTES", 30_000)
        for form in FORMS:
            (root / form).mkdir()
            for entry in (root / "folder").iterdir():
                if entry.is_dir():
                    packing.pack(entry, root / form / entry.name, form, quietly)
                else:
                    shutil.copy(entry, root / form)
    return root


def renamed(data):
    """What a dataset in another place has alike: all but the folder's name."""
    found = seen(data)
    return {**found, "card": (found["card"].fingerprint, found["card"].sets, found["card"].class_names)}


@pytest.mark.parametrize("form", FORMS)
def test_own_data_in_shards_are_the_same_data(own, form):
    """By their bytes: the fingerprint is that of the folder."""
    data = catalogue.get(f"folder:{own / form}", size=32)
    assert renamed(data) == renamed(catalogue.get(f"folder:{own / 'folder'}", size=32))
    shift = {"other": f"folder:{own / form / 'shift1'}"}
    beside = {"other": f"folder:{own / 'folder' / 'shift1'}"}
    both = [
        catalogue.get(catalogue.with_retention("digits", {"kept": source}), size=32).retention[0].content
        for source in (*shift.values(), *beside.values())
    ]
    assert both[0] == both[1]


def test_a_run_on_shards_is_the_run_on_folders(own, tmp_path, capsys, runs_here, few_probes):
    """Same id, same record; what was done on folders is found done on shards."""
    suite, made = str(own_data_kit.suite(tmp_path / "own.yaml", "folder:mine")), {}

    def run(form, runs):
        capsys.readouterr()
        where = "--data", str(tmp_path / form), "--runs", str(tmp_path / runs)
        assert call("run", suite, "--method", "ft", *where) == 0
        (record,) = (tmp_path / runs).rglob("record.json")
        return record.parent.name, essence(record.parent)

    for form in ("folder", "tar"):
        shutil.copytree(own / form, tmp_path / form / "mine")
        made[form] = run(form, f"runs-{form}")
    assert made["tar"] == made["folder"]
    assert run("tar", "runs-folder") == made["folder"]
    assert "1 run, all finished earlier; nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("form", FORMS)
def test_staged_shards_are_read_from_their_copies(own, tmp_path, monkeypatch, form):
    monkeypatch.setattr(staging, "SETTLED_NS", 0)
    shutil.copytree(own / form, tmp_path / "data")
    data = catalogue.get(f"folder:{tmp_path / 'data'}", size=32)
    before, held = seen(data)["train"], data.eval_data("id")
    pictures = held.images(0, len(held))
    (tmp_path / "disk").mkdir()
    stage = Stage(str(tmp_path / "disk" / "mine"), {})
    files = {*data.train_files(), *held.files()}
    assert all(path.endswith(f".{form}") for path in files)
    try:
        brought = stage.bring(files, lambda: None)
        assert brought.copied == len(files) < data.train_size
        copies = [path for path in (tmp_path / "disk").glob("mine/.robustft-*/files/**/*") if path.is_file()]
        opened, path_of = [], staging.where
        monkeypatch.setattr(staging, "where", lambda *about: opened.append(path_of(*about)) or opened[-1])
        assert seen(data)["train"] == before and bool((held.images(0, len(held)) == pictures).all())
        assert set(opened) >= set(map(str, copies))
        for copy in copies:
            copy.unlink()  # a copy that is gone is no fault
        staging._open.cache_clear()
        assert seen(data)["train"] == before
    finally:
        stage.leave()


def test_compressed_tables_are_read_from_copies_too(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "SETTLED_NS", 0)
    rows = [(f"a/{k}.png", png(k), 0) for k in range(9)]
    folder = table(tmp_path / "data/0.parquet", rows, compression="gzip", row_group_size=4).parent
    tree = scan(folder)
    assert tree.shards.compressed == 9
    (tmp_path / "disk").mkdir()
    stage = Stage(str(tmp_path / "disk" / "mine"), {})
    try:
        stage.bring({tree.path(i) for i in range(9)}, lambda: None)
        read, images = [], shards._images
        monkeypatch.setattr(shards, "_images", lambda path, *about: read.append(path) or images(path, *about))
        assert [tree.shards.content(i) for i in range(9)] == [data for _, data, _ in rows]
        assert all("/.robustft-" in path for path in read)
    finally:
        stage.leave()
