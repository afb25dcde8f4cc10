"""Methods on every family of backbones: three steps, the same bits after an interruption, and what they refuse."""

import pytest
import torch
from families_kit import FAMILIES
from methods_kit import batches, context, encoder, finished, images, make, run, settings, task
from runs_kit import after

from robustft.methods import registry
from robustft.methods.distillation import Embeddings, SigmoidEmbeddings, contrastive, interactive_contrastive
from robustft.methods.objectives import sigmoid_contrastive
from robustft.methods.registry import names
from robustft.methods.training.step import Training
from robustft.methods.training.trainer import Interrupted
from robustft.methods.two_tower import TwoTower, TwoTowerMethod

BARE = {"cross_frobenius_weight": 0.0}
"""TRACER without its projection penalty, which SigLIP has no projection for."""
SHORT = {"total_steps": 3, "warmup_steps": 1}
TRAINED = [name for name in names() if registry.get(name).trained]
TWO_TOWER = [name for name in names() if issubclass(registry.get(name), TwoTowerMethod)]


def quick(name, model):
    """The method, without penalties of what the backbone has not."""
    hyper = {}
    if issubclass(registry.get(name), TwoTowerMethod) and not model.traits().image_projection:
        hyper = {"cross_frobenius_weight": 0.0, "orthogonality_weight": 0.0}
    return make(name, **hyper | ({"c_points": 1, "renderings": 1} if name == "lp_ft" else {}))


WIDE = {"mobileclip_b"}
"""Families whose width cannot be cut; their towers are trained under other names here."""


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in WIDE])
def test_three_steps_of_the_usual_methods_and_the_same_bits_after_an_interruption(family, tmp_path):
    model = encoder(family)
    for name in ("ft", "lp_ft", "flyp", "ema", "tracer"):
        fitted = run(quick(name, model), tmp_path / name, family, **SHORT)
        logits = fitted.classifier(images(4))
        assert logits.shape == (4, 3) and logits.isfinite().all(), name
        assert fitted.curves[-1]["step"] == 2 and ("logit_bias" in fitted.curves[-1]) == (
            model.logit_bias is not None and name not in ("ft", "lp_ft")
        )
        if name == "ft":
            whole = run(make("wise_ft", alpha=1), tmp_path / "wise", family, inputs={"ft": finished(fitted)}, **SHORT)
            assert torch.equal(whole.classifier(images(4)), logits)
        if name == "tracer":
            with pytest.raises(Interrupted):
                run(quick(name, model), tmp_path / "again", family, should_stop=after(2), **SHORT)
            again = run(quick(name, model), tmp_path / "again", family, **SHORT)
            for key, tensor in fitted.classifier.tensors().items():
                assert torch.equal(tensor, again.classifier.tensors()[key]), key
            for key, tensor in fitted.text.items():
                assert torch.equal(tensor, again.text[key]), key
            assert any(not torch.equal(tensor, model.text_state()[key]) for key, tensor in fitted.text.items())


@pytest.mark.parametrize("family, asked", [
    ("siglip2", TRAINED),
    ("eva02", ["lora", "ldifs", "partial_ft", "lipsum_ft"]),
    ("mobileclip_small", ["lora", "ldifs", "partial_ft", "lipsum_ft"]),
])  # fmt: skip
def test_every_method_trains_or_says_why_not(family, asked):
    """The plan asks `refuses`; what it lets through runs."""
    model = encoder(family)
    clip_tokens = family != "siglip2"
    traits = model.traits(clip_tokens=clip_tokens)
    refused = set()
    for name in asked:
        method = make(name, **({"blocks": 1} if name in ("lora", "partial_ft") else {}))
        if method.refuses(method.hyper, traits):
            refused.add(name)
            method = quick(name, model)
            if method.refuses(method.hyper, traits):
                continue
        fresh = encoder(family)
        ctx = context(fresh)
        student = method.student(ctx).eval()
        method.prepare(student, ctx)
        training = Training(method, student, settings())
        for step, batch in enumerate(batches(ctx.task, 2)):
            assert all(term.isfinite() for term in training.step(step, batch).values()), name
        assert method.finish(student, ctx)(images(2)).isfinite().all(), name
    penalised = {"carot", "tracer", "tracer_ema_teacher", "tracer_static_teacher"}
    assert (
        refused
        == {
            "siglip2": {*penalised, "lipsum_ft"},
            "eva02": set(),
            "mobileclip_small": {"ldifs", "lora", "partial_ft"},
        }[family]
    )


