"""Two methods against each other: from the committed per-sample files, and from run folders made by hand."""

import numpy as np
import pyarrow.parquet as pq
import pytest
from make_records import make_record

from robustft.benchmarks import cli
from robustft.results.board.comparison import AgainstBest, against_best, compare, flips, resolution, sets_of, tables
from robustft.results.board.per_sample import OutcomeError, Outcomes, SetScores
from robustft.results.records import predictions
from robustft.results.records.records import REFERENCE, gather_reference
from robustft.results.statistics.paired import paired
from robustft.results.tables.leaderboard import build

SHIFTS = ("fresh", "renditions", "sketches", "reversed", "writers")
BACKBONE = "tiny-vit-p8"


@pytest.fixture(scope="module")
def reference():
    """The section of the committed reference, its outcomes, and its rows on a backbone by method."""
    (section,) = build([], gather_reference("digits")).sections
    rows = {row.method: row for row in section.table("one_se", BACKBONE) if not row.kind}
    return section, Outcomes(), rows


def right_of(row):
    """set -> (seeds, samples) right or wrong, read without the code under test; and set -> source images."""
    samples = pq.read_table(REFERENCE / "digits" / "samples.parquet").to_pandas()
    kept = pq.read_table(REFERENCE / "digits" / "predictions.parquet", columns=["runs", "wrong"]).to_pylist()
    wrong = {run_id: line["wrong"] for line in kept for run_id in line["runs"].split()}
    bits = [np.frombuffer(wrong[row.runs[seed]], np.uint8) for seed in row.seeds]
    right = np.empty((len(bits), len(samples)), dtype=bool)
    for i, packed in enumerate(bits):
        right[i, samples[f"order/{BACKBONE}"]] = np.unpackbits(packed, count=len(samples)) == 0
    names = samples["set"].unique()
    return {name: right[:, samples["set"] == name] for name in names}, {
        name: samples["unit_id"][samples["set"] == name].to_numpy() for name in names
    }


def test_the_difference_is_that_of_the_records_and_flips_add_up_to_the_gain(reference):
    section, outcomes, rows = reference
    tracer, flyp, start = (rows[name] for name in ("tracer", "flyp", "zero_shot"))
    for column in ("acc_id", "acc/renditions", "acc_ood_mean", "nll_id"):
        found = compare(outcomes, section, tracer, flyp, column)
        want = tracer.cell(column)[0] - flyp.cell(column)[0]
        assert found.difference.mean == pytest.approx(want, abs=1e-6), column
        low, high = found.interval
        assert low < want < high and found.seeds == tracer.seeds
    right, _ = right_of(tracer)
    before, _ = right_of(start)
    for name in ("id", *SHIFTS):
        turned = flips(outcomes, section, tracer, start, name)
        assert turned.negative == pytest.approx(np.mean(before[name] & ~right[name]))
        gain = tracer.cell(f"acc/{name}")[0] - start.cell(f"acc/{name}")[0]
        assert turned.positive - turned.negative == pytest.approx(gain)


def test_the_ood_mean_counts_an_image_once_in_the_three_shifts_that_show_it(reference):
    """renditions, sketches and reversed are drawn from the ID images; writers are three sources of their own."""
    section, outcomes, rows = reference
    found = compare(outcomes, section, rows["tracer"], rows["flyp"], "acc_ood_mean")
    assert found.difference.images == 600 + 3
    (a, units), (b, _) = right_of(rows["tracer"]), right_of(rows["flyp"])
    parts = []
    starts = np.array(["0516", "0906", "1545"])
    units["writers"] = starts[np.searchsorted(starts, units["writers"].astype(str), side="right") - 1]
    for group in (("renditions", "sketches", "reversed"), ("writers",)):
        table = 0
        for name in group:
            of, difference = np.unique(units[name], return_inverse=True)[1], a[name] * 1.0 - b[name]
            mean, count = difference.mean(axis=1, keepdims=True), np.bincount(of)
            sums = np.stack([difference[:, of == unit].sum(axis=1) for unit in range(len(count))], axis=1)
            table = table + (mean + (sums - count * mean) * len(count) / count.sum()) / 4  # images are shown 4 times
        parts.append(table)
    want = paired(parts)
    assert found.difference.error == pytest.approx(want.error) and found.difference.df == pytest.approx(want.df)


def test_a_row_without_training_randomness_stands_beside_every_seed(reference):
    section, outcomes, rows = reference
    found = compare(outcomes, section, rows["tracer"], rows["zero_shot"], "acc_ood_mean")
    assert found.seeds == rows["tracer"].seeds and found.interval is not None
    itself = compare(outcomes, section, rows["zero_shot"], rows["zero_shot"], "acc_ood_mean")
    assert not itself.random and itself.interval == (0, 0) and itself.p == 1


