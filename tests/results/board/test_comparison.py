"""What signs, bold numbers and the smallest difference of a table are worth: simulated boards whose truth is known."""

import re

import numpy as np
import pytest

from robustft.results.board.comparison import Judge, resolution, verdict
from robustft.results.board.per_sample import SetScores
from robustft.results.board.rows import Row, Section
from robustft.results.metrics.metrics import bin_edges, binned
from robustft.results.statistics.jackknife import pseudovalues
from robustft.results.statistics.paired import holm, paired, resolvable
from robustft.results.statistics.seed_summary import LEVEL
from robustft.results.tables.page import signs_of

pytestmark = pytest.mark.computes

IMAGES = 80


class Simulated:
    """Per-sample files that were never written: scores of (seeds, images) on the set ood, by method."""

    def __init__(self, tables):
        self.tables, self.compared = tables, {}

    def scores(self, benchmark, row, name, score="accuracy"):
        table = self.tables.get(row.method)
        units = np.array([f"{i:03d}" for i in range(IMAGES)])
        return None if table is None else SetScores(units, np.ones(IMAGES, dtype=int), table)

    def differences(self, *rows):
        return {}


def row_of(method, table, pooled=False):
    values = {column: dict(enumerate(table.mean(axis=1).tolist())) for column in ("acc/ood", "acc_ood_mean")}
    runs = {seed: f"{method}{seed}" for seed in range(len(table))}
    about = {"tuned": {}, "chosen": {}, "settings": {"steps": 500}, "tuning": (), "trials": 9}
    return Row(method, 1, "b", "local", ("one_se",), tuple(runs), values, **about, pooled=pooled, runs=runs)


def board_of(tables, pooled=()):
    rows = [row_of(method, table, method in pooled) for method, table in tables.items()]
    return Section("sim", "v", "common", "f", "id", ("ood",), (), tuple(rows)), rows


def tables_of(rng, methods, seeds=3, seed_sd=0.01, image_sd=0.2):
    """Method -> (seeds, images) scores, around the mean that is given."""
    return {
        method: mean
        + rng.normal(scale=seed_sd, size=(seeds, 1))
        + rng.normal(scale=image_sd, size=(1, IMAGES))
        + rng.normal(scale=0.05, size=(seeds, IMAGES))
        for method, mean in methods.items()
    }


# The best row


def test_a_row_that_cannot_be_tested_is_never_bold_and_takes_no_test_from_the_others():
    """A soup as good as ft is ahead of it in half of all boards; flyp is 15 points, some five errors, behind both."""
    rng, ahead, told = np.random.default_rng(0), 0, 0
    for _ in range(100):
        tables = tables_of(rng, {"soup": 0.7, "ft": 0.7, "flyp": 0.55})
        tables["soup"] = tables["soup"][:1]
        section, rows = board_of(tables, pooled={"soup"})
        found = Judge(Simulated(tables)).verdict(section, rows, "acc_ood_mean")
        signs = signs_of(rows, "acc_ood_mean", found)
        assert found.best == {1} and signs[0] == "?"
        ahead += rows[0].mean("acc_ood_mean") > rows[1].mean("acc_ood_mean")
        told += 2 not in signs
    assert 30 <= ahead <= 70  # where the soup was the bold one, no row was tested
    assert told >= 90


def test_one_seed_or_no_files_is_neither_bold_nor_the_measure_of_others():
    tables = tables_of(np.random.default_rng(1), {"one": 0.9, "lost": 0.95, "ft": 0.7, "flyp": 0.4})
    tables["one"] = tables["one"][:1]
    section, rows = board_of(tables)
    kept = {method: table for method, table in tables.items() if method != "lost"}
    found = verdict(Simulated(kept), section, rows, "acc_ood_mean")
    assert found.best == {2} and signs_of(rows, "acc_ood_mean", found) == {0: "?", 1: "?"}
    assert found.against[0].gap < 0  # it is ahead of the bold one
    nothing = verdict(Simulated({}), section, rows, "acc_ood_mean")
    assert not nothing.best and set(signs_of(rows, "acc_ood_mean", nothing).values()) == {"?"}
    alone = verdict(Simulated({"ft": tables["ft"]}), section, rows, "acc_ood_mean")
    assert not alone.best  # the only testable row is the best of nothing
    assert not Judge(Simulated(tables)).verdict(section, rows, "acc_forgotten").best  # no samples give that column


# The smallest difference


