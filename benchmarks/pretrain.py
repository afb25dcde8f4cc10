"""Makes the bundled backbones: contrastive pretraining on the pretraining split, in many styles and colours.

`make pretrain` runs it for all of them, two at a time, and writes the safetensors files that ship in backbones/tiny/. A model is a
function of its name: the seed is fixed, and every picture and caption depends on (step, row) alone.
"""

import argparse
import gzip
import io
import sys
import time
from collections import Counter

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize

from ..backbones import tiny
from ..backbones.encoder import DualEncoder
from ..datasets import digits
from ..datasets.randomness import derive, stable_key, uniforms
from ..datasets.rendering import COLOURS
from ..methods.objectives import info_nce

STEPS, BATCH, LR, WEIGHT_DECAY, WARMUP, SEED = 900, 128, 2e-3, 0.1, 50, 0
MAX_LOGIT_SCALE = 100.0
STYLE_WORDS = {
    "plain": ("", "plain", "solid"), "negative": ("inverted", "cut out"), "striped": ("striped", "hatched"),
    "shaded": ("shaded", "fading"), "sketch": ("pencil", "sketched"), "street": ("noisy", "street"),
}  # fmt: skip
OPENINGS = ("a", "a photo of a", "a picture of a", "an image of a", "a drawing of a", "the", "a handwritten")
NOUNS = ("digit {}", "number {}", "{}")


def captions(labels: np.ndarray, colours: np.ndarray, styles: np.ndarray, keys: np.ndarray) -> list[str]:
    """One caption a picture: an opening, at times its style and its colour, a noun, the digit's name."""
    names, palette, style_names = digits.CLASS_NAMES, list(COLOURS), list(digits.PRETRAIN_STYLES)
    picks = uniforms(derive(keys, 3), 5)
    out = []
    for label, colour, style, u in zip(labels, colours, styles, picks, strict=True):
        style_word = STYLE_WORDS[style_names[style]]
        words = [
            OPENINGS[int(u[0] * len(OPENINGS))],
            style_word[int(u[1] * len(style_word))] if u[2] < 0.3 else "",
            palette[colour] if u[3] < 0.3 and style_names[style] != "sketch" else "",
            NOUNS[int(u[4] * len(NOUNS))].format(names[label]),
        ]
        out.append(" ".join(word for word in words if word))
    return out


def make_merges() -> None:
    """Writes the tokenizer's merges: byte-pair merges that make each word of captions and prompts one token."""
    texts = [*OPENINGS, *NOUNS, *COLOURS, *(w for ws in STYLE_WORDS.values() for w in ws), *digits.CLASS_NAMES, *digits.PROMPTS]
    words = sorted({w for text in texts for w in text.replace("{}", "").split()})
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
    tiny.FOLDER.mkdir(exist_ok=True)
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as stream:  # no time stamp: same bytes each time
        stream.write(text.encode())
    tiny.MERGES.write_bytes(buffer.getvalue())


def pretrain(name: str, steps: int = STEPS) -> DualEncoder:
    """Trains one bundled backbone and returns it; its weights are not written."""
    torch.manual_seed(stable_key("pretrain", name, SEED) % 2**63)
    encoder = tiny.build(name).train()
    images = np.array(digits.splits()["pretrain"])
    labels = digits.archive_labels()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LR, weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True)
    started = time.monotonic()
    for step in range(steps):
        warm, rest = (step + 1) / WARMUP, (step - WARMUP) / (steps - WARMUP)
        optimizer.param_groups[0]["lr"] = LR * (warm if step < WARMUP else 0.5 * (1 + np.cos(np.pi * rest)))
        keys = derive(stable_key("pretrain", name, SEED), step, np.arange(BATCH))
        chosen = images[(uniforms(derive(keys, 9), 1)[:, 0] * len(images)).astype(np.int64)]
        pictures, colours, styles = digits.mixture(chosen, keys)
        tokens = encoder.tokenize(captions(labels[chosen], colours, styles, keys))
        image = normalize(encoder.image_features(pictures), dim=-1)
        text = normalize(encoder.text_features(tokens), dim=-1)
        loss = info_nce(image, text, encoder.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            encoder.clip.logit_scale.clamp_(max=np.log(MAX_LOGIT_SCALE))
        if step % 100 == 99:
            print(f"{name} step {step + 1}/{steps} loss {loss.item():.3f} {time.monotonic() - started:.0f} s", flush=True)
    return encoder.eval()


def write(encoder: DualEncoder) -> None:
    """Writes the weights as float16 beside the backbones."""
    tensors = {k: v.half() if v.is_floating_point() else v for k, v in encoder.state_dict().items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, tiny.weights_file(encoder.name))


def main() -> None:
    """`python -m robustft.benchmarks.pretrain [--only NAME]`."""
    parser = argparse.ArgumentParser(description="Pretrain the bundled backbones.")
    parser.add_argument("--only", choices=list(tiny.VISION), help="one backbone")
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not tiny.MERGES.exists():
        make_merges()
    for name in [arguments.only] if arguments.only else tiny.VISION:
        write(pretrain(name, arguments.steps))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
