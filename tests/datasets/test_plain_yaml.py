"""The one reader of YAML: what values mean, what is refused, and that every file goes through it."""

import ast
from pathlib import Path

import own_data_kit as kit
import pytest
from repository import ROOT
from runs_kit import call, write_suite

from robustft.datasets import plain_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in ("no", "on", "off", "yes", "NO", "y", "010", "1_000", "12:30:45", "0x1F", "0o17")),
        *((word, word) for word in ("2024-01-01", "2024-13-45", "1.2.3", "00.5", "=", "0b11", "+", "1e", "e5")),
        *(("true", True), ("False", False), ("null", None), ("~", None), ("", None), ("'no'", "no"), ('"1"', "1")),
        *(("1", 1), ("-3", -3), ("+4", 4), ("0", 0), ("1e-4", 1e-4), ("1E3", 1000.0), (".5", 0.5), ("1.", 1.0)),
        *((".inf", float("inf")), ("-.Inf", float("-inf")), ("!!str 010", "010"), ("|\n  no\n", "no\n")),
    ],
)
def test_a_value_is_what_json_says_or_text(text, value):
    found = plain_yaml.parse(f"key: {text}", "x")["key"]
    assert found == value and type(found) is type(value)
    assert plain_yaml.parse(plain_yaml.dump({"key": value}), "x") == {"key": value}


def test_keys_are_text():
    assert plain_yaml.parse("{1: a, no: b, 010: c, null: d, 2024-01-01: e}", "x") == dict(
        zip(("1", "no", "010", "null", "2024-01-01"), "abcde", strict=True)
    )


def test_aliases_and_merges_are_written_out_and_own_keys_win():
    assert plain_yaml.parse("a: &a {b: 1, c: 2}\nd: {<<: *a, c: 3}\ne: *a", "x") == {
        "a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}, "e": {"b": 1, "c": 2}
    }  # fmt: skip


BOMB = "\n".join([f"{'abcdefgh'[i]}: &{'abcdefgh'[i]} [{', '.join([f'*{c}'] * 10)}]" for i, c in enumerate("zabcdef")])
WRONG = {
    "a key twice": ("dataset: a\ndataset: b", "line 2: not valid YAML (the key 'dataset' stands twice)"),
    "a key twice inside": ("a: {b: 1, b: 1}", "the key 'b' stands twice"),
    "a key as number and text": ("1: a\n'1': b", "the key '1' stands twice"),
    "an anchor twice": ("a: &x 1\nb: &x 2", "found duplicate anchor 'x'"),
    "an alias in itself": ("a: &x [*x]", "an alias stands inside of what it names"),
    "aliases that multiply": (f"z: &z [1]\n{BOMB}", "its aliases multiply to more values than anybody wrote"),
    "a tag that runs code": ("a: !!python/object/apply:os.system [ls]", "could not determine a constructor"),
    "a list as key": ("? [a]\n: b", "a key must be text"),
    "a tab": ("a:\n\tb: 1", "line 2: not valid YAML (while scanning for the next token found character '\\t'"),
    "two documents": ("a: 1\n--- \nb: 2", "expected a single document"),
    "an octal number by tag": ("a: !!int 010", "'010' is no int"),
    "an endless number": ("a: 1e999", "1e999 is too large for a number"),
    "a control character": ("a: \x07", "the character '\\x07' at 3"),
    "nothing": ("", "must be a mapping of keys to values, got nothing"),
    "comments": ("# nothing\n", "must be a mapping of keys to values, got nothing"),
    "a list": ("- a", "must be a mapping of keys to values, got list"),
    "a text": ("dataset", "must be a mapping of keys to values, got str"),
    "latin-1": ("a: é".encode("latin-1"), "is not in UTF-8 (byte 4); save it as UTF-8"),
    "UTF-16": ("a: b".encode("utf-16"), "is not in UTF-8 (byte 1); save it as UTF-8"),
    "UTF-16 without a mark": ("a: b".encode("utf-16-le"), "the character '\\x00' at 1"),
}
READERS = {
    "suite": lambda path: ("sweep", path, "--method", "ft", "--dry-run"),
    "hub": lambda path: ("sweep", kit.suite(path.with_name("of_hub.yaml"), f"huggingface:{path}"), "--dry-run"),
    "profile": lambda path: ("sweep", "digits", "--executor", "slurm", "--profile", path, "--dry-run"),
    "tuned": lambda path: ("sweep", beside(path), "--dry-run"),
}