def test_one_model_made_of_several_seeds_is_never_told_apart(reference):
    """Another soup would be another model: its one number says nothing of by how much."""
    section, outcomes, rows = reference
    for pair in ((rows["model_soup"], rows["tracer"]), (rows["lp_ft"], rows["model_stock"])):
        found = compare(outcomes, section, *pair, "acc_ood_mean")
        assert found.p is None and found.interval is None and found.resolvable is None
        low, high = found.difference.image_interval()
        assert low < pair[0].cell("acc_ood_mean")[0] - pair[1].cell("acc_ood_mean")[0] < high
    table = section.table("one_se", BACKBONE)
    soup = table.index(rows["model_soup"])
    assert all(against.p is None for against in against_best(outcomes, section, table, soup, "acc/fresh").values())
    best = table.index(rows["flyp"])
    against = against_best(outcomes, section, table, best, "acc_id")
    tested = {table[i].title for i in against if against[i].p is not None}
    assert {"tracer", "ft"} <= tested and not tested & {"model_soup", "model_stock"}


def test_the_best_is_set_against_every_other_row_with_holms_adjustment(reference):
    section, outcomes, _ = reference
    rows = section.table("one_se", BACKBONE)
    best = next(i for i, row in enumerate(rows) if row.method == "flyp")
    found = against_best(outcomes, section, rows, best, "acc_id")
    assert set(found) == {i for i, row in enumerate(rows) if row.competes} - {best} and len(found) >= 5
    alone = {i: compare(outcomes, section, rows[best], rows[i], "acc_id").p for i in found}
    assert {rows[i].title for i in alone if alone[i] is None} == {"model_soup", "model_stock"}
    assert all(found[i].p is None for i in found if alone[i] is None)
    alone = {i: p for i, p in alone.items() if p is not None}  # what is not tested is no test that Holm counts
    smallest = min(alone, key=alone.get)
    assert found[smallest].p == pytest.approx(len(alone) * alone[smallest])
    assert all(found[i].p >= alone[i] for i in alone)
    assert AgainstBest(0.1, 0.04).separable and not AgainstBest(0.1, 0.06).separable
    assert AgainstBest(0.1, None).separable is None


def test_the_sentence_on_what_a_table_resolves_names_seeds_and_images(reference):
    section, outcomes, _ = reference
    sentence = resolution(outcomes, section, section.table("one_se", BACKBONE))
    assert (
        "5 paired seeds on 600 source images and 3 sources of images resolve" in sentence and "80 % power" in sentence
    )
    assert "; 0.0 to" not in sentence  # FLYP and its path stopped at alpha 1 are one model, and no pair


def test_a_calibration_error_is_compared_too_and_a_floor_is_not(reference):
    section, outcomes, rows = reference
    for column in ("ece_id", "ece_ood_mean"):
        found = compare(outcomes, section, rows["tracer"], rows["flyp"], column)
        assert found.difference.mean == pytest.approx(rows["tracer"].cell(column)[0] - rows["flyp"].cell(column)[0])
    assert sets_of(section, "ece_floor_ood_mean") is None
    assert compare(outcomes, section, rows["tracer"], rows["flyp"], "ece_floor_ood_mean") is None


# run folders


def make_run(root, method, seed, right, units, rules=("one_se",)):
    """A run folder with one set "id" whose sample i is right where right[i]."""
    record = make_record(method, seed=seed, shifts=(), rules=rules)
    record["sets"]["id"]["accuracy"] = float(np.mean(right))
    record["sets"] = {"id": record["sets"]["id"]}
    folder = root / "digits" / method / record["backbone"] / f"seed{seed}-{record['run_id']}"
    columns = {
        "sample_id": [f"{unit}-{i}" for i, unit in enumerate(units)],
        "unit_id": units,
        "label": np.zeros(len(units), dtype=int),
        "prediction": (~np.asarray(right, dtype=bool)).astype(int),
        "confidence": np.full(len(units), 0.5),
        "p_label": np.full(len(units), 0.5),
    }
    (folder / "predictions").mkdir(parents=True)
    predictions.write(folder / "predictions" / "id.parquet", columns)
    return record


UNITS = ["a", "a", "b", "b", "c", "c"]


def two(root, first, second):
    records = [make_run(root, "ft", seed, right, UNITS) for seed, right in enumerate(np.array(first, dtype=bool))]
    records += [make_run(root, "flyp", seed, right, UNITS) for seed, right in enumerate(np.array(second, dtype=bool))]
    (section,) = build(records).sections
    rows = {row.method: row for row in section.table("one_se", BACKBONE)}
    return section, Outcomes(runs=root), rows["ft"], rows["flyp"]


def test_run_folders_are_paired_by_the_seeds_that_both_have(tmp_path):
    section, outcomes, ft, flyp = two(tmp_path, [[1, 1, 1, 1, 1, 0]] * 3, [[1, 0, 1, 1, 0, 0], [1, 1, 0, 0, 1, 0]])
    found = compare(outcomes, section, ft, flyp, "acc_id")
    assert found.seeds == (0, 1) and found.difference.images == 3
    assert found.difference.mean == pytest.approx(1 / 3)  # 2 and 2 of 6 samples


