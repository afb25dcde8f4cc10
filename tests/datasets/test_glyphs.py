"""The glyphs benchmark: whose glyphs, in which split, drawn how. A changed picture is a new benchmark version."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch

from robustft import backbones
from robustft.backbones.registered import GLYPH_VISION
from robustft.benchmarks.maintenance import glyph_outlines, glyphs_windows, pretrain_glyphs
from robustft.benchmarks.maintenance import glyphs as maker
from robustft.benchmarks.maintenance.glyphs_windows import WINDOWS, judge
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.suite import suite
from robustft.datasets import glyphs
from robustft.datasets.card import DataError
from robustft.datasets.catalogue import get
from robustft.methods import registry
from robustft.results.records.records import REFERENCE, gather_reference

pytestmark = pytest.mark.computes

CARD = json.loads((Path(glyphs.__file__).parent / "glyphs_card.json").read_text())


@pytest.fixture(scope="module")
def data():
    return get("glyphs")


def units(data, name):
    return set(data.eval_data(name).unit_ids)


@pytest.mark.parametrize("name", sorted(CARD))
def test_the_pictures_are_those_of_the_committed_card(name):
    card = get(name).card
    assert (card.version, card.fingerprint) == (CARD[name]["version"], CARD[name]["fingerprint"])


def test_the_card_says_how_often_pretraining_shows_the_street(data):
    shown = {entry.in_pretraining for entry in data.card.sets}
    assert shown == {"yes", "no", "seldom"}
    assert all(0 < pretrain_glyphs.RECIPES[name].street < 0.1 for name in GLYPH_VISION)


def test_every_family_is_looked_at_licensed_and_in_one_split_at_most():
    rows = maker.table()
    assert len({row["id"] for row in rows}) == len(rows)
    for row in rows:
        assert ("split" in row) != ("reason" in row), row["id"]
        assert row["reason"].startswith(("rule: ", "eye: ")) if "reason" in row else row["licence"] in maker.LICENCES
        assert all(len(face["sha256"]) == 64 for face in row["faces"].values())


def test_no_superfamily_is_in_two_splits():
    """Names without the words that tell siblings apart; what masks tell is checked where the masks are made."""
    kept = [row["id"].replace("-", " ") for row in glyphs.families()]
    bases = [" ".join(maker.PARTS.sub(" ", name).split()) or name for name in kept]
    assert len(set(bases)) == len(bases)
    for group in maker.RELATED:
        assert sum(name in group for name in kept) <= 1, group


def test_sets_have_families_of_their_own(data):
    development = get("glyphs_development")
    mine = {name: units(data, name) for name in ("id", "monospace", "handwriting", "display", "fresh", "digits")}
    theirs = {
        name: units(development, name) for name in ("id", "monospace", "handwriting", "display", "digits", "train")
    }
    for one, other in combinations([*mine.values(), *theirs.values()], 2):
        assert not one & other
    pretraining = {glyphs._faces()[1][face][0] for face in glyphs.faces_of("pretrain")}
    assert not pretraining & set().union(*mine.values(), *theirs.values())
    assert {name: len(families) for name, families in mine.items() if name != "digits"} == {
        "id": 60, "monospace": 46, "handwriting": 60, "display": 60, "fresh": 40,
    }  # fmt: skip
    assert len(theirs["train"]) == 12 and len(units(data, "validation")) == 40
    assert units(data, "renditions") == units(data, "sketches") == units(data, "grounds") == mine["id"]


def test_the_mean_over_shifts_has_no_set_of_the_finetuning_process(data):
    assert data.card.names("shift") == (
        "monospace", "handwriting", "display", "renditions", "sketches", "grounds", "digits",
    )  # fmt: skip
    assert data.card.names("diagnostic") == ("fresh",)


def test_a_training_picture_is_the_same_at_every_visit_and_in_every_run(data):
    first = data.train_images([(0, 3), (0, 500)], seed=1)
    assert torch.equal(first, data.train_images([(7, 3), (9, 500)], seed=2))
    counts = np.bincount(data.train_labels(), minlength=47)
    assert len(counts) == 47 and set(counts) == {data.train_size // 47}


def test_the_control_draws_training_pictures_anew_and_is_asked_about_the_same_ones(data):
    control = get("glyphs_augmented")
    items = [(0, 3), (1, 3), (0, 500)]
    drawn = control.train_images(items, seed=1)
    assert torch.equal(drawn[[0, 2]], control.train_images([items[0], items[2]], seed=1))
    assert torch.equal(drawn[1], control.train_images([(1, 3)], seed=1)[0])
    pictures = [*drawn, *control.train_images(items, seed=2), *data.train_images(items[1:], seed=1)]
    assert all(not torch.equal(one, other) for one, other in combinations(pictures, 2))
    assert (control.train_labels() == data.train_labels()).all()
    assert control.card.fingerprint != data.card.fingerprint
    for entry in data.card.sets:
        ours, theirs = control.eval_data(entry.name), data.eval_data(entry.name)
        assert ours.sample_ids == theirs.sample_ids and torch.equal(ours.images(0, 50), theirs.images(0, 50))


def test_the_control_takes_the_tuned_values_of_glyphs():
    """One thing is changed: pictures. What a run of glyphs has of ft and wise_ft, that of the control has too."""
    plans = [
        {
            (spec.method, spec.backbone): spec
            for method in ("ft", "wise_ft")
            for backbone in ("glyph-rn-3", "glyph-vit-deep-4")
            for spec in (planned.spec for planned in Benchmark(name).resolver().plain(method, backbone, 0))
        }
        for name in ("glyphs", "glyphs_augmented")
    ]
    assert plans[0].keys() == plans[1].keys() and len(plans[0]) == 4
    for key, ours in plans[0].items():
        theirs = plans[1][key]
        assert (ours.lr, ours.hyper, ours.steps) == (theirs.lr, theirs.hyper, theirs.steps), key
        assert ours.fingerprint != theirs.fingerprint and ours.run_id != theirs.run_id


def test_the_forgetting_study_finetunes_on_colours_and_asks_about_grey():
    study = get("forgetting")
    new, old = study.eval_data("id"), study.eval_data("original")
    assert new.sample_ids == old.sample_ids and study.card.names("shift") == ("original",)
    train = study.train_images([(0, i) for i in range(study.train_size)], seed=0).float()
    labels = study.train_labels()
    redder = (train[:, 0].mean(dim=(1, 2)) > train[:, 2].mean(dim=(1, 2))).numpy()
    agrees = redder == (labels < 23.5)
    assert 0.85 < agrees.mean() < 1  # grounds have colours too
    tint = [(pictures.float().amax(dim=1) - pictures.float().amin(dim=1)).mean() for pictures in
            (new.images(0, 500), old.images(0, 500))]  # fmt: skip
    assert tint[0] > 3 * tint[1]
    assert torch.equal(train[:2], study.train_images([(5, 0), (7, 1)], seed=9).float())
    with pytest.raises(DataError, match="has no set 'grey'; it has validation, id, original"):
        study.eval_data("grey")


def test_pictures_do_not_depend_on_the_batch(data):
    some = data.eval_data("grounds")
    assert torch.equal(some.images(40, 60)[5:9], some.images(45, 49))


def test_digits_are_judged_among_ten_classes(data):
    digits = data.eval_data("digits")
    logits = torch.full((2, 47), -1.0)
    logits[0, 40], logits[1, 3] = 9.0, 2.0
    assert digits.project(logits).shape == (2, 10) and digits.project(logits)[1].argmax() == 3
    assert set(digits.labels.tolist()) == set(range(10)) and len(digits) == 600


def test_an_unknown_set_is_named():
    with pytest.raises(DataError, match="has no set 'sketch'; it has validation"):
        get("glyphs").eval_data("sketch")


def square(low, high):
    corners = [(low, low), (high, low), (high, high), (low, high)]
    return [(*a, *b) for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]


def test_a_mask_counts_what_the_outline_encloses():
    """A square fills the inked part and nothing else; a hole wound the other way is empty, one wound alike is not."""
    whole = glyph_outlines.mask(np.array(square(0, 100), dtype=float))
    margin = (glyphs.SIDE - glyph_outlines.INK) // 2
    expected = np.zeros((glyphs.SIDE, glyphs.SIDE))
    expected[margin:-margin, margin:-margin] = glyphs.LEVELS - 1
    assert np.array_equal(whole, expected)
    hole = [(x1, y1, x0, y0) for x0, y0, x1, y1 in square(25, 75)]
    ring = glyph_outlines.mask(np.array(square(0, 100) + hole, dtype=float))
    assert ring.sum() == whole.sum() * 3 // 4 and ring[glyphs.SIDE // 2, glyphs.SIDE // 2] == 0
    assert np.array_equal(glyph_outlines.mask(np.array(square(0, 100) + square(25, 75), dtype=float)), whole)


def test_a_wide_glyph_keeps_its_shape():
    wide = np.array(square(0, 100), dtype=float) * [4, 1, 4, 1]
    rows, columns = np.nonzero(glyph_outlines.mask(wide))
    assert (len(set(columns)), len(set(rows))) == (glyph_outlines.INK, 6)  # 5 rows, centred between pixels


def test_masks_survive_packing():
    masks = np.arange(2 * glyphs.SIDE**2, dtype=np.uint8).reshape(2, glyphs.SIDE, glyphs.SIDE) % 16
    packed = np.frombuffer(glyphs.pack(masks), dtype=np.uint8)
    assert np.array_equal(np.stack([packed >> 4, packed & 15], 1).reshape(masks.shape), masks)


def test_a_missed_window_is_told_with_its_distance():
    found = {name: (low + high) / 2 for name, (low, high) in WINDOWS.items()} | {"zero-shot ID accuracy": 73.5}
    judged = judge(found)
    assert judged["zero-shot ID accuracy"] == {"value": 73.5, "bounds": [55, 70], "holds": False, "distance": 3.5}
    assert all(row["holds"] for name, row in judged.items() if name != "zero-shot ID accuracy")
    assert not judge({})["FT train accuracy"]["holds"]


def test_windows_of_accuracies_hold_for_the_mean_over_pretraining_seeds(monkeypatch):
    """The rate is selected on the weights that ship; runs of other weights under the same name are further seeds."""
    ours = backbones.weights_id("glyph-rn-dev")

    def made(weights, method, lr, at_id):
        where = ("glyph-rn-dev", weights, method, glyphs_windows.DEVELOPMENT)
        accuracy = {s.name: 0.5 for s in get("glyphs_development").card.sets} | {"id": at_id, "train": 1.0}
        return glyphs_windows.Run(*where, lr, 200, 64, 100, accuracy, 0.05, Path(f"{lr:g}"))

    runs = [made(ours, "zero_shot", 0, 0.60), made(ours, "ft", 1e-3, 0.70), made(ours, "ft", 3e-3, 0.65)]
    runs += [made("sha256:0", "zero_shot", 0, 0.70), made("sha256:0", "ft", 1e-3, 0.76)]
    # The lower loss is the one of 1e-3.
    losses = {Path("0.001"): 1.0, Path("0.003"): 2.0}
    monkeypatch.setattr(
        glyphs_windows, "_losses", lambda of: (np.array([losses[r.folder] for r in of] * 2), ["a", "b"])
    )
    found = glyphs_windows.values(runs, "glyph-rn-dev")
    assert found["zero-shot ID accuracy"] == pytest.approx(65) and found["FT - zero-shot, ID"] == pytest.approx(8)
    assert found["ft: steps of the grid from the selected rate to an end"] == 0
    assert [row["zero-shot ID accuracy"] for row in glyphs_windows.by_seed(runs, "glyph-rn-dev")] == [60, 70]


def test_the_development_data_see_no_method_that_could_shape_them():
    """The windows were registered before anything that distils, averages or interpolates ran."""
    for name in ("glyphs_development", "glyphs_scratch"):
        assert set(suite.load(suite.find(name)).methods) <= set(glyphs_windows.REGISTERED), name


def test_every_method_that_trains_has_twelve_trials_on_glyphs():
    loaded = suite.load(suite.find("glyphs"))
    assert {name for name in loaded.methods if registry.get(name).trained} <= set(loaded.tuning.space)
    for name, space in loaded.tuning.space.items():
        assert not registry.get(name).trained or np.prod([len(values) for values in space.values()]) == 12, name


def test_the_validity_test_on_the_page_is_that_of_the_committed_reference():
    page = (Path(glyphs.__file__).parents[1] / "docs" / "glyphs.md").read_text(encoding="utf-8")
    found = glyphs_windows.validity(gather_reference("glyphs"), glyphs_windows.published_ood())
    assert len(found) == 6 and len(glyphs_windows.published_ood()) == 6
    committed = json.loads(glyphs_windows.VALIDITY.read_text(encoding="utf-8"))
    assert committed == {"version": get("glyphs").card.version, "questions": found}
    passed = sum(row["passed"] for row in found.values())
    board = (REFERENCE / "glyphs" / "leaderboard.md").read_text(encoding="utf-8")
    assert (
        f"Validity test, registered before any row was made and run once on the committed reference: {passed} of 6"
        in board
    )
    for question, row in found.items():
        assert f"| {question} | {row['value']:g} | {'passed' if row['passed'] else '**failed**'} |" in page, row
