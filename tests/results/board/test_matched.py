"""How far a row is from a path at its own ID accuracy: what the interval covers where the truth is known, and files."""

import numpy as np
import pytest
from make_records import make_record

from robustft.results.board.comparison import Judge
from robustft.results.board.curve import Curve, Stop
from robustft.results.board.matched import matched
from robustft.results.board.per_sample import Outcomes, SetScores
from robustft.results.board.rows import Row, Section
from robustft.results.metrics import set_metrics
from robustft.results.records import predictions
from robustft.results.records.records import summarise
from robustft.results.tables.leaderboard import build

pytestmark = pytest.mark.computes

IMAGES, SEEDS, REPLICATES = 100, 4, 300
UNITS = np.array([f"{i:03d}" for i in range(IMAGES)])
POINTS = {0.0: (0.60, 0.80), 0.5: (0.80, 0.70), 1.0: (0.90, 0.50)}  # alpha -> ID, OOD; the slope is -2 behind 0.8
ROW = (0.85, 0.65)
GAP = 0.05


class Simulated:
    """Scores of (seeds, images) on the sets id and ood, of the row and of each point of the path."""

    def __init__(self, row, points):
        self.row, self.points = row, points

    def _of(self, tables, name):
        return SetScores(UNITS, np.ones(IMAGES, dtype=int), tables[name])

    def scores(self, benchmark, row, name, score="accuracy"):
        return self._of(self.row, name)

    def at_point(self, benchmark, row, provenance, runs, at, name, score="accuracy"):
        return self._of(self.points[at[1]], name)


def simulated(rng, image_sd, seed_sd):
    """A row and a path; of a seed all points move together, and on an image all models are alike in part."""
    easy = {name: rng.normal(scale=0.5 * image_sd, size=(1, IMAGES)) for name in ("id", "ood")}

    def model(truth, common):
        tables = {}
        for name, mean in zip(("id", "ood"), truth, strict=True):
            image = easy[name] + rng.normal(scale=image_sd, size=(1, IMAGES))
            seed = common[name] + rng.normal(scale=seed_sd, size=(SEEDS, 1))
            tables[name] = mean + image + seed + rng.normal(scale=0.02, size=(SEEDS, IMAGES))
        return tables

    common = {name: rng.normal(scale=seed_sd, size=(SEEDS, 1)) for name in ("id", "ood")}
    nothing = {"id": 0.0, "ood": 0.0}
    return Simulated(model(ROW, nothing), {alpha: model(truth, common) for alpha, truth in POINTS.items()})


def means(tables):
    return {seed: (float(tables["id"][seed].mean()), float(tables["ood"][seed].mean())) for seed in range(SEEDS)}


def drawn(outcomes):
    """Section, row and curve as records of these runs would give them."""
    runs = {seed: f"r{seed}" for seed in range(SEEDS)}
    of_row = means(outcomes.row)
    values = {"acc_id": {s: x for s, (x, _) in of_row.items()}, "acc_ood_mean": {s: y for s, (_, y) in of_row.items()}}
    about = {"tuned": {}, "chosen": {}, "settings": {"steps": 500}, "tuning": (), "trials": 9}
    row = Row("flyp", 1, "b", "local", ("one_se",), tuple(runs), values, **about, runs=runs)
    stops = []
    for alpha, tables in outcomes.points.items():
        found = means(tables)
        x, y = (float(np.mean([pair[k] for pair in found.values()])) for k in (0, 1))
        stops.append(Stop(alpha, SEEDS, x, y, found, runs))
    curve = Curve("wise_ft", "b", "local", "alpha", "", tuple(stops), of_one_run=True)
    return Section("sim", "v", "common", "f", "id", ("ood",), (), (row,)), row, curve


@pytest.mark.parametrize(("image_sd", "seed_sd"), [(0.1, 0.0005), (0.02, 0.005), (0.06, 0.003)])
def test_the_interval_covers_the_true_gap(image_sd, seed_sd):
    """Images alone, seeds alone, and both. The ID scores are off by as much as the OOD means, times a slope of 2."""
    rng, covered, beside = np.random.default_rng([0, int(1e4 * seed_sd)]), [], []
    for _ in range(REPLICATES):
        outcomes = simulated(rng, image_sd, seed_sd)
        found = matched(outcomes, *drawn(outcomes))
        low, high = found.interval
        assert found.images and low < found.gap < high
        covered.append(low <= GAP <= high)
        # What stood here before: the deviation over seeds of row minus path, each at its own seed's ID score.
        at = [[means(outcomes.points[alpha])[s] for alpha in (0.5, 1.0)] for s in range(SEEDS)]
        own = means(outcomes.row)
        gaps = [own[s][1] - y0 - (y1 - y0) * (own[s][0] - x0) / (x1 - x0) for s, ((x0, y0), (x1, y1)) in enumerate(at)]
        sd = np.std(gaps, ddof=1)
        beside.append(abs(np.mean(gaps) - GAP) <= sd)
    assert 0.925 <= np.mean(covered) <= 0.985
    assert np.mean(beside) < 0.9
    if seed_sd < 0.001:
        assert np.mean(beside) < 0.3  # which knows nothing of images


