"""Own images as a person meets them: replaced under the same name, standing in two sets, or of a kind that is not read.

The commands are the real ones; the data are 24 small pictures in folders, or as many rows in Parquet.
"""

import io
import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import datasets as library
import numpy as np
import pytest
from PIL import Image
from runs_kit import BACKBONE, HERE, call

from robustft.benchmarks.commands import sweep as sweeps
from robustft.benchmarks.execution.run import Attempt, Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning import benchmark as facts
from robustft.benchmarks.planning import data_check
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan
from robustft.datasets import catalogue, contents
from robustft.datasets.card import DataError
from robustft.datasets.folder import Folder
from robustft.datasets.hub import Hub

pytestmark = pytest.mark.usefixtures("fresh_data", "no_reference")
CLASSES = ("zero", "one", "two")


def picture(label, k, s):
    """(12, 12, 3) noise of one colour, different for each place."""
    pixels = np.random.default_rng([label, k, s]).integers(0, 60, (12, 12, 3))
    pixels[..., label] += 150
    return Image.fromarray(pixels.astype("uint8"))


def make(root, ending="bmp"):
    root.mkdir()
    (root / "classes.txt").write_text("".join(f"{name}\t{name}\n" for name in CLASSES))
    for s, (name, count) in enumerate([("train", 4), ("validation", 2), ("id_test", 3), ("shift1", 3)]):
        for label, class_name in enumerate(CLASSES):
            (root / name / class_name).mkdir(parents=True)
            for k in range(count):
                picture(label, k, s).save(root / name / class_name / f"{k}.{ending}")
    return root


def suite(place, dataset, **more):
    recipe = "common: {steps: 2, batch_size: 4, lr: 1e-4, weight_decay: 0.1, warmup_steps: 1, precision: fp32}"
    text = f"name: own\ndataset: '{dataset}'\nversion: own\nbackbones: [{BACKBONE}]\nmethods: [zero_shot, ft]\n"
    text += f"seeds: [0]\nrecipes:\n  {recipe}\n" + "".join(f"{key}: {value}\n" for key, value in more.items())
    (place / "own.yaml").write_text(text)
    return str(place / "own.yaml")


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make(tmp_path / "own")


def plan(name="own.yaml", *more):
    return call("sweep", name, "--method", "zero_shot", "--dry-run", *more)


def planned(method="zero_shot"):
    """The folder of the run that a sweep plans now, its plan in it."""
    forget()
    benchmark = sweeps.load("own.yaml")
    (run,) = sweeps.expand(benchmark, Request((method,), (BACKBONE,), (0,)))
    folder = RunFolder.of(Path("runs").resolve(), run.spec)
    Plan(run.spec, benchmark.suite.dataset, run.sources, {"rules": ["one_se"]}).write(folder)
    return folder


def carry_out(folder, options=HERE):
    """What a worker says of a run; here in this process, because a new one takes seconds to start."""
    return work(folder.path, options, lambda: False)


def board():
    """The record of the only run, and the texts that a board says: on the console, in Markdown and as a page."""
    assert call("leaderboard", "own.yaml", "--runs", "runs") == 0
    pages = [Path("results", name).read_text() for name in ("leaderboard.md", "leaderboard.html")]
    return [json.loads(path.read_text()) for path in Path("runs").glob("*/*/*/*/record.json")], pages


def link(path, target):
    shutil.rmtree(path)
    path.symlink_to(target)


# Other images under the same names


def forget():
    for cached in (facts.dataset, facts.data_facts):
        cached.cache_clear()


