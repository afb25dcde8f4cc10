"""`domains:<path>`: images of several domains, trained on a pool of them and tested on those that are left out.

    <path>/<domain>/<class>/<image>      the layout of DomainBed: PACS, VLCS, office_home, terra_incognita
    <path>/classes.txt, prompts.txt      optional, as for `folder:`; without the former, a class is called as its folder

`pool:` of a suite, or of a recipe, names the domains that are trained on; without one it is all but the last by name.
Of each class of each domain in the pool two tenths are held out by hash: the first is the validation set, the second
the in-distribution test, and both know their domain as group. Each domain outside of the pool is a shift, whole. So no
image of a shift has a part in any choice (DomainBed's training-domain validation). A domain may lack classes; all
columns count.

Source: facebookresearch/DomainBed:domainbed/datasets.py, README.md, scripts/download.py. Departures: DomainBed draws
its fifth by seed and holds no in-distribution test out, resizes without cropping and draws each batch with as many
images of each domain; here images are drawn from the whole pool.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import cached_property

import numpy as np

from . import overlaps
from .card import DataError, DatasetCard, EvalSet, is_set_name
from .decoding import Decode
from .folder import DEFAULT_PROMPTS, read_classes, read_prompts
from .image_folders import Tree, composed, expanded, kinds_text, relabel, scan, subfolders
from .image_sets import ImageSet, Picked, TrainsOnPictures, TreesPictures, lowest_by_hash
from .own_data import OwnData

_UNKNOWN = "not known"

PUBLISHED = {
    "PACS": {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
    "VLCS": {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
    "Office-Home": {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},
    "Terra Incognita": {"location_100": 4879, "location_38": 9767, "location_43": 4020, "location_46": 6122},
}
"""DomainBed's data: domain -> images. The sums are those of its paper's table (arXiv:2007.01434): 9,991, 10,729, 15,588
and 24,788. The domains: KaiyangZhou/Dassl.pytorch:dassl/data/datasets/dg/pacs.py (21ed5af); lines of the lists
muse1998/Source-Free-Domain-Generalization:image_list/VLCS, image_list/Terra (fb4fa20; the latter also khanrc/miro,
issue 9) and thuml/CDAN:data/office-home (c904cd3)."""
LATER = {"Terra Incognita": 24_330}
"""What DomainBed's download script gives by now (khanrc/miro, issue 9); a count by domain was not found."""


