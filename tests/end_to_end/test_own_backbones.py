"""A SigLIP in a folder of one's own, through the real commands: plan, runs, export, and back into open_clip."""

import json
import shutil

import pytest
import torch
from families_kit import write_tokenizer
from own_data_kit import folder as data_folder
from own_data_kit import suite
from PIL import Image
from runs_kit import call, folders, run_here
from safetensors.torch import save_file

import robustft
from robustft import backbones
from robustft.backbones import places
from robustft.benchmarks.executors.local import Launcher
from robustft.benchmarks.run_folder.folder import RunFolder

import open_clip  # isort: skip  (after robustft.backbones)

CONFIG = {
    "embed_dim": 24,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {
        "context_length": 12, "vocab_size": 128, "width": 32, "heads": 2, "layers": 1, "no_causal_mask": True,
        "pool_type": "last", "proj_bias": True, "hf_tokenizer_name": "nobody/nothing",
        "tokenizer_kwargs": {"clean": "canonicalize"},
    },
}  # fmt: skip
PREPROCESS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
SHORT = {"recipes": {"common": {"steps": 3, "batch_size": 8, "lr": 1e-3, "weight_decay": 0.1}}}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """A folder as open_clip's `local-dir:` reads it."""
    folder = tmp_path_factory.mktemp("models") / "tiny-siglip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": PREPROCESS}))
    write_tokenizer(folder)
    torch.manual_seed(0)
    from open_clip.model import CustomTextCLIP

    made = CustomTextCLIP(**{key: value for key, value in CONFIG.items() if key != "custom_text"})
    save_file(made.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def own_suite(siglip, tmp_path):
    data = data_folder(tmp_path / "data", {"a": "cat", "b": "dog"})
    return suite(
        tmp_path / "mine.yaml", data, backbones=[f"local-dir:{siglip}"], methods=["zero_shot", "flyp"], **SHORT
    )


def test_features_and_pixels_are_those_that_open_clip_loads_from_the_folder(siglip):
    encoder = backbones.load(f"local-dir:{siglip}")
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{siglip}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{siglip}")
    texts = ["A Photo, of the cat!", "great white_shark", "dog"]
    torch.testing.assert_close(encoder.tokenize(texts), tokenize(texts), rtol=0, atol=0)
    assert encoder.tokenize(["CAT"]).tolist() == encoder.tokenize(["cat..."]).tolist()  # cleaned
    assert encoder.tokenize(["cat"]).shape == (1, 12)
    image = Image.effect_noise((70, 41), 80).convert("RGB")
    import numpy as np

    from robustft.datasets.decoding import eval_view

    view = torch.from_numpy(eval_view(np.array(image), 32, "it", "exact", backbones.resizing(encoder.name)).copy())[
        None
    ]
    with torch.no_grad():
        torch.testing.assert_close(encoder.pixels(view), transform(image)[None], rtol=0, atol=1e-5)
        torch.testing.assert_close(
            encoder.image_features(view), model.encode_image(transform(image)[None]), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            encoder.text_features(encoder.tokenize(texts)), model.encode_text(tokenize(texts)), rtol=1e-5, atol=1e-5
        )


def test_it_is_planned_run_and_exported(siglip, own_suite, tmp_path, capsys, runs_here, monkeypatch):
    runs = tmp_path / "runs"
    assert call("sweep", own_suite, "--method", "flyp,zero_shot", "--runs", str(runs)) == 0
    made = folders(runs)
    assert {folder.parent.name for folder in made} == {"local-dir:tiny-siglip"}
    records = [json.loads((folder / "record.json").read_text()) for folder in made]
    for record in records:
        assert str(siglip) not in json.dumps(record)
        assert record["spec"]["weights"].startswith("sha256:")
        assert record["info"]["preprocessing"] == {
            key: PREPROCESS[key] for key in sorted(PREPROCESS, reverse=True)
        } or (record["info"]["preprocessing"].items() == PREPROCESS.items())
    # Another process knows the folder by the plan alone.
    flyp = next(folder for folder in made if folder.parts[-3] == "flyp")
    monkeypatch.setattr(places, "_known", {})
    assert call("export", str(flyp), str(tmp_path / "out")) == 0
    model, transform = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    said = json.loads((tmp_path / "out" / "open_clip_config.json").read_text())
    assert said["model_cfg"] == CONFIG and said["preprocess_cfg"].items() >= PREPROCESS.items()
    from safetensors.torch import load_file

    trained = load_file(flyp / "weights" / "final.safetensors")
    for key, tensor in model.visual.state_dict().items():
        assert torch.equal(tensor, trained[f"visual.{key}"])
    assert not torch.equal(model.logit_bias, load_file(siglip / "open_clip_model.safetensors")["logit_bias"])
    assert open_clip.get_tokenizer(f"local-dir:{tmp_path / 'out'}")(["cat"]).shape == (1, 12)
    again = backbones.load(f"local-dir:{tmp_path / 'out'}")
    torch.testing.assert_close(again.clip.state_dict()["logit_bias"], model.logit_bias)


def test_a_folder_that_was_moved_or_replaced_is_found_by_its_name_and_hash(siglip, tmp_path, capsys, monkeypatch):
    """Under the same name below ROBUSTFT_WEIGHTS; other weights of that name are never taken."""
    models, runs = tmp_path / "models", tmp_path / "runs"
    here = models / siglip.name
    shutil.copytree(siglip, here)
    data = data_folder(tmp_path / "data", {"a": "cat", "b": "dog"})
    made = suite(tmp_path / "mine.yaml", data, backbones=[f"local-dir:{here}"], methods=["zero_shot"], **SHORT)
    monkeypatch.setattr(places, "_known", {})
    planned = robustft.plan(made, "zero_shot")
    robustft.run(planned, runs=runs, workers=0)
    (run,) = folders(runs)

    def export(out):
        capsys.readouterr()
        monkeypatch.setattr(places, "_known", {})
        code = call("export", str(run), str(tmp_path / out))
        return code, " ".join(capsys.readouterr().err.split())

    moved = tmp_path / "elsewhere" / siglip.name
    moved.parent.mkdir()
    here.rename(moved)
    remedy = "name with ROBUSTFT_WEIGHTS the folder that has it as tiny-siglip."
    assert export("gone") == (
        2, f"robustft: backbone local-dir:tiny-siglip: is not there at {here}; put it back, or {remedy}"
    )  # fmt: skip
    shutil.copytree(moved, here)
    (here / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG}))
    code, said = export("replaced")
    assert code == 2 and f"; put those back at {here}, or {remedy}" in said
    backbones.resolve(f"local-dir:{here}")  # other pictures too, so other data; the backbone is named
    with pytest.raises(robustft.UserError, match="weights: must be .*; the backbone local-dir:tiny-siglip changed"):
        robustft.run(planned, runs=tmp_path / "new", workers=0)
    monkeypatch.setattr(places, "_known", {})
    made.write_text(made.read_text().replace(str(here), str(moved)))
    robustft.run(robustft.plan(made), runs=tmp_path / "new", workers=0)
    (same,) = folders(tmp_path / "new")
    assert same.name == run.name and json.loads((same / "backbone.json").read_text()) == {"path": str(moved)}
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(moved.parent))
    assert export("found") == (0, "")
    assert (tmp_path / "found" / "open_clip_model.safetensors").is_file()


