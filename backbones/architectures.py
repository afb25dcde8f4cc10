"""Which of open_clip's models are backbones, and what each asks of a method: read off its configuration.

Tier A has CLIP's own text tower, causal, read at the end token and fed by CLIP's tokenizer; its image tower is
open_clip's or timm's. Tier B has another text tower of open_clip (SigLIP, MetaCLIP 2, CLIPA, small MobileCLIP), which
is always given its whole context. Tier C is refused: a tower that also writes captions (CoCa), or one of Hugging Face's
transformers. What is not known here is refused too, by its name, since it could not be promised to be exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from .errors import BackboneError

Tier = Literal["A", "B", "C"]
TOP = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text", "init_logit_bias", "init_logit_scale"}
"""Keys of a configuration that are known here."""
TOKENIZER = {"clean", "strip_sep_token"}
"""Settings of a tokenizer that are known here: how it cleans a text, and that separators are no tokens."""
CLEANS = {"canonicalize", "lower", "whitespace"}
POOLS = ("argmax", "last", "eos")
"""Where a text may be read: at the largest id, at the last column, at the end token."""
CLIPS_VOCABULARY = 49408


@dataclass(frozen=True)
class Architecture:
    """What a configuration says of a model."""

    tier: Tier
    foreign: str = ""
    """Of tier C: what there is in it that is no backbone here, and what to take instead."""
    sigmoid: bool = False
    """Whether its pairs have a bias, so that it was pretrained with a sigmoid for each pair."""
    clip_tokens: bool = True
    """Whether its tokens are those of CLIP's tokenizer."""
    context: int = 77
    """Tokens of a text."""
    image_size: int = 224
    """Side of its pictures in pixels."""

    @property
    def loss(self) -> str:
        """The loss that it was pretrained with."""
        return "sigmoid" if self.sigmoid else "softmax"


def classify(model: str, config: Mapping[str, Any]) -> Architecture:
    """The tier of a model of open_clip.

    Args:
        model: its name, for sentences.
        config: as open_clip's `get_model_config` gives it.
    """
    vision, text = config["vision_cfg"], config["text_cfg"]
    foreign = _foreign(model, config, vision, text)
    if foreign:
        return Architecture("C", foreign)
    clip_tokens = not text.get("hf_tokenizer_name") and text.get("vocab_size", CLIPS_VOCABULARY) == CLIPS_VOCABULARY
    sigmoid = config.get("init_logit_bias") is not None
    clips_text = (
        clip_tokens
        and not text.get("no_causal_mask")
        and text.get("pool_type", "argmax") == "argmax"
        and not text.get("proj_bias")
        and text.get("proj_type", "linear") == "linear"
    )
    size = vision.get("image_size", 224)
    return Architecture(
        "A" if clips_text and not sigmoid else "B",
        sigmoid=sigmoid,
        clip_tokens=clip_tokens,
        context=text.get("context_length", 77),
        image_size=size if isinstance(size, int) else size[0],
    )


def accept(name: str, model: str, config: Mapping[str, Any]) -> Architecture:
    """`classify`; BackboneError, with what is foreign in that very model, for one of tier C."""
    found = classify(model, config)
    if found.tier == "C":
        raise BackboneError(f"backbone {name}: {found.foreign}.")
    return found


def _foreign(model: str, config: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> str:
    """What a configuration has that is no backbone here, and what to take instead; "" where there is nothing."""
    if "multimodal_cfg" in config:
        plain = model.removeprefix("coca_")
        instead = f"{plain}, which has the same image tower" if plain.startswith("ViT-") else "a CLIP without one"
        return f"open_clip's {model} is a CoCa, whose text tower also writes captions; take {instead}"
    if other := text.get("hf_model_name"):
        return (
            f"the text tower of open_clip's {model} is {other} of Hugging Face's transformers; for many languages take "
            "a SigLIP 2 or a MetaCLIP 2 (ViT-B-16-SigLIP2, ViT-H-14-worldwide), in English any other CLIP"
        )
    unknown = [key for key in config if key not in TOP]
    unknown += [f"vision_cfg.{key}" for key in vision if key not in _known("CLIPVisionCfg")]
    unknown += [f"text_cfg.{key}" for key in text if key not in _known("CLIPTextCfg")]
    tokenizer = text.get("tokenizer_kwargs") or {}
    unknown += [f"text_cfg.tokenizer_kwargs.{key}" for key in tokenizer if key not in TOKENIZER]
    if unknown:
        return f"open_clip's {model} has the setting {unknown[0]}, which is not known here; take a model without it"
    size = vision.get("image_size", 224)
    odd = {
        f"text_cfg.tokenizer_mode {text.get('tokenizer_mode')!r}": text.get("tokenizer_mode"),
        f"text_cfg.tokenizer_kwargs.clean {tokenizer.get('clean')!r}": tokenizer.get("clean", "lower") not in CLEANS,
        f"text_cfg.pool_type {text.get('pool_type')!r}": text.get("pool_type", "argmax") not in POOLS,
        "text_cfg.embed_cls": text.get("embed_cls"),
        "output_tokens": text.get("output_tokens") or vision.get("output_tokens"),
        f"pictures of {size}, which are no squares": not isinstance(size, int) and len(set(size)) > 1,
    }
    found = next((key for key, there in odd.items() if there), "")
    return f"open_clip's {model} has {found}, which no backbone here has; take a model without it" if found else ""


def _known(settings: str) -> set[str]:
    from open_clip import model

    return {field.name for field in fields(getattr(model, settings))}
