"""classes.txt in the forms in which people write it: read as it is meant, or refused in one sentence."""

import own_data_kit as kit
import pytest
from runs_kit import call

from robustft.datasets import catalogue

CLASSES = {"n01": "crane", "n02": "heron"}
TEXT = "n01\tcrane\nn02\theron\n"


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        b"\n" + TEXT.replace("\n", "\n\n").encode() + b"  \n",
        TEXT.rstrip().encode(),
        TEXT.replace("\t", "  \t ").replace("crane", "crane  ").encode(),
    ],
    ids=["byte order mark", "CRLF", "CR", "blank lines", "no last newline", "spaces"],
)
def test_forms_that_mean_the_same(content, tmp_path):
    assert catalogue.get(kit.folder(tmp_path / "d", CLASSES, classes_txt=content)).card.class_names == (
        "crane",
        "heron",
    )


@pytest.mark.parametrize("name", ["a\u2028crane", "a\x0ccrane", "a\x85crane"])
def test_only_a_newline_ends_a_line(name, tmp_path):
    text = f"n01\t{name}\nn02\theron\n".encode()
    assert catalogue.get(kit.folder(tmp_path / "d", CLASSES, classes_txt=text)).card.class_names == (name, "heron")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"n01 crane\nn02\theron\n", "needs lines of folder, tab, class name; found 'n01 crane'"),
        (b"n01\tcrane\nn02\n", "needs lines of folder, tab, class name; found 'n02'"),
        (b"n01\tcrane\nn02\t \n", "needs lines of folder, tab, class name; found 'n02'"),
        (b"# folder, name\n" + TEXT.encode(), "needs lines of folder, tab, class name; found '# folder, name'"),
        (b"folder\tname\n" + TEXT.encode(), "class folder 'folder' of classes.txt has no training image"),
        (b"n01\tcrane\tbird\nn02\theron\n", r"found 'n01\tcrane\tbird'"),
        (TEXT.encode() + b"n01\tstork\n", "needs two or more folders, each once; found 'n01' twice"),
        (b"n01\tcrane\n", "needs two or more folders, each once; found 1 class"),
        (b"", "needs two or more folders, each once; found 0 classes"),
        ("n01\tgrúa\nn02\theron\n".encode("latin-1"), "write it in UTF-8"),
        (TEXT.encode("utf-16"), "write it in UTF-8"),
        (TEXT.encode() + b"n03\tstork\n", "class folder 'n03' of classes.txt has no training image"),
        (TEXT.encode() + b"N01\tstork\n", "class folder 'N01' of classes.txt has no training image"),
    ],
)
def test_what_is_no_list_of_classes_is_refused(content, sentence, tmp_path, capsys):
    file = kit.suite(tmp_path / "s.yaml", kit.folder(tmp_path / "d", CLASSES, classes_txt=content))
    assert call("sweep", file, "--method", "zero_shot", "--dry-run", "--runs", tmp_path / "runs") == 2
    told = capsys.readouterr().err
    assert told.startswith("robustft: folder:d: ") and sentence in told and told.count("\n") == 1


def test_one_folder_in_two_forms_of_a_letter_is_one(tmp_path, capsys):
    text = "caf\u00e9\tcoffee\ncafe\u0301\ttea\n".encode()
    file = kit.suite(tmp_path / "s.yaml", kit.folder(tmp_path / "d", {"caf\u00e9": "coffee"}, classes_txt=text))
    assert call("sweep", file, "--method", "zero_shot", "--dry-run", "--runs", tmp_path / "runs") == 2
    assert "each once; found 'caf\u00e9' twice" in capsys.readouterr().err
