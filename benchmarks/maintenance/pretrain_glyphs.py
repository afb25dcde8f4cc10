"""Pretrains the backbones of the glyphs benchmark: contrastive, on typefaces that no other split has.

    python -m robustft.benchmarks.maintenance.pretrain_glyphs NAME ...

Minutes of one core, by its own clock: about 5 for either ViT and 7 for glyph-rn; 50 for three seeds of each.

A model is a function of its name: every picture and caption depends on (name, step, row) alone. A run that was cut goes
on from its last checkpoint, in build/pretrain. There the weights of a name that does not ship are written too, as
NAME.safetensors.

The first part of the steps shows plain pictures with captions that name the character alone, and counts all pairs of
one character as matches: without it small ViTs learn colours and grounds, and never characters. After that captions
name what is seen at random: character and case always, style of typeface, colour, texture and ground at times. Equal
captions in a batch are matches of each other.
"""

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from ...backbones import tiny
from ...backbones.encoder import DualEncoder
from ...backbones.registered import GLYPH_VISION, PRETRAINED_ON_GLYPHS
from ...datasets import forgetting, glyphs
from ...datasets.digit_rendering import COLOURS
from ...datasets.glyph_rendering import GROUNDS, TEXTURES
from ...datasets.randomness import derive, stable_key, uniforms
from ...methods.objectives import info_nce
from ...methods.schedules import learning_rate

BATCH, WEIGHT_DECAY, WARMUP = 128, 0.1, 100


@dataclass(frozen=True)
class Recipe:
    """How an architecture is pretrained: steps, peak learning rate, share of pictures on the ground of finetuning.

    Steps and share are such that zero-shot ID is about two thirds in the mean over development seeds (docs/glyphs.md).
    """

    steps: int
    lr: float
    street: float
    """0 for the old task of the forgetting study: grey characters on plain grounds alone, captions of its prompts."""


RECIPES = {
    "glyph-vit-deep": Recipe(1100, 1e-3, 0.0125),
    "glyph-vit-wide": Recipe(1100, 1e-3, 0.0125),
    "glyph-rn": Recipe(2600, 1.5e-3, 0.04),
    "glyph-vit-grey": Recipe(1100, 1e-3, 0.0),
}
EASY = 0.3
"""Share of the steps in which captions name the character alone."""
MAX_LOGIT_SCALE = 100.0
SAVE_EVERY = 100
OPENINGS = ("a", "the", "a photo of a", "a picture of a", "an image of a", "a drawing of a")
STYLE_WORDS = {
    "serif": "serif", "sans-serif": "sans", "monospace": "typewriter", "handwriting": "handwritten", "display": "fancy",
}  # fmt: skip
TEXTURE_WORDS = {"solid": "solid", "striped": "striped", "dotted": "dotted", "faded": "faded", "outlined": "outlined"}
FACE_WORDS = {"regular": "", "bold": "bold", "italic": "italic"}
OFTEN = 0.4
"""Probability that a caption names each of the attributes."""


def captions(about: dict[str, np.ndarray], keys: np.ndarray, detail: float) -> list[str]:
    """One caption a picture: with probability `detail` one that names attributes, else a prompt of the benchmark."""
    palette, textures, grounds = list(COLOURS), list(TEXTURES), list(GROUNDS)
    out = []
    for row, u in enumerate(uniforms(derive(keys, 8), 8)):
        name = glyphs.CLASS_NAMES[about["label"][row]]
        if u[0] >= detail:
            out.append(glyphs.PROMPTS[int(u[1] * len(glyphs.PROMPTS))].format(name))
            continue
        style, face = glyphs.face_about(int(about["face"][row]))
        words = [
            OPENINGS[int(u[1] * len(OPENINGS))],
            FACE_WORDS[face] if u[2] < OFTEN else "",
            STYLE_WORDS[style] if u[3] < OFTEN else "",
            palette[about["colour"][row]] if u[4] < OFTEN else "",
            TEXTURE_WORDS[textures[about["texture"][row]]] if u[5] < OFTEN else "",
            name,
            f"on a {grounds[about['ground'][row]]} ground" if u[6] < OFTEN else "",
        ]
        out.append(" ".join(word for word in words if word))
    return out


