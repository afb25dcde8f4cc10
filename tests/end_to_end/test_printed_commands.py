"""What is printed is run: each command of README, docs, Makefile, suites and --help in a clone, each kind from a wheel.

A command that is printed anew is run as it stands if a pattern of RULES is for it; else the tests ask for one, or for a
reason in NOT_RUN. A pattern that no printed command has any more is to be removed.
"""

import json
import os
import re
import shlex
import subprocess
import zipfile
from dataclasses import dataclass

import places
import pytest
from printed_commands import of_markdown, printed
from repository import ROOT
from runs_kit import call

from robustft.benchmarks.host import package

PRINTED = printed(ROOT)
NO_FOLDER = "there is no such folder; give the path that holds"
PROFILES = "robustft list | sed -n 's/.*to copy from //p'"
"""Where an installed user has the profiles."""


@dataclass(frozen=True)
class Rule:
    """How printed commands are run, and what they must come to."""

    pattern: str
    """Of the whole command."""
    add: str = ""
    """What is typed behind it, so that it takes seconds."""
    code: int = 0
    says: str = ""
    """Pattern of what is in its output."""
    clone: str | None = None
    """What is typed in its place in a clone, where the whole takes a quarter of a minute and has its own test."""
    wheel: str | None = None
    """The same from a wheel, also because an installed user has no file of the repository."""


RULES = (
    Rule("make sweep METHOD=tracer", 'BACKBONE=tiny-vit-p8 SEEDS=0 LIMIT=32 SET="steps=3"', says=r"1/1\] done "),
    Rule("make sweep", code=2, says="sweep needs METHOD="),
    Rule("make (sweep|tune).*", "DRY_RUN=1", says="nothing was started"),
    Rule("make( help)?", says="make TARGET"),
    Rule("make report", "BENCHMARK=forgetting", says="wrote results/report.html"),
    Rule("make (status|leaderboard|lint|clean)"),
    Rule("robustft .*--help", says="Usage: robustft"),
    Rule("robustft .*--include my_method.py.*", code=2, says="my_method.py: there is no such file or package"),
    Rule("robustft (tune|sweep) mine.yaml .*", code=2, says="'mine.yaml': no such file"),
    Rule("robustft (run|sweep|tune|evaluate|compare|bundle|export|verify|merge)", "--help", says="Usage: robustft"),
    Rule("robustft data pack", "--help", says="Usage: robustft"),
    Rule("robustft run digits .*", "--limit 32 --set steps=3", says="OOD mean accuracy .*record.json"),
    Rule("robustft (sweep|tune) (own_data|domainbed).*", code=2, says=NO_FOLDER),
    Rule("robustft sweep .*--dry-run", says="dry run: nothing was started"),
    Rule("robustft sweep .*--executor slurm.*", code=2, says="weights .* cannot be downloaded"),
    Rule("robustft (sweep|tune) .*", "--dry-run", says="nothing was started"),
    Rule("robustft (status|retry|cancel)( .*)?"),
    Rule("robustft list( .*)?"),
    Rule(
        "robustft leaderboard .* --columns .*",
        says="leaderboard",
        clone="robustft leaderboard forgetting --columns ece,aurc",
        wheel="robustft leaderboard forgetting --columns ece,aurc",
    ),
    Rule("robustft leaderboard .*", says="leaderboard|No finished runs yet"),
    Rule("robustft compare .*", says="95 % intervals"),
    Rule("robustft figures all", "--benchmark forgetting", says="wrote "),
    Rule("robustft (figures .*|theory)", says="wrote "),
    Rule("robustft rescore", "--reference", says=" 0 problems;", clone="robustft rescore forgetting"),
    Rule("robustft bundle FOLDER .*", says="check it with `robustft verify FOLDER`"),
    Rule("robustft export RUN FOLDER.*", code=2, says="has no run with the id 'RUN'"),
    Rule("robustft verify FOLDER", says="all hold"),
    Rule("robustft merge FOLDER", says="wrote results/leaderboard"),
    Rule("robustft merge FOLDER .*", code=2, says="must be the manifest of a bundle"),
    Rule(
        "robustft verify results/reference/(digits|glyphs)",
        says="all hold",
        clone="robustft verify results/reference/forgetting",
        wheel="robustft verify forgetting --reference",
    ),
    Rule(
        "robustft verify digits --reference",
        says="all hold",
        clone="robustft verify forgetting --reference",
        wheel="robustft verify forgetting --reference",
    ),
    Rule("robustft evaluate .*", code=2, says="no weights at their_flyp.pt; correct the path"),
    Rule("robustft doctor --prefetch .*", code=2, says="no network"),
    Rule("robustft data pack .*", code=2, says="there is no such folder; name the one that holds"),
    Rule("robustft doctor", says="torch"),
    Rule("robustft doctor .*", code=1, says="something is missing or wrong"),
    Rule("python -m robustft.benchmarks.speed .*--device cuda.*", code=2, says="cuda where there is a GPU"),
    Rule(
        "python -m robustft.benchmarks.maintenance.pretrain .*",
        code=2,
        says="not in the cache|ROBUSTFT_WEIGHTS: must name",
    ),
    Rule("python -m robustft.benchmarks.maintenance.glyphs_windows", says="no runs of glyphs_development below runs"),
    Rule("python -m robustft.benchmarks.maintenance.glyphs_windows --validity", says="with Table 2"),
    Rule("cp benchmarks/profiles/.*", wheel=f'cp "$({PROFILES})/h100.yaml" my-cluster.yaml'),
)

