"""The house: arrows run down only, heavy parts are imported where they are used, and two packages named datasets."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import FOLDERS, MAY_IMPORT, MODULES, ROOMS, imports, module_graph, room_of, sources, tree_of
from repository import KITS, ROOT, TESTS

# Package -> the folders that may import it.
ONLY_IN = {
    "open_clip": ("backbones/",),
    "timm": ("backbones/", "datasets/"),
    "submitit": ("benchmarks/executors/slurm/submitit_api.py", "benchmarks/executors/slurm/job.py"),
    "wandb": ("benchmarks/",),
    "wilds": ("datasets/",),
    "datasets": ("datasets/",),  # the Hugging Face library
}
AT_THE_TOP = {"wandb", "wilds", "submitit", "datasets"}  # never: an install without them must run
VAGUE = {"utils", "util", "common", "misc", "helpers"}


def name_of(path):
    return str(path.relative_to(ROOT))


ALL = sources(*FOLDERS)


def test_there_is_something_to_check():
    assert all(sources(folder) for folder in FOLDERS)


def test_arrows_only_run_down():
    up = []
    for path in ALL:
        folder = path.relative_to(ROOT).parts[0]
        for module, _ in imports(path):
            parts = module.split(".")
            if parts[0] == "robustft" and len(parts) > 1 and parts[1] not in MAY_IMPORT[folder] | {folder}:
                up.append(f"{name_of(path)} imports {module}")
    assert not up


def test_imports_inside_the_package_are_relative():
    absolute = []
    for path in ALL:
        for node in ast.walk(tree_of(path)):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            named += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            ours = {"robustft", *FOLDERS} - {"datasets"}
            absolute += [f"{name_of(path)} imports {name}" for name in named if name.split(".")[0] in ours]
    assert not absolute


def test_heavy_packages_stay_where_they_are_used():
    elsewhere, too_early = [], []
    for path in ALL:
        for module, at_import in imports(path):
            package, what = module.split(".")[0], f"{name_of(path)} imports {module}"
            if package in ONLY_IN and not name_of(path).startswith(ONLY_IN[package]):
                elsewhere.append(what)
            if package in AT_THE_TOP and at_import:
                too_early.append(what)
    assert not elsewhere
    assert not too_early, "import these inside a function"


def circle(graph):
    """The names along one circle of a graph, or None."""
    done, stack = set(), []

    def visit(name):
        if name in stack:
            return [*stack[stack.index(name) :], name]
        if name in done:
            return None
        stack.append(name)
        for target in sorted(graph.get(name, ())):
            if found := visit(target):
                return found
        stack.pop()
        done.add(name)
        return None

    return next((found for name in sorted(graph) if (found := visit(name))), None)


def test_no_circles_between_modules():
    found = circle(module_graph())
    assert found is None, " -> ".join(found)


def test_every_module_is_in_a_room():
    homeless = [name for name in MODULES if name.partition(".")[0] in ROOMS and "." in name and not room_of(name)]
    assert not homeless


def test_arrows_between_rooms_only_run_down():
    up = []
    for name, targets in module_graph().items():
        for target in sorted(targets):
            here, there = room_of(name), room_of(target)
            if here and there and here[0] == there[0] and here[2] != there[2] and here[1] >= there[1]:
                up.append(f"{name} -> {target}")
    assert not up


@pytest.mark.parametrize("folder", ["benchmarks", "results"])
def test_whoever_opens_a_folder_sees_about_a_dozen_entries(folder):
    tracked = subprocess.run(["git", "ls-files", folder], cwd=ROOT, capture_output=True, text=True, check=True)
    seen = {}
    for line in tracked.stdout.splitlines():
        parts = Path(line).parts
        for depth in range(1, len(parts)):
            seen.setdefault("/".join(parts[:depth]), set()).add(parts[depth])
    data = ("suites", "reference", "published", "community")
    crowded = {
        place: sorted(entries)
        for place, entries in seen.items()
        if len({entry for entry in entries if not entry.startswith("__")}) > 13
        and Path(place).parts[1:2] not in [(d,) for d in data]
    }
    assert not crowded


def test_files_are_named_after_something():
    assert not [name_of(path) for path in ALL if path.stem in VAGUE]


def test_a_method_knows_no_dataset_or_backbone_by_name():
    words = {"digits", "imagenet", "wilds", "iwildcam", "fmow", "tiny-vit-p8", "tiny-rn", "slurm", "wandb"}
    known = {}
    for path in sources("methods"):
        constants = (node.value for node in ast.walk(tree_of(path)) if isinstance(node, ast.Constant))
        known[name_of(path)] = words & {value for value in constants if isinstance(value, str)}
    assert not {name: found for name, found in known.items() if found}


def test_nothing_is_loaded_that_could_run_code():
    unsafe = []
    for path in ALL:
        if "pickle" in {module.split(".")[0] for module, _ in imports(path)}:
            unsafe.append(f"{name_of(path)} imports pickle")
        tree = tree_of(path)
        classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        safe = {c.name for c in classes if [ast.unparse(base) for base in c.bases] == ["yaml.SafeLoader"]}
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if not isinstance(call.func, ast.Attribute) or call.func.attr != "load":
                continue
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
            called = ast.unparse(call.func)
            if called == "yaml.load" and options.get("Loader") not in safe:
                unsafe.append(f"{name_of(path)}:{call.lineno}: yaml.load without a SafeLoader")
            if called == "torch.load" and options.get("weights_only") != "True":
                unsafe.append(f"{name_of(path)}:{call.lineno}: torch.load without weights_only=True")
    assert not unsafe


# two packages named datasets


def test_the_folder_datasets_is_a_namespace():
    assert not (ROOT / "datasets" / "__init__.py").exists()
    assert not (ROOT / "__init__.py").exists()


BOTH = """
import datasets, robustft.datasets.catalogue
assert callable(datasets.load_dataset)
assert {root!r} in robustft.datasets.catalogue.__file__, robustft.datasets.catalogue.__file__
print("both")
"""


def python(*arguments, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.mark.programs
@pytest.mark.parametrize("place", ["repository", "elsewhere"])
def test_both_packages_are_there_in_a_fresh_interpreter(place, tmp_path):
    cwd = ROOT if place == "repository" else tmp_path
    result = python("-c", BOTH.format(root=str(ROOT)), cwd=cwd)
    assert result.stdout == "both\n", result.stderr


@pytest.mark.programs
def test_both_packages_are_there_in_a_module_run_from_the_root():
    code = "import runpy, sys; sys.argv = ['robustft', '--help']\n"
    code += "try: runpy.run_module('robustft.benchmarks', run_name='__main__', alter_sys=True)\n"
    code += "except SystemExit as end: assert not end.code\n"
    result = python("-c", code + BOTH.format(root=str(ROOT)))
    assert result.returncode == 0 and result.stdout.endswith("both\n"), result.stderr


@pytest.mark.parametrize("how", ["module", "command"])
def test_the_command_line_starts_from_the_root(how):
    command = ["-m", "robustft.benchmarks"] if how == "module" else [str(Path(sys.executable).with_name("robustft"))]
    result = python(*command, "--help")
    assert result.returncode == 0 and "Usage: robustft" in result.stdout, result.stderr


@pytest.mark.programs
def test_results_and_the_command_line_start_without_torch():
    code = "import sys, robustft.results.tables.leaderboard, robustft.benchmarks.cli; print('torch' in sys.modules)"
    assert python("-c", code).stdout == "False\n"


def test_a_look_at_the_runs_loads_nothing_heavy(tmp_path):
    code = "import sys, robustft.benchmarks.cli as cli\n"
    code += f"try: cli.main(['status', '--runs', {str(tmp_path)!r}])\n"
    code += "except SystemExit: print({'torch', 'pandas', 'numpy', 'pydantic', 'open_clip'} & set(sys.modules))"
    assert python("-c", code).stdout.endswith("set()\n")


@pytest.mark.programs
@pytest.mark.parametrize(
    "words",
    [
        ("leaderboard", "--results", "RESULTS"),
        ("compare", "tracer", "flyp", "--benchmark", "digits", "--reference"),
        ("figures", "paths", "--results", "RESULTS"),
    ],
    ids=lambda words: words[0],
)
def test_a_look_at_the_committed_records_needs_no_torch(words, tmp_path):
    """Only a run of this machine whose suite is here does: which rule chose it, the methods and their defaults tell."""
    (tmp_path / "runs").mkdir()
    words = [str(tmp_path) if word == "RESULTS" else word for word in words]
    code = "import sys, robustft.benchmarks.cli as cli\n"
    code += f"try: cli.main({words!r})\n"
    code += "except SystemExit as end: print({'torch', 'open_clip', 'submitit'} & set(sys.modules), end.code)"
    assert python("-c", code, cwd=tmp_path).stdout.endswith("set() 0\n")


# the tests

TEST_FILES = [path for path in sorted(TESTS.rglob("*.py")) if path.name != "conftest.py" and path.parent != KITS]
BESIDE_THE_ROOMS = {"end_to_end", "kits", "golden", "slurm", "faults", "browser", "gpu"}


def test_no_test_file_is_imported_by_another():
    """What two need is a kit, so that a test file can be moved, or run alone."""
    others = {other.stem for other in TEST_FILES if other.stem.startswith("test_")} | {"tests", "conftest"}
    found = {path: {module.split(".")[0] for module, _ in imports(path)} for path in (*TEST_FILES, *KITS.glob("*.py"))}
    assert not {name_of(path): modules & others for path, modules in found.items() if modules & others}


def test_each_folder_of_tests_is_a_room_of_the_house():
    tested = {path.parent.relative_to(TESTS) for path in TEST_FILES} - {Path(".")}
    inside = {folder for folder in tested if folder.parts[0] not in BESIDE_THE_ROOMS}
    assert {folder.parts[0] for folder in inside} == set(FOLDERS)
    assert not [str(folder) for folder in inside if not any((ROOT / folder).glob("*.py"))]


def test_at_the_top_are_tests_of_the_repository_and_what_others_call():
    """pytest's file, and what make targets and other checkouts call by these names; what tests share is a kit."""
    there = {path.name for path in TESTS.glob("*.py") if not path.name.startswith("test_")}
    assert there == {"conftest.py", "processors.py", "slurm_stub.py", "soak.py"}


# CI


@pytest.mark.programs
def test_a_skip_is_a_failure_in_ci(tmp_path):
    (tmp_path / "conftest.py").write_text((TESTS / "conftest.py").read_text())
    (tmp_path / "test_x.py").write_text(
        "import pytest\ndef test_a(): pytest.skip('no cluster')\n@pytest.mark.skip\ndef test_b(): pass\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"CI": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "1 failed, 1 error" in result.stdout, result.stdout + result.stderr
