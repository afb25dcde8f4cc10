"""An evaluation set shared between processes: every sample once, in order, and the same bits as in one process."""

import multiprocessing

import numpy as np
import pytest
import torch
from torch import distributed

from robustft.benchmarks.execution import predict as evaluate
from robustft.benchmarks.execution.predict import Stopped, predict
from robustft.benchmarks.execution.sharded_evaluation import Share, in_order
from robustft.datasets.card import EvalData
from robustft.methods.training.parallel import World
from robustft.results.metrics.classwise import ClasswiseECE
from robustft.results.records.predictions import PredictionError

N, CLASSES = 1000, 7


class Noise(EvalData):
    """A set whose pictures are functions of their place."""

    name = "id"
    labels = np.arange(N) % 7
    sample_ids = [f"{i}.png" for i in range(N)]
    unit_ids = groups = [str(i // 4) for i in range(N)]

    def __len__(self):
        return N

    def images(self, start, stop):
        return torch.randint(256, (N, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()[start:stop]


class Linear(torch.nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.weight = torch.randn(7, 48, generator=torch.Generator().manual_seed(seed))

    def forward(self, images):
        return images.flatten(1).float() / 50 @ self.weight.T


def makers():
    return [lambda: Linear(0), lambda: Linear(1)]


def everything(share=None, limit=None, classwise=None):
    how = {"limit": limit, "keep_logits": True, "temperature": 2.0}
    return predict(makers(), Noise(), share=share, classwise=classwise, **how)


def process(rank, folder, limit):
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    classwise = ClasswiseECE(CLASSES)
    columns = everything(Share.of(World(), folder / "parts"), limit, classwise)
    found = {f"{i}/{key}": values for i, kept in enumerate(columns) for key, values in kept.items()}
    plain = {key: values.astype(str) if values.dtype == object else values for key, values in found.items()}
    np.savez(folder / f"{rank}.npz", classwise=classwise.error(), **plain)
    distributed.destroy_process_group()


@pytest.mark.parametrize("limit", [None, 300])
def test_two_processes_find_what_one_finds_bit_for_bit(tmp_path, limit):
    workers = [multiprocessing.get_context("fork").Process(target=process, args=(r, tmp_path, limit)) for r in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=120)
        assert worker.exitcode == 0
    classwise = ClasswiseECE(CLASSES)
    alone = everything(limit=limit, classwise=classwise)
    assert {"sample_id", "unit_id", "group", "logits", "confidence_scaled"} <= alone[0].keys()
    for rank in (0, 1):
        found = dict(np.load(tmp_path / f"{rank}.npz"))
        assert found.pop("classwise") == classwise.error() > 0
        assert len(found) == sum(map(len, alone))
        for i, columns in enumerate(alone):
            for key, values in columns.items():
                assert len(values) == (limit or N)
                assert np.array_equal(found[f"{i}/{key}"], values), key
    assert not list((tmp_path / "parts").iterdir())


def part(*position):
    return {"position": np.array(position, dtype=np.int64), "p": np.array(position) / 10}


def test_parts_come_into_the_order_of_the_set():
    merged = in_order("id", [part(2, 3), part(0, 1, 4)], 5)
    assert merged["p"].tolist() == [0.0, 0.1, 0.2, 0.3, 0.4] and list(merged) == ["p"]
    assert in_order("id", [part(0), {"position": np.zeros(0, dtype=np.int64)}], 1)["p"].tolist() == [0.0]


@pytest.mark.parametrize(
    "parts, words",
    [
        ([part(0, 1), part(3)], "set id: .* sample 2 was 0 times"),
        ([part(0, 1), part(1, 2, 3)], "set id: .* sample 1 was 2 times"),
    ],
)
def test_a_sample_that_is_not_there_once_is_refused(parts, words):
    with pytest.raises(PredictionError, match=words):
        in_order("id", parts, 4)


def test_a_damaged_part_is_one_sentence(tmp_path):
    (tmp_path / "id.1-of-2.npz").write_bytes(b"PK torn")
    with pytest.raises(PredictionError, match=r"id.1-of-2.npz: cannot be read"):
        Share(0, 2, tmp_path).merge("id", part(0), 2)


def test_all_processes_stop_when_one_is_asked_to():
    with pytest.raises(Stopped):
        everything(Share(0, 2, meet=lambda value: 1))


def test_a_column_of_the_board_has_one_batch_for_all_methods():
    assert evaluate.lineage_batch("imagenet", "ViT-B-16") == 512
    assert evaluate.lineage_batch("imagenet", "ViT-L-14") == 224
    assert evaluate.lineage_batch("iwildcam", "ViT-B-16") == evaluate.lineage_batch("fmow", "ViT-B-16") == 256
    assert evaluate.lineage_batch("digits", "tiny-rn") == 512
    assert "ece_lineage_10bins_b64" in evaluate.evaluate(Linear(0), Noise(), 64)
