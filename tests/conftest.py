"""What every test shares: one thread, no network, and no skipped test in CI."""

import gc
import os
from functools import lru_cache, partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the thread count changes bits
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("COLUMNS", None)  # readline sets it for what its process starts, the workers of xdist for example

import pytest

DATASETS = Path(__file__).parent / "datasets"
IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


def prepare_torch():
    """What a process that runs tests needs before their files are imported."""
    import torch

    from robustft.backbones.torchvision_ops import declare_missing_operators

    declare_missing_operators()  # torchmetrics imports torchvision
    torch.set_num_threads(1)


def pytest_configure(config):
    """xdist's first process hands out tests and runs none.

    Importing and collecting makes objects that stay: looking for garbage among them finds none (a sixth of the time).
    """
    gc.disable()
    if hasattr(config, "workerinput") or not getattr(config.option, "numprocesses", None):
        prepare_torch()


def pytest_collection_finish(session):
    """Modules and tests live to the end: no collection of garbage has to look through their objects again.

    What is new is looked through less often than by default (every 700 objects), which a figure of thousands pays for.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)
    gc.enable()


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory):
    """No data, weights or cache folder of the user's, nor of a test before: `--data` sets a variable for good."""
    monkeypatch.setenv("ROBUSTFT_CACHE", str(tmp_path_factory.getbasetemp() / "contents"))
    for name in ("ROBUSTFT_DATA", "ROBUSTFT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk():
    """What a test reads it gets from the page cache; only a machine that loses power would miss fsync.

    Processes that a test starts do call it, those of tests/faults among them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def painted():
    """`RenderedSet.images` that paints a picture once in this process: it is a function of painter, image and key."""
    import numpy as np

    @lru_cache(maxsize=512)
    def known(painter, numbers, keys, kind):
        return painter(np.frombuffer(numbers, np.int64), np.frombuffer(keys, kind))

    def images(self, start, stop):
        numbers, keys = self._images[start:stop], self.keys[start:stop]
        return known(self._painter, numbers.tobytes(), keys.tobytes(), keys.dtype.str).clone()

    return images


@pytest.fixture(scope="module", autouse=True)
def pictures_are_painted_once(request, painted):
    """Hundreds of runs are evaluated on the same digits. The tests of datasets/ paint them anew."""
    from robustft.datasets.digits import RenderedSet

    with pytest.MonkeyPatch.context() as patch:
        if DATASETS not in request.path.parents:
            patch.setattr(RenderedSet, "images", painted)
        yield


@pytest.fixture
def fresh_data():
    """No dataset of another test's files."""
    from robustft.benchmarks.planning import benchmark as facts

    for cached in (facts.dataset, facts.data_facts):
        cached.cache_clear()
    yield
    for cached in (facts.dataset, facts.data_facts):
        cached.cache_clear()


@pytest.fixture
def runs_here(monkeypatch):
    """Commands make their runs in this process: for tests whose subject is not the workers (`runs_kit.run_here`)."""
    from runs_kit import run_here

    from robustft.benchmarks.executors.local import Launcher

    monkeypatch.setattr(Launcher, "run", run_here)


@pytest.fixture
def few_pictures():
    """Evaluation sets of `digits` with a quarter of their pictures, for runs of this process (`runs_here`)."""
    from robustft.benchmarks.host import plugins
    from robustft.datasets import digits

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "RENDERINGS", 1)
        plugins._changed()  # what is remembered of a dataset is asked anew
        yield
    plugins._changed()


@pytest.fixture(scope="module")
def few_probes():
    """A teacher is measured on 32 images, not 256, which take longer than the runs of a few steps that it teaches."""
    from robustft.methods.training import dynamics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "PROBE_IMAGES", 32)
        yield


@pytest.fixture(scope="module")
def no_reference():
    """Boards have the rows of local runs alone, for tests of them: most of a board's time goes into the reference."""
    from robustft.results.records import records

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records, "gather_reference", lambda *_, **__: [])
        yield


@pytest.fixture
def few_figures(monkeypatch):
    """Reports, and `figures all`, draw two of all figures: for tests whose subject is not drawing."""
    from robustft.results.plots import gallery

    kept = {name: gallery.ENTRIES[name] for name in ("id_ood", "layers")}
    monkeypatch.setattr(gallery, "ENTRIES", kept)
    return kept


@pytest.fixture
def drawn_once(monkeypatch, tmp_path_factory):
    """A figure is drawn by the first test that asks for it, of all processes: for tests whose subject is not drawing.

    As `robustft figures` keeps them: under the sha256 of all that a figure depends on, our code among it.
    """
    from robustft.results.plots import drawn, gallery

    base, make, known = tmp_path_factory.getbasetemp(), gallery.make, {}
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "drawn"

    def found_or_made(name, material, png=True):
        _, digest = known.setdefault(id(material), (material, None))
        digest = digest or drawn.digest(material)
        known[id(material)] = material, digest
        album = drawn.Album(folder, digest, digest)
        files = album.find(name, png)
        if files is None:
            files = make(name, material, png)
            album.keep(name, files)
        return files

    monkeypatch.setattr(gallery, "make", found_or_made)


@pytest.fixture(scope="session")
def imagenet_tree(tmp_path_factory):
    """All class folders of ImageNet and its shifts, and a few images: to read, never to change."""
    from imagenet_kit import write_tree

    root = tmp_path_factory.mktemp("imagenet")
    write_tree(root)
    return root


@pytest.fixture(scope="session")
def iwildcam(tmp_path_factory):
    """The root of a tiny iWildCam: to read, never to change."""
    return _wilds("iwildcam", tmp_path_factory)


@pytest.fixture(scope="session")
def fmow(tmp_path_factory):
    """The root of a tiny FMoW: to read, never to change."""
    return _wilds("fmow", tmp_path_factory)


@pytest.fixture(scope="session")
def camelyon(tmp_path_factory):
    """The root of a tiny Camelyon17: to read, never to change."""
    return _wilds("camelyon", tmp_path_factory)


def _wilds(name, tmp_path_factory):
    import wilds_kit

    root = tmp_path_factory.mktemp(name)
    getattr(wilds_kit, name)(root)
    return root


@pytest.fixture
def ways(monkeypatch):
    """In which way each picture is made from its file, in the order of making: a list that a test may clear."""
    from robustft.datasets import decoding, image_sets, mnist

    made = []

    def recorded(view, *arguments):
        made.append(arguments[3] if len(arguments) > 3 else "exact")
        return view(*arguments)

    for module, name in ((image_sets, "eval_view"), (image_sets, "random_view"), (mnist, "eval_view")):
        monkeypatch.setattr(module, name, partial(recorded, getattr(decoding, name)))
    return made


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is a failed one: nothing may stay green because something was not there."""
    report = yield
    if IN_CI and report.skipped and not hasattr(report, "wasxfail"):
        reason = call.excinfo.value if call.excinfo else "no reason given"
        report.outcome, report.longrepr = "failed", f"{item.nodeid}: skipped in CI: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    report = yield
    if IN_CI and report.skipped:
        report.outcome, report.longrepr = "failed", f"{collector.nodeid}: skipped in CI: {report.longrepr}"
    return report
