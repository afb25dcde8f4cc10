"""What every test shares: one thread, no network, and no skipped test in CI."""

import os
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: the thread count changes bits
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "disabled")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.pop("COLUMNS", None)  # readline sets it for what its process starts, the workers of xdist for example

import pytest
import torch

from robustft.backbones.torchvision_ops import declare_missing_operators

declare_missing_operators()  # torchmetrics imports torchvision
torch.set_num_threads(1)

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path_factory):
    """No data, weights or cache folder of the user's, nor of a test before: `--data` sets a variable for good."""
    monkeypatch.setenv("ROBUSTFT_CACHE", str(tmp_path_factory.getbasetemp() / "contents"))
    for name in ("ROBUSTFT_DATA", "ROBUSTFT_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


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
