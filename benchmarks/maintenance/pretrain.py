"""Makes the bundled backbones: contrastive pretraining on the pretraining split, in many styles and colours.

`make pretrain` runs it for all of them and writes the safetensors files that ship in backbones/tiny/. A model is a
function of its name: the seed is fixed, and every picture and caption depends on (step, row) alone.
"""

import argparse
import gzip
import io
import json
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from ...backbones import WEIGHTS_VARIABLE, tiny
from ...backbones.encoder import DualEncoder
from ...backbones.registered import MADE_HERE
from ...backbones.weights import weights_hash
from ...datasets import digits
from ...datasets.card import DataError
from ...datasets.digit_rendering import COLOURS
from ...datasets.mnist import MNISTForgetting
from ...datasets.randomness import derive, stable_key, uniforms
from ...methods.objectives import info_nce
from ...methods.schedules import learning_rate
from ..errors import UserError
from ..host.package import is_clone

BATCH, WEIGHT_DECAY, WARMUP, SEED = 128, 0.1, 100, 0
RECIPES = {
    "tiny-vit-p8": (1500, 7e-4), "tiny-vit-p16": (1300, 1e-3), "tiny-rn": (900, 1e-3),
}  # fmt: skip
"""Backbone -> (steps, peak learning rate)."""
FROM_THE_HUB = {"tiny-vit-mnist": (4220, 1e-3)}
"""The same for backbones that do not ship: about ten passes over MNIST, as in the paper's toy study."""
EASY = 0.2
"""Share of the steps on plain pictures alone, so that the towers find the digits before the styles."""
MAX_LOGIT_SCALE = 100.0
STYLE_WORDS = {
    "plain": ("", "plain", "solid"), "negative": ("inverted", "cut out"), "striped": ("striped", "hatched"),
    "shaded": ("shaded", "fading"), "sketch": ("pencil", "sketched"), "street": ("noisy", "street"),
}  # fmt: skip
OPENINGS = ("a", "a photo of a", "a picture of a", "an image of a", "a drawing of a", "the", "a handwritten")
NOUNS = ("digit {}", "number {}", "{}")


def captions(labels: np.ndarray, colours: np.ndarray, styles: np.ndarray, keys: np.ndarray, detail: float) -> list[str]:
    """One caption a picture: the digit's name alone, or with probability `detail` an opening, words for its style and
    its colour at times, and a noun."""
    names, palette, style_names = digits.CLASS_NAMES, list(COLOURS), list(digits.PRETRAIN_STYLES)
    picks = uniforms(derive(keys, 3), 6)
    out = []
    for label, colour, style, u in zip(labels, colours, styles, picks, strict=True):
        if u[5] >= detail:
            out.append(f"the digit {names[label]}")
            continue
        style_word = STYLE_WORDS[style_names[style]]
        words = [
            OPENINGS[int(u[0] * len(OPENINGS))],
            style_word[int(u[1] * len(style_word))] if u[2] < 0.2 else "",
            palette[colour] if u[3] < 0.2 and style_names[style] != "sketch" else "",
            NOUNS[int(u[4] * len(NOUNS))].format(names[label]),
        ]
        out.append(" ".join(word for word in words if word))
    return out


def vocabulary() -> list[str]:
    """The words of captions and prompts, each of which becomes one token."""
    styles = (word for words in STYLE_WORDS.values() for word in words)
    texts = [*OPENINGS, *NOUNS, *COLOURS, *styles, *digits.CLASS_NAMES, *digits.PROMPTS]
    return sorted({w for text in texts for w in text.replace("{}", "").split()})


def make_merges(words: Sequence[str], place: Path) -> None:
    """Writes a tokenizer's merges: byte-pair merges that make each of the words one token."""
    parts = {w: (*w[:-1], w[-1] + "</w>") for w in words}
    merges = []
    while any(len(p) > 1 for p in parts.values()):
        pairs = Counter(pair for p in parts.values() for pair in zip(p, p[1:], strict=False))
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(" ".join(best))
        for word, p in parts.items():
            new, i = [], 0
            while i < len(p):
                joined = p[i : i + 2] == best
                new.append("".join(best) if joined else p[i])
                i += 2 if joined else 1
            parts[word] = tuple(new)
    text = "\n".join(["#version: robustft", *merges])  # no last newline: the tokenizer would count an empty merge
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as stream:  # no time stamp: same bytes each time
        stream.write(text.encode())
    place.write_bytes(buffer.getvalue())


