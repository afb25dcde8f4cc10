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
        ({"comment": "two\nlines"}, "comment: must be one line of text, got 'two\\nlines'"),
        ({"comment": "--api-key canary"}, "comment: must hold no secret"),
        ({"gres": "gpu:2", "gpus": 3}, "gres must name as many GPUs as gpus, 3, got 'gpu:2'"),
        ({"gres": "gpu:2", "gpu_type": "a100"}, "gpu_type must stand in gres"),
        ({"gpus": 0, "cpus": "site"}, "cpus must be a number where gpus is 0"),
        ({"cpus": "many"}, "whole number >= 1, or site, got 'many'"),
        ({"extra": {"wandb_api_key": "canary"}}, "extra: must hold no secret, got 'wandb-api-key'"),
        ({"extra": {"bb": "--token canary"}}, "extra: must hold no secret, got 'bb'"),
        ({"extra": {"output": "mine.log"}}, "extra: must hold no 'output', got one; the harness sets it"),
        ({"extra": {"--requeue": True}}, "extra: must hold no 'requeue', got one; the harness sets it"),
        (
            {"extra": {"gpus_per_node": 2}},
            "extra: must hold no 'gpus-per-node', got one; the profile's key for it is gpus",
        ),
        ({"extra": {"clusters": "b"}}, "set SLURM_CLUSTERS"),
        ({"extra": {"p": "low"}}, "long names of sbatch's options such as mail-type, got 'p'"),
        ({"extra": {"mail-type": "A\nB"}}, "for 'mail-type', got 'A\\nB'"),
        ({"extra": {"exclusive": False}}, "for 'exclusive', got False"),
        ({"methods": {"ft": {"gpus": 0}}}, "gpus must be 0 for all runs of a sweep or for none, got 1 and 0 for ft"),
        ({"methods": {"ft": {"lr": 0.1}}}, "'lr' is no key of a cluster profile"),
        ({"backbones": {"RN50": {"time": 3}}}, "backbones.RN50.time: must be text such as 24h"),
        ({"gres": "gpu:2", "backbones": {"RN50": {"gpus": 4}}}, "for RN50: gres must name as many GPUs as gpus, 4"),
    ],
)
def test_what_is_wrong_is_named_and_secrets_are_not_repeated(content, message):
    with pytest.raises(UserError) as error:
        read(content, "mine.yaml")
    assert message in str(error.value)
    assert "canary" not in str(error.value)


@pytest.mark.parametrize(
    ("gres", "gpus"),
    [("gpu", 1), ("gpu:2", 2), ("gpu:a100", 1), ("gpu:a100:4", 4), ("gpu:1g.10gb:1", 1), ("tmpdisk:9,gpu:2", 2)],
)
def test_gpus_may_be_named_as_generic_resources(gres, gpus):
    assert read({"gres": gres}, "mine.yaml").gpus == gpus


def test_some_runs_have_keys_of_their_own():
    profile = read(
        {
            "partition": "gpu",
            "cpus": 8,
            "backbones": {"ViT-L-14": {"gpus": 4, "time": "2d"}},
            "methods": {"zero_shot": {"time": "1h"}},
        },
        "mine.yaml",
    )
    large, quick = profile.of("tracer", "ViT-L-14"), profile.of("zero_shot", "ViT-L-14")
    assert (large.partition, large.cpus, large.gpus, large.minutes) == ("gpu", 8, 4, 2880)
    assert (quick.gpus, quick.minutes) == (4, 60)
    assert profile.of("tracer", "RN50") == read({"partition": "gpu", "cpus": 8}, "mine.yaml").of("", "")
    again = read(profile.with_keys({"time": "9h"}), "mine.yaml")
    assert {again.of(*names).minutes for names in (("tracer", "RN50"), ("zero_shot", "ViT-L-14"))} == {540}
    assert again.of("tracer", "ViT-L-14").gpus == 4


def test_a_setup_line_may_speak_of_tokenizers():
    assert Profile(setup=["export TOKENIZERS_PARALLELISM=false"])


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UserError, match="cpu, h100"):
        load("h200")
