"""The trainer: the released trajectories, resume bit for bit, checkpoints, and what stops a run."""

import json
import math

import numpy as np
import pytest
import torch
from methods_kit import batches, encoder, fit, run, settings, task, validation_nll
from repository import GOLDEN, golden
from torch.nn.functional import normalize

from robustft.backbones import DualEncoder
from robustft.datasets.loaders import Batch
from robustft.methods.base import build_anew
from robustft.methods.distillation import contrastive_relational_distillation
from robustft.methods.ema import EMA
from robustft.methods.flyp import FLYP
from robustft.methods.flyp_wma import FLYPWMA
from robustft.methods.ft import FT
from robustft.methods.lp_ft import LPFT
from robustft.methods.teachers import EMATeacher
from robustft.methods.tracer import TRACER
from robustft.methods.tracer_static_teacher import TRACERStaticTeacher
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.dynamics import matching
from robustft.methods.training.trainer import Interrupted, NonFinite, Training
from robustft.methods.two_tower import TwoTower

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # isort: skip  (after robustft.backbones)

pytestmark = pytest.mark.computes

TRAJECTORY = golden("train_trajectory.json")
INITIAL = np.load(GOLDEN / "train_trajectory_init.npz")


class TracerWithEMA(TRACER):
    """TRACER's loss with the released EMA teacher, updated at every step."""

    def teacher(self, student, settings):
        return EMATeacher(student, settings.total_steps)


def released(method, **changes):
    """The scripts' values: weight 2000 on the mean over D = 16 dimensions is 125 per sample."""
    return method(method.Hyper(lambda_sd=0.9, fd_weight=2000 / 16, cross_frobenius_weight=0.05, **changes))


METHODS = {
    "flyp": lambda: FLYP(),
    "flyp_cross_fnorm": lambda: FLYP(FLYP.Hyper(cross_frobenius_weight=0.05)),
    "flyp_clipped": lambda: FLYP(),
    "static_teacher": lambda: released(TRACERStaticTeacher),
    "ema_teacher": lambda: released(TracerWithEMA),
    "tracer": lambda: released(TRACER),
    "tracer_update_every_5": lambda: released(TRACER, update_every=5, clock="released"),
    "basic_ema_orth": lambda: EMA(
        EMA.Hyper(lambda_sd=1.5, cross_frobenius_weight=0.05, orthogonality_weight=0.2, update_every=5)
    ),
}
WEIGHTS = {  # our terms carry their weights, the file's do not
    "cross_fnorm": ("cross_frobenius", 0.05),
    "crd": ("crd", 0.9),
    "fd": ("fd", 0.9 * 2000),
    "icl": ("icl", 0.9),
    "cross_kd": ("cross_kd", 0.9),
    "basic_soft_cross_entropy": ("distillation", 1.5),
    "orthogonality": ("orthogonality", 0.2),
    "contrastive": ("contrastive", 1),
    "total": ("total", 1),
}


def golden_encoder(dtype):
    model = TRAJECTORY["model"]
    clip = CLIP(model["embed_dim"], CLIPVisionCfg(**model["vision_cfg"]), CLIPTextCfg(**model["text_cfg"]))
    names = [name for name in INITIAL.files if name.startswith("param/")]
    clip.load_state_dict({name.removeprefix("param/"): torch.from_numpy(INITIAL[name]) for name in names})
    return DualEncoder(clip, None, "golden").to(dtype)


def golden_batches(dtype):
    images, tokens = torch.from_numpy(INITIAL["images"]).to(dtype), torch.from_numpy(INITIAL["tokens"]).long()
    none = torch.zeros(images.shape[1], dtype=torch.long)
    return [Batch(images[i], none, tokens[i], none, none) for i in range(len(images))]


def golden_settings(run_settings):
    given, limit = TRAJECTORY["training"], run_settings["max_grad_norm"]
    return settings(
        total_steps=given["total_steps"],
        batch_size=given["batch"],
        lr=given["lr"],
        weight_decay=given["wd"],
        warmup_steps=given["warmup"],
        clip_norm=limit,
        clip_norm_end=limit * run_settings["grad_norm_multiplier"] or None,
    )


