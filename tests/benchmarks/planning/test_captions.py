"""Classes whose captions are the same tokens: of one's own data refused, of registered data named."""

import json
import unicodedata

import own_data_kit as kit
import pytest
from runs_kit import BACKBONE, call, folders, plan_runs, run_here

from robustft import backbones
from robustft.benchmarks.execution import run, worker
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.planning import captions
from robustft.datasets import catalogue

pytestmark = pytest.mark.usefixtures("no_reference")

LONG = "a very particular kind of object that is seen from far above in the late evening light"
TWINS = {
    "one name": ("crane", "crane"),
    "capitals": ("Crane", "crane"),
    "cut at the context": (f"{LONG} one", f"{LONG} two"),
    "spaces inside": ("grey  crane", "grey crane"),
    "forms of a letter": (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
    "an HTML entity": ("cat &amp; dog", "cat & dog"),
    "wide letters": ("ｃｒａｎｅ", "crane"),
}


@pytest.mark.parametrize("names", TWINS.values(), ids=TWINS)
def test_own_classes_of_one_caption_are_refused_before_anything_starts(names, tmp_path, capsys):
    data = kit.folder(tmp_path / "d", {"n01": names[0], "n02": names[1], "n03": "heron"})
    file = kit.suite(tmp_path / "s.yaml", data)
    for words in (("sweep", file, "--method", "flyp"), ("sweep", file, "--method", "zero_shot", "--dry-run")):
        assert call(*words, "--runs", tmp_path / "runs") == 2
        told = " ".join(capsys.readouterr().err.split())
        assert told.startswith("robustft: folder:d: the classes ") and told.endswith("or make them one class.")
        assert "(folder n01)" in told and "(folder n02)" in told and "n03" not in told
        assert ("within its first 16 tokens" in told) == (names[0] == f"{LONG} one")
    assert not (tmp_path / "runs").exists()


def test_doctor_names_them_and_does_not_say_complete(tmp_path, capsys):
    data = kit.folder(tmp_path / "d", {"n01": "Crane", "n02": "crane", "n03": "heron"})
    assert call("doctor", kit.suite(tmp_path / "s.yaml", data), "--runs", tmp_path) == 1
    told = capsys.readouterr().out
    assert "! folder:d: the classes 'Crane' (folder n01) and 'crane' (folder n02)" in told
    assert told.splitlines()[-1] == "something is missing or wrong, see ! above"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("['', '', ' ']", "the name of class 0 is '', which is no token to tiny-vit-p8; give it a name in class_names"),
        ("[a, '\\u00a0', b]", r"the name of class 1 is '\xa0', which is no token"),
        ("[cat, dog, Cat]", "the classes 'cat' (0) and 'Cat' (2) have one and the same caption to tiny-vit-p8"),
        ("[yes, yes, no]", "the classes 'yes' (0) and 'yes' (1) have one and the same caption"),
    ],
)
def test_own_data_of_the_hubs_library_too(names, sentence, tmp_path, capsys):
    kit.table(tmp_path / "d", "train", [0, 1, 2] * 4)
    kit.table(tmp_path / "d", "test", [0, 1, 2])
    names = names.replace("'\\u00a0'", '"\\u00a0"')
    data = kit.described(tmp_path / "e.yaml", f"dataset: d\nclass_names: {names}\n")
    assert call("sweep", kit.suite(tmp_path / "s.yaml", data), "--method", "zero_shot", "--runs", tmp_path / "r") == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


def test_all_templates_and_the_tokenizer_of_each_backbone_decide():
    long = "the late light of a very long evening in a year of many evenings that were longer still"
    names, cut = (f"{LONG} one", f"{LONG} two"), (f"{long} {long} {long} {long} {{}}",)
    assert captions.read(names, ("a {}.",), "tiny-vit-p8").twins == ((0, 1),)
    assert captions.read(names, ("a {}.",), "ViT-B-16").twins == ()
    assert captions.read(names, cut, "ViT-B-16").twins == ((0, 1),)
    assert captions.read(names, (*cut, "a {}."), "ViT-B-16").twins == ()  # one template tells them apart


@pytest.mark.parametrize(
    ("name", "backbone", "groups"),
    [("imagenet", "ViT-B-16", [(657, 744), (836, 837)]), ("digits", "tiny-vit-p8", [])],
)
def test_registered_twins_are_named_and_not_refused(name, backbone, groups):
    data = catalogue.get(name, root="nowhere")
    assert list(captions.read(data.card.class_names, data.card.prompts, backbone).twins) == groups
    told = captions.check(data, name, backbone)
    assert (told == "") == (not groups)
    if groups:
        assert told.startswith("the classes 657 and 744 (missile), 836 and 837 (sunglasses) of imagenet have one")


def test_a_run_on_registered_twins_says_so_in_log_record_and_board(tmp_path, monkeypatch):
    """Digits stand for ImageNet, whose images are not here; a tokenizer that reads six as five makes them twins."""
    real = backbones.tokenizer

    def short_sighted(name):
        return lambda texts: real(name)([text.replace("six", "five") for text in texts])

    monkeypatch.setattr(backbones, "tokenizer", short_sighted)
    captions.read.cache_clear()
    try:
        (made,) = plan_runs(tmp_path, "zero_shot", "limit=32")
        assert worker.work(made.path, run.Options(), lambda: False)["event"] == "done"
    finally:
        captions.read.cache_clear()
    sentence = (
        f"the classes 5 and 6 (five) of digits have one and the same caption to {BACKBONE}, so of each group only"
    )
    assert f"{sentence} one can ever be predicted.\n" in made.log.read_text()
    assert json.loads(made.record.read_text())["info"]["same_captions"].startswith(sentence)
    results = tmp_path / "results"
    assert call("leaderboard", "--runs", tmp_path / "runs", "--results", results) == 0
    assert f"In some rows, {sentence} one can ever be predicted." in (results / "leaderboard.md").read_text()


def test_a_worker_refuses_what_was_planned_without_this_check(tmp_path, monkeypatch, capsys):
    data = kit.folder(tmp_path / "d", {"n01": "crane", "n02": "crane", "n03": "heron"})
    file, runs = kit.suite(tmp_path / "s.yaml", data), tmp_path / "runs"
    with monkeypatch.context() as patched:

        def run(launcher):
            patched.undo()
            return run_here(launcher)

        patched.setattr(captions, "check", lambda *_: "")
        patched.setattr(Launcher, "run", run)
        assert call("sweep", file, "--method", "zero_shot", "--runs", runs) == 2
    assert "have one and the same caption" in (folders(runs)[0] / "log").read_text()
    assert not (folders(runs)[0] / "record.json").exists()


def test_names_that_differ_are_taken(tmp_path):
    name = kit.folder(tmp_path / "d", {"n01": "no", "n02": "on", "n03": "1"})
    assert captions.check(catalogue.get(name), name, "tiny-vit-p8") == ""
