"""Checkpoints that others trained: each kind gives the numbers of the model that it was saved from, or is refused."""

import argparse
import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import layer_norm, linear, softmax

from robustft.backbones import BackboneError, checkpoint, clip

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
NAME = "ViT-B-16"
VISION = {"layers": 2, "width": 64, "head_width": 32, "image_size": 32, "patch_size": 8}
TEXT = {"layers": 2, "width": 48, "heads": 2, "vocab_size": 512, "context_length": 12}
CLASSES = 5


@pytest.fixture(scope="module")
def model():
    return clip.untrained(NAME, vision=VISION, text=TEXT).clip


@pytest.fixture(scope="module")
def tensors(model):
    return model.state_dict()


@pytest.fixture(scope="module")
def seen(model):
    """Pixels, tokens, and what open_clip makes of them."""
    made = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 32, 32, generator=made)
    tokens = torch.randint(1, 400, (3, 12), generator=made)
    tokens[:, -1] = 511
    with torch.no_grad():
        return images, tokens, model.encode_image(images), model.encode_text(tokens)


def named(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def face(tensors):
    """The same model as Hugging Face's CLIPModel names and shapes it."""
    made = {"logit_scale": tensors["logit_scale"], "text_model.embeddings.position_ids": torch.arange(12)[None]}
    plain = {
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
    }
    for end in ("weight", "bias"):
        plain[f"text_model.final_layer_norm.{end}"] = f"ln_final.{end}"
        plain[f"vision_model.pre_layrnorm.{end}"] = f"visual.ln_pre.{end}"
        plain[f"vision_model.post_layernorm.{end}"] = f"visual.ln_post.{end}"
        for tower, start in (("text", ""), ("vision", "visual.")):
            for i in range(2):
                layer, block = f"{tower}_model.encoder.layers.{i}.", f"{start}transformer.resblocks.{i}."
                for mine, theirs in (("layer_norm1", "ln_1"), ("layer_norm2", "ln_2"), ("mlp.fc1", "mlp.c_fc"),
                                     ("mlp.fc2", "mlp.c_proj"), ("self_attn.out_proj", "attn.out_proj")):  # fmt: skip
                    plain[f"{layer}{mine}.{end}"] = f"{block}{theirs}.{end}"
                split = tensors[f"{block}attn.in_proj_{end}"].chunk(3)
                made |= {f"{layer}self_attn.{q}_proj.{end}": part for q, part in zip("qkv", split, strict=True)}
    made |= {key: tensors[own] for key, own in plain.items()}
    made["visual_projection.weight"] = tensors["visual.proj"].T
    made["text_projection.weight"] = tensors["text_projection"].T
    return made


def face_features(t, images, tokens):
    """(image, text) features as transformers' CLIPModel computes them of its own tensors; written from its source."""

    def encode(x, tower, mask):
        for i in range(2):
            at = f"{tower}_model.encoder.layers.{i}."
            size = x.shape[-1:]
            y = layer_norm(x, size, t[f"{at}layer_norm1.weight"], t[f"{at}layer_norm1.bias"])
            q, k, v = (
                linear(y, t[f"{at}self_attn.{n}_proj.weight"], t[f"{at}self_attn.{n}_proj.bias"])
                .unflatten(-1, (2, -1))
                .transpose(1, 2)
                for n in "qkv"
            )
            scores = softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5 + mask, dim=-1)
            y = (scores @ v).transpose(1, 2).flatten(2)
            x = x + linear(y, t[f"{at}self_attn.out_proj.weight"], t[f"{at}self_attn.out_proj.bias"])
            y = layer_norm(x, size, t[f"{at}layer_norm2.weight"], t[f"{at}layer_norm2.bias"])
            y = linear(y, t[f"{at}mlp.fc1.weight"], t[f"{at}mlp.fc1.bias"])
            y = y * torch.sigmoid(1.702 * y)
            x = x + linear(y, t[f"{at}mlp.fc2.weight"], t[f"{at}mlp.fc2.bias"])
        return x

    v, w = "vision_model.", "text_model."
    x = torch.conv2d(images, t[f"{v}embeddings.patch_embedding.weight"], stride=8).flatten(2).transpose(1, 2)
    x = torch.cat([t[f"{v}embeddings.class_embedding"].expand(len(x), 1, -1), x], 1)
    x = x + t[f"{v}embeddings.position_embedding.weight"]
    x = layer_norm(x, x.shape[-1:], t[f"{v}pre_layrnorm.weight"], t[f"{v}pre_layrnorm.bias"])
    x = encode(x, "vision", 0)[:, 0]
    x = layer_norm(x, x.shape[-1:], t[f"{v}post_layernorm.weight"], t[f"{v}post_layernorm.bias"])
    y = t[f"{w}embeddings.token_embedding.weight"][tokens] + t[f"{w}embeddings.position_embedding.weight"]
    y = encode(y, "text", torch.full((12, 12), -torch.inf).triu(1))
    y = layer_norm(y, y.shape[-1:], t[f"{w}final_layer_norm.weight"], t[f"{w}final_layer_norm.bias"])
    y = y[torch.arange(len(y)), tokens.argmax(-1)]
    return linear(x, t["visual_projection.weight"]), linear(y, t["text_projection.weight"])


