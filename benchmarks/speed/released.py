"""A step here against a step of the authors' own training loop, both on the same batch in the same process.

    git clone https://github.com/HesamAsad/TRACER                                    looked at: commit 1f1e612
    python -m robustft.benchmarks.speed released --released TRACER

The loops are `src/models/tracer_loss.py` and `src/models/flyp_loss.py` as they lie in the checkout, called and not
copied; what is not a step (datasets, zero-shot heads, evaluation, wandb) is stood in for. Their loader's turn is ours:
between two of their steps one of ours is made, so that both go through the same minutes. Settings are those of
`example_scripts/tracer_beta.sh` with a beta of 0.5. Goals: on ViT-B/16 TRACER at most 0.60 and FLYP at most 0.85; on a
small ViT with batches of 128 TRACER at most 0.45.

Their model is of the checkout's `clip/model.py`, with the shape of ours and, of an image tower with blocks, heads of
width 64. Captions have 77 columns there, as in the released loader. Their images come as normalised floats; ours are
normalised in the step, which counts against ours.
"""

import io
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import click
import torch

from ...backbones import DualEncoder
from ...methods.two_tower import TwoTower
from .runner import Settings, Timings, captions, tell, wait
from .step import STEPS, stepper

GOALS = {"flyp": "goal <= 0.85", "tracer": "goal <= 0.60"}
CONTEXT = 77
WARM_UP = 2
"""Their first step does not distil; the second makes the teacher's first forward pass."""
ARGUMENTS: dict[str, Any] = {
    "train_dataset": "Stand", "data_location": "", "clip_load": None, "save": None, "epochs": 1, "ls": 0.0,
    "lr": 1e-6, "wd": 0.1, "warmup_length": 500, "min_lr": 0.0, "max_grad_norm": 0.0, "grad_norm_multiplier": 0.0,
    "freeze_text_encoder": False, "trainable_layers": -1,
    "distil_coef": 0.9, "beta": 0.5, "ema_teacher": False, "ema_up_freq": 0, "cross_fnorm": 0.05, "l_orth_wv": 0.0,
    "alpha_crd": 1.0, "alpha_fd": 2000.0, "alpha_icl": 1.0, "alpha_cross_kd": 1.0, "alpha_mfd": 0.0, "alpha_gd": 0.0,
    "alpha_afd": 0.0, "alpha_temp_distil": 0.0, "distillation_temperature": 1.0,
}  # fmt: skip
"""What `src/args.py` would give."""

STANDS = ("wandb", "src.datasets_", "src.datasets_.laion", "src.datasets_.common", "src.models.eval",
          "src.models.zeroshot")  # fmt: skip
"""Modules that are no part of a step."""


class Enough(Exception):
    """Ends the loop of the released code."""


def measure(settings: Settings) -> None:
    """Prints our step over theirs for FLYP and TRACER; without a checkout, that it is left out."""
    if settings.released is None:
        print(f"{'ours / released':<34} left out: --released names no checkout of the authors' code")
        return
    if not (Path(settings.released) / "src" / "models" / "tracer_loss.py").is_file():
        raise click.UsageError(f"--released: must be a checkout of TRACER's released code, got '{settings.released}'.")
    for name in GOALS:
        torch.manual_seed(0)
        timings = turns(name, Path(settings.released), settings)
        rates = "; ".join(f"{whose} {settings.batch / timings.median(whose):.1f} images/s" for whose in timings)
        goal = GOALS[name] if settings.backbone == "ViT-B-16" else ""
        tell(f"{name}, ours / released", timings.ratio("ours", "released"), goal, rates)


def turns(name: str, checkout: Path, settings: Settings) -> Timings:
    """Seconds of a step of either, round by round.

    Args:
        name: flyp or tracer.
        checkout: folder of the released code.
    """
    encoder = settings.encoder()
    ours = stepper(name, TwoTower(encoder), settings)
    with released(checkout, settings) as loop_of:
        loader = Loader(settings, encoder, ours)
        model = Theirs(_built(encoder)).to(settings.device)
        arguments = SimpleNamespace(
            **ARGUMENTS, batch_size=settings.batch, use_fp16=settings.precision == "bf16", model=_their_name(encoder)
        )
        try:
            loop_of(name, loader)(arguments, model, torch.nn.Linear(1, 1), logging.getLogger(__name__))
        except Enough:
            pass
    return loader.timings


