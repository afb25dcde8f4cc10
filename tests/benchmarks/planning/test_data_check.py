"""Which data a run is on: complete ones, a part that is said, or all of train where nothing is chosen."""

import hashlib
import json

import numpy as np
import pytest
import torch
from animals_kit import make
from imagenet_kit import WNIDS, picture
from make_records import make_record
from runs_kit import call, copy_of, folders, write_suite

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.errors import UserError
from robustft.benchmarks.planning import data_check
from robustft.benchmarks.planning import resolver as grid
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.run_folder.spec import RunSpec
from robustft.datasets import catalogue
from robustft.datasets.card import DataError, Dataset, EvalData
from robustft.datasets.folder import Folder
from robustft.datasets.imagenet import ImageNet, ImageNetFullTrain
from robustft.datasets.subset import PartOfSet, Rehearsal, few_of_each
from robustft.results.tables import leaderboard


def resolve(benchmark, method, recipe=None, **settings):
    overrides = {key: (value, "--set") for key, value in settings.items()}
    return benchmark.resolver(recipe).resolve(method, benchmark.suite.backbones[0], 0, overrides)[-1]


# ImageNet's whole training set


def test_published_recipes_train_on_all_of_imagenet_and_common_withholds():
    imagenet = Benchmark("imagenet")
    common, published = resolve(imagenet, "flyp"), resolve(imagenet, "flyp", "as_published")
    assert imagenet.suite.dataset_of("common") == "imagenet"
    assert imagenet.suite.dataset_of("as_published") == imagenet.suite.dataset_of("as_printed") == "imagenet_full_train"
    assert (common.spec.steps, published.spec.steps) == (10 * (1_255_167 // 512), 10 * (1_281_167 // 512))
    assert common.spec.fingerprint == catalogue.get("imagenet").card.fingerprint
    assert published.spec.fingerprint == catalogue.get("imagenet_full_train").card.fingerprint


def test_without_id_validation_a_choice_is_refused():
    imagenet = Benchmark("imagenet")
    words = "lp_ft: chooses by ID validation, which imagenet_full_train has not, .* set c_points=1 and c_min to the C"
    with pytest.raises(UserError, match=words):
        resolve(imagenet, "lp_ft", "as_published", c_points=3)
    assert resolve(imagenet, "lp_ft", "as_published").spec.hyper["c_min"] == 0.316
    # WiSE-FT at a fixed alpha chooses nothing, and neither does the run that it reads
    assert resolve(imagenet, "wise_ft", "as_published").spec.hyper["alpha"] == 0.5
    trial = imagenet.resolver("as_published", kind="trial")
    with pytest.raises(UserError, match="flyp: chooses by ID validation"):
        trial.resolve("flyp", "RN50", 0, {})


def test_a_published_recipe_on_unknown_data_is_refused(tmp_path):
    path = copy_of(tmp_path, "fmow", ('    about: "Values of FLYP', '    dataset: fmouw\n    about: "Values of FLYP'))
    with pytest.raises(
        UserError, match=r"published.as_published.dataset: unknown dataset 'fmouw'; did you mean 'fmow'"
    ):
        Benchmark(path)


# Partial data


def test_allow_partial_is_in_the_id_only_where_it_is_used():
    digits = Benchmark("digits")
    before, partial = resolve(digits, "flyp"), resolve(digits, "flyp", allow_partial=True)
    assert before.spec.run_id != partial.spec.run_id and "allow_partial" not in before.spec.canonical()
    assert spec_of(allow_partial=True).run_id != spec_of().run_id  # also where the fingerprint would not tell
    assert digits.selector().of(partial.spec)["rules"] == []
    assert digits.selector().of(before.spec)["rules"]


def test_a_sweep_on_missing_data_is_refused_before_it_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("ROBUSTFT_DATA", raising=False)
    suite = write_suite(tmp_path, name="fmow", dataset="fmow", version="fmow-v1.1-1", tuning=None)
    arguments = ("sweep", suite, "--method", "zero_shot", "--runs", tmp_path / "runs", "--results", tmp_path)
    assert call(*arguments) == 2
    assert "no data root; set ROBUSTFT_DATA to the folder that holds the datasets, or pass --data." in (
        capsys.readouterr().err
    )
    assert call(*arguments, "--data", tmp_path / "data") == 2
    assert f"fmow: no folder {tmp_path}/data/fmow_v1.1" in capsys.readouterr().err
    assert call(*arguments, "--data", tmp_path / "data", "--allow-partial") == 2  # nothing at all is no part
    assert folders(tmp_path / "runs") == []


def test_a_partial_copy_is_told_from_another_by_the_images_of_any_set(tmp_path):
    def copy(name, shift="a", images=1, trained=""):
        for part in ("ILSVRC2012/train", "ILSVRC2012/val"):
            for k in range(2):
                picture(tmp_path / name / part / WNIDS[0] / f"{k}.jpg", (k, 0, 0))
        for k in range(images):
            picture(tmp_path / name / "sketch" / WNIDS[0] / f"{shift}{k}.jpg", (k, 0, 0))
        if trained:
            (tmp_path / name / "ILSVRC2012/train" / WNIDS[0] / "1.jpg").rename(
                tmp_path / name / "ILSVRC2012/train" / WNIDS[0] / trained
            )
        return data_check.fingerprint(ImageNet(tmp_path / name, allow_partial=True), True)

    first = copy("first")
    assert copy("same") == first
    others = [copy("more", images=2), copy("other", "b"), copy("without", images=0), copy("trained", trained="2.jpg")]
    assert len({first, *others}) == 5
    shown = [ImageNet(tmp_path / name, allow_partial=True).eval_data("validation") for name in ("first", "trained")]
    assert shown[0].sample_ids == shown[1].sample_ids  # the copies differ in an image that is trained on alone
    whole = ImageNet(tmp_path / "first")
    assert data_check.fingerprint(whole, False) == whole.card.fingerprint != first


def test_a_record_of_partial_data_shares_no_row_with_one_of_all_of_them():
    whole, partial = make_record(seed=0), make_record(seed=1)
    partial["spec"] |= {"allow_partial": True, "fingerprint": "another"}
    partial["sets"]["fresh"] |= {"n": 500}
    rows = [row for section in leaderboard.build([whole, partial]).sections for row in section.rows]
    assert sorted(row.seeds for row in rows) == [(0,), (1,)]
    marked = next(row for row in rows if row.seeds == (1,))
    assert marked.marks["partial"] == "part of the images only: fresh" and marked.rules == ()


class Shifted(Dataset):
    """Data of which one shift is not there."""

    def __init__(self, missing):
        self.missing = missing

    card, train_size = catalogue.get("fmow").card, 3

    def train_labels(self):
        return np.zeros(3, dtype=np.int64)

    def train_images(self, items, seed):
        raise NotImplementedError

    def eval_data(self, name):
        if name == self.missing:
            catalogue.get("fmow", root="/nowhere").eval_data(name)
        return name


def spec_of(**changes):
    about = dict(benchmark="b", benchmark_version="1", fingerprint="f", method="ft", method_version=1, backbone="x")
    return RunSpec(**about, weights="w", seed=0, recipe="common", **changes)


def test_a_row_says_which_shifts_it_lacks():
    records = [make_record(seed=seed) for seed in (0, 1)]
    for record in records:
        record["spec"]["allow_partial"] = True
        record["info"]["sets_left_out"] = ["writers"]
        del record["sets"]["writers"]
    (row,) = (row for section in leaderboard.build(records).sections for row in section.rows)
    assert row.marks["partial"].endswith("; nothing of writers")


def test_a_row_says_what_it_lacks_whatever_else_its_record_says():
    record = make_record(method="ft")
    record["info"]["sets_left_out"] = ["sketch"]
    (row, *_) = [row for section in leaderboard.build([record]).sections for row in section.rows]
    assert row.marks["partial"] == "nothing of sketch"


def test_a_missing_shift_is_left_out_only_where_parts_are_allowed_and_never_id():
    def sets(missing, **changes):
        return [entry.name for entry, _ in data_check.evaluation_sets(Shifted(missing), spec_of(**changes))]

    assert sets("", kind="trial") == ["validation"]
    assert sets("ood", allow_partial=True) == ["validation", "id"]
    for missing, allowed in (("ood", False), ("id", True), ("validation", True)):
        with pytest.raises(DataError, match="no folder /nowhere/fmow_v1.1"):
            sets(missing, allow_partial=allowed)


def test_images_that_a_run_trains_on_must_be_there_and_others_need_not():
    class Whole(Shifted):
        def train_labels(self):
            raise DataError("train: 3 images lack")

    with pytest.raises(DataError, match="train: 3 images lack"):
        data_check.check(Whole(""), spec_of(), trains=True)
    assert data_check.check(Whole(""), spec_of(), trains=False) == []


# Rehearsals


def test_a_part_has_one_of_each_class_before_a_second_of_any():
    labels = np.array([0, 0, 0, 1, 1, 2])
    assert few_of_each(labels, 4).tolist() == [0, 1, 3, 5]
    assert few_of_each(labels, 2).tolist() == [0, 3]
    assert few_of_each(labels, 9).tolist() == [0, 1, 2, 3, 4, 5]
    assert few_of_each(labels[:0], 3).tolist() == []


def test_a_rehearsal_has_the_pictures_of_the_real_run(tmp_path):
    whole = Folder(make(tmp_path / "own"), size=8)
    part = Rehearsal(whole, 4, 4)
    assert part.train_size == 4 and part.card is whole.card
    rows = few_of_each(whole.train_labels(), 4)
    assert part.train_labels().tolist() == whole.train_labels()[rows].tolist() and len(set(part.train_labels())) == 3
    items = [(0, 3), (2, 0)]
    expected = whole.train_images([(epoch, int(rows[index])) for epoch, index in items], 7)
    assert torch.equal(part.train_images(items, 7), expected)
    test, its = whole.eval_data("id"), part.eval_data("id")
    assert isinstance(its, PartOfSet) and its.labels.tolist() == [1, 2, 0, 0]
    assert its.sample_ids == [test.sample_ids[i] for i in (0, 2, 3, 4)]
    assert torch.equal(its.images(1, 3), test.images(2, 4))


def test_a_part_of_a_set_keeps_its_groups_units_and_its_own_classes():
    class Whole(EvalData):
        name, labels = "ood", np.array([0, 0, 0, 1, 1, 0])
        sample_ids, unit_ids = list("abcdef"), list("ABCDEF")
        groups = ["Asia", "Asia", "", "Europe", "Africa", "Africa"]

        def images(self, start, stop):
            raise NotImplementedError

        def project(self, logits):
            return logits[:, [3, 1]]

    part = PartOfSet(Whole(), few_of_each(Whole().labels, 4), 4)  # of class 0 the first two, of class 1 both
    assert part.sample_ids == list("abde") and part.unit_ids == list("ABDE")
    assert part.groups == ["Asia", "Asia", "Europe", "Africa"]
    assert part.project(torch.tensor([[0.0, 1.0, 2.0, 3.0]])).tolist() == [[3.0, 1.0]]


def test_a_rehearsal_on_a_partial_copy_says_what_it_lacks(tmp_path):
    picture(tmp_path / "sketch" / WNIDS[0] / "a.jpg", (1, 0, 0))
    for part in ("train", "val"):
        for k in range(4):
            picture(tmp_path / "ILSVRC2012" / part / WNIDS[0] / f"{k}.jpg", (k, 0, 0))
    data = Rehearsal(ImageNet(tmp_path, allow_partial=True), 3, 3)
    sketch, whole = data.eval_data("imagenet_sketch"), data.eval_data("imagenet")
    assert (len(sketch), sketch.found, sketch.expected) == (1, 1, 3)
    assert (len(whole), whole.found, whole.expected) == (3, 3, 3)


def test_a_rehearsal_of_any_suite_fits_its_images():
    imagenet = Benchmark("imagenet")
    small = resolve(imagenet, "flyp", limit=64, train_limit=64).spec
    assert (small.batch_size, small.steps, small.limit, small.train_limit) == (64, 10, 64, 64)
    assert small.warmup_steps == 1 and small.run_id != resolve(imagenet, "flyp").spec.run_id
    lipsum = resolve(imagenet, "lipsum_ft", "as_published", limit=640, train_limit=640)
    assert lipsum.spec.steps == 25 and lipsum.spec.batch_size == 256  # 50,000 steps of 1,281,167 images
    assert lipsum.sources["steps"].endswith(", fitted to the rehearsal")
    given = resolve(imagenet, "flyp", train_limit=64, steps=40, batch_size=8).spec
    assert (given.steps, given.batch_size) == (40, 8)
    with pytest.raises(UserError, match="batch_size: must be at most 64, the number of training images"):
        resolve(imagenet, "flyp", train_limit=64, batch_size=128)


def test_fewer_images_in_the_grid_of_a_study_are_no_rehearsal():
    resolver = Benchmark("scratch_line").resolver()
    few = {"train_limit": (50, "grid of scratch_line"), "steps": (2000, "grid of scratch_line")}
    spec = resolver.resolve("ft", "tiny-rn-scratch", 0, few)[-1].spec
    assert (spec.train_limit, spec.steps, spec.batch_size) == (50, 2000, 50)  # the steps do not follow the images
    rehearsed = {"train_limit": (40, "--set"), "steps": (2000, "grid of scratch_line")}
    spec = resolver.resolve("ft", "tiny-rn-scratch", 0, rehearsed)[-1].spec
    assert (spec.train_limit, spec.steps, spec.batch_size) == (40, 400, 40)


def test_what_a_rehearsal_reads_is_rehearsed_alike():
    digits = Benchmark("digits")
    ft, wise = digits.resolver().resolve("wise_ft", "tiny-rn", 0, {"train_limit": (20, "--set")})
    assert (ft.spec.train_limit, ft.spec.steps, ft.spec.batch_size) == (20, wise.spec.steps, wise.spec.batch_size)
    assert ft.spec.batch_size == 20 and ft.spec.steps == 50  # 500 steps for 200 images
    alone = digits.resolver().resolve("ft", "tiny-rn", 0, {"train_limit": (20, "--set")})[-1]
    assert alone.spec.run_id == ft.spec.run_id


def test_a_run_trained_on_fewer_images_is_evaluated_on_all_of_them(tmp_path, runs_here, few_pictures):
    suite = write_suite(tmp_path)
    few = ("--set", "train_limit=20", "--set", "steps=2", "--set", "batch_size=20")
    assert call("run", suite, "--method", "flyp", *few, "--runs", tmp_path / "runs") == 0
    (folder,) = folders(tmp_path / "runs")
    sets = json.loads((folder / "record.json").read_text())["sets"]
    assert {name: s["n"] for name, s in sets.items()} == {
        "validation": 20, "id": 600, "fresh": 240, "renditions": 600, "sketches": 600, "reversed": 600,
        "writers": 375, "pretraining_mixture": 600,
    }  # fmt: skip


def test_limit_is_one_flag_of_run_and_its_record_says_so(tmp_path, runs_here):
    suite = write_suite(tmp_path)
    assert call("run", suite, "--method", "flyp", "--limit", "24", "--runs", tmp_path / "runs") == 0
    (folder,) = folders(tmp_path / "runs")
    record = json.loads((folder / "record.json").read_text())
    assert {name: (s["n"], s["n_expected"]) for name, s in record["sets"].items()}["id"] == (24, 24)
    assert record["spec"]["limit"] == record["spec"]["train_limit"] == 24 and record["selection"]["rules"] == []
    assert record["cost"]["images_seen"] == record["spec"]["steps"] * record["spec"]["batch_size"]
    assert sweep.load(suite).selector().of(RunSpec.model_validate(record["spec"]))["rules"] == []


def test_new_fields_are_shared_with_what_a_run_reads():
    assert {"limit", "train_limit", "allow_partial"} <= set(grid.OTHER_FIELDS)


def test_the_withheld_images_are_the_same_list_on_two_machines_and_each_record_has_its_hash(tmp_path, capsys):
    """Two copies of a training tree, made in another order and read through a link, by another data root."""
    names = [f"{wnid}/{wnid}_{k}.JPEG" for wnid in WNIDS[:3] for k in range(40 * (wnid == WNIDS[1]) + 3)]
    for place, order in (("one", names), ("two", names[::-1])):
        for name in order:
            path = tmp_path / place / "imagenet" / "train" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "two")
    kept = [
        data_check.keep_withheld(ImageNet(tmp_path / place, allow_partial=True, size=size), tmp_path / "runs")
        for place, size in (("one", 8), ("link", 224))
    ]
    (written,) = (tmp_path / "runs").iterdir()
    assert kept[0] == kept[1] == {"withheld_sha256": hashlib.sha256(written.read_bytes()).hexdigest()}
    assert written.name == f"withheld-{kept[0]['withheld_sha256'][:12]}.txt"
    listed = written.read_text().splitlines()
    large = sorted((n for n in names if WNIDS[1] in n), key=lambda n: hashlib.sha256(n.encode()).digest())[:21]
    assert len(listed) == 1 + 21 + 1 and set(listed) >= set(large) and listed == sorted(listed)
    (tmp_path / "two" / "imagenet" / "train" / large[0]).unlink()  # another tree: another list, kept beside it
    assert data_check.keep_withheld(ImageNet(tmp_path / "two", allow_partial=True), tmp_path / "runs") != kept[0]
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert data_check.keep_withheld(ImageNetFullTrain(tmp_path / "one", allow_partial=True), tmp_path / "no") == {}
    assert not (tmp_path / "no").exists()