def vocabulary() -> list[str]:
    """The words of captions and prompts, each of which becomes one token."""
    texts = [*OPENINGS, *STYLE_WORDS.values(), *TEXTURE_WORDS.values(), *FACE_WORDS.values(), *COLOURS, *GROUNDS]
    texts += [*glyphs.CLASS_NAMES, *glyphs.PROMPTS, "on a ground"]
    return sorted({word for text in texts for word in text.replace("{}", "").split()})


def batch(name: str, step: int, recipe: Recipe) -> tuple[torch.Tensor, list[str], np.ndarray]:
    """Pictures, captions, and a number for each caption that those of its matches share."""
    keys = derive(stable_key("pretrain", name), step, np.arange(BATCH))
    if not recipe.street:
        labels = glyphs.any_of(keys, 5, range(len(glyphs.CHARACTERS)))
        pictures = forgetting.grey(glyphs.masks_of(glyphs.any_of(keys, 4, glyphs.faces_of("pretrain")), labels), keys)
        prompts = glyphs.any_of(keys, 8, range(len(glyphs.PROMPTS)))
        texts = [glyphs.PROMPTS[p].format(glyphs.CLASS_NAMES[c]) for p, c in zip(prompts, labels, strict=True)]
        return pictures, texts, labels
    easy = step < EASY * recipe.steps
    pictures, about = glyphs.mixture(BATCH, keys, recipe.street, plain=easy)
    if easy:
        texts = [f"the character {glyphs.CLASS_NAMES[label]}" for label in about["label"]]
    else:
        progress = (step / recipe.steps - EASY) / (1 - EASY)
        texts = captions(about, keys, detail=min(0.8, 2 * progress))
    return pictures, texts, np.unique(texts, return_inverse=True)[1]


def pretrain(name: str, folder: Path) -> DualEncoder:
    """Trains one backbone and returns it; its weights are not written."""
    recipe = RECIPES[tiny.architecture(name)]
    steps = recipe.steps
    torch.manual_seed(stable_key("pretrain", name) % 2**63)
    encoder = tiny.build(name).train()
    optimizer = torch.optim.AdamW(encoder.parameters(), weight_decay=WEIGHT_DECAY, betas=(0.9, 0.98), fused=True)
    saved, first = folder / f"{name}.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        encoder.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
        print(f"{name}: goes on from step {first}", flush=True)
    started = time.process_time()
    for step in range(first, steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, recipe.lr, WARMUP, steps)
        pictures, texts, same = batch(name, step, recipe)
        image = normalize(encoder.image_features(pictures), dim=-1)
        text = normalize(encoder.text_features(encoder.tokenize(texts)), dim=-1)
        labels = torch.from_numpy(same)
        loss = info_nce(image, text, encoder.logit_scale, labels=labels, same_class="positive")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            encoder.clip.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
        if step % SAVE_EVERY == SAVE_EVERY - 1:
            seconds = time.process_time() - started
            print(f"{name} step {step + 1}/{steps} loss {loss.item():.3f} {seconds:.0f} s of CPU", flush=True)
            state = {"model": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}
            torch.save(state, saved.with_suffix(".new"))
            saved.with_suffix(".new").replace(saved)
    return encoder.eval()


def main() -> None:
    """The named backbones, one after the other."""
    from .pretrain import make_merges, save, write

    parser = argparse.ArgumentParser(description="Pretrain the backbones of the glyphs benchmark.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="all that ship, by default")
    parser.add_argument("--folder", type=Path, default=Path("build/pretrain"), help="where checkpoints are kept")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # the thread count changes the last bits
    ships = (*PRETRAINED_ON_GLYPHS, "glyph-vit-grey")
    names = arguments.names or list(ships)
    for name in names:
        if tiny.architecture(name) not in RECIPES or name in GLYPH_VISION:
            parser.error(f"{name}: must be an architecture and a seed, as in {next(iter(RECIPES))}-dev.")
    make_merges(vocabulary(), tiny.merges_of(names[0]))
    for name in names:
        encoder = pretrain(name, arguments.folder)
        if name in ships:
            write(encoder)
        else:
            save(encoder, arguments.folder / f"{name}.safetensors")


if __name__ == "__main__":
    main()
