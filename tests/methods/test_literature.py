"""Methods of the literature against their equations, written out once more in float64 and without our code."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from methods_kit import CLASSES, PROMPTS, batches, context, copies, encoder, make, moved, settings, started, task
from scipy.stats import beta as beta_distribution
from torch.nn.functional import cross_entropy, log_softmax, softmax

from robustft.methods.training.trainer import Training

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
    """Of the first steps of `settings()`: linear warm-up."""
    assert count <= warmup
    return [peak * (step + 1) / warmup for step in range(count)]


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
