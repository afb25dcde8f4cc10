"""Records and files: schema, atomicity, the first writer, damage."""

import copy
import errno
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make_records import make_record

from robustft.results.metrics.metrics import Meter
from robustft.results.records import predictions
from robustft.results.records.atomic import OutputError, create_atomic, write_atomic, write_json_atomic
from robustft.results.records.records import (
    RecordError,
    gather,
    gather_reference,
    publish_record,
    read_record,
    summarise,
    validate,
    write_reference_records,
)
from robustft.results.records.run_id import run_id


def test_a_record_comes_back_as_it_was_written(tmp_path):
    record = make_record()
    assert publish_record(tmp_path, record)
    assert read_record(tmp_path / "record.json") == validate(record)
    assert (tmp_path / "record.json").stat().st_size < 16_000
    assert os.listdir(tmp_path) == ["record.json"]  # no temporary file stays


def test_a_whole_path_in_full_precision_still_fits_a_page(tmp_path):
    record = make_record("wise_ft", line={i / 10: 1 / 3 + i / 1000 for i in range(11)})
    for point in record["path"]["points"]:
        for metrics in point["sets"].values():
            metrics.update(ece=metrics["ece"] / 7, nll=metrics["nll"] / 7)
    assert publish_record(tmp_path, record)
    assert read_record(tmp_path / "record.json") == validate(record) == record
    # Spec and sources of a real run are 2 KB longer than these.
    assert (tmp_path / "record.json").stat().st_size < 14_000


def large_record():
    """As of WiSE-FT on the ImageNet family, and then some: nine sets, all metrics, eleven points, long values."""
    shifts = ("imagenet_v2", "imagenet_r", "imagenet_a", "imagenet_sketch", "objectnet", "domainnet_real")
    texts = {f"field_{i}": "x" * 50 for i in range(30)}  # of spec, sources and environment
    line = {i / 10: 1 / 3 + i / 1000 for i in range(11)}
    record = make_record("wise_ft", "ViT-L-14", shifts=shifts, line=line, spec=texts)
    more = ("macro_f1_labels", "ece_expected", "ece_adaptive", "ece_lineage_10bins_b224", "ece_scaled")
    for metrics in record["sets"].values():
        metrics.update({key: 1 / 7 for key in (*more, "brier", "mean_confidence")})
    for point in record["path"]["points"]:
        for metrics in point["sets"].values():
            metrics.update(ece=metrics["ece"] / 7, nll=metrics["nll"] / 7)
    record["sources"] |= texts
    return record | {"temperature": 1 / 0.7}


def test_a_path_that_is_too_long_for_a_page_lies_beside_its_record(tmp_path):
    record = large_record()
    assert publish_record(tmp_path, record)
    assert (tmp_path / "record.json").stat().st_size < 16_000 < len(json.dumps(record))
    assert json.loads((tmp_path / "record.json").read_text())["path"] == {"parameter": "alpha", "points": "path.json"}
    assert read_record(tmp_path / "record.json") == validate(record) == record
    assert list(gather(tmp_path)) == [record]
    (tmp_path / "path.json").unlink()
    with pytest.raises(RecordError, match="path.json: cannot be read"):
        read_record(tmp_path / "record.json")


FORGED = {
    "kind": "trial",
    "benchmark": "digits_harder",
    "benchmark_version": "digits-v2",
    "method": "ema",
    "method_version": 2,
    "backbone": "tiny-rn",
    "backbone_weights": "sha256:01",
    "seed": 1,
    "recipe": "as_published",
    "run_id": "0123456789ab",
}


@pytest.mark.parametrize("key", FORGED)
def test_a_record_that_says_other_than_its_spec_is_refused(tmp_path, key):
    record = make_record() | {key: FORGED[key]}
    (tmp_path / "record.json").write_text(json.dumps(record))
    complaints = []
    assert list(gather(tmp_path, complaints.append)) == []
    assert len(complaints) == 1 and f"{key} is {FORGED[key]!r}, but its spec" in complaints[0].replace(
        "0123456789ab", "'0123456789ab'"
    )
    with pytest.raises(RecordError, match="record.json: record: "):
        publish_record(tmp_path / "other", record)


