"""What stays of a finished run: nothing, its final weights (of both towers, where both are trained), or the checkpoints
too."""

import json

import pytest
import torch
from runs_kit import BACKBONE, after, call, folders, never, plan_runs, write_suite
from safetensors.torch import load_file

from robustft import backbones
from robustft.backbones.cost import Cost
from robustft.backbones.zero_shot import build_head
from robustft.benchmarks.commands import sweep
from robustft.benchmarks.errors import UserError
from robustft.benchmarks.execution import final_weights
from robustft.benchmarks.execution.run import Attempt, Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.executors.slurm.cost_estimate import estimate
from robustft.benchmarks.planning.benchmark import dataset, method_of
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder import size
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan
from robustft.datasets.digits import CLASS_NAMES, PROMPTS


@pytest.mark.parametrize(
    "what, weights, checkpoints",
    [(None, True, False), ("final", True, False), ("all", True, True), ("none", False, False)],
)
def test_a_finished_run_keeps_what_was_asked_for(tmp_path, what, weights, checkpoints):
    (folder,) = plan_runs(tmp_path, "ft", "limit=16", "steps=4")
    if what:
        folder.keep(what)
    assert work(folder.path, Options(), after(3))["event"] == "interrupted"
    assert list(folder.checkpoints.glob("*.json"))
    assert work(folder.path, Options(), never)["event"] == "done"
    assert folder.weights.exists() == weights
    assert folder.checkpoints.exists() == checkpoints
    assert folder.record.exists() and folder.curves.exists() and list(folder.predictions.glob("*.parquet"))


def test_weights_that_were_not_kept_are_missed_in_one_sentence(tmp_path, monkeypatch, capfd):
    ft, wise = plan_runs(tmp_path, "wise_ft", "limit=16")
    ft.keep("none")
    assert work(ft.path, Options(), never)["event"] == "done"
    outcome = work(wise.path, Options(), never)
    assert outcome["event"] == "failed" and outcome["mistake"]
    assert "wise_ft: needs the final weights of ft, which were not kept (--keep none)" in outcome["reason"]
    told = wise.log.read_text() + "".join(capfd.readouterr())
    assert told.rstrip().endswith(outcome["reason"]) and "Traceback" not in told

    def broken(self):
        raise RuntimeError("of ours")

    monkeypatch.setattr(Attempt, "carry_out", broken)
    outcome = work(wise.path, Options(), never)
    assert outcome["reason"] == "RuntimeError: of ours" and not outcome["mistake"]
    assert "Traceback" in wise.log.read_text() + "".join(capfd.readouterr())  # there, it is needed


