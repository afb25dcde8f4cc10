"""A profile says what a cluster needs, and nothing else."""

import pytest

from robustft.benchmarks.errors import UserError
from robustft.benchmarks.executors.slurm import profile as slurm_profile
from robustft.benchmarks.executors.slurm.profile import Profile, load, read


@pytest.mark.parametrize("name", slurm_profile.names())
def test_shipped_profiles_are_right(name):
    assert load(name).minutes > 0


@pytest.mark.parametrize(
    ("text", "minutes"), [("90m", 90), ("24h", 1440), ("2d", 2880), ("12:00:00", 720), ("1-00:00:30", 1441)]
)
def test_times(text, minutes):
    assert Profile(time=text).minutes == minutes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"lr": 0.1}, "'lr' is no key of a cluster profile"),
        ({"api_key": "canary"}, "'api_key' is no key"),
        ({"time": 43200}, 'must be text such as 24h or "12:00:00" in quotes, got 43200'),
        ({"time": "soon"}, "at least a minute"),
        ({"memory": "much"}, "whole number with a unit"),
        ({"gpus": -1}, "gpus"),
        ({"setup": ["module load cuda", "export WANDB_API_KEY=canary"]}, "line 2 sets one"),
        ({"setup": ["login --api-key canary"]}, "line 1 sets one"),
        ([1], "must hold keys and values"),
    ],
)
def test_what_is_wrong_is_named_and_secrets_are_not_repeated(content, message):
    with pytest.raises(UserError) as error:
        read(content, "mine.yaml")
    assert message in str(error.value)
    assert "canary" not in str(error.value)


def test_a_setup_line_may_speak_of_tokenizers():
    assert Profile(setup=["export TOKENIZERS_PARALLELISM=false"])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="cpu, h100"):
        load("h200")
