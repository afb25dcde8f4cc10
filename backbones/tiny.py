"""The bundled backbones: open_clip's own CLIP class with small configurations, and their tokenizer.

`python -m robustft.benchmarks.pretrain` (`make pretrain`) makes the weights; they ship beside this file as float16
safetensors (OpenAI's checkpoints are float16 too) and are trained and evaluated in float32.
"""

import gzip
import hashlib
import json
from functools import cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from .encoder import CLIP, CLIPTextCfg, CLIPVisionCfg, DualEncoder, SimpleTokenizer

FOLDER = Path(__file__).with_name("tiny")
MERGES = FOLDER / "merges.txt.gz"
MANIFEST = FOLDER / "weights.json"
"""Name -> hash of the weights that ship; `make pretrain` writes it."""
EMBED_DIM, IMAGE_SIZE, CONTEXT = 64, 32, 16
VISION = {
    "tiny-vit-p8": CLIPVisionCfg(layers=4, width=96, head_width=32, patch_size=8, image_size=IMAGE_SIZE),
    "tiny-vit-p16": CLIPVisionCfg(layers=4, width=128, head_width=32, patch_size=16, image_size=IMAGE_SIZE),
    "tiny-rn": CLIPVisionCfg(layers=[1, 1, 1, 1], width=12, head_width=64, image_size=IMAGE_SIZE),
    "tiny-vit-grey": CLIPVisionCfg(layers=3, width=96, head_width=32, patch_size=8, image_size=IMAGE_SIZE),
}
"""Two ViTs of different patch size and a ModifiedResNet for `digits`; `tiny-vit-grey` is the forgetting study's."""

SCRATCH = "-scratch"
"""Ending of a backbone's name that asks for random weights."""


class BackboneError(ValueError):
    """A backbone that does not exist or whose weights cannot be used; one sentence."""


@cache
def tokenizer() -> SimpleTokenizer:
    """CLIP's byte-pair tokenizer with the small merges file of the bundled captions."""
    return SimpleTokenizer(bpe_path=str(MERGES), context_length=CONTEXT)


def vocabulary_size() -> int:
    """256 bytes, the same 256 at the end of a word, the merges, and the start and end tokens."""
    with gzip.open(MERGES, "rt", encoding="utf-8") as lines:
        return 512 + len(lines.read().split("\n")) - 1 + 2  # the first line is a header


def build(name: str) -> DualEncoder:
    """An untrained bundled backbone (weights from torch's current random state)."""
    text = CLIPTextCfg(context_length=CONTEXT, vocab_size=vocabulary_size(), width=64, heads=2, layers=2)
    return DualEncoder(CLIP(EMBED_DIM, VISION[name], text), tokenizer(), name)


def scratch(name: str) -> DualEncoder:
    """The bundled architecture with random weights, a function of its name: the control without pretraining."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
        return build(name.removesuffix(SCRATCH)).eval()


def weights_file(name: str) -> Path:
    """Where the bundled weights of that name are."""
    return FOLDER / f"{name}.safetensors"


def shipped_hash(name: str) -> str:
    """The hash of the bundled weights, after a check that the file still has it; BackboneError if it was damaged."""
    expected, found = json.loads(MANIFEST.read_text())[name], weights_hash(weights_file(name))
    if found != expected:
        raise BackboneError(
            f"backbone {name}: damaged weights at {weights_file(name)} (got {found[:19]}, must be {expected[:19]}); "
            "restore the file from the repository."
        )
    return found


def weights_hash(path: Path) -> str:
    """"sha256:..." of a weights file."""
    try:
        return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        reason = error.strerror or error
        raise BackboneError(f"weights {path}: {reason}; restore the file from the repository.") from None


def read_weights(model: nn.Module, path: Path, name: str) -> None:
    """Fills `model` with the float16 weights at `path`, as float32; BackboneError where they do not fit."""
    if not path.exists():
        raise BackboneError(f"backbone {name}: no weights at {path}; restore the file or run `make pretrain`.")
    try:
        tensors = load_file(path)
        model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()})
    except (SafetensorError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BackboneError(f"backbone {name}: damaged weights at {path} ({reason}); restore the file.") from None


def load(name: str, device: str | torch.device = "cpu", weights: str | Path | None = None) -> DualEncoder:
    """A bundled backbone with its weights, float32, in eval mode; `weights` names another file of the same shape."""
    if name.endswith(SCRATCH) and not weights:
        return scratch(name).to(device)
    encoder = build(name.removesuffix(SCRATCH))
    if not weights:
        shipped_hash(name)
    read_weights(encoder, Path(weights) if weights else weights_file(name), name)
    return encoder.to(device).eval()