def negative(path):
    """Other content of the same size and date, as `cp -p` and `rsync -t` leave it."""
    before = path.stat()
    Image.open(path).point(lambda value: 255 - value).save(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns


def settle(monkeypatch):
    """As if the files had been left alone for long, so that their hashes are kept."""
    monkeypatch.setattr(contents, "SETTLED_NS", -(10**18))


def test_images_replaced_by_others_of_the_same_size_are_other_data_on_another_board(own, tmp_path):
    suite(tmp_path, "folder:own")
    before = planned()
    assert carry_out(before)["event"] == "done" and planned().path == before.path
    for path in own.rglob("*.bmp"):
        negative(path)
    after = planned()
    assert after.path != before.path and carry_out(after)["event"] == "done"
    records, (page, _) = board()
    assert len({r["spec"]["fingerprint"] for r in records}) == len({r["benchmark_version"] for r in records}) == 2
    assert "names and sizes" not in page
    assert [part.count("| local |") for part in page.split("\n## own (own-")[1:]] == [1, 1]


def test_a_board_says_which_records_know_their_data_by_names_and_sizes(own, tmp_path):
    suite(tmp_path, "folder:own")
    folder = planned()
    assert carry_out(folder)["event"] == "done"
    record = json.loads(folder.record.read_text())
    del record["info"]["fingerprint_of"]  # as it was before
    folder.record.write_text(json.dumps(record))
    _, (page, _) = board()
    assert "In some rows, the data are known by the names and sizes of their files" in page


def test_hashes_are_kept_and_a_kept_one_never_hides_another_content(own, monkeypatch):
    settle(monkeypatch)
    first, read = Folder(own).card.fingerprint, []
    real = contents._read
    monkeypatch.setattr(contents, "_read", lambda path: read.append(path) or real(path))
    assert Folder(own).card.fingerprint == first and read == []
    changed = own / "shift1" / "one" / "1.bmp"
    time.sleep(0.02)  # coarser than any clock of a local disk
    negative(changed)
    assert Folder(own).card.fingerprint != first and read == [changed]
    other = own / "shift1" / "one" / "moved.tmp"  # put in its place with an old date
    negative(changed)
    assert Folder(own).card.fingerprint == first
    shutil.copy2(own / "shift1" / "one" / "2.bmp", other)
    os.replace(other, changed)
    assert Folder(own).card.fingerprint != first


def test_a_file_that_has_just_changed_is_read_again(own):
    Folder(own).card  # noqa: B018
    book = contents._Book(f"files {os.path.realpath(own / 'train')}")
    assert book.known == {}


@pytest.mark.parametrize("damage", ["torn", "other", "folder"])
def test_a_damaged_cache_is_none(own, monkeypatch, tmp_path, damage):
    settle(monkeypatch)
    monkeypatch.setenv("ROBUSTFT_CACHE", str(tmp_path / "cache"))
    first = Folder(own).card.fingerprint
    kept = sorted((tmp_path / "cache" / "contents").iterdir())
    assert len(kept) == 4
    for path in kept:
        content = path.read_bytes()
        if damage == "folder":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes(content[:-40] if damage == "torn" else content[:-7] + b"\0" + content[-6:])
    assert Folder(own).card.fingerprint == first


def test_a_cache_that_cannot_be_written_costs_time_alone(own, monkeypatch, tmp_path):
    settle(monkeypatch)
    first = Folder(own).card.fingerprint
    (tmp_path / "file").write_text("in the way")
    for place in (tmp_path / "file", "/proc/nowhere"):
        monkeypatch.setenv("ROBUSTFT_CACHE", str(place))
        assert Folder(own).card.fingerprint == first


def test_data_that_change_after_the_plan_are_refused_by_the_same_worker_that_read_them_before(own, tmp_path):
    suite(tmp_path, "folder:own")
    folder = planned()
    assert carry_out(folder)["event"] == "done"
    folder.record.unlink()
    negative(own / "id_test" / "one" / "0.bmp")
    outcome = carry_out(folder)
    assert outcome["event"] == "failed" and outcome["mistake"]
    assert "the data changed since; start the command again to plan anew" in outcome["reason"]


@pytest.mark.parametrize("when", ["train", "evaluate"])
def test_data_that_change_while_a_run_is_made_leave_no_record(own, tmp_path, monkeypatch, when):
    suite(tmp_path, "folder:own")
    folder, name = planned("ft"), {"train": "_fit", "evaluate": "_measure"}[when]
    real = getattr(Attempt, name)

    def meanwhile(self, *arguments):
        done = real(self, *arguments)
        negative(own / "train" / "one" / "0.bmp")
        return done

    monkeypatch.setattr(Attempt, name, meanwhile)
    assert "the data changed while the run was made" in carry_out(folder)["reason"] and not folder.record.exists()
    assert folder.weights.exists() == (when == "evaluate") and not folder.predictions.exists()
    assert not list(folder.checkpoints.glob("*")) or when == "evaluate"
    monkeypatch.setattr(Attempt, name, real)
    negative(own / "train" / "one" / "0.bmp")  # as they were
    assert carry_out(folder)["event"] == "done"


# One image in two sets


@pytest.mark.parametrize("one, two", [("shift1", "id_test"), ("id_test", "train"), ("validation", "id_test")])
@pytest.mark.parametrize("how", ["link", "class", "copy", "hard"])
def test_one_folder_in_two_roles_is_refused(own, tmp_path, capfd, one, two, how):
    suite(tmp_path, "folder:own")
    if how == "link":
        link(own / one, own / two)
    elif how == "class":
        link(own / one / "two", f"../{two}/two")
    else:
        shutil.rmtree(own / one)
        shutil.copytree(own / two, own / one, copy_function=shutil.copy2 if how == "copy" else os.link)
    assert plan() == 2
    said = capfd.readouterr().err
    names = {"id_test": "id"}
    words = (one, two) if how in ("link", "class") else (names.get(one, one), names.get(two, two))
    assert said.count("\n") == 1 and all(word in said for word in words), said
    assert ("are one folder" if how in ("link", "class") else "the same images as") in said
    assert call("doctor", "own.yaml", "--fast") == 1


def test_a_few_shared_images_are_said_when_the_sweep_starts_by_doctor_and_on_the_board(own, tmp_path, capfd):
    suite(tmp_path, "folder:own")
    shutil.copy(own / "train" / "one" / "2.bmp", own / "id_test" / "one" / "again.bmp")
    shutil.copy(own / "validation" / "two" / "0.bmp", own / "shift1" / "two" / "again.bmp")
    assert plan() == 0
    said = capfd.readouterr().err
    assert "1 of 10 images of id are also in train, first id_test/one/again.bmp as train/one/2.bmp" in said
    assert "1 of 10 images of shift1 are also in validation" in said
    assert carry_out(planned())["event"] == "done"
    (record,), pages = board()
    assert record["info"]["shared_images"] == [
        {"set": "id", "also_in": "train", "images": 1, "of": 10},
        {"set": "shift1", "also_in": "validation", "images": 1, "of": 10},
    ]
    footnote = "◊ by the bytes of the files, 1 of 10 images of id are also in train; 1 of 10 images of shift1 are also"
    assert all(footnote in text for text in (capfd.readouterr().out, *pages))
    assert call("doctor", "own.yaml", "--fast") == 1
    assert "! folder:own: 1 of 10 images of id are also in train" in capfd.readouterr().out


def test_copies_inside_train_that_the_rule_by_hash_parts_are_said(own, tmp_path, capfd):
    shutil.rmtree(own / "validation")
    for path in list((own / "train").rglob("*.bmp")):
        shutil.copy(path, path.with_name(f"b{path.name}"))
    suite(tmp_path, "folder:own")
    assert plan() == 0
    assert "train holds images twice, so that 3 of 3 images of validation are also in train" in capfd.readouterr().err


@pytest.mark.parametrize(
    "shifts, words",
    [
        ("{a: 'folder:own/shift1'}", "a and shift1 are one folder"),
        ("{a: 'folder:own/train'}", "a and train are one folder"),
        ("{a: 'folder:more', b: 'folder:more'}", "a and b are one folder"),
        ("{a: 'folder:more', b: 'folder:copy'}", "b (folder:copy) and a (folder:more) must hold different images"),
    ],
)
def test_a_shift_beside_the_dataset_counts_once(own, tmp_path, capfd, shifts, words):
    for s, name in enumerate(("more", "copy")):
        (tmp_path / name / "one").mkdir(parents=True)
        picture(1, 0, 9).save(tmp_path / name / "one" / f"{s}.png")
    suite(tmp_path, "folder:own", shifts=shifts)
    assert plan() == 2
    assert words in capfd.readouterr().err


def test_a_shift_that_is_a_folder_of_a_registered_dataset_is_refused(imagenet_tree, tmp_path):
    """The sets of registered data are not hashed; their folders are known when the sweep starts."""
    (tmp_path / "mine").symlink_to(imagenet_tree / "imagenet-r")
    name = catalogue.with_shifts("imagenet", {"mine": f"folder:{tmp_path / 'mine'}"})
    data = catalogue.get(name, root=imagenet_tree, size=8, allow_partial=True)
    with pytest.raises(DataError, match="imagenet: mine and imagenet_r are one folder, .*imagenet-r; give each set"):
        data_check.check(data, SimpleNamespace(kind="run", allow_partial=True), trains=False)


# The hub's splits


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    library.disable_progress_bars()
    for s, split in enumerate(("train", "test")):
        write_split(tmp_path / "d", split, [(picture(k % 3, k, s), k % 3) for k in range(24)])
    suite(tmp_path, "huggingface:d.hub.yaml")
    return tmp_path


def write_split(folder, split, rows):
    kinds = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list(CLASSES))})
    made = library.Dataset.from_dict({"image": [r[0] for r in rows], "label": [r[1] for r in rows]}, features=kinds)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    made.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")


