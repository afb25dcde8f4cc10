"""`robustft export`: a finished run as a model that open_clip, or Hugging Face's transformers, loads."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UserError
from ..host.places import Place
from . import options as flags
from .console import make_console

if TYPE_CHECKING:
    from torch import Tensor

    from ..execution.finished_run import FinishedRun
    from ..run_folder.folder import RunFolder

OPEN_CLIP, HUGGINGFACE = LAYOUTS = ("open_clip", "huggingface")
HEAD, CARD = "head.safetensors", "README.md"
LOAD = {
    OPEN_CLIP: """\
import json, open_clip
from PIL import Image
from safetensors import safe_open

model, _, preprocess = open_clip.create_model_and_transforms("local-dir:.")
head = safe_open("head.safetensors", framework="pt")
normalise = json.loads(head.metadata()["meta"])["normalise"]
features = model.eval().encode_image(preprocess(Image.open("image.png"))[None], normalize=normalise)
logits = features @ head.get_tensor("weight").T + head.get_tensor("bias")""",
    HUGGINGFACE: """\
import json
from PIL import Image
from safetensors import safe_open
from transformers import CLIPImageProcessor, CLIPModel

model, prepare = CLIPModel.from_pretrained("."), CLIPImageProcessor.from_pretrained(".")
head = safe_open("head.safetensors", framework="pt")
pixels = prepare(images=Image.open("image.png"), return_tensors="pt")
features = model.visual_projection(model.vision_model(**pixels).pooler_output)
if json.loads(head.metadata()["meta"])["normalise"]:
    features = features / features.norm(dim=-1, keepdim=True)
logits = features @ head.get_tensor("weight").T + head.get_tensor("bias")""",
}
TOKENIZE = (
    "Texts: this backbone has byte-pair merges of its own, "
    '`open_clip.get_tokenizer("local-dir:.", bpe_path="{merges}")(["a photo of the digit seven."])`.'
)
PRETRAINED_TEXT = (
    "the pretrained one, so that the model can be loaded; the run's head is head.safetensors, which features of that "
    "text tower do not give"
)
"""Of a run that trained its image tower alone, or interpolated it."""


@click.command("export")
@click.argument("run")
@click.argument("folder", type=Place(file_okay=False))
@click.option("--to", type=click.Choice(LAYOUTS), default=OPEN_CLIP, help="Whose layout; open_clip by default.")
@click.option("--at", metavar="ALPHA=VALUE", help="A point on the path of wise_ft and the like, as alpha=0.5.")
@flags.data
@flags.runs
def command(run: str, folder: Path, to: str, at: str | None, runs: Path) -> int:
    """Hand out a finished run as a model: both towers, head, configuration and a card; RUN is its folder or its id."""
    _check_empty(folder)
    found = find(run, runs)
    from ..execution import finished_run

    model = finished_run.restore(found, finished_run.Point.parse(at) if at is not None else None)
    with _whole(folder) as made:
        write(model, to, made)
    title = model.plan.spec.title + (f" at {model.at.parameter} = {model.at.value:g}" if model.at else "")
    make_console().print(f"wrote {folder}: {title}; its text tower is {_text(model)}.", soft_wrap=True)
    return 0


def find(name: str, runs: Path) -> RunFolder:
    """The run that a person means: the path of its folder, or its id, or as much of it as only one run has.

    Raises:
        UserError: no run, or more than one.
    """
    from ..run_folder.folder import RunFolder

    if "/" in name or Path(name).is_dir():
        return RunFolder(Path(name).expanduser().resolve())
    wanted = name.rpartition("-")[2]
    known = sorted(path.parent for path in runs.glob("*/*/*/seed*-*/spec.json"))
    found = [path for path in known if wanted and path.name.rpartition("-")[2].startswith(wanted)]
    if not found:
        raise UserError(f"export: --runs {runs} has no run with the id '{name}'; see `robustft status --json`.")
    if len(found) > 1:
        shown = ", ".join(path.name for path in found[:3])
        raise UserError(f"export: {len(found)} runs have the id '{name}', as {shown}; give more of it, or a folder.")
    return RunFolder(found[0].resolve())


def write(model: FinishedRun, to: str, folder: Path) -> None:
    """Every file of an export, into a folder that exists."""
    from ...backbones import to_huggingface, to_open_clip
    from ..execution.final_weights import save_weights

    layout = to_huggingface if to == HUGGINGFACE else to_open_clip
    layout.write(model.encoder, folder, _save)
    classifier, card = model.classifier, model.card
    about = {
        "backbone": classifier.backbone,
        "class_names": list(card.class_names),
        "prompts": list(card.prompts),
        "normalise": classifier.normalise,
    }
    head = {"weight": classifier.weight.detach(), "bias": classifier.bias.detach()}
    (folder / HEAD).write_bytes(save_weights(head, about))
    (folder / CARD).write_text(_card(model, to), encoding="utf-8")


def _save(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"format": "pt"})


def _card(model: FinishedRun, to: str) -> str:
    from ... import backbones
    from ...backbones.to_open_clip import own_merges
    from ...datasets import plain_yaml
    from ...results.release import model_card

    spec = model.plan.spec
    merges = own_merges(spec.backbone) if to == OPEN_CLIP else None
    return model_card.render(
        model.record,
        model_card.Model(
            title=f"{spec.method}, {spec.backbone}, {spec.benchmark}, seed {spec.seed}",
            library="transformers" if to == HUGGINGFACE else "open_clip",
            licence=backbones.licence(spec.backbone, spec.weights),
            text=f"{_text(model)}.",
            load=LOAD[to],
            tokenize=TOKENIZE.format(merges=merges.name) if merges else "",
            reads_text=model.head_of_text,
            base_model=backbones.base_model(spec.backbone, spec.weights),
            classes=model.card.class_names,
            at=(model.at.parameter, model.at.value) if model.at else None,
        ),
        plain_yaml.dump,
    )


def _text(model: FinishedRun) -> str:
    """What the text tower of an export is."""
    if model.text_trained and not model.head_of_text:
        return "the run's own, trained with the image tower; the run's head is another one, head.safetensors"
    if model.text_trained:
        return "the run's own, trained with the image tower; it builds the head of class names and prompts"
    return "as pretrained; it builds the head of class names and prompts" if model.head_of_text else PRETRAINED_TEXT


def _check_empty(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder}: must be an empty or a new folder, but holds files; choose another.")


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes its name when all is written, and is gone when it is not."""
    beside = folder.absolute().parent / f".{folder.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        beside.mkdir(parents=True)
        yield beside
        _check_empty(folder)
        os.rename(beside, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another folder.") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
