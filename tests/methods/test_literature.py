"""Methods of the literature against their equations, written out once more in float64 and without our code."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from methods_kit import (
    CLASSES,
    PROMPTS,
    Data,
    batches,
    context,
    copies,
    encoder,
    finished,
    images,
    inputs_of,
    make,
    moved,
    run,
    settings,
    started,
    task,
)
from scipy.stats import beta as beta_distribution
from torch.nn.functional import cross_entropy, log_softmax, softmax

from robustft.datasets.randomness import derive, stable_key, uniforms
from robustft.methods.classifier import Classifier
from robustft.methods.dawin import beta_mixture, coefficients
from robustft.methods.predictor import restore
from robustft.methods.starft import CONTEXTS
from robustft.methods.training.trainer import Interrupted, Training
from robustft.methods.vrf import NearFailures

pytestmark = pytest.mark.computes


def doubled(name, kind="vit", changes=(), **hyper):
    """A method's training in float64, its context and batches; images are normalised pixels."""
    data = [
        dataclasses.replace(batch, images=encoder(kind).pixels(batch.images).double())
        for batch in batches(task(encoder(kind)))
    ]
    model, method = encoder(kind).double(), make(name, **hyper)
    ctx = dataclasses.replace(context(model), settings=settings(**dict(changes)))
    student = method.student(ctx).eval()
    method.prepare(student, ctx)
    return Training(method, student, ctx.settings), ctx, data


@torch.no_grad()
def texts(model):
    """(C, P, D) unit embeddings of every class in every template."""
    rows = [[model.text_features(model.tokenize([p.format(c)]))[0] for p in PROMPTS] for c in CLASSES]
    return unit(torch.stack([torch.stack(row) for row in rows]))


def unit(x):
    return x / x.square().sum(dim=-1, keepdim=True).sqrt()


def rates(count, peak=1e-3, warmup=2, total=6):
    """Of the first steps of `settings()`: linear warm-up, then a cosine."""
    cosine = [peak / 2 * (1 + np.cos(np.pi * k / (total - warmup))) for k in range(total - warmup)]
    return [*(peak * (step + 1) / warmup for step in range(warmup)), *cosine][:count]


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1)


def reference_steps(optimizer, loss_of, data, after=lambda: None):
    """Plain descent by the given loss; its values."""
    values = []
    for rate, batch in zip(rates(len(data)), data, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        after()
        values.append(loss.item())
    return values


def same(ours, theirs, tolerance=1e-10):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b.detach(), atol=tolerance, rtol=1e-9)


# -- CLIPood


def test_clipood_takes_the_steps_and_the_average_of_its_released_code():
    """thuml/CLIPood: lambda t_y is taken from the feature; the average is (old + r new)/(1 + r)."""
    training, ctx, data = doubled("clipood", margin=0.3)
    tower = copy.deepcopy(ctx.encoder.visual)
    t = unit(texts(ctx.encoder).mean(dim=1))
    scale = ctx.encoder.logit_scale.detach()
    density = beta_distribution(0.5, 0.5)
    weight_of = lambda k: density.pdf((k + 0.5) / (6 + 1))  # noqa: E731
    average, total = copy.deepcopy(tower), weight_of(0)
    taken = 0

    def loss_of(batch):
        f = unit(tower(batch.images)) - 0.3 * t[batch.labels]
        return cross_entropy(scale * f @ t.T, batch.labels)

    @torch.no_grad()
    def update():
        nonlocal taken, total
        taken += 1
        ratio = weight_of(taken) / total
        for old, new in zip(average.parameters(), tower.parameters(), strict=True):
            old.copy_((old + ratio * new) / (1 + ratio))
        total += weight_of(taken)

    expected = reference_steps(adam(tower.parameters()), loss_of, data[:2], update)
    got = [training.step(step, batch)["total"].item() for step, batch in enumerate(data[:2])]
    assert got == pytest.approx(expected, rel=1e-10)
    same(ctx.encoder.visual.parameters(), tower.parameters())
    evaluated = training.method.finish(training.teacher.model, ctx)
    same(evaluated.visual.parameters(), average.parameters())
    torch.testing.assert_close(evaluated.weight, t * scale)


