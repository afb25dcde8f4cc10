"""An encoder in the layout of Hugging Face's `CLIPModel`: its names, its configuration and its tokenizer's files.

The arithmetic is the same: queries, keys and values lie in three matrices there and in one here, and the two
projections are transposed. A text is read at its first end token, which `eos_token_id` names; here at the largest id.

Source: the key conversion of transformers' CLIP (convert_clip_original_pytorch_to_hf.py).
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from .encoder import DualEncoder
from .errors import BackboneError
from .to_open_clip import check_stem

if TYPE_CHECKING:
    from open_clip.tokenizer import SimpleTokenizer

CONFIG, MODEL, PREPROCESSOR = "config.json", "model.safetensors", "preprocessor_config.json"
START, END = "<|startoftext|>", "<|endoftext|>"
BICUBIC = 3
"""Pillow's number of it."""
EMBEDDINGS = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "logit_scale": "logit_scale",
}
PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
"""Stored transposed there, as the weight of a linear layer."""
NORMS = {
    "visual.ln_pre": "vision_model.pre_layrnorm",  # their spelling
    "visual.ln_post": "vision_model.post_layernorm",
    "ln_final": "text_model.final_layer_norm",
}
BLOCKS = {
    "visual.transformer.resblocks": "vision_model.encoder.layers",
    "transformer.resblocks": "text_model.encoder.layers",
}
IN_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def write(encoder: DualEncoder, folder: Path, save: Callable[[Mapping[str, Tensor]], bytes]) -> None:
    """What `CLIPModel.from_pretrained`, `CLIPImageProcessor` and `CLIPTokenizer` read.

    Args:
        encoder: its towers may have been trained.
        folder: exists.
        save: tensors to the bytes of a safetensors file.

    Raises:
        BackboneError: `CLIPModel` has no such architecture.
    """
    texts = {CONFIG: config(encoder), PREPROCESSOR: preprocessor(encoder), **tokenizer_files(encoder)}
    (folder / MODEL).write_bytes(save(tensors(encoder)))
    for name, content in texts.items():
        text = content if isinstance(content, str) else json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def tensors(encoder: DualEncoder) -> dict[str, Tensor]:
    """The weights under `CLIPModel`'s names; BackboneError where it has no such architecture."""
    check(encoder)
    renamed: dict[str, Tensor] = {}
    for name, tensor in encoder.clip.state_dict().items():
        renamed |= {new: part.contiguous() for new, part in _renamed(name, tensor)}
    return renamed


