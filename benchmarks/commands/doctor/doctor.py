"""`robustft doctor`: is everything that a benchmark needs on this machine, and whole?"""

import hashlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from rich.console import Console
from rich.table import Table

from .... import backbones
from ....datasets import catalogue
from ....datasets.card import DataError, Dataset
from ....datasets.image_folders import ROOT_VARIABLE
from ....datasets.inventory import Holding, first_unreadable, holdings
from ...errors import UserError
from ...host import plugins
from ...host.printed import counted
from ...planning import captions, data_check
from ...planning.benchmark import include
from ...planning.data_check import many_cores
from ...planning.suite.suite import Suite, find, load
from . import machine

NOWHERE = Path(f"${ROOT_VARIABLE}")
"""Stands for the data root where none is given, so that sentences say where things would be."""


class Doctor:
    """One look at a machine.

    Args:
        console: where findings go.
        fast: count images and do not decode them.
        named: name of a suite -> as it was asked for, which may be its file.
    """

    def __init__(self, console: Console, fast: bool, named: Mapping[str, str] = MappingProxyType({})) -> None:
        self.console, self.fast, self.named = console, fast, named
        self.root = Path(os.environ.get(ROOT_VARIABLE) or NOWHERE)
        self.whole = True

    def examine(self, suites: list[Suite], runs: Path, everything: bool) -> None:
        """Machine, weights and data of these suites; `everything` also looks at registered data of no suite."""
        given = self.root != NOWHERE
        roots = {"data root": self.root, "runs": runs} if given and self.root.is_dir() else {"runs": runs}
        for line in machine.lines(roots):
            self.say(line)
        if not given:
            self.say(f"no data root: set {ROOT_VARIABLE}, or pass --data")
        elif not self.root.is_dir():
            self.fault(f"data root {self.root}: no such folder; set {ROOT_VARIABLE}, or pass --data")
        wanted = dict.fromkeys(backbones.names() if everything else [], "BENCHMARK")
        for suite in suites:
            for name in suite.backbones:
                wanted.setdefault(name, suite.name)
        for name, benchmark in wanted.items():
            self.weights(name, benchmark)
        for sentence in self.unused_weights():
            self.fault(sentence)
        named = [suite.dataset_of(recipe) for suite in suites for recipe in suite.recipe_names]
        for name in dict.fromkeys(map(catalogue.same_files, named or catalogue.names())):
            self.dataset(name)
        for suite in suites:
            for name in dict.fromkeys(map(suite.dataset_of, suite.recipe_names)):
                self.captions(name, suite.backbones)

    def captions(self, dataset: str, encoders: list[str]) -> None:
        """A sentence on the classes of a dataset that have one and the same caption to one of these backbones."""
        for encoder in encoders:
            try:
                twins = captions.check(catalogue.get(dataset, root=self.root), dataset, encoder)
            except backbones.BackboneError:
                continue  # said of its weights
            except UserError as error:
                self.fault(str(error))
            except DataError:
                return  # said of the data
            else:
                if twins:
                    self.say(f"{twins}.")

    def unused_weights(self) -> list[str]:
        """On the files in the folder of one's own weights that no backbone takes."""
        try:
            return backbones.unused_weights()
        except backbones.BackboneError:
            return []  # said of each backbone

    def weights(self, name: str, benchmark: str) -> None:
        """One line on the weights of a backbone, which `benchmark` uses."""
        try:
            there = backbones.available(name)
            doubt = backbones.examine(name, thorough=not self.fast)
        except backbones.UnusedWeights:
            return None  # said once, for it is of the folder and not of this backbone
        except backbones.BackboneError as error:
            return self.fault(f"weights of {name}: {error}")
        if there:
            but = f"; but {doubt}" if doubt else ""
            self.say(f"weights of {name}: {backbones.local_weights(name) or 'on this machine'}{but}")
        elif backbones.how_to_make(name):
            self.fault(f"weights of {name}: not made on this machine yet; run {backbones.how_to_make(name)}")
        else:
            command = f"`robustft doctor --prefetch {self.named.get(benchmark, benchmark)}`"
            self.fault(f"weights of {name}: not on this machine; fetch them with {command} where there is network")

    def dataset(self, name: str) -> None:
        """A table of the sets of a dataset, and a sentence on each thing that is wrong with them."""
        shown = name.replace(f"{catalogue.PRESENT}=", "classes present: ")
        if catalogue.comes_with_package(name):
            of = "a plug-in" if catalogue.retention_of(name)[0] in catalogue.BROUGHT else "this package"
            return self.say(f"{name}: comes with {of}")
        try:
            strict, partial = (catalogue.get(name, root=self.root, allow_partial=p) for p in (False, True))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = list(holdings(strict, partial))
        except DataError as error:  # one's own data, of which not even the card can be made
            self.fault(str(error))
            base, shifts = catalogue.parts(name)
            return self.dataset(base) if shifts else None
        if all(entry.absent for entry in found):
            self.say(f"{shown}: nothing of it is there")
        else:
            self.console.print(_table(shown, found))
        for entry in found:
            if entry.compressed:
                slow = f"{counted(entry.compressed, 'image')} in compressed tables, each read with its row group"
                self.say(f"{shown}, {entry.name}: {slow}; in shards of `robustft data pack` each is read alone")
        for sentence in dict.fromkeys(entry.problem for entry in found if entry.problem):
            self.fault(sentence)
        for part, (count, first) in data_check.passed_over(partial).items():
            about = f"{counted(count, 'entry', 'entries')} passed over, no images in a class folder, as {first}"
            self.say(f"{partial.card.name}, {part}: {about}")
        for sentence in data_check.doubts(partial):
            self.fault(sentence)
        right, sentence = data_check.counts(partial)
        if right and sentence:
            self.say(sentence)
        for sentence in (*data_check.permitted(partial), *data_check.copies_in_train(partial)):
            self.say(sentence)
        validation = partial.card.names("validation")
        listed = any(entry.images for entry in found if entry.name in validation) and data_check.withheld(partial)
        if listed:
            digest = hashlib.sha256(listed).hexdigest()
            self.say(f"{partial.card.name}: validation is withheld from train by a rule; sha256 of its list: {digest}")
        if not self.fast:
            self.decode(partial, found)

    def decode(self, data: Dataset, found: list[Holding]) -> None:
        """Read every image that is there once."""
        for entry in found:
            if entry.images:
                images = entry.images if entry.used is None else entry.used
                workers = many_cores(images)
                if workers:
                    self.say(f"{data.card.name}, {entry.name}: reading {counted(images, 'image')}, {workers} at a time")
                bad = first_unreadable(data, entry.name, workers)
                if bad:
                    self.fault(f"first unreadable file of {entry.name}: {bad}")
                else:
                    self.say(f"{data.card.name}, {entry.name}: every image can be read")

    def zero_shot(self, suite: Suite, device: str) -> None:
        """The acceptance lines of a suite's backbones on its data."""
        from . import zero_shot_check

        for name in suite.backbones:
            size, resizing = backbones.image_size(name), backbones.resizing(name)
            data = catalogue.get(suite.dataset, root=self.root, size=size, resizing=resizing)
            try:
                lines = list(zero_shot_check.measure(data, name, device))
            except backbones.BackboneError as error:
                self.fault(f"zero-shot accuracy of {name}: not measured: {error}")
                continue
            if not lines:
                self.say(f"{name} on {suite.dataset}: no zero-shot accuracy is printed to compare with")
            for line in lines:
                (self.fault if line.holds is False or line.found is None else self.say)(line.text())

    def say(self, line: str) -> None:
        """Print a line that reports no fault."""
        self.console.print(line, markup=False, soft_wrap=True)

    def fault(self, line: str) -> None:
        """A line on something that is missing or wrong."""
        self.whole = False
        self.say(f"! {line}")


