"""The bundled backbones: what they are, what they score, and that short text is exact."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from repository import golden
from torch.nn.functional import normalize

from robustft import backbones
from robustft.backbones import tiny, zero_shot
from robustft.backbones.registered import PRETRAINED_ON_GLYPHS
from robustft.backbones.zero_shot import average_prompts, build_head, tokens_of
from robustft.datasets import digits
from robustft.datasets.catalogue import get
from robustft.datasets.loaders import eval_batches

pytestmark = pytest.mark.computes

FOLDER = Path(digits.__file__).parent
CARD = {name: entry for file in ("digits_card.json", "glyphs_card.json") for name, entry in
        json.loads((FOLDER / file).read_text()).items()}  # fmt: skip
BUNDLED = list(tiny.VISION)
DATA_OF = {"glyph-vit-grey": "forgetting", "glyph-.*-dev": "glyphs_development", "glyph-": "glyphs", "tiny-": "digits"}
GOLDEN = golden("zero_shot_head.json")


def test_the_bundled_files_are_small():
    glyphs = sum(tiny.weights_file(name).stat().st_size for name in PRETRAINED_ON_GLYPHS)
    assert glyphs < 9_000_000 and sum(path.stat().st_size for path in tiny.FOLDER.iterdir()) - glyphs < 6_500_000


@pytest.mark.parametrize("name", BUNDLED)
def test_weights_are_those_of_the_card_and_zero_shot_numbers_too(name):
    """The file's hash, and accuracy on validation to the image: the card's numbers are of these weights."""
    torch.set_num_threads(1)
    data = get(next(of for start, of in DATA_OF.items() if re.match(start, name)))
    listed = CARD[data.card.name]["backbones"][name]
    assert backbones.weights_id(name) == listed["weights"]
    encoder = backbones.load(name)
    head = build_head(encoder, data.card.class_names, data.card.prompts)
    data_set, hits = data.eval_data("validation"), 0
    with torch.no_grad():
        for _, images, labels in eval_batches(data_set, 400):
            logits = normalize(encoder.image_features(images), dim=-1) @ head.T
            hits += (logits.argmax(1) == labels).sum().item()
    assert hits / len(data_set) == pytest.approx(listed["zero_shot"]["validation"], abs=2.5 / len(data_set))


@pytest.mark.parametrize("name", BUNDLED)
def test_a_text_cut_after_its_end_has_the_embedding_of_the_full_context(name):
    encoder = backbones.load(name)
    texts = ["the digit seven", "a photo of the number three"]
    full = encoder.tokenizer(texts)
    short = encoder.tokenize(texts)
    assert full.shape[1] == tiny.CONTEXT > short.shape[1] == int(full.argmax(1).max()) + 1
    with torch.no_grad():
        assert torch.allclose(encoder.text_features(short), encoder.clip.encode_text(full), atol=2e-5)


@pytest.mark.parametrize("name", BUNDLED)
def test_save_and_load_keep_the_embeddings(name, tmp_path):
    encoder, images = backbones.load(name), get("digits").eval_data("id").images(0, 4)
    shutil.copy(tiny.weights_file(name), tmp_path / "copy.safetensors")
    again = backbones.load(name, tmp_path / "copy.safetensors")
    with torch.no_grad():
        assert torch.equal(encoder.image_features(images), again.image_features(images))


def test_what_is_done_to_one_load_no_other_sees():
    """The bundled weights are read once a process."""
    first = backbones.load("tiny-vit-p16")
    kept = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    with torch.no_grad():
        for tensor in first.state_dict().values():
            tensor.zero_()
    tiny._shipped.cache_clear()
    before = torch.get_rng_state()
    for _ in range(2):
        again = backbones.load("tiny-vit-p16")
        assert torch.equal(torch.get_rng_state(), before) and not again.training
        assert all(torch.equal(tensor, kept[name]) for name, tensor in again.state_dict().items())
        assert all(p.requires_grad for p in again.parameters())
        with torch.no_grad():
            again.text_projection.zero_()


def test_projections_are_the_last_layer_of_each_tower():
    vit, resnet = backbones.load("tiny-vit-p8"), backbones.load("tiny-rn")
    assert vit.image_projection.shape == (96, 64) and resnet.image_projection.shape == (384, 64)
    assert vit.text_projection.shape == resnet.text_projection.shape == (64, 64)
    assert resnet.image_projection.data_ptr() == resnet.clip.visual.attnpool.c_proj.weight.data_ptr()
    for encoder in (vit, resnet):
        towers = [*encoder.image_parameters(), *encoder.text_parameters(), encoder.clip.logit_scale]
        assert {id(p) for p in towers} == {id(p) for p in encoder.parameters()}
        assert len(towers) == len(list(encoder.parameters()))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: f"{c['classes']}x{c['templates']}")
def test_head_matches_the_reference(case):
    embeddings = torch.tensor(case["text_embeddings"], dtype=torch.float64)
    scale = torch.tensor(case["log_logit_scale"], dtype=torch.float64).exp()
    weight = average_prompts(embeddings, scale)
    expected = torch.tensor(case["independent_float64"]["weight"], dtype=torch.float64)
    assert torch.allclose(weight, expected, rtol=0, atol=1e-12 * scale.item())
    images = normalize(torch.tensor(case["image_features"], dtype=torch.float64), dim=-1)
    logits = torch.tensor(case["independent_float64"]["logits"], dtype=torch.float64)
    assert torch.allclose(images @ weight.T, logits, rtol=0, atol=1e-12 * scale.item())
    single = average_prompts(embeddings.float(), scale.float())
    if "weight" in case["reference_code"]:  # the released code cannot build a head of one class
        released = torch.tensor(case["reference_code"]["weight"])
        assert torch.allclose(single, released, rtol=0, atol=1e-6 * scale.item())
        released = torch.tensor(case["reference_code"]["logits"])
        assert torch.allclose(images.float() @ single.T, released, rtol=0, atol=1e-6 * scale.item())
    else:
        assert case["classes"] == 1


def test_head_has_unit_rows_times_the_scale_and_restores_the_mode():
    encoder = backbones.load("tiny-vit-p8").train()
    head = build_head(encoder, digits.CLASS_NAMES, digits.PROMPTS)
    one_by_one = torch.cat([build_head(encoder, [name], digits.PROMPTS, batch_size=3) for name in digits.CLASS_NAMES])
    assert head.shape == (10, 64) and encoder.training and not head.requires_grad
    assert torch.allclose(head.norm(dim=1), encoder.logit_scale.detach().expand(10), rtol=1e-5)
    assert torch.allclose(head, one_by_one, atol=1e-4)
    encoder.clip.ln_final = torch.nn.Sequential(encoder.clip.ln_final, torch.nn.Dropout(0.5))  # as in LoRA
    for size in (1024, 3):  # both ways of building it run the text tower as it is evaluated
        again = build_head(encoder, digits.CLASS_NAMES, digits.PROMPTS, batch_size=size)
        assert torch.allclose(again, head, atol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 7, 11])
def test_a_head_in_small_batches_is_the_head_in_one(batch_size):
    """Names of one and of many words, equal ones, one name that begins as another, templates without a beginning."""
    encoder = backbones.load("tiny-vit-p8")
    names = ["two", "a red two", "two", "the digit seven in blue", "seven"]
    prompts = ["{}", "a photo of {}", "a photo of the {} in red", "{} in blue"]
    whole = build_head(encoder, names, prompts)
    assert torch.allclose(build_head(encoder, names, prompts, batch_size), whole, rtol=1e-4, atol=1e-4)
    alone = build_head(encoder, names[3:4], prompts, batch_size)  # all of a caption is its template's beginning
    assert torch.allclose(alone, whole[3:4], rtol=1e-4, atol=1e-4)


class Counted:
    """A tokenizer that counts its calls."""

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, 0

    def __call__(self, texts):
        self.calls += 1
        return self.tokenizer(texts)


class Unhashable(Counted):
    __hash__ = None


def test_the_same_texts_are_tokenised_once_a_process(monkeypatch):
    monkeypatch.setattr(zero_shot, "_tokens", {})
    first, second = backbones.load("tiny-vit-p8"), backbones.load("tiny-vit-p16")
    names, prompts = ["two", "seven"], ["{}", "a photo of the {}"]
    plain = first.tokenize([prompt.format(name) for name in names for prompt in prompts]).view(2, 2, -1)
    first.tokenizer = second.tokenizer = counted = Counted(first.tokenizer)
    found = tokens_of(first, names, prompts)
    assert torch.equal(found, plain)
    found.zero_()  # the caller's own
    assert torch.equal(tokens_of(second, tuple(names), tuple(prompts)), plain) and counted.calls == 1
    assert tokens_of(first, names, ["{}"]).shape[1] == 1 and counted.calls == 2
    assert tokens_of(first, ["seven", "two"], prompts).tolist() == plain.flip(0).tolist() and counted.calls == 3
    monkeypatch.setattr(type(second), "cuts_text", False)
    whole = tokens_of(second, ["seven", "two"], prompts)
    assert whole.shape[2] == second.clip.context_length > plain.shape[2] and counted.calls == 4
    assert len(zero_shot._tokens) == zero_shot.TOKENS_KEPT


@pytest.mark.parametrize("kind", [Counted, Unhashable])
def test_another_tokenizer_has_tokens_of_its_own(kind):
    encoder = backbones.load("tiny-vit-p8")
    plain = encoder.tokenizer
    for offset in range(2):
        encoder.tokenizer = kind(lambda texts, offset=offset: plain(texts) + offset)
        assert torch.equal(tokens_of(encoder, ["two"], ["{}"])[0], encoder.tokenize(["two"]))
        assert encoder.tokenizer.calls == 2


@pytest.mark.parametrize(("names", "prompts"), [([], ["{}"]), (["two"], [])])
def test_a_head_of_nothing_is_refused(names, prompts):
    with pytest.raises(ValueError, match="needs names and prompts, got"):
        build_head(backbones.load("tiny-vit-p8"), names, prompts)


@pytest.mark.parametrize("batch_size", [4, 1024])
def test_a_head_in_float64_is_open_clips_own_caption_by_caption(batch_size):
    encoder = backbones.load("tiny-vit-p8").double()
    names, prompts = ["two", "the digit seven in blue", "seven"], ["{}", "a photo of the {} in red"]
    expected = []
    for name in names:
        unit = []
        for prompt in prompts:
            tokens = encoder.tokenize([prompt.format(name)])
            padded = torch.zeros(1, encoder.clip.context_length, dtype=torch.long)
            padded[:, : tokens.shape[1]] = tokens
            embedding = encoder.clip.encode_text(padded)[0]
            unit.append(embedding / embedding.norm())
        mean = torch.stack(unit).mean(dim=0)
        expected.append(encoder.clip.logit_scale.exp() * mean / mean.norm())
    head = build_head(encoder, names, prompts, batch_size)
    torch.testing.assert_close(head, torch.stack(expected), rtol=0, atol=1e-11)


def test_names_forgive_dashes_and_errors_say_what_to_do(tmp_path, monkeypatch):
    assert backbones.load("tiny_vit_p8").name == "tiny-vit-p8"
    with pytest.raises(backbones.BackboneError, match="did you mean 'tiny-vit-p8'"):
        backbones.load("tiny-vit-p9")
    damaged = tmp_path / "half.safetensors"
    damaged.write_bytes(tiny.weights_file("tiny-rn").read_bytes()[:5000])
    with pytest.raises(backbones.BackboneError, match="damaged weights at .*half.safetensors"):
        backbones.load("tiny-rn", damaged)
    flipped = tmp_path / "flipped.safetensors"
    content = bytearray(tiny.weights_file("tiny-rn").read_bytes())
    content[-100] ^= 1
    flipped.write_bytes(content)
    monkeypatch.setattr(tiny, "weights_file", lambda name: flipped)
    for use in (backbones.load, backbones.weights_id):
        with pytest.raises(backbones.BackboneError, match="damaged weights at .*flipped.safetensors .*must be sha256:"):
            use("tiny-rn")
    monkeypatch.undo()
    with pytest.raises(backbones.BackboneError, match="no weights at .*none.safetensors"):
        backbones.load("tiny-rn", tmp_path / "none.safetensors")
    with pytest.raises(backbones.BackboneError, match="holds weights of another architecture"):
        backbones.load("tiny-rn", tiny.weights_file("tiny-vit-p8"))


def test_scratch_backbones_are_random_but_always_the_same():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = backbones.load("tiny-rn-scratch")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    b = backbones.load("tiny-rn-scratch")
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert backbones.weights_id("tiny-rn-scratch") == "random"


def test_float32_is_not_rounded_in_convolutions_on_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    backbones.load("tiny-rn")
    assert torch.backends.cudnn.allow_tf32 is False