@pytest.mark.parametrize(
    "text, words",
    [
        ("id: train", "train and id have 24 rows in common, by the split 'train'; give id a split of its own"),
        ("validation: test", "id and validation have 24 rows in common"),
        ("validation: train", "train and validation have 24 rows in common"),
        ("shifts: {s: train}", "train and s have 24 rows in common"),
        ("shifts: {s: test}", "id and s have 24 rows in common"),
        ("shifts: {s: {dataset: ./d, split: test}}", "id and s have 24 rows in common"),
        ("shifts: {s: {dataset: link, split: test}}", "id and s have 24 rows in common"),
        ("id: train+test", "train and id have 24 rows in common"),
        ("id: all", "train and id have 24 rows in common"),
        ("id: 'test[:12]+test[6:]'", "id has 6 rows twice"),
        ("train: 'train[:80%]'\nvalidation: 'train[70%:]'", "2 rows in common, by the splits 'train[:80%]' and"),
        ("id: 'test[:9]'\nshifts: {s: 'test[9:18]', t: 'test[17:]'}", "s and t have 1 row in common"),
    ],
)
def test_one_split_or_slice_in_two_roles_is_refused(hub, capfd, text, words):
    (hub / "link").symlink_to("d")
    (hub / "d.hub.yaml").write_text(f"dataset: d\n{text}\n")
    assert plan() == 2
    said = capfd.readouterr().err
    assert words in said and said.count("\n") == 1 and said.startswith("robustft: huggingface:d.hub: "), said


