"""The text tower over all 77 positions against the tower over the longest caption of the batch, which is exact."""

from functools import partial

import torch

from .runner import Settings, captions, full_context, take_turns, tell


def measure(settings: Settings) -> None:
    """Prints the ratio of the forward passes."""
    encoder = settings.encoder()
    short = captions(encoder, settings.batch).to(settings.device)
    inputs = {"full": full_context(encoder, short), "truncated": short}

    @torch.no_grad()
    def forward(tokens: torch.Tensor) -> None:
        with settings.autocast():
            encoder.text_features(tokens)

    timings = take_turns({name: partial(forward, tokens) for name, tokens in inputs.items()}, settings)
    rate = settings.batch / timings.median("truncated")
    about = f"{rate:.0f} captions/s at {short.shape[1]} tokens"
    tell("text tower, full / truncated", timings.ratio("full", "truncated"), "", about)