NOT_RUN = {
    "make glyphs": "fetches fonts from package registries; test_glyphs draws masks from outlines",
    "pip install .*": "asks a package index",
    "make install.*": "asks a package index; .ci/run does it first of all, and `places.clone` does the same without",
    "make (test|check)": "runs this",
    "make test-(programs|processors|faults|slurm|browser)": "tests; some need a cluster or a browser: .ci/run does it",
    "make (soak|reference|pretrain|speed)": "minutes to hours",
    r"python -m robustft\.benchmarks\.maintenance\.pretrain_glyphs .*": "minutes",
    "make test-gpu.*": "needs a GPU; tests/gpu rehearses the script on a CPU",
    "python -m robustft.benchmarks.speed step": "minutes; make speed does all of them",
    "python -m robustft.benchmarks.speed released .*": "asks for a checkout of the authors' code",
    "make readme": "draws each picture of the reference again; test_readme compares what it writes",
    "make format": "changes files",
    "make types": "a minute, and .ci/run does it",
    "make docs": "asks a package index for mkdocs: .ci/run does it",
    "export .*": "a variable of the shell",
    "torchrun .*": "four GPUs; tests/test_parallel.py trains in two processes",
}
FOR_MAKE = "needs the Makefile of a clone"


def rule_of(text):
    """The first rule for a command; None for one that is not run."""
    if any(re.fullmatch(pattern, text) for pattern in NOT_RUN):
        return None
    return next((rule for rule in RULES if re.fullmatch(rule.pattern, text)), None)


# which commands there are


def test_every_printed_command_has_a_rule_or_a_reason():
    without = [
        f"{command.text} ({command.where})"
        for command in PRINTED
        if rule_of(command.text) is None and not any(re.fullmatch(pattern, command.text) for pattern in NOT_RUN)
    ]
    assert without == [], "give each a Rule, or a reason in NOT_RUN"


def test_no_rule_and_no_reason_is_stale():
    used = {rule_of(command.text) for command in PRINTED}
    assert [rule.pattern for rule in RULES if rule not in used] == []
    texts = [command.text for command in PRINTED]
    assert [pattern for pattern in NOT_RUN if not any(re.fullmatch(pattern, text) for text in texts)] == []


def test_commands_are_found_in_every_place():
    where = {command.where.partition(":")[0] for command in PRINTED}
    assert {"README.md", "Makefile", "benchmarks/suites/digits.yaml", "robustft bundle --help"} <= where
    texts = {command.text for command in PRINTED}
    assert {"make sweep METHOD=all", "robustft sweep own_data --method all --limit 64 --data /my/datasets"} <= texts
    assert "python -m robustft.benchmarks.speed --device cuda --precision bf16 --batch 512" in texts  # over two lines
    text = "a `robustft\nnew` `name`\n\n```python\nmake()\n```\n```\n$ make it  # so\n# only words\n./other\n```\n"
    assert [c.text for c in of_markdown(text, "x")] == ["robustft new", "make it", "./other"]


@pytest.mark.parametrize("text", [c.text for c in PRINTED if c.text.startswith("make ") and rule_of(c.text) is None])
def test_targets_that_are_not_made_here_exist(text):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    target = text.partition(" && ")[0]
    ended = subprocess.run(["bash", "-c", f"{target} -n"], cwd=ROOT, env=environment, capture_output=True)
    assert ended.returncode == 0, ended.stderr


# a clone and a wheel


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    place = places.clone(tmp_path_factory.mktemp("clone"))
    yield place
    place.close()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    root = tmp_path_factory.mktemp("wheel")
    return places.build_wheel(places.copy_tree(root / "source"), root / "dist")