def beside(path):
    """A suite whose tuned file is the one at the path."""
    suite = Path(write_suite(path.parent))
    path.rename(suite.with_name("quick.tuned.yaml"))
    return suite


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(("text", "sentence"), WRONG.values(), ids=WRONG)
def test_every_file_is_refused_alike(kind, text, sentence, tmp_path, capsys):
    path = tmp_path / "file.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert call(*READERS[kind](path), "--runs", tmp_path / "runs") == 2
    told = capsys.readouterr().err
    assert told.startswith("robustft: ") and sentence in " ".join(told.split()) and "Traceback" not in told


def test_a_byte_order_mark_changes_nothing(tmp_path, capsys):
    suite = Path(write_suite(tmp_path))
    suite.write_bytes(b"\xef\xbb\xbf" + suite.read_bytes().replace(b"\n", b"\r\n"))
    assert call("sweep", suite, "--method", "zero_shot", "--dry-run", "--runs", tmp_path / "runs") == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ("seeds: [010]", "seeds.0: input should be a valid integer, got '010'"),
        ("threads: 1_0", "threads: input should be a valid integer, got '1_0'"),
        ("name: 2024", "name: input should be a valid string, got 2024"),
        ("version: 1.10", "version: input should be a valid string, got 1.1"),
    ],
)
def test_a_number_of_yaml_1_1_is_none_in_a_suite(changes, sentence, tmp_path, capsys):
    suite, key = Path(write_suite(tmp_path)), changes.partition(":")[0]
    lines = plain_yaml.parse(suite.read_text(), "x")
    lines.pop(key)
    suite.write_text(plain_yaml.dump(lines) + changes + "\n")
    assert call("sweep", suite, "--method", "zero_shot", "--dry-run", "--runs", tmp_path / "runs") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_classes_may_be_called_yes_and_no_and_010(tmp_path):
    from robustft.datasets.hub import Hub

    kit.table(tmp_path / "d", "train", [0, 1, 2] * 4)
    kit.table(tmp_path / "d", "test", [0, 1, 2])
    (tmp_path / "e.yaml").write_text("dataset: d\nclass_names: [yes, no, 010]\n")
    assert Hub(str(tmp_path / "e.yaml")).card.class_names == ("yes", "no", "010")


def test_class_names_that_are_numbers_are_to_be_quoted(tmp_path, capsys):
    data = kit.described(tmp_path / "e.yaml", "dataset: d\nclass_names: [1, 2, 3]\n")
    assert call("sweep", kit.suite(tmp_path / "s.yaml", data), "--dry-run", "--runs", tmp_path / "runs") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert told.endswith("class_names.0: Input should be a valid string, got 1; put it in quotes.")


def test_there_is_one_reader_of_yaml():
    """Nothing else in the package imports the library."""
    found = set()
    for path in ROOT.glob("*/**/*.py"):
        if path.relative_to(ROOT).parts[0] in ("benchmarks", "methods", "datasets", "backbones", "results"):
            tree = ast.parse(path.read_text())
            names = [n.name for node in ast.walk(tree) if isinstance(node, ast.Import) for n in node.names]
            names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
            found |= {str(path.relative_to(ROOT))} if "yaml" in names else set()
    assert found == {"datasets/plain_yaml.py"}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/suites").glob("*.tuned.yaml")), ids=lambda path: path.stem)
def test_a_file_of_our_own_is_read_as_any_other(path):
    text = path.read_text()
    assert plain_yaml.parse(text, "here", own=True) == plain_yaml.parse(text, "here")


@pytest.mark.parametrize("text", ["a: [1", "a: 1\na: 2", "a: 1\n\tb: 2", "&x [*x]", "\x07"])
def test_what_is_wrong_with_a_file_of_our_own_is_said_as_of_any_other(text):
    said = []
    for own in (True, False):
        with pytest.raises(plain_yaml.YamlError) as error:
            plain_yaml.parse(text, "here", own)
        said.append(str(error.value))
    assert said[0] == said[1]
