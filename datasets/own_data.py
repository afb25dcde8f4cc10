"""Data that somebody brings: bytes and folders of all sets are there to be compared."""

from .card import Dataset
from .image_folders import Tree
from .overlaps import Part, Shared


class OwnData(Dataset):
    """A dataset of one's own, or another one with shifts of one's own beside it. Its fingerprint is of the content."""

    cut: tuple[str, ...] = ()
    """Names of the shifts whose logits are cut to the classes that they have."""

    @property
    def parts(self) -> list[Part]:
        """What each set holds whose bytes are known."""
        return []

    @property
    def shared(self) -> list[Shared]:
        """The pairs of sets that share images."""
        return []

    @property
    def trees(self) -> dict[str, Tree]:
        """Set, or train -> what lies in its folder, where it is one of class folders."""
        return {}

    @property
    def passed_over(self) -> dict[str, tuple[int, str]]:
        """Set or folder -> how many entries in it are no images of a class, and the first; only where there are any."""
        return {}

    def present(self, name: str) -> list[int]:
        """The classes that a set has an image of, by the card's numbers."""
        return sorted(set(self.eval_data(name).labels.tolist()))

    @property
    def counted(self) -> tuple[bool, str]:
        """Whether it has as many images as the published data that it is by its domains' names, and a sentence on that;
        (True, "") where it is none."""
        return True, ""

    @property
    def own_shifts(self) -> tuple[str, ...]:
        """Names of the shifts of one's own beside another dataset's sets."""
        return ()
