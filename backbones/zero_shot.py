"""The zero-shot head: class embeddings from prompts (spec.md 0.2; mlfoundations/wise-ft:src/models/zeroshot.py)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from .encoder import DualEncoder

Past = list[tuple[Tensor, Tensor]]
"""Keys and values of the tokens before, layer by layer: (1, heads, S, width / heads) each."""


def average_prompts(embeddings: Tensor, logit_scale: Tensor) -> Tensor:
    """(C, D) head of (C, P, D) prompt embeddings: normalise each, average over P, normalise, multiply by the scale."""
    return normalize(normalize(embeddings, dim=-1).mean(dim=1), dim=-1) * logit_scale


@torch.no_grad()
def build_head(
    encoder: DualEncoder, class_names: Sequence[str], prompts: Sequence[str], batch_size: int = 1024
) -> Tensor:
    """(C, D) weights of a linear layer on unit image features; logit_scale is multiplied in, so there is no bias.

    Runs the encoder's current text tower in eval mode, many prompts at a time. Prompts that do not fit into one batch
    go through it template by template, and the words before the class name only once (`text_features_by_template`).

    Args:
        encoder: whose text tower and logit_scale are used.
        class_names: C names.
        prompts: P templates, each with one "{}".
        batch_size: prompts a forward pass, which bounds the memory; changes nothing but speed and rounding.
    """
    tokens = encoder.tokenize([prompt.format(name) for name in class_names for prompt in prompts])
    tokens = tokens.to(encoder.clip.logit_scale.device)
    with _eval_mode(encoder):
        if len(tokens) <= batch_size:
            features = encoder.text_features(tokens).float()
        else:
            features = text_features_by_template(encoder, tokens.view(len(class_names), len(prompts), -1), batch_size)
    return average_prompts(features.view(len(class_names), len(prompts), -1), encoder.logit_scale.float())


def text_features_by_template(encoder: DualEncoder, tokens: Tensor, batch_size: int) -> Tensor:
    """`encoder.text_features` of every class in every template, float32, with no work done twice or for nothing.

    The mask is causal, so the tokens that all captions of a template begin with have the same keys and values in every
    class: they go through the tower once. Captions of equal length go together, which needs no padding.

    Args:
        encoder: its text tower is a stack of pre-norm blocks, as OpenAI's.
        tokens: (C, P, L) token ids, padded with 0.
        batch_size: captions a forward pass.

    Returns:
        (C, P, D), not unit length; what a pass over the whole caption gives, up to rounding.
    """
    classes, templates, _ = tokens.shape
    ends = tokens.argmax(dim=-1)  # (C, P)
    features = tokens.new_empty(classes, templates, encoder.embed_dim, dtype=torch.float32)
    for p in range(templates):
        caption, end = tokens[:, p], ends[:, p]
        alike = (caption == caption[0]).all(dim=0).long().cumprod(dim=0).sum()
        shared = int(torch.minimum(alike, end.min()))  # the end token itself is each caption's own
        past = _through(encoder, caption[:1, :shared], [])[1] if shared else []
        for length in end.unique().tolist():
            for rows in (end == length).nonzero()[:, 0].split(batch_size):
                x, _ = _through(encoder, caption[rows, shared : length + 1], past)
                features[rows, p] = (encoder.clip.ln_final(x[:, -1]) @ encoder.text_projection).float()
    return features


def _through(encoder: DualEncoder, tokens: Tensor, past: Past) -> tuple[Tensor, Past]:
    """The blocks' output for (N, R) tokens that come after those of `past`, and the keys and values of the R."""
    clip, start = encoder.clip, past[0][0].shape[2] if past else 0
    count = tokens.shape[1]
    x = clip.token_embedding(tokens) + clip.positional_embedding[start : start + count]
    mask = torch.ones(count, start + count, dtype=torch.bool, device=x.device).tril(start)
    made = []
    for i, block in enumerate(clip.transformer.resblocks):
        x, keys_values = _block(block, x, past[i] if past else None, mask)
        made.append(keys_values)
    return x, made


def _block(
    block: nn.Module, x: Tensor, past: tuple[Tensor, Tensor] | None, mask: Tensor
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """One residual attention block on (N, R, width); `mask` (R, S + R) is True where a token may look."""
    attention, (n, count, width) = block.attn, x.shape
    projected = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    query, key, value = projected.view(n, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    made = key, value
    if past is not None:
        key, value = (torch.cat([old.expand(n, -1, -1, -1), new], dim=2) for old, new in zip(past, made, strict=True))
    seen = scaled_dot_product_attention(query, key, value, attn_mask=mask)
    x = x + block.ls_1(attention.out_proj(seen.transpose(1, 2).reshape(n, count, width)))
    return x + block.ls_2(block.mlp(block.ln_2(x))), made


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for the block; afterwards every module is in the mode that it was in, frozen BatchNorm too."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
