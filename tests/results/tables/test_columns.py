"""Which metrics stand beside accuracy: today's by default, others where somebody asks for them."""

import numpy as np
import pytest
from make_records import make_record

from robustft.benchmarks.commands.boards.leaderboard import columns_of
from robustft.benchmarks.errors import UserError
from robustft.results.audit.rescoring import FolderFiles, ReferenceFiles, completed, rescore, rescore_set
from robustft.results.board.rows import MORE_METRICS, SHOWN
from robustft.results.metrics import calibration, set_metrics
from robustft.results.records import predictions
from robustft.results.records.records import REFERENCE, gather_reference
from robustft.results.records.reference import ReferencePredictions
from robustft.results.records.rounding import GIVEN
from robustft.results.tables.leaderboard import build

pytestmark = pytest.mark.computes


def records(**metrics):
    found = [make_record(method, seed=seed) for method in ("ft", "flyp") for seed in (0, 1)]
    for record in found:
        for i, values in enumerate(record["sets"].values()):
            values |= {key: value + 0.01 * i for key, value in metrics.items()}
    return found


def test_the_default_is_what_it_was_whatever_the_records_have():
    bare, full = build(records()), build(records(aurc=0.1, mce=0.2))
    assert bare.to_markdown() == full.to_markdown() and bare.to_csv() == full.to_csv()
    assert "| OOD mean | ID ECE | OOD ECE | OOD ECE floor | ID NLL | setting |" in bare.to_markdown()


def test_columns_are_those_that_are_named_in_their_order_and_none_of_the_new_is_bold():
    board = build(records(aurc=0.1), shown=("aurc", "ece"))
    text = board.to_markdown()
    assert "| OOD mean | ID AURC | OOD AURC | ID ECE | OOD ECE | setting |" in text and "NLL |" not in text
    assert "| 0.100 ± 0.000 | 0.130 ± 0.000 |" in text  # shifts: .11 to .15
    assert ",aurc_id_mean,aurc_id_sd,aurc_id_n,aurc_ood_mean_mean," in board.to_csv()
    assert "**0.1" not in text
    gone = records(aurc=0.1)
    del gone[0]["sets"]["writers"]["aurc"]
    ft = next(row for row in build(gone, shown=("aurc",)).sections[0].rows if row.method == "ft")
    assert ft.cell("aurc_ood_mean")[2] == 1 and ft.cell("aurc_id")[2] == 2  # no mean over the shifts that are left


def test_names_are_checked():
    assert columns_of(None) == columns_of("") == SHOWN
    assert columns_of("aurc, ece,aurc") == ("aurc", "ece")
    with pytest.raises(UserError, match="did you mean 'aurc'"):
        columns_of("aurcc")


LATER = {"aurc", "ece_smooth", "failure_auroc", "mce", "ece_classwise"}


@pytest.fixture
def earlier(tmp_path):
    """A record of before LATER, and the samples of its run, at the precision of a run's own files."""
    rng = np.random.default_rng(0)
    record = make_record("flyp")
    for name, metrics in record["sets"].items():
        p, labels, ids = rng.dirichlet(np.ones(10), size=200), rng.integers(10, size=200), [str(i) for i in range(200)]
        columns = predictions.columns(p, labels, ids, ids)
        predictions.write(tmp_path / f"{name}.parquet", columns)
        metrics |= {k: v for k, v in set_metrics.score(columns, name, 512).items() if k not in LATER}
    return record, FolderFiles(tmp_path)


def test_an_earlier_record_gets_what_it_lacks_from_its_samples_and_keeps_the_rest(earlier):
    record, files = earlier
    found = completed(record, files, [*LATER, "brier"])
    for name, before in record["sets"].items():
        after, want = found["sets"][name], rescore_set(name, before, files.columns(name))
        new = LATER - {"ece_classwise"}  # which no sample gives
        assert after == {**before, **{key: want[key] for key in new}}
        assert 0.2 < after["failure_auroc"] < 1 and 0 < after["aurc"] < 1
    assert completed(found, files, ["aurc"]) is found


def test_a_reference_gives_what_follows_from_what_it_keeps_and_nothing_else():
    record = next(r for r in gather_reference("forgetting") if r["method"] == "flyp")
    files = ReferenceFiles(ReferencePredictions(REFERENCE / "forgetting"), record["run_id"])
    sets = {
        name: {k: v for k, v in numbers.items() if k not in ("mce", "aurc")} for name, numbers in record["sets"].items()
    }
    found = completed({**record, "sets": sets}, files, ["mce", "aurc"])
    assert found["sets"]["id"] == {**sets["id"], "mce": record["sets"]["id"]["mce"]}
    assert found["sets"]["validation"] == sets["validation"]  # of which it keeps no samples
    numbers = {number.metric: number for number in rescore(record, files) if number.set == "id"}
    assert {name for name, number in numbers.items() if number.rescored is not None} == set(GIVEN)
    assert not any(number.differs for number in numbers.values())


def test_only_what_is_asked_for_is_computed_and_it_is_what_all_of_them_are(earlier, monkeypatch):
    record, files = earlier
    columns = files.columns("id")
    want = rescore_set("id", record["sets"]["id"], columns)
    assert set_metrics.some(columns, MORE_METRICS) == {key: want[key] for key in MORE_METRICS if key in want}

    def dear(*arguments):
        raise AssertionError("nobody asked for it")

    monkeypatch.setattr(calibration, "expected_ece", dear)
    monkeypatch.setattr(set_metrics, "OF_CONFIDENCE", dict.fromkeys(set_metrics.OF_CONFIDENCE, dear))
    assert completed(record, files, ["aurc"])["sets"]["id"]["aurc"] == want["aurc"]
