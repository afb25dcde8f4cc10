"""`robustft sweep S --method all --dry-run` of every suite that ships, by every rule and recipe, with the tuned values
that ship; and `robustft list` of everything that has a name."""

import itertools
from functools import cache

import pytest
from runs_kit import call

from robustft import backbones
from robustft.benchmarks.commands.sweep import untuned
from robustft.benchmarks.executors.slurm import profile as slurm_profile
from robustft.benchmarks.planning.benchmark import Benchmark
from robustft.benchmarks.planning.suite import suite
from robustft.datasets import catalogue
from robustft.methods import registry

BUNDLED = [name for name in backbones.names() if backbones.available(name) and name.startswith(("tiny-", "glyph-"))]


@cache
def loaded(name):
    """To read: every process asks for each suite a dozen times while it collects these tests."""
    return suite.load(suite.find(name))


PLANS = [
    pytest.param(name, recipe, rule, id=f"{name}-{recipe}-{rule}")
    for name in suite.names()
    for recipe, rule in itertools.product(loaded(name).recipe_names, suite.RULES)
    if not catalogue.is_own(loaded(name).dataset) or (recipe, rule) == (loaded(name).default_recipe, suite.RULES[0])
]
"""One's own images are not here, and so there is no plan: one each of those suites says so."""


@pytest.mark.parametrize(("name", "recipe", "rule"), PLANS)
def test_all_methods_of_every_suite_are_planned(name, recipe, rule, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = call("sweep", name, "--method", "all", "--recipe", recipe, "--rule", rule, "--dry-run")
    shown = capsys.readouterr()
    if catalogue.is_own(loaded(name).dataset):  # one's own images are not here
        assert code == 2 and "there is no such folder; give the path that holds" in shown.err
        return
    on_path = [method for method in loaded(name).methods if registry.get(method).path]
    published = loaded(name).published.get(recipe)
    if rule == "fixed" and not [method for method in on_path if published is None or method in published.methods]:
        assert code == 2 and "--rule fixed: is for methods with a path" in shown.err
        return
    assert code == 0, shown.err
    assert "dry run: nothing was started" in shown.out
    said = [line for line in shown.err.splitlines() if line]
    assert [line for line in said if "Traceback" in line or "other trials" in line] == []
    left_out = [line for line in said if line.startswith("robustft: not planned: ")]
    for method in loaded(name).methods:
        assert f"│ {method} " in shown.out or any(method in line for line in left_out)
    for method in untuned(Benchmark(name), recipe):  # said, with what to run, and never run by `all`
        assert f"│ {method} " not in shown.out
        assert any(method in line and "not tuned; run `robustft tune " in line for line in left_out)


def test_what_digits_can_tune_and_has_not_tuned_is_no_row_of_its_board():
    digits = Benchmark("digits")
    left_out = untuned(digits, "common")
    assert not {*left_out} & {*digits.suite.methods} and {*left_out} < {*digits.suite.tuning.space}
    assert all(digits.tuned.entry(name, "tiny-vit-p8", "common") is None for name in left_out)


@pytest.mark.parametrize("name", [n for n in suite.names() if loaded(n).tuning], ids=str)
def test_all_trials_of_every_suite_are_planned(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = call("tune", name, "--dry-run")
    shown = capsys.readouterr()
    if catalogue.is_own(loaded(name).dataset):
        assert code == 2 and "there is no such folder" in shown.err
    else:
        assert code == 0, shown.err
        assert "nothing was started" in shown.out


def test_everything_with_a_name_is_listed(capsys):
    assert call("list") == 0
    summary = capsys.readouterr().out
    for name in (*registry.names(), *suite.names(), *slurm_profile.names()):
        assert name in summary.replace("\n", "")
    for name in (*registry.names(), *suite.names(), *catalogue.names(), *backbones.names()):
        assert call("list", name) == 0, name


def test_the_example_to_copy_is_listed_without_its_images_and_says_where_it_is(capsys):
    assert call("list", "own_data") == 0
    shown = capsys.readouterr().out
    assert "no card yet: folder:own_data: there is no such folder" in shown
    assert f"file: {suite.find('own_data')}" in shown.replace("\n", "")


@pytest.mark.parametrize("name", [n for n in suite.names() if not set(loaded(n).backbones) <= set(BUNDLED)])
def test_without_weights_or_images_a_sweep_is_refused_in_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROBUSTFT_DATA", str(tmp_path))
    assert call("sweep", name, "--method", "all") == 2
    said = capsys.readouterr().err.splitlines()
    assert len([line for line in said if line.startswith("robustft: ") and "not planned" not in line]) == 1, said
    assert list(tmp_path.iterdir()) == []