def test_the_margin_by_hand():
    from robustft.methods.clipood import margin_metric_softmax

    head = 2.0 * torch.eye(2, dtype=torch.float64)
    image = torch.tensor([[0.5**0.5, 0.5**0.5]], dtype=torch.float64)
    loss = margin_metric_softmax(image @ head.T, torch.tensor([1]), head, 0.3)
    assert loss.item() == pytest.approx(np.log1p(np.exp(0.6)))


# -- CAR-FT


def test_car_ft_adds_the_divergence_of_contexts():
    training, ctx, data = doubled("car_ft", strength=0.7)
    tower, frozen = (copy.deepcopy(ctx.encoder.visual) for _ in range(2))
    scale, embeddings = ctx.encoder.logit_scale.detach(), texts(ctx.encoder)
    head = torch.nn.Parameter(scale * unit(embeddings.mean(dim=1)))
    bias = torch.nn.Parameter(torch.zeros(len(CLASSES), dtype=torch.float64))
    of_contexts = unit(embeddings.mean(dim=0))  # (P, D)

    def loss_of(batch):
        f = unit(tower(batch.images))
        with torch.no_grad():
            p0 = softmax(scale * unit(frozen(batch.images)) @ of_contexts.T, dim=1)
        logp = log_softmax(scale * f @ of_contexts.T, dim=1)
        kl = (p0 * (p0.log() - logp)).sum(dim=1).mean()
        return cross_entropy(f @ head.T + bias, batch.labels) + 0.7 * kl

    expected = reference_steps(adam([*tower.parameters(), head, bias]), loss_of, data[:2])
    terms = [training.step(step, batch) for step, batch in enumerate(data[:2])]
    assert [term["total"].item() for term in terms] == pytest.approx(expected, rel=1e-10)
    assert terms[0]["context"].item() == pytest.approx(0, abs=1e-12) and terms[1]["context"].item() > 1e-6
    same(ctx.encoder.visual.parameters(), tower.parameters())
    same([training.student.classifier.weight], [head])


def test_car_ft_refuses_a_task_with_one_template():
    ctx = context(encoder())
    one = dataclasses.replace(ctx, task=dataclasses.replace(ctx.task, prompts=PROMPTS[:1]))
    with pytest.raises(ValueError, match="car_ft: needs two prompt templates or more"):
        make("car_ft").student(one)


# -- LDIFS


def depths_of_vit(visual, x):
    """(B, positions, width) before the first block and after each of two blocks."""
    h = visual.conv1(x).flatten(2).transpose(1, 2)
    h = torch.cat([visual.class_embedding.expand(len(h), 1, -1), h], dim=1) + visual.positional_embedding
    out = [visual.ln_pre(h)]
    for block in visual.transformer.resblocks:
        out.append(block(out[-1]))
    return out


def test_ldifs_is_the_mean_square_between_normalised_features():
    training, ctx, data = doubled("ldifs", strength=3.0)
    tower, frozen = (copy.deepcopy(ctx.encoder.visual) for _ in range(2))
    head = torch.nn.Parameter(ctx.encoder.logit_scale.detach() * unit(texts(ctx.encoder).mean(dim=1)))
    bias = torch.nn.Parameter(torch.zeros(len(CLASSES), dtype=torch.float64))

    def loss_of(batch):
        parts = []
        for new, old in zip(depths_of_vit(tower, batch.images), depths_of_vit(frozen, batch.images), strict=True):
            new, old = (z / z.square().sum(dim=1, keepdim=True).sqrt() for z in (new, old))  # over positions
            parts.append((new - old.detach()).square().mean(dim=(1, 2)))
        ldifs = torch.stack(parts, dim=1).mean(dim=1).mean()
        return cross_entropy(unit(tower(batch.images)) @ head.T + bias, batch.labels) + 3.0 * ldifs

    expected = reference_steps(adam([*tower.parameters(), head, bias]), loss_of, data[:2])
    terms = [training.step(step, batch) for step, batch in enumerate(data[:2])]
    assert [term["total"].item() for term in terms] == pytest.approx(expected, rel=1e-9)
    assert terms[1]["ldifs"].item() > 1e-6
    same(ctx.encoder.visual.parameters(), tower.parameters(), 1e-9)