def test_a_spec_that_leaves_out_what_its_record_says_or_was_changed_is_refused():
    for change in ({"seed": 1}, {"lr": 0.5}):
        record = make_record()
        with pytest.raises(RecordError, match="but its spec"):
            validate(record | {"spec": record["spec"] | change})
    record = make_record()
    del record["spec"]["seed"]
    with pytest.raises(RecordError, match="seed is 0, but its spec says None"):
        validate(record | {"run_id": run_id(record["spec"])})


def test_a_run_that_lies_there_twice_is_told_with_both_paths(tmp_path):
    for name in ("a", "b"):
        publish_record(tmp_path / name, make_record())
    complaints = []
    assert len(list(gather(tmp_path, complaints.append))) == 2
    assert complaints == [
        f"{tmp_path / 'b' / 'record.json'}: holds the same run as {tmp_path / 'a' / 'record.json'}; find out which is "
        "right and remove the other."
    ]


def test_the_first_writer_wins(tmp_path):
    assert publish_record(tmp_path, make_record(finished="2026-01-01T00:00:00Z"))
    assert not publish_record(tmp_path, make_record(finished="2027-01-01T00:00:00Z"))
    assert read_record(tmp_path / "record.json")["finished"] == "2026-01-01T00:00:00Z"
    assert os.listdir(tmp_path) == ["record.json"]


def test_many_processes_at_once_have_one_winner_and_tear_nothing(tmp_path):
    code = (
        "import sys; from pathlib import Path\n"
        "from robustft.results.records.atomic import create_atomic, write_atomic\n"
        "folder, name = Path(sys.argv[1]), sys.argv[2]\n"
        "wins = sum(create_atomic(folder / f'first-{i}', (name * 5000).encode()) for i in range(20))\n"
        "for i in range(20): write_atomic(folder / 'last', (name * 5000).encode())\n"
        "print(wins)"
    )
    workers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name], stdout=subprocess.PIPE, text=True)
        for name in "abcd"
    ]
    wins = [int(worker.communicate(timeout=60)[0]) for worker in workers]
    assert sum(wins) == 20
    for path in tmp_path.iterdir():
        content = path.read_text()
        assert len(content) == 5000 and len(set(content)) == 1
    assert len(list(tmp_path.iterdir())) == 21


def test_a_guard_that_refuses_leaves_the_old_file(tmp_path):
    def lost():
        raise RuntimeError("the lease is gone")

    path = tmp_path / "state.json"
    write_json_atomic(path, {"state": "running"})
    for write in (write_atomic, create_atomic):
        with pytest.raises(RuntimeError, match="lease"):
            write(path, b"new", guard=lost)
    assert json.loads(path.read_text()) == {"state": "running"}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_failing_disk_leaves_the_old_file_and_is_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_json_atomic(path, {"state": "running"})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="state.json: cannot be written: No space left on device; make room"):
        write_json_atomic(path, {"state": "done"})
    assert json.loads(path.read_text()) == {"state": "running"}
    assert os.listdir(tmp_path) == ["state.json"]


def test_a_folder_below_a_file_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written: (Not a directory|File exists)"):
        write_atomic(tmp_path / "file" / "run" / "state.json", b"x")


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(OutputError, match="cannot be written as JSON"):
        write_json_atomic(tmp_path / "x.json", {"loss": math.nan})
    assert not (tmp_path / "x.json").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        ({"seed": "first"}, "seed: Input should be a valid integer"),
        ({"schema": 2}, "schema 2 is newer than 1"),
        ({"schema": "one"}, "schema: Input should be 1"),
        ({"sed": 1}, "sed: Extra inputs are not permitted"),
        ({"sets": {}}, "sets: Dictionary should have at least 1 item"),
        ({"kind": "walk"}, "kind: Input should be 'run' or 'trial'"),
        ({"summary": {"acc_id": 0.1}}, "summary.acc_id is 0.1, but the sets give"),
    ],
)
def test_a_record_that_breaks_the_schema_is_refused_by_key(tmp_path, change, words):
    with pytest.raises(RecordError, match=words):
        publish_record(tmp_path, make_record() | change)
    assert os.listdir(tmp_path) == []