class Domains(TrainsOnPictures, OwnData):
    """Images in class folders of several domains below one path.

    Args:
        path: the folder described above.
        pool: domains that are trained on; () is all but the last.
        size: side of the pictures in pixels.
        decode: how they are made, see `decoding`.

    Raises:
        DataError: the folder is missing, has no two domains, or the pool is not one of some of them.
    """

    randomness = "domains-v1"
    withholds = True

    def __init__(
        self, path: str | os.PathLike[str], pool: Sequence[str] = (), *, size: int = 224, decode: Decode = "exact"
    ) -> None:
        self.path, self.size, self.decode = expanded(path).resolve(), size, decode
        self.name = f"domains:{self.path.name}"
        if not self.path.is_dir():
            raise DataError(
                f"domains:{path}: there is no such folder; give the path that holds the domains, or name the folder "
                "that has it with --data or ROBUSTFT_DATA."
            )
        self.domains = subfolders(self.path)
        wrong = next((name for name in self.domains if name in ("validation", "id") or not is_set_name(name)), None)
        if wrong is not None:
            raise DataError(f"{self.name}: {wrong!r} cannot be the name of a domain; rename the folder.")
        if len(self.domains) < 2:
            raise DataError(f"{self.name}: {self.path} needs two domains or more, found {self.domains or 'none'}.")
        self.pool = tuple(pool) or tuple(self.domains[:-1])
        strange = next((name for name in self.pool if name not in self.domains), None)
        if strange is not None:
            known = ", ".join(self.domains)
            raise DataError(f"pool: must be domains of {self.name}, which are {known}, got {strange!r}; correct it.")
        if len(set(self.pool)) < len(self.pool) or len(self.pool) == len(self.domains):
            raise DataError(
                f"pool: must be some of the {len(self.domains)} domains of {self.name}, each once, got "
                f"{', '.join(self.pool)}; leave one out to test on."
            )

    @property
    def class_ids(self) -> tuple[str, ...]:
        """The names of the class folders."""
        return tuple(self._classes)

    @cached_property
    def _classes(self) -> dict[str, str]:
        """Folder -> class name, in class order."""
        if (self.path / "classes.txt").exists():
            return read_classes(self.path / "classes.txt", self.name)
        folders = sorted({composed(name) for tree in self.trees.values() for name in tree.classes})
        if len(folders) < 2:
            raise DataError(f"{self.name}: needs two class folders or more in its domains, found {folders or 'none'}.")
        return {folder: folder.replace("_", " ") for folder in folders}

    @cached_property
    def trees(self) -> dict[str, Tree]:
        """Domain -> the images of its folder."""
        found = {name: scan(self.path / name) for name in self.domains}
        for name, tree in found.items():
            if len(tree) == 0:
                kinds = f" but of a kind that is not read ({kinds_text(tree.unread)})" if tree.unread else ""
                raise DataError(f"{self.name}: no images in class folders under {name}{kinds}; fill or remove it.")
        return found

    @cached_property
    def _labels(self) -> dict[str, np.ndarray]:
        """Domain -> (N,) int64; DataError where the pool lacks a class."""
        known = list(self._classes)
        labels = {
            name: relabel(tree, self.name, known, "add a line to classes.txt, or take them away")
            for name, tree in self.trees.items()
        }
        trained = {label for name in self.pool for label in labels[name].tolist()}
        lacking = next((folder for i, folder in enumerate(known) if i not in trained), None)
        if lacking is not None:
            raise DataError(
                f"{self.name}: the class {lacking!r} has no image in the pool; pool a domain that has some."
            )
        return labels

    @cached_property
    def _held_out(self) -> dict[str, dict[str, np.ndarray]]:
        """Domain of the pool -> train, validation and id -> (images,) bool: of each class the first tenth by hash, the
        second, and the rest; of a class of one or two images none is held out."""
        found = {}
        for name in self.pool:
            tree, labels = self.trees[name], self._labels[name]
            names = [f"{name}/{tree.name(i)}" for i in range(len(tree))]
            tenth = lowest_by_hash(names, labels, _tenth)
            both = lowest_by_hash(names, labels, lambda size: 2 * _tenth(size))
            found[name] = {"train": ~both, "validation": tenth, "id": both & ~tenth}
        for part in ("validation", "id"):
            if not any(of[part].any() for of in found.values()):
                raise DataError(f"{self.name}: a tenth of the pool is no image; add images.")
        return found

    @property
    def _shifts(self) -> list[str]:
        return [name for name in self.domains if name not in self.pool]

    @cached_property
    def card(self) -> DatasetCard:
        """The card; its version is one of the images of all domains, its fingerprint also of the pool.

        DataError where two sets are the same images.
        """
        overlaps.refuse_same_folders(self.name, self.trees)
        overlaps.refuse_copies(self.name, self.parts, self.shared)
        pooled = f"a tenth of {', '.join(self.pool)} by hash"
        sets = [
            EvalSet("validation", "validation", f"{pooled}; every choice is made here", _UNKNOWN, "yes, other images"),
            EvalSet("id", "id", pooled.replace("a tenth", "another tenth"), _UNKNOWN, "yes, other images"),
            *(EvalSet(name, "shift", f"the domain {name}", _UNKNOWN, "no") for name in self._shifts),
        ]
        names, content = tuple(self._classes.values()), self._content()
        prompts = self._prompts
        about = json.dumps([content, list(self._classes), names, prompts, list(self.pool), self.size, self.randomness])
        summary = f"{len(names)} classes in {len(self.domains)} domains, trained on {', '.join(self.pool)}"
        version, fingerprint = f"{self.path.name}-{content[:12]}", hashlib.sha256(about.encode()).hexdigest()
        return DatasetCard(self.name, version, summary, names, prompts, tuple(sets), fingerprint)

    @property
    def _prompts(self) -> tuple[str, ...]:
        path = self.path / "prompts.txt"
        return read_prompts(path, self.name) if path.exists() else DEFAULT_PROMPTS

    def _content(self) -> str:
        """sha256 over the names and bytes of all images."""
        digest = hashlib.sha256()
        for name, tree in self.trees.items():
            for i, content in enumerate(self._contents[name]):
                digest.update(json.dumps([name, tree.name(i), content.tobytes().hex()]).encode())
        return digest.hexdigest()

    @cached_property
    def _contents(self) -> dict[str, np.ndarray]:
        """Domain -> (N, 32) uint8 sha256 of its files."""
        return {name: tree.contents(f"{self.name}, {name}") for name, tree in self.trees.items()}

    @property
    def passed_over(self) -> dict[str, tuple[int, str]]:
        """Domain -> how many entries in it are no images of a class, and the first; those without any left out."""
        return {name: tree.passed for name, tree in self.trees.items() if tree.passed[0]}

    @cached_property
    def parts(self) -> list[overlaps.Part]:
        """What each set holds."""
        found = []
        for role in ("train", "validation", "id"):
            pictures, _, _ = self._of_pool(role)
            digests = np.concatenate([self._contents[name][self._held_out[name][role]] for name in self.pool])
            found.append(overlaps.Part(role, role, digests, pictures.name, role != "id"))
        for name in self._shifts:
            found.append(overlaps.Part(name, name, self._contents[name], self.trees[name].name))
        return found

    @cached_property
    def shared(self) -> list[overlaps.Shared]:
        """The pairs of sets that share images."""
        return overlaps.shared(self.parts)

    @property
    def counted(self) -> tuple[bool, str]:
        """Whether it has the images of DomainBed's data, where its domains are those of one of them, and a sentence on
        that."""
        name = next((name for name, counts in PUBLISHED.items() if counts.keys() == self.trees.keys()), None)
        if name is None:
            return True, ""
        found, total = {domain: len(tree) for domain, tree in self.trees.items()}, sum(PUBLISHED[name].values())
        images = sum(found.values())
        if images == LATER.get(name):
            text = f"as many as DomainBed's script gives now; its table has {total:,}, which are other images"
            return True, f"{self.name}: {images:,} images of {name}, {text}."
        wrong = [f"{found[d]:,} of {d} and not {n:,}" for d, n in PUBLISHED[name].items() if found[d] != n]
        if not wrong:
            return True, f"{self.name}: {images:,} images of {name}, of each domain as many as DomainBed's."
        fix = "unpack its archive again, or say beside the numbers that they are of other images"
        return False, f"{self.name}: DomainBed's {name} has {total:,} images, here are {', '.join(wrong)}; {fix}."

    def _of_pool(self, role: str) -> tuple[Picked, np.ndarray, list[str]]:
        """Pictures, labels and domains of train, validation or id, domain by domain."""
        trees = tuple(self.trees[name] for name in self.pool)
        rows = np.flatnonzero(np.concatenate([self._held_out[name][role] for name in self.pool]))
        labels = np.concatenate([self._labels[name] for name in self.pool])[rows]
        domains = np.repeat(np.array(self.pool, dtype=object), [len(tree) for tree in trees])[rows]
        return Picked(TreesPictures.of(self.pool, trees), rows), labels, domains.tolist()

    def eval_data(self, name: str) -> ImageSet:
        """The evaluation set of that name; DataError where there is none."""
        if name in ("validation", "id"):
            pictures, labels, domains = self._of_pool(name)
            return self.image_set(name, pictures, labels, groups=domains)
        if name not in self._shifts:
            raise DataError(f"{self.name} has no set {name!r}; it has validation, id, {', '.join(self._shifts)}.")
        whole = TreesPictures.of((name,), (self.trees[name],))
        return self.image_set(name, whole, self._labels[name])

    @cached_property
    def _trained(self) -> tuple[Picked, np.ndarray]:
        pictures, labels, _ = self._of_pool("train")
        return pictures, labels


def _tenth(size: int) -> int:
    """Images of a class that one of the two held out parts has."""
    return max(1, round(size / 10)) if size > 2 else 0
