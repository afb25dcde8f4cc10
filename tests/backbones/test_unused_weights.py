"""Weights of one's own that no backbone would take are refused: the bundled ones would be in the run instead."""

import pytest
from runs_kit import BACKBONE, call
from safetensors.torch import save_file

from robustft import backbones

PLAN = ("sweep", "digits", "--method", "ft", "--backbone", BACKBONE, "--dry-run")


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    return tmp_path


def said(capsys, *arguments):
    assert call(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["my_clip.pt"], "my_clip.pt: is weights of no backbone by its name. `robustft list` has the names"),
        (["tiny-vitp8.pt"], "tiny-vitp8.pt: is weights of no backbone by its name; did you mean tiny-vit-p8?"),
        (["tiny-rn.bin", "tiny_vit_p88.bin"], "tiny_vit_p88.bin: is weights of no backbone by its name; did you mean"),
        (["a_clip.pt", "b_clip.pt"], "a_clip.pt: is weights of no backbone by its name"),
        (["tiny-rn-scratch.pt"], "has the name of a backbone whose weights are random; did you mean tiny-rn?"),
        (["ViT-B-16:laion9b.safetensors"], "ViT-B-16:laion9b.safetensors: is weights of no backbone by its name"),
        ([], "must hold weights (.safetensors, .pt, .pth, .bin), got no such file"),
        (["README.md", "tiny-vit-p8.ckpt"], "must hold weights (.safetensors, .pt, .pth, .bin), got no such file"),
    ],
)
def test_a_folder_with_what_no_backbone_takes_is_refused_and_doctor_says_so_once(own, names, words, capsys):
    for name in names:
        (own / name).write_bytes(b"")
    line = said(capsys, *PLAN)
    assert line.startswith("robustft: ROBUSTFT_WEIGHTS: ") and words in line and str(own) in line
    assert ("(and 1 more)" in line) == (names == ["a_clip.pt", "b_clip.pt"])
    assert call("doctor", "digits", "--fast") == 1
    told = [line for line in capsys.readouterr().out.splitlines() if words in line]
    assert len(told) == 1 and told[0].startswith("! ")


def test_a_path_that_is_a_file_is_refused_with_its_folder(own, monkeypatch, capsys):
    file = own / f"{BACKBONE}.safetensors"
    file.write_bytes(b"")
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(file))
    assert f"{file} cannot be read (Not a directory); name its folder, {own}." in said(capsys, *PLAN)


def test_right_names_in_any_spelling_are_taken_beside_what_is_no_weights(own, capsys):
    encoder = backbones.load(f"{BACKBONE}-scratch")
    for name in (BACKBONE.replace("-", "_"), "ViT-B-16-quickgelu", "ViT-B-16:laion2b_s34b_b88k"):
        save_file(encoder.clip.state_dict(), own / f"{name}.safetensors")
    for name in ("README.md", "._tiny-rn.pt", "notes.txt"):
        (own / name).write_bytes(b"")
    assert call(*PLAN) == 0
    assert call("doctor", "digits", "--fast") == 0
    assert "!" not in capsys.readouterr().out
    assert backbones.local_weights("tiny-rn") is None


def test_a_backbone_that_is_registered_later_is_a_name_too(own, monkeypatch):
    (own / "tiny-vit-p4.pt").write_bytes(b"")
    with pytest.raises(backbones.BackboneError, match="tiny-vit-p4.pt: is weights of no backbone"):
        backbones.local_weights("tiny-rn")
    monkeypatch.setitem(backbones.tiny.VISION, "tiny-vit-p4", backbones.tiny.VISION[BACKBONE])
    assert backbones.local_weights("tiny-vit-p4") == own / "tiny-vit-p4.pt"
    assert backbones.local_weights("tiny-rn") is None