def test_the_smallest_difference_is_found_by_the_signs_as_often_as_it_says():
    """16 rows stand against a best that is ahead of each by what the sentence says; 80 % must lose their ≈."""
    rng, seeds, rows, replicates = np.random.default_rng(2), 5, 17, 300
    tables = tables_of(rng, dict.fromkeys([f"m{i}" for i in range(rows)], 0.5), seeds, seed_sd=0.0)
    said = resolution(Simulated(tables), *board_of(tables))
    size = float(re.search(r"power\): ([\d.]+) points, median", said)[1]) / 100

    def found(size):
        table = rng.normal(scale=0.2, size=(replicates, rows, 1, IMAGES))
        table = table + rng.normal(scale=0.05, size=(replicates, rows, seeds, IMAGES))
        p = paired([size + table[:, :1] - table[:, 1:]]).p
        return np.mean([np.array(holm(each.tolist()))[0] <= LEVEL for each in p])

    assert found(size) >= 0.75
    assert found(size * resolvable(1, 100) / resolvable(1, 100, level=LEVEL / (rows - 1))) < 0.65  # a pair's, alone


def test_the_sentence_names_the_level_of_the_signs():
    rng = np.random.default_rng(3)
    tables = tables_of(rng, {"ft": 0.7, "flyp": 0.6, "ema": 0.5, "soup": 0.9})
    tables["soup"] = tables["soup"][:1]
    section, rows = board_of(tables, pooled={"soup"})
    said = resolution(Simulated(tables), section, rows)
    assert f"on {IMAGES} source images resolve (two-sided 5 % / 2, the level at which Holm" in said
    two, pair = board_of({method: tables[method] for method in ("ft", "flyp")})
    assert "(two-sided 5 %, 80 % power)" in resolution(Simulated(tables), two, pair)


# Calibration errors


UNITS, SHOWN, SEEDS = 150, 4, 3


def calibrated(rng, over, hard, replicates):
    """(replicates, seeds, N) confidences and whether right, of N = UNITS * SHOWN renderings, image by image.

    Args:
        over: (replicates, seeds) or a number: how much larger a confidence is than the chance of being right.
        hard: (replicates, 1, N) what an image adds to that chance for every model.
    """
    shape = (replicates, SEEDS, UNITS * SHOWN)
    chance = np.clip(rng.uniform(0.3, 0.9, size=shape), 0.02, 0.98)
    right = rng.random(shape) < np.clip(chance + hard, 0, 1)
    return np.clip(chance + np.reshape(over, (*np.shape(over), *[1] * (3 - np.ndim(over)))), 0, 1), right


def pseudo_of(confidence, right):
    """(replicates, seeds, UNITS) pseudovalues of the ECE."""
    unit = np.repeat(np.arange(UNITS), SHOWN)
    confidence, index = binned(confidence, bin_edges(15))
    made = []
    for c, r, b in zip(*(part.reshape(-1, UNITS * SHOWN) for part in (confidence, right, index)), strict=True):
        columns = {"label": r.astype(int), "prediction": np.ones(len(r), int), "confidence": c, "bin": b}
        made.append(pseudovalues("ece", columns, unit, UNITS))
    return np.reshape(made, (*confidence.shape[:2], UNITS))


@pytest.mark.parametrize("kind", ["calibrated", "too sure", "one too sure, one too modest", "seeds differ"])
def test_two_models_of_one_ece_are_told_apart_no_more_often_than_said(kind):
    """Calibrated models are the worst case of a jackknife: every bin is at its kink. 200 boards, one error 1.5 %."""
    replicates = 200
    rng = np.random.default_rng([4, len(kind)])
    hard = np.repeat(rng.normal(scale=0.15, size=(replicates, 1, UNITS)), SHOWN, axis=2)
    over = {"calibrated": (0.0, 0.0), "too sure": (0.1, 0.1), "one too sure, one too modest": (0.1, -0.1)}.get(kind)
    if over is None:
        over = tuple(0.1 + rng.normal(scale=0.02, size=(replicates, SEEDS)) for _ in range(2))
    first, second = (pseudo_of(*calibrated(rng, each, hard, replicates)) for each in over)
    p = paired([first - second]).p
    assert np.mean(p <= 0.05) <= 0.095
    worse = pseudo_of(*calibrated(rng, 0.2, hard, replicates))
    assert np.mean(paired([first - worse]).p <= 0.05) >= 0.5  # and ten points of ECE are seen


def test_what_an_image_moves_the_ece_by_is_the_ece_without_it():
    rng = np.random.default_rng(5)
    confidence, right = rng.uniform(0.3, 1, 60), rng.random(60) < 0.6
    unit = np.repeat(np.arange(20), 3)
    kept, index = binned(confidence, bin_edges(15))
    columns = {"label": right.astype(int), "prediction": np.ones(60, int), "confidence": kept, "bin": index}
    found = pseudovalues("ece", columns, unit, 20)

    from robustft.results.metrics.calibration import ece

    whole, without = ece(confidence, right), [ece(confidence[unit != u], right[unit != u]) for u in range(20)]
    assert found.mean() == pytest.approx(whole)
    assert found == pytest.approx(whole + 19 * (np.mean(without) - without))
