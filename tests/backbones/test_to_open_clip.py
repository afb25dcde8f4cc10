"""A trained encoder of every family as a folder: open_clip alone reads the same model out of it, and so does a run."""

import json

import numpy as np
import open_clip
import pytest
import torch
from families_kit import FAMILIES, PADDED, encoder, small, write_tokenizer
from PIL import Image

from robustft import backbones
from robustft.backbones import places, registered, to_huggingface, to_open_clip
from robustft.benchmarks.commands import export
from robustft.datasets.decoding import eval_view

TEXTS = ["a photo of a cat.", "A Sketch of the great-white_shark!", "bee"]


def test_what_a_plug_in_builds_has_no_configuration(tmp_path, monkeypatch):
    made = encoder("openai_vit")
    made.name = "theirs"
    monkeypatch.setitem(registered.BROUGHT, "theirs", registered.Brought(lambda: made, None))
    with pytest.raises(backbones.BackboneError, match="theirs is built by a plug-in, .*; export it with --to huggingf"):
        to_open_clip.write(made, tmp_path, export._save)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_open_clip_and_a_run_read_what_was_written(family, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "_known", {})
    pad, end = PADDED.get(family, (0, 0))
    tokens = write_tokenizer(tmp_path / "tokens", pad, min(end, 100)) if family in PADDED else None
    wanted, folder = encoder(family, tokens), tmp_path / family
    folder.mkdir()
    with torch.no_grad():
        for parameter in wanted.logit_parameters():
            parameter += 0.25
    where = f"local-dir:{folder}"
    with small(family, family in PADDED):  # all the while: timm's towers are small in here alone
        to_open_clip.write(wanted, folder, export._save)
        theirs, transform = open_clip.create_model_from_pretrained(where, device="cpu")
        again = backbones.load(where)
    tokenize = open_clip.get_tokenizer(where)

    image = Image.effect_noise((70, 41), 80).convert("RGB")
    view = torch.from_numpy(eval_view(np.array(image), wanted.image_size, "it", "exact", wanted.resizing).copy())[None]
    pixels = transform(image)[None]
    torch.testing.assert_close(wanted.pixels(view), pixels, rtol=0, atol=1e-5)
    short, full = wanted.tokenize(TEXTS), tokenize(TEXTS)
    assert torch.equal(short, full[:, : short.shape[1]]) and torch.equal(again.tokenize(TEXTS), short)
    assert again.resizing == wanted.resizing and (again.mean, again.std) == (wanted.mean, wanted.std)
    with torch.no_grad():
        close = {"rtol": 1e-5, "atol": 1e-5}
        torch.testing.assert_close(theirs.eval().encode_image(pixels), wanted.image_features(view), **close)
        torch.testing.assert_close(theirs.encode_text(full), wanted.text_features(short), **close)
        torch.testing.assert_close(again.image_features(view), wanted.image_features(view), rtol=0, atol=0)
        torch.testing.assert_close(again.text_features(short), wanted.text_features(short), rtol=0, atol=0)
    for model in (theirs, again.clip):
        assert torch.equal(model.logit_scale, wanted.clip.logit_scale)
        assert (model.logit_bias is None) == (wanted.logit_bias is None)
        assert model.logit_bias is None or torch.equal(model.logit_bias, wanted.logit_bias)
    said = json.loads((folder / to_open_clip.CONFIG).read_text())["preprocess_cfg"]
    assert (said["resize_mode"], said["interpolation"]) == wanted.resizing


@pytest.mark.parametrize("layout", [to_open_clip, to_huggingface])
def test_a_tower_whose_patches_are_made_by_convolutions_has_no_layout_of_others(layout):
    encoder = backbones.empty("glyph-vit-deep-dev")
    assert encoder.visual.conv1(torch.zeros(2, 3, 32, 32)).shape == (2, 80, 4, 4)  # as patches of 8 would be
    with pytest.raises(backbones.BackboneError, match="convolutions make the patches of glyph-vit-deep-dev"):
        layout.config(encoder)
