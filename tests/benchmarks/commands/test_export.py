"""`robustft export`: what open_clip loads from the folder is the model that the run evaluated."""

import hashlib
import json
import shutil

import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from runs_kit import BACKBONE, call, never, plan_runs
from safetensors import safe_open
from safetensors.torch import load_file, save

from robustft import backbones
from robustft.backbones.zero_shot import build_head
from robustft.benchmarks.execution import finished_run
from robustft.benchmarks.execution.final_weights import load_weights
from robustft.benchmarks.execution.run import Options
from robustft.benchmarks.execution.worker import work
from robustft.benchmarks.run_folder.folder import RunFolder
from robustft.datasets.digits import CLASS_NAMES, PROMPTS, Digits
from robustft.methods.classifier import Classifier
from robustft.methods.flyp import FLYP
from robustft.methods.two_tower import zero_shot_classifier
from robustft.results.records.records import read_record
from robustft.results.release import model_card

import open_clip  # isort: skip  (after robustft.backbones)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, few_probes):
    """Method -> folder of a finished run."""
    root, made = tmp_path_factory.mktemp("runs"), {}
    for method in ("wise_ft", "flyp_wise", "lp_ft", "zero_shot", "tracer"):
        for folder in plan_runs(root, method, "limit=16"):
            assert work(folder.path, Options(), never)["event"] == "done"
            made[folder.path.parts[-3]] = folder
    return made


def images():
    return Digits().eval_data("id").images(0, 8)


def logits_of(folder):
    """As the run's own evaluation restores it."""
    tensors, about = load_weights(folder)
    with torch.no_grad():
        return Classifier.restore(backbones.load(BACKBONE), tensors, about["classifier"])(images())


def read_head(folder):
    with safe_open(folder / "head.safetensors", framework="pt") as file:
        about = json.loads(file.metadata()["meta"])
        return file.get_tensor("weight"), file.get_tensor("bias"), about


