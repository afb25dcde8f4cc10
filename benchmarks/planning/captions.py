"""Classes that a backbone cannot tell apart, because their captions are the same tokens.

Their rows of every head are equal, so only one of them can ever be predicted. It happens to names that are the same or
differ in what a tokenizer drops (capital letters, forms of one Unicode letter, spaces), and to names that stand beyond
the tokens that a text tower takes. Of one's own data they are refused; the twins of a registered dataset, which are in
the literature's numbers too, are named in the run's log, by `doctor` and below the board.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ... import backbones
from ...datasets import catalogue
from ...datasets.card import Dataset, DatasetCard
from ..errors import UserError
from ..host import plugins

_SHOWN = 4
"""Groups that a sentence names."""


@dataclass(frozen=True, slots=True)
class Captions:
    """What a backbone's tokenizer leaves of the captions of some data."""

    twins: tuple[tuple[int, ...], ...]
    """Groups of class positions whose captions are the same tokens under every template."""
    nameless: tuple[int, ...]
    """Positions of the classes whose name has no token."""
    cut: int
    """Tokens that a caption may have, begin and end among them, where that is why the first group is one; else 0."""


@cache
def read(names: tuple[str, ...], prompts: tuple[str, ...], backbone: str) -> Captions:
    """What the tokenizer of a backbone makes of class names and templates; needs no weights."""
    tokenize = backbones.tokenizer(backbone)

    def tokens(texts: list[str]) -> list[tuple[int, ...]]:
        return [tuple(row) for row in tokenize(texts).tolist()]

    groups = [tuple(range(len(names)))]
    for prompt in prompts:  # after the first, hardly any name is left to be looked at
        split: list[tuple[int, ...]] = []
        for group in groups:
            alike: dict[tuple[int, ...], list[int]] = {}
            for i, row in zip(group, tokens([prompt.format(names[i]) for i in group]), strict=True):
                alike.setdefault(row, []).append(i)
            split += [tuple(found) for found in alike.values() if len(found) > 1]
        groups = split
        if not groups:
            break
    alone, (nothing,) = tokens(list(names)), tokens([""])
    nameless = tuple(i for i, row in enumerate(alone) if row == nothing)
    full = [tokens([prompt.format(names[groups[0][0]])])[0][-1] for prompt in prompts] if groups else []
    return Captions(tuple(groups), nameless, len(nothing) if any(full) else 0)


plugins.when_changed(read.cache_clear)


def check(data: Dataset, dataset: str, backbone: str) -> str:
    """A sentence, without its full stop, on classes of a registered dataset with one caption; "" for none.

    Args:
        data: the data that `dataset` names.
        dataset: as in `catalogue.get`.
        backbone: as in `backbones.load`.

    Raises:
        UserError: one's own data have classes of one caption, or one without a name.
    """
    card = data.card
    found = read(card.class_names, card.prompts, backbone)
    if not catalogue.is_own(dataset):
        return _said(found, card, backbone)
    ids = data.class_ids
    where = "the second column of classes.txt" if ids else "class_names of its YAML"
    if found.nameless:
        first = found.nameless[0]
        raise UserError(
            f"{card.name}: the name of class {first} is {card.class_names[first]!r}{_folder(ids, first)}, which is no "
            f"token to {backbone}; give it a name in {where}."
        )
    if not found.twins:
        return ""
    one, two, *_ = found.twins[0]
    more = sum(map(len, found.twins)) - 2
    raise UserError(
        f"{card.name}: the classes {card.class_names[one]!r}{_folder(ids, one) or f' ({one})'} and "
        f"{card.class_names[two]!r}{_folder(ids, two) or f' ({two})'} have one and the same caption to {backbone}"
        f"{f' (and so have {more} more)' if more else ''}, so they can never both be predicted; give them names in "
        f"{where} that differ in more than capital letters"
        f"{f' and within its first {found.cut} tokens' if found.cut else ''}, or make them one class."
    )


def _folder(ids: Sequence[str], i: int) -> str:
    return f" (folder {ids[i]})" if ids else ""


def _said(found: Captions, card: DatasetCard, backbone: str) -> str:
    if not found.twins:
        return ""
    groups = [f"{' and '.join(map(str, group))} ({card.class_names[group[0]]})" for group in found.twins[:_SHOWN]]
    more = f" and {len(found.twins) - _SHOWN} more groups" if len(found.twins) > _SHOWN else ""
    return (
        f"the classes {', '.join(groups)}{more} of {card.name} have one and the same caption to {backbone}, so of each "
        "group only one can ever be predicted"
    )
