"""Commands that compute nothing load nothing heavy, and still say what the heavy code would."""

import subprocess
import sys

import numpy as np
import pytest
from runs_kit import call

from robustft.benchmarks.commands import listing
from robustft.benchmarks.planning import benchmark as facts
from robustft.datasets import digits
from robustft.methods import registry

HEAVY = ["torch", "open_clip", "torchvision", "pandas", "pyarrow", "scipy", "sklearn", "matplotlib", "datasets"]
LOADED = """
import sys
from robustft.benchmarks import cli
try:
    cli.main(sys.argv[1:])
finally:
    print("LOADED", *sorted(set(sys.modules) & set({heavy})), file=sys.stderr)
"""


@pytest.mark.programs
@pytest.mark.parametrize(
    ("command", "allowed"),
    [
        (["--help"], set()),
        (["list"], set()),
        (["status"], set()),
        (["list", "tracer"], {"torch"}),
        (["list", "digits"], {"torch"}),
        (["list", "tiny-vit-p8"], {"torch"}),
        (["sweep", "digits", "--method", "all", "--dry-run"], {"torch"}),
    ],
    ids=" ".join,
)
def test_only_what_is_needed_is_loaded(command, allowed, tmp_path):
    made = subprocess.run(
        [sys.executable, "-c", LOADED.format(heavy=HEAVY), *command], capture_output=True, text=True, cwd=tmp_path
    )
    assert made.returncode == 0 and made.stdout, made.stderr
    assert set(made.stderr.splitlines()[-1].split()[1:]) <= allowed


# What is read in place of loading


def test_the_list_of_methods_is_that_of_the_registry(tmp_path):
    read = listing._read_methods(listing.Path(listing.__file__).parents[2] / "methods")
    assert read == {name: listing._first_line(method) for name, method in facts.methods().items()}
    assert list(read) == registry.names() and all(read.values())


@pytest.mark.parametrize(
    "source",
    [
        "NAME = 'b'\n@register(NAME)\nclass B:\n    '''Of b.'''\n",  # only running it says the name
        "class B:\n    '''Registers nothing.'''\n",
    ],
)
def test_a_method_whose_source_does_not_say_it_is_imported(tmp_path, source):
    (tmp_path / "__init__.py").write_text("from . import a, b\n")
    (tmp_path / "a.py").write_text(
        '@register("one")\nclass A:\n    """Of a.\n\n    More."""\n@register("two")\nclass C: ...'
    )
    (tmp_path / "b.py").write_text('@register("b")\nclass B:\n    """Of b."""\n')
    assert listing._read_methods(tmp_path) == {"b": "Of b.", "one": "Of a.", "two": ""}
    (tmp_path / "b.py").write_text(source)
    assert listing._read_methods(tmp_path) is None


def test_a_method_that_was_registered_in_this_process_is_listed(monkeypatch, capsys):
    monkeypatch.setitem(registry._methods, "car_ft", type("CarFT", (registry.get("ft"),), {"__doc__": "Of others."}))
    assert call("list") == 0
    assert "Of others." in capsys.readouterr().out


def test_the_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    given, (glyphs, labels) = load_digits(), digits._archive()
    assert np.array_equal(glyphs, given.images) and np.array_equal(labels, given.target)
    assert (glyphs.dtype, labels.dtype) == (np.uint8, np.int64)
