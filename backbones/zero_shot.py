"""The zero-shot head: class embeddings from prompts (mlfoundations/wise-ft:src/models/zeroshot.py)."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize, scaled_dot_product_attention

from .encoder import DualEncoder, at_least_float32, project

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock

BATCH_SIZE = 1024
"""Texts of a pass through the text tower. Passes of another size may differ in the last bits."""

TOKENS_KEPT = 2
"""Lists of texts whose tokens are remembered: those of a run's data, and those of another set beside it."""
_tokens: dict[tuple[Hashable, ...], Tensor] = {}
"""What decides over tokens -> the tokens, the last used last."""

Between = Callable[[int, int], None]
"""Called between two passes with the texts that are done and all texts; what it raises ends the work."""


def nothing(done: int, texts: int) -> None:
    """The default of `between`."""


def average_prompts(embeddings: Tensor, logit_scale: Tensor) -> Tensor:
    """(C, D) head of (C, P, D) prompt embeddings: normalise each, average over P, normalise, multiply by the scale."""
    return normalize(normalize(embeddings, dim=-1).mean(dim=1), dim=-1) * logit_scale


def build_head(
    encoder: DualEncoder,
    class_names: Sequence[str],
    prompts: Sequence[str],
    batch_size: int = BATCH_SIZE,
    between: Between = nothing,
) -> Tensor:
    """(C, D) weights of a linear layer on unit image features; logit_scale is multiplied in, so there is no bias.

    At least float32, in float64 for an encoder in float64.

    Runs the encoder's current text tower in eval mode, many prompts at a time. Prompts that do not fit into one batch
    go through it template by template, and the words before the class name only once (`text_features_by_template`), but
    plainly through a tower that reads padding. A logit bias is no part of the head: all classes share it.

    Args:
        encoder: whose text tower and logit_scale are used.
        class_names: C names.
        prompts: P templates, each with one "{}".
        batch_size: prompts a forward pass, which bounds the memory; changes nothing but speed and rounding.
        between: see `Between`; a head of one pass never calls it.

    Raises:
        ValueError: no names, or no prompts.
    """
    return head_of_tokens(encoder, tokens_of(encoder, class_names, prompts), batch_size, between)


def tokens_of(encoder: DualEncoder, class_names: Sequence[str], prompts: Sequence[str]) -> Tensor:
    """(C, P, L) token ids of each class in each template, in a tensor of the caller's own; errors as `build_head`.

    ImageNet's 80,000 take seconds: what a tokenizer has made of the same texts in this process is given again.
    """
    if not class_names or not prompts:
        raise ValueError(f"build_head: needs names and prompts, got {len(class_names)} and {len(prompts)}.")
    key = encoder.tokenizer, encoder.cuts_text, tuple(class_names), tuple(prompts)
    known = isinstance(encoder.tokenizer, Hashable)  # by itself, else by what it says it is equal to
    made = _tokens.pop(key, None) if known else None
    if made is None:
        made = encoder.tokenize([prompt.format(name) for name in class_names for prompt in prompts])
    if known:
        _tokens[key] = made
        while len(_tokens) > TOKENS_KEPT:
            del _tokens[next(iter(_tokens))]
    return made.clone().view(len(class_names), len(prompts), -1)


@torch.no_grad()
def head_of_tokens(
    encoder: DualEncoder, captions: Tensor, batch_size: int = BATCH_SIZE, between: Between = nothing
) -> Tensor:
    """`build_head` from what `tokens_of` gives."""
    captions = captions.to(encoder.clip.logit_scale.device)
    classes, templates, length = captions.shape
    tokens = captions.view(-1, length)
    with _eval_mode(encoder):
        if len(tokens) <= batch_size or not encoder.cuts_text:
            parts: list[Tensor] = []
            for part in tokens.split(batch_size):
                if parts:
                    between(len(parts) * batch_size, len(tokens))
                parts.append(at_least_float32(encoder.text_features(part)))
            features = torch.cat(parts) if len(parts) > 1 else parts[0]
        else:
            features = text_features_by_template(encoder, captions, batch_size, between)
    return average_prompts(features.view(classes, templates, -1), at_least_float32(encoder.logit_scale))


