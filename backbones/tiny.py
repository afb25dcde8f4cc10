"""The bundled backbones: open_clip's own CLIP class with small configurations, and their tokenizer.

`python -m robustft.benchmarks.maintenance.pretrain` (`make pretrain`) makes the weights; they ship beside this file as
float16 safetensors (OpenAI's checkpoints are float16 too) and are trained and evaluated in float32.
"""

import copy
import gzip
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from .encoder import USUAL_RESIZING, DualEncoder
from .errors import BackboneError
from .registered import CONV_STEM, GLYPH_VISION, MADE_HERE, SCRATCH, VISION, Tower
from .traits import Traits
from .weights import fill, weights_hash

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

FOLDER = Path(__file__).with_name("tiny")
MERGES = FOLDER / "merges.txt.gz"
GLYPH_MERGES = FOLDER / "glyph_merges.txt.gz"
MANIFEST = FOLDER / "weights.json"
"""Name -> hash of the weights that ship; `make pretrain` writes it."""
EMBED_DIM, CONTEXT = 64, 16
STEM_WIDTH = 24
"""Channels of the first convolution of a stem; each further one has twice as many."""


def merges_of(name: str) -> Path:
    """The merges of a bundled backbone's tokenizer: glyphs has words of its own."""
    return GLYPH_MERGES if name.startswith("glyph-") else MERGES


@cache
def tokenizer(merges: Path = MERGES) -> "SimpleTokenizer":
    """CLIP's byte-pair tokenizer with a small merges file of the bundled captions."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer(bpe_path=str(merges), context_length=CONTEXT)


def tokenizer_of(name: str) -> "SimpleTokenizer":
    """The tokenizer of a bundled backbone; those of one benchmark share one."""
    return tokenizer(merges_of(name))


def architecture(name: str) -> str:
    """What a bundled backbone is called without its pretraining seed: "glyph-rn" of "glyph-rn-1-scratch"."""
    name = name.removesuffix(SCRATCH)
    base = name.rpartition("-")[0]
    return base if base in GLYPH_VISION else name


def vocabulary_size(merges: Path = MERGES) -> int:
    """256 bytes, the same 256 at the end of a word, the merges, and the start and end tokens."""
    with gzip.open(merges, "rt", encoding="utf-8") as lines:
        return 512 + len(lines.read().split("\n")) - 1 + 2  # the first line is a header


def _vision(name: str) -> Tower:
    name = name.removesuffix(SCRATCH)
    return (VISION | MADE_HERE | GLYPH_VISION)[name if name in VISION else architecture(name)]


def config(name: str) -> dict[str, Any]:
    """open_clip's configuration of a bundled architecture."""
    name = name.removesuffix(SCRATCH)
    return {
        "embed_dim": 128 if name in MADE_HERE else EMBED_DIM,  # TRACER's toy study: D = 128
        "vision_cfg": dict(_vision(name)),
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": vocabulary_size(merges_of(name)),
            "width": 64,
            "heads": 2,
            "layers": 2,
        },
    }


def build(name: str) -> DualEncoder:
    """An untrained bundled backbone (weights from torch's current random state)."""
    from open_clip.model import CLIP

    clip: Any = CLIP(**config(name))
    if architecture(name) in CONV_STEM:
        patches = clip.visual.conv1
        clip.visual.conv1 = conv_stem(patches.out_channels, patches.kernel_size[0])
    return DualEncoder(clip, tokenizer_of(name), name)