def test_retry_starts_no_run_whose_folder_is_gone_and_makes_the_others(siglip, tmp_path, capsys, monkeypatch):
    """Neither one of the backbone itself nor one of a checkpoint that needs its architecture."""
    here, runs = tmp_path / "models" / "moved-away", tmp_path / "runs"
    shutil.copytree(siglip, here)
    data = data_folder(tmp_path / "data", {"a": "cat", "b": "dog"})
    own = [f"local-dir:{here}", "tiny-vit-p16"]
    made = suite(tmp_path / "mine.yaml", data, backbones=own, methods=["zero_shot"], **SHORT)
    place, results = ("--runs", str(runs)), ("--results", str(tmp_path / "results"))
    given = (here / "open_clip_model.safetensors").rename(tmp_path / "mine.safetensors")
    shutil.copy(given, here / "open_clip_model.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(Launcher, "run", lambda launcher: launcher.jobs)
        call("sweep", made, "--method", "zero_shot", *place, *results)
        call("evaluate", given, "--benchmark", made, "--backbone", own[0], "--name", "mine", *place, *results)
    planned = folders(runs)
    assert len(planned) == 3
    here.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(places, "_known", {})
    for folder in planned:
        RunFolder(folder).write_state(state="failed", reason="a bug that was mended")
    capsys.readouterr()
    monkeypatch.setattr(Launcher, "run", run_here)
    assert call("retry", *place) == 1
    said = f"backbone local-dir:moved-away: is not there at {here}; put it back, or name with ROBUSTFT_WEIGHTS"
    out = " ".join(capsys.readouterr().out.split())
    assert (out.count("left out: "), out.count(said)) == (2, 2)
    assert [(folder / "record.json").exists() for folder in planned] == [False, False, True]
    assert [(folder / "log").exists() for folder in planned] == [False, False, True]
    assert call("retry", *place) == 2
    assert f"{said} the folder that has it as moved-away; nothing was started." in " ".join(
        capsys.readouterr().err.split()
    )


def test_what_cannot_be_meant_is_refused_when_it_is_planned(own_suite, tmp_path, capsys):
    for arguments, words in [
        (("lipsum_ft",), "lipsum_ft: draws random texts of CLIP's tokens, got local-dir:tiny-siglip"),
        (("flyp", "--set", "clamp_logit_scale=true"), "clamp_logit_scale is the limit of CLIP's pretraining"),
        (
            ("partial_ft", "--set", "blocks=2"),
            "partial_ft.blocks: must be at most 1, the blocks of local-dir:tiny-siglip",
        ),
    ]:
        assert call("sweep", own_suite, "--method", *arguments, "--dry-run", "--runs", str(tmp_path / "no")) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_a_method_that_is_left_out_on_one_backbone_says_why(siglip, tmp_path, capsys):
    data = data_folder(tmp_path / "data", {"a": "cat", "b": "dog"})
    both = [f"local-dir:{siglip}", "tiny-vit-p8"]
    made = suite(tmp_path / "mine.yaml", data, backbones=both, methods=["zero_shot", "lipsum_ft"], **SHORT)
    assert call("sweep", made, "--method", "all", "--dry-run", "--runs", str(tmp_path / "no")) == 0
    shown = capsys.readouterr()
    said = [line for line in shown.err.splitlines() if "not planned" in line]
    assert said == [
        "robustft: not planned: lipsum_ft: draws random texts of CLIP's tokens, got local-dir:tiny-siglip, which has "
        "another tokenizer; choose another method or backbone."
    ]
    rows = [line.split("│")[2:4] for line in shown.out.splitlines() if "to run │" in line]
    assert {(method.strip(), backbone.strip()) for method, backbone in rows} == {
        ("zero_shot", "local-dir:tiny-siglip"), ("zero_shot", "tiny-vit-p8"), ("lipsum_ft", "tiny-vit-p8"),
    }  # fmt: skip


def test_a_weights_file_is_a_backbone_beside_the_name_of_its_model(tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(b"")
    assert backbones.resolve(f"ViT-B/32:{path}") == "ViT-B-32:mine.safetensors"
    assert backbones.resolve("ViT-B-32:mine.safetensors") == "ViT-B-32:mine.safetensors"
    assert backbones.weights_id("ViT-B-32:mine.safetensors").startswith("sha256:e3b0c44298fc")
    assert backbones.resizing(backbones.resolve(f"ViT-B-16-SigLIP:{path}")) == ("squash", "bicubic")  # as all its tags
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.safetensors").write_bytes(b"")
    with pytest.raises(backbones.BackboneError, match=f"is the name of {path} and of {tmp_path}/other/mine"):
        backbones.resolve(f"ViT-B-32:{tmp_path / 'other' / 'mine.safetensors'}")
    with pytest.raises(backbones.BackboneError, match="several kinds of pictures"):
        backbones.image_size(f"ViT-H-14-quickgelu:{path}") or backbones.resizing(f"ViT-H-14-quickgelu:{path}")


def test_the_table_of_models_says_what_each_is_and_costs(capsys):
    assert call("list", "backbones", "siglip2") == 0
    shown = capsys.readouterr().out
    assert "ViT-B-16-SigLIP2" in shown and "sigmoid" in shown and "64*" in shown and "375" in shown
    assert "pip install 'robustft[tokenizers]'" in shown
    assert call("list", "backbones", "coca_ViT-B-32") == 0
    assert "no backbone: open_clip's coca_ViT-B-32 is a CoCa" in capsys.readouterr().out
    assert call("list", "backbones", "nothing-like-it") == 2
    assert call("list", "ViT-B-32:laion2b_s34b_b79k") == 2
    assert "is a model of open_clip; see `robustft list backbones ViT-B-32`." in capsys.readouterr().err
    assert call("list", "backbones", "vit-b-16-quick*") == 0
    shown = capsys.readouterr().out
    assert "Without a tag, ViT-B-16: OpenAI's weights" in shown
    assert "ViT-B-16-quickgelu: tags: openai, " in shown  # of a single model by their names
    assert call("list", "backbones", "ViT-B-32:openai") == 0
    assert "and of ViT-B-32-quickgelu: openai, " in (shown := capsys.readouterr().out) and "SigLIP2" not in shown
    assert call("list") == 0
    assert "and MODEL:TAG of open_clip, see `robustft list backbones`" in " ".join(capsys.readouterr().out.split())
