"""Weights of one's own, in a folder that an environment variable names."""

import pytest
import torch
from runs_kit import BACKBONE, call, plan_runs, write_suite
from safetensors.torch import save_file

from robustft import backbones
from robustft.backbones import BackboneError, clip, places
from robustft.backbones.weights import weights_hash
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.results.records.records import read_record
from robustft.results.tables import leaderboard


def test_a_file_with_the_backbones_name_takes_the_place_of_its_weights(tmp_path, monkeypatch):
    registered = backbones.load("tiny-vit-p16")
    before = backbones.weights_id("tiny-vit-p16")
    path = tmp_path / "tiny-vit-p16.pt"
    torch.save({name: 0.5 * tensor for name, tensor in registered.clip.state_dict().items()}, path)
    assert backbones.local_weights("tiny-vit-p16") is None
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    assert backbones.local_weights("tiny_vit_p16") == path and backbones.local_weights("tiny-vit-p8") is None
    loaded = backbones.load("tiny-vit-p16")
    assert torch.equal(loaded.image_projection, 0.5 * registered.image_projection)
    assert backbones.weights_id("tiny-vit-p16") == weights_hash(path) != before
    (tmp_path / "ViT-L-14.safetensors").write_bytes(b"")
    assert backbones.available("ViT-L-14") and not backbones.available("RN50")
    backbones.fetch("ViT-L-14")  # downloads nothing
    with pytest.raises(BackboneError, match="ViT-L-14: damaged weights at .*ViT-L-14.safetensors"):
        backbones.load("ViT-L-14")
    (tmp_path / "tiny-vit-p16-scratch.pt").write_bytes(b"")
    assert backbones.weights_id("tiny-vit-p16-scratch") == "random"


def test_a_file_may_have_any_spelling_of_the_name_but_there_is_one(tmp_path, monkeypatch, capsys):
    """A file or folder that is passed over in silence would leave the registered weights in a run that names others."""
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    path = tmp_path / "vit_b_16-quickgelu.safetensors"
    path.write_bytes(b"")
    assert backbones.local_weights("ViT-B/16") == path and backbones.local_weights("RN50") is None
    other = tmp_path / "ViT-B-16:laion2b_s34b_b88k.safetensors"
    other.write_bytes(b"")
    assert backbones.local_weights("ViT-B/16:laion2b_s34b_b88k") == other
    assert backbones.nobodys_weights() == []
    (tmp_path / "my_clip.pt").write_bytes(b"")
    assert backbones.nobodys_weights() == [tmp_path / "my_clip.pt"]
    call("doctor", "digits", "--fast")
    assert f"! {tmp_path}/my_clip.pt: is weights of no backbone by its name" in capsys.readouterr().out
    (tmp_path / "ViT-B-16.pt").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"ViT-B-16.pt and vit_b_16-quickgelu.safetensors are both weights of ViT"):
        backbones.load("ViT-B-16")
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path / "typo"))
    with pytest.raises(BackboneError, match=r"ROBUSTFT_WEIGHTS: .*typo cannot be read \(No such file or directory\)"):
        backbones.weights_id("tiny-vit-p16")
    assert call("doctor", "digits", "--fast") == 1
    assert "! weights of tiny-rn: ROBUSTFT_WEIGHTS: " in capsys.readouterr().out


def test_a_file_of_a_planned_backbone_that_was_moved_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_known", {})
    monkeypatch.setattr(places, "_planned", {})
    name, moved = "ViT-B-32:mine.safetensors", tmp_path / "moved" / "mine.safetensors"
    backbones.remember_planned(name, tmp_path / "mine.safetensors")
    moved.parent.mkdir()
    moved.write_bytes(b"")
    remedy = "put it back, or name with ROBUSTFT_WEIGHTS the folder that has it as mine.safetensors"
    with pytest.raises(BackboneError, match=f"is not there at {tmp_path}/mine.safetensors; {remedy}"):
        backbones.weights_id(name)
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(moved.parent))
    assert backbones.weights_id(name) == weights_hash(moved) and backbones.nobodys_weights() == []
    places._planned.clear()
    assert backbones.resolve(name) == name
    with pytest.raises(
        BackboneError, match=f"there is no {tmp_path}/typo/mine.safetensors; write where it is, or {name}"
    ):
        backbones.resolve(f"ViT-B-32:{tmp_path}/typo/mine.safetensors")
    (tmp_path / "mine.safetensors").write_bytes(b"other")  # what a person writes now goes before
    assert backbones.resolve(f"ViT-B-32:{tmp_path / 'mine.safetensors'}") == name
    assert backbones.place_of(name) == tmp_path / "mine.safetensors"


def test_a_folder_with_the_name_of_a_tag_is_no_backbone(tmp_path, monkeypatch):
    for name in ("openai", "org--name", "tinyclip", "mine.safetensors"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    assert backbones.place_of("ViT-B-32-quickgelu:openai") is None
    assert backbones.place_of("hf-hub:org--name") is None
    assert backbones.place_of("local-dir:tinyclip") == tmp_path / "tinyclip"
    assert backbones.place_of("ViT-B-32:mine.safetensors") == tmp_path / "mine.safetensors"


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    tensors = {key: tensor.clone() for key, tensor in backbones.load(BACKBONE).clip.state_dict().items()}
    tensors["text_projection"][0, 0] = float("nan")
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"text_projection in .*w.safetensors holds values that are no numbers"):
        backbones.load(BACKBONE, tmp_path / "w.safetensors")


def test_weights_of_others_under_openais_name_are_told_by_doctor_and_record(tmp_path, monkeypatch, capsys):
    shape = {"vision": {"layers": 1, "width": 64, "image_size": 32}, "text": {"layers": 1, "width": 64}}
    whole = clip.build
    monkeypatch.setattr(clip, "build", lambda name, **_: whole(name, **shape))
    monkeypatch.setattr(clip, "image_size", lambda name: 32)
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    save_file(clip.untrained("ViT-B-16").clip.state_dict(), tmp_path / "ViT-B-16.safetensors")
    suite = write_suite(tmp_path, backbones=["ViT-B-16"])
    assert call("doctor", suite, "--fast") == 0  # they may be meant
    words = "are not those that OpenAI gave out, which are of half precision"
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("weights of ViT-B-16"))
    assert str(tmp_path / "ViT-B-16.safetensors") in line and words in line
    (planned,) = plan_runs(tmp_path, "zero_shot", "limit=16", backbone="ViT-B-16")
    with pytest.warns(UserWarning, match=words):
        assert work(planned.path, Options(), lambda: False)["event"] == "done"
    assert words in read_record(planned.record)["info"]["weights_doubt"]
    assert str(tmp_path) not in planned.record.read_text()


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