# -- partial finetuning


@pytest.mark.parametrize(
    "kind, blocks, trained",
    [("vit", 1, ("transformer.resblocks.1", "ln_post", "proj")), ("rn", 2, ("layer3", "layer4", "attnpool"))],
)
def test_partial_ft_is_ft_of_the_last_blocks(kind, blocks, trained):
    partial, ctx, data = started("partial_ft", kind, blocks=blocks)
    whole, other, _ = started("ft", kind)
    visual, before = ctx.encoder.visual, copies(ctx.encoder.image_parameters())
    names = [name for name, _ in visual.named_parameters()]
    for training in (partial, whole):
        training.step(0, data[0])
    for name in names:  # the first step of what is trained is FT's
        if name.startswith(trained):
            torch.testing.assert_close(visual.get_parameter(name), other.encoder.visual.get_parameter(name))
    partial.step(1, data[1])
    assert [name for name, moves in zip(names, moved(visual.parameters(), before), strict=True) if moves] == [
        name for name in names if name.startswith(trained)
    ]
    assert partial.student.classifier.weight.grad is not None


def test_partial_ft_refuses_more_blocks_than_there_are():
    with pytest.raises(ValueError, match="partial_ft.blocks: must be at most 2, the blocks of test-vit, got 3"):
        started("partial_ft", blocks=3)


# -- LoRA


def merged_by_hand(module, key, parts, chosen, scale):
    """W + scale B A of one weight whose rows fall into equal parts."""
    held = getattr(module.parametrizations, key)
    weight, low = held.original.detach().clone(), held[0]
    side = weight.shape[2] if weight.ndim == 4 else 1
    rows = weight.shape[0] // parts
    for place, part in enumerate(chosen):
        change = scale * low.b[place] @ low.a[place]
        weight[part * rows : (part + 1) * rows] += change.view(rows, *weight.shape[1:])
    assert low.a.shape[1] == low.b.shape[2] == 2 * side
    return weight.detach()


@pytest.mark.parametrize("kind, matrices, count", [("vit", "qv", 2), ("vit", "all", 8), ("rn", "qkvo", 20)])
@torch.no_grad()
def test_lora_merges_to_the_weights_that_it_trained(kind, matrices, count):
    with torch.enable_grad():
        training, ctx, data = doubled("lora", kind, rank=2, alpha=6.0, matrices=matrices)
        visual = ctx.encoder.visual
        before = {name: value.clone() for name, value in encoder(kind).double().visual.state_dict().items()}
        for step in range(2):
            training.step(step, data[step])
    adapted = {name: module for name, module in visual.named_modules() if hasattr(module, "parametrizations")}
    assert sum(len(module.parametrizations) for module in adapted.values()) == count
    expected = dict(before)
    for name, module in adapted.items():
        for key in module.parametrizations:
            parts, chosen = (3, {"qv": (0, 2), "all": (0, 1, 2)}[matrices]) if key == "in_proj_weight" else (1, (0,))
            expected[f"{name}.{key}"] = merged_by_hand(module, key, parts, chosen, 6.0 / 2)
    expected_keys = {name: list(module.parametrizations) for name, module in adapted.items()}
    logits = training.student.eval()(data[2])
    final = training.method.finish(training.student, ctx).eval()
    got = final.visual.state_dict()
    assert got.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], atol=1e-12, rtol=0)
    changed = {name for name in before if not torch.equal(got[name], before[name])}
    places = {f"{name}.{key}" for name, module in adapted.items() for key in expected_keys[name]}
    # The tiny ResNet's blocks end in a BatchNorm of weight 0, which is frozen: nothing before it has a gradient.
    assert changed == places if kind == "vit" else changed < places
    torch.testing.assert_close(final(data[2].images), logits, atol=1e-10, rtol=0)
    if matrices == "qv":  # keys stay
        width = got["transformer.resblocks.0.attn.in_proj_weight"].shape[1]
        key = slice(width, 2 * width)
        for name in changed:
            assert torch.equal(got[name][key], before[name][key]) and not torch.equal(
                got[name][:width], before[name][:width]
            )