def test_the_layout_of_hugging_face_here_is_that_of_its_model(tensors, seen):
    images, tokens, image, text = seen
    found = face_features(face(tensors), images, tokens)
    assert torch.allclose(found[0], image, atol=1e-5) and torch.allclose(found[1], text, atol=1e-5)


WHOLE = {
    "open_clip": lambda t: t,
    "training checkpoint": lambda t: {"epoch": 3, "name": "x", "state_dict": named("module.", t), "optimizer": {}},
    "lightning": lambda t: {"state_dict": named("model.", t)},
    "compiled flyp encoder": lambda t: {"model_state_dict": named("module._orig_mod.model.", t)},
    "hugging face": face,
    "hugging face in a trainer": lambda t: named("model.", face(t)),
    "custom text": lambda t: {k if k.startswith(("visual.", "logit_scale")) else f"text.{k}": v for k, v in t.items()},
}


def same(found, seen):
    """The features of a checkpoint's tensors are those of the model that it was saved from."""
    images, tokens, image, text = seen
    other = clip.build(NAME, vision=VISION, text=TEXT).clip.eval()
    other.load_state_dict(found.tensors)
    with torch.no_grad():
        assert torch.allclose(other.encode_image(images), image, atol=1e-5)
        assert torch.allclose(other.encode_text(tokens), text, atol=1e-5)


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
@pytest.mark.parametrize("kind", WHOLE)
def test_a_whole_clip_gives_the_features_of_its_model(kind, ending, model, tensors, seen, tmp_path):
    content, path = WHOLE[kind](tensors), tmp_path / f"theirs.{ending}"
    flat = all(isinstance(value, torch.Tensor) for value in content.values())
    if ending == "safetensors" and flat:
        save_file({key: value.contiguous() for key, value in content.items()}, path)
    else:
        torch.save(content, path)
    found = checkpoint.read(path, NAME, model)
    assert found.kind == "clip" and found.head is None
    same(found, seen)
    if kind == "training checkpoint":
        count = sum(key.startswith("visual.") for key in tensors)
        assert f"visual.* <- module.visual.*: {count} tensors" in found.renamed
        assert "the tensors are those under 'state_dict'" in found.renamed
    assert "activation: QuickGELU, which ViT-B-16 has; the checkpoint does not say" in " ".join(found.renamed)
    if kind == "open_clip":
        assert len(found.renamed) == 1


def test_numbers_of_half_precision_stay_what_they_are(model, tensors, tmp_path):
    torch.save({key: value.half() for key, value in tensors.items()}, tmp_path / "theirs.pt")
    found = checkpoint.read(tmp_path / "theirs.pt", NAME, model)
    assert all(torch.equal(found.tensors[key], tensors[key].half()) for key in tensors)