def conv_stem(width: int, patch_size: int) -> nn.Sequential:
    """What makes patches in place of one wide convolution: 3 x 3 convolutions of stride 2 up to the size of a patch.

    With it a small ViT learns the ground of a few pictures as a ResNet does (Xiao et al. 2021, arXiv 2106.14881;
    docs/glyphs.md has the numbers without it).

    Args:
        width: of the tokens.
        patch_size: a power of two; its logarithm is the number of convolutions.
    """
    channels = [3, *(STEM_WIDTH << i for i in range(patch_size.bit_length() - 1))]
    layers: list[nn.Module] = []
    for before, after in zip(channels, channels[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(channels[-1], width, 1, bias=False))


@contextmanager
def seeded_by(name: str) -> Iterator[None]:
    """Random numbers of the block are a function of the name; those after it are as if it had not been."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))
        yield


def scratch(name: str) -> DualEncoder:
    """The bundled architecture with random weights, a function of its name: the control without pretraining."""
    with seeded_by(name):
        return build(name.removesuffix(SCRATCH)).eval()


def weights_file(name: str) -> Path:
    """Where the bundled weights of that name are."""
    return FOLDER / f"{name}.safetensors"


def examine(name: str, path: Path, thorough: bool) -> str:
    """Loads weights of one's own, which takes no longer than a look; BackboneError where that fails, else ""."""
    load(name, weights=path)
    return ""


def cached(name: str) -> Path | None:
    """The weights on this machine; of a scratch backbone, which has none, the folder."""
    path = FOLDER if name.endswith(SCRATCH) else weights_file(name)
    return path if path.exists() else None


def fetch(name: str) -> Path:
    """The weights; they ship with this package or are made on this machine, so nothing is downloaded."""
    found = cached(name)
    if found is None and name in MADE_HERE:
        raise BackboneError(_unmade(name))
    if found is None:
        raise BackboneError(f"backbone {name}: no weights at {weights_file(name)}; restore the file.")
    return found


def _unmade(name: str) -> str:
    return f"backbone {name}: its weights have not been made on this machine; run {how_to_make(name)}."


def how_to_make(name: str) -> str:
    """The command that makes the weights of a backbone of MADE_HERE."""
    return f"`python -m robustft.benchmarks.maintenance.pretrain {name}`, about twenty minutes on one core"


def shipped_hash(name: str) -> str:
    """The hash of the bundled weights, after a check that the file still has it; BackboneError if it was damaged."""
    expected, found = json.loads(MANIFEST.read_text())[name], weights_hash(weights_file(name))
    if found != expected:
        raise BackboneError(
            f"backbone {name}: damaged weights at {weights_file(name)} (got {found[:19]}, must be {expected[:19]}); "
            "restore the file from the repository."
        )
    return found


def resizing(name: str) -> tuple[str, str]:
    """How its pictures are brought to size, where they are read from files."""
    return USUAL_RESIZING


def traits(name: str) -> Traits:
    """What methods must know of a bundled backbone."""
    layers = _vision(name)["layers"]
    if isinstance(layers, int):
        return Traits(name, blocks=layers)
    return Traits(name, recomputes=False, blocks=sum(layers))


def image_size(name: str) -> int:
    """Side of the pictures that the image tower takes, in pixels."""
    return _vision(name)["image_size"]


def weights_id(name: str) -> str:
    """The hash of the bundled weights, "random", or "unmade" for weights that are yet to be made on this machine."""
    if name in MADE_HERE:
        path = cached(name)
        return "unmade" if path is None else weights_hash(path)
    return "random" if name.endswith(SCRATCH) else shipped_hash(name)


def load(name: str, device: str | torch.device = "cpu", weights: str | Path | None = None) -> DualEncoder:
    """A bundled backbone with its weights, float32, in eval mode; `weights` names another file of the same shape."""
    if name.endswith(SCRATCH) and not weights:
        return scratch(name).to(device)
    if name in MADE_HERE:
        weights = weights or fetch(name)
    if not weights:
        return copy.deepcopy(_shipped(name, shipped_hash(name))).to(device)
    return _filled(name, Path(weights)).to(device)


@lru_cache(maxsize=4)
def _shipped(name: str, content: str) -> DualEncoder:
    """The bundled weights of that hash, to be copied: a process that makes several runs reads them once."""
    with torch.random.fork_rng(devices=[]):  # as if it had been here before
        return _filled(name, weights_file(name))


def _filled(name: str, path: Path) -> DualEncoder:
    encoder = build(name.removesuffix(SCRATCH))
    fill(encoder.clip, path, name)
    return encoder.eval()
