"""open_clip's families of models, the smallest of each, shrunk to a layer or two, with random weights."""

import copy
import functools
from contextlib import contextmanager
from unittest import mock

import torch

from robustft.backbones import clip
from robustft.backbones.hub_tokenizer import HubTokenizer

SIDE, WORDS_AT_MOST = 32, 128
TEXT = {"width": 32, "heads": 2, "layers": 2}
VIT = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIDE, "patch_size": 8}
OWN = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
STAGES = {"depths": (1, 1, 1, 1), "dims": (8, 12, 16, 24)}
WORDS = "a photo of the cat dog bee shark great white sketch red blue green one two three".split()


def _vitamin():
    from timm.models.vitamin import VitCfg, VitConvCfg

    conv = VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6)
    stem = VitCfg(embed_dim=(8, 12, 32), depths=(1, 1, 1), stem_width=8, conv_cfg=conv, head_type="1d")
    return {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": SIDE, "embed_cfg": stem}


FAMILIES = {
    # family: (name, changes of timm's tower, or of open_clip's own)
    "openai_vit": ("ViT-B-16", OWN),
    "openai_resnet": ("RN50", {"layers": [1, 1, 1, 1], "width": 8}),
    "eva01": ("EVA01-g-14:laion400m_s11b_b41k", VIT),
    "eva02": ("EVA02-B-16:merged2b_s8b_b131k", VIT | {"ref_feat_shape": (4, 4)}),
    "pe_core": ("PE-Core-B-16:meta", VIT | {"ref_feat_shape": (4, 4), "attn_pool_num_heads": 2}),
    "mobileclip_b": ("MobileCLIP2-B:dfndr2b", {"depth": 1, "img_size": SIDE}),
    "vitamin": ("ViTamin-S:datacomp1b", _vitamin),
    "convnext": ("convnext_base_w:laion2b_s13b_b82k", STAGES),
    "convnext_mlp": ("convnext_large_d:laion2b_s26b_b102k_augreg", STAGES),
    "siglip": ("ViT-B-16-SigLIP:webli", VIT),
    "siglip2": ("ViT-B-32-SigLIP2-256:webli", VIT),
    "siglip_i18n": ("ViT-SO400M-16-SigLIP-i18n-256:webli", VIT),
    "metaclip2": ("ViT-H-14-worldwide-quickgelu:metaclip2_worldwide", OWN),
    "clipa": ("ViT-L-14-CLIPA:datacomp1b", OWN),
    "mobileclip_small": (
        "MobileCLIP2-S0:dfndr2b",
        {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 64, 128), "mlp_ratios": (1, 1, 1, 1)},
    ),
}  # fmt: skip
PADDED = {"siglip": (1, 1), "siglip2": (0, 1), "siglip_i18n": (1, 1), "metaclip2": (1, 2), "clipa": (0, 102)}
"""Family with a tokenizer of the hub -> ids of its padding and of its end."""
EMBED = {"siglip_i18n": 32, "siglip": 32, "siglip2": 32}
"""Where there is no projection, the towers are as wide as the shared space."""


@contextmanager
def small(family, words):
    """Inside, open_clip builds this family's towers small; with 128 `words` in place of its vocabulary."""
    name, changes = FAMILIES[family]
    changes = changes() if callable(changes) else changes
    text = dict(TEXT) | ({"vocab_size": WORDS_AT_MOST} if words else {})
    describe = clip.describe

    def shrunk(asked, **_):
        found = describe(asked)
        if asked == name:
            found.model["embed_dim"] = EMBED.get(family, 24)
            timm = "timm_model_name" in found.model["vision_cfg"]
            found.model["vision_cfg"] |= {"image_size": SIDE} | ({} if timm else changes)
            found.model["text_cfg"] |= text
        return found

    import open_clip.timm_model as adapter

    create = adapter.timm.create_model
    with mock.patch.object(clip, "describe", shrunk):
        # open_clip's configuration has no place for sizes of timm's towers.
        with mock.patch.object(adapter.timm, "create_model", lambda model, **more: create(model, **(more | changes))):
            yield name


@functools.cache
def _made(family, words):
    """With noise on all parameters: timm's heads begin near 0 and biases at 0, which would hide what is left out."""
    with small(family, words) as name:
        made = clip.untrained(name)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
        for name, buffer in made.named_buffers():  # statistics of BatchNorm that are not the default
            if name.endswith("running_var"):
                buffer.copy_(0.5 + torch.rand(buffer.shape, generator=generator))
    return made


def encoder(family, tokens=None):
    """A new encoder of a family, the same weights each time; with CLIP's tokenizer, or that in a folder of files."""
    made = copy.deepcopy(_made(family, family in PADDED))
    if family in PADDED:
        settings = clip.describe(FAMILIES[family][0]).model["text_cfg"].get("tokenizer_kwargs") or {}
        made.tokenizer = HubTokenizer(made.name, tokens, made.clip.context_length, settings)
    return made


def trainable(family):
    """The same with a small vocabulary and a tokenizer that numbers words: a step takes no time, and no files."""
    made = copy.deepcopy(_made(family, True))
    ids = PADDED.get(family, (0, WORDS_AT_MOST - 1))
    made.tokenizer = functools.partial(number_words, *ids, made.clip.context_length)
    return made


def number_words(pad, end, context, texts):
    """(N, context) ids of the words of texts, each ended and padded."""
    tokens = torch.full((len(texts), context), pad)
    for row, text in zip(tokens, texts, strict=True):
        words = [4 + sum(map(ord, word)) % 90 for word in text.split()][: context - 1]
        row[: len(words) + 1] = torch.tensor([*words, end])
    return tokens


def write_tokenizer(folder, pad=1, end=1):
    """Files of a small tokenizer of words, in lower case alone, that ends a text with `end` and pads it with `pad`."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    ids = [i for i in range(WORDS_AT_MOST) if i not in (pad, end, 3)]
    vocabulary = {word: ids[i] for i, word in enumerate(WORDS)} | {"<unk>": 3, "<end>": end}
    if pad != end:
        vocabulary["<pad>"] = pad
    made = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = Whitespace()
    made.post_processor = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", end)])
    padding = "<end>" if pad == end else "<pad>"
    PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="<unk>", eos_token="<end>", pad_token=padding, sep_token="<end>"
    ).save_pretrained(folder)
    return folder


def images(encoder, count=3):
    generator = torch.Generator().manual_seed(0)
    made = torch.randint(0, 256, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    made[1] //= 8
    made[2, :, :, : SIDE // 2] = 255
    return made