class Archived(torch.nn.Module):
    """The state of a CLIP under an archive's names, with QuickGELU in its code."""

    def __init__(self, model):
        super().__init__()
        for name, module in model.named_children():
            setattr(self, name, module)
        for name, value in model.named_parameters(recurse=False):
            setattr(self, name, value)
        self.register_buffer("input_resolution", torch.tensor(32))

    def forward(self, images):
        return self.visual(images)


def archive(model, path, seen):
    torch.jit.trace(Archived(model), seen[0], check_trace=False).save(path)


def test_an_archive_as_openai_gave_it_out_is_read_and_not_run(model, seen, tmp_path, monkeypatch):
    archive(model, tmp_path / "theirs.pt", seen)
    for runs_it in ("load", "_load_for_module"):
        monkeypatch.setattr(torch.jit, runs_it, None, raising=False)
    monkeypatch.setattr(torch, "load", None)
    found = checkpoint.read(tmp_path / "theirs.pt", NAME, model)
    assert found.kind == "clip"
    same(found, seen)


def test_an_archive_of_another_activation_is_refused(seen, tmp_path):
    with torch.random.fork_rng():
        plain = clip.untrained("ViT-B-16:laion2b_s34b_b88k", vision=VISION, text=TEXT).clip
    quick = clip.untrained(NAME, vision=VISION, text=TEXT).clip
    archive(plain, tmp_path / "plain.pt", seen)
    archive(quick, tmp_path / "quick.pt", seen)
    checkpoint.read(tmp_path / "plain.pt", "ViT-B-16:laion2b_s34b_b88k", plain)
    with pytest.raises(
        BackboneError, match=r"was trained with the ordinary GELU, got --backbone ViT-B-16, which has Qu"
    ):
        checkpoint.read(tmp_path / "plain.pt", NAME, quick)
    with pytest.raises(BackboneError, match="was trained with QuickGELU, got"):
        checkpoint.read(tmp_path / "quick.pt", "ViT-B-16:laion2b_s34b_b88k", plain)


def test_a_cut_archive_is_damaged(model, seen, tmp_path):
    path = tmp_path / "theirs.pt"
    archive(model, path, seen)
    content = bytearray(path.read_bytes())
    at = content.index(b"data.pkl") + 200
    content[at : at + 40] = b"\xff" * 40
    path.write_bytes(content)
    with pytest.raises(BackboneError, match="damaged weights at"):
        checkpoint.read(path, NAME, model)


@pytest.mark.parametrize("beside", [("config.json", {"model_type": "clip", "vision_config": {"hidden_act": "gelu"}}),
                                    ("open_clip_config.json", {"model_cfg": {"embed_dim": 512}})])  # fmt: skip
def test_the_configuration_beside_it_says_the_activation(beside, model, tensors, tmp_path):
    torch.save(tensors, tmp_path / "theirs.pt")
    (tmp_path / beside[0]).write_text(json.dumps(beside[1]))
    with pytest.raises(BackboneError, match="was trained with the ordinary GELU"):
        checkpoint.read(tmp_path / "theirs.pt", NAME, model)


def head_of(tensors):
    return torch.randn(CLASSES, tensors["text_projection"].shape[1], generator=torch.Generator().manual_seed(1))


def wise_ft(t):
    """An ImageClassifier: its encoder has lost the text transformer, and nothing else of the text tower."""
    kept = {k: v for k, v in t.items() if not k.startswith("transformer.")}
    return {
        **named("image_encoder.model.", kept),
        "classification_head.weight": head_of(t),
        "classification_head.bias": torch.arange(CLASSES).float(),
    }


TOWERS = {
    "wise-ft": wise_ft,
    "wise-ft in data parallel": lambda t: {"state_dict": named("module.", wise_ft(t))},
    "flyp": lambda t: {**named("image_encoder.model.", t), "classification_head.weight": head_of(t)},
    "ours": lambda t: {**{k: v for k, v in t.items() if k.startswith("visual.")}, "weight": head_of(t),
                       "bias": torch.arange(CLASSES).float()},
}  # fmt: skip


