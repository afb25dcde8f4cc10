"""What a method may do beside its loss: it is what a hand would compute, and a run that was cut ends in equal bits."""

import math

import pytest
import torch
from hooks_kit import METHODS, Averaging, LayerWise, Momentum, Projected, Remembering, TwoViews
from methods_kit import Data, batches, context, encoder, run, settings, started, task
from safetensors.torch import load_file

from robustft.datasets.loaders import train_batches, view_seed
from robustft.methods.flyp import FLYP
from robustft.methods.ft import FT
from robustft.methods.static_sd import StaticSD
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.dynamics import Dynamics
from robustft.methods.training.named_state import load_optimizer, optimizer_state, packed, unpacked
from robustft.methods.training.parallel import UnsupportedSettings, World
from robustft.methods.training.trainer import Interrupted, Training
from robustft.methods.two_tower import TwoTower

pytestmark = pytest.mark.computes


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
    assert first.classifier.meta() == second.classifier.meta()


def training_of(method, **changes):
    """Its training, as the trainer makes it, and the batches."""
    model = encoder()
    given = settings(**changes)
    around = context(model)
    student = method.student(around).eval()
    method.prepare(student, around)
    data = task(model)
    made = train_batches(
        data.dataset, data.caption_tokens, batch_size=8, seed=0, start_step=0, total_steps=6, views=method.views
    )
    return Training(method, student, given), list(made)


# -- resume


@pytest.mark.parametrize("name", list(METHODS))
def test_an_interrupted_run_ends_with_the_same_bits(name, tmp_path):
    whole = run(METHODS[name](), tmp_path / "whole", clip_norm=0.5)
    assert not torch.equal(*(next(iter(r.classifier.tensors().values())) for r in (whole, run(FT(), tmp_path / "ft"))))
    for question in (1, 2, 5):
        folder = tmp_path / str(question)
        with pytest.raises(Interrupted):
            run(METHODS[name](), folder, clip_norm=0.5, should_stop=StopAt(question))
        same(run(METHODS[name](), folder, clip_norm=0.5), whole)


@pytest.mark.parametrize("name", list(METHODS))
def test_interrupted_at_every_step_it_ends_with_the_same_bits(name, tmp_path):
    whole = run(METHODS[name](), tmp_path / "whole")
    for _ in range(5):
        with pytest.raises(Interrupted):
            run(METHODS[name](), tmp_path / "often", should_stop=StopAt(1))
    assert Checkpoints(tmp_path / "often", 1e9).latest()[0] == 5
    same(run(METHODS[name](), tmp_path / "often"), whole)


@pytest.mark.parametrize("name", ["own_optimizer", "remembering"])
def test_without_its_state_a_resumed_run_would_be_another(name, tmp_path, monkeypatch):
    """The test above would tell: with the hook's part of the checkpoint left out, the end is another one."""
    whole = run(METHODS[name](), tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(METHODS[name](), tmp_path / "cut", should_stop=StopAt(3))
    restore, lost = Training.restore, ("optimizer_number.", "optimizer_group.", "method_number.")
    kept = lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(lost)}  # noqa: E731
    monkeypatch.setattr(Training, "restore", lambda self, tensors: restore(self, kept(tensors)))
    with pytest.raises((AssertionError, KeyError)):
        same(run(METHODS[name](), tmp_path / "cut"), whole)


def test_the_checkpoint_of_a_method_without_hooks_holds_what_it_always_did(tmp_path):
    run(FT(), tmp_path, every_steps=2)
    names = load_file(next(tmp_path.glob("*.safetensors"))).keys()
    assert {name.partition(".")[0] for name in names} == {"student", "optimizer", "rng"}
    assert {name.split(".")[2] for name in names if name.startswith("optimizer.")} == {"step", "exp_avg", "exp_avg_sq"}


# -- the optimizer