def test_it_is_the_gap_of_the_seeds_where_images_are_no_part_of_it():
    """Without the samples of the points: a t interval over seeds, and it says so. Alike if all images are."""
    outcomes = simulated(np.random.default_rng(1), 0.0, 0.004)
    section, row, curve = drawn(outcomes)
    whole, seeds = matched(outcomes, section, row, curve), matched(None, section, row, curve)
    assert whole.images and not seeds.images and whole.gap == seeds.gap
    assert seeds.interval == pytest.approx(whole.interval, abs=1.5e-3)
    assert Judge(None).matched(section, row, curve) == seeds


def test_a_row_of_one_model_or_of_other_seeds_has_no_interval():
    outcomes = simulated(np.random.default_rng(2), 0.05, 0.004)
    section, row, curve = drawn(outcomes)
    fewer = Row(**{**{k: getattr(row, k) for k in row.__dataclass_fields__ if k != "_cells"}, "runs": {0: "r0"}})
    assert matched(outcomes, section, fewer, curve).interval is None
    pooled = Row(**{**{k: getattr(row, k) for k in row.__dataclass_fields__ if k != "_cells"}, "pooled": True})
    assert matched(outcomes, section, pooled, curve).interval is None


# files


def test_the_samples_of_a_path_are_read_where_they_lie_and_missed_where_they_do_not(tmp_path):
    line, records = {0.0: 0.5, 1.0: 0.5}, []
    rng = np.random.default_rng(3)
    label = np.zeros(120, dtype=int)
    ids = [f"{i:03d}" for i in range(120)]

    def columns(chance):
        wrong = (rng.random(120) > chance).astype(int)
        half = np.full(120, 0.6)
        return {"label": label, "prediction": wrong, "confidence": half, "p_label": half, "sum_p2": half}

    for seed in range(3):
        for method in ("flyp", "wise_ft"):
            more = {"line": line, "hyper": {"alpha": 0.5}, "rules": ("fixed",)} if method == "wise_ft" else {}
            record = make_record(method, seed=seed, shifts=("ood",), **more)
            folder = (
                tmp_path / "digits" / method / record["backbone"] / f"seed{seed}-{record['run_id']}" / "predictions"
            )
            for name, metrics in record["sets"].items():
                kept = columns(0.7 if name == "id" else 0.6)
                metrics |= {"n_expected": 120, **set_metrics.score(kept, name, 512)}
                predictions.write(folder / f"{name}.parquet", {"sample_id": ids, "unit_id": ids, **kept})
                chances = ((0.5, 0.7), (0.9, 0.4)) if method == "wise_ft" else ()
                points = {}
                for value, chance in zip(line, chances, strict=False):
                    points[value] = {k: v for k, v in columns(chance[name != "id"]).items() if k != "sum_p2"}
                    at = next(point for point in record["path"]["points"] if point["value"] == value)
                    at["sets"][name]["accuracy"] = float(np.mean(points[value]["prediction"] == label))
                if points:
                    predictions.write_path(folder / f"{name}.path.parquet", "alpha", points)
            record["summary"] = summarise(record["sets"])
            records.append(record)
    shown = build(records, outcomes=Outcomes(tmp_path))
    (section,) = shown.sections
    (path,) = section.paths
    flyp = next(row for row in section.table("one_se", "tiny-vit-p8") if row.method == "flyp")
    found = Judge(Outcomes(tmp_path)).matched(section, flyp, path)
    assert found.images and found.interval[0] < found.gap < found.interval[1]
    assert f"({100 * found.gap:+.1f} [" in shown.to_html()
    for file in tmp_path.rglob("ood.path.parquet"):
        file.unlink()
    judge = Judge(Outcomes(tmp_path))
    assert not judge.matched(section, flyp, path).images and not judge.problems