@pytest.mark.parametrize("kind", TOWERS)
def test_a_tower_comes_with_its_head(kind, model, tensors, tmp_path):
    torch.save(TOWERS[kind](tensors), tmp_path / "theirs.pt")
    found = checkpoint.read(tmp_path / "theirs.pt", NAME, model)
    assert found.kind == "tower" and found.normalise is None
    assert torch.equal(found.head, head_of(tensors))
    assert (found.bias is None) == (kind == "flyp")
    assert found.tensors.keys() == {key for key in tensors if key.startswith("visual.")}
    assert all(torch.equal(found.tensors[key], tensors[key]) for key in found.tensors)
    if kind == "wise-ft":
        assert "head <- classification_head.weight: 5 classes" in found.renamed
        assert any("of its text tower are not used" in line for line in found.renamed)


def test_what_a_file_says_of_its_head_is_taken(model, tensors, tmp_path):
    path = tmp_path / "final.safetensors"
    meta = {"meta": json.dumps({"backbone": NAME, "normalise": "false"}), "class_names": json.dumps(list("abcde"))}
    save_file({k: v.contiguous() for k, v in TOWERS["ours"](tensors).items()}, path, meta)
    found = checkpoint.read(path, NAME, model)
    assert found.normalise is False and found.class_names == tuple("abcde")
    save_file({k: v.contiguous() for k, v in TOWERS["ours"](tensors).items()}, path,
              {"meta": json.dumps({"backbone": "RN50"})})  # fmt: skip
    with pytest.raises(BackboneError, match="was made with RN50, got --backbone ViT-B-16"):
        checkpoint.read(path, NAME, model)


def lora(t):
    return {**t, **{f"base_model.model.visual.q.lora_{one}.default.weight": torch.ones(4, 4) for one in "AB"}}


def without(t, *starts):
    return {k: v for k, v in t.items() if not k.startswith(starts)}


