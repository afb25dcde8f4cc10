"""What a run evaluates beside its classifier: a path, pooled inputs, the teacher's dynamics, a set's own classes."""

import copy
import gc
import inspect
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from runs_kit import BACKBONE, after, essence, never, write_suite
from runs_kit import plan_runs as plan
from safetensors.torch import load_file

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution import run as run_module
from robustft.benchmarks.execution.final_weights import load_weights
from robustft.benchmarks.execution.predict import BATCH_SIZE, WINDOW, evaluate, predict, validation_nlls
from robustft.benchmarks.execution.run import Options, make_settings
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan, input_path
from robustft.benchmarks.run_folder.spec import RunSpec
from robustft.datasets.card import EvalData
from robustft.datasets.projection import Projection
from robustft.methods.classifier import Classifier
from robustft.methods.training.probe import EncodedOnce
from robustft.methods.wise_ft import ALPHAS
from robustft.results.audit.rescoring import FolderFiles, rescore
from robustft.results.metrics.calibration import ece, fit_temperature
from robustft.results.metrics.set_metrics import LISTED_GROUPS, basic, by_group
from robustft.results.records import predictions
from robustft.results.records.records import RecordError, read_record, validate

pytestmark = [pytest.mark.computes, pytest.mark.usefixtures("few_probes")]


def plan_runs(root, method, *settings):
    """Runs of six steps, evaluated on 16 samples of each set."""
    return plan(root, method, *settings, *(["limit=16"] if method == "zero_shot" else ["limit=16", "steps=6"]))


