"""A tiny random dual encoder and dataset behind the real interfaces, for the tests of methods."""

import copy
import tempfile
from functools import cache
from types import SimpleNamespace

import families_kit
import numpy as np
import torch

from robustft.backbones import DualEncoder, tiny
from robustft.datasets.loaders import train_batches
from robustft.methods import registry
from robustft.methods.base import Context, Settings, Task
from robustft.methods.training.checkpoints import Checkpoints
from robustft.methods.training.trainer import Training, fit

from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg  # isort: skip  (after robustft.backbones)

CLASSES, PROMPTS = ("zero", "one", "two"), ("a photo of {}", "{}", "the digit {} in red")
VISION = {
    "vit": CLIPVisionCfg(layers=2, width=32, head_width=16, patch_size=16, image_size=32),
    "rn": CLIPVisionCfg(layers=[1, 1, 1, 1], width=8, head_width=16, image_size=32),
}


def encoder(kind="vit", seed=0):
    """A random dual encoder, the same for the same arguments; BatchNorm statistics are not the default.

    Args:
        kind: of OpenAI's shape, "vit" or "rn", or one of `families_kit`.
    """
    return families_kit.trainable(kind) if kind not in VISION else copy.deepcopy(_made(kind, seed))


@cache
def _made(kind, seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        text = CLIPTextCfg(context_length=16, vocab_size=tiny.vocabulary_size(), width=32, heads=2, layers=1)
        model = DualEncoder(CLIP(16, VISION[kind], text), tiny.tokenizer(), f"test-{kind}")
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model.eval()


class Data:
    """24 images of three classes: noise that depends on (seed, epoch, index), brightened by class."""

    train_size = 24
    card = SimpleNamespace(class_names=CLASSES, prompts=PROMPTS)

    def train_labels(self):
        return np.arange(self.train_size) % len(CLASSES)

    def train_images(self, items, seed):
        images = []
        for epoch, index in items:
            generator = torch.Generator().manual_seed(seed * 10_000 + epoch * 100 + index)
            noise = torch.randint(0, 150, (3, 32, 32), generator=generator, dtype=torch.uint8)
            noise[index % len(CLASSES)] += 100
            images.append(noise)
        return torch.stack(images)


def task(model, trainable="all"):
    tokens = model.tokenize([prompt.format(name) for name in CLASSES for prompt in PROMPTS])
    tokens = tokens.view(len(CLASSES), len(PROMPTS), -1)
    return Task(CLASSES, PROMPTS, tokens, Data(), trainable, model.cuts_text)


def settings(**changes):
    given = {
        "total_steps": 6,
        "batch_size": 8,
        "lr": 1e-3,
        "weight_decay": 0.1,
        "warmup_steps": 2,
        "log_every": 2,
    }
    return Settings(**given | changes)


def batches(data, count=6):
    """The batches of seed 0."""
    options = {"batch_size": 8, "seed": 0, "start_step": 0, "total_steps": count, "cut": data.cuts_text}
    return list(train_batches(data.dataset, data.caption_tokens, **options))


def images(count=12, seed=5):
    """Fixed uint8 images that no training uses."""
    return Data().train_images([(99, index) for index in range(count)], seed)


@torch.no_grad()
def validation_nll(classifier):
    """Mean negative log-likelihood on fixed images."""
    labels = torch.from_numpy(Data().train_labels()[:12])
    return torch.nn.functional.cross_entropy(classifier(images()), labels).item()


def run(
    method,
    folder,
    kind="vit",
    trainable="all",
    inputs=None,
    should_stop=lambda: False,
    every_steps=None,
    **changes,
):
    """`fit` of a fresh copy of the tiny encoder; every argument that tests vary."""
    model = encoder(kind)
    return fit(
        method,
        model,
        task(model, trainable),
        settings(**changes),
        checkpoints=Checkpoints(folder, every_seconds=1e9, every_steps=every_steps),
        validate=validation_nll,
        inputs=inputs,
        should_stop=should_stop,
    )


def finished(fitted):
    """What a finished run hands to the methods that read it."""
    tensors = {name: tensor.clone() for name, tensor in fitted.classifier.tensors().items()}
    return {"tensors": tensors, "meta": fitted.classifier.meta()}


def make(name, **hyper):
    """A registered method, quick where its defaults are not."""
    method = registry.get(name)
    quick = {"c_points": 3, "renderings": 2} if name == "lp_ft" else {}
    return method(method.configure(quick | hyper))


def context(model, trainable="all", **inputs):
    return Context(model, task(model, trainable), settings(), validation_nll, inputs)


def started(name, kind="vit", trainable="all", **hyper):
    """A method's training as the trainer sets it up, its context, and the batches."""
    model, method = encoder(kind), make(name, **hyper)
    ctx = context(model, trainable)
    student = method.student(ctx).eval()
    method.prepare(student, ctx)
    return Training(method, student, settings()), ctx, batches(ctx.task)


def copies(parameters):
    return [p.detach().clone() for p in parameters]


def moved(parameters, before):
    """Which of them are no longer as they were."""
    return [not torch.equal(p, old) for p, old in zip(parameters, before, strict=True)]


def inputs_of(method, kind="vit"):
    """The finished runs that a method reads, as the benchmark hands them over."""
    seeds, read = method.input_seeds(method.hyper, 0), {}
    for other in method.inputs(method.hyper):
        for seed in seeds:
            key = f"{other}:{seed}" if method.pools() else other
            kept = _input(other, kind, seed)
            read[key] = {"tensors": {name: tensor.clone() for name, tensor in kept["tensors"].items()}} | {
                "meta": copy.deepcopy(kept["meta"])
            }
    return read


@cache
def _input(name, kind, seed):
    """A finished run that several methods read."""
    with tempfile.TemporaryDirectory() as folder:
        return finished(run(make(name), folder, kind, seed=seed))


class Scalar(torch.nn.Module):
    """A student with one number."""

    def __init__(self, value=0.0, dtype=torch.float64):
        super().__init__()
        self.theta = torch.nn.Parameter(torch.tensor(value, dtype=dtype))

    def forward(self, batch):
        return self.theta * batch


def follow(make_teacher, trajectory, dtype=torch.float64):
    """The teacher's value after the copy and after each step that changed it, with the steps."""
    student = Scalar(trajectory[0], dtype)
    teacher = make_teacher(student)
    values = [teacher.model.theta.item()]
    for step, theta in enumerate(trajectory[1:]):
        with torch.no_grad():
            student.theta.fill_(theta)
        teacher.update(step)
        values.append(teacher.model.theta.item())
    return values
