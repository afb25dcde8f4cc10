"""Weights of one's own, in a folder that an environment variable names."""

import pytest
import torch
from runs_kit import BACKBONE, plan_runs
from safetensors.torch import save_file

from robustft import backbones
from robustft.backbones import BackboneError
from robustft.backbones.weights import weights_hash
from robustft.benchmarks.run import Options
from robustft.benchmarks.worker import work
from robustft.results import leaderboard
from robustft.results.records import read_record


def test_a_file_with_the_backbones_name_takes_the_place_of_its_weights(tmp_path, monkeypatch):
    registered = backbones.load("tiny-vit-p16")
    identity = backbones.identity("tiny-vit-p16")
    path = tmp_path / "tiny-vit-p16.pt"
    torch.save({name: 0.5 * tensor for name, tensor in registered.clip.state_dict().items()}, path)
    assert backbones.local_weights("tiny-vit-p16") is None
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    assert backbones.local_weights("tiny_vit_p16") == path and backbones.local_weights("tiny-vit-p8") is None
    loaded = backbones.load("tiny-vit-p16")
    assert torch.equal(loaded.image_projection, 0.5 * registered.image_projection)
    assert backbones.identity("tiny-vit-p16") == weights_hash(path) != identity
    (tmp_path / "ViT-L-14.safetensors").write_bytes(b"")
    assert backbones.available("ViT-L-14") and not backbones.available("RN50")
    backbones.fetch("ViT-L-14")  # downloads nothing
    with pytest.raises(BackboneError, match="ViT-L-14: damaged weights at .*ViT-L-14.safetensors"):
        backbones.load("ViT-L-14")
    (tmp_path / "tiny-vit-p16-scratch.pt").write_bytes(b"")
    assert backbones.identity("tiny-vit-p16-scratch") == "random"


def test_a_run_on_weights_of_ones_own_is_another_run_and_another_row(tmp_path, monkeypatch):
    def record(folder):
        folder.mkdir()
        (planned,) = plan_runs(folder, "zero_shot", "limit=16")
        assert work(planned.path, Options(), lambda: False)["event"] == "done"
        return read_record(planned.record)

    first = record(tmp_path / "first")
    tensors = backbones.load(BACKBONE).clip.state_dict()
    save_file({name: 0.9 * tensor for name, tensor in tensors.items()}, tmp_path / f"{BACKBONE}.safetensors")
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    second = record(tmp_path / "second")
    assert first["run_id"] != second["run_id"]
    assert second["backbone_weights"] == weights_hash(tmp_path / f"{BACKBONE}.safetensors")
    rows = [row for section in leaderboard.build([first, second]).sections for row in section.rows]
    assert [row.seeds for row in rows] == [(first["seed"],)] * 2