def finish(folders, options=None):
    """Make planned runs in their order; returns the record of the last."""
    for folder in folders:
        assert work(folder.path, options or Options(), never)["event"] == "done"
    return read_record(folders[-1].record)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Records of zero_shot, ft and wise_ft (alpha 0.5) of one seed, and the folder of the last."""
    root = tmp_path_factory.mktemp("path")
    zero_shot = finish(plan_runs(root, "zero_shot"))
    folders = plan_runs(root, "wise_ft")
    wise = finish(folders)
    return zero_shot, read_record(folders[0].record), wise, folders[-1]


def test_the_path_is_the_whole_line_between_the_runs_at_its_ends(finished):
    zero_shot, ft, wise, _ = finished
    assert wise["path"]["parameter"] == "alpha"
    points = {point["value"]: point["sets"] for point in wise["path"]["points"]}
    assert list(points) == list(ALPHAS)
    for alpha, record in ((0.0, zero_shot), (wise["spec"]["hyper"]["alpha"], wise), (1.0, ft)):
        assert points[alpha].keys() == record["sets"].keys()
        for name, metrics in record["sets"].items():
            assert points[alpha][name] == {key: metrics[key] for key in ("accuracy", "ece", "nll")}, (alpha, name)
    assert points[0.2] != points[0.8]


def test_a_record_with_a_path_is_a_page_and_others_have_no_such_key(finished):
    zero_shot, ft, wise, folder = finished
    assert len(wise["path"]["points"]) == 11 and len(wise["sets"]) == 8
    assert folder.record.stat().st_size < 16_000
    assert read_record(folder.record) == wise
    assert "path" not in ft and "path" not in zero_shot and "dynamics" not in wise["info"]


def test_cut_anywhere_in_the_evaluation_it_ends_in_the_same_record(finished, tmp_path):
    want = essence(finished[-1].path)
    ft, wise = plan_runs(tmp_path, "wise_ft")
    finish([ft])
    events = [work(wise.path, Options(), after(looks))["event"] for looks in (0, 1, 4, 100)]
    assert events == ["interrupted"] * 3 + ["done"]
    assert essence(wise.path) == want


def test_a_trial_has_neither_path_nor_dynamics(tmp_path, monkeypatch):
    benchmark = sweep.load(write_suite(tmp_path))
    given = []
    monkeypatch.setattr(run_module, "fit", lambda *a, fit=run_module.fit, **k: given.append(k["probe"]) or fit(*a, **k))
    plans = benchmark.resolver(rule=None, kind="trial").resolve("wise_ft", BACKBONE, 100, {"limit": (8, "--set")})
    folders = [RunFolder.of(tmp_path / "runs", planned.spec) for planned in plans]
    for folder, planned in zip(folders, plans, strict=True):
        Plan(planned.spec, "digits", planned.sources, {"rules": []}).write(folder)
    record = finish(folders)
    assert record["kind"] == "trial" and list(record["sets"]) == ["validation"]
    assert "path" not in record and given == [None, None]


def change(record, at, value):
    *keys, last = at
    for key in keys:
        record = record[key]
    record[last] = value


@pytest.mark.parametrize(
    "at, value, words",
    [
        (("path", "points", 0, "value"), 0.9, "path: values must rise"),
        (("path", "points", 3, "sets"), {}, "path: point 0.3 is on other sets than the run"),
        (("path", "points", 3, "sets", "id", "accuracy"), 83.0, "accuracy: Input should be less than or equal to 1"),
    ],
)
def test_a_path_that_breaks_the_schema_is_refused_by_key(finished, at, value, words):
    record = copy.deepcopy(finished[2])
    change(record, at, value)
    with pytest.raises(RecordError, match=words):
        validate(record)


# pooled inputs


def test_an_input_is_found_by_method_and_seed(tmp_path):
    spec = SimpleNamespace(backbone="tiny", seed=4, inputs={"ft": "aaa", "ft:1": "bbb"})
    path = tmp_path / "digits" / "soup" / "tiny" / "seed4-ccc"
    assert input_path(path, spec, "ft") == tmp_path / "digits" / "ft" / "tiny" / "seed4-aaa"
    assert input_path(path, spec, "ft:1") == tmp_path / "digits" / "ft" / "tiny" / "seed1-bbb"


def test_a_soup_reads_the_finished_runs_of_its_seeds(tmp_path):
    folders = plan_runs(tmp_path, "model_soup")
    record = finish(folders)
    seeds = [read_record(folder.record)["seed"] for folder in folders[:-1]]
    assert seeds == [3, 4, 5] and list(record["spec"]["inputs"]) == ["ft:3", "ft:4", "ft:5"]
    (soup, *members) = [load_weights(folder)[0]["weight"] for folder in (folders[-1], *folders[:-1])]
    assert torch.allclose(soup, torch.stack(members).mean(dim=0), rtol=0, atol=1e-6)
    assert not torch.equal(members[0], members[1])


# dynamics


def test_dynamics_on_id_validation_are_in_a_distilling_runs_record_also_after_a_cut(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(run_module, "fit", lambda *a, fit=run_module.fit, **k: given.append(k["probe"]) or fit(*a, **k))
    (folder,) = plan_runs(tmp_path, "ema")
    record = finish([folder])
    assert [probe.name for probe in given] == ["validation"]
    rows = record["info"]["dynamics"]
    assert [(row["step"], row["fraction"]) for row in rows] == [(2, 0.25), (3, 0.5), (5, 0.75), (6, 1.0)]
    assert all(row["gap"] >= 0 and row["kl_start_student"] > 0 for row in rows)
    folder.record.unlink()
    assert finish([folder])["info"] == record["info"]


# how it is carried out


def test_batch_norm_is_the_specs_and_the_micro_batch_the_commands(finished):
    spec = RunSpec.model_validate(finished[2]["spec"])
    assert (make_settings(spec, "cpu").bn, make_settings(spec, "cpu").micro_batch) == ("frozen", None)
    settings = make_settings(spec.model_copy(update={"bn": "released"}), "cpu", 16)
    assert (settings.bn, settings.micro_batch) == ("released", 16)


def test_what_saves_memory_is_named_in_the_record(tmp_path, finished):
    (folder,) = plan_runs(tmp_path, "flyp")
    record = finish([folder], Options(micro_batch=8, checkpoint_activations=True))
    assert (record["environment"]["micro_batch"], record["environment"]["checkpoint_activations"]) == (8, True)
    assert not {"micro_batch", "checkpoint_activations"} & finished[2]["environment"].keys()


def test_captions_once_each_are_the_specs(tmp_path, finished):
    """Written where they are, and nowhere else."""
    (folder,) = plan_runs(tmp_path, "flyp", "unique_captions=true")
    spec = finish([folder])["spec"]
    assert spec["unique_captions"] is True and make_settings(RunSpec.model_validate(spec), "cpu").unique_captions
    assert not {"unique_captions", "compile"} & finished[2]["spec"].keys()


# a set's own classes and groups


class Fixed(torch.nn.Module):
    """Gives the logits whose row each image names by its first value."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


