"""The real CLIP backbones: shapes of the true configurations, short text, activation, weights files; no network."""

import hashlib
import subprocess
import sys
import warnings

import pytest
import torch
from safetensors.torch import save as tensor_bytes
from safetensors.torch import save_file
from torch import nn

from robustft import backbones
from robustft.backbones import BackboneError, clip
from robustft.backbones.encoder import PIXEL_MEAN, PIXEL_STD

pytestmark = pytest.mark.filterwarnings("ignore:backbone .* not those that OpenAI gave out")  # these are random
REAL = list(clip.OPENAI)
# Of the released models: total, visual, D, image width, text width, heads, layers
SHAPES = {
    "RN50": (102_007_137, 38_316_896, 1024, 2048, 512, 8, 12),
    "ViT-B-16": (149_620_737, 86_192_640, 512, 768, 512, 8, 12),
    "ViT-L-14": (427_616_513, 303_966_208, 768, 1024, 768, 12, 12),
}
SMALL = {  # the true tokenizer and context; depth, width and image cut
    "RN50": {"vision": {"layers": [1, 1, 1, 1], "width": 16, "image_size": 64}, "text": {"layers": 2, "width": 64}},
    "ViT-B-16": {"vision": {"layers": 2, "width": 128, "image_size": 32}, "text": {"layers": 2, "width": 64}},
    "ViT-L-14": {"vision": {"layers": 2, "width": 128, "image_size": 28}, "text": {"layers": 2, "width": 96}},
}


def small(name):
    return clip.untrained(name, **SMALL[name])


def images(encoder, count=2):
    generator = torch.Generator().manual_seed(0)
    shape = (count, 3, encoder.image_size, encoder.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.fixture
def shrunken(monkeypatch):
    """`load` builds the small architecture: the weights of the true one take seconds to draw."""
    whole = clip.build
    monkeypatch.setattr(clip, "build", lambda name, **_: whole(name, **SMALL[name]))


# architecture


@pytest.mark.parametrize("name", REAL)
def test_counts_and_projections_are_those_of_the_papers_models(name):
    with torch.device("meta"):
        encoder = clip.untrained(name)
    total, visual, dim, image_width, text_width, heads, layers = SHAPES[name]
    count = {key: sum(p.numel() for p in tower) for key, tower in [
        ("total", encoder.parameters()),
        ("visual", encoder.image_parameters()),
        ("text", [*encoder.text_parameters(), encoder.clip.logit_scale]),
    ]}  # fmt: skip
    assert count == {"total": total, "visual": visual, "text": total - visual}
    assert encoder.embed_dim == dim and encoder.image_size == backbones.image_size(name) == 224
    assert encoder.image_projection.shape == (image_width, dim)
    assert encoder.text_projection.shape == (text_width, dim)
    blocks = encoder.clip.transformer.resblocks
    assert len(blocks) == layers and {block.attn.num_heads for block in blocks} == {heads}
    assert encoder.clip.context_length == 77 and encoder.clip.vocab_size == 49_408


def test_the_resnets_projection_is_the_attention_pools_with_a_bias_of_its_own():
    encoder = small("RN50")
    last = encoder.visual.attnpool.c_proj
    assert last.bias is not None and encoder.image_projection.data_ptr() == last.weight.data_ptr()
    assert any(p is last.bias for p in encoder.image_parameters())
    with torch.device("meta"):
        whole = clip.untrained("RN50")
    assert sum(isinstance(module, nn.BatchNorm2d) for module in whole.modules()) == 55


@pytest.mark.parametrize("name", REAL)
def test_both_towers_use_quick_gelu(name):
    with torch.device("meta"):
        encoder = clip.untrained(name)
    used = {type(module).__name__ for key, module in encoder.named_modules() if key.endswith("mlp.gelu")}
    assert used == {"QuickGELU"}


def test_pixels_are_normalised_with_the_values_of_open_clip():
    import open_clip

    assert (PIXEL_MEAN, PIXEL_STD) == (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    encoder = small("ViT-B-16")
    pixels = encoder.pixels(images(encoder))
    expected = (images(encoder) / 255 - torch.tensor(PIXEL_MEAN).view(3, 1, 1)) / torch.tensor(PIXEL_STD).view(3, 1, 1)
    assert torch.allclose(pixels, expected, atol=1e-5)
    # these weights were trained with pixels in -1..1, and the tag says so
    other = clip.untrained("ViT-L-14:laion2b_s32b_b82k", **SMALL["ViT-L-14"])
    ends = torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2).expand(1, 3, 1, 2)
    assert torch.allclose(other.pixels(ends), torch.tensor([-1.0, 1.0]).expand(1, 3, 1, 2), atol=1e-6)


# text


@pytest.mark.parametrize("name", REAL)
def test_text_cut_after_its_end_is_exact_in_embedding_and_gradient(name):
    encoder = small(name).double()
    texts = ["a photo of a tench.", "itap of my great white shark.", "art of the bee."]
    short, full = encoder.tokenize(texts), encoder.tokenizer(texts)
    assert full.shape == (3, 77) and short.shape[1] == int(full.argmax(1).max()) + 1 < 12
    assert full[:, 0].eq(49_406).all() and full.max(1).values.eq(49_407).all()
    gradients, embeddings = [], [encoder.text_features(short), encoder.clip.encode_text(full)]
    for embedding in embeddings:
        encoder.zero_grad()
        embedding.square().sum().backward()
        gradients.append([p.grad.clone() for p in encoder.text_parameters()])
    scale = embeddings[1].abs().max().item()
    assert torch.allclose(*embeddings, rtol=0, atol=1e-12 * max(1, scale))
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-12 * max(1, other.abs().max().item()))