def test_one_seed_gives_the_interval_of_these_checkpoints_only(tmp_path):
    section, outcomes, ft, flyp = two(tmp_path, [[1, 1, 1, 1, 1, 0]], [[1, 0, 1, 1, 0, 0]])
    found = compare(outcomes, section, ft, flyp, "acc_id")
    assert found.interval is None and found.p is None and found.resolvable is None
    assert found.difference.image_error > 0
    assert against_best(outcomes, section, [ft, flyp], 0, "acc_id")[1].separable is None


def test_a_missing_file_is_no_comparison_and_a_contradicting_one_an_error(tmp_path):
    section, outcomes, ft, flyp = two(tmp_path, [[1, 1, 1, 1, 1, 0]] * 2, [[1, 0, 1, 1, 0, 0]] * 2)
    assert compare(Outcomes(), section, ft, flyp, "acc_id") is None
    assert compare(outcomes, section, ft, flyp, "acc/writers") is None
    ft.values["acc/id"][1] = 0.5
    with pytest.raises(OutcomeError, match="are 0.833333 right and its record says 0.5; run it again"):
        compare(Outcomes(runs=tmp_path), section, ft, flyp, "acc_id")


def test_other_samples_are_refused(tmp_path):
    records = [make_run(tmp_path, "ft", 0, [1, 0, 1], ["a", "b", "c"])]
    records += [make_run(tmp_path, "flyp", 0, [1, 0, 1], ["a", "b", "d"])]
    (section,) = build(records).sections
    with pytest.raises(OutcomeError, match="samples of id are not those"):
        compare(Outcomes(runs=tmp_path), section, *section.table("one_se", BACKBONE), "acc_id")


def scores(units, counts, sums):
    return SetScores(np.array(units), np.array(counts), np.array(sums, dtype=float))


def test_sets_with_other_images_are_parts_of_their_own_and_joined_ones_are_one():
    a = scores(["1", "2"], [1, 1], [[1, 0], [1, 1]])
    b = scores(["2", "3"], [1, 1], [[0, 1], [1, 1]])
    c = scores(["8", "9"], [2, 2], [[2, 1], [0, 1]])
    zero = {name: scores(s.units, s.counts, np.zeros((1, 2))) for name, s in (("a", a), ("b", b), ("c", c))}
    parts = tables({"a": a, "b": b, "c": c}, zero, ("a", "b", "c"))
    assert sorted(part.shape for part in parts) == [(2, 2), (2, 3)]
    total = sum(part.mean(axis=1) for part in parts)
    assert total == pytest.approx([(0.5 + 0.5 + 0.75) / 3, (1 + 1 + 0.25) / 3])


def test_an_image_with_more_renderings_weighs_more():
    one = scores(["1", "2"], [3, 1], [[3, 0]])
    (part,) = tables({"a": one}, {"a": scores(["1", "2"], [3, 1], [[0, 0]])}, ("a",))
    assert part.mean() == pytest.approx(0.75)


# the command


def call(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        cli.main(["compare", *arguments])
    captured = capsys.readouterr()
    return end.value.code, captured.out, captured.err


def test_the_command_prints_difference_both_intervals_and_flips(capsys):
    code, out, _ = call(capsys, "tracer", "flyp", "--benchmark", "digits", "--reference", "--backbone", BACKBONE)
    assert code == 0 and "tracer - flyp on tiny-vit-p8" in out and "seeds 0, 1, 2, 3, 4" in out
    assert all(name in out for name in ("id (ID)", *SHIFTS, "OOD mean", "seeds and images", "these checkpoints"))
    (line,) = [line for line in out.splitlines() if line.startswith("renditions")]
    assert line.count(" to ") == 2 and len(line.split()) == 14
    assert "tiny-rn" not in out and "80 % power" in out
    assert "Satterthwaite's degrees of freedom, lowered as Cochran and Cox do" in out
    assert "not corrected for looking at many: of the 7 differences above, one in 20" in out


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("tracer", "flop", "--reference"), "did you mean 'flyp'"),
        (("tracer", "flyp", "--reference", "--backbone", "tiny-rm"), "did you mean 'tiny-rn'"),
        (("tracer", "flyp", "--reference", "--rule", "oracle"), "unknown rule 'oracle'"),
        (
            ("tracer", "flyp", "--runs", "nowhere"),
            "`robustft sweep digits --method flyp --runs nowhere`, or add --reference",
        ),
    ],
)
def test_mistakes_are_one_sentence(capsys, arguments, words):
    code, out, err = call(capsys, *arguments, "--benchmark", "digits")
    assert code == 2 and words in err and len(err.splitlines()) == 1 and not out