def test_a_shift_beside_a_dataset_of_the_hub_counts_once(hub, capfd):
    (hub / "d.hub.yaml").write_text("dataset: d\n")
    (hub / "part.yaml").write_text("dataset: d\nid: 'test[20:]'\n")
    suite(hub, "huggingface:d.hub.yaml", shifts="{part: 'huggingface:part.yaml'}")
    assert plan() == 2
    assert "id and part have 4 rows in common, by the splits 'test' and 'test[20:]'" in capfd.readouterr().err


def test_slices_that_do_not_overlap_are_used(hub, capfd):
    (hub / "d.hub.yaml").write_text("dataset: d\ntrain: 'train[:75%]'\nvalidation: 'train[75%:]'\n")
    assert plan() == 0 and "also in" not in capfd.readouterr().err


def test_rows_with_the_bytes_of_others_are_said_or_refused(hub, capfd):
    write_split(hub / "copied", "probe", [(picture(k % 3, k, 1), k % 3) for k in range(24)])
    write_split(hub / "mixed", "probe", [(picture(k % 3, k, s), k % 3) for k in range(3) for s in (0, 7)])
    (hub / "d.hub.yaml").write_text("dataset: d\nshifts: {s: {dataset: copied, split: probe}}\n")
    assert plan() == 2 and "s (probe) and id (test) must hold different images" in capfd.readouterr().err
    forget()
    (hub / "d.hub.yaml").write_text("dataset: d\nshifts: {s: {dataset: mixed, split: probe}}\n")
    assert plan() == 0
    said = capfd.readouterr().err
    assert "2 of 6 images of s are also in train" in said and "1 of 6 images of s are also in validation" in said


def test_rows_replaced_by_others_of_the_same_size_and_date_are_other_data(hub, monkeypatch):
    settle(monkeypatch)
    (hub / "d.hub.yaml").write_text("dataset: d\n")
    path = hub / "d" / "data" / "test-00000-of-00001.parquet"
    before, date = Hub("d.hub.yaml").card, path.stat()
    assert Hub("d.hub.yaml").card == before
    other = io.BytesIO()
    picture(0, 0, 8).save(other, "PNG")
    content = path.read_bytes()
    write_split(hub / "d", "test", [(picture(k % 3, k, 5), k % 3) for k in range(24)])
    os.utime(path, ns=(date.st_atime_ns, date.st_mtime_ns))
    assert Hub("d.hub.yaml").card.fingerprint != before.fingerprint
    path.write_bytes(content)
    assert Hub("d.hub.yaml").card == before


# An image that is cut off