def test_a_text_longer_than_the_context_keeps_its_end_token():
    tokens = small("ViT-B-16").tokenize(["word " * 200])
    assert tokens.shape == (1, 77) and tokens[0, -1] == 49_407


# weights files


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("layout", ["safetensors", "state dict", "training checkpoint", "OpenAI's state dict"])
def test_saved_and_loaded_embeddings_are_the_same_bits(name, layout, shrunken, tmp_path):
    encoder = small(name)
    tensors = {key: tensor.contiguous() for key, tensor in encoder.clip.state_dict().items()}
    if layout == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(encoder.state_dict(), path)  # names begin with "clip."
    else:
        path = tmp_path / "weights.pt"
        content = {
            "state dict": tensors,
            "training checkpoint": {"epoch": 3, "state_dict": {f"module.{key}": t for key, t in tensors.items()}},
            "OpenAI's state dict": tensors | {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(9)},
        }[layout]
        torch.save(content, path)
    again = backbones.load(name, path)
    assert not again.training and {p.dtype for p in again.parameters()} == {torch.float32}
    with torch.no_grad():
        assert torch.equal(again.image_features(images(again)), encoder.image_features(images(encoder)))
        tokens = encoder.tokenize(["a photo of a tench."])
        assert torch.equal(again.text_features(tokens), encoder.text_features(tokens))
    assert backbones.weights_id(name, path).startswith("sha256:")


def test_the_ordinary_gelu_would_give_other_embeddings(shrunken, tmp_path):
    """The same tensors fit both activations: only the name keeps the right one."""
    encoder = small("ViT-B-16")
    torch.save(encoder.clip.state_dict(), tmp_path / "weights.pt")
    again = backbones.load("ViT-B/16", tmp_path / "weights.pt")
    for block in [*again.clip.transformer.resblocks, *again.visual.transformer.resblocks]:
        block.mlp.gelu = nn.GELU()
    tokens = encoder.tokenize(["a photo of a tench."])
    with torch.no_grad():
        for one, other in (
            (encoder.image_features(images(encoder)), again.image_features(images(again))),
            (encoder.text_features(tokens), again.text_features(tokens)),
        ):
            assert (one - other).abs().max() > 1e-4 * one.abs().max()


def test_half_precision_weights_become_float32(shrunken, tmp_path):
    encoder = small("RN50")
    halves = {key: t.half() if t.is_floating_point() else t for key, t in encoder.clip.state_dict().items()}
    save_file({key: t.contiguous() for key, t in halves.items()}, tmp_path / "weights.safetensors")
    again = backbones.load("RN50", tmp_path / "weights.safetensors")
    for key, tensor in again.clip.state_dict().items():
        assert torch.equal(tensor, halves[key].to(tensor.dtype)) and tensor.dtype != torch.float16


