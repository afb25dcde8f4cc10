"""Many records at once: a board of packed records is that of the records themselves, in a part of the memory."""

import tracemalloc

import pytest

from robustft.benchmarks.speed.scale import finished, record_of, template
from robustft.results.records.compact_record import Packed
from robustft.results.records.records import gather, gather_reference, record_json
from robustft.results.tables.leaderboard import build


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of 120 runs whose records are as large as records get."""
    root, record = tmp_path_factory.mktemp("many") / "runs", template()
    for number in range(120):
        folder = finished(root, record, number)
        folder.record.write_bytes(record_json(folder.record, record_of(folder, record)))
    return root


def grown(make):
    """Bytes of Python objects that are alive after a call, and at most during it, beyond those of before."""
    tracemalloc.start()
    try:
        kept = make()
        now, most = tracemalloc.get_traced_memory()
        return kept, now, most
    finally:
        tracemalloc.stop()


def test_gathering_holds_one_record_at_a_time(runs):
    list(gather(runs))  # what is made once
    records, whole, _ = grown(lambda: list(gather(runs)))
    count, _, most = grown(lambda: sum(1 for _ in gather(runs)))
    assert count == len(records) == 120
    assert most < 5 * whole / 120


def test_a_packed_record_is_read_as_the_record_in_a_quarter_of_its_memory(runs):
    records, whole, _ = grown(lambda: list(gather(runs)))
    shared = {}
    packed, small, _ = grown(lambda: [Packed(record, shared) for record in records])
    assert packed == records and list(packed[0]) == list(records[0])
    assert small < whole / 4
    assert "path" in packed[0] and packed[0].get("nothing") is None and "nothing" not in packed[0]


def test_what_is_shared_keeps_its_type():
    shared = {}
    first, second = Packed({"seed": 1, "a": "x"}, shared), Packed({"seed": 1.0, "a": "x"}, shared)
    assert [type(record["seed"]) for record in (first, second)] == [int, float]


def test_a_board_of_packed_records_has_the_same_bytes():
    records, shared = gather_reference(), {}
    made = [build(records), build([Packed(record, shared) for record in records])]
    for way in ("to_csv", "to_long_csv", "to_markdown", "to_latex", "to_html"):
        texts = [getattr(board, way)() for board in made]
        assert texts[0] == texts[1]


def test_the_part_of_a_board_on_one_benchmark_is_the_board_of_its_records_alone():
    records = gather_reference()
    part, alone = build(records).of("digits"), build([record for record in records if record["benchmark"] == "digits"])
    assert len({record["benchmark"] for record in records}) > 1
    for way in ("to_csv", "to_long_csv", "to_markdown"):
        assert getattr(part, way)() == getattr(alone, way)()
