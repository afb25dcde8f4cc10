"""A run on image files, as the worker makes it: how they are decoded is what it is, who loads them is not."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from robustft.benchmarks.commands import sweep
from robustft.benchmarks.execution import run
from robustft.benchmarks.execution.predict import validation_nlls
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.planning.request import Request
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.benchmarks.run_folder.plan import Plan
from robustft.datasets import catalogue
from robustft.results.records.records import read_record

CLASSES = {"a": "six", "b": "seventeen"}  # captions of unlike length


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    root = tmp_path_factory.mktemp("own")
    noise = np.random.default_rng(0)
    for folder, count in (("train", 8), ("id_val", 2), ("id_test", 3), ("shift", 2)):
        for label in CLASSES:
            (root / "data" / folder / label).mkdir(parents=True)
            for k in range(count):
                pixels = noise.integers(0, 256, (50, 60 + k, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "data" / folder / label / f"{k}.jpg", quality=90)
    (root / "data" / "classes.txt").write_text("".join(f"{key}\t{name}\n" for key, name in CLASSES.items()))
    content = {
        "name": "mine",
        "dataset": f"folder:{root / 'data'}",
        "version": "own",
        "backbones": ["tiny-vit-p8"],
        "methods": ["flyp"],
        "seeds": [0],
        "decode": "fast",
        "recipes": {"common": {"steps": 5, "batch_size": 6, "lr": 1e-4, "weight_decay": 0.1}},
    }
    (root / "mine.yaml").write_text(yaml.safe_dump(content))
    return str(root / "mine.yaml")


def record_of(suite, runs, workers, *settings, method="flyp"):
    benchmark = sweep.load(suite)
    (planned,) = sweep.expand(benchmark, Request((method,), settings=settings))
    folder = RunFolder.of(runs, planned.spec)
    selection = sweep.selection_of(benchmark, planned.spec)
    Plan(planned.spec, benchmark.suite.dataset, planned.sources, selection).write(folder)
    outcome = work(folder.path, Options(workers=workers), lambda: False)
    assert outcome["event"] == "done", outcome
    return read_record(folder.record)


def test_loading_processes_change_nothing_and_the_way_of_decoding_is_another_run(suite, tmp_path):
    alone = record_of(suite, tmp_path / "alone", 0)
    helped = record_of(suite, tmp_path / "helped", None)  # the default: one for the one thread
    exact = record_of(suite, tmp_path / "exact", 0, "decode=exact")
    assert alone["spec"]["decode"] == "fast" and alone["sources"]["decode"] == "suite mine"
    assert exact["spec"]["decode"] == "exact" and exact["sources"]["decode"] == "--set"
    assert helped["run_id"] == alone["run_id"] != exact["run_id"]
    assert helped["info"]["weights_sha256"] == alone["info"]["weights_sha256"] != exact["info"]["weights_sha256"]
    assert helped["sets"] == alone["sets"]


def test_a_method_chooses_on_the_withheld_images_alone(suite, tmp_path, monkeypatch):
    """LP-FT between several C: neither the test set nor a shift may have a say."""
    seen = []

    def watched(makers, data, **how):
        seen.append((data.name, tuple(data.sample_ids)))
        losses = validation_nlls(makers, data, **how)
        alone = [validation_nlls([maker], data, **how) for maker in makers]
        assert losses == [one for (one,) in alone] and len(set(losses)) == 2  # the images are encoded once for both
        return losses

    monkeypatch.setattr(run, "validation_nlls", watched)
    settings = ("c_points=2", "c_min=0.01", "c_max=1", "renderings=1")
    record = record_of(suite, tmp_path, 0, *settings, method="lp_ft")
    data = catalogue.get(yaml.safe_load(Path(suite).read_text())["dataset"], size=32)
    withheld = tuple(data.eval_data("validation").sample_ids)
    assert seen == [("validation", withheld)] and not set(withheld) & set(data.train_names())
    assert record["info"]["probe_c"] in (0.01, 1)