def test_lora_starts_as_the_pretrained_model_and_its_first_step_is_b_alone():
    training, ctx, data = doubled("lora", rank=2, alpha=4.0, matrices="qkv", blocks=1)
    tower = copy.deepcopy(encoder().double().visual)
    head = ctx.encoder.logit_scale.detach() * unit(texts(ctx.encoder).mean(dim=1))
    weight = tower.transformer.resblocks[1].attn.in_proj_weight
    loss = cross_entropy(unit(tower(data[0].images)) @ head.T, data[0].labels)
    (gradient,) = torch.autograd.grad(loss, weight)
    held = ctx.encoder.visual.transformer.resblocks[1].attn.parametrizations.in_proj_weight
    assert not hasattr(ctx.encoder.visual.transformer.resblocks[0].attn, "parametrizations")
    a = held[0].a.detach().clone()
    assert training.step(0, data[0])["total"].item() == pytest.approx(loss.item(), rel=1e-12)
    by_hand = 4.0 / 2 * torch.stack([g @ a[i].T for i, g in enumerate(gradient.chunk(3))])  # dL/dB
    torch.testing.assert_close(held[0].b.grad, by_hand, atol=1e-12, rtol=1e-9)
    assert held[0].a.grad.abs().max() == 0  # B was 0
    bound = 1 / a.shape[2] ** 0.5
    assert a.abs().max() <= bound and a.std().item() == pytest.approx(bound / 3**0.5, rel=0.2)


def test_lora_draws_by_its_seed():
    first, again, other = (
        make("lora").student(dataclasses.replace(context(encoder()), settings=settings(seed=seed)))
        for seed in (0, 0, 1)
    )
    a, b, c = (one.classifier.visual.transformer.resblocks[0].attn.parametrizations.in_proj_weight[0].a
               for one in (first, again, other))  # fmt: skip
    assert torch.equal(a, b) and not torch.equal(a, c)


# -- LAWA


@pytest.mark.parametrize(
    "last, every, points", [(3, 1, (4, 5, 6)), (2, 3, (3, 6)), (9, 1, (1, 2, 3, 4, 5, 6)), (0, 1, (6,))]
)
def test_lawa_evaluates_the_plain_mean_of_the_last_weights(last, every, points, tmp_path):
    method, seen = make("lawa", last=last, every=every), []
    method.after_step = lambda student, start, step: seen.append(
        student.encoder.clip.visual.proj.detach().double().clone()
    )
    fitted = run(method, tmp_path)
    expected = sum(seen[point - 1] for point in points) / len(points)
    torch.testing.assert_close(fitted.classifier.tensors()["visual.proj"].double(), expected, atol=1e-7, rtol=0)


# -- output ensemble


