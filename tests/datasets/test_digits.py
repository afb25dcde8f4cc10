"""The embedded benchmark: splits, blocks, pictures, loaders. A changed picture is a new benchmark version."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from methods_kit import Data

from robustft.benchmarks.maintenance.digits_card import windows
from robustft.datasets import digits, loaders
from robustft.datasets.card import DataError
from robustft.datasets.catalogue import get
from robustft.datasets.randomness import derive, permutation, stable_key, uniforms
from robustft.results.records.records import gather_reference

pytestmark = pytest.mark.computes

TOKENS = torch.tensor([[[7, 2, 9, 0, 0], [7, 3, 4, 9, 0]]] * 10)
CARD = json.loads((Path(digits.__file__).parent / "digits_card.json").read_text())


def test_blocks_are_fourteen_fills_of_one_form():
    labels = digits.archive_labels()
    blocks = digits.recover_blocks(labels)
    assert len(blocks) == 14 and blocks[0][0] == 0 and blocks[-1][1] == len(labels) == 1797
    assert all(stop == start for (_, stop), (start, _) in zip(blocks, blocks[1:], strict=False))
    form = "".join(map(str, labels[:130]))
    for start, stop in blocks:
        text = "".join(map(str, labels[start:stop]))
        assert 120 <= len(text) <= 130 and "0955650" in text
        missing = iter(form)
        matched = sum(any(c == d for d in missing) for c in text[:25])  # a subsequence of the form
        assert matched == len(text[:25])


def test_committed_splits_are_the_made_ones_and_disjoint_by_image():
    splits = digits.splits()
    assert splits == digits.make_splits()
    for a, b in combinations(splits.values(), 2):
        assert not set(a) & set(b)
    assert sum(map(len, splits.values())) == 1797
    assert len(splits["test"]) >= 600 and 350 <= len(splits["writers"]) <= 450


def test_held_out_writers_are_whole_blocks():
    blocks = digits.recover_blocks(digits.archive_labels())
    # Of the writers the card names where each block begins, by the ids of source images.
    writers = next(entry for entry in digits.SETS if entry.name == "writers")
    units = sorted({int(unit) for unit in digits.Digits().eval_data("writers").unit_ids})
    assert [int(start) for start in writers.clusters] == [start for start, _ in blocks if start in units]
    held = set(digits.splits()["writers"])
    assert sorted(len(held & set(range(a, b))) for a, b in blocks) == [0] * 11 + sorted(
        b - a for a, b in blocks if a in held
    )


@pytest.mark.parametrize("name", sorted(CARD))
def test_the_pictures_are_those_of_the_committed_card(name):
    card = get(name).card
    assert card.version == CARD[name]["version"]
    assert card.fingerprint == CARD[name]["fingerprint"]


def test_the_windows_hold_and_follow_from_the_numbers_of_the_card():
    for row in CARD["digits"]["backbones"].values():
        assert windows(row["zero_shot"], row["ft"]) == row["windows"]
        assert all(window["holds"] for window in row["windows"].values())


def test_the_tuned_ft_of_the_reference_is_inside_the_windows_too():
    accuracies = {}
    for record in gather_reference("digits"):
        values = accuracies.setdefault((record["backbone"], record["method"]), [])
        values.append({name: metrics["accuracy"] for name, metrics in record["sets"].items()})
    for backbone in CARD["digits"]["backbones"]:
        zero_shot, ft = (
            {name: float(np.mean([run[name] for run in accuracies[backbone, method]])) for name in digits.PAINTERS}
            for method in ("zero_shot", "ft")
        )
        assert all(window["holds"] for window in windows(zero_shot, ft).values())


def test_evaluation_pictures_do_not_depend_on_where_a_batch_begins():
    data = get("digits").eval_data("renditions")
    whole = data.images(0, 40)
    assert torch.equal(torch.cat([data.images(i, i + 8) for i in range(0, 40, 8)]), whole)
    assert len(data) == 4 * len(set(data.unit_ids)) == len(set(data.sample_ids)) == 2400
    assert len(torch.unique(whole.flatten(1), dim=0)) == 40  # four renderings of an image differ


def test_training_pictures_depend_on_seed_epoch_and_image_alone():
    data = get("digits")
    both = data.train_images([(0, 3), (5, 7)], seed=1)
    assert torch.equal(data.train_images([(5, 7)], seed=1)[0], both[1])
    for other in ([(5, 7)], 2), ([(6, 7)], 1), ([(5, 8)], 1):
        assert not torch.equal(data.train_images(*other)[0], both[1])


@pytest.mark.parametrize(("name", "share"), [("id", 0.95), ("reversed", 0.05), ("writers", 0.95)])
def test_colour_follows_the_label_as_often_as_the_card_says(name, share):
    data = get("digits").eval_data(name)
    images, labels = data.images(0, len(data)).float(), torch.from_numpy(data.labels)
    red_minus_blue = (images[:, 0] - images[:, 2]).mean((1, 2))
    as_expected = ((red_minus_blue > 0) == (labels < 5)).float().mean().item()
    assert as_expected == pytest.approx(share, abs=0.02)


def test_an_unknown_set_or_dataset_names_the_right_ones():
    with pytest.raises(DataError, match="it has validation, id, fresh"):
        get("digits").eval_data("renders")
    with pytest.raises(DataError, match="did you mean 'digits'"):
        get("digit")


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_no_batch(workers):
    options = {"batch_size": 64, "seed": 3, "start_step": 0, "total_steps": 7}
    alone = list(loaders.train_batches(get("digits"), TOKENS, **options))
    shared = list(loaders.train_batches(get("digits"), TOKENS, workers=workers, **options))
    assert len(alone) == len(shared) == 7
    for a, b in zip(alone, shared, strict=True):
        for field in ("images", "labels", "tokens", "sample_ids", "epoch"):
            assert torch.equal(getattr(a, field), getattr(b, field))


def test_a_batch_in_page_locked_memory_is_the_same_batch(monkeypatch):
    locked = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: locked.append(tensor) or tensor.clone())
    (batch,) = loaders.train_batches(get("digits"), TOKENS, batch_size=8, seed=0, start_step=0, total_steps=1)
    pinned = batch.pin_memory()
    for name in ("images", "labels", "tokens", "sample_ids", "epoch"):
        assert any(getattr(batch, name) is tensor for tensor in locked), name
        assert torch.equal(getattr(pinned, name), getattr(batch, name)), name


def test_a_late_start_gives_the_tail_of_the_whole_sequence():
    options = {"batch_size": 48, "seed": 0, "total_steps": 9}
    whole = list(loaders.train_batches(get("digits"), TOKENS, start_step=0, **options))
    tail = list(loaders.train_batches(get("digits"), TOKENS, start_step=5, **options))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[5:], tail, strict=True))


def test_captions_name_the_label_and_every_visit_draws_its_template_anew():
    tokens = torch.tensor([[[100 + label, 200 + prompt, 999] for prompt in range(5)] for label in range(3)])
    data = Data()  # 24 images
    drawn = [[] for _ in range(data.train_size)]
    for batch in loaders.train_batches(data, tokens, batch_size=8, seed=0, start_step=0, total_steps=120):
        assert (batch.tokens[:, 0] - 100).tolist() == batch.labels.tolist()
        assert batch.labels.tolist() == data.train_labels()[batch.sample_ids.numpy()].tolist()
        for sample, prompt in zip(batch.sample_ids.tolist(), (batch.tokens[:, 1] - 200).tolist(), strict=True):
            drawn[sample].append(prompt)
    assert all(len(prompts) == 40 and len(set(prompts)) == 5 for prompts in drawn)
    assert abs(np.bincount(np.concatenate(drawn)) - 192).max() < 50  # 4 standard deviations


def test_a_caption_follows_from_seed_epoch_and_image_wherever_in_a_batch_the_image_is():
    tokens = torch.tensor([[[100 + label, 200 + prompt, 999] for prompt in range(50)] for label in range(3)])

    def drawn(seed, batch_size):
        batches = loaders.train_batches(
            Data(), tokens, batch_size=batch_size, seed=seed, start_step=0, total_steps=48 // batch_size
        )
        rows = [torch.stack([b.epoch, b.sample_ids, b.tokens[:, 1]], dim=1).tolist() for b in batches]
        return {(epoch, sample): prompt for batch in rows for epoch, sample, prompt in batch}

    captions = drawn(0, 8)
    assert len(captions) == 48 and drawn(0, 6) == drawn(0, 24) == captions  # two epochs of 24 images
    other = drawn(1, 8)
    assert sum(captions[key] == other[key] for key in captions) < 8  # another seed: one in fifty by chance


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    def orders(seed):
        steps = list(loaders.visits(30, 10, seed, 0, 9))
        return [[i for step in steps[3 * e : 3 * e + 3] for _, i in step] for e in range(3)]

    found = [tuple(order) for seed in range(3) for order in orders(seed)]
    assert all(sorted(order) == list(range(30)) for order in found)
    assert len(set(found)) == 9 and orders(1) == orders(1)


def test_an_epoch_visits_no_image_twice_and_cuts_captions_after_the_longest():
    batches = list(loaders.train_batches(get("digits"), TOKENS, batch_size=64, seed=0, start_step=0, total_steps=6))
    for epoch in (batches[:3], batches[3:]):
        ids = torch.cat([b.sample_ids for b in epoch])
        assert len(ids.unique()) == len(ids) == 192
    labels = get("digits").train_labels()
    for b in batches:
        assert b.labels.tolist() == labels[b.sample_ids.numpy()].tolist()
        assert b.tokens.shape[1] == 4  # cut after the longest caption


@pytest.mark.parametrize("size", [0, 201])
def test_a_batch_larger_than_the_set_is_refused(size):
    with pytest.raises(DataError, match=f"batch_size: must lie in 1..200, .* got {size}"):
        loaders.steps_per_epoch(200, size)


def test_keys_are_stable_across_versions_and_uniforms_are_uniform():
    assert stable_key("digits", 1) == 0x1CE5EA78331E3613
    first = uniforms(derive(stable_key("test"), np.arange(2)), 2)[0]
    assert first.tolist() == [0.24932054740492193, 0.5133618261467225]
    assert permutation(5, 6).tolist() == [3, 4, 2, 5, 0, 1]
    u = uniforms(derive(stable_key("test"), np.arange(2000)), 10)
    assert 0 <= u.min() and u.max() < 1
    counts, _ = np.histogram(u, bins=10, range=(0, 1))
    assert abs(counts - 2000).max() < 200  # 4.7 standard deviations
    assert abs(np.corrcoef(u[:, 0], u[:, 1])[0, 1]) < 0.08
    assert sorted(permutation(5, 17)) == list(range(17))
