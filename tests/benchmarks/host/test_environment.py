"""What a record says of the machine that made it, and that nothing asks the network unless told."""

import io
import os
import sys

import pytest

from robustft.benchmarks import cli
from robustft.benchmarks.execution import worker
from robustft.benchmarks.host.environment import _cpu


def test_processors_of_one_name_are_told_apart_by_their_numbers(tmp_path):
    """Rented machines call several generations "AMD EPYC"; their sums round differently."""
    about = "processor\t: {}\ncpu family\t: 25\nmodel\t\t: {}\nmodel name\t: AMD EPYC\nstepping\t: 1\n\n"
    names = []
    for model in (1, 17):
        (tmp_path / "cpuinfo").write_text("".join(about.format(core, model) for core in range(2)))
        names.append(_cpu(tmp_path / "cpuinfo"))
    assert names == ["AMD EPYC (25/1/1)", "AMD EPYC (25/17/1)"]
    (tmp_path / "cpuinfo").write_text("model name\t: Neoverse\n")
    assert _cpu(tmp_path / "cpuinfo") == "Neoverse"
    assert _cpu(tmp_path / "missing")  # where there is no such file: what Python knows


@pytest.mark.parametrize("start", [lambda: cli.main(["list"]), lambda: worker.main([])])
def test_commands_and_workers_ask_no_network_unless_the_user_wants_it(start, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # no run to make
    for said, then in ((None, "1"), ("0", "0")):
        monkeypatch.delenv("HF_HUB_OFFLINE")
        if said is not None:
            monkeypatch.setenv("HF_HUB_OFFLINE", said)
        with pytest.raises(SystemExit):
            start()
        assert os.environ["HF_HUB_OFFLINE"] == then