def test_layer_wise_rates_are_the_adamw_steps_of_a_hand():
    """AdamW's two moments in float64, each parameter at its own share of the scheduled rate and its own decay."""
    method = LayerWise()
    training, data = training_of(method)
    (given,) = [training.settings]
    rates, decays = {}, {}
    for group in method.groups(training.student, given):
        rates |= {id(p): group["lr"] for p in group["params"]}
        decays |= {id(p): group["weight_decay"] for p in group["params"]}
    assert {round(rate / given.lr, 6) for rate in rates.values()} == {0.4225, 0.65, 1.0}
    assert set(decays.values()) == {0.0, given.weight_decay}
    named = dict(training.student.named_parameters())
    moments = {name: (torch.zeros_like(p).double(), torch.zeros_like(p).double()) for name, p in named.items()}
    for step, batch in enumerate(data[:4]):
        before = {name: p.detach().double() for name, p in named.items()}
        training.step(step, batch)
        share = training.learning_rate(step) / given.lr
        for name, p in named.items():
            gradient = p.grad.double()
            first, second = moments[name]
            first.lerp_(gradient, 0.1)
            second.lerp_(gradient.square(), 0.001)
            rate = rates[id(p)] * share
            unbiased = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
            expected = before[name] * (1 - rate * decays[id(p)]) - rate * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
            # A step is a rate at most: the last bits of a weight of size 1, beside it.
            torch.testing.assert_close(p.detach().double(), expected, rtol=2e-6, atol=2e-7)


def test_the_schedule_multiplies_each_groups_own_rate():
    training, data = training_of(Momentum(), min_lr=1e-5)
    for step, batch in enumerate(data):
        training.step(step, batch)
        (group,) = training.optimizer.param_groups
        assert group["lr"] == pytest.approx(10 * training.learning_rate(step), rel=1e-12)
    assert 1e-5 < training.learning_rate(5) < training.learning_rate(2)


def test_the_usual_optimizer_is_bit_for_bit_what_it_was():
    """Against torch's own, given the same gradients and rates."""
    training, data = training_of(FT())
    twins = [p.detach().clone().requires_grad_() for p in training.parameters]
    other = torch.optim.AdamW(twins, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1, fused=True)
    for step, batch in enumerate(data):
        training.step(step, batch)
        other.param_groups[0]["lr"] = training.learning_rate(step)
        for twin, p in zip(twins, training.parameters, strict=True):
            twin.grad = p.grad.clone()
        other.step()
        assert all(torch.equal(twin, p) for twin, p in zip(twins, training.parameters, strict=True))


class LeftOut(FT):
    def optimizer(self, student, settings):
        return torch.optim.SGD([student.classifier.weight], lr=settings.lr)


