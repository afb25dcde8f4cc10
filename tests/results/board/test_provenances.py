"""Rows of several groups in one table."""

from make_records import make_record

from robustft.results.board.rows import UNRANKED
from robustft.results.tables.leaderboard import build, of_groups


def seeds(method="ft", values=(0.80, 0.82), **more):
    return [make_record(method, seed=seed, accuracy=value, **more) for seed, value in enumerate(values)]


def rows_of(**groups):
    (section,) = of_groups(groups).sections
    return {(row.name, row.provenance): row for row in section.rows}


def test_runs_that_are_among_anothers_are_shown_once_with_both_names():
    rows = rows_of(a=seeds()[:1], b=seeds(), c=seeds())
    assert list(rows) == [("ft", "b, a, c")] and rows["ft", "b, a, c"].seeds == (0, 1)
    one = seeds() + [make_record(seed=2, accuracy=0.9)]
    rows = rows_of(a=one[:2], b=one[1:])
    assert {key[1]: row.seeds for key, row in rows.items()} == {"a": (0, 1), "b": (1, 2)}  # each as its group has it


def test_what_a_group_made_again_is_its_own_row_and_no_contradiction():
    again = [{**record, "finished": "2026-02-02T00:00:00Z"} for record in seeds()]
    rows = rows_of(a=seeds(), b=again)
    assert [key[1] for key in rows] == ["a", "b"] and not any(row.marks for row in rows.values())
    rows = rows_of(a=seeds(), b=seeds(values=(0.8, 0.85)))
    assert all("seed 1 (accuracy on " in row.marks["rerun"] for row in rows.values())
    assert all(row.competes for row in rows.values())


def test_local_and_reference_rows_are_as_they_were():
    rows = [row for section in build(seeds(), seeds()).sections for row in section.rows]
    assert [row.provenance for row in rows] == ["local", "reference"]
    other = [row for section in build(seeds(), seeds(values=(0.1, 0.2))).sections for row in section.rows]
    assert not any(row.marks for row in other)


def test_an_older_version_of_a_method_is_stale_whichever_group_has_the_newer():
    rows = rows_of(a=seeds(method_version=1), b=seeds(method_version=2))
    assert {key[1]: set(row.marks) for key, row in rows.items()} == {"a": {"stale"}, "b": set()}
    assert {key[1]: bool(row.rules) for key, row in rows.items()} == {"a": False, "b": True}


def test_a_plug_in_of_another_group_makes_none_stale_and_no_method_of_ours():
    def plugged(sha, method="mine", **more):
        return seeds(method, spec={"plugins": [f"method:{sha * 32}"]}, **more)

    rows = rows_of(a=plugged("aa"), b=plugged("bb", finished="2026-03-03T00:00:00Z", method_version=9))
    assert [set(row.marks) for row in rows.values()] == [{"plug-in"}, {"plug-in"}]
    assert {row.marks["plug-in"] for row in rows.values()} == {"plug-in, aaaaaaaa", "plug-in, bbbbbbbb"}
    rows = rows_of(a=seeds(), b=plugged("bb", "ft", method_version=9))
    assert [set(row.marks) for row in rows.values()] == [set(), {"plug-in"}]
    both = [*plugged("aa"), *plugged("bb", finished="2026-03-03T00:00:00Z")]
    assert sum("stale" in row.marks for row in rows_of(a=both).values()) == 1


def test_other_weights_of_one_backbone_are_told_in_the_name():
    rows = rows_of(a=seeds(weights="sha256:" + "aa" * 32), b=seeds(weights="sha256:" + "bb" * 32))
    assert list(rows) == [("ft [weights=aaaaaaaa]", "a"), ("ft [weights=bbbbbbbb]", "b")]


def test_other_versions_of_a_benchmark_are_other_tables():
    board = of_groups({"a": seeds(), "b": seeds(version="digits-v2")})
    assert [(s.version, [row.provenance for row in s.rows]) for s in board.sections] == [
        ("digits-v1", ["a"]),
        ("digits-v2", ["b"]),
    ]


def test_curves_of_both_are_one_and_a_row_is_matched_with_its_own_groups():
    line = {"line": {0.0: 0.7, 0.5: 0.75, 1.0: 0.72}, "hyper": {"alpha": 0.5}, "sources": {"alpha": "tuned one_se"}}
    mine = seeds("wise_ft", **line)
    (section,) = of_groups({"a": mine, "b": mine}).sections
    assert {path.provenance for path in section.paths} == {"a, b"}
    assert {row.provenance for row in section.rows} == {"a, b"} and {row.kind for row in section.rows} == {"", "oracle"}


def test_forgetting_is_from_the_zero_shot_of_the_same_group():
    def study(start, end):
        return [
            make_record("zero_shot", accuracy=start, rules=(), shifts=("original",)),
            make_record("ft", accuracy=end, shifts=("original",)),
        ]

    rows = rows_of(a=study(0.9, 0.8), b=study(0.7, 0.65))
    assert [round(rows["ft", name].mean("acc_forgotten"), 9) for name in ("a", "b")] == [0.1, 0.05]


def test_the_reason_of_a_row_that_nothing_ranks_is_shown():
    record = {**make_record(rules=(), sources={"lr": "recipe"}), UNRANKED: "not ranked, so"}
    assert "° not ranked, so: ft on tiny-vit-p8 (a)." in of_groups({"a": [record]}).to_markdown()