@torch.no_grad()
def test_the_output_ensemble_averages_probabilities(tmp_path):
    with torch.enable_grad():
        inputs = inputs_of(make("output_ensemble"))
    ends = [
        run(make("zero_shot"), tmp_path / "zs").classifier,
        restore(encoder(), inputs["ft"]["tensors"], inputs["ft"]["meta"]),
    ]
    p, q = (end(images()).double().softmax(dim=1) for end in ends)
    line = make("output_ensemble").line(context(encoder(), **inputs))
    for alpha in (0.0, 0.3, 1.0, 0.5):
        alone = run(make("output_ensemble", alpha=alpha), tmp_path / str(alpha), inputs=inputs).classifier
        expected = (1 - alpha) * p + alpha * q
        torch.testing.assert_close(alone(images()).double().exp(), expected, atol=1e-6, rtol=0)
        assert torch.equal(line.at(alpha)(images()), alone(images()))
    batches_, passes = [images(seed=1), images(seed=2)], []
    line.at(0.5).zero_shot.register_forward_hook(lambda module, given, out: passes.append(given[0]))
    expected = {a: [line.at(a)(batch.clone()) for batch in batches_] for a in line.values}
    passes.clear()
    for alpha in line.values:  # as evaluation does it: every point of the path sees the same few batches
        assert all(map(torch.equal, [line.at(alpha)(batch) for batch in batches_], expected[alpha]))
    assert len(passes) == 2
    other = finished(run(make("output_ensemble"), tmp_path / "other", inputs=inputs, seed=1))["tensors"]
    weights = {
        name: value * 1.5 if value.is_floating_point() and name != "alpha" else value for name, value in other.items()
    }
    changed = line.at(0.5).overwrite(weights.items())
    assert not torch.equal(changed(batches_[0]), expected[0.5][0])  # nothing of the weights before is remembered


# -- SPD and FTP


def ft_by_hand(ctx):
    """Parameters, head last, and the loss of a copy of FT's classifier."""
    tower = copy.deepcopy(ctx.encoder.visual)
    head = torch.nn.Parameter(ctx.encoder.logit_scale.detach() * unit(texts(ctx.encoder).mean(dim=1)))
    bias = torch.nn.Parameter(torch.zeros(len(CLASSES), dtype=torch.float64))
    loss = lambda batch: cross_entropy(unit(tower(batch.images)) @ head.T + bias, batch.labels)  # noqa: E731
    return [*tower.parameters(), head, bias], loss


class AdamByHand:
    """The step that AdamW would take, without taking it."""

    def __init__(self, decay):
        self.decay, self.taken, self.m, self.v = decay, 0, {}, {}

    def steps(self, parameters, gradients, rate):
        self.taken += 1
        for i, (p, g) in enumerate(zip(parameters, gradients, strict=True)):
            self.m[i] = 0.9 * self.m.get(i, 0) + 0.1 * g
            self.v[i] = 0.999 * self.v.get(i, 0) + 0.001 * g * g
            m, v = self.m[i] / (1 - 0.9**self.taken), self.v[i] / (1 - 0.999**self.taken)
            yield rate * (m / (v.sqrt() + 1e-8) + self.decay * p.detach())


@pytest.mark.parametrize("strength, decay", [(1.0, 0.0), (2.5, 0.1)])
def test_spd_takes_the_steps_of_its_algorithm(strength, decay):
    training, ctx, data = doubled("spd", changes={"lr": 2e-2}, strength=strength, keep_weight_decay=bool(decay))
    parameters, loss_of = ft_by_hand(ctx)
    start, adam_, taken_back = [p.detach().clone() for p in parameters], AdamByHand(decay), 0
    for rate, batch in zip(rates(5, 2e-2), data[:5], strict=True):
        gradients = torch.autograd.grad(loss_of(batch), parameters)
        for p, p0, g, d in zip(parameters, start, gradients, adam_.steps(parameters, gradients, rate), strict=True):
            old, new = p.detach() - p0, p.detach() - d - p0
            if -(g * old).sum() < 0:
                ratio = (new.norm() - old.norm()) / new.norm()
                taken_back += int(ratio > 0)
                new = new - strength * min(max(ratio, 0), 1) * new
            p.data = p0 + new
    for step in range(5):
        training.step(step, data[step])
    assert taken_back > 10
    same(training.parameters, [*parameters[-2:], *parameters[:-2]], 1e-9)


