"""Many processes at once, and a look at many runs: nothing is lost or torn, and what is counted is right."""

import json

import pytest

from robustft.benchmarks.commands.monitoring.status import report
from robustft.benchmarks.executors.run_states import survey
from robustft.benchmarks.run_folder.lease import Observer
from robustft.benchmarks.speed.scale import STATES, counting, finished, plan, record_of, storm, submit, template
from robustft.results.records import records


@pytest.mark.programs
def test_two_hundred_processes_that_write_and_gather_at_once_lose_and_tear_nothing(tmp_path):
    some = records.gather_reference("digits")
    small = min(some, key=lambda record: len(str(record)))
    assert storm(tmp_path / "runs", processes=200, each=2, record=small) == []
    assert len(list(records.gather(tmp_path / "runs"))) == 401
    left = [path.name for path in (tmp_path / "runs").rglob("*") if path.name.startswith(".")]
    assert left == []


def test_a_storm_tells_of_a_record_that_is_torn_or_lost(tmp_path, monkeypatch):
    def torn(folder, record):
        text = records.record_json("record", record)
        (folder / "record.json").parent.mkdir(parents=True, exist_ok=True)
        (folder / "record.json").write_bytes(text[:-100] if record["seed"] == 3 else text)
        return True

    monkeypatch.setattr(records, "publish_record", torn)
    assert any("no JSON" in sentence for sentence in storm(tmp_path / "runs", processes=2, each=2))


def test_a_thousand_runs_are_planned_submitted_once_and_counted(tmp_path):
    given, template_record = [], template()
    with counting(tmp_path / ".bin") as calls:
        plan(tmp_path, 100, lambda folders: (given.extend(folders), submit(folders)))
    assert calls.read_text().count("\n") == 2  # WiSE-FT after all others
    assert len({folder.path for folder in given}) == len(given) >= 100
    for number in range(50):
        folder = finished(tmp_path, template_record, 10**6 + number)
        folder.record.write_bytes(records.record_json(folder.record, record_of(folder, template_record)))
    told = report(survey(tmp_path, Observer(), queue=lambda jobs: None))
    wanted = dict.fromkeys(told["counts"], 0)
    for number in range(len(given)):
        # a run that says "running" and has no process is gone
        wanted[{"running": "vanished"}.get(STATES[number % 5], STATES[number % 5])] += 1
    assert told["counts"] == {**wanted, "done": 50}
    assert len(json.dumps(told)) < 600 * len(told["runs"])


def test_a_record_is_believed_by_its_ends_only_where_they_are_its_own(tmp_path):
    record = template()
    folder = finished(tmp_path, record, 7)
    content = records.record_json(folder.record, record_of(folder, record))
    run_id = folder.path.name.partition("-")[2].encode()
    for damaged in (content[:-5], b"", content.replace(run_id, b"000000000008"), content[5:]):
        folder.record.write_bytes(damaged)
        (seen,) = survey(tmp_path, Observer(), queue=lambda jobs: None)
        assert seen.state == "failed"
    folder.record.write_bytes(content)
    (seen,) = survey(tmp_path, Observer(), queue=lambda jobs: None)
    assert seen.state == "done"
