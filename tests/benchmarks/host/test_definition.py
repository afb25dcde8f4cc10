"""What a notebook defines is another method whenever anything that it is made of changes."""

import importlib
import uuid

import pytest

from robustft.benchmarks.host import definition
from robustft.methods import registry

PARTS = {
    "head": "from robustft.methods.base import hyperparameters\nfrom robustft.methods.ft import FT\n",
    "helper": "SCALE = 2.0\ndef smooth(x):\n    return x * SCALE\n",
    "hyper": "@hyperparameters\nclass Hyper:\n    share: float = 0.1\n",
    "base": "class Base(FT):\n    def penalty(self, student, start):\n        return {}\n",
    "method": "class Mine(Base):\n    Hyper = Hyper\n    def loss(self, student, teacher, batch):\n"
    "        return (lambda: smooth(1.0))()\n",
    "beside": "def plotted():\n    return 'blue'\n",
}


@pytest.fixture
def sha_of(tmp_path, monkeypatch):
    """The hash of a method in a module of its own, with texts replaced."""
    monkeypatch.syspath_prepend(tmp_path)

    def sha(old="", new=""):
        text = "\n\n".join(PARTS.values())
        assert old in text
        name = f"defined_{uuid.uuid4().hex}"
        (tmp_path / f"{name}.py").write_text(text.replace(old, new))
        importlib.invalidate_caches()
        return definition.sha256(importlib.import_module(name).Mine)

    return sha


def test_what_is_installed_and_ours_has_none():
    assert all(definition.sha256(registry.get(name)) is None for name in registry.names() if name in ("ft", "tracer"))
    assert definition.sha256(dict) is None and definition.sha256(pytest.Item) is None


def test_the_same_text_is_the_same_method_wherever_it_stands(sha_of):
    first = sha_of()
    assert len(first) == 64 and sha_of() == first
    assert sha_of("class Mine", "# moved down\n\n\nclass Mine") == first
    assert sha_of("'blue'", "'red'") == first  # which the method does not use


@pytest.mark.parametrize(
    "old, new",
    [
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("x * SCALE", "x / SCALE"),
        ("share: float = 0.1", "share: float = 0.2"),
        ("return {}", "return {1: 2}"),
        ("smooth(1.0)", "smooth(1.5)"),
        ("    Hyper = Hyper\n", "    Hyper = Hyper\n    needs_text = False\n"),
    ],
)
def test_a_change_of_anything_that_it_uses_is_another(sha_of, old, new):
    assert sha_of(old, new) != sha_of()


def test_what_it_logs_while_it_works_is_no_change(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = """
from robustft.methods.ft import FT

WEIGHTS, LOSSES, COUNTS, CALLS = [0.1, 0.9], [], {}, 0

class Mine(FT):
    seen = 0
    def loss(self, student, teacher, batch):
        global CALLS
        CALLS += 1
        type(self).seen += 1
        COUNTS["all"] = CALLS
        LOSSES.append(1.0)
        return {"all": self.weighted(1.0)}
    def weighted(self, loss):
        return sum(weight * loss for weight in WEIGHTS)
"""
    name = f"logging_{uuid.uuid4().hex}"
    (tmp_path / f"{name}.py").write_text(text)
    importlib.invalidate_caches()
    module = importlib.import_module(name)
    first = definition.sha256(module.Mine)
    module.Mine(None).loss(None, None, None)
    assert module.LOSSES and module.COUNTS and module.CALLS and module.Mine.seen
    assert definition.sha256(module.Mine) == first
    module.WEIGHTS[0] = 0.2
    assert definition.sha256(module.Mine) != first
