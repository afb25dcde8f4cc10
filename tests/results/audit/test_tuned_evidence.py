"""What a bundle says of how its settings were chosen holds against its tuned values, or is found."""

import pytest

from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.results.audit import tuned_evidence
from robustft.results.records.records import gather_reference


@pytest.fixture(scope="module")
def digits():
    """The tuned values of the benchmark, and its committed runs."""
    return Benchmark("digits").tuned.plain(), gather_reference("digits")


def of(records, method):
    return next(record for record in records if record["method"] == method and record["selection"]["rules"])


def found(entries, record, **changes):
    return [what for _, what in tuned_evidence.findings(entries, [{**record, **changes}])]


def test_every_committed_run_is_ranked_by_the_tuned_values_that_ship(digits):
    entries, records = digits
    kept = tuned_evidence.used(entries, records)
    assert list(tuned_evidence.findings(kept, records)) == []
    assert {tuned_evidence.not_ranked(kept, record) for record in records} == {""}
    assert "does not hold" in tuned_evidence.not_ranked({}, of(records, "ft"))
    assert tuned_evidence.not_ranked({}, of(records, "zero_shot")) == ""


def test_no_more_is_kept_than_the_runs_were_chosen_by(digits):
    entries, records = digits
    kept = tuned_evidence.used(entries, [of(records, "wise_ft")])
    assert kept.keys() == {"ft", "wise_ft"} and all(len(of_method) == 1 for of_method in kept.values())


def test_a_run_that_contradicts_its_tuned_values_is_found(digits):
    entries, records = digits
    ft, line = of(records, "ft"), of(records, "wise_ft")
    (told,) = found(entries, ft, spec={**ft["spec"], "lr": 0.5})
    assert told.startswith("lr is 0.5, but one_se chose ")
    (told,) = found(entries, ft, selection={**ft["selection"], "trials": 3})
    assert told.startswith("its selection counts 3 trials")
    (told,) = found(entries, ft, selection={**ft["selection"], "evaluated": 9})
    assert "9 of them evaluated" in told
    (told,) = found(entries, ft, recipe="other")
    assert "is of the recipe common" in told
    assert found(entries, line, selection={**line["selection"], "trials": 20, "evaluated": 11}) == []


def test_an_entry_that_was_changed_is_found_and_a_rehearsals_ranks_nothing(digits):
    entries, records = digits
    ft = of(records, "ft")
    entry = entries["ft"][ft["backbone"]]
    (told,) = found({"ft": {ft["backbone"]: {**entry, "seeds": [7]}}}, ft)
    assert "or not the one of its hash" in told
    for damaged in ({}, {**entry, "one_se": 3}, {**entry, "trials": None}):
        assert len(found({"ft": {ft["backbone"]: damaged}}, ft)) == 1
    part = {**entry, "part": {"limit": 16}}
    part["tuning"] = tuned_evidence.digest(part)
    selection = {**ft["selection"], "tuning": part["tuning"]}
    (told,) = found({"ft": {ft["backbone"]: part}}, ft, selection=selection)
    assert told.startswith("is ranked, but its tuning ")


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    assert tuned_evidence.read(tmp_path) == {}
    for text in ("{", "[]", '{"ft": 3}'):
        (tmp_path / "tuned.json").write_text(text)
        with pytest.raises(tuned_evidence.TunedError, match="cannot be read"):
            tuned_evidence.read(tmp_path)