def _table(name: str, found: list[Holding]) -> Table:
    table = Table("set", "images", "of", "classes", "of", "state", title=name, title_justify="left")
    for entry in found:
        counts = [entry.images, entry.expected, entry.classes, entry.of_classes]
        cells = ["" if n is None else str(n) for n in counts]
        cells[0] += f" in {counted(entry.shards, 'shard')}" if entry.shards else ""
        cells[0] += "" if entry.used is None else f", {entry.used} of them in it"
        table.add_row(entry.name, *cells, _state(entry))
    return table


def _state(entry: Holding) -> str:
    if not entry.problem:
        return "complete" if entry.expected is not None else "there"
    if entry.images is not None:
        return "not complete"
    return "missing" if entry.absent else "cannot be used"


def run(
    console: Console,
    benchmarks: tuple[str, ...],
    fast: bool,
    zero_shot: bool,
    prefetch: str | None,
    runs: Path,
    device: str,
) -> int:
    """Exit code 1 where a named suite lacks something, else 0."""
    if prefetch is not None:
        return _prefetch(prefetch, console)
    suites = [load(path) for path in map(find, benchmarks)]
    for path, suite in zip(map(find, benchmarks), suites, strict=True):
        include(path, suite)
    for line in plugins.lines():
        console.print(line, markup=False, soft_wrap=True)
    if zero_shot and not suites:
        raise UserError("doctor: --zero-shot needs a benchmark, got none; write for example doctor imagenet.")
    named = {suite.name: name for suite, name in zip(suites, benchmarks, strict=True)}
    look = Doctor(console, fast or zero_shot, named)
    look.examine(suites, runs, everything=not suites)
    if zero_shot:
        for suite in suites:
            look.zero_shot(suite, device)
    if suites:
        whole = "all that is needed is there" + (", by its count: no image was opened" if fast else "")
        console.print(whole if look.whole else "something is missing or wrong, see ! above")
    return 0 if look.whole or not suites else 1


def _prefetch(name: str, console: Console) -> int:
    from . import prefetch

    prefetch.allow_network()
    prefetch.fetch(load(find(name)), lambda line: console.print(line, markup=False, soft_wrap=True), name)
    console.print("what the hub has is on this machine; jobs and all other commands ask no network (HF_HUB_OFFLINE=1)")
    return 0