def _renamed(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """(Name there, tensor there) of one tensor here; three of what projects to queries, keys and values."""
    if name in EMBEDDINGS:
        return [(EMBEDDINGS[name], tensor)]
    if name in PROJECTIONS:
        return [(PROJECTIONS[name], tensor.T)]
    module, _, kind = name.rpartition(".")
    if module in NORMS:
        return [(f"{NORMS[module]}.{kind}", tensor)]
    for here, there in BLOCKS.items():
        if not name.startswith(f"{here}."):
            continue
        number, _, rest = name.removeprefix(f"{here}.").partition(".")
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = rest.removeprefix("attn.in_proj_")
            pairs = zip("qkv", tensor.chunk(3), strict=True)
            return [(f"{there}.{number}.self_attn.{letter}_proj.{kind}", part) for letter, part in pairs]
        layer, _, kind = rest.rpartition(".")
        if layer in IN_BLOCK:
            return [(f"{there}.{number}.{IN_BLOCK[layer]}.{kind}", tensor)]
    raise BackboneError(f"huggingface: CLIPModel has no place for {name!r}; export this model for open_clip.")


def check(encoder: DualEncoder) -> None:
    """BackboneError, with the reason, where `CLIPModel` cannot compute what the encoder does."""
    visual, clip = encoder.clip.visual, encoder.clip
    transformer = getattr(visual, "transformer", None)
    if transformer is None or hasattr(visual, "trunk"):
        raise _refusal(encoder, f"its image tower is a {type(visual).__name__}, and CLIPModel has ViTs only")
    check_stem(encoder, "huggingface")
    if getattr(visual, "attn_pool", None) is not None or getattr(visual, "pool_type", "tok") != "tok":
        raise _refusal(encoder, "its image tower is not read at the class token")
    if isinstance(visual.ln_pre, nn.Identity) or getattr(visual, "final_ln_after_pool", False):
        raise _refusal(encoder, "its image tower normalises in other places")
    if not encoder.cuts_text or clip is not encoder.text or clip.logit_bias is not None:
        raise _refusal(encoder, "its text tower is not causal and read at the end token")
    if not isinstance(clip.text_projection, nn.Parameter) or not isinstance(visual.proj, nn.Parameter):
        raise _refusal(encoder, "a tower has no plain projection")
    blocks = [*transformer.resblocks, *clip.transformer.resblocks]
    if any(not isinstance(part, nn.Identity) for block in blocks for part in (block.ls_1, block.ls_2)):
        raise _refusal(encoder, "its blocks have layer scale")
    _activation(encoder)


def _activation(encoder: DualEncoder) -> str:
    """CLIPModel's name of the activation, which both towers must share here."""
    blocks = [*encoder.clip.visual.transformer.resblocks, *encoder.clip.transformer.resblocks]
    kinds = {type(block.mlp.gelu).__name__ for block in blocks}
    known = {"QuickGELU": "quick_gelu", "GELU": "gelu"}
    if len(kinds) != 1 or not kinds <= known.keys():
        raise _refusal(encoder, f"its activation is {' and '.join(sorted(kinds))}")
    return known[kinds.pop()]


def _refusal(encoder: DualEncoder, reason: str) -> BackboneError:
    return BackboneError(f"huggingface: {encoder.name} does not fit CLIPModel: {reason}; export it for open_clip.")


def config(encoder: DualEncoder) -> dict[str, Any]:
    """CLIPConfig's values; every number is read off the modules."""
    check(encoder)
    clip, visual = encoder.clip, encoder.clip.visual
    # The start token, and the end token behind it, are the last two of the vocabulary, as in CLIP.
    end = clip.token_embedding.num_embeddings - 1
    marks = {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    shared = {"hidden_act": _activation(encoder), "projection_dim": encoder.embed_dim}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": encoder.embed_dim,
        "logit_scale_init_value": clip.logit_scale.item(),
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": end + 1,
            "max_position_embeddings": clip.positional_embedding.shape[0],
            **_tower(clip.transformer, clip.ln_final),
            **shared,
            **marks,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "image_size": encoder.image_size,
            "patch_size": visual.conv1.kernel_size[0],
            "num_channels": visual.conv1.in_channels,
            **_tower(visual.transformer, visual.ln_post),
            **shared,
        },
    }


def _tower(transformer: Any, norm: Any) -> dict[str, Any]:
    first = transformer.resblocks[0]
    return {
        "hidden_size": first.attn.embed_dim,
        "intermediate_size": first.mlp.c_fc.out_features,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": first.attn.num_heads,
        "layer_norm_eps": norm.eps,
    }


def preprocessor(encoder: DualEncoder) -> dict[str, Any]:
    """CLIPImageProcessor's values: the shortest side resized, the centre cut out, pixels normalised."""
    size = encoder.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(encoder.mean),
        "image_std": list(encoder.std),
    }


def tokenizer_files(encoder: DualEncoder) -> dict[str, Any]:
    """vocab.json, merges.txt and tokenizer_config.json of CLIPTokenizer."""
    tokenizer: SimpleTokenizer = encoder.tokenizer
    names = {"<start_of_text>": START, "<end_of_text>": END}
    vocabulary = {names.get(token, token): number for token, number in tokenizer.encoder.items()}
    merges = "".join(f"{first} {second}\n" for first, second in tokenizer.bpe_ranks)
    marks = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    return {
        "vocab.json": vocabulary,
        "merges.txt": f"#version: 0.2\n{merges}",
        "tokenizer_config.json": {
            "tokenizer_class": "CLIPTokenizer",
            "do_lower_case": True,
            "model_max_length": encoder.clip.positional_embedding.shape[0],
            **marks,
        },
    }