class Loader:
    """The loader of their loop. Being asked for a batch ends their step; before it answers, ours is made."""

    def __init__(self, settings: Settings, encoder: DualEncoder, ours: Callable[[], None]) -> None:
        size = encoder.image_size
        self.settings, self.ours = settings, ours
        texts = captions(encoder, settings.batch)
        texts = torch.nn.functional.pad(texts, (0, CONTEXT - texts.shape[1]))
        # On the device, as ours: loading is in neither.
        self.batch = (torch.randn(settings.batch, 3, size, size).to(settings.device), texts.to(settings.device))
        self.timings = Timings({"ours": [], "released": []})

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        alone = self.settings.device == "cpu" and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        for turn in range(WARM_UP + self.settings.repeats):
            began = clock()
            self.ours()
            wait(self.settings.device)
            between = clock()
            yield self.batch
            wait(self.settings.device)
            ended = clock()
            if turn >= WARM_UP:
                self.timings["ours"].append(between - began)
                self.timings["released"].append(ended - between)
        raise Enough


class Theirs(torch.nn.Module):
    """What the loops ask of the released `CLIPEncoder`."""

    train_preprocess = val_preprocess = None

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor, text: torch.Tensor) -> Any:
        return self.model(images, text)


def _their_name(encoder: DualEncoder) -> str:
    """The loops look at its first three letters alone, for where the image tower's projection is."""
    return "RN50" if hasattr(encoder.clip.visual, "attnpool") else "ViT"


def _built(encoder: DualEncoder) -> torch.nn.Module:
    """The checkout's CLIP, random weights, of the shape of an encoder of ours."""
    ours: Any = encoder.clip
    image, text = ours.visual, ours.transformer.resblocks
    shape: tuple[Any, ...]
    if not isinstance(getattr(image, "conv1", None), torch.nn.Conv2d):
        raise click.UsageError(f"--backbone: must have the form of OpenAI's CLIP, got '{encoder.name}'.")
    if hasattr(image, "transformer"):
        patches, layers = image.conv1, len(image.transformer.resblocks)
        shape = (image.image_size[0], layers, patches.out_channels, patches.kernel_size[0])
    else:
        blocks = tuple(len(getattr(image, f"layer{i}")) for i in (1, 2, 3, 4))
        shape = (image.image_size, blocks, 2 * image.conv1.out_channels, None)
    words = (CONTEXT, *ours.token_embedding.weight.shape, text[0].attn.num_heads, len(text))
    made: torch.nn.Module = import_module("clip.model").CLIP(ours.text_projection.shape[1], *shape, *words)
    return made


@contextmanager
def released(checkout: Path, settings: Settings) -> Iterator[Callable[[str, Loader], Callable[..., None]]]:
    """Gives name and loader -> the training function of the checkout, whose modules are gone afterwards."""
    stands = {name: ModuleType(name) for name in STANDS}

    def loop_of(name: str, loader: Loader) -> Callable[..., None]:
        def data(*_: Any, **__: Any) -> Any:
            return {"train_ft": SimpleNamespace(dataloader=loader)}

        def dataset(*_: Any, **__: Any) -> Any:
            return SimpleNamespace(train_loader=range(STEPS))

        nothing = mock.Mock()
        contents: dict[str, dict[str, Any]] = {
            "wandb": {"log": nothing},
            "src.datasets_": {"Stand": dataset},
            "src.datasets_.laion": {"get_data": data},
            "src.datasets_.common": {"get_dataloader": nothing, "maybe_dictionarize": nothing},
            "src.models.eval": {"evaluate": nothing},
            "src.models.zeroshot": {"get_zeroshot_classifier": nothing},
        }
        for module, content in contents.items():
            vars(stands[module]).update(content)
        loop: Callable[..., None] = getattr(import_module(f"src.models.{name}_loss"), f"{name}_loss")
        return loop

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "path", [str(checkout), *sys.path]))
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))
        # As with one GPU: with any other number the loops index a scale that has no dimension.
        stack.enter_context(mock.patch.object(torch.cuda, "device_count", lambda: 1))
        if settings.device == "cpu":
            for of in (torch.nn.Module, torch.Tensor):
                stack.enter_context(mock.patch.object(of, "cuda", lambda self, *_, **__: self))
        ours = {name: sys.modules[name] for name in STANDS if name in sys.modules}
        sys.modules.update(stands)
        try:
            yield loop_of
        finally:  # what else was imported meanwhile stays
            for module in [name for name in sys.modules if name in STANDS or name.partition(".")[0] in ("src", "clip")]:
                del sys.modules[module]
            sys.modules.update(ours)