def test_a_sweep_says_so_before_it_starts(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    suite = write_suite(tmp_path)
    assert call("sweep", suite, "--method", "wise_ft", "--keep", "none") == 2
    assert "--keep: must be final or all where wise_ft reads the weights of ft" in capsys.readouterr().err
    assert not folders("runs")
    plan = sweep.expand(sweep.load(suite), Request(("ft",), (BACKBONE,)))
    folder = RunFolder.of(tmp_path / "runs", plan[0].spec)
    folder.path.mkdir(parents=True)
    folder.record.write_text(f'{{"run_id": "{plan[0].spec.run_id}"}}')  # done, and nothing kept
    assert call("sweep", suite, "--method", "wise_ft") == 2
    assert f"reads the final weights of ft {BACKBONE} seed 0, which were not kept" in capsys.readouterr().err
    assert call("sweep", suite, "--method", "ft", "--keep", "some") == 2


# the text tower


@pytest.fixture(scope="module")
def averaged(tmp_path_factory, few_probes):
    """A finished run of a method that evaluates its teacher: the average of both towers."""
    (folder,) = plan_runs(tmp_path_factory.mktemp("averaged"), "flyp_wma", "limit=16", "clamp_logit_scale=true")
    assert work(folder.path, Options(), never)["event"] == "done"
    return folder


def test_the_text_tower_that_is_kept_builds_the_head_of_the_final_weights(averaged):
    tensors, about = final_weights.load_weights(averaged)
    text = final_weights.load_text(averaged, about)
    encoder = backbones.load(BACKBONE)
    pretrained = encoder.text_state()
    assert text.keys() == pretrained.keys() and not any(name.startswith("visual.") for name in text)
    assert {"logit_scale", "text_projection", "token_embedding.weight"} <= text.keys()
    assert any(not torch.equal(text[name], pretrained[name]) for name in text)
    encoder.load_text_state(text)
    assert torch.equal(build_head(encoder, CLASS_NAMES, PROMPTS), tensors["weight"])
    assert about["text_sha256"] != about["sha256"]


def test_a_disk_estimate_counts_both_towers(averaged):
    spec, nobody = Plan.read(averaged).spec, lambda spec: None
    found = estimate([spec], averaged.path.parents[3], "cpu", 1, {}, nobody)
    both = averaged.weights.stat().st_size + averaged.text_weights.stat().st_size
    assert found.passing_bytes == 4 * 3 * both and found.kept_bytes > both
    assert (found.weighed, found.laid_out) == (1, 0)
    other = spec.model_copy(update={"method": "flyp"})
    found = estimate([other], averaged.path.parents[3], "cpu", 1, {}, lambda spec: size.Size(7, 5, 1))
    assert (found.weighed, found.laid_out, found.laid_out_bytes) == (0, 1, 7)


def test_the_layout_of_a_run_is_that_of_its_folder(averaged):
    """To the file; to a hundredth in weights, which have names and statistics beside the parameters."""
    encoder, spec = backbones.load(BACKBONE), Plan.read(averaged).spec
    every, image = (sum(p.numel() for p in part.parameters()) for part in (encoder, encoder.visual))
    cost, card = Cost(every, image, encoder.embed_dim, 0, 0, 0, 0), dataset("digits").card
    found = size.of_run(spec, method_of(spec), cost, card)
    there = [path for path in averaged.path.rglob("*")]
    assert averaged.place not in there  # data that come with the package lie nowhere else
    assert found.inodes == len(there) + 1 + 1  # the folder itself, and place.json
    weights = averaged.weights.stat().st_size + averaged.text_weights.stat().st_size
    beside = sum(path.stat().st_size for path in there if path.is_file()) - weights
    assert size.FLOAT * (every + len(CLASS_NAMES) * (encoder.embed_dim + 1)) == pytest.approx(weights, rel=0.01)
    assert weights < found.kept and beside < size.BESIDE_BYTES + size.RECORD_BYTES + 16 * len(card.sets) * 1000
    trial = spec.model_copy(update={"kind": "trial"})
    assert size.of_run(trial, method_of(spec), cost, card).kept < found.kept - averaged.text_weights.stat().st_size // 2


def test_a_checkpoint_is_student_moments_and_teacher(tmp_path):
    (folder,) = plan_runs(tmp_path, "ema", "limit=16", "steps=4")
    assert work(folder.path, Options(), after(3))["event"] == "interrupted"
    encoder, spec = backbones.load(BACKBONE), Plan.read(folder).spec
    every, image = (sum(p.numel() for p in part.parameters()) for part in (encoder, encoder.visual))
    cost = Cost(every, image, encoder.embed_dim, 0, 0, 0, 0)
    passing = size.of_run(spec, method_of(spec), cost, dataset("digits").card).passing
    (made,) = folder.checkpoints.glob("*.safetensors")
    assert made.stat().st_size == pytest.approx(passing / size.CHECKPOINTS, rel=0.03)


def test_a_text_tower_that_was_changed_or_is_another_backbones_is_refused(tmp_path, averaged):
    _, about = final_weights.load_weights(averaged)
    other = RunFolder(tmp_path / averaged.path.name)
    other.text_weights.parent.mkdir(parents=True)
    with pytest.raises(UserError, match=r"text.safetensors: must hold the text tower that the run trained \("):
        final_weights.load_text(other, about)
    content = bytearray(averaged.text_weights.read_bytes())
    content[-1] ^= 1
    other.text_weights.write_bytes(content)
    with pytest.raises(UserError, match="its checksum is another one"):
        final_weights.load_text(other, about)
    encoder, text = backbones.load(BACKBONE), load_file(averaged.text_weights)
    with pytest.raises(ValueError, match="text tower: 'ln_final.bias' is in one of the file and backbone"):
        encoder.load_text_state({name: tensor for name, tensor in text.items() if name != "ln_final.bias"})
    with pytest.raises(ValueError, match="text tower: 'logit_scale' has shapes"):
        encoder.load_text_state({**text, "logit_scale": torch.ones(2)})


@pytest.mark.parametrize(
    "method, setting", [("ft", "trainable=all"), ("flyp", "trainable=image")], ids=["one tower", "frozen"]
)
def test_a_text_tower_that_was_not_trained_is_not_kept(tmp_path, method, setting):
    (folder,) = plan_runs(tmp_path, method, setting, "train_limit=32", "limit=16")
    assert work(folder.path, Options(), never)["event"] == "done"
    assert folder.weights.exists() and not folder.text_weights.exists()
    assert "text_sha256" not in json.loads(folder.fitted.read_text())


def test_keep_none_leaves_no_text_tower_either(tmp_path):
    (folder,) = plan_runs(tmp_path, "flyp", "limit=16")
    folder.keep("none")
    assert work(folder.path, Options(), never)["event"] == "done"
    assert not folder.weights.exists() and not folder.text_weights.exists()


def test_a_trial_keeps_no_text_tower(tmp_path):
    (folder,) = plan_runs(tmp_path, "flyp", "limit=16")
    plan = Plan.read(folder)
    trial = plan.spec.model_copy(update={"kind": "trial"})
    place = RunFolder.of(tmp_path / "trials", trial)
    Plan(trial, plan.dataset, plan.sources, plan.selection).write(place)
    assert work(place.path, Options(), never)["event"] == "done"
    assert place.weights.exists() and not place.text_weights.exists()
