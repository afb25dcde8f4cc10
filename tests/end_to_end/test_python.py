"""`import robustft` in a process of its own: what it loads, which names there are, and what the docs show of it."""

import os
import re
import subprocess
import sys

import places
import pytest
from repository import ROOT

import robustft

FUNCTIONS = ("board", "compare", "ece", "evaluate", "load_run", "plan", "records", "run")


def python(code, cwd, python=sys.executable, **variables):
    environment = os.environ | {"PYTHONPATH": "", "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"} | variables
    return subprocess.run([python, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)


IMPORTED = """
import sys
before = set(sys.modules)
import robustft
names = dir(robustft)
loaded = {name.partition('.')[0] for name in set(sys.modules) - before}
assert loaded == {'robustft'}, loaded
assert robustft.__version__[0].isdigit() and {'torch', 'pandas', 'numpy', 'click'}.isdisjoint(sys.modules)
print(*names)
"""


@pytest.mark.parametrize("place", ["repository", "elsewhere"])
def test_the_import_loads_nothing_and_knows_its_names(place, tmp_path):
    result = python(IMPORTED, ROOT if place == "repository" else tmp_path)
    assert result.returncode == 0, result.stderr
    public = {name for name in result.stdout.split() if not name.startswith("_")}
    assert public == set(robustft.__all__) - {"__version__"} and set(FUNCTIONS) < public
    assert result.stderr == ""


@pytest.mark.programs
def test_what_needs_no_torch_is_there_without(tmp_path):
    code = "import sys, robustft; robustft.compare('tracer', 'flyp', benchmark='digits', reference=True)\n"
    code += "robustft.records(reference=True); robustft.ece([[1.0]], [0]); print('torch' in sys.modules)"
    result = python(code, tmp_path)
    assert result.stdout == "False\n", result.stderr


def test_every_public_name_says_what_it_does():
    for name in FUNCTIONS:
        text = getattr(robustft, name).__doc__
        assert "Args:" in text and "Raises:" in text, name
    assert not hasattr(robustft, "nothing_of_this_name")
    with pytest.raises(AttributeError, match="no attribute 'plans'"):
        _ = robustft.plans


def test_a_clone_is_whole_in_its_own_folder_whatever_is_installed(tmp_path):
    """As where a wheel is installed: the folder robustft/ of the clone is found first."""
    clone = places.copy_tree(tmp_path / "clone")
    code = "import robustft, robustft.benchmarks.cli as cli, datasets, robustft.datasets.catalogue as ours\n"
    code += "print(robustft.__file__, cli.__file__, ours.__file__, sep='\\n')"
    result = python(code, clone)
    assert result.returncode == 0, result.stderr
    files = ("robustft/__init__.py", "benchmarks/cli.py", "datasets/catalogue.py")
    assert result.stdout.split() == [str(clone / name) for name in files]


def blocks(page):
    """The Python of a page, one text: blocks go on from one another."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S))


@pytest.mark.programs
def test_what_the_docs_show_runs_in_an_empty_folder(tmp_path):
    code = blocks("python.md")
    assert all(f"robustft.{name}(" in code for name in FUNCTIONS)
    result = python(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]


def test_types_are_there_for_a_checker(tmp_path):
    assert (ROOT / "robustft" / "py.typed").exists()
    text = (ROOT / "robustft" / "__init__.py").read_text(encoding="utf-8")
    shown = re.search(r"^if TYPE_CHECKING:\n(.*?)^\w", text, re.M | re.S)[1]
    listed = {name for names in re.findall(r"import ([\w, ]+)", shown) for name in names.split(", ")}
    assert listed | {"__version__"} == set(robustft.__all__)
