"""A terminal without our signs, 40 columns wide: every command prints, and files are UTF-8 all the same."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs_kit import folders, write_suite

pytestmark = pytest.mark.programs

PLAIN = {
    "LC_ALL": "POSIX",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "COLUMNS": "40",
}


def program(*words, cwd, code=0, **variables):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ROBUSTFT_", "LC_", "LANG"))}
    command = [Path(sys.executable).with_name("robustft"), *map(os.fsencode, words)]
    given = {**kept, "OMP_NUM_THREADS": "1", **variables}
    made = subprocess.run(command, cwd=cwd, env=given, capture_output=True, timeout=600)
    assert b"Traceback" not in made.stderr and made.returncode == code, made.stderr.decode()
    return made.stderr if code else made.stdout


@pytest.mark.parametrize(
    "words",
    [("list", "tracer"), ("compare", "tracer", "flyp", "--benchmark", "digits", "--reference"), ("--help",)],
    ids=lambda words: words[0],
)
def test_signs_that_a_terminal_lacks_become_others(words, tmp_path):
    plain = program(*words, cwd=tmp_path, **PLAIN)
    assert plain and plain.isascii()


def test_boards_are_the_same_bytes_on_every_terminal(tmp_path):
    for name, variables in (("plain", PLAIN), ("rich", {"LC_ALL": "C.UTF-8"})):
        shown = program(
            "leaderboard", "digits", "--results", tmp_path / name, "--runs", "none", cwd=tmp_path, **variables
        )
        assert shown.isascii() == (name == "plain")
    files = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("plain", "rich")]
    assert files[0] == files[1] and "±".encode() in files[0]["leaderboard.md"]


def test_a_run_in_a_folder_whose_name_the_terminal_cannot_show(tmp_path):
    """Neither its letters, nor what rich and glob would read as their own."""
    suite, runs = write_suite(tmp_path), "Läufe [red]*"
    for variables in (PLAIN, {"LC_ALL": "C.UTF-8"}):
        program("sweep", suite, "--method", "zero_shot", "--set", "limit=8", "--runs", runs, cwd=tmp_path, **variables)
        shown = program("status", "--runs", runs, cwd=tmp_path, **variables)
        assert b"1 of 1 run done" in shown
    no_text = program("sweep", suite, "--method", "ft", "--runs", b"no\xfftext", cwd=tmp_path, code=2, **PLAIN)
    assert b"--runs: must be a name in UTF-8, got 'no\\udcfftext'" in no_text
    (folder,) = folders(tmp_path / runs)
    assert (folder / "record.json").read_text(encoding="utf-8") and (folder / "log").read_text(encoding="utf-8")