def pairs(seed=0, count=6, width=5):
    generator = torch.Generator().manual_seed(seed)
    image, text = (torch.randn(count, width, generator=generator, dtype=torch.float64) for _ in range(2))
    image, text = (torch.nn.functional.normalize(x, dim=1) for x in (image, text))
    return SigmoidEmbeddings(image, text, torch.tensor(20.0).double(), torch.tensor(-7.0).double())


def test_the_sigmoid_loss_is_open_clips_in_value_and_gradient():
    from open_clip.loss import SigLipLoss

    found = []
    for loss in (sigmoid_contrastive, SigLipLoss()):
        leaves = [tensor.float().requires_grad_() for tensor in pairs()]
        value = loss(*leaves)
        value.backward()
        found.append([value, *(leaf.grad for leaf in leaves)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    image = torch.eye(4, dtype=torch.float64)
    assert sigmoid_contrastive(image, image, 0.0, 0.0).item() == pytest.approx(4 * torch.tensor(2.0).log().item())
    with pytest.raises(ValueError, match="B, D. with B >= 2"):
        sigmoid_contrastive(image[:1], image[:1], 1.0, 0.0)


def test_terms_read_scale_and_bias_as_they_say():
    one, other = pairs(), pairs(1)
    assert contrastive(one) == sigmoid_contrastive(*one)
    torch.testing.assert_close(interactive_contrastive(one, one), sigmoid_contrastive(*one))
    assert interactive_contrastive(one, other) != interactive_contrastive(
        one._replace(logit_bias=torch.tensor(0.0)), other
    )
    from robustft.methods import distillation

    for term in ("contrastive_relational_distillation", "cross_knowledge_distillation", "soft_cross_entropy"):
        with_bias = getattr(distillation, term)(one, other)
        torch.testing.assert_close(with_bias, getattr(distillation, term)(Embeddings(*one[:3]), Embeddings(*other[:3])))


@pytest.mark.parametrize("name", ["flyp", "tracer", "starft"])
def test_a_sigmoid_loss_of_micro_batches_is_that_of_the_whole_batch(name):
    """Every pair of the batch counts, and the bias gets its gradient once."""
    found = []
    for micro_batch in (None, 3):
        model = encoder("siglip")
        method = quick(name, model)
        ctx = context(model)
        student = method.student(ctx).eval()
        training = Training(method, student, settings(micro_batch=micro_batch))
        terms = [training.step(step, batch) for step, batch in enumerate(batches(task(model), 2))]
        found.append([*terms[1].values(), *(p.grad for p in training.parameters)])
        assert model.clip.logit_bias.grad.abs() > 0
    for whole, cut in zip(*found, strict=True):
        torch.testing.assert_close(cut, whole, rtol=1e-3, atol=1e-5)


def test_the_image_tower_alone_leaves_scale_and_bias():
    student = TwoTower(encoder("siglip"), "image")
    assert {id(p) for p in student.parameters() if p.requires_grad} == {
        id(p) for p in student.encoder.image_parameters()
    }


def test_every_two_tower_method_says_what_it_takes_of_a_sigmoid():
    assert {"flyp", "ema", "carot", "tracer", "starft", "static_sd"} <= set(TWO_TOWER)
    for name in TWO_TOWER:
        assert "sigmoid loss" in registry.get(name).sigmoid, name


def test_a_loss_of_ones_own_is_not_taken_for_a_sigmoid():
    class Mine(registry.get("flyp")):
        name = "mine"

        def loss(self, student, teacher, batch):
            return {}

    traits = encoder("siglip").traits()
    assert Mine.refuses(Mine.Hyper(), traits) == (
        "mine: takes the softmax loss of CLIP, got ViT-B-16-SigLIP:webli, which was trained with a sigmoid; choose "
        "another method"
    )
    assert not Mine.refuses(Mine.Hyper(), encoder("eva02").traits())
    flyp = registry.get("flyp")
    assert "logit_scale" in flyp.refuses(flyp.Hyper(clamp_logit_scale=True), traits)
    assert "image tower has none" in flyp.refuses(flyp.Hyper(cross_frobenius_weight=0.1), traits)
    assert "orthogonality" in flyp.refuses(flyp.Hyper(orthogonality_weight=0.1), traits)
