"""What is included is what was read, its names are its own, and a mistake in it is one sentence."""

import json
import sys

import pytest
from plugins_kit import TEMPLATES, write_templates
from runs_kit import call

from robustft.backbones import registered
from robustft.benchmarks.host import plugin_files, plugins
from robustft.benchmarks.planning.suite import suite as suites
from robustft.datasets import catalogue
from robustft.methods import registry

METHOD = TEMPLATES["my_method.py"]
HEAD = "from robustft.methods.registry import register\nfrom robustft.methods.flyp import FLYP\n"
WRONG = {
    "no_such_file": (None, "there is no such file or package"),
    "no_syntax": ("x = 1\ndef :\n", "line 2: cannot be imported (SyntaxError: invalid syntax); mend the line"),
    "no_module": (
        "import os\nimport a_helper_beside_it\n",
        "line 2: cannot be imported (ModuleNotFoundError: No module",
    ),
    "fails": (
        "def f():\n    return 1 / 0\n\n\nf()\n",
        "line 2: cannot be imported (ZeroDivisionError: division by zero)",
    ),
    "leaves": ("import sys\nsys.exit(3)\n", "line 2: cannot be imported (SystemExit: 3)"),
    "nothing": ("x = 1\n", "must register a method, dataset or backbone, got none"),
    "clash": (f"{HEAD}@register('ft')\nclass Mine(FLYP):\n    pass\n", "line 3: method 'ft' is registered twice"),
    "no_method": (
        f"{HEAD}@register('own')\nclass Mine:\n    version = 1\n",
        "own must be a subclass of methods.base.Method",
    ),
    "bad_hyper": (
        METHOD.replace("Hyper(TwoTowerHyper)", "Hyper"),
        "my_method.Hyper must have a default for each field",
    ),
    "dataset": (
        "from robustft.datasets.catalogue import register\nregister('Digits')(object)\n",
        "line 2: dataset 'Digits' is registered twice; rename one",
    ),
    "backbone": (
        "from robustft.backbones import register\nregister('vit-b_16')(object)\n",
        "line 2: backbone 'vit-b_16' is registered twice; rename one",
    ),
}


@pytest.fixture(autouse=True)
def own_session():
    """What a test includes is forgotten."""
    with plugins.session():
        yield


def known():
    return registry.names(), catalogue.names(), list(registered.BROUGHT), sorted(sys.modules), len(sys.meta_path)


@pytest.mark.parametrize("name", WRONG)
def test_a_mistake_is_one_sentence_and_leaves_nothing_behind(name, tmp_path, capsys):
    content, sentence = WRONG[name]
    path = tmp_path / f"{name}.py"
    if content is not None:
        path.write_text(content)
    call("list", "--include", tmp_path)  # what is imported late is imported
    before = known()
    capsys.readouterr()
    assert call("list", "--include", path) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"robustft: --include {path}") and sentence in told and told.count("\n") == 1
    assert known() == before


@pytest.mark.parametrize("name", ["json", "numpy", "robustft", "two words"])
def test_a_package_must_have_a_name_of_its_own(name, tmp_path, capsys):
    write_package(tmp_path / name)
    assert call("list", "--include", tmp_path / name) == 2
    assert "must have a name" in (told := capsys.readouterr().err) and told.count("\n") == 1


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda path: path.mkdir(), "got a folder without __init__.py"),
        (lambda path: path.write_text("x: 1"), "must be a Python file or a package, got"),
    ],
)
def test_what_is_no_python_is_refused(make, sentence, tmp_path, capsys):
    make(tmp_path / "thing")
    assert call("list", "--include", tmp_path / "thing") == 2
    assert sentence in capsys.readouterr().err


def test_list_says_where_names_come_from_and_other_commands_do_not_know_them(tmp_path, capsys):
    place = write_templates(tmp_path)
    flags = [flag for name in ("my_method", "my_data", "my_backbone") for flag in ("--include", place / f"{name}.py")]
    assert call("list", *flags) == 0
    told = capsys.readouterr().out
    for name in ("method my_method", "dataset my_data", "backbone my-vit"):
        assert f": {name}\n" in told
    sha256 = plugin_files.read(place / "my_method.py").sha256
    assert f"{place}/my_method.py (sha256 {sha256[:8]}): method my_method" in told
    assert call("list", "my-method", *flags) == 0
    told = capsys.readouterr().out
    assert f"from {place}/my_method.py, sha256 {sha256}" in told and "label_smoothing" in told
    assert call("list", "my_data", *flags) == 0 and "dim" in capsys.readouterr().out
    assert call("list", "my-vit", *flags) == 0 and "tensors:" in capsys.readouterr().out
    assert call("list", "my_method") == 2  # a command's plug-ins are its own