@pytest.mark.parametrize("kappa", [1.0, 0.2])
def test_ftp_takes_the_steps_of_its_released_code(kappa):
    """GT-RIPL/FTP:util/FTP.py: what AdamP does to each tensor, written out for one after the other."""
    training, ctx, data = doubled("ftp", changes={"lr": 2e-2}, kappa=kappa, radius_lr=0.05)
    parameters, loss_of = ft_by_hand(ctx)
    start, adam_ = [p.detach().clone() for p in parameters], AdamByHand(0.0)
    shrunk, inside = 0, 0
    held = [None] * len(start)  # gamma, first and second moment, last c and 1/|c|
    for t, (rate, batch) in enumerate(zip(rates(6, 2e-2), data[:6], strict=True), start=1):
        gradients = torch.autograd.grad(loss_of(batch), parameters)
        for i, (g, d) in enumerate(zip(gradients, adam_.steps(parameters, gradients, rate), strict=True)):
            moved_to = parameters[i].detach() - d
            if i >= len(start) - 2:  # the head is free
                parameters[i].data = moved_to
                continue
            c = moved_to - start[i]
            rows = c.reshape(len(c), -1) if c.ndim > 1 else c.reshape(1, -1)
            norms = rows.abs().sum(dim=1) + 1e-8
            if held[i] is None:
                gamma, m, v, last, scale = 1e-8, 0.0, 0.0, torch.zeros_like(rows), torch.zeros_like(norms)
            else:
                gamma, m, v, last, scale = held[i]
                slope = ((g.reshape(rows.shape) * last).sum(dim=1) * scale).sum().item()
                shrunk += int(slope > 0)
                slope *= kappa if slope > 0 else 1
                m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
                gamma -= 0.05 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)) ** 0.5 + 1e-8)
                gamma = min(max(gamma, 1e-8), norms.max().item())
                last, scale = rows, 1 / norms
            inside += int((gamma < norms).any())
            held[i] = gamma, m, v, last, scale
            parameters[i].data = start[i] + ((gamma / norms).clamp(0, 1)[:, None] * rows).reshape(c.shape)
    for step in range(6):
        training.step(step, data[step])
    assert shrunk > 10 and inside > 10 and max(one[0] for one in held if one) > 1e-2
    same(training.parameters, [*parameters[-2:], *parameters[:-2]], 1e-9)


def test_ftp_goes_on_from_what_it_keeps(tmp_path):
    whole = run(make("ftp"), tmp_path / "whole").classifier.tensors()
    stops = iter([False] * 4 + [True])
    with pytest.raises(Interrupted):
        run(make("ftp"), tmp_path / "cut", should_stop=lambda: next(stops))
    resumed = run(make("ftp"), tmp_path / "cut").classifier.tensors()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


# -- StarFT


def test_starft_adds_the_divergence_over_spurious_captions_of_other_classes():
    training, ctx, data = doubled("starft", strength=0.7)
    model = copy.deepcopy(ctx.encoder)
    frozen, tokens = copy.deepcopy(ctx.encoder), training.student.tokens
    keys = [stable_key("spurious", 0)] * 2
    trained = list(model.parameters())

    def loss_of(batch):
        step = len(steps)
        steps.append(step)
        draw = uniforms(derive(keys[0], batch.epoch.numpy(), batch.sample_ids.numpy()), 1)[:, 0] * len(CONTEXTS)
        spurious = torch.stack([tokens[label, int(k)] for label, k in zip(batch.labels, draw, strict=True)])
        x, t, s = (unit(f) for f in (model.image_features(batch.images), model.text_features(batch.tokens),
                                     model.text_features(spurious)))  # fmt: skip
        with torch.no_grad():
            x0, s0 = unit(frozen.image_features(batch.images)), unit(frozen.text_features(spurious))
        logits = model.logit_scale * x @ t.T
        own = torch.arange(len(x))
        nce = (cross_entropy(logits, own) + cross_entropy(logits.T, own)) / 2
        if step == 0:
            return nce
        kl = 0
        for i in range(len(x)):
            others = batch.labels != batch.labels[i]
            p0 = softmax(frozen.logit_scale.detach() * s0[others] @ x0[i], dim=0)
            logp = log_softmax(frozen.logit_scale.detach() * s[others] @ x[i], dim=0)
            kl = kl + (p0 * (p0.log() - logp)).sum() / len(x)
        return nce + 0.7 * (1 - step / 6) * kl

    steps = []
    expected = reference_steps(adam(trained), loss_of, data[:3])
    terms = [training.step(step, batch) for step, batch in enumerate(data[:3])]
    assert [term["total"].item() for term in terms] == pytest.approx(expected, rel=1e-9)
    assert terms[2]["spurious"].item() > 1e-6
    same(ctx.encoder.parameters(), trained, 1e-7)


