"""What a sentence prints as a remedy works as it is printed: it has the suite and the flags of place asked for."""

import re
import shlex

import pytest
from own_data_kit import suite
from runs_kit import call

from robustft.benchmarks import cli
from robustft.benchmarks.host.printed import complete, completing, counted

TYPED = "sweep ../mine.yaml --method=ft --data D --runs 'my runs' --seeds 0,1"


@pytest.mark.parametrize(
    "said, printed",
    [
        ("`robustft status`", "`robustft status --runs 'my runs'`"),
        ("see `robustft status`, then `robustft retry`", "`robustft retry --data D --runs 'my runs'`"),
        (
            "`robustft sweep BENCHMARK --method ft,flyp`",
            "sweep ../mine.yaml --method ft,flyp --data D --runs 'my runs'`",
        ),
        ("`robustft tune mine.yaml --method ft`", "`robustft tune ../mine.yaml --method ft --data D --runs 'my runs'`"),
        ("`robustft tune digits --method ft`", "`robustft tune digits --method ft --data D --runs 'my runs'`"),
        ("`robustft tune` again", "`robustft tune ../mine.yaml --data D --runs 'my runs'` again"),
        ("`robustft doctor --prefetch SUITE`", "`robustft doctor --prefetch ../mine.yaml --data D --runs 'my runs'`"),
        ("`robustft status --runs other`", "`robustft status --runs other`"),
        ("`robustft verify FOLDER`", "`robustft verify FOLDER`"),
        ("`robustft list`", "`robustft list`"),
        ("`hf auth login`", "`hf auth login`"),
    ],
)
def test_a_printed_command_is_completed_by_what_was_asked(said, printed):
    with completing(cli.robustft, shlex.split(TYPED)):
        assert printed in complete(said)
    assert complete(said) == said


@pytest.mark.parametrize("typed", ["", "--help", "sweep", "swep digits", "sweep digits --no-such-flag", "sweep digits"])
def test_nothing_is_added_where_nothing_was_asked(typed, monkeypatch):
    monkeypatch.delenv("ROBUSTFT_RUNS", raising=False)
    with completing(cli.robustft, typed.split()):
        assert complete("`robustft status`, `robustft sweep digits`") == "`robustft status`, `robustft sweep digits`"


def test_the_command_that_tune_names_is_one_that_plans(own_suite, capsys):
    """A post-hoc method without the values of its input: what the sentence says to run is run, as a dry run."""
    place = ("--data", "D", "--runs", "R")
    assert call("tune", own_suite, "--method", "wise_ft", "--limit", "10", "--recipe", "more", "--dry-run", *place) == 2
    (command,) = re.findall("`robustft (.*?)`", capsys.readouterr().err)
    assert command == f"tune {own_suite} --method ft,wise_ft --recipe more --limit 10 --data D --runs R"
    assert call(*shlex.split(command), "--dry-run") == 0


@pytest.fixture
def own_suite(tmp_path, monkeypatch):
    """A suite of another name than its file, in another folder, that can be tuned."""
    monkeypatch.chdir(tmp_path)
    for folder in ("D", "suites"):
        (tmp_path / folder).mkdir()
    steps = {"steps": 3, "batch_size": 4, "lr": 1e-4, "weight_decay": 0.1, "precision": "fp32"}
    space = {"ft": {"lr": [1e-5, 1e-4]}, "wise_ft": {"alpha": [0.2, 0.4]}}
    tuning = {"trials": 2, "seeds": [7], "space": space}
    suite(
        "suites/mine.yaml",
        "digits",
        name="other",
        version="digits-v1",
        tuning=tuning,
        recipes={"common": steps, "more": steps},
    )
    return "suites/mine.yaml"


def test_compare_names_the_runs_and_the_file_that_were_asked_for(own_suite, capsys):
    assert call("compare", "ft", "zero_shot", "--benchmark", own_suite, "--runs", "R") == 2
    assert f"run `robustft sweep {own_suite} --method zero_shot --runs R`" in capsys.readouterr().err


def test_counts_agree_with_their_nouns():
    assert [counted(n, "run") for n in (0, 1, 2)] == ["0 runs", "1 run", "2 runs"]
    assert counted(1, "entry", "entries") == "1 entry" and counted(3, "entry", "entries") == "3 entries"