def train_golden(name, dtype, monkeypatch):
    """Trains as the trainer does; each step's measured columns, and the training itself."""
    clipped, clip = {}, torch.nn.utils.clip_grad_norm_

    def watched(parameters, limit, **options):
        clipped.update(max_grad_norm=limit, grad_norm=float(clip(parameters, limit, **options)))

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", watched)
    given = TRAJECTORY["runs"][name]["settings"]
    student = TwoTower(golden_encoder(dtype))
    training = Training(METHODS[name](), student, golden_settings(given))
    initial = [p.detach().clone() for p in student.parameters()]
    batches, rows = golden_batches(dtype), []
    for step in range(TRAJECTORY["training"]["total_steps"]):
        batch, row = batches[step % len(batches)], {"step": step, "lr": training.learning_rate(step)}
        if training.teacher is not None:
            with torch.no_grad():
                outputs, taught = student(batch), training.teacher.embed(batch)
            kl = contrastive_relational_distillation(outputs, taught, half=True)
            row["teacher_student_kl_exact"] = kl.item()
            log_p, q = matching(taught), matching(outputs).exp()
            row["teacher_student_kl"] = (log_p.exp() * (log_p - (q + 1e-8).log())).sum(dim=-1).mean().item()
            before = [p.detach().clone() for p in training.teacher.model.parameters()]
        terms = training.step(step, batch)
        for column, (term, weight) in WEIGHTS.items():
            if term in terms:
                row[column] = terms[term].item() / weight
        if "crd" in terms:
            row["total_kd"] = sum(terms[name].item() for name in ("crd", "fd", "icl", "cross_kd")) / 0.9
        parameters = list(student.parameters())
        row["grad_norm"] = torch.nn.utils.get_total_norm([p.grad for p in parameters]).item()
        if clipped:  # the columns are of before, and what is left is at the limit
            assert row["grad_norm"] == pytest.approx(min(clipped.values()), rel=1e-6)
            row |= clipped
        row["student_distance_from_init"] = distance(parameters, initial)
        row["logit_scale_after"] = student.encoder.logit_scale.item()
        if training.teacher is not None:
            after = list(training.teacher.model.parameters())
            row["teacher_student_distance"] = distance(parameters, after)
            row["teacher_weight"] = distance(after, before) / distance(parameters, before)
        rows.append(row)
    return rows, training


def distance(parameters, others):
    return math.sqrt(sum((p - q).detach().square().sum().item() for p, q in zip(parameters, others, strict=True)))


def probe(model, batch):
    with torch.no_grad():
        image, text, scale = model.eval()(batch)
    return {
        "image_feature_0": image[0],
        "text_feature_0": text[0],
        "logits_per_image_row0": scale * image[0] @ text.T,
    }


