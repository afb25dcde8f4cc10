"""Checkpoints on a bad disk: whatever happens to the newest, it is found out, and the one before is used."""

import json
import random
import warnings

import pytest
import torch

from robustft.methods.training.checkpoints import Checkpoints

META = {"curves": [{"step": 1, "lr": 0.1 + 0.2, "loss": 1.25}], "info": {7: "a", 11: None}, "train_seconds": 12.5}


@pytest.fixture
def two(tmp_path):
    """Checkpoints of steps 1 and 2."""
    checkpoints = Checkpoints(tmp_path, every_seconds=1e9)
    for step in (1, 2):
        checkpoints.save(step, {"a": torch.arange(8.0) + step, "n": torch.tensor(step)}, META)
    return checkpoints


def files(checkpoints, step):
    return [checkpoints.folder / f"step-{step:08d}.{ending}" for ending in ("json", "safetensors")]


def flip(path, place, bit=1):
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def latest(checkpoints):
    """The step that counts, and whether something was found damaged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = checkpoints.latest()
    if found is not None:
        assert torch.equal(found[1]["a"], torch.arange(8.0) + found[0])
        assert json.dumps(found[2]) == json.dumps(META)
    return found and found[0], bool(caught)


def test_sound_ones_are_silent(two):
    assert latest(two) == (2, False)


@pytest.mark.parametrize("which", [0, 1], ids=["json", "tensors"])
def test_no_single_flipped_bit_goes_unnoticed(two, which):
    """Any bit of either file: the newest is refused, or still says exactly what was written."""
    path = files(two, 2)[which]
    sound, chance = path.read_bytes(), random.Random(0)
    places = {chance.randrange(len(sound)) for _ in range(200)} | {0, len(sound) - 1}
    for place in sorted(places):
        flip(path, place, 1 << chance.randrange(8))
        step, damaged = latest(two)
        assert (step, damaged) in ((1, True), (2, False)), place
        if which == 1:
            assert step == 1, place  # of the tensors every bit counts
        path.write_bytes(sound)


def test_a_number_changed_in_the_json_is_found_out(two):
    path = files(two, 2)[0]
    path.write_text(path.read_text().replace("12.5", "13.5"))
    assert latest(two) == (1, True)


@pytest.mark.parametrize("which", [0, 1], ids=["json", "tensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_one_is_found_out(two, which, share):
    path = files(two, 2)[which]
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert latest(two) == (1, True)


@pytest.mark.parametrize("which", [0, 1], ids=["json", "tensors"])
def test_a_deleted_one_does_not_count(two, which):
    files(two, 2)[which].unlink()
    assert latest(two)[0] == 1


def test_one_under_the_name_of_another_step_is_found_out(two):
    for old, new in zip(files(two, 2), files(two, 3), strict=True):
        old.rename(new)
    assert latest(two) == (1, True)


@pytest.mark.parametrize("content", ["[]", "null", "1", '"text"', '{"check": 1}'])
def test_any_json_that_is_none_of_ours_is_found_out(two, content):
    files(two, 2)[0].write_text(content)
    assert latest(two) == (1, True)


def test_with_both_damaged_training_begins_anew(two):
    for step in (1, 2):
        flip(files(two, step)[1], -1)
    assert latest(two) == (None, True)


def test_a_damaged_later_one_pushes_out_no_sound_one(tmp_path):
    """It went back to step 10 and is at step 15: what is left of steps 20 and 30 must not count as the last two."""
    checkpoints = Checkpoints(tmp_path, every_seconds=1e9, keep=3)
    for step in (10, 20, 30):
        checkpoints.save(step, {"a": torch.arange(8.0) + step}, META)
    for step in (20, 30):
        flip(files(checkpoints, step)[1], -1)
    again = Checkpoints(tmp_path, every_seconds=1e9)
    assert latest(again) == (10, True)
    again.save(15, {"a": torch.arange(8.0) + 15}, META)
    assert again.steps() == [15, 10] and latest(again) == (15, False)
    assert len(list(tmp_path.iterdir())) == 4
