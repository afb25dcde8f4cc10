"""What CONTRIBUTING, CHANGELOG, CITATION, the workflow, the forms and the hooks say holds in this repository."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from robustft.benchmarks.cli import robustft

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOW = GITHUB / "workflows" / "tests.yml"
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", GITHUB / "pull_request_template.md", WORKFLOW, *FORMS]


def read(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def load(path):
    return yaml.safe_load(read(path))


def setting(name):
    """The value of a line that pyproject.toml has once; Python 3.10 cannot read TOML."""
    (value,) = re.findall(rf'^{name} = "(.*)"$', read("pyproject.toml"), re.M)
    return value


def name_of(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [*PAGES, ROOT / ".pre-commit-config.yaml"], ids=name_of)
def test_targets_and_commands_that_are_named_are_there(path):
    targets = set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.M))
    lines = re.findall(r"^(?: *(?:- )?(?:run|entry): )?((?:make|robustft) .*)$", read(path), re.M)
    for command in [*lines, *re.findall(r"`((?:make|robustft) [^`]+)`", read(path))]:
        program, word = command.split()[:2]
        known = targets if program == "make" else robustft.commands
        for name in word.split("|"):
            assert name in known, command


def test_files_that_contributing_names_are_there():
    text = read("CONTRIBUTING.md")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = {Path(line) for line in listed.stdout.splitlines()}
    there = tracked | {parent for path in tracked for parent in path.parents}
    named = {Path(name) for name in re.findall(r"`([\w.-]*(?:/[\w.-]*)+|[\w-]+\.(?:md|toml|txt|cff))`", text)}
    assert named
    assert named <= there


def test_contributing_lists_every_room():
    for folder in ("benchmarks", "methods", "results"):
        (line,) = re.findall(rf"^\| `{folder}/` .*$", read("CONTRIBUTING.md"), re.M)
        rooms = {place.parent.name for place in (ROOT / folder).glob("*/__init__.py")}
        assert rooms <= set(re.findall(r"`(\w+)`", line))


def test_one_version_and_one_licence_everywhere():
    headings = re.findall(r"^## (\S+)", read("CHANGELOG.md"), re.M)
    citation = load("CITATION.cff")
    assert [heading for heading in headings if heading != "Unreleased"][0] == setting("version")
    assert (str(citation["version"]), citation["license"]) == (setting("version"), setting("license"))


def test_every_version_says_what_changed_numbers():
    for part in re.split(r"^## ", read("CHANGELOG.md"), flags=re.M)[1:]:
        assert "\n### Changes numbers\n" in part, part.splitlines()[0]


def test_the_citation_has_what_its_format_asks_for():
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["title"] == setting("name")
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()


def test_the_workflow_runs_every_python_from_the_oldest_that_installs():
    versions = load(WORKFLOW)["jobs"]["tests"]["strategy"]["matrix"]["python"]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]  # as words: 3.10 as a number is 3.1
    assert setting("requires-python") == f">={versions[0]}"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_forms_have_what_their_format_asks_for(path):
    form = load(path)
    assert form["name"] and form["description"]
    asked = [item for item in form["body"] if item["type"] != "markdown"]
    assert {item["type"] for item in asked} <= {"input", "textarea", "dropdown", "checkboxes"}
    ids = [item["id"] for item in asked]
    assert asked and len(ids) == len(set(ids))
    for item in asked:
        assert item["attributes"]["label"]
        assert ("options" in item["attributes"]) == (item["type"] in ("dropdown", "checkboxes"))


def test_the_reference_is_light():
    """All that is committed of it; `results/records/rounding.py` says what a number is kept in."""
    files = [path for path in (ROOT / "results" / "reference").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 12e6