class TooMany(FT):
    def optimizer(self, student, settings):
        return torch.optim.SGD([*student.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=settings.lr)


@pytest.mark.parametrize(
    "method, words",
    [
        (LeftOut, r"optimizer: must have every trained parameter, but classifier\.\w+.* is in no group; add"),
        (TooMany, "optimizer: has 1 parameters that are not the student's trained ones"),
    ],
)
def test_an_optimizer_of_other_parameters_is_refused_before_training(method, words, tmp_path):
    with pytest.raises(UnsupportedSettings, match=words):
        run(method(), tmp_path)


def test_what_a_frozen_tower_has_is_in_no_group():
    training, *_ = started("flyp", trainable="image")
    assert len(training.optimizer.param_groups[0]["params"]) == len(training.parameters)
    assert len(training.parameters) < len(list(training.student.parameters()))


def test_any_state_comes_back_in_its_own_type():
    weight = torch.nn.Parameter(torch.linspace(-1, 1, 6))
    optimizer = Averaging([weight], 0.1)
    start = [{"taken": 0, "size": 0.0}]
    for _ in range(3):
        weight.grad = torch.arange(6.0) - 2
        optimizer.step()
    kept = {name: tensor.clone() for name, tensor in optimizer_state(optimizer, start).items()}
    twin = torch.nn.Parameter(weight.detach().clone())
    again = Averaging([twin], 0.1)
    load_optimizer(again, kept)
    ours, theirs = optimizer.state[weight], again.state[twin]
    assert [type(theirs[key]) for key in ("count", "share", "flag")] == [int, float, bool]
    assert theirs["total"].dtype == torch.float64 and theirs["signs"].dtype == torch.int64
    for key, value in ours.items():
        assert torch.equal(torch.as_tensor(theirs[key]), torch.as_tensor(value)), key
    groups = [made.param_groups[0] for made in (optimizer, again)]
    assert groups[0]["taken"] == groups[1]["taken"] == 3 and groups[0]["size"] == groups[1]["size"]
    assert torch.equal(groups[0]["seen"], groups[1]["seen"])


def test_state_that_no_checkpoint_can_hold_is_one_sentence(tmp_path):
    class Listing(Remembering):
        def state(self):
            return {"seen": [1, 2]}

    with pytest.raises(UnsupportedSettings, match="method state: must be tensors and numbers.* but seen is a list"):
        run(Listing(), tmp_path, every_steps=1)


def test_numbers_keep_every_bit():
    given = {"a.b": 0.1 + 0.2, "n": 2**53 + 1, "no": False, "t": torch.arange(3)}
    back = unpacked("method", packed("method", given) | {"other.a.b": torch.ones(1)})
    assert back.keys() == given.keys() and back["a.b"] == given["a.b"] and back["n"] == given["n"]
    assert back["no"] is False and torch.equal(back["t"], given["t"])


# -- before and after the step


def test_a_projection_of_gradients_is_that_of_a_hand():
    """One plain step after another: g - <g, w> w / <w, w> for the way w that was come, where <g, w> < 0."""

    class Plain(Projected):
        radius = math.inf

        def optimizer(self, student, settings):
            return torch.optim.SGD(student.parameters(), lr=settings.lr)

        def before_step(self, student, start, step):
            self.raw = [p.grad.double() for p in start.parameters]
            self.steps = [*getattr(self, "steps", []), step]
            assert not torch.is_grad_enabled()
            super().before_step(student, start, step)

        def after_step(self, student, start, step):
            assert self.steps[-1] == step and not torch.is_grad_enabled()

    method = Plain()
    training, data = training_of(method, lr=0.05, warmup_steps=0)
    origin = [p.detach().double() for p in training.parameters]
    projected = 0
    for step, batch in enumerate(data):
        before = [p.detach().double() for p in training.parameters]
        training.step(step, batch)
        for p, old, first, gradient in zip(training.parameters, before, origin, method.raw, strict=True):
            way = old - first
            inner, length = (gradient * way).sum(), way.square().sum()
            if length > 0 and inner < 0:
                gradient = gradient - inner / length * way
                projected += 1
            expected = old - training.learning_rate(step) * gradient
            torch.testing.assert_close(p.detach().double(), expected, rtol=1e-5, atol=1e-6)
    assert projected > len(origin) and method.steps == list(range(6))


def test_gradients_are_the_losss_own_before_the_step_and_clipped_after_it():
    class Watching(FLYP):
        def before_step(self, student, start, step):
            gradients = [p.grad for p in student.parameters()]
            self.size = torch.nn.utils.get_total_norm(gradients).item()
            for gradient in gradients:
                gradient.mul_(100)

    model, method = encoder(), Watching()
    training = Training(method, TwoTower(model), settings(clip_norm=1e-3))
    training.step(0, batches(task(model))[0])
    assert method.size > 0.1  # not yet clipped
    assert torch.nn.utils.get_total_norm([p.grad for p in training.parameters]).item() == pytest.approx(1e-3, rel=1e-3)


def test_a_ball_around_the_start_holds_after_every_step(tmp_path):
    method = Projected()
    training, data = training_of(method)
    assert len(training.start.values) == len(training.parameters)
    for step, batch in enumerate(data):
        training.step(step, batch)
        for p, origin in zip(training.parameters, training.start.values, strict=True):
            limit = method.radius * (step + 1) * p.numel() ** 0.5
            # and what float32 leaves of a difference of weights
            assert (p - origin).norm() <= limit * (1 + 1e-4) + 2e-7 * origin.norm()


def test_the_start_is_kept_for_those_who_ask_alone():
    seen = []

    class Unanchored(FT):
        def after_step(self, student, start, step):
            seen.append((len(start.parameters), len(start.values)))

    training, data = training_of(Unanchored())
    training.step(0, data[0])
    assert seen == [(len(training.parameters), 0)]


# -- views


def test_views_are_other_draws_of_the_same_samples():
    data = task(encoder())
    options = {"batch_size": 8, "seed": 3, "start_step": 2, "total_steps": 5}
    one = list(train_batches(data.dataset, data.caption_tokens, **options))
    three = list(train_batches(data.dataset, data.caption_tokens, **options, views=3))
    for single, several in zip(one, three, strict=True):
        assert single.other_views == () and len(several.other_views) == 2
        assert torch.equal(single.images, several.images) and torch.equal(single.tokens, several.tokens)
        items = list(zip(several.epoch.tolist(), several.sample_ids.tolist(), strict=True))
        for view, images in enumerate(several.other_views, start=1):
            assert torch.equal(images, Data().train_images(items, view_seed(3, view)))
        pictures = [several.images, *several.other_views]
        assert not any(torch.equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_loader_processes_change_no_view():
    data = task(encoder())
    options = {"batch_size": 8, "seed": 0, "start_step": 0, "total_steps": 2, "views": 2}
    here, there = (list(train_batches(data.dataset, data.caption_tokens, **options, workers=n)) for n in (0, 1))
    for first, second in zip(here, there, strict=True):
        assert torch.equal(first.images, second.images) and torch.equal(*(b.other_views[0] for b in (first, second)))


def test_views_count_as_images_and_micro_batches_change_nothing(tmp_path):
    whole = run(TwoViews(), tmp_path / "whole")
    parts = run(TwoViews(), tmp_path / "parts", micro_batch=3)
    assert whole.images_seen == 2 * 6 * 8
    tensors, others = whole.classifier.tensors(), parts.classifier.tensors()
    for name, tensor in tensors.items():
        if not name.endswith("in_proj_bias"):  # key biases have no gradient: Adam amplifies rounding noise
            torch.testing.assert_close(others[name], tensor, atol=2e-5, rtol=0)
    assert whole.curves[1]["consistency"] > 0


def test_each_process_makes_the_views_of_its_share():
    world, data = World(), task(encoder())
    world.size, made = 2, []
    for world.rank in (0, 1):
        options = {"batch_size": 7, "seed": 0, "start_step": 0, "total_steps": 1, "views": 2}
        (batch,) = train_batches(world.images(data.dataset), data.caption_tokens, **options)
        assert len(batch.images) == len(batch.other_views[0]) == (3, 4)[world.rank]
        made.append(world.own(batch))
    (whole,) = train_batches(data.dataset, data.caption_tokens, **options)
    assert torch.equal(torch.cat([part.other_views[0] for part in made]), whole.other_views[0])
    assert [len(part.labels) for part in made] == [3, 4]


def test_a_teacher_is_measured_where_a_method_has_two_views():
    """On fixed images, of which there is one picture."""
    seen = []

    class Both(StaticSD):
        views = 2

        def student(self, context):
            student = super().student(context)
            student.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0].other_views)))
            return student

    class Probe:
        labels = Data().train_labels()

        def __len__(self):
            return 24

        def images(self, start, stop):
            return Data().train_images([(9, i) for i in range(start, stop)], 0)

    model = encoder()
    student = Both().student(context(model))
    watch = Dynamics(Probe(), task(model).caption_tokens, student, settings(), views=2)
    assert watch.start and set(seen) == {1}
    assert torch.equal(watch.batches[0].images, watch.batches[0].other_views[0])