class Samples(EvalData):
    """A set of as many samples as labels; counts how often images are read."""

    def __init__(self, labels, **more):
        self.name, self.labels, self.reads = "set", np.array(labels), 0
        self.sample_ids = self.unit_ids = [str(i) for i in range(len(labels))]
        for name, value in more.items():
            setattr(self, name, value)

    @property
    def found(self):
        return len(self.labels)

    def images(self, start, stop):
        self.reads += stop - start
        return torch.arange(start, stop).view(-1, 1, 1, 1).expand(-1, 3, 1, 1)


def columns_of(module, data, **how):
    (columns,) = predict([lambda: module], data, **how)
    return columns


def test_logits_are_projected_before_softmax():
    data = Samples([1], project=Projection(((0,), (2, 3))))
    module = Fixed([[0.0, 9.0, 0.0, 1.0]])
    # Two classes with logits 0 and max(0, 1): column 1, the largest of all, counts for nothing.
    p = np.exp(1) / (1 + np.exp(1))
    metrics, columns = evaluate(module, data), columns_of(module, data)
    assert metrics["accuracy"] == 1.0 and metrics["nll"] == pytest.approx(-np.log(p))
    assert columns["confidence"][0] == pytest.approx(p, rel=1e-6) and columns["prediction"][0] == 1
    assert evaluate(module, Samples([1]))["nll"] < 0.01


def test_a_label_that_is_all_but_impossible_has_its_likelihood():
    """In float32, exp(-200) is 0, and the set's likelihood would be infinite."""
    metrics = evaluate(Fixed([[0.0, 200.0], [0.0, 0.0]]), Samples([0, 1]))
    assert metrics["nll"] == pytest.approx((200 + np.log(2)) / 2, rel=1e-9)


def test_a_classifier_is_evaluated_in_eval_mode():
    module = torch.nn.Sequential(Fixed([[0.0, 1.0]] * 64), torch.nn.Dropout(0.5)).train()
    assert set(columns_of(module, Samples([1] * 64))["confidence"].tolist()) == {np.exp(1) / (1 + np.exp(1))}


