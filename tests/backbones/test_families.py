"""Every family of open_clip that is a backbone here, small and with random weights: it has open_clip's numbers."""

import pytest
import torch
from families_kit import FAMILIES, PADDED, encoder, images, write_tokenizer
from torch import nn
from torch.nn.functional import normalize

from robustft.backbones import architectures, zero_shot

TEXTS = ["a photo of a cat.", "A Sketch of the great-white_shark!", "bee"]
BARE = {"siglip", "siglip2", "siglip_i18n"}
"""Families whose image tower ends in no projection."""


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return {
        family: write_tokenizer(tmp_path_factory.mktemp(family), *ids) if ids[1] < 100 else
        write_tokenizer(tmp_path_factory.mktemp(family), ids[0], 100)
        for family, ids in PADDED.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def made(tokens):
    """Family -> its encoder, which tests only read."""
    found = {}

    def get(family):
        if family not in found:
            found[family] = encoder(family, tokens.get(family))
        return found[family]

    return get


def whole_context(made, texts):
    """Token ids as open_clip's own tokenizer gives them, all columns."""
    return made.tokenizer(texts)


def test_every_installed_configuration_is_in_a_tier():
    """Reads all of them: a new open_clip may bring models that are others, and this says which."""
    import open_clip

    found = {}
    for model in open_clip.list_models():
        one = architectures.classify(model, open_clip.get_model_config(model))
        found.setdefault(one.tier, {})[model] = one
        assert bool(one.foreign) == (one.tier == "C") and one.image_size > 0
    assert {tier: len(models) for tier, models in found.items()} == {"A": 85, "B": 46, "C": 13}
    assert all("CoCa" in one.foreign or "transformers" in one.foreign for one in found["C"].values())
    sigmoid = {model for tier in "AB" for model, one in found[tier].items() if one.sigmoid}
    assert sigmoid == {model for model in found["B"] if "SigLIP" in model} and len(sigmoid) == 26
    assert {model for model in found["B"] if found["B"][model].clip_tokens} == {
        model for model in found["B"] if model.startswith("MobileCLIP")
    }


def test_what_is_not_known_is_refused_by_its_name():
    import open_clip

    plain = open_clip.get_model_config("ViT-B-32")
    for change, words in [
        ({"text_cfg": plain["text_cfg"] | {"pool_type": "first"}}, "text_cfg.pool_type 'first'"),
        ({"text_cfg": plain["text_cfg"] | {"embed_cls": True}}, "text_cfg.embed_cls"),
        ({"text_cfg": plain["text_cfg"] | {"tokenizer_kwargs": {"trust_remote_code": True}}}, "trust_remote_code"),
        ({"text_cfg": plain["text_cfg"] | {"mixture": 8}}, "text_cfg.mixture"),
        ({"vision_cfg": plain["vision_cfg"] | {"image_size": [224, 112]}}, "which are no squares"),
        ({"nonscalar_logit_scale": True}, "nonscalar_logit_scale"),
    ]:
        found = architectures.classify("other", plain | change)
        assert found.tier == "C" and words in found.foreign


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_those_of_open_clip(family, made):
    model = made(family)
    pixels = images(model)
    short, full = model.tokenize(TEXTS), whole_context(model, TEXTS)
    assert full.shape[1] == model.clip.context_length
    assert (short.shape[1] < full.shape[1]) == model.cuts_text
    with torch.no_grad():
        image, text = model.image_features(pixels), model.text_features(short)
        mean, std = (torch.tensor(x).view(3, 1, 1) for x in (model.mean, model.std))
        torch.testing.assert_close(image, model.clip.encode_image((pixels / 255 - mean) / std), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(text, model.clip.encode_text(full), rtol=1e-5, atol=1e-5)
    assert image.shape == text.shape == (3, model.embed_dim)
    assert (text[0] - text[2]).abs().max() > 1e-3 and (image[0] - image[1]).abs().max() > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_has_the_logits_of_open_clips_zero_shot_code(family, made, monkeypatch):
    from open_clip import build_zero_shot_classifier

    model, names, prompts = (
        made(family),
        ["cat", "dog", "great white shark"],
        ["a photo of a {}.", "a sketch of the {}"],
    )
    theirs = build_zero_shot_classifier(model.clip, model.tokenizer, names, prompts, 2)
    with torch.no_grad():
        features = normalize(model.image_features(images(model)), dim=-1)
        scale = model.logit_scale
        for batch_size in (1024, 4):  # at once, and in parts
            head = zero_shot.build_head(model, names, prompts, batch_size)
            torch.testing.assert_close(features @ head.T, scale * features @ theirs, rtol=1e-4, atol=1e-4)
            # a bias that all classes share changes no softmax
            if model.logit_bias is not None:
                biased = (features @ head.T + model.logit_bias).softmax(1)
                torch.testing.assert_close(biased, (features @ head.T).softmax(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_parts_add_up(family, made):
    model = made(family)
    image, text, logit = model.image_parameters(), model.text_parameters(), model.logit_parameters()
    assert {id(p) for p in (*image, *text, *logit)} == {id(p) for p in model.parameters()}
    assert len(image) + len(text) + len(logit) == len(list(model.parameters()))
    traits = model.traits()
    assert traits.sigmoid == (len(logit) == 2) == (family in BARE)
    assert traits.image_projection == (family not in BARE) and traits.text_projection == (family != "siglip_i18n")
    if traits.image_projection:
        assert model.image_projection.shape[1] == model.embed_dim
        assert any(model.image_projection.data_ptr() == p.data_ptr() for p in image)
    if traits.text_projection:
        assert model.text_projection.shape[1] == model.embed_dim
    stochastic = [m for m in model.modules() if isinstance(m, nn.Dropout) and m.p or type(m).__name__ == "DropPath"]
    assert not stochastic, "the loss of a batch would depend on how it is cut"


def test_a_text_tower_that_reads_padding_is_given_no_less(made):
    model = made("siglip2")
    with pytest.raises(ValueError, match="ViT-B-32-SigLIP2-256:webli reads all 64 columns, got 10"):
        model.text_features(model.tokenize(["a cat"])[:, :10])
