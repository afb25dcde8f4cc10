"""A zero-shot head is built once for all runs whose text tower it is of, and a kept one has the bits of a built one."""

import dataclasses
import os

import pytest
import torch
from methods_kit import settings, task, validation_nll
from runs_kit import BACKBONE, call, essence, folders, run_here, write_suite

from robustft import backbones
from robustft.backbones import zero_shot
from robustft.backbones.zero_shot import BATCH_SIZE, build_head
from robustft.benchmarks.commands.boards import leaderboard
from robustft.benchmarks.execution import kept_heads
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.host import environment
from robustft.methods import registry
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.trainer import Interrupted, fit
from robustft.results.records.records import read_record

NAMES, PROMPTS = ["two", "a red two", "seven"], ["{}", "a photo of {}", "{} in blue"]
WHOLE, FIRST = len(NAMES) * len(PROMPTS), len(PROMPTS)
MANY = [f"{colour} {digit}" for colour in ("red", "blue", "green") for digit in range(1000)]  # three passes


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """The folder of kept heads, where those of a few texts are kept, too."""
    monkeypatch.setenv("ROBUSTFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(kept_heads, "BATCH_SIZE", 1)
    return tmp_path / "cache" / "heads"


@pytest.fixture
def passes(monkeypatch):
    """How many texts each pass of a text tower was asked for."""
    seen, plain, by_template = [], backbones.DualEncoder.text_features, zero_shot._read_at_the_end

    def text_features(self, tokens):
        seen.append(len(tokens))
        return plain(self, tokens)

    def read_at_the_end(encoder, parts, prefixes):
        seen.append(sum(len(part.tokens) for part in parts[prefixes:]))
        return by_template(encoder, parts, prefixes)

    monkeypatch.setattr(backbones.DualEncoder, "text_features", text_features)
    monkeypatch.setattr(zero_shot, "_read_at_the_end", read_at_the_end)
    return seen


@pytest.fixture(scope="module")
def built():
    return build_head(backbones.load(BACKBONE), NAMES, PROMPTS)


def kept(encoder=None, names=NAMES, prompts=PROMPTS, **how):
    return kept_heads.head(encoder or backbones.load(BACKBONE), names, prompts, **how)


def test_the_second_call_passes_one_class_through_the_tower_and_has_the_same_bits(cache, passes, built, capfd):
    assert torch.equal(kept(), built) and len(list(cache.iterdir())) == 1
    assert passes == [FIRST, WHOLE]
    passes.clear()
    again = kept()
    assert torch.equal(again, built) and again.stride() == built.stride() and again.dtype == built.dtype
    assert passes == [FIRST]
    assert f"zero-shot head: {WHOLE} texts, built before and kept" in capfd.readouterr().err


def nudged(encoder, name):
    tensor = encoder.clip.state_dict()[name]
    tensor.view(-1)[-1:].copy_(torch.nextafter(tensor.view(-1)[-1:], torch.tensor(9.0)))


def described(patch, **changes):
    now = environment.describe() | changes
    patch.setattr(environment, "describe", lambda: now)


def activation(encoder, _):
    for block in encoder.clip.transformer.resblocks:
        block.mlp.gelu = torch.nn.ReLU()


OTHERS = {
    "weights": lambda encoder, patch: nudged(encoder, "positional_embedding"),
    "scale": lambda encoder, patch: nudged(encoder, "logit_scale"),
    "code of the tower": activation,
    "float64": lambda encoder, patch: encoder.double(),
    "processor": lambda encoder, patch: patch.setattr(environment, "processor", lambda device: "another"),
    "threads": lambda encoder, patch: patch.setattr(torch, "get_num_threads", lambda: 7),
    "libraries": lambda encoder, patch: patch.setenv("MKL_CBWR", "COMPATIBLE"),
    "our code": lambda encoder, patch: described(patch, code_hash="another"),
    "torch": lambda encoder, patch: described(patch, packages={"torch": "another"}),
}


@pytest.mark.parametrize("other", OTHERS)
def test_whatever_bits_may_depend_on_has_a_head_of_its_own(other, cache, passes, monkeypatch):
    kept()
    passes.clear()
    encoder = backbones.load(BACKBONE)
    OTHERS[other](encoder, monkeypatch)
    head = kept(encoder)
    assert passes == [FIRST, WHOLE] and len(list(cache.iterdir())) == 2
    assert torch.equal(head, build_head(encoder, NAMES, PROMPTS))


def test_the_image_tower_has_no_part_in_it_but_names_and_templates_have(cache, passes):
    kept()
    passes.clear()
    encoder = backbones.load(BACKBONE)
    nudged(encoder, "visual.proj")
    kept(encoder)
    assert passes == [FIRST]
    kept(names=[*NAMES[:-2], NAMES[-1], NAMES[-2]])
    kept(prompts=[*PROMPTS[:-1], "the {}"])
    kept(names=[prompt.format(name) for name in NAMES for prompt in PROMPTS], prompts=["{}"])  # as many texts, no mean
    assert len(list(cache.iterdir())) == 4


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)