def fingerprints(model):
    for name, p in model.encoder.clip.named_parameters():
        flat = p.detach().flatten().double()
        yield name, [flat.norm().item(), flat[0].item(), flat[flat.numel() // 2].item(), flat[-1].item()]


@pytest.mark.parametrize("name", list(TRAJECTORY["runs"]))
def test_twelve_steps_of_the_real_trainer_are_the_released_ones_in_float64(name, monkeypatch):
    expected = TRAJECTORY["runs"][name]["float64"]
    rows, training = train_golden(name, torch.float64, monkeypatch)
    compared = set()
    for row, values in zip(rows, expected["steps"], strict=True):
        for column, value in zip(expected["columns"], values, strict=True):
            if value is not None:
                # 1e-12 absolute covers the zeros of step 0
                assert row[column] == pytest.approx(value, rel=1e-9, abs=1e-12), (row["step"], column)
                compared.add(column)
    assert compared == set(expected["columns"])
    models = {"student": training.student} | ({"teacher": training.teacher.model} if training.teacher else {})
    for who, model in models.items():
        for parameter, values in fingerprints(model):
            assert values == pytest.approx(expected[f"{who}_parameters"][parameter], abs=1e-8), (
                who,
                parameter,
            )
        for output, values in probe(model, golden_batches(torch.float64)[0]).items():
            assert values.tolist() == pytest.approx(expected[f"{who}_probe"][output], abs=1e-8), (who, output)


@pytest.mark.parametrize("name", list(TRAJECTORY["runs"]))
def test_twelve_steps_in_float32(name, monkeypatch):
    expected = TRAJECTORY["runs"][name]["float32"]
    rows, training = train_golden(name, torch.float32, monkeypatch)
    tight = {"contrastive", "icl", "total"}  # tolerances as the golden README states them
    for row, values in zip(rows, expected["steps"], strict=True):
        for column, value in zip(expected["columns"], values, strict=True):
            if column in WEIGHTS and column in row and value is not None:
                # 1e-6 absolute: a KL near 0 is a difference of logarithms of size 1
                near = pytest.approx(value, rel=1e-4 if column in tight else 1e-3, abs=1e-6)
                assert row[column] == near, (row["step"], column)
    models = {"student": training.student} | ({"teacher": training.teacher.model} if training.teacher else {})
    for who, model in models.items():
        for parameter, values in fingerprints(model):
            if not parameter.endswith("attn.in_proj_bias"):  # key biases have no gradient: Adam amplifies rounding
                assert values[1:] == pytest.approx(expected[f"{who}_parameters"][parameter][1:], abs=2e-5), parameter
        for output, values in probe(model, golden_batches(torch.float32)[0]).items():
            assert values.tolist() == pytest.approx(expected[f"{who}_probe"][output], abs=1e-3), (who, output)


class StopAt:
    """Says stop at the n-th question, once."""

    def __init__(self, question):
        self.left = question

    def __call__(self):
        self.left -= 1
        return self.left == -1


def same(first, second):
    tensors, others = first.classifier.tensors(), second.classifier.tensors()
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert (first.curves, first.info, first.images_seen) == (second.curves, second.info, second.images_seen)


@pytest.mark.parametrize("kind", ["vit", "rn"])
@pytest.mark.parametrize("method", [FT, LPFT, FLYP, EMA, TRACER], ids=lambda m: m.__name__)
def test_an_interrupted_run_ends_with_the_same_bits(method, kind, tmp_path):
    make = lambda: method(method.Hyper(**({"c_points": 3, "renderings": 2} if method is LPFT else {})))  # noqa: E731
    whole = run(make(), tmp_path / "whole", kind)
    in_probe = 4 if method is LPFT else 0  # questions asked by the probe: one chunk of features, three values of C
    for question in [*range(in_probe), in_probe, in_probe + 1, in_probe + 3, in_probe + 5]:
        folder = tmp_path / str(question)
        with pytest.raises(Interrupted):
            run(make(), folder, kind, should_stop=StopAt(question))
        assert bool(list(folder.glob("*.json"))) == (question >= in_probe)
        same(run(make(), folder, kind), whole)


def test_a_run_interrupted_at_every_step_ends_with_the_same_bits(tmp_path):
    whole = run(TRACER(), tmp_path / "whole")
    for _ in range(6):
        with pytest.raises(Interrupted):
            run(TRACER(), tmp_path / "often", should_stop=StopAt(1))
        done = Checkpoints(tmp_path / "often", 1e9).latest()[0]
        if done == 5:
            break
    same(run(TRACER(), tmp_path / "often"), whole)


def test_a_run_stopped_while_its_last_head_is_built_ends_with_the_same_bits(tmp_path):
    whole, made, done = run(FLYP(), tmp_path / "whole"), [], []

    def builder(encoder, names, prompts, check_stop, trained):
        check_stop()  # as between two passes of a long head
        made.append(trained)
        return build_anew(encoder, names, prompts, check_stop, trained)

    def again(should_stop=lambda: False):
        model = encoder()
        checkpoints = Checkpoints(tmp_path / "stopped", every_seconds=1e9, every_steps=4)
        how = {"checkpoints": checkpoints, "validate": validation_nll, "head_builder": builder}
        on_step = lambda step, total: done.append(step)  # noqa: E731
        return fit(FLYP(), model, task(model), settings(), should_stop=should_stop, on_step=on_step, **how)

    with pytest.raises(Interrupted, match="after the last step"):
        again(lambda: 6 in done)
    assert not made and Checkpoints(tmp_path / "stopped", 1e9).latest()[0] == 4
    same(again(), whole)
    assert made == [True] and done == [1, 2, 3, 4, 5, 6, 5, 6]


def test_a_killed_run_goes_on_from_its_last_checkpoint(tmp_path):
    """Nothing is written at the kill itself: the checkpoint of step 4 is all there is."""
    whole = run(TRACER(), tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill():
        if Checkpoints(tmp_path / "killed", 1e9).latest() is not None and kill.steps == 5:
            raise Killed
        kill.steps += 1
        return False

    kill.steps = 0
    with pytest.raises(Killed):
        run(TRACER(), tmp_path / "killed", should_stop=kill, every_steps=2)
    assert Checkpoints(tmp_path / "killed", 1e9).latest()[0] == 4
    same(run(TRACER(), tmp_path / "killed"), whole)


def test_a_finished_run_can_be_fitted_again_from_its_checkpoint(tmp_path):
    whole = run(FT(), tmp_path, every_steps=5)
    same(run(FT(), tmp_path), whole)


@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_seed_alone_decides(kind, tmp_path):
    first, again = (run(FLYP(), tmp_path / str(i), kind, seed=3) for i in range(2))
    same(first, again)
    other = run(FLYP(), tmp_path / "other", kind, seed=4)
    assert not torch.equal(other.classifier.weight, first.classifier.weight)


def test_batchnorm_keeps_its_pretrained_statistics(tmp_path):
    before = {name: buffer.clone() for name, buffer in encoder("rn").visual.named_buffers()}
    after = dict(run(TRACER(), tmp_path, "rn").classifier.visual.named_buffers())
    assert before and all(torch.equal(after[name], buffer) for name, buffer in before.items())


def test_weight_decay_reaches_every_trained_tensor():
    """With gradients of zero the step is p <- p * (1 - lr * decay), for every tensor."""
    model = encoder()
    training = Training(FLYP(), TwoTower(model), settings(lr=0.5, weight_decay=0.1, warmup_steps=0))
    before = [p.detach().clone() for p in training.parameters]
    training.optimizer.param_groups[0]["lr"] = 0.5
    for p in training.parameters:
        p.grad = torch.zeros_like(p)
    training.optimizer.step()
    for p, old in zip(training.parameters, before, strict=True):
        torch.testing.assert_close(p.detach(), old * (1 - 0.5 * 0.1))
    assert len(training.parameters) == len(list(model.parameters()))


def test_curves_hold_each_term_and_nothing_is_rebuilt(tmp_path):
    curves = run(TRACER(), tmp_path).curves
    assert [row["step"] for row in curves] == [0, 2, 4, 5]
    names = {"contrastive", "fd", "crd", "icl", "cross_kd", "cross_frobenius"}
    assert set(curves[1]) == names | {"step", "lr", "total", "logit_scale"}
    assert set(curves[0]) == set(curves[1]) - {"fd", "crd", "icl", "cross_kd"}  # no distillation at step 0
    for row in curves:
        assert row["total"] == pytest.approx(sum(row[name] for name in names & set(row)), rel=1e-6)


def test_steps_are_told_and_counted(tmp_path):
    told, model = [], encoder()
    fitted = fit(
        FT(),
        model,
        task(model),
        settings(),
        checkpoints=Checkpoints(tmp_path, 1e9),
        validate=validation_nll,
        on_step=lambda step, total: told.append((step, total)),
    )
    assert told == [(step, 6) for step in range(1, 7)] and fitted.images_seen == 6 * 8 and fitted.train_seconds > 0


class Poisoned(TRACER):
    """One term, or one penalty, is not finite from step 3 on."""

    def __init__(self, term, value):
        super().__init__(TRACER.Hyper(orthogonality_weight=0.2))
        self.term, self.value = term, value

    def at_step(self, step, settings):
        self.poisons = step >= 3

    def spoilt(self, terms):
        return {name: term * self.value if self.poisons and name == self.term else term for name, term in terms.items()}

    def loss(self, student, teacher, batch):
        return self.spoilt(super().loss(student, teacher, batch))

    def penalty(self, student, start):
        return self.spoilt(super().penalty(student, start))


TERMS = ["contrastive", "fd", "crd", "icl", "cross_kd", "cross_frobenius", "orthogonality"]


@pytest.mark.parametrize(
    "term, value, micro_batch",
    [(term, math.nan, None) for term in TERMS] + [("icl", math.inf, 3), ("orthogonality", math.inf, 3)],
)
def test_a_term_that_is_not_finite_stops_the_run_and_is_named(term, value, micro_batch, tmp_path):
    """At the next row of the curves; no checkpoint holds anything of it."""
    with pytest.raises(NonFinite) as caught:
        run(Poisoned(term, value), tmp_path, every_steps=1, log_every=1, micro_batch=micro_batch)
    assert str(caught.value) == f"{term}: {value} at step 3; lower lr or set clip_norm."
    assert Checkpoints(tmp_path, 1e9).latest()[0] == 3


def test_a_term_is_named_within_log_every_steps(tmp_path):
    """Spoilt at step 3; when it is read, at step 5, every term is NaN, and still the first one is named."""
    with pytest.raises(NonFinite, match="^icl: nan at step 3;"):
        run(Poisoned("icl", math.nan), tmp_path, log_every=5, total_steps=20)
    with pytest.raises(NonFinite, match="weights: not finite after 4 steps"):  # before anything of it is saved
        run(Poisoned("icl", math.nan), tmp_path, log_every=100, every_steps=2)
    assert Checkpoints(tmp_path, 1e9).latest()[0] == 2


def test_weights_that_are_not_finite_are_never_saved(tmp_path):
    with pytest.raises(NonFinite, match="weights: not finite after 2 steps"):
        run(FT(), tmp_path, lr=1e38, warmup_steps=0, log_every=100, every_steps=2)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.parametrize("part", ["teacher.model.encoder.clip.logit_scale", "optimizer.0.exp_avg_sq"])
def test_no_part_of_the_state_is_saved_that_is_not_finite(part, tmp_path):
    """Weights are not all: a second moment that overflowed stops its weight for good, and silently."""

    class Spoilt(TRACER):
        def after_step(self, student, start, step):
            tensors = self.training.state()
            tensors[part].fill_(float("inf"))

    class Caught(Training):
        def __init__(self, method, *others):
            method.training = self
            super().__init__(method, *others)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robustft.methods.training.trainer.Training", Caught)
        with pytest.raises(NonFinite, match=f"{part}: not finite after 1 steps"):
            run(Spoilt(TRACER.Hyper(lambda_sd=0)), tmp_path, every_steps=1, log_every=100)
    assert not list(tmp_path.glob("*.json"))


def test_clipping_bounds_the_step_of_the_gradient():
    model = encoder()
    training = Training(FLYP(), TwoTower(model), settings(clip_norm=1e-3))
    training.step(0, batches(task(model))[0])
    assert torch.nn.utils.get_total_norm([p.grad for p in training.parameters]).item() == pytest.approx(1e-3, rel=1e-3)


def test_bf16_keeps_losses_and_weights_in_float32(tmp_path):
    fitted = run(TRACER(), tmp_path, precision="bf16")
    exact = run(TRACER(), tmp_path / "fp32")
    assert fitted.classifier.weight.dtype == torch.float32
    assert fitted.curves[0]["contrastive"] == pytest.approx(exact.curves[0]["contrastive"], rel=0.05)
    assert fitted.curves[0]["contrastive"] != exact.curves[0]["contrastive"]


class Checked(TRACER):
    """Notes the types that its loss sees and returns."""

    def loss(self, student, teacher, batch):
        terms = super().loss(student, teacher, batch)
        given = [*student, *(teacher or ())]
        self.types = {tensor.dtype for tensor in [*given, *terms.values()]}
        return terms


@pytest.mark.parametrize("micro_batch", [None, 3], ids=["whole", "micro"])
@pytest.mark.parametrize("kind", ["vit", "rn"])
def test_twelve_steps_in_bf16_are_finite_with_losses_in_float32(kind, micro_batch, tmp_path):
    method = Checked()
    fitted = run(method, tmp_path, kind, precision="bf16", total_steps=12, log_every=1, micro_batch=micro_batch)
    assert method.types == {torch.float32} and len(fitted.curves) == 12
    assert all(math.isfinite(value) for row in fitted.curves for value in row.values())
    assert all(tensor.isfinite().all() for tensor in fitted.classifier.tensors().values())


class Held(TRACER):
    """Sets the scale to 2 after each step."""

    def teacher(self, student, settings):
        self.kept = super().teacher(student, settings)
        return self.kept

    @torch.no_grad()
    def after_step(self, student, start, step):
        student.encoder.clip.logit_scale.fill_(math.log(2))


def test_the_hook_after_a_step_comes_before_the_teacher_moves(tmp_path):
    """A uniform kernel over pretrained weights s_0 and six at log 2: the teacher's mean is exactly that."""
    start = encoder().clip.logit_scale.item()
    method = Held(TRACER.Hyper(beta=1))
    run(method, tmp_path)
    mean = method.kept.model.encoder.clip.logit_scale.item()
    assert start > math.log(2) and mean == pytest.approx((start + 6 * math.log(2)) / 7, rel=1e-5)


def buffers(model):
    """Running statistics by name."""
    return {name: buffer.clone() for name, buffer in model.named_buffers() if "running" in name}


def test_released_batchnorm_takes_the_batch_and_both_models_have_statistics_of_their_own():
    """By hand: after one pass, running <- 0.9 running + 0.1 of the batch, in whichever model saw it."""
    model = encoder("rn")
    training = Training(TRACER(), TwoTower(model), settings(bn="released"))
    before = buffers(model)
    teacher = training.teacher.model.encoder
    first, second, *_ = batches(task(model))
    with torch.no_grad():
        seen = model.visual.conv1(model.pixels(first.images)).mean(dim=(0, 2, 3))
    training.step(0, first)
    after, theirs = buffers(model), buffers(teacher)
    name = "clip.visual.bn1.running_mean"
    torch.testing.assert_close(after[name], 0.9 * before[name] + 0.1 * seen)
    assert all(torch.equal(theirs[name], before[name]) for name in before)  # not asked at step 0
    with torch.no_grad():
        seen = teacher.visual.conv1(model.pixels(second.images)).mean(dim=(0, 2, 3))
    training.step(1, second)
    torch.testing.assert_close(buffers(teacher)[name], 0.9 * before[name] + 0.1 * seen)
    assert all(not torch.equal(buffers(model)[name], after[name]) for name in after)
    modes = {type(m).__name__: m.training for m in training.teacher.model.modules()}
    assert modes["BatchNorm2d"] and not any(mode for kind, mode in modes.items() if kind != "BatchNorm2d")


@pytest.mark.parametrize("method", [FT, EMA, TRACER, FLYPWMA], ids=lambda m: m.__name__)
def test_a_released_run_says_so_evaluates_running_statistics_and_resumes_bit_for_bit(method, tmp_path):
    whole = run(method(), tmp_path / "whole", "rn", bn="released")
    assert whole.info["batch_norm"].startswith("released: statistics of the batch")
    assert not any(module.training for module in whole.classifier.modules())
    assert not torch.equal(whole.classifier.visual.bn1.running_mean, encoder("rn").visual.bn1.running_mean)
    for question in (1, 4):
        with pytest.raises(Interrupted):
            run(method(), tmp_path / str(question), "rn", bn="released", should_stop=StopAt(question))
        same(run(method(), tmp_path / str(question), "rn", bn="released"), whole)
    frozen = run(method(), tmp_path / "frozen", "rn")
    assert "batch_norm" not in frozen.info
    assert not torch.equal(frozen.classifier.visual.conv1.weight, whole.classifier.visual.conv1.weight)


def test_an_average_that_never_runs_has_the_students_statistics(tmp_path):
    class Kept(FLYPWMA):
        def teacher(self, student, settings):
            self.followed = student
            return super().teacher(student, settings)

    method = Kept()
    averaged = run(method, tmp_path, "rn", bn="released").classifier.visual
    ours, theirs = buffers(averaged), buffers(method.followed.encoder.visual)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not torch.equal(averaged.conv1.weight, method.followed.encoder.visual.conv1.weight)


@pytest.mark.parametrize("wrong, words", [({"warmup_steps": 6}, "warmup_steps"), ({"batch_size": 1}, "batch_size")])
def test_impossible_settings_are_one_sentence(wrong, words):
    with pytest.raises(ValueError, match=words):
        settings(**wrong)


def test_checkpoints_come_back_bit_for_bit(tmp_path):
    checkpoints = Checkpoints(tmp_path, every_seconds=1e9)
    tensors = {"a": torch.randn(3, 4).T, "n": torch.tensor(7), "rng": torch.get_rng_state()}
    meta = {"x": 0.1 + 0.2, "rows": [{"step": 1}]}
    checkpoints.save(3, tensors, meta)
    step, back, meta_back = checkpoints.latest()
    assert step == 3 and meta_back == meta and back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_two_checkpoints_are_kept_and_clear_removes_them(tmp_path):
    checkpoints = Checkpoints(tmp_path, every_seconds=1e9)
    for step in (1, 2, 10):
        checkpoints.save(step, {"a": torch.tensor(step)}, {})
    assert sorted(p.name for p in tmp_path.glob("*.json")) == ["step-00000002.json", "step-00000010.json"]
    (tmp_path / "step-00000011.safetensors.99-abc.tmp").write_bytes(b"left by a killed process")
    checkpoints.clear()
    assert not list(tmp_path.iterdir()) and checkpoints.latest() is None


@pytest.mark.parametrize("damage", ["tensors", "json", "missing"])
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(damage, tmp_path):
    checkpoints = Checkpoints(tmp_path, every_seconds=1e9)
    for step in (1, 2):
        checkpoints.save(step, {"a": torch.tensor(float(step))}, {})
    tensors, record = tmp_path / "step-00000002.safetensors", tmp_path / "step-00000002.json"
    if damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    elif damage == "json":
        record.write_text(record.read_text()[:-5])
    else:
        tensors.unlink()
    with pytest.warns(UserWarning, match="damaged"):
        step, back, _ = checkpoints.latest()
    assert step == 1 and back["a"].item() == 1.0


def test_the_guard_is_asked_before_anything_is_replaced(tmp_path):
    class Lost(Exception):
        pass

    def lost():
        raise Lost

    Checkpoints(tmp_path, 1e9).save(1, {"a": torch.tensor(1)}, {})
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(Lost):
        Checkpoints(tmp_path, 1e9, guard=lost).save(1, {"a": torch.tensor(2)}, {})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_checkpoints_are_due_by_time_or_by_steps(tmp_path):
    assert not Checkpoints(tmp_path, every_seconds=1e9).due(7)
    assert Checkpoints(tmp_path, every_seconds=0).due(7)
    assert [Checkpoints(tmp_path, 0, every_steps=3).due(step) for step in (3, 4)] == [True, False]


def test_a_checkpoint_folder_below_a_file_is_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        Checkpoints(tmp_path / "file" / "checkpoints", 1e9).save(1, {}, {})


def test_checkpoint_json_vouches_for_the_tensors(tmp_path):
    Checkpoints(tmp_path, 1e9).save(4, {"a": torch.tensor(1)}, {"k": 1})
    record = json.loads((tmp_path / "step-00000004.json").read_text())
    assert record["step"] == 4 and record["meta"] == {"k": 1} and len(record["sha256"]) == 64


def test_the_golden_encoder_pools_and_normalises_as_the_file_says():
    batch = golden_batches(torch.float64)[0]
    image, text, _ = TwoTower(golden_encoder(torch.float64))(batch)
    assert torch.allclose(image, normalize(image, dim=-1)) and torch.allclose(text, normalize(text, dim=-1))
