"""`robustft doctor --prefetch`: on a machine with network, fetch what a suite takes from the Hugging Face hub."""

import os
from collections.abc import Callable
from typing import Any

from .. import backbones
from ..datasets import catalogue, own_shift
from .errors import UserError

PATIENCE_SECONDS = 10


def allow_network() -> None:
    """Lift the offline mode that every command starts in; before the hub's library is imported, which reads it."""
    os.environ["HF_HUB_OFFLINE"] = "0"


def fetch(suite: Any, tell: Callable[[str], None]) -> None:
    """Weights of the suite's backbones, their tokenizers, and datasets that the hub has.

    Raises:
        UserError: there is no network; the sentence says exactly that.
        BackboneError, DataError: the hub answers, and something cannot be fetched.
    """
    _reach_hub()
    for name in suite.backbones:
        command = backbones.how_to_make(name)
        if command and not backbones.available(name):
            tell(f"{name}: its weights are made on this machine, after this, by {command}")
            continue
        backbones.fetch(name)
        tell(f"{name}: weights are on this machine; its tokenizer ships with open_clip or with this package")
    named = [catalogue.parts(suite.dataset_of(recipe))[0] for recipe in suite.recipe_names]
    for name in dict.fromkeys([*named, *suite.shifts.values()]):
        if catalogue.from_hub(name):
            if name in named:
                catalogue.get(name).train_labels()
            else:
                own_shift.load(name, None)
            tell(f"{name}: on this machine")
        elif name not in catalogue.embedded():
            tell(f"{name}: is not on the hub; `robustft doctor {suite.name}` says what to download from whom")


def _reach_hub() -> None:
    """One question instead of many that are each repeated before they are given up."""
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE_SECONDS)
    except Exception as error:  # of one of several network libraries
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        raise UserError(
            f"--prefetch: no network: {constants.ENDPOINT} cannot be reached ({reason}); run it on a machine with "
            "network, such as a login node, with the same HF_HOME."
        ) from None
