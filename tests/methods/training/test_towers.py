"""How towers compute in training: blocks again on the way back, captions once each."""

from dataclasses import replace

import pytest
import torch
from methods_kit import batches, encoder, run, settings, task

from robustft import backbones
from robustft.backbones import clip, tiny
from robustft.methods import registry
from robustft.methods.base import Context
from robustft.methods.training.parallel import UnsupportedSettings
from robustft.methods.training.trainer import Training

pytestmark = pytest.mark.computes


def begun(method, kind="vit", dtype=torch.float32, **changes):
    """A method's training and its student, in the given precision."""
    model, given = encoder(kind).to(dtype), settings(**changes)
    method = registry.get(method)()
    data = task(model)
    student = method.student(Context(model, data, given, validate=lambda predictor: 0.0)).eval().to(dtype)
    return Training(method, student, given), data, model


def stepped(method, kind="vit", dtype=torch.float32, count=3, **changes):
    """Totals and gradients of a few steps, and the final weights."""
    training, data, model = begun(method, kind, dtype, **changes)
    found = {}
    for step, batch in enumerate(batches(data, count)):
        batch = replace(batch, images=model.pixels(batch.images).to(dtype))
        found[f"{step}.total"] = training.step(step, batch)["total"]
        found |= {
            f"{step}.{name}": p.grad.clone() for name, p in training.student.named_parameters() if p.grad is not None
        }
    training.end()
    return found | {f"end.{name}": p.detach().clone() for name, p in training.student.named_parameters()}


def agree(one, other):
    """Terms and gradients differ by 1e-9 of a tensor's largest entry at most, final weights by that absolutely."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        scale = 1.0 if name.startswith("end.") else max(tensor.abs().max().item(), 1e-4)
        assert (tensor - other[name]).abs().max().item() <= 1e-9 * scale, name


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# Blocks computed again


@pytest.mark.parametrize("kind", ["vit", "siglip"])
@pytest.mark.parametrize("changes", [{}, {"micro_batch": 3}], ids=["whole", "micro"])
def test_blocks_that_are_computed_again_give_the_same_bits(kind, changes):
    method = "flyp" if kind == "siglip" else "tracer"
    assert same(stepped(method, kind, **changes), stepped(method, kind, checkpoint_activations=True, **changes))


@pytest.mark.parametrize("method", ["ldifs", "ft", "lora"])
def test_so_do_students_with_one_tower(method):
    assert same(stepped(method), stepped(method, checkpoint_activations=True))


def test_less_is_kept_for_the_way_back():
    def kept(**changes):
        training, data, _ = begun("flyp", **changes)
        sizes = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.__setitem__(tensor.data_ptr(), tensor.numel()) or tensor, lambda tensor: tensor
        ):
            pairs = training.student(batches(data, 1)[0])
        return sum(sizes.values()), pairs

    (usual, _), (less, _) = kept(), kept(checkpoint_activations=True)
    assert less < 0.75 * usual


def test_what_comes_after_the_training_computes_as_before(tmp_path):
    fitted = run(registry.get("tracer")(), tmp_path, checkpoint_activations=True)
    assert not fitted.classifier.visual.transformer.grad_checkpointing


def test_a_tower_that_cannot_is_refused():
    with pytest.raises(UnsupportedSettings, match="checkpoint_activations: is for towers of transformer blocks"):
        begun("flyp", "rn", checkpoint_activations=True)


@pytest.mark.parametrize("name", ["tiny-vit-p8", "tiny-rn"])
def test_the_plan_knows_which_can(name):
    assert tiny.traits(name).recomputes == tiny.build(name).traits().recomputes == (name != "tiny-rn")


@pytest.mark.parametrize("name", list(backbones.TRAITS))
def test_what_the_plan_knows_of_openais_is_what_open_clip_says(name):
    assert backbones.traits(name) == clip.traits(name)
    assert backbones.traits(name).recomputes == (name != "RN50")


# Captions once each


@pytest.mark.parametrize("method, kind", [("tracer", "vit"), ("starft", "vit"), ("flyp", "siglip")])
def test_captions_that_are_encoded_once_change_the_order_of_sums_alone(method, kind):
    agree(stepped(method, kind, torch.float64), stepped(method, kind, torch.float64, unique_captions=True))


def test_the_text_tower_sees_a_caption_once():
    training, data, model = begun("flyp", unique_captions=True)
    batch, seen = batches(data, 1)[0], []
    model.text.ln_final.register_forward_pre_hook(lambda module, given: seen.append(len(given[0])))
    training.step(0, batch)
    different = len({tuple(row) for row in batch.tokens.tolist()})
    assert seen == [different] and different < len(batch.tokens)