def _mnist_batch(mnist: MNISTForgetting, chosen: np.ndarray, keys: np.ndarray) -> tuple[torch.Tensor, list[str]]:
    """Pictures and captions of the forgetting study on MNIST: its grey training images, and its prompts."""
    picks = (uniforms(derive(keys, 3), 1)[:, 0] * len(mnist.card.prompts)).astype(np.int64)
    names = [mnist.card.class_names[label] for label in mnist.train_labels()[chosen]]
    return mnist.original_images(chosen), [mnist.card.prompts[p].format(n) for p, n in zip(picks, names, strict=True)]


def pretrain(name: str, steps: int, lr: float, mnist: MNISTForgetting | None = None) -> DualEncoder:
    """Trains one backbone and returns it; its weights are not written.

    Args:
        mnist: what `tiny-vit-mnist` is pretrained on.
    """
    torch.manual_seed(stable_key("pretrain", name, SEED) % 2**63)
    encoder = tiny.build(name).train()
    images, labels = np.array(digits.splits()["pretrain"]), digits.archive_labels()
    if mnist is not None:
        images = np.arange(mnist.train_size)
    optimizer = torch.optim.AdamW(encoder.parameters(), weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True)
    started = time.monotonic()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, lr, WARMUP, steps)
        keys = derive(stable_key("pretrain", name, SEED), step, np.arange(BATCH))
        chosen = images[(uniforms(derive(keys, 9), 1)[:, 0] * len(images)).astype(np.int64)]
        if mnist is not None:
            pictures, texts = _mnist_batch(mnist, chosen, keys)
        else:
            pictures, colours, styles = digits.mixture(chosen, keys, plain=step < EASY * steps)
            texts = captions(labels[chosen], colours, styles, keys, detail=min(1.0, 2 * step / steps))
        image = normalize(encoder.image_features(pictures), dim=-1)
        text = normalize(encoder.text_features(encoder.tokenize(texts)), dim=-1)
        loss = info_nce(image, text, encoder.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            encoder.clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        if step % 100 == 99:
            seconds = time.monotonic() - started
            print(f"{name} step {step + 1}/{steps} loss {loss.item():.3f} {seconds:.0f} s", flush=True)
    return encoder.eval()


def place(name: str) -> Path:
    """Where the weights of a backbone are put: beside the others, and never among installed packages.

    Raises:
        UserError: the package is installed, and there is no place for them.
    """
    if is_clone():
        return tiny.weights_file(name)
    if name in RECIPES:
        raise UserError(f"{name}: ships with the package, so that only a clone makes it again; leave it out.")
    folder = Path(os.environ.get(WEIGHTS_VARIABLE) or "").expanduser()
    if not os.environ.get(WEIGHTS_VARIABLE) or not folder.is_dir():
        raise UserError(
            f"{WEIGHTS_VARIABLE}: must name a folder for the weights of {name}, which are not put among installed "
            f"packages, got '{os.environ.get(WEIGHTS_VARIABLE, '')}'; set it here and for the runs."
        )
    return folder / f"{name}.safetensors"


def save(encoder: DualEncoder, path: Path) -> None:
    """Writes the weights as float16."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)


def write(encoder: DualEncoder) -> None:
    """Writes the weights to their place, and of those that ship their hash into the manifest."""
    save(encoder, place(encoder.name))
    if encoder.name in MADE_HERE:
        return
    manifest = json.loads(tiny.MANIFEST.read_text()) if tiny.MANIFEST.exists() else {}
    manifest[encoder.name] = weights_hash(tiny.weights_file(encoder.name))
    tiny.MANIFEST.write_text(json.dumps(dict(sorted(manifest.items())), indent=1) + "\n")


def main() -> None:
    """The named backbones, one after the other; all by default."""
    parser = argparse.ArgumentParser(description="Pretrain the bundled backbones.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="all that ship, by default")
    known = RECIPES | FROM_THE_HUB
    chosen = parser.parse_args().names or list(RECIPES)
    if unknown := set(chosen) - set(known):
        parser.error(f"unknown backbone {sorted(unknown)[0]!r}; known: {', '.join(known)}")
    torch.set_num_threads(1)  # the thread count changes the last bits
    try:
        for name in chosen:
            place(name)
    except UserError as error:
        parser.error(str(error))
    if set(chosen) & set(RECIPES):
        make_merges(vocabulary(), tiny.MERGES)
    for name in chosen:
        try:
            mnist = MNISTForgetting(size=28) if name in FROM_THE_HUB else None
            write(pretrain(name, *known[name], mnist))
        except DataError as error:
            parser.error(str(error))


if __name__ == "__main__":
    main()