def text_features_by_template(
    encoder: DualEncoder, tokens: Tensor, batch_size: int, between: Between = nothing
) -> Tensor:
    """`encoder.text_features` of every class in every template, with no work done twice or for nothing.

    The mask is causal, so the tokens that all captions of a template begin with have the same keys and values in every
    class: a pass runs them once. Whatever works token by token runs over all tokens of a pass at once, attention over
    captions of equal length: no padding. The last block ends in the end tokens alone, which is where a text is read.

    Args:
        encoder: its text tower is a stack of pre-norm blocks, as OpenAI's.
        tokens: (C, P, L) token ids, padded with 0.
        batch_size: captions a forward pass.
        between: see `Between`.

    Returns:
        (C, P, D), at least float32, not unit length; what a pass over the whole caption gives, up to rounding.
    """
    classes, templates, length = tokens.shape
    captions = tokens.transpose(0, 1)  # (P, C, L): captions of a template lie together
    ends = captions.argmax(dim=-1)
    alike = (captions == captions[:, :1]).all(dim=1).long().cumprod(dim=-1).sum(dim=-1)
    shared = torch.minimum(alike, ends.amin(dim=1)).tolist()  # the end token itself is each caption's own
    captions, last = captions.reshape(-1, length), ends.flatten().tolist()
    features = []
    for first in range(0, len(captions), batch_size):
        if first:
            between(first, len(captions))
        parts: list[Part] = []
        places: dict[tuple[int, int], list[int]] = {}
        beginnings: dict[int, int] = {}
        for row in range(first, min(first + batch_size, len(captions))):
            places.setdefault((row // classes, last[row]), []).append(row)
        for template, _ in places:
            if shared[template] and template not in beginnings:
                beginnings[template] = len(parts)
                parts.append(Part(captions[template * classes, : shared[template]][None], None))
        prefixes = len(parts)
        for (template, end), rows in places.items():
            parts.append(Part(captions[rows, shared[template] : end + 1], beginnings.get(template)))
        order = torch.tensor([row for rows in places.values() for row in rows]).argsort()
        features.append(_read_at_the_end(encoder, parts, prefixes)[order.to(tokens.device)])
    return torch.cat(features).view(templates, classes, -1).transpose(0, 1)


class Part(NamedTuple):
    """Token sequences of equal length that begin alike."""

    tokens: Tensor
    """(N, R) ids."""
    after: int | None
    """Which part, of one sequence, comes before each of these; None: they stand at the beginning."""


def _read_at_the_end(encoder: DualEncoder, parts: list[Part], prefixes: int) -> Tensor:
    """(N, D) features at the last token of every sequence of the parts behind the first `prefixes`."""
    clip = encoder.text
    starts = [0 if part.after is None else parts[part.after].tokens.shape[1] for part in parts]
    counts = [part.tokens.shape[1] for part in parts]
    position = torch.cat(
        [
            torch.arange(start, start + count).repeat(len(part.tokens))
            for part, start, count in zip(parts, starts, counts, strict=True)
        ]
    )
    x = clip.token_embedding(torch.cat([part.tokens.flatten() for part in parts]))
    x = x + clip.positional_embedding[position.to(x.device)]
    ends, offset = [], 0
    for i, part in enumerate(parts):
        if i >= prefixes:
            ends.append(torch.arange(offset + counts[i] - 1, offset + part.tokens.numel(), counts[i]))
        offset += part.tokens.numel()
    masks = [
        torch.ones(count, start + count, dtype=torch.bool, device=x.device).tril(start)
        for start, count in zip(starts, counts, strict=True)
    ]
    for block in clip.transformer.resblocks:
        seen = _attend(block, x, parts, masks)
        if block is clip.transformer.resblocks[-1]:
            x, seen = (tokens[torch.cat(ends).to(x.device)] for tokens in (x, seen))
        x = x + block.ls_1(block.attn.out_proj(seen))
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return at_least_float32(project(clip.ln_final(x), clip.text_projection))


def _attend(block: "ResidualAttentionBlock", x: Tensor, parts: list[Part], masks: list[Tensor]) -> Tensor:
    """(T, width) what each of all parts' tokens sees of its own sequence, before the output projection."""
    attention = block.attn
    projected = linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    made: list[tuple[Tensor, Tensor]] = []
    seen = []
    sizes = [part.tokens.numel() for part in parts]
    for part, mask, rows in zip(parts, masks, projected.split(sizes), strict=True):
        n, count = part.tokens.shape
        query, key, value = rows.view(n, count, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
        if part.after is not None:
            before = made[part.after]
            key, value = (
                torch.cat([old.expand(n, -1, -1, -1), new], 2) for old, new in zip(before, (key, value), strict=True)
            )
        made.append((key, value))
        seen.append(
            scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).reshape(n * count, -1)
        )
    return torch.cat(seen)


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