def write_package(folder, label="{1}"):
    """A package of two modules that import each other in both ways, with a file of data."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("from . import method\n")
    (folder / "method.py").write_text(
        f"{HEAD}from . import data\nimport {folder.name}.data as same\nassert same is data\n"
        "@register('packed')\nclass Packed(FLYP):\n    label = data.LABEL\n"
    )
    (folder / "data.py").write_text(
        "from pathlib import Path\nLABEL = (Path(__file__).parent / 'label.txt').read_text()\n"
    )
    (folder / "label.txt").write_text(label)
    return folder


def test_of_two_versions_in_one_process_each_has_its_own_modules(tmp_path):
    one = plugins.include(write_package(tmp_path / "a" / "brought"))
    first = registry.get("packed")
    plugin_files.keep(tmp_path / "runs", [one])
    (tmp_path / "a" / "brought" / "label.txt").write_text("{2}")
    with pytest.raises(plugin_files.PluginError, match="'packed' is registered twice"):
        plugins.include(tmp_path / "a" / "brought")
    two = plugin_files.read(tmp_path / "a" / "brought")
    assert two.sha256 != one.sha256  # of all of its files
    plugin_files.keep(tmp_path / "runs", [two])
    plugins.need(tmp_path / "runs", [two.named])
    assert registry.get("packed").label == "{2}" and sys.modules["brought"].__file__.startswith(str(tmp_path / "runs"))
    plugins.need(tmp_path / "runs", [one.named])
    assert registry.get("packed") is first and first.label == "{1}"
    assert sys.modules["brought.method"].Packed is first


def test_a_version_is_imported_from_what_was_read_even_within_one_second(tmp_path):
    """Python's caches tell versions apart by time and size alone."""
    for label in ("{1}", "{2}", "{3}"):
        path = tmp_path / "same.py"
        path.write_text(f"{HEAD}@register('same')\nclass Same(FLYP):\n    label = '{label}'\n")
        with plugins.session():
            plugins.include(path)
            assert registry.get("same").label == label
    assert not (tmp_path / "__pycache__").exists()


def test_a_copy_that_is_gone_or_was_changed_is_refused(tmp_path):
    path = tmp_path / "my_method.py"
    path.write_text(f"{METHOD}# of this test alone\n")  # a process that has imported a version needs no copy
    plugin = plugin_files.read(path)
    with pytest.raises(plugin_files.PluginError, match="must be there to import, got FileNotFoundError"):
        plugins.need(tmp_path, [plugin.named])
    plugin_files.keep(tmp_path, [plugin])
    copy = plugin_files.place(tmp_path, plugin.sha256) / "my_method.py"
    copy.write_text(copy.read_text() + "# another line\n")
    with pytest.raises(plugin_files.PluginError, match="it was changed"):
        plugins.need(tmp_path, [plugin.named])
    plugin_files.keep(tmp_path / "again", [plugin])
    plugins.need(tmp_path / "again", [plugin.named])
    assert registry.get("my_method").__doc__ == "FLYP with smoothed targets."


def test_only_the_plug_ins_of_a_run_count_for_it(tmp_path):
    place = write_templates(tmp_path)
    base, data, backbone = (plugins.include(place / f"{name}.py") for name in ("my_method", "my_data", "my_backbone"))
    (place / "child.py").write_text(
        f"{HEAD}from robustft.methods import registry\n"
        "@register('child')\nclass Child(registry.get('my_method')):\n    pass\n"
    )
    child = plugins.include(place / "child.py")
    assert plugins.versions("zero_shot", "digits", "tiny-rn") == []
    assert plugins.versions("my_method", "digits", "tiny-rn") == [f"method:{base.sha256}"]
    both = sorted(f"method:{one.sha256}" for one in (base, child))
    assert plugins.versions("child", "digits", "tiny-rn") == both
    shifted = catalogue.with_shifts("my_data", {"mine": "folder:mine"})
    both = [f"backbone:{backbone.sha256}", f"dataset:{data.sha256}"]
    assert plugins.versions("ft", shifted, "my-vit") == both
    assert plugins.of_run("ft", "digits", "tiny-rn") == [backbone]  # whose weights may lie in the folder of weights