# -- what reads finished runs


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The finished FT run, and both classifiers."""
    with torch.enable_grad():
        inputs = inputs_of(make("vrf"))
        zero_shot = run(make("zero_shot"), tmp_path_factory.mktemp("zero_shot")).classifier
    return inputs, zero_shot, restore(encoder(), inputs["ft"]["tensors"], inputs["ft"]["meta"])


@pytest.mark.parametrize("neighbours, k", [(1000.0, None), (8.0, 2)])
@torch.no_grad()
def test_vrf_mixes_by_the_distance_to_zero_shot_failures(pair, neighbours, k, tmp_path):
    inputs, zero_shot, finetuned = pair
    hyper = {"neighbours": neighbours, "center": 0.05, "width": 0.04}
    predictor = run(make("vrf", **hyper), tmp_path, inputs=inputs).classifier
    data = Data()
    train, labels = data.train_images([(0, i) for i in range(24)], 0), torch.from_numpy(data.train_labels())
    failed = (finetuned(train).argmax(dim=1) == labels) & (zero_shot(train).argmax(dim=1) != labels)
    failures = unit(finetuned.features(train)[failed].double())
    assert 2 < len(failures) < 24
    k = min(round(neighbours * len(failures) / 24), len(failures)) if k is None else round(8 * len(failures) / 24)
    x = unit(finetuned.features(images()).double())
    nearest = (x[:, None] - failures).square().sum(dim=2).sort(dim=1).values[:, k - 1]
    w = 1 / (1 + torch.exp((nearest - 0.05) / 0.04))[:, None]
    assert w.min() < 0.9 * w.max()
    expected = (1 - w) * zero_shot(images()).double().softmax(1) + w * finetuned(images()).double().softmax(1)
    torch.testing.assert_close(predictor(images()).double().exp(), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_vrf_without_failures_is_zero_shot(pair):
    _, zero_shot, finetuned = pair
    alone = NearFailures(encoder(), zero_shot, finetuned, torch.zeros(0, 16), torch.tensor([1.0, 1.5, 0.6]))
    torch.testing.assert_close(alone(images()), zero_shot(images()).log_softmax(dim=1))


def test_dawins_coefficients_by_hand():
    h0, h = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64), torch.tensor([0.5, 0.5, 2.0], dtype=torch.float64)
    o = (1 / 2 + 0.75**0.5 / 1) / 2  # deviations 1 and sqrt(3)/2, means 2 and 1
    expected = [
        (np.exp(-b) + o / 1.5) / (np.exp(-a) + np.exp(-b) + o) for a, b in zip(h0.tolist(), h.tolist(), strict=True)
    ]
    assert coefficients(h0, h).tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    "shapes, seed, means, counts",
    [  # made by naver-ai/dawin:dawin_rft/mixturemodel.py with 3 mixtures and random_seed 1
        (((20, 60, 30), (40, 40, 40), (60, 15, 50)), 0,
         (0.5121488695246204, 0.7940767460943098, 0.24348054953985257), (38, 51, 31)),
        (((5, 3, 80),), 1, (0.805397446670565, 0.45374678648229555, 0.6193765914415247), (17, 11, 52)),
    ],
)  # fmt: skip
def test_dawins_mixture_is_the_released_one(shapes, seed, means, counts):
    draw = np.random.default_rng(seed)
    found, group = beta_mixture(np.concatenate([draw.beta(*shape) for shape in shapes]), 3)
    assert found.tolist() == pytest.approx(means, rel=1e-9) and np.bincount(group).tolist() == list(counts)


def test_a_set_of_equal_coefficients_has_one_component():
    means, group = beta_mixture(np.full(5, 0.3), 3)
    assert means.tolist() == pytest.approx([0.3]) and group.tolist() == [0] * 5


@torch.no_grad()
def test_dawin_predicts_each_group_with_weights_interpolated_at_its_mean(pair, tmp_path):
    inputs, zero_shot, finetuned = pair
    predictor = run(make("dawin", groups=2), tmp_path, inputs=inputs).classifier
    assert predictor.adapts
    entropies = [-(p * p.log()).sum(dim=1) for p in (m(images()).double().softmax(1) for m in (zero_shot, finetuned))]
    means, group = beta_mixture(coefficients(*entropies).numpy(), 2)
    logits = predictor.adapt(predictor.features(images()))
    for k in range(2):
        alpha, own = float(means[k]), np.flatnonzero(group == k)
        start, end = zero_shot.tensors(), finetuned.tensors()
        merged = {name: (1 - alpha) * start[name] + alpha * end[name] for name in start}
        model = restore(encoder(), merged, inputs["ft"]["meta"])
        torch.testing.assert_close(logits[own], model(images()[own]), atol=1e-4, rtol=1e-5)
    assert len(np.unique(group)) == 2 and torch.equal(predictor(images()), logits)


def test_a_greedy_soup_takes_what_does_not_hurt():
    """Losses by hand: of single members 3, 1, 2, 4; of means by how many and which."""
    method, tried = make("greedy_soup", members=4), []
    losses = {(0,): 3.0, (1,): 1.0, (2,): 2.0, (3,): 4.0, (1, 2): 1.0, (0, 1, 2): 1.5, (1, 2, 3): 0.5}
    tensors = Classifier(encoder(), torch.zeros(len(CLASSES), 16)).tensors()
    members = [tensors | {"bias": torch.tensor([0.0, 7.0**i, 1.0])} for i in range(4)]
    by_bias = {tuple((sum(members[i]["bias"] for i in key) / len(key)).tolist()): key for key in losses}

    def validate(classifier):
        tried.append(by_bias[tuple(classifier.bias.tolist())])
        return losses[tried[-1]]

    ctx = dataclasses.replace(
        context(encoder(), **{f"ft:{i}": {"tensors": tensors, "meta": {"normalise": "true"}} for i in range(4)}),
        validate=validate,
    )
    merged = method.merge(members, ctx)
    assert tried[4:] == [(1, 2), (0, 1, 2), (1, 2, 3)] and method.chooses(method.hyper)
    torch.testing.assert_close(merged["bias"], sum(members[i]["bias"] for i in (1, 2, 3)) / 3)


def test_diwa_is_the_mean_of_lp_ft_runs(tmp_path):
    method = make("diwa", members=2)
    inputs = inputs_of(method)
    assert list(inputs) == ["lp_ft:0", "lp_ft:1"]
    found = run(method, tmp_path / "out", inputs=inputs).classifier
    one, two = (finished["tensors"] for finished in inputs.values())
    assert not found.normalise and not torch.equal(one["weight"], two["weight"])
    for key, value in found.tensors().items():
        torch.testing.assert_close(value, (one[key] + two[key]) / 2)


# -- batches in parts


@pytest.mark.parametrize("name", ["clipood", "car_ft", "ldifs", "lora", "spd", "ftp", "starft"])
def test_a_batch_in_parts_gives_the_same_steps(name):
    totals = []
    for micro_batch in (None, 3):
        training, _, data = doubled(name, changes={"micro_batch": micro_batch})
        totals.append([training.step(step, batch)["total"].item() for step, batch in enumerate(data[:4])])
    assert totals[0] == pytest.approx(totals[1], rel=1e-8)
