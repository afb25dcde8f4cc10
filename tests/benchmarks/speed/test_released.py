"""Our step between two steps of the authors' loop, tried with a checkout that has its own small ones."""

import sys

import click
import pytest
import torch

from robustft.benchmarks.speed import released
from robustft.benchmarks.speed.runner import Settings

MODEL = """
import torch

class CLIP(torch.nn.Module):
    def __init__(self, embed_dim, size, layers, width, patch, context, words, text_width, heads, text_layers):
        super().__init__()
        self.shape = embed_dim, size, layers, width, patch, context, text_layers
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, images, text):
        assert images.is_floating_point() and text.shape == (len(images), 77)
        return images.mean() * self.weight
"""
LOOP = """
import wandb
from clip.model import CLIP
from src.datasets_.laion import get_data
from src.models.eval import evaluate
import src.datasets_ as datasets

calls = []

def NAME_loss(args, clip_encoder, head, logger):
    print("much")
    calls.append(clip_encoder.model.shape)
    count = len(getattr(datasets, args.train_dataset)(None, location=args.data_location, batch_size=4).train_loader)
    data = iter(get_data(args, (None, None), epoch=0)["train_ft"].dataloader)
    model = clip_encoder.cuda()
    for step in range(count):
        images, text = next(data)
        assert len(images) == args.batch_size and args.distil_coef == 0.9
        model(images.cuda(), text).sum().backward()
        calls.append(step)
        wandb.log({"step": step})
"""


@pytest.fixture
def checkout(tmp_path):
    for folder in ("clip", "src/models"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "clip" / "model.py").write_text(MODEL)
    for name in released.GOALS:
        (tmp_path / "src" / "models" / f"{name}_loss.py").write_text(LOOP.replace("NAME", name))
    return tmp_path


def test_both_take_turns_and_nothing_of_the_checkout_stays(checkout, capsys, monkeypatch):
    order, stepper = [], released.stepper

    def counted(*args):
        run = stepper(*args)
        return lambda: (order.append("ours"), run())

    monkeypatch.setattr(released, "stepper", counted)
    settings = Settings(backbone="tiny-vit-p16", batch=4, repeats=3, released=str(checkout))
    cuda, count = torch.Tensor.cuda, torch.cuda.device_count
    released.measure(settings)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["flyp", "tracer"] and "much" not in str(lines)
    assert len(order) == 2 * (3 + released.WARM_UP)
    assert torch.Tensor.cuda is cuda and torch.cuda.device_count is count
    assert not {name for name in sys.modules if name.partition(".")[0] in ("src", "clip")}
    assert str(checkout) not in sys.path


def test_each_round_has_one_step_of_either(checkout):
    settings = Settings(backbone="tiny-vit-p16", batch=4, repeats=2, released=str(checkout))
    timings = released.turns("tracer", checkout, settings)
    assert {name: len(of) for name, of in timings.items()} == {"ours": 2, "released": 2}


def test_their_model_has_the_shape_of_ours(checkout, monkeypatch):
    monkeypatch.syspath_prepend(str(checkout))
    try:
        shapes = [released._built(Settings(backbone=name).encoder()).shape for name in ("tiny-vit-p16", "RN50")]
    finally:
        for name in ("clip", "clip.model"):
            sys.modules.pop(name, None)
    assert shapes == [(64, 32, 4, 128, 16, 77, 2), (1024, 224, (3, 4, 6, 3), 64, None, 77, 12)]


def test_without_a_checkout_it_is_left_out(capsys):
    released.measure(Settings())
    assert "left out" in capsys.readouterr().out


def test_what_is_no_checkout_or_no_clip_is_refused(checkout, tmp_path_factory):
    with pytest.raises(click.UsageError, match="must be a checkout of TRACER's released code"):
        released.measure(Settings(released=str(tmp_path_factory.mktemp("empty"))))
    with pytest.raises(click.UsageError, match="must have the form of OpenAI's CLIP, got 'glyph-vit-deep-dev'"):
        released.measure(Settings(backbone="glyph-vit-deep-dev", batch=4, released=str(checkout)))
