"""Weights files as others save them: in wrappings, in parts, as something else."""

import argparse
import re
import warnings

import pytest
import torch
from runs_kit import BACKBONE, call
from safetensors.torch import load_file, save_file

from robustft import backbones
from robustft.backbones import BackboneError, tiny

TENSORS = {name.removeprefix("clip."): t.float() for name, t in load_file(tiny.weights_file(BACKBONE)).items()}
STRANGER = {
    "image_encoder.conv.weight": torch.ones(2),
    "image_encoder.conv.bias": torch.ones(2),
    "head.a": torch.ones(1),
}


@pytest.fixture(scope="module")
def shipped():
    return backbones.load(BACKBONE).clip.state_dict()


def named(prefix, tensors=TENSORS):
    return {prefix + name: tensor for name, tensor in tensors.items()}


WRAPPED = {
    "plain": TENSORS,
    "compiled": named("_orig_mod."),
    "ddp": named("module."),
    "encoder": named("clip."),
    "lightning": {"state_dict": named("model."), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "ddp of compiled": {"state_dict": named("module._orig_mod.")},
    "compiled ddp in lightning": {"state_dict": named("_orig_mod.module.model.clip.")},
    "model": {"model": TENSORS},
    "ema": {"ema": TENSORS, "step": torch.tensor(3)},
    "params": {"params": named("module.")},
    "nested": {"checkpoint": {"model": named("net.")}},
    "one tower compiled": {k.replace("visual.", "visual._orig_mod.", 1): t for k, t in TENSORS.items()},
    "with optimizer": {
        "state_dict": TENSORS,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []},
    },
    "openai's settings": {**TENSORS, "input_resolution": torch.tensor(32), "context_length": torch.tensor(16)},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_wrapping_is_taken_off_and_said(kind, shipped, tmp_path):
    path = tmp_path / "w.pt"
    torch.save(WRAPPED[kind], path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        loaded = backbones.load(BACKBONE, path).clip.state_dict()
    assert all(torch.equal(loaded[name], shipped[name]) for name in shipped)
    said = " ".join(str(one.message) for one in told)
    plain = kind in ("plain", "encoder", "with optimizer", "openai's settings")
    assert (said == "") == plain, said
    if kind == "compiled ddp in lightning":
        assert "'_orig_mod.' and 'module.' and 'model.' and 'clip.' was taken off the names in w.pt" in said
    if kind == "nested":
        assert "the weights are those under 'checkpoint.model' in w.pt" in said


@pytest.mark.parametrize("kind", ["half", "double", "bfloat16"])
def test_every_float_type_is_taken(kind, shipped, tmp_path):
    torch.save({name: getattr(t, kind)() for name, t in TENSORS.items()}, tmp_path / "w.pt")
    loaded = backbones.load(BACKBONE, tmp_path / "w.pt").clip.state_dict()
    assert {t.dtype for t in loaded.values()} == {torch.float32}
    assert kind == "bfloat16" or all(torch.equal(loaded[name], shipped[name]) for name in shipped)


@pytest.mark.parametrize("ending", ["pt", "safetensors", "bin"])
def test_a_file_is_what_its_content_says(ending, shipped, tmp_path):
    for save in (save_file, torch.save):
        save(TENSORS, tmp_path / f"w.{ending}")
        loaded = backbones.load(BACKBONE, tmp_path / f"w.{ending}").clip.state_dict()
        assert torch.equal(loaded["text_projection"], shipped["text_projection"])
    torch.save(TENSORS, tmp_path / f"w.{ending}", _use_new_zipfile_serialization=False)
    backbones.load(BACKBONE, tmp_path / f"w.{ending}")


def function():
    """Stands for what a checkpoint may name."""


TOWER = {name: t for name, t in TENSORS.items() if name.startswith("visual.")}
REFUSED = {
    "image tower": (TOWER, r"a part of this one: it lacks \d+ of \d+ tensors, as 'positional_embedding', 'text_proj"),
    "another": (STRANGER, r"its own names begin with 'image_encoder.conv.weight', 'image_encoder.conv.bias', 'head.a'"),
    "another in lightning": (
        {"state_dict": named("model.", TOWER)},
        r"its own names under 'state_dict' begin with 'mod",
    ),
    "one more": ({**TENSORS, "loss.weight": torch.ones(1)}, r"has 1 that the model has not, as 'loss.weight'"),
    "two models": ({"model": TENSORS, "ema": TENSORS}, r"holds 2 models, under 'model' and 'ema'; save the one"),
    "args": (
        {"args": argparse.Namespace(a=1), "state_dict": TENSORS},
        r"more than tensors \(argparse.Namespace\).*torch.save\(mo",
    ),
    "function": ({"hook": function, "state_dict": TENSORS}, rf"more than tensors \({__name__}.function\)"),
    "module": (torch.nn.Linear(2, 2), r"more than tensors \(torch.nn.modules.linear.Linear\)"),
    "no names": ([1, 2], r"holds a list and no tensors with names"),
    "a tensor": (torch.ones(3), r"holds one tensor and no tensors with names"),
    "no tensors": ({"epoch": 3}, r"holds no tensors with names"),
    "int8": (
        {n: t if t.dim() == 0 else t.to(torch.int8) for n, t in TENSORS.items()},
        r"must hold float numbers, got int8",
    ),
    "complex": ({n: t.to(torch.complex64) for n, t in TENSORS.items()}, r"must hold float numbers, got complex64"),
    "scale": (
        {**TENSORS, "logit_scale": torch.tensor(100.0)},
        r"must be a logarithm.*got 100.*save its logarithm, 4.605",
    ),
    "1 / 0.07": ({**TENSORS, "logit_scale": torch.tensor(1 / 0.07)}, r"must be a logarithm.*got 14.28"),
    "infinite scale": ({**TENSORS, "logit_scale": torch.tensor(torch.inf)}, r"logit_scale in .* no numbers"),
    "no number": ({**TENSORS, "text_projection": torch.full((64, 64), torch.nan)}, r"text_projection in .* no numbers"),
    "beyond float32": (
        {**TENSORS, "logit_scale": torch.tensor(-1e300, dtype=torch.float64)},
        r"none that float32 can hold",
    ),
    "other shape": (
        {**TENSORS, "visual.proj": torch.ones(2, 2)},
        r"another architecture: visual.proj is of shape \[2, 2\]",
    ),
    "terminal codes": ({"\x1b[31mred": torch.ones(1)}, r"begin with '\\x1b\[31mred'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_whole_file_that_does_not_fit_is_refused_with_what_is_in_it(kind, tmp_path):
    content, words = REFUSED[kind]
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(BackboneError, match=words) as refused:
        backbones.load(BACKBONE, tmp_path / "w.pt")
    sentence = str(refused.value)
    assert "damaged" not in sentence and sentence.isprintable() and str(tmp_path / "w.pt") in sentence, sentence


NOT_WEIGHTS = {
    "lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "a pointer of Git LFS.*git lfs pull",
    ),
    "html": (b"<!DOCTYPE html>\n<html><body>404</body></html>" * 50, "a page of HTML"),
    "text": ("Größe: nothing".encode(), "text, which begins with 'Größe: nothing'"),
    "index": (
        b'{"metadata": {"total_size": 1}, "weight_map": {"a": "model-00001.safetensors"}}',
        "the index of weights",
    ),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_what_stands_in_the_place_of_weights_is_named(kind, ending, tmp_path):
    content, words = NOT_WEIGHTS[kind]
    (tmp_path / f"w.{ending}").write_bytes(content)
    with pytest.raises(BackboneError, match=f"is no weights file but {words}"):
        backbones.load(BACKBONE, tmp_path / f"w.{ending}")


@pytest.mark.parametrize("cut", [0, 7, 1000, -1000])
@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "torch"])
def test_a_file_that_is_cut_off_is_damaged(save, cut, tmp_path):
    path = tmp_path / "w.pt"
    save(TENSORS, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(BackboneError, match=f"damaged weights at {re.escape(str(path))}") as refused:
        backbones.load(BACKBONE, path)
    assert str(refused.value).isprintable()


def test_a_torchscript_archive_is_refused_without_running_it(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(BackboneError, match=r"TorchScript archive, which is code: torch.save the state_dict\(\)"):
        backbones.load(BACKBONE, tmp_path / "w.pt")


def test_doctor_says_it_before_a_run_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    torch.save(TOWER, tmp_path / f"{BACKBONE}.pt")
    assert call("doctor", "digits", "--fast") == 1
    assert f"weights of {BACKBONE}: backbone {BACKBONE}: " in " ".join(capsys.readouterr().out.split())