def halved(encoder):
    """As OpenAI's files hold them in float32: weights of layers of half precision, LayerNorms and embeddings not."""
    from open_clip.model import convert_weights_to_fp16

    model = clip.build(encoder.name).clip
    model.load_state_dict(encoder.clip.state_dict())
    convert_weights_to_fp16(model)
    return {key: tensor.float().contiguous() for key, tensor in model.state_dict().items()}


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_of_others_under_openais_name_are_told(name, ending, shrunken, tmp_path, monkeypatch):
    """OpenAI's are of half precision; LAION's fit the same names and shapes, and need the other activation."""
    monkeypatch.setenv("ROBUSTFT_WEIGHTS", str(tmp_path))
    save = save_file if ending == "safetensors" else torch.save
    encoder, path = small(name), tmp_path / f"{name}.{ending}"
    save(encoder.clip.state_dict(), path)
    with pytest.warns(UserWarning, match=f"backbone {name}: .* not those that OpenAI gave out.*text_proj") as told:
        loaded = backbones.load(name)
    assert len(told) == 1 and loaded.doubt == str(told[0].message) == backbones.examine(name)
    save(halved(encoder), path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backbones.load(name).doubt == backbones.examine(name) == ""


def test_weights_of_another_name_are_not_measured_by_openais(tmp_path, monkeypatch):
    encoder = small("ViT-B-16")
    save_file(encoder.clip.state_dict(), tmp_path / "w.safetensors")
    monkeypatch.setattr(clip, "build", lambda name: encoder)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backbones.load("ViT-B-16:laion2b_s34b_b88k", tmp_path / "w.safetensors").doubt == ""


def test_a_file_in_the_cache_has_the_hash_that_is_its_name(cache, shrunken):
    content = tensor_bytes(halved(small("RN50")))
    folder = cache / "models--timm--resnet50_clip.openai"
    blob, place = folder / "blobs" / hashlib.sha256(content).hexdigest(), folder / "snapshots" / ("a" * 40)
    for made in (folder / "refs", blob.parent, place):
        made.mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    blob.write_bytes(content)
    (place / "open_clip_model.safetensors").symlink_to(f"../../blobs/{blob.name}")
    assert backbones.examine("RN50", thorough=True) == ""
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert backbones.examine("RN50") == ""  # a moment's look reads a few tensors
    with pytest.raises(BackboneError, match="RN50: damaged weights at .*safetensors: their sha256 is not the one"):
        backbones.examine("RN50", thorough=True)
    blob.write_bytes(content[:-100])
    with pytest.raises(BackboneError, match="RN50: damaged weights at .*safetensors \\("):
        backbones.examine("RN50")


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_files_that_are_no_weights_are_refused_and_run_nothing(shrunken, tmp_path):
    encoder = small("ViT-B-16")
    path, tensors = tmp_path / "weights.pt", encoder.clip.state_dict()
    torch.save(tensors | {"trap": Trap(tmp_path / "ran")}, path)
    with pytest.raises(BackboneError, match="weights.pt holds more than tensors \\(.*open\\)"):
        backbones.load("ViT-B-16", path)
    assert not (tmp_path / "ran").exists()
    path.write_bytes(b"nonsense")
    with pytest.raises(BackboneError, match="is no weights file but text"):
        backbones.load("ViT-B-16", path)
    torch.jit.script(nn.Linear(2, 2)).save(path)
    with pytest.raises(BackboneError, match="TorchScript archive, which is code: torch.save the state_dict"):
        backbones.load("ViT-B-16", path)
    torch.save({key: t for key, t in tensors.items() if key != "ln_final.bias"}, path)
    with pytest.raises(BackboneError, match="another architecture .*ln_final.bias"):
        backbones.load("ViT-B-16", path)
    with pytest.raises(BackboneError, match="another architecture"):
        torch.save(small("ViT-L-14").clip.state_dict(), path)
        backbones.load("ViT-B-16", path)
    with pytest.raises(BackboneError, match="no weights at .*none.pt"):
        backbones.load("ViT-B-16", tmp_path / "none.pt")


# names, cache, identity


@pytest.mark.parametrize(
    "name", ["ViT-B/16", "ViT-B-16", "vit_b_16", "ViT-B-16:openai", "ViT-B-16-quickgelu", "ViT-B/16-quickgelu:openai"]
)
def test_every_spelling_is_one_backbone(name):
    assert backbones.resolve(name) == "ViT-B-16" in backbones.names()
    assert backbones.weights_id(name) == "openai:timm/vit_base_patch16_clip_224.openai"


def test_registered_repositories_are_those_that_open_clip_downloads_from():
    from open_clip.pretrained import get_pretrained_cfg

    for name, repository in clip.OPENAI.items():
        assert get_pretrained_cfg(*clip.parse(name))["hf_hub"] == f"{repository}/"


@pytest.mark.parametrize("name, words", [
    ("ViT-B-32:openai", "trained with QuickGELU, .* write ViT-B-32-quickgelu:openai"),
    ("ViT-B-17", "did you mean 'ViT-B-16'"),
    ("ViT-B16-SigLIP2", "did you mean 'ViT-B-16-SigLIP2:TAG'"),
    ("ViT-B-16-SigLIP3:webli", "open_clip has no model 'ViT-B-16-SigLIP3'; did you mean ViT-B-16-SigLIP.$"),
    ("ViT-B-16:nothing", "no weights 'nothing' of 'ViT-B-16'; tags: laion400m_e31"),
    ("ViT-B-32", "needs a tag, ViT-B-32:TAG; tags: laion2b_e16, .*, and of ViT-B-32-quickgelu: openai, "),
    ("coca_ViT-B-32", "is a CoCa, whose text tower also writes captions; take ViT-B-32"),
    ("ViT-S-16", "needs a tag, .*; tags: none; give a weights file, ViT-S-16:FILE.safetensors"),
    ("coca_ViT-B-32:laion2b_s13b_b90k", "is a CoCa, whose text tower also writes captions; take ViT-B-32"),
    ("roberta-ViT-B-32:laion2b_s12b_b32k", "the text tower of .* is roberta-base of Hugging Face's transformers"),
    ("hf-hub:name", "must be hf-hub:org/name"),
    ("local-dir:/nowhere/at/all", "there is no /nowhere/at/all"),
    ("local-dir:", "must be local-dir:PATH; write where it is"),
    ("local-dir:/tmp/modèle", "must be ASCII letters, digits"),
])  # fmt: skip
def test_a_wrong_name_says_what_to_write(name, words):
    for use in (backbones.resolve, backbones.weights_id, backbones.load):
        with pytest.raises(BackboneError, match=words):
            use(name)


def test_a_folder_that_is_none_is_told_in_one_plain_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackboneError, match=r"empty has no open_clip_config.json; put it there, or name another"):
        backbones.image_size(f"local-dir:{tmp_path / 'empty'}")
    (tmp_path / "w.safetensors").write_bytes(b"")
    with pytest.raises(BackboneError, match=r"w.safetensors is a file; give its folder, or MODEL:.*w.safetensors\.$"):
        backbones.resolve(f"local-dir:{tmp_path / 'w.safetensors'}")