def test_a_set_cannot_hold_more_images_than_it_has():
    record = make_record()
    record["sets"]["id"]["n"] = record["sets"]["id"]["n_expected"] + 1
    with pytest.raises(RecordError, match="sets.id: n is .*, more than n_expected"):
        validate(record)


def test_infinite_likelihood_is_null():
    record = make_record()
    record["sets"]["id"]["nll"] = math.inf
    record["summary"]["nll_id"] = math.inf
    assert validate(record)["sets"]["id"]["nll"] is None
    assert validate(record)["summary"]["nll_id"] is None
    assert summarise(record["sets"])["nll_id"] is None


def test_a_summary_weighs_every_shift_the_same():
    sets = {
        "id": {"role": "id", "n": 10, "accuracy": 0.9, "ece": 0.1, "nll": 0.3},
        "small": {"role": "shift", "n": 1, "accuracy": 0.5, "ece": 0.4, "nll": 1.0},
        "large": {"role": "shift", "n": 999, "accuracy": 0.7, "ece": 0.2, "nll": 1.0},
        "mixture": {"role": "diagnostic", "n": 9, "accuracy": 0.0, "ece": 0.9, "nll": 9.0},
        "validation": {"role": "validation", "n": 9, "accuracy": 0.0, "ece": 0.9, "nll": 0.7},
    }
    assert summarise(sets) == pytest.approx(
        {
            "acc_id": 0.9,
            "ece_id": 0.1,
            "nll_id": 0.3,
            "acc_ood_mean": 0.6,
            "ece_ood_mean": 0.3,
            "nll_validation": 0.7,
        }
    )


def test_gather_reports_damage_and_keeps_the_rest(tmp_path):
    runs = tmp_path / "digits" / "ft" / "tiny"
    publish_record(runs / "seed0-aaa", make_record(seed=0))
    (runs / "seed1-bbb").mkdir()
    (runs / "seed1-bbb" / "record.json").write_text('{"schema": 1, "run_')
    (runs / "seed2-ccc").mkdir()
    (runs / "seed2-ccc" / "spec.json").write_text("{}")  # unfinished: no record, and no damage
    publish_record(runs / "seed3-ddd", make_record(seed=3))
    told = []
    records = list(gather(tmp_path, report=told.append))
    assert [record["seed"] for record in records] == [0, 3]
    assert len(told) == 1 and "seed1-bbb" in told[0] and "is no JSON" in told[0]


def test_a_record_that_is_replaced_in_place_is_read_anew(tmp_path):
    publish_record(tmp_path / "seed0-aaa", make_record(accuracy=0.8))
    assert next(gather(tmp_path))["summary"]["acc_id"] == 0.8
    path = tmp_path / "seed0-aaa" / "record.json"
    before = path.stat()
    text = path.read_text().replace('"accuracy": 0.8,', '"accuracy": 0.7,').replace('"acc_id": 0.8,', '"acc_id": 0.7,')
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_ino) == (before.st_size, before.st_ino)
    assert next(gather(tmp_path))["summary"]["acc_id"] == 0.7


def test_gather_of_nothing_is_empty(tmp_path):
    assert list(gather(tmp_path / "nowhere")) == []


