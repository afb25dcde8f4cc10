"""The layout of Hugging Face's CLIPModel: names, shapes, and the arithmetic that its code does with them.

transformers is not installed here; `forward` below is what its CLIP computes, written out. Against transformers 5.24
itself the same files gave image and text features to 1e-6, and the same token ids.
"""

import json

import pytest
import torch
from safetensors.torch import load_file, save
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention

from robustft import backbones
from robustft.backbones import clip, to_huggingface

TEXTS = ["a photo of the digit seven.", "a red zero", "two"]


def small(name):
    return clip.untrained(name, vision={"layers": 2}, text={"layers": 2})


MODELS = {
    "tiny-vit-p8": lambda: backbones.load("tiny-vit-p8"),  # the ordinary GELU
    "ViT-B-16": lambda: small("ViT-B-16"),  # QuickGELU
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    """An encoder, and what is written of it."""
    encoder, folder = MODELS[request.param](), tmp_path_factory.mktemp("layout")
    to_huggingface.write(encoder, folder, lambda tensors: save(dict(tensors), {"format": "pt"}))
    return encoder, folder


def read(folder, name="config.json"):
    return json.loads((folder / name).read_text())


ACTIVATIONS = {"gelu": gelu, "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x)}


def blocks(x, state, prefix, config, causal):
    act, heads = ACTIVATIONS[config["hidden_act"]], config["num_attention_heads"]

    def norm(x, name):
        return layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], config["layer_norm_eps"])

    def dense(x, name):
        return linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for i in range(config["num_hidden_layers"]):
        at = f"{prefix}.encoder.layers.{i}"
        seen = norm(x, f"{at}.layer_norm1")
        parts = [
            dense(seen, f"{at}.self_attn.{letter}_proj").unflatten(-1, (heads, -1)).transpose(1, 2) for letter in "qkv"
        ]
        seen = scaled_dot_product_attention(*parts, is_causal=causal).transpose(1, 2).flatten(2)
        x = x + dense(seen, f"{at}.self_attn.out_proj")
        x = x + dense(act(dense(norm(x, f"{at}.layer_norm2"), f"{at}.mlp.fc1")), f"{at}.mlp.fc2")
    return x, norm


def image_features(state, config, pixels):
    vision = config["vision_config"]
    kernel = state["vision_model.embeddings.patch_embedding.weight"]
    patches = torch.conv2d(pixels, kernel, stride=vision["patch_size"]).flatten(2).transpose(1, 2)
    first = state["vision_model.embeddings.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches], dim=1) + state["vision_model.embeddings.position_embedding.weight"]
    name = "vision_model.pre_layrnorm"
    x = layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], vision["layer_norm_eps"])
    x, norm = blocks(x, state, "vision_model", vision, causal=False)
    return linear(norm(x[:, 0], "vision_model.post_layernorm"), state["visual_projection.weight"])


def text_features(state, config, tokens):
    text = config["text_config"]
    x = state["text_model.embeddings.token_embedding.weight"][tokens]
    x = x + state["text_model.embeddings.position_embedding.weight"][: tokens.shape[1]]
    x, norm = blocks(x, state, "text_model", text, causal=True)
    assert text["eos_token_id"] != 2  # that number would mean: read at the largest id
    ends = (tokens == text["eos_token_id"]).int().argmax(dim=-1)
    x = norm(x, "text_model.final_layer_norm")[torch.arange(len(x)), ends]
    return linear(x, state["text_projection.weight"])


def apart(found, wanted):
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@torch.no_grad()
def test_their_arithmetic_gives_the_same_features(model):
    encoder, folder = model
    state, config = load_file(folder / "model.safetensors"), read(folder)
    pixels = torch.randn(2, 3, encoder.image_size, encoder.image_size, generator=torch.Generator().manual_seed(0))
    assert apart(image_features(state, config, pixels), encoder.image_features(pixels)) < 1e-5
    tokens = encoder.tokenizer(TEXTS)
    assert apart(text_features(state, config, tokens), encoder.clip.encode_text(tokens)) < 1e-5
    assert state["logit_scale"] == encoder.clip.logit_scale
    padded = torch.where(tokens == 0, config["text_config"]["pad_token_id"], tokens)  # as their tokenizer pads
    assert apart(text_features(state, config, padded), encoder.clip.encode_text(tokens)) < 1e-5


def test_the_configuration_says_what_the_weights_are(model):
    encoder, folder = model
    config, state = read(folder), load_file(folder / "model.safetensors")
    assert config["architectures"] == ["CLIPModel"] and config["model_type"] == "clip"
    quick = encoder.name == "ViT-B-16"
    assert {config[f"{tower}_config"]["hidden_act"] for tower in ("text", "vision")} == {
        "quick_gelu" if quick else "gelu"
    }
    text, vision = config["text_config"], config["vision_config"]
    assert state["text_model.embeddings.token_embedding.weight"].shape == (text["vocab_size"], text["hidden_size"])
    rows = (vision["image_size"] // vision["patch_size"]) ** 2 + 1
    assert state["vision_model.embeddings.position_embedding.weight"].shape == (rows, vision["hidden_size"])
    assert state["visual_projection.weight"].shape == (config["projection_dim"], vision["hidden_size"])
    assert state["text_model.encoder.layers.1.mlp.fc1.weight"].shape == (text["intermediate_size"], text["hidden_size"])
    assert not [name for name in state if "in_proj" in name or name.startswith(("visual.", "transformer."))]
    if quick:  # openai/clip-vit-base-patch16 has these
        assert text["eos_token_id"] == 49407 and text["max_position_embeddings"] == 77
        assert (vision["num_attention_heads"], text["num_attention_heads"]) == (12, 8)


def test_their_tokenizer_has_the_same_vocabulary(model):
    encoder, folder = model
    vocabulary, config = read(folder, "vocab.json"), read(folder)["text_config"]
    assert len(vocabulary) == config["vocab_size"] and sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert vocabulary["<|endoftext|>"] == config["eos_token_id"]
    assert vocabulary["<|startoftext|>"] == config["bos_token_id"]
    merges = (folder / "merges.txt").read_text().splitlines()[1:]
    assert len(merges) == len(vocabulary) - 514 and all("".join(pair.split(" ")) in vocabulary for pair in merges)
    pixels = read(folder, "preprocessor_config.json")
    assert pixels["image_mean"] == list(encoder.mean) and pixels["size"] == {"shortest_edge": encoder.image_size}


def test_what_clipmodel_cannot_compute_is_refused_by_name(monkeypatch):
    def refused(encoder):
        with pytest.raises(backbones.BackboneError) as error:
            to_huggingface.tensors(encoder)
        return str(error.value)

    said = refused(backbones.load("tiny-rn"))
    assert said.startswith("huggingface: tiny-rn does not fit CLIPModel: its image tower is a ModifiedResNet, and")
    encoder = backbones.load("tiny-vit-p8")
    encoder.clip.attn_mask = None
    assert "its text tower is not causal" in refused(encoder)
    encoder = backbones.load("tiny-vit-p8")
    encoder.clip.visual.ln_pre = torch.nn.Identity()
    assert "its image tower normalises in other places" in refused(encoder)
    encoder = backbones.load("tiny-vit-p8")
    encoder.clip.transformer.resblocks[0].mlp.gelu = torch.nn.ReLU()
    assert "its activation is GELU and ReLU" in refused(encoder)
