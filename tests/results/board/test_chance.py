"""The level of a uniform guess on boards: of the classes that count, and never a guess itself."""

import io

import pytest
import torch
from make_records import SHIFTS, make_record
from rich.console import Console

from robustft.benchmarks.execution.predict import class_count
from robustft.datasets import catalogue
from robustft.datasets.card import EvalData
from robustft.datasets.projection import Projection
from robustft.results.board import chance
from robustft.results.records.records import gather_reference
from robustft.results.tables.leaderboard import build


def board(classes=None, own=None, **more):
    record = make_record("ft", **more)
    record["info"] |= {"classes": classes} if classes else {}
    record["info"] |= {"own_metrics": own} if own else {}
    return build([record])


def test_every_kind_of_board_says_it_once_a_table():
    found = board(dict.fromkeys(("id", *SHIFTS), 4))
    said = "Chance accuracy (a uniform guess): 25.0 on every set (4 classes)."
    console = Console(width=200, file=io.StringIO())
    console.print(found.to_console())
    for page in (found.to_markdown(), found.to_html(), found.to_latex(), console.file.getvalue()):
        assert page.count(said) == 1


def test_sets_with_classes_of_their_own_have_chances_of_their_own():
    counts = {"id": 1000, "fresh": 200, "renditions": 113, "sketches": 8142, "reversed": 1000, "writers": 1000}
    mean = 100 * sum(1 / counts[name] for name in SHIFTS) / 5
    assert f"{mean:.1f}" == "0.3"
    said = "Chance accuracy (a uniform guess among the classes of a set): ID 0.1, fresh 0.5, renditions 0.9, "
    said += "sketches 0.012, reversed 0.1, writers 0.1, OOD mean 0.3."
    assert said in board(counts).to_markdown()


def test_what_nobody_knows_is_not_guessed():
    assert "Chance" not in board().to_markdown()
    some = board({"id": 10, "fresh": 5}).to_markdown()
    assert "among the classes of a set): ID 10.0, fresh 20.0." in some


def test_other_scores_have_no_such_level():
    found = board({"id": 4, "ood": 4}, own={"ood": "worst_group_accuracy"}, shifts=("ood",)).to_markdown()
    assert "25.0 on every set (4 classes). Other scores have no such level." in found


def test_a_prediction_is_one_of_the_classes_that_the_projection_leaves():
    class Set(EvalData):
        def images(self, start, stop):
            raise NotImplementedError

    class Subset(Set):
        project = Projection.subset([1, 3])

    assert class_count(Subset(), 10) == 2 and class_count(Set(), 10) == 10
    assert Subset.project(torch.zeros(1, 10)).shape[1] == 2


@pytest.mark.parametrize("name", ["digits"])
def test_the_committed_records_are_of_data_with_so_many_classes(name):
    """Their records are of before classes were recorded: the fingerprint of their data stands for it."""
    data = catalogue.get(name)
    counts = {class_count(data.eval_data(entry.name), len(data.card.class_names)) for entry in data.card.sets}
    assert counts == {chance.COMMITTED[data.card.fingerprint]}


def test_every_committed_board_has_its_chance():
    records = [record for record in gather_reference() if chance.CLASSES not in record["info"]]
    assert {record["spec"]["fingerprint"] for record in records} == set(chance.COMMITTED)