def test_reference_records_are_read_per_benchmark(tmp_path):
    for benchmark in ("digits", "forgetting"):
        write_reference_records(tmp_path / benchmark, [make_record(benchmark=benchmark)])
    assert [r["benchmark"] for r in gather_reference("digits", tmp_path)] == ["digits"]
    assert len(gather_reference(root=tmp_path)) == 2


def test_committed_reference_records_fit_the_schema():
    told = []
    gather_reference(report=told.append)
    assert told == []


def test_validation_leaves_its_input_alone():
    record = make_record()
    before = copy.deepcopy(record)
    validate(record)
    assert record == before


# predictions


def some_predictions(n=300, classes=10):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(n, classes)) * 3
    p = np.exp(logits)
    p = (p / p.sum(axis=1, keepdims=True)).astype(np.float32)
    labels = rng.integers(classes, size=n)
    ids = [f"{i // 4}-{i % 4}" for i in range(n)]
    return p, labels, predictions.columns(p, labels, ids, [i.split("-")[0] for i in ids])


def test_predictions_come_back_and_give_the_metrics(tmp_path):
    p, labels, columns = some_predictions()
    predictions.write(tmp_path / "id.parquet", columns)
    back = predictions.read(tmp_path / "id.parquet")
    assert set(back) == set(predictions.SCHEMA.names) - {"group", "confidence_scaled"}
    for name, values in columns.items():
        assert np.array_equal(back[name], values), name
    meter = Meter(10)
    meter.update(p, labels)
    want = meter.compute()
    assert np.mean(back["prediction"] == back["label"]) == want["accuracy"]
    assert predictions.mean_nll(back) == pytest.approx(want["nll"], abs=1e-11)
    brier = np.mean(back["sum_p2"].astype(float) - 2 * back["p_label"].astype(float) + 1)
    assert brier == pytest.approx(want["brier"], abs=1e-7)  # sum_p2 is rounded to float32


def test_same_predictions_same_bytes(tmp_path):
    columns = some_predictions()[2]
    for name in ("a", "b"):
        predictions.write(tmp_path / name, columns)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_validation_predictions_need_no_more_than_the_label_probability(tmp_path):
    columns = some_predictions()[2]
    few = {name: columns[name] for name in ("sample_id", "unit_id", "label", "p_label")}
    predictions.write(tmp_path / "v.parquet", few)
    assert list(predictions.read(tmp_path / "v.parquet")) == list(few)


def test_a_label_of_probability_zero_has_a_finite_per_sample_loss():
    assert predictions.nll({"p_label": np.zeros(1, np.float32)}) == pytest.approx([103.28], abs=0.01)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"logit": [1] * 300}, "unknown"),
        ({"label": [1]}, "differ in length"),
        ({"p_label": [math.nan] * 300}, "p_label holds NaN"),
    ],
)
def test_bad_predictions_are_refused(tmp_path, change, words):
    with pytest.raises(predictions.PredictionError, match=words):
        predictions.write(tmp_path / "x.parquet", some_predictions()[2] | change)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "name, value", [("confidence", np.nan), ("confidence", 1.5), ("p_label", -0.1), ("label", -1), ("sum_p2", np.nan)]
)
def test_what_is_no_probability_and_no_class_is_damage_and_names_the_file(tmp_path, name, value):
    path, columns = tmp_path / "id.parquet", some_predictions()[2]
    predictions.write(path, columns)
    table = pq.read_table(path)
    changed = pa.array([value, *columns[name][1:]], table.schema.field(name).type)
    pq.write_table(table.set_column(table.column_names.index(name), name, changed), path)
    with pytest.raises(predictions.PredictionError, match=f"id.parquet: is damaged: {name} must hold "):
        predictions.read(path)


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(predictions.PredictionError, match="missing.parquet: is missing; copy it from"):
        predictions.read(tmp_path / "missing.parquet")


def test_damaged_predictions_are_one_sentence(tmp_path):
    path: Path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 torn")
    with pytest.raises(predictions.PredictionError, match="cannot be read"):
        predictions.read(path)
