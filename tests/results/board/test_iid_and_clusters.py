"""Sets that are no shift stay out of every mean, and images of few sources are no independent draws."""

import json

import numpy as np
import pytest
from make_records import make_record

from robustft.datasets.card import DataError, EvalSet
from robustft.results.board.comparison import compare, resolution
from robustft.results.board.per_sample import Outcomes
from robustft.results.board.rows import Row, Section
from robustft.results.records.schema import parse, validate
from robustft.results.statistics.paired import paired
from robustft.results.tables.leaderboard import build

pytestmark = pytest.mark.computes

DIGITS = "645be685591f4524e3b985f20e396aff8ebe74b6c22e80ca1e683e1ee10f4b4e"
STARTS = ("000", "130", "260")
UNITS = np.array([f"{i:03d}" for i in range(375)], dtype=object)


# i.i.d. sets


def test_a_card_whose_shift_occurs_in_finetuning_is_refused():
    with pytest.raises(
        DataError, match="set fresh: role must not be 'shift' where in_finetuning is 'yes, other images'"
    ):
        EvalSet("fresh", "shift", "new images", "no", "yes, other images")
    for role, occurs in (("iid", "yes"), ("id", "yes"), ("shift", "5 % of the images"), ("shift", "no")):
        EvalSet("other", role, "new images", "no", occurs)


def earlier(**more):
    """A record of digits as it was written when `fresh` was called a shift."""
    return make_record(spec={"fingerprint": DIGITS}, **more)


@pytest.mark.parametrize("read", [lambda record: parse(json.dumps(record).encode()), validate])
def test_an_earlier_record_of_digits_is_read_with_the_roles_of_today(read):
    record = earlier()
    assert record["summary"]["acc_ood_mean"] == pytest.approx(0.77)  # 79, 78, 77, 76, 75
    found = read(record)
    assert found["sets"]["fresh"]["role"] == "iid"
    assert found["summary"]["acc_ood_mean"] == pytest.approx(0.765)
    assert found["summary"]["ece_ood_mean"] == pytest.approx(0.085)  # .07 to .10
    assert found["info"]["clusters"] == {"writers": ["0516", "0906", "1545"]}
    assert read(found) == found
    other = read(make_record())
    assert other["sets"]["fresh"]["role"] == "shift" and other["info"] == {}


def test_no_mean_path_or_oracle_of_a_board_holds_an_iid_set_and_it_says_so():
    line = {0.0: 0.7, 0.5: 0.8, 1.0: 0.6}
    records = [earlier(method="ft", seed=s) for s in (0, 1)] + [
        earlier(method="wise_ft", seed=s, line=line) for s in (0, 1)
    ]
    for record in records:
        for point in record.get("path", {"points": []})["points"]:
            point["sets"]["fresh"]["accuracy"] = 0.99 if point["value"] == 1.0 else 0.1
    board = build([validate(record) for record in records])
    (section,) = board.sections
    assert section.iid == ("fresh",) and section.shifts == ("renditions", "sketches", "reversed", "writers")
    (path,) = section.paths
    assert [stop.ood for stop in path.stops] == pytest.approx(list(line.values()))
    (oracle,) = section.aside("oracle")
    assert oracle.point == "alpha 0.5"
    rows = section.table("one_se", "tiny-vit-p8")
    assert rows[0].mean("acc_ood_mean") == pytest.approx(0.765) and rows[0].mean("acc/fresh") == pytest.approx(0.79)
    shown = board.to_markdown()
    assert "| ID | fresh | renditions |" in shown
    assert "fresh is i.i.d. and in no OOD mean." in shown


def test_a_record_that_calls_it_a_shift_beside_one_that_knows_better_is_read_as_that_one():
    known = make_record(seed=1)
    known["sets"]["fresh"]["role"] = "iid"
    (section,) = build([make_record(seed=0), known]).sections
    (row,) = section.table("one_se", "tiny-vit-p8")
    assert section.iid == ("fresh",)
    assert row.values["acc_ood_mean"] == pytest.approx({0: 0.765, 1: 0.765})


# clusters


class Held(Outcomes):
    """Files that were never written: method -> (seeds, images) whether each is right."""

    def __init__(self, right):
        super().__init__()
        self.held = right

    def columns(self, benchmark, provenance, run_id, name):
        method, seed = run_id.split(":")
        right = self.held[method][int(seed)]
        label = np.zeros(len(right), dtype=int)
        return {"sample_id": UNITS, "unit_id": UNITS, "label": label, "prediction": 1 - right.astype(int)}


def of(right, clusters):
    rows = []
    for method, table in right.items():
        values = {c: dict(enumerate(table.mean(axis=1).tolist())) for c in ("acc/writers", "acc_ood_mean")}
        runs = {seed: f"{method}:{seed}" for seed in range(len(table))}
        about = {"tuned": {}, "chosen": {}, "settings": {"steps": 500}, "tuning": (), "trials": 9}
        starts = {"writers": STARTS} if clusters else {}
        rows.append(Row(method, 1, "b", "local", ("one_se",), tuple(runs), values, **about, runs=runs, clusters=starts))
    counts = {"writers": 3} if clusters else {}
    return Section("sim", "v", "common", "f", None, ("writers",), (), tuple(rows), clusters=counts), rows


def writers(rng, seeds=3):
    """Two methods that are as good in the mean over all writers, of which three were asked."""
    found = {}
    for method in ("ft", "flyp"):
        chance = (
            0.75 + np.repeat(rng.normal(scale=0.06, size=3), (130, 130, 115)) + rng.normal(scale=0.01, size=(seeds, 1))
        )
        found[method] = rng.random((seeds, 375)) < chance
    return found


def test_an_interval_from_three_writers_covers_what_other_writers_would_show():
    rng, covered = np.random.default_rng(0), {True: [], False: []}
    for _ in range(150):
        right = writers(rng)
        for clusters in covered:
            section, rows = of(right, clusters)
            found = compare(Held(right), section, *rows, "acc/writers")
            low, high = found.interval
            covered[clusters].append(low <= 0 <= high)
            assert found.difference.images == (3 if clusters else 375)
            assert found.difference.mean == pytest.approx(right["ft"].mean() - right["flyp"].mean())
    assert np.mean(covered[False]) < 0.75  # as if 375 images were 375 writers
    assert np.mean(covered[True]) >= 0.93


@pytest.mark.parametrize("n", [3, 5])
def test_a_mean_over_shifts_one_of_which_has_three_sources_is_covered(n):
    rng, replicates = np.random.default_rng([1, n]), 2000
    seed = rng.normal(scale=0.01, size=(replicates, n, 1))
    shared = rng.normal(scale=0.2, size=(replicates, 1, 150)) + rng.normal(scale=0.2, size=(replicates, n, 150)) + seed
    few = rng.normal(scale=0.05, size=(replicates, 1, 3)) + rng.normal(scale=0.02, size=(replicates, n, 3)) + seed
    low, high = paired([3 / 4 * shared, few / 4]).interval()
    assert np.mean((low <= 0) & (high >= 0)) >= 0.935


def test_the_page_says_that_a_source_is_the_unit():
    right = writers(np.random.default_rng(2))
    section, rows = of(right, True)
    assert "paired seeds on 0 source images and 3 sources of images resolve" in resolution(Held(right), section, rows)
    shown = build([validate(earlier(method=method, seed=seed)) for method in ("ft", "flyp") for seed in (0, 1)])
    assert "Tests take sources, whose images are alike, as units: 3 of writers." in shown.to_markdown()