def foreign(file):
    (mine,) = file.parent.iterdir()
    kept(names=NAMES[::-1])
    (other,) = set(file.parent.iterdir()) - {mine}
    os.replace(other, mine)


DAMAGES = {
    "a bit": flipped,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-100]),
    "empty": lambda file: file.write_bytes(b""),
    "no safetensors": lambda file: file.write_text("head"),
    "another head under its name": foreign,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_built_again_and_replaced(damage, cache, passes, built):
    kept()
    (file,) = cache.iterdir()
    good = file.read_bytes()
    DAMAGES[damage](file)
    assert file.read_bytes() != good
    passes.clear()
    assert torch.equal(kept(), built) and passes == [FIRST, WHOLE]
    assert [path.name for path in cache.iterdir()] == [file.name]
    passes.clear()
    assert torch.equal(kept(), built) and passes == [FIRST]


def test_nothing_is_kept_of_a_trained_tower_or_of_one_pass(cache, passes, built, monkeypatch):
    assert torch.equal(kept(trained=True), built) and passes == [WHOLE]
    monkeypatch.setattr(kept_heads, "BATCH_SIZE", WHOLE)
    assert torch.equal(kept(), built) and not cache.exists()


def test_a_cache_that_cannot_be_written_costs_time_alone(cache, built):
    cache.parent.write_text("a file where the folder would be")
    assert torch.equal(kept(), built) and torch.equal(kept(), built)


def test_where_one_of_several_processes_has_no_head_all_build_it(cache, passes, built, monkeypatch):
    kept()
    passes.clear()
    monkeypatch.setattr(kept_heads.World, "largest", lambda self, value: 1)
    assert torch.equal(kept(), built) and passes == [FIRST, WHOLE]


def test_a_stop_is_heard_between_passes_and_nothing_is_half_made(cache, passes, tmp_path):
    """The trainer's own way to stop: yes from the first look after a pass on."""
    model = backbones.load(BACKBONE).train()
    texts = dataclasses.replace(task(model), class_names=MANY, prompts=["the {}"])
    method, checkpoints = registry.get("zero_shot")(), Checkpoints(tmp_path / "checkpoints", every_seconds=1e9)
    how = {"checkpoints": checkpoints, "validate": validation_nll, "head_builder": kept_heads.head}
    with pytest.raises(Interrupted):
        fit(method, model, texts, settings(), should_stop=lambda: BATCH_SIZE in passes, **how)
    assert passes == [1, BATCH_SIZE]
    assert not cache.exists() and model.training and model.visual.training


def test_a_head_that_takes_long_says_how_far_it_is(monkeypatch, capfd):
    monkeypatch.setattr(kept_heads, "SIGN_SECONDS", -1.0)
    kept(names=MANY, prompts=["the {}"])
    told = [line for line in capfd.readouterr().err.splitlines() if line.startswith("zero-shot head")]
    assert told == [f"zero-shot head: {done} of 3000 texts" for done in (BATCH_SIZE, 2 * BATCH_SIZE)]


def test_runs_share_a_head_and_their_records_are_those_without_it(cache, passes, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Launcher, "run", run_here)
    monkeypatch.setattr(leaderboard, "of_sweep", lambda *_: None)
    suite = write_suite(tmp_path)
    words = ("sweep", suite, "--method", "zero_shot,ft", "--set", "limit=24")
    with monkeypatch.context() as patch:
        patch.setattr(kept_heads, "BATCH_SIZE", BATCH_SIZE)
        assert call(*words, "--runs", "plain") == 0 and not cache.exists()
    assert call(*words, "--runs", "kept") == 0
    assert len(list(cache.iterdir())) == 1
    for method in ("zero_shot", "ft"):
        (plain,), (shared,) = folders(tmp_path / "plain", method), folders(tmp_path / "kept", method)
        assert essence(plain) == essence(shared) and plain.name == shared.name
        assert read_record(plain / "record.json").keys() == read_record(shared / "record.json").keys()
        log = (shared / "log").read_text()
        assert method == "zero_shot" or "built before and kept" in log