def test_a_run_that_draws_an_image_that_is_cut_off_says_which_and_so_does_doctor(own, tmp_path, capfd):
    suite(tmp_path, "folder:own")
    cut = [path for path in sorted((own / "train").rglob("*.bmp")) if path.parts[-2:] != ("zero", "0.bmp")]
    for path in cut:  # all but the first, which is opened before anything starts
        path.write_bytes(path.read_bytes()[:200])
    outcome = carry_out(planned("ft"), Options())  # by a loader
    assert outcome["event"] == "failed" and outcome["mistake"]
    named = [path for path in cut if str(path.relative_to(tmp_path)) in outcome["reason"]]
    assert len(named) == 1 and "cannot be read" in outcome["reason"] and "\n" not in outcome["reason"]
    capfd.readouterr()
    assert call("doctor", "own.yaml", "--fast") == 0 and "no image was opened" in capfd.readouterr().out
    assert call("doctor", "own.yaml") == 1
    (line,) = (line for line in capfd.readouterr().out.splitlines() if line.startswith("! "))
    assert "first unreadable file of train" in line and any(str(path.relative_to(tmp_path)) in line for path in cut)


# Kinds that are not read


def rename(folder, ending):
    for path in list(folder.iterdir()):
        path.rename(path.with_suffix(ending))


def test_images_of_a_kind_that_is_not_read_are_said_when_the_sweep_starts_and_on_the_board(
    own, tmp_path, capfd, runs_here
):
    suite(tmp_path, "folder:own")
    rename(own / "shift1" / "two", ".HEIC")
    rename(own / "shift1" / "one", ".jfif")
    assert call("sweep", "own.yaml", "--method", "zero_shot", "--runs", "runs") == 0
    said, kinds = capfd.readouterr(), "6 of 9 images of shift1 are of a kind that is not read (.heic, .jfif)"
    assert kinds in said.err and "none is left of the class folders 'one', 'two'" in said.err
    assert f"△ {kinds}" in said.out
    (record,), pages = board()
    assert all(f"△ {kinds}" in text for text in pages)
    assert record["info"]["not_read"] == {"shift1": {"read": 3, "endings": {".heic": 3, ".jfif": 3}}}
    capfd.readouterr()
    assert call("doctor", "own.yaml", "--fast") == 1
    assert f"! folder:own: {kinds}" in capfd.readouterr().out


def test_a_class_without_an_image_in_a_set_is_said_when_the_sweep_starts_and_on_the_board(
    own, tmp_path, capfd, runs_here
):
    suite(tmp_path, "folder:own")
    for folder in (own / "id_test" / "two", own / "shift1" / "one"):
        shutil.rmtree(folder)
        folder.mkdir()
    told = ("id has 2 of 3 classes: two has no image.", "shift1 has 2 of 3 classes: one has no image.")
    assert carry_out(planned("zero_shot"))["event"] == "done"
    capfd.readouterr()
    assert call("sweep", "own.yaml", "--method", "zero_shot", "--runs", "runs") == 0
    said = capfd.readouterr()
    (record,), pages = board()
    for sentence in told:
        assert said.err.count(f"folder:own: {sentence}") == 1
        assert all(text.count(sentence) == 1 for text in (" ".join(said.out.split()), *pages))
    lacking = {name: {"of": 3, "names": [absent]} for name, absent in (("id", "two"), ("shift1", "one"))}
    assert record["info"]["absent_classes"] == lacking
    capfd.readouterr()
    assert call("doctor", "own.yaml", "--fast") == 1
    said = capfd.readouterr().out.splitlines()
    assert f"! folder:own: {told[0]}" in said and f"folder:own: {told[1]}" in said
    shutil.copytree(own / "train" / "two", own / "id_test" / "two", dirs_exist_ok=True)
    for path in (own / "id_test" / "two").iterdir():
        negative(path)  # no copies of train
    assert call("doctor", "own.yaml", "--fast") == 0  # a shift may lack classes
    said = capfd.readouterr().out
    assert f"folder:own: {told[1]}" in said.splitlines() and "all that is needed is there" in said


def test_classes_without_an_image_are_looked_for_in_shifts_of_ones_own_beside_other_data_alone(own):
    shutil.rmtree(own / "shift1" / "two")
    data = catalogue.get(catalogue.with_shifts("digits", {"mine": f"folder:{own / 'shift1'}"}))
    ((name, of, names),) = data_check.absent(data)
    assert (name, of, len(names)) == ("mine", 10, 8) and not {"zero", "one"} & set(names)
    assert list(data_check.doubts(data)) == [] and list(data_check.absent(catalogue.get("digits"))) == []
    (sentence,) = data_check.permitted(data)
    assert sentence.endswith("mine has 2 of 10 classes: two, three, four, five and 4 more have no image.")