REFUSED = {
    "lora": (lora, r"LoRA that is not merged, as 'base_model.+lora_A.*merge_and_unload"),
    "adapter alone": (lambda t: {"lora_A.weight": torch.ones(2, 2)}, "LoRA that is not merged"),
    "no first layer": (lambda t: without(t, "visual.conv1"), "has others of one, but lacks visual.conv1.weight"),
    "tower alone": (lambda t: {k: v for k, v in t.items() if k.startswith("visual.")}, r"lacks \d+ of.*with its head"),
    "tower with a part of it missing": (
        lambda t: without(wise_ft(t), "image_encoder.model.visual.ln_post"),
        r"lacks 2 of the \d+ tensors of ViT-B-16, as 'visual.ln_post.weight', 'visual.ln_post.bias'",
    ),
    "foreign": (lambda t: {**t, **{f"loss.{i}": torch.ones(1) for i in range(4)}},
                r"has 4 tensors that ViT-B-16 has not, as 'loss.0', 'loss.1', 'loss.2';"),
    "two models": (lambda t: {**named("student.", t), **named("teacher.", t)},
                   "holds 2 models, under 'student.', 'teacher.'"),
    "model and ema": (lambda t: {"model": t, "ema": t}, "holds 2 models, under 'model:', 'ema:'"),
    "two heads": (lambda t: {**wise_ft(t), "probe.weight": head_of(t)}, "has 3 tensors that"),
    "other shapes": (lambda t: {**t, "visual.ln_pre.weight": torch.ones(3), "visual.ln_pre.bias": torch.ones(3)},
                     r"2 tensors have other shapes.*visual.ln_pre.weight \[3\] for \[64\], visual.ln_pre.bias"),
    "no clip": (lambda t: {"encoder.weight": torch.ones(2)}, "its names begin with 'encoder.weight'"),
    "nothing": (lambda t: {"epoch": 1}, "it holds no tensors with names"),
    "not finite": (lambda t: {**t, "visual.proj": t["visual.proj"] * torch.nan}, "'visual.proj' hold values that"),
    "head not finite": (lambda t: {**wise_ft(t), "classification_head.bias": torch.full((CLASSES,), torch.inf)},
                        "'head.bias' hold values that are no"),
    "scale": (lambda t: {**t, "logit_scale": torch.tensor(100.0)}, "must be a logarithm"),
    "pickled module": (lambda t: argparse.Namespace(model=1), r"is a pickle that names argparse.Namespace.*python -c"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_with_its_names(kind, model, tensors, tmp_path):
    make, words = REFUSED[kind]
    torch.save(make(tensors), tmp_path / "theirs.pt")
    with pytest.raises(BackboneError, match=words) as refused:
        checkpoint.read(tmp_path / "theirs.pt", NAME, model)
    assert str(refused.value).isprintable() and str(tmp_path) in str(refused.value)


@pytest.mark.programs
def test_the_printed_line_converts_a_pickled_module(model, tensors, tmp_path):
    """The very line is run, as a user would where the classes are; the file that it makes is taken."""
    import subprocess
    import sys

    (tmp_path / "modeling.py").write_text("import torch\nclass ImageClassifier(torch.nn.Module):\n    pass\n")
    code = (
        "import sys, torch, modeling\n"
        "made = modeling.ImageClassifier()\n"
        "for name, tensor in torch.load('state.pt', weights_only=True).items():\n"
        "    *parents, last = name.split('.')\n"
        "    at = made\n"
        "    for part in parents:\n"
        "        if not hasattr(at, part): at.add_module(part, torch.nn.Module())\n"
        "        at = getattr(at, part)\n"
        "    at.register_buffer(last, tensor)\n"
        "torch.save(made, 'their model.pt')\n"
    )
    torch.save(wise_ft(tensors), tmp_path / "state.pt")
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    with pytest.raises(BackboneError, match=r"is a pickle that names modeling.ImageClassifier") as refused:
        checkpoint.read(tmp_path / "their model.pt", NAME, model)
    line = re.search(r"(python -c .*\.safetensors'?) and evaluate", str(refused.value)).group(1)
    subprocess.run(line.replace("python", sys.executable, 1), shell=True, cwd=tmp_path, check=True)
    found = checkpoint.read(tmp_path / "their model.safetensors", NAME, model)
    assert found.kind == "tower" and torch.equal(found.head, head_of(tensors))


def test_positions_of_another_resolution_are_resampled_on_request_alone(tensors, tmp_path):
    from open_clip.model import resize_pos_embed

    larger = clip.untrained(NAME, vision={**VISION, "image_size": 48}, text=TEXT).clip
    torch.save(tensors, tmp_path / "theirs.pt")
    with pytest.raises(BackboneError, match=r"of 4x4 patches, got ViT-B-16 with 6x6.*--resample-positions"):
        checkpoint.read(tmp_path / "theirs.pt", NAME, larger)
    found = checkpoint.read(tmp_path / "theirs.pt", NAME, larger, resample=True)
    wanted = dict(tensors)
    resize_pos_embed(wanted, larger)
    assert found.resampled == "4x4 to 6x6"
    assert all(torch.equal(found.tensors[key], wanted[key]) for key in wanted)
    assert checkpoint.read(tmp_path / "theirs.pt", NAME, clip.untrained(NAME, vision=VISION, text=TEXT).clip,
                           resample=True).resampled is None  # fmt: skip


def test_a_folder_of_hugging_face_or_of_a_run_is_its_file(model, tensors, tmp_path):
    with pytest.raises(BackboneError, match="is a folder without model.safetensors"):
        checkpoint.file_of(tmp_path, NAME)
    save_file({k: v.contiguous() for k, v in face(tensors).items()}, tmp_path / "model.safetensors")
    assert checkpoint.file_of(tmp_path, NAME) == tmp_path / "model.safetensors"