def test_other_models_of_open_clip_are_backbones_with_their_own_activation():
    name = "ViT-B/32:laion2b_s34b_b79k"
    assert backbones.resolve(name) == "ViT-B-32:laion2b_s34b_b79k"
    assert backbones.weights_id(name) == "laion2b_s34b_b79k:laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    with torch.device("meta"):
        encoder = clip.untrained(backbones.resolve(name))
    assert {type(m) for key, m in encoder.named_modules() if key.endswith("mlp.gelu")} == {nn.GELU}


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty Hugging Face cache, and no network."""
    from huggingface_hub import constants, file_download

    for module in (constants, file_download):
        for key, value in (("HF_HUB_CACHE", str(tmp_path)), ("HF_HUB_OFFLINE", True)):
            if hasattr(module, key):
                monkeypatch.setattr(module, key, value)
    return tmp_path


def test_without_network_and_cache_the_error_says_how_to_fetch_them(cache):
    with pytest.raises(BackboneError, match="timm/resnet50_clip.openai.* not in the cache .*machine with network"):
        backbones.load("RN50")
    assert clip.cached("RN50") is None


def test_weights_in_the_cache_are_used_without_network(cache, shrunken):
    encoder = small("RN50")
    folder = cache / "models--timm--resnet50_clip.openai"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    file = folder / "snapshots" / "abc" / "open_clip_model.safetensors"
    save_file({key: t.contiguous() for key, t in encoder.clip.state_dict().items()}, file)
    assert clip.cached("RN50") == file
    again = backbones.load("rn50")
    assert again.name == "RN50"
    assert all(torch.equal(x, y) for x, y in zip(again.parameters(), encoder.parameters(), strict=True))


def test_untrained_weights_are_a_function_of_the_name():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = small("ViT-B-16")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), small("ViT-B-16").parameters(), strict=True))


@pytest.mark.programs
def test_planning_does_not_wait_for_open_clip():
    code = (
        "import sys; from robustft import backbones, methods; "
        "backbones.names(); [backbones.weights_id(name) for name in backbones.names()]; backbones.resolve('vit_b_16'); "
        "print('open_clip' in sys.modules, 'torchvision' in sys.modules, 'timm' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert result.stdout == "False False False\n", result.stderr