@torch.no_grad()
def logits_from(folder):
    """With open_clip alone."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(Image.fromarray(image.permute(1, 2, 0).numpy())) for image in images()])
    weight, bias, about = read_head(folder)
    return model.eval().encode_image(pixels, normalize=about["normalise"]) @ weight.T + bias


@pytest.mark.parametrize("method", ["ft", "lp_ft", "wise_ft", "flyp", "flyp_wise", "zero_shot", "tracer"])
def test_open_clip_gives_the_logits_of_the_run(runs, tmp_path, capsys, method):
    folder = tmp_path / "out"
    assert call("export", runs[method].path, folder) == 0
    wanted = logits_of(runs[method])
    assert (logits_from(folder) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    model, _ = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    assert model.state_dict().keys() == load_file(folder / "open_clip_model.safetensors").keys()
    said = capsys.readouterr().out
    assert f"wrote {folder}: {method} {BACKBONE} seed 3; its text tower is " in said
    card = (folder / "README.md").read_text()
    builds = method in ("flyp", "tracer", "zero_shot")
    assert ("the run's head is head.safetensors, which features of that text tower do not give" in said) == (not builds)
    assert ("which features of that text tower do not give" in card) == (not builds)
    assert ("the run's own, trained with the image tower" in card) == (method in ("flyp", "tracer"))


@pytest.mark.parametrize("method", ["flyp", "tracer"])
def test_open_clips_text_tower_builds_the_head_of_a_two_tower_run(runs, tmp_path, method):
    assert call("export", runs[method].path.name.rpartition("-")[2], tmp_path / "out", "--runs", root(runs)) == 0
    where = f"local-dir:{tmp_path / 'out'}"
    model, _, _ = open_clip.create_model_and_transforms(where)
    tokenize = open_clip.get_tokenizer(where, bpe_path=str(tmp_path / "out" / "merges.txt.gz"))
    weight, bias, about = read_head(tmp_path / "out")
    assert about["class_names"] == list(CLASS_NAMES) and about["prompts"] == list(PROMPTS) and about["normalise"]
    with torch.no_grad():
        rows = []
        for name in about["class_names"]:
            text = model.eval().encode_text(tokenize([p.format(name) for p in about["prompts"]]), normalize=True)
            rows.append(torch.nn.functional.normalize(text.mean(dim=0), dim=0))
        head = torch.stack(rows) * model.logit_scale.exp()
    assert (head - weight).abs().max() < 1e-5 * weight.abs().max() and not bias.any()
    pretrained = build_head(backbones.load(BACKBONE), CLASS_NAMES, PROMPTS)
    assert (pretrained - weight).abs().max() > 1e-3 * weight.abs().max()  # it is not the pretrained one


def root(runs):
    return runs["ft"].path.parents[3]


def test_the_card_is_one_of_the_hub_and_its_python_runs(runs, tmp_path, monkeypatch):
    assert call("export", runs["flyp"].path, tmp_path / "out") == 0
    content = (tmp_path / "out" / "README.md").read_text()
    front = ModelCard(content).data
    assert front.library_name == "open_clip" and front.license == "apache-2.0"
    assert front.pipeline_tag == "zero-shot-image-classification" and "flyp" in front.tags
    record = json.loads(runs["flyp"].record.read_text())
    for text in (
        f"| sketches | shift | 16 | {record['sets']['sketches']['accuracy']:.4f} |",
        f"- Run: {record['run_id']}",
        "| lr | 0.0003 | recipe common |",
        "seed 3",
        record["info"]["code"][0],
        "A rehearsal",
    ):
        assert text in content, text
    monkeypatch.chdir(tmp_path / "out")
    Image.fromarray(images()[0].permute(1, 2, 0).numpy()).save("image.png")
    code = content.partition("```python\n")[2].partition("```")[0]
    assert len(code.strip().splitlines()) <= 9
    names = {}
    exec(code, names)
    wanted = logits_of(runs["flyp"])[:1]
    assert (names["logits"] - wanted).abs().max() < 1e-5 * wanted.abs().max()
    tokens = eval(content.partition("own, `")[2].partition("`")[0], {"open_clip": open_clip})
    assert torch.equal(tokens, backbones.tokenizer(BACKBONE)(["a photo of the digit seven."]))


def test_a_point_of_a_path(runs, tmp_path, capsys):
    """Half way along a line of which the run has evaluated 0.3, its own number among others."""
    for alpha, measured in (("0.3", True), ("0.35", False), ("1", True)):
        folder = tmp_path / alpha
        assert call("export", runs["wise_ft"].path, folder, "--at", f"alpha={alpha}") == 0
        assert f"at alpha = {alpha}; its text tower is the pretrained one" in capsys.readouterr().out
        start = Classifier(
            backbones.load(BACKBONE), build_head(backbones.load(BACKBONE), CLASS_NAMES, PROMPTS)
        ).tensors()
        end = load_weights(runs["ft"])[0]
        at = {name: torch.lerp(start[name], end[name], float(alpha)) for name in end}
        with torch.no_grad():
            wanted = Classifier.restore(backbones.load(BACKBONE), at, load_weights(runs["ft"])[1]["classifier"])(
                images()
            )
        assert (logits_from(folder) - wanted).abs().max() < 1e-5 * wanted.abs().max()
        card = (folder / "README.md").read_text()
        assert f"- Method: wise_ft, at alpha = {alpha} of its path" in card
        assert ("Not measured: along alpha the run evaluated 0, 0.1, 0.2" in card) == (not measured)
    point = next(p for p in read_record(runs["wise_ft"].record)["path"]["points"] if p["value"] == 0.3)
    accuracy = f"| id | id | 16 | {point['sets']['id']['accuracy']:.4f} |"
    assert accuracy in (tmp_path / "0.3" / "README.md").read_text()


@pytest.mark.parametrize(
    "method, words, says",
    [
        ("ft", ["--at", "alpha=0.5"], "--at: is for methods with a path, as wise_ft, got a run of ft"),
        ("wise_ft", ["--at", "beta=0.5"], "--at: must name alpha, along which wise_ft runs, got 'beta'"),
        ("wise_ft", ["--at", "alpha=1.5"], "--at: alpha must be from 0 to 1, got 1.5"),
        ("wise_ft", ["--at", "alpha=nan"], "--at: must be a parameter and a number, as alpha=0.5, got 'alpha=nan'"),
        ("wise_ft", ["--at", "0.5"], "--at: must be a parameter and a number"),
    ],
)
def test_a_point_that_is_none_is_refused(runs, tmp_path, capsys, method, words, says):
    assert call("export", runs[method].path, tmp_path / "out", *words) == 2
    assert says in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_what_cannot_be_exported_is_refused_in_one_sentence(runs, tmp_path, capsys):
    def refused(*words):
        assert call("export", *words) == 2
        return capsys.readouterr().err

    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert "full: must be an empty or a new folder, but holds files" in refused(runs["ft"].path, full)
    out, place = tmp_path / "out", ["--runs", root(runs)]
    assert "has no run with the id 'cafe'; see `robustft status" in refused("cafe", out, *place)
    two = tmp_path / "two" / "digits" / "ft" / BACKBONE
    for name in ("seed0-0a1b2c3d4e5f", "seed1-0affffffffff"):
        (two / name).mkdir(parents=True)
        (two / name / "spec.json").write_text("{}")
    assert "2 runs have the id '0a', as seed0-0a1b2c3d4e5f, seed1-" in refused("0a", out, "--runs", tmp_path / "two")
    assert "must be the folder of a finished run" in refused(tmp_path, out)
    (tmp_path / "planned").mkdir()
    (planned,) = plan_runs(tmp_path / "planned", "ft", "limit=16")
    assert "must be the folder of a finished run" in refused(planned.path, out)
    assert not out.exists() and not list(tmp_path.glob(".*"))


def copied(folder, tmp_path):
    return RunFolder(shutil.copytree(folder.path, tmp_path / "copy" / folder.path.name))


def test_a_run_without_its_weights_or_its_text_tower(runs, tmp_path, capsys):
    flyp = copied(runs["flyp"], tmp_path)
    about = json.loads(flyp.fitted.read_text())
    text = flyp.text_weights.read_bytes()
    flyp.text_weights.unlink()
    assert call("export", flyp.path, tmp_path / "out") == 2
    assert "must hold the text tower that the run trained" in capsys.readouterr().err
    flyp.fitted.write_text(json.dumps({key: value for key, value in about.items() if key != "text_sha256"}))
    assert call("export", flyp.path, tmp_path / "out") == 2
    assert (
        "was made before text towers were kept, and flyp trained its own, which is lost; delete"
        in (said := capsys.readouterr().err)
        and "start its sweep again with --keep final" in said
    )
    flyp.weights.unlink()
    flyp.keep("none")
    assert call("export", flyp.path, tmp_path / "out") == 2
    assert "its final weights were not kept (--keep none); delete" in capsys.readouterr().err
    assert text and not (tmp_path / "out").exists()


def test_a_text_tower_of_another_run_is_not_taken_away(runs, tmp_path, capsys):

    flyp = copied(runs["flyp"], tmp_path)
    other = runs["tracer"].text_weights.read_bytes()

    moved = {
        name: tensor + 0.05 * torch.randn_like(tensor)
        for name, tensor in load_file(runs["tracer"].text_weights).items()
    }
    other = save(moved)
    flyp.text_weights.write_bytes(other)
    about = json.loads(flyp.fitted.read_text()) | {"text_sha256": hashlib.sha256(other).hexdigest()}
    flyp.fitted.write_text(json.dumps(about))
    assert call("export", flyp.path, tmp_path / "out") == 2
    assert "the text tower that it kept does not build its head" in capsys.readouterr().err


def test_an_export_that_fails_half_way_leaves_nothing(runs, tmp_path, capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustft.benchmarks.commands.export._card", full)
    assert call("export", runs["ft"].path, tmp_path / "out") == 2
    assert "out: cannot be written (No space left on device)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken(runs, tmp_path):
    (tmp_path / "out").mkdir()
    assert call("export", runs["zero_shot"].path, tmp_path / "out") == 0
    assert (tmp_path / "out" / "open_clip_config.json").exists()


def test_the_card_of_a_plug_ins_run_says_whose_code_it_is(runs):
    record = json.loads(runs["flyp"].record.read_text())
    said = model_card.Model("a title", "open_clip", ("other", "Unknown."), "Its own.", "load()")
    plain = model_card.render(record, said, json.dumps)
    record["spec"]["plugins"] = ["method:0123"]
    brought = model_card.render(record, said, json.dumps)
    assert "by kind and sha256: method:0123" in brought and "with the plug-in method:0123" in brought
    assert "sha256: method" not in plain and "plug-in" not in plain


def test_huggingface_has_a_card_of_its_own_library(runs, tmp_path):
    assert call("export", runs["flyp"].path, tmp_path / "out", "--to", "huggingface") == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    layout = {"config.json", "model.safetensors", "preprocessor_config.json", "vocab.json", "merges.txt"}
    assert names == {*layout, "tokenizer_config.json", "head.safetensors", "README.md"}
    front = ModelCard((tmp_path / "out" / "README.md").read_text()).data
    assert front.library_name == "transformers"
    restored = finished_run.restore(runs["flyp"])
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(stored["visual_projection.weight"], restored.encoder.clip.visual.proj.T)
    assert torch.equal(stored["logit_scale"], restored.encoder.clip.logit_scale)


def test_a_method_whose_head_is_not_its_text_towers_is_exported_with_both(tmp_path, monkeypatch, capsys):
    def finish(self, student, context):
        classifier = zero_shot_classifier(student.encoder, context)
        classifier.bias.data += torch.arange(10)
        return classifier

    monkeypatch.setattr(FLYP, "finish", finish, raising=False)
    (folder,) = plan_runs(tmp_path, "flyp", "limit=16")
    assert work(folder.path, Options(), never)["event"] == "done"
    assert call("export", folder.path, tmp_path / "out") == 0
    assert "trained with the image tower; the run's head is another one, head.safetensors" in capsys.readouterr().out
    wanted = logits_of(folder)
    assert (logits_from(tmp_path / "out") - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert ModelCard((tmp_path / "out" / "README.md").read_text()).data.pipeline_tag == "image-classification"
