"""Runs that end in something else than a classifier: evaluated, kept, resumed; what adapts to a set says so."""

import multiprocessing

import hooks_kit
import numpy as np
import pytest
import torch
from runs_kit import after, essence, never, plan_runs
from torch import distributed

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.execution.layer_similarity import similarity_to_start
from robustft.benchmarks.execution.predict import BATCH_SIZE, evaluate, predict, validation_nlls
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.sharded_evaluation import Share
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning import unranked
from robustft.datasets.card import EvalData
from robustft.methods.predictor import Predictor, PredictorError
from robustft.methods.training.parallel import World
from robustft.results.records.records import read_record

N = 600


@pytest.fixture(autouse=True)
def known():
    with hooks_kit.known():
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of the three predictors and of a method with every other hook, finished."""
    root, found = tmp_path_factory.mktemp("runs"), {}
    with hooks_kit.known():
        for name in ("ensemble", "deep", "adapting", "ft"):
            (found[name],) = plan_runs(root, name, "steps=4", "limit=40")
            outcome = work(found[name].path, Options(), never)
            assert outcome["event"] == "done", outcome
    return found


@pytest.mark.parametrize("name", ["ensemble", "deep", "adapting"])
def test_a_run_stopped_again_and_again_ends_in_the_same_record_and_files(name, runs, tmp_path):
    (folder,) = plan_runs(tmp_path, name, "steps=4", "limit=40")
    for looks in (1, 2, 3, 6):
        assert work(folder.path, Options(), after(looks))["event"] == "interrupted"
    assert work(folder.path, Options(), never)["event"] == "done"
    record, files = essence(folder.path)
    wanted, wanted_files = essence(runs[name].path)
    assert record == wanted and files == wanted_files


def test_only_what_adapts_is_transductive(runs):
    records = {name: read_record(folder.record) for name, folder in runs.items()}
    assert {name for name, record in records.items() if "transductive" in record} == {"adapting"}
    assert records["adapting"]["transductive"] is True
    assert unranked.reason(records["adapting"], None).startswith("not ranked, a rehearsal")  # which goes before
    whole = {**records["adapting"], "selection": {"rules": ["one_se"]}, "sources": {}}
    whole["spec"] = {**whole["spec"], "limit": None}
    assert unranked.reason(whole, None).startswith("not ranked, it adapts to each set by all of its images")


def test_layers_of_two_towers_are_compared_with_nothing(runs):
    with pytest.raises(UserError, match="ensemble: layers are compared of one image tower.* 'test_pair'; choose a run"):
        similarity_to_start(runs["ensemble"].path)


# -- adaptation, on a set of our own


class Noise(EvalData):
    name = "id"
    labels = np.arange(N) % 7
    sample_ids = [f"{i}.png" for i in range(N)]
    unit_ids = [str(i) for i in range(N)]

    def __len__(self):
        return N

    def images(self, start, stop):
        return torch.randint(256, (N, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()[start:stop]


class Whitened(Predictor):
    """Logits from features whose mean over the set is zero and whose deviation is one."""

    calls = 0

    def __init__(self, seed=0):
        torch.nn.Module.__init__(self)
        self.weight = torch.randn(7, 48, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mean", torch.zeros(48))

    def features(self, images):
        return images.flatten(1).float() / 50

    def adapt(self, features):
        Whitened.calls += 1
        noise = torch.rand(1)
        return (features - features.mean(dim=0)) / features.std(dim=0) @ self.weight.T + noise


def everything(share=None, limit=None, makers=(lambda: Whitened(0), lambda: Whitened(1))):
    return predict(makers, Noise(), share=share, limit=limit, keep_logits=True, temperature=2.0)


@pytest.mark.parametrize("limit", [None, 300])
def test_it_predicts_from_all_features_of_the_set_at_once(limit):
    size = limit or N
    torch.manual_seed(1)
    state = torch.get_rng_state()
    Whitened.calls = 0
    first, second = everything(limit=limit)
    assert Whitened.calls == 2 and torch.equal(torch.get_rng_state(), state)
    features = Noise().images(0, size).flatten(1).double() / 50
    logits = (features - features.mean(dim=0)) / features.std(dim=0) @ Whitened(0).weight.double().T
    assert np.array_equal(first["prediction"], logits.argmax(dim=1).numpy()) and len(first["label"]) == size
    np.testing.assert_allclose(first["confidence"], logits.softmax(dim=1).amax(dim=1).numpy(), rtol=1e-4)
    assert first["logits"].shape == (size, 7) and "logits" not in second
    assert not np.array_equal(first["prediction"], second["prediction"])
    assert size > BATCH_SIZE  # more than one batch's mean
    by_batch = torch.cat([Whitened().adapt(part.float()) for part in features.split(BATCH_SIZE)]).argmax(dim=1)
    assert not np.array_equal(first["prediction"], by_batch.numpy())


def test_a_mixed_path_and_the_metrics_of_one_set():
    adapted, plain = everything(makers=(lambda: Whitened(0), lambda: torch.nn.Sequential(torch.nn.Flatten(), Plain())))
    assert np.array_equal(adapted["confidence"], everything()[0]["confidence"]) and len(plain["label"]) == N
    assert evaluate(Whitened(0), Noise())["accuracy"] == (adapted["prediction"] == adapted["label"]).mean()
    assert validation_nlls([lambda: Whitened(0)], Noise()) == [evaluate(Whitened(0), Noise())["nll"]]


class Plain(torch.nn.Module):
    def forward(self, pixels):
        return pixels[:, :7].float() / 100


def process(rank, folder, limit):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    columns = everything(Share.of(World(), folder / "parts"), limit)
    np.savez(folder / f"{rank}.npz", **{f"{i}/{key}": v.astype(str) if v.dtype == object else v
                                        for i, found in enumerate(columns) for key, v in found.items()})  # fmt: skip
    distributed.destroy_process_group()


@pytest.mark.parametrize("limit", [None, 100])
def test_two_processes_adapt_as_one_does_bit_for_bit(tmp_path, limit):
    """With 100 samples there is one batch: the second process has no image, and the features of all."""
    workers = [multiprocessing.get_context("fork").Process(target=process, args=(r, tmp_path, limit)) for r in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    alone = everything(limit=limit)
    for rank in (0, 1):
        found = dict(np.load(tmp_path / f"{rank}.npz"))
        assert len(found) == sum(map(len, alone))
        for i, columns in enumerate(alone):
            for key, values in columns.items():
                assert np.array_equal(found[f"{i}/{key}"], values), key


class Learning(Whitened):
    def adapt(self, features):
        self.mean.copy_(features.mean(dim=0))
        return super().adapt(features)


class Replacing(Whitened):
    def adapt(self, features):
        self.mean = features.mean(dim=0)
        return super().adapt(features)


class Short(Whitened):
    def adapt(self, features):
        return super().adapt(features)[1:]


@pytest.mark.parametrize(
    "kind, words",
    [
        (Learning, "Learning.adapt: must leave the predictor as it is, but mean has changed, and the next set would"),
        (Replacing, "Replacing.adapt: must leave the predictor as it is, but mean has changed"),
        (Short, r"Short.adapt: must give logits \(600, classes\), one row an image, got \(599, 7\)"),
    ],
)
def test_no_set_depends_on_the_one_before(kind, words):
    with pytest.raises(PredictorError, match=words):
        everything(makers=[kind])
