"""What CONTRIBUTING, CHANGELOG, CITATION, the workflow, the forms and the hooks say holds in this repository."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from robustft.benchmarks.cli import robustft

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOW = GITHUB / "workflows" / "tests.yml"
COMMUNITY = GITHUB / "workflows" / "community.yml"
VERIFY_COMMUNITY = GITHUB / "verify_community.sh"
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.stem != "config"]
PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", GITHUB / "pull_request_template.md"]
PAGES += [WORKFLOW, COMMUNITY, *FORMS]


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


def test_the_workflow_of_bundles_runs_nothing_of_a_pull_request_and_has_no_secret():
    text, workflow = read(COMMUNITY), load(COMMUNITY)
    on = workflow[True]  # the key `on`, which YAML 1.1 reads as a truth value
    assert on == {"pull_request": {"paths": ["results/community/**"]}}  # never pull_request_target
    assert workflow["permissions"] == {"contents": "read"} and "secrets" not in text and "token" not in text.lower()
    (job,) = workflow["jobs"].values()
    program, submitted = [step["with"] for step in job["steps"] if "checkout" in step.get("uses", "")]
    base = "${{ github.event.pull_request.base.sha }}"
    assert (program["ref"], program["path"], submitted["path"]) == (base, "program", "submitted")
    assert "ref" not in submitted and submitted["fetch-depth"] == 0
    assert program["persist-credentials"] is submitted["persist-credentials"] is False
    *made, last = [step for step in job["steps"] if "run" in step]
    assert all(step["working-directory"] == "program" for step in made)
    assert (
        last["run"]
        == f'bash program/.github/{VERIFY_COMMUNITY.name} submitted "$BASE" "$PWD/program/.venv/bin/robustft"'
    )
    assert last["env"] == {"BASE": base} and "${{" not in last["run"]


@pytest.fixture
def submitted(tmp_path):
    """A checkout whose last commit is the one that a pull request goes to, and a program that says what it is asked."""
    checkout = tmp_path / "checkout"
    (checkout / "results" / "community" / "first" / "digits").mkdir(parents=True)
    (checkout / "README.md").write_text("ours")
    (checkout / "results" / "community" / "README.md").write_text("ours")
    (checkout / "results" / "community" / "first" / "digits" / "manifest.json").write_text("{}")
    git(checkout, "init", "-q")
    commit(checkout)
    program = tmp_path / "robustft"
    program.write_text('#!/bin/sh\necho "$@"\n! grep -qs forged "$2"/manifest.json\n')
    program.chmod(0o755)
    return checkout


def git(folder, *words):
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    ended = subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True)
    return ended.stdout.strip()


def commit(folder):
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x")


def verified(checkout, files=()):
    """Code, the program's calls and what is said where a pull request brings these files: path, or (path, text)."""
    base = git(checkout, "rev-parse", "HEAD")
    for path, text in (file if isinstance(file, tuple) else (file, "{}") for file in files):
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(text)
    commit(checkout) if files else None
    words = ["bash", VERIFY_COMMUNITY, checkout, base, checkout.parent / "robustft"]
    environment = {**os.environ, "RUNNER_TEMP": "/t"}
    ended = subprocess.run(words, capture_output=True, text=True, env=environment)
    calls = [line for line in ended.stdout.splitlines() if line.startswith(("verify", "merge"))]
    return ended.returncode, calls, ended.stderr


def test_each_bundle_that_a_pull_request_changes_is_verified_alone_and_beside_the_others(submitted):
    new = "results/community/our-lab"
    files = [f"{new}/digits/manifest.json", f"{new}/digits/runs/digits/ft/tiny/seed0-a/record.json"]
    files += [f"{new}/digits/runs/digits/ft/tiny/seed0-a/predictions/two words.parquet", f"{new}/digits/leaderboard.md"]
    code, calls, _ = verified(submitted, [*files, f"{new}/imagenet/manifest.json"])
    assert code == 0 and calls == [
        f"verify {new}/digits",
        f"verify {new}/imagenet",
        f"merge results/community/first/digits {new}/digits --results /t/merged",
        f"merge {new}/imagenet --results /t/merged",
    ]
    code, calls, _ = verified(submitted, [(f"{new}/digits/manifest.json", "forged")])
    assert code == 1 and calls == [f"verify {new}/digits"]


def test_a_pull_request_without_bundles_has_nothing_to_verify_and_one_may_take_its_own_back(submitted):
    assert verified(submitted, [("README.md", "theirs"), ("results/community/README.md", "theirs")])[:2] == (0, [])
    base = git(submitted, "rev-parse", "HEAD")
    shutil.rmtree(submitted / "results" / "community" / "first")
    commit(submitted)
    ended = subprocess.run(["bash", VERIFY_COMMUNITY, submitted, base, "false"], capture_output=True)
    assert ended.returncode == 0


@pytest.mark.parametrize(
    "path, words",
    [
        ("methods/ft.py", "changes nothing else"),
        ("results/community/README.md", "changes nothing else"),
        ("results/community/lab/digits/run.py", "is no file that robustft bundle writes"),
        ("results/community/lab/digits/runs/record.json.sh", "is no file that robustft bundle writes"),
        ("results/community/lab/notes.md", "goes to results/community/<group>/<benchmark>/"),
        ("results/community/Our Lab/digits/manifest.json", "name the group in small letters"),
        ("results/community/lab/$(date)/manifest.json", "name the group in small letters"),
    ],
)
def test_what_is_no_bundle_is_refused_before_anything_is_read(submitted, path, words):
    code, calls, said = verified(submitted, ["results/community/lab/digits/manifest.json", (path, "theirs")])
    assert code == 1 and calls == [] and words in said


def test_links_and_programs_in_a_bundle_are_refused(submitted):
    folder = submitted / "results" / "community" / "lab" / "digits"
    folder.mkdir(parents=True)
    base = git(submitted, "rev-parse", "HEAD")
    (folder / "manifest.json").symlink_to("/etc/passwd")
    commit(submitted)
    words = ["bash", VERIFY_COMMUNITY, submitted, base, "true"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1 and "must be a plain file" in ended.stderr
    (folder / "manifest.json").unlink()
    (folder / "manifest.json").write_text("{}")
    (folder / "manifest.json").chmod(0o755)
    commit(submitted)
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1 and "must be a plain file" in ended.stderr


def test_the_page_on_bundles_says_what_the_workflow_does():
    page, script = read("docs", "community.md"), read(VERIFY_COMMUNITY)
    assert "most_bytes=50000000" in script and "at most 50 MB" in page
    assert "docs/community.md" in read(GITHUB, "ISSUE_TEMPLATE", "board.yml")
    assert load(GITHUB / "ISSUE_TEMPLATE" / "board.yml")["name"] in " ".join(page.split())
    listed = subprocess.run(["git", "ls-files", "results/community"], cwd=ROOT, capture_output=True, text=True)
    assert listed.stdout.splitlines()[0] == "results/community/README.md"
