"""`robustft doctor --prefetch`: on a machine with network, fetch what a suite takes from the Hugging Face hub."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .... import backbones
from ....datasets import catalogue, extra_shifts
from ....datasets.card import DataError
from ...errors import UserError

PATIENCE_SECONDS = 10


def allow_network() -> None:
    """Lift the offline mode that every command starts in; before the hub's library is imported, which reads it."""
    os.environ["HF_HUB_OFFLINE"] = "0"


def fetch(suite: Any, tell: Callable[[str], None], asked: str = "") -> None:
    """Weights of the suite's backbones, their tokenizers, and datasets that the hub has.

    Args:
        asked: the suite's file where it was asked for by that.

    Raises:
        UserError: there is no network, or the hub refuses or fails; the sentence says exactly that.
        BackboneError, DataError: something cannot be fetched or used for another reason.
    """
    _reach_hub()
    for name in suite.backbones:
        command = backbones.how_to_make(name)
        if command and not backbones.available(name):
            tell(f"{name}: its weights are made on this machine, after this, by {command}")
            continue
        with _what_the_hub_answered(f"weights of {name}"):
            tokenizer = backbones.fetch(name)
        doubt = backbones.examine(name, thorough=True)
        tell(f"{name}: weights are on this machine; {tokenizer}")
        if doubt:
            tell(doubt)
    named = [catalogue.parts(suite.dataset_of(recipe))[0] for recipe in suite.recipe_names]
    retained = [source if catalogue.is_own(source) else source.partition("/")[0] for source in suite.retention.values()]
    for name in dict.fromkeys([*named, *suite.shifts.values(), *retained]):
        if catalogue.from_hub(name):
            with _what_the_hub_answered(name):
                if name in named or not catalogue.is_own(name):
                    catalogue.get(name).train_labels()
                else:
                    extra_shifts.load(name, None)
            tell(f"{name}: on this machine")
        elif name not in catalogue.embedded():
            tell(f"{name}: is not on the hub; `robustft doctor {asked or suite.name}` says what to download from whom")


@contextmanager
def _what_the_hub_answered(what: str) -> Iterator[None]:
    """Turns the hub's refusal, where one is the cause of an error, into a UserError with what to do about it."""
    try:
        yield
    except (backbones.BackboneError, DataError) as error:
        answer = _answer(error)
        if answer is None:
            raise
        raise UserError(f"--prefetch: {what}: {answer}.") from None


def _answer(error: BaseException) -> str | None:
    """What the hub answered, or that it was cut off, and the remedy; None where neither is the cause."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    causes = list(_causes(error))
    refusal = next((cause for cause in causes if getattr(cause, "response", None) is not None), None)
    if refusal is None:
        cut = next((cause for cause in causes if type(cause).__module__.startswith("httpx")), None)
        if cut is None:
            return None
        return f"the connection broke, also when tried again ({cut}); call this again, no half file is kept"
    status = refusal.response.status_code  # type: ignore[attr-defined]
    said = f"the hub answers {status}"
    if isinstance(refusal, GatedRepoError):
        return f"{said}: it is given to accounts that accepted its terms; accept them there and run `hf auth login`"
    if isinstance(refusal, RepositoryNotFoundError) or status in (401, 403):
        return f"{said}: it has no such repository, or not for you; correct the name, or run `hf auth login`"
    if status == 404:
        return f"{said}: it has no such revision or file; correct the name"
    if status == 429 or status >= 500:
        return f"{said}: it is busy or in trouble; call this again later, what is there is not fetched again"
    return f"{said}; see whether HF_ENDPOINT is right"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what led to it, the latest first."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _reach_hub() -> None:
    """Ask the hub once whether it answers: each later request would be repeated many times before it fails."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS)
    except Exception as error:  # of one of several network libraries
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(
            f"--prefetch: no network: {constants.ENDPOINT} cannot be reached ({reason}); run it on a machine with "
            "network, such as a login node, with the same HF_HOME."
        ) from None