def write_distribution(site, name="their_methods"):
    """An installed package whose entry point names a class that it does not register."""
    package, about = site / name, site / f"{name}-1.2.dist-info"
    package.mkdir(parents=True)
    about.mkdir()
    (package / "__init__.py").write_text("")
    (package / "mine.py").write_text(
        f"from robustft.methods.flyp import FLYP\nfrom {name} import other\n\n\n"
        'class Theirs(FLYP):\n    """Somebody\'s."""\n\n    version = other.VERSION\n'
    )
    (package / "other.py").write_text("VERSION = 3\n")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-methods\nVersion: 1.2\n")
    (about / "entry_points.txt").write_text(f"[robustft.methods]\ntheirs = {name}.mine:Theirs\n")
    return package


def test_installed_packages_are_included_by_their_entry_points(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(tmp_path)
    assert call("list") == 0
    assert "theirs" not in capsys.readouterr().out
    write_distribution(tmp_path)
    assert call("list") == 0
    assert ": method theirs\n" in (told := capsys.readouterr().out) and "plug-in their-methods 1.2 (sha256 " in told
    assert call("list", "theirs") == 0
    assert "theirs (version 3): Somebody's." in (told := capsys.readouterr().out) and "from their-methods 1.2" in told


def test_an_installed_package_that_cannot_be_imported_is_left_out_and_told(tmp_path, monkeypatch, capsys):
    package = write_distribution(tmp_path, "their_broken_methods")
    (package / "mine.py").write_text("import nothing_of_this_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.warns(
        UserWarning, match="left out: the installed plug-in their-methods 1.2, line 1 of mine.py: cannot"
    ):
        assert call("list") == 0
    assert "theirs" not in capsys.readouterr().out


def test_what_a_suite_that_extends_another_may_change(tmp_path):
    path = write_templates(tmp_path) / "mine.yaml"
    made, base = suites.load(path), suites.load(tmp_path / "digits.yaml")
    assert (made.name, made.version, made.seeds, made.recipes) == (base.name, base.version, base.seeds, base.recipes)
    assert made.tuning.trials == 9 and set(made.tuning.space) == {"ft", "my_method"}
    text = path.read_text()
    for more, sentence in {
        "seeds: [7]": "seeds must be that of digits",
        "tuning: {trials: 2}": "tuning.trials must be that of digits",
        "tuning: {space: {ft: {lr: [1e-4]}}}": "tuning.space.ft must be that of digits",
        "methods_settings: {ft: {lr: 1e-4}}": "methods_settings.ft must be that of digits",
        "based_on: digits": "must give one of extends and based_on",
    }.items():
        head = text.partition("tuning:")[0] if more.startswith("tuning") else text
        path.write_text(f"{head}{more}\n")
        with pytest.raises(ValueError, match=sentence):
            suites.load(path)
    path.write_text(f"{text}name: mine\nseeds: [7]\n")
    made = suites.load(path)
    assert (made.name, made.seeds, suites.extended_path(path, made)) == ("mine", [7], None)
    other = tmp_path / "other.yaml"
    other.write_text("extends: mine\n")
    with pytest.raises(ValueError, match="extends must be a suite that stands for itself, got mine, which has extends"):
        suites.load(other)


def test_a_mistake_in_the_plug_in_of_a_suite_names_the_suite(tmp_path, capsys):
    path = write_templates(tmp_path) / "mine.yaml"
    (tmp_path / "my_method.py").write_text("1 / 0\n")
    assert call("sweep", path, "--method", "my_method", "--dry-run", "--runs", tmp_path / "runs") == 2
    assert capsys.readouterr().err.startswith("robustft: mine.yaml: include my_method.py, line 1: cannot be imported")


def test_the_copy_says_what_it_is(tmp_path):
    plugin = plugin_files.read(write_templates(tmp_path) / "my_method.py")
    plugin_files.keep(tmp_path / "runs", [plugin])
    about = json.loads((plugin_files.place(tmp_path / "runs", plugin.sha256) / plugin_files.ABOUT).read_text())
    assert (about["name"], about["sha256"], about["files"]) == ("my_method.py", plugin.sha256, ["my_method.py"])