def test_every_classifier_is_shown_a_window_of_images_that_are_read_once():
    size = BATCH_SIZE * WINDOW + 100
    data = Samples([0, 1, 1] * (size // 3))
    good, bad = ([[5.0, 0.0], [0.0, 5.0], [0.0, 5.0]] * (size // 3), [[5.0, 0.0]] * size)
    shown = []
    modules = [Fixed(good), Fixed(bad)]
    makers = [lambda m=module: shown.append(data.reads) or m for module in modules]
    together = predict(makers, data)
    assert shown == [BATCH_SIZE * WINDOW] * 2 + [len(data)] * 2  # two windows, all images of each before any classifier
    assert [basic(columns)["accuracy"] for columns in together] == [1.0, pytest.approx(1 / 3)]
    assert (together[0]["prediction"] == data.labels).all()
    for module, columns in zip(modules, together, strict=True):
        assert basic(columns_of(module, data)) == basic(columns)
    assert validation_nlls(makers, data) == [basic(columns)["nll"] for columns in together]
    assert inspect.signature(EncodedOnce).parameters["batches"].default == WINDOW  # or features are computed again


def test_the_worst_group_is_the_lowest_accuracy_and_the_nameless_is_none():
    data = Samples([0, 0, 1, 0, 0], groups=["a", "a", "b", "", ""])
    metrics = evaluate(Fixed([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), data)
    assert metrics["accuracy"] == pytest.approx(0.4)
    assert (metrics["worst_group_accuracy"], metrics["group_accuracy"]) == (0.5, {"a": 0.5, "b": 1.0})
    assert evaluate(Fixed([[1.0, 0.0]]), data, limit=1)["worst_group_accuracy"] == 1.0
    assert "worst_group_accuracy" not in evaluate(Fixed([[1.0, 0.0]]), Samples([0]))


def test_many_groups_leave_only_their_worst_in_the_record():
    columns = {"label": np.zeros(40, int), "prediction": np.arange(40) // 39}
    names = [f"g{i}" for i in range(40)]
    assert by_group(columns, names) == {"worst_group_accuracy": 0.0}
    assert len(by_group(columns, names[:LISTED_GROUPS] * 2 + [""] * 8)["group_accuracy"]) == LISTED_GROUPS
    assert by_group(columns, [""] * 40) == {}


def test_images_that_are_not_on_the_disk_count_as_expected():
    metrics = evaluate(Fixed([[1.0, 0.0]] * 3), Samples([0, 0, 0], expected=10))
    assert (metrics["n_expected"], metrics["n"]) == (10, 3)
    metrics = evaluate(Fixed([[1.0, 0.0]] * 3), Samples([0, 0, 0], expected=None))
    assert (metrics["n_expected"], metrics["n"]) == (3, 3)


# what is kept of each sample


def test_the_validation_set_keeps_logits_and_gives_one_temperature(finished):
    for record, folder in ((finished[2], finished[-1]),):
        files = {name: predictions.read(folder.predictions / f"{name}.parquet") for name in record["sets"]}
        assert [name for name, columns in files.items() if "logits" in columns] == ["validation"]
        validation = files["validation"]
        assert validation["logits"].dtype == np.float16 and validation["logits"].shape == (16, 10)
        assert record["temperature"] == fit_temperature(validation["logits"], validation["label"])
        assert (validation["logits"].argmax(axis=1) == validation["prediction"]).mean() > 0.9  # but for near ties
        for name, columns in files.items():
            scaled = ece(columns["confidence_scaled"], columns["prediction"] == columns["label"])
            assert record["sets"][name]["ece_scaled"] == scaled


def test_the_points_of_the_path_keep_each_sample(finished):
    *_, record, folder = finished
    for name in record["sets"]:
        own = predictions.read(folder.predictions / f"{name}.parquet")
        points = predictions.read_path(folder.path_predictions(name), "alpha")
        assert tuple(points) == ALPHAS
        for key in ("label", "prediction", "confidence", "p_label"):
            assert np.array_equal(points[record["spec"]["hyper"]["alpha"]][key], own[key]), key
        for point in record["path"]["points"]:
            kept = points[point["value"]]
            assert basic(kept)["accuracy"] == point["sets"][name]["accuracy"]
            assert basic(kept)["ece"] == point["sets"][name]["ece"]


def test_the_whole_path_can_be_rescored(finished):
    *_, record, folder = finished
    numbers = list(rescore(record, FolderFiles(folder.predictions)))
    along = [n for n in numbers if " at alpha=" in n.set]
    assert len(along) == 11 * 8 * 3 and not [n for n in along if n.differs or n.rescored is None]
    assert {n.metric for n in numbers if n.differs or n.rescored is None} == {"ece_classwise"}
    kept = FolderFiles(folder.predictions).path("id", "alpha")
    assert kept[0.3]["confidence"].dtype == np.float32 and len(kept[0.3]["label"]) == 16
    record["path"]["points"][4]["sets"]["writers"]["ece"] += 1e-3
    assert [n.set for n in rescore(record, FolderFiles(folder.predictions)) if n.differs] == ["writers at alpha=0.4"]
    record["path"]["points"][4]["sets"]["writers"]["ece"] -= 1e-3


def test_classes_lie_beside_the_record(finished):
    *_, record, folder = finished
    table = pd.read_parquet(folder.per_class)
    assert set(table["set"]) == set(record["sets"])
    for name, rows in table.groupby("set"):
        assert rows["n"].sum() == record["sets"][name]["n"]
        assert rows["correct"].sum() / rows["n"].sum() == record["sets"][name]["accuracy"]


def test_a_path_holds_three_models_at_most(finished, monkeypatch, tmp_path):
    ft, wise = plan_runs(tmp_path, "wise_ft")
    finish([ft])
    shape, held = load_file(finished[-1].weights)["visual.conv1.weight"].shape, []
    called = []

    def there():
        """The weights of that shape in this process: where they are -> one tensor of them."""
        tensors = [o for o in gc.get_objects() if type(o) in (torch.Tensor, torch.nn.Parameter)]
        return {o.untyped_storage().data_ptr(): o for o in tensors if o.shape == shape}

    gc.collect()
    before = there()  # what earlier tests of this process have left; held, so that no model comes to lie there

    def forward(self, images, forward=Classifier.forward):
        called.append(1)
        if len(called) in (1, 12, 50):  # at its own classifier, at the end of the line, and in between
            held.append(len(there().keys() - before.keys()))
        return forward(self, images)

    monkeypatch.setattr(Classifier, "forward", forward)
    finish([wise])
    assert len(called) == 12 * 8 and held == [3] * 3  # zero-shot, finetuned, and the one between