@pytest.fixture(scope="module")
def installed(tmp_path_factory, wheel):
    place = places.elsewhere(tmp_path_factory.mktemp("installed"), wheel)
    yield place
    place.close()


def run(place, text, tmp):
    """Run a command as it would be typed; `make` says what it would run, and that is run."""
    text = text.replace("/my/datasets", str(tmp)).replace("/datasets", str(tmp))
    words = shlex.split(text)
    if words[0] in ("robustft", "python"):
        return place.program(words)
    if words[0] != "make" or words[1:2] in ([], ["help"], ["sweep"]) and "DRY_RUN=1" not in words:
        return place.shell(text)
    planned = place.shell(f"{text} -n")
    if planned.code or "-m robustft" not in planned.shown:
        return planned if planned.code else place.shell(text)
    assert "pip install" not in planned.shown
    (line,) = [line for line in planned.shown.splitlines() if "-m robustft" in line]
    return place.program(["python", *shlex.split(line)[1:]])


def problems(place, commands, tmp):
    """What each command came to, where that is not what its rule says."""
    came_to = {}  # two that are printed may be one as it is typed here
    for text, rule in commands:
        typed = f"{text} {rule.add}".strip()
        if typed not in came_to:
            came_to[typed] = run(place, typed, tmp)
        ended = came_to[typed]
        if ended.code != rule.code or not re.search(rule.says, ended.shown) or "Traceback" in ended.shown:
            end = "\n".join(ended.shown.splitlines()[-12:])
            yield f"`{text}` ended with {ended.code}, must be {rule.code} and say {rule.says!r}:\n{end}"


@pytest.mark.programs
def test_every_printed_command_holds_in_a_clone(clone, tmp_path):
    def changed():
        return clone.shell("git status --porcelain").shown

    before = changed()
    commands = [(rule.clone or c.text, rule) for c in PRINTED if (rule := rule_of(c.text)) is not None]
    assert list(problems(clone, commands, tmp_path)) == []
    assert changed().replace("?? FOLDER/\n", "").replace("?? my-cluster.yaml\n", "") == before


@pytest.mark.programs
def test_every_kind_of_printed_command_holds_from_a_wheel(installed, wheel, tmp_path, capsys):
    home = places.site(installed.environment)

    def there():
        found = (path for path in home.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path: path.stat().st_mtime_ns for path in found}

    before = there()
    rules = {c.text: rule_of(c.text) for c in PRINTED if not c.text.startswith("make")}
    # One of a kind: what a wheel might lack is files, and those are compared below.
    kinds = {}
    for text, rule in rules.items():
        if rule is not None:
            kinds.setdefault((rule, shlex.split(text)[1]), (rule.wheel or text, rule))
    commands = list(kinds.values())
    assert list(problems(installed, commands, tmp_path)) == []
    assert there() == before
    assert sorted(path.name for path in installed.folder.iterdir()) == ["FOLDER", "my-cluster.yaml", "results", "runs"]

    # a run from a wheel is the run of the clone, and says which code made it
    (found,) = installed.folder.glob("runs/digits/*/*/*/record.json")
    record = json.loads(found.read_text())
    (text,) = [text for text in rules if text.startswith("robustft run digits")]
    assert call(*shlex.split(text)[1:], "--limit", "32", "--set", "steps=3", "--dry-run") == 0
    assert record["run_id"] in capsys.readouterr().out
    assert record["environment"]["commit"] is None
    assert record["environment"]["code_hash"] == package.content_hash(wheel.parent.parent / "source")


@pytest.mark.programs
def test_a_wheel_has_every_file_of_the_package(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("robustft/")}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *package.FOLDERS, package.ITSELF],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    of_others = "results/community/"  # bundles, which stay in the repository
    listed_here = [name for name in listed.stdout.split("\n") if name and not name.startswith(of_others)]
    paths = [name for name in listed_here if (ROOT / name).exists()]
    tree = {name if name.startswith(f"{package.ITSELF}/") else f"robustft/{name}" for name in paths}
    assert names == tree


def test_the_hash_of_the_code_is_of_what_runs_read_and_not_of_boards(tmp_path):
    for name, text in {"methods/ft.py": "1", "results/page/page.css": "2", "backbones/tiny/a.safetensors": "3"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    first = package.content_hash(tmp_path)
    for name in ("leaderboard.csv", "figures/digits/paths.svg", "reference/digits/manifest.json"):
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).write_text("made here")
    assert package.content_hash(tmp_path) == first
    for name in ("results/new/module.py", "datasets/mine/labels.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("read by runs")
        assert package.content_hash(tmp_path) != first
        first = package.content_hash(tmp_path)