@pytest.mark.parametrize("name", ["a", "b.png.bak", "c.jpeg~", "d.JPG_large", "e.avif", "f.jxl", "g.cr2", "h.jp2"])
def test_images_are_known_by_their_ending_or_by_how_they_begin(own, tmp_path, capfd, name):
    suite(tmp_path, "folder:own")
    picture(0, 5, 5).save(own / "shift1" / "one" / name, "PNG")
    assert plan() == 0
    ending = Path(name).suffix.lower() or "no ending"
    told = f"1 of 10 images of shift1 are of a kind that is not read ({ending})"
    assert told in capfd.readouterr().err


def test_images_that_the_hubs_library_passes_over_are_said_too(hub, capfd):
    for s, split in enumerate(("train", "test")):
        for label, name in enumerate(CLASSES):
            (hub / "imgs" / split / name).mkdir(parents=True)
            for k in range(3):
                picture(label, k, s).save(hub / "imgs" / split / name / f"{k}.png")
    rename(hub / "imgs" / "test" / "one", ".heic")
    rename(hub / "imgs" / "test" / "two", ".jfif")  # which that library lists
    (hub / "d.hub.yaml").write_text("dataset: imgs\n")
    assert plan() == 0
    told = "3 of 9 images of id are of a kind that is not read (.heic), and none is left of the class folder 'one';"
    assert told in capfd.readouterr().err


def test_what_is_no_image_is_not_called_one(own, tmp_path, capfd):
    suite(tmp_path, "folder:own")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "._0.png", "notes.txt", "0.xmp", "sums.md5", "BMW.txt"):
        (own / "shift1" / "one" / name).write_text("BM is how a bitmap begins")
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX"):
        (own / "shift1" / "one" / name).mkdir()
        (own / name).mkdir()
    assert plan() == 0 and "shift1" not in capfd.readouterr().err
    assert Folder(own).passed_over == {"shift1": (4, "one/0.xmp")}


def test_images_outside_of_class_folders_or_in_folders_inside_of_them_are_said(own, tmp_path, capfd):
    suite(tmp_path, "folder:own")
    (own / "shift1" / "one" / "2024").mkdir()
    picture(0, 5, 5).save(own / "shift1" / "loose.png")
    assert plan() == 0
    assert "2 entries of shift1 passed over, images outside of class folders or" in capfd.readouterr().err


def test_a_set_or_a_class_of_train_without_an_image_that_is_read_is_refused(own, tmp_path, capfd):
    suite(tmp_path, "folder:own")
    rename(own / "train" / "two", ".heic")
    assert plan() == 2
    told = "'two' of classes.txt has no training image; images there are of a kind that is not read (.heic): convert"
    assert told in capfd.readouterr().err
    rename(own / "train" / "two", ".bmp")
    for name in CLASSES:
        rename(own / "shift1" / name, ".avif")
    assert plan() == 2
    assert "shift1 but of a kind that is not read (.avif); convert them to PNG" in capfd.readouterr().err


# Sets of other shapes


def test_a_shift_of_one_class_and_one_image_beside_empty_class_folders_is_run(own, tmp_path):
    suite(tmp_path, "folder:own")
    for path in list((own / "shift1").rglob("*.bmp"))[1:]:
        path.unlink()
    folder = planned()
    assert carry_out(folder)["event"] == "done"
    assert json.loads(folder.record.read_text())["sets"]["shift1"]["n"] == 1


def test_sets_of_one_image_are_run(own, tmp_path):
    suite(tmp_path, "folder:own")
    for name in ("validation", "id_test", "shift1"):
        for path in list((own / name).rglob("*.bmp"))[1:]:
            path.unlink()
    folder = planned("ft")
    assert carry_out(folder)["event"] == "done"
    assert {found["n"] for found in json.loads(folder.record.read_text())["sets"].values()} == {1}
    board()


def test_a_file_that_never_stops_changing_is_named(own, monkeypatch):
    real = contents.sign_of
    monkeypatch.setattr(contents, "sign_of", lambda found: (*real(found)[:3], time.perf_counter_ns()))
    with pytest.raises(DataError, match=r"\.bmp: changes while it is read; wait until whatever writes it is done"):
        Folder(own).card  # noqa: B018
