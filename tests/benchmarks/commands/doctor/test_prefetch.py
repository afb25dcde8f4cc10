"""`robustft doctor --prefetch` against a hub that answers, refuses or breaks off, and what runs on its cache alone."""

import hashlib
import io
import json
import os
import subprocess
import sys

import datasets as library
import pytest
from hub_stub import COMMIT, Hub, serving
from PIL import Image
from repository import KITS
from runs_kit import folders, program, write_suite
from safetensors.torch import save

from robustft.backbones import clip

pytestmark = pytest.mark.programs

MODEL = "ViT-B-32-quickgelu"
CONFIG = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1},
}
SMALL = """
import sys

class Small:
    def find_spec(self, name, path=None, target=None):
        if name == "open_clip":
            sys.meta_path.remove(self)
            import open_clip
            open_clip.add_model_config({folder!r})

sys.meta_path.insert(0, Small())
"""
"""A sitecustomize: in every process open_clip's model of that name is a small one, its repositories the true ones."""
RUN_HERE = """
import sys
from robustft.benchmarks import cli
from robustft.benchmarks.executors.local import Launcher
from runs_kit import run_here
Launcher.run = run_here
cli.main(sys.argv[1:])
"""
PREFETCH_ALL = """
import contextlib, io, json, sys
from robustft.benchmarks import cli
for suite in sys.argv[1:]:
    with contextlib.redirect_stderr(io.StringIO()) as said, contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(["doctor", "--prefetch", suite])
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue()]))
"""


def pets(labels, base=0):
    """A Parquet file of a split; row k is a grey picture of value base + k."""
    pictures = [Image.new("RGB", (32, 32), (base + k,) * 3) for k in range(len(labels))]
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=["cat", "dog", "emu"])})
    content = io.BytesIO()
    library.Dataset.from_dict({"image": pictures, "label": labels}, features=features).to_parquet(content)
    return content.getvalue()


def repository(test=(2, 0, 1)):
    files = {"train": pets([k % 3 for k in range(30)]), "test": pets(list(test), 100)}
    named = {f"data/{split}-00000-of-00001.parquet": content for split, content in files.items()}
    return named | {"README.md": b"---\nlicense: mit\n---\n", ".gitattributes": b""}


@pytest.fixture(scope="module")
def weights():
    """A file of the small model, of half precision as OpenAI's."""
    encoder = clip.untrained(f"{MODEL}:openai", vision=CONFIG["vision_cfg"], text=CONFIG["text_cfg"])
    tensors = encoder.clip.state_dict()
    for key in ("visual.proj", "text_projection"):  # `untrained` keeps the embedding's width
        tensors[key] = tensors[key][:, : CONFIG["embed_dim"]]
    return save({key: tensor.half().float().contiguous() for key, tensor in tensors.items()})


@pytest.fixture
def machine(tmp_path):
    """Its environment: an empty cache, and a small model in the place of a large one."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / f"{MODEL}.json").write_text(json.dumps(CONFIG))
    (tmp_path / "sitecustomize.py").write_text(SMALL.format(folder=str(tmp_path / "configs")))
    kept = {key: value for key, value in os.environ.items() if key not in ("HF_HUB_OFFLINE", "ROBUSTFT_RUNS")}
    return kept | {"HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}


def suite_of(folder, name, backbone, dataset):
    """A suite file that needs this backbone and dataset; returns its path as text."""
    place = folder / name
    place.mkdir()
    recipe = {"steps": 1, "batch_size": 2, "lr": 1e-5, "weight_decay": 0.1}
    own = {"dataset": dataset, "version": "own"} if dataset != "digits" else {}
    return write_suite(
        place, name=name, backbones=[backbone], methods=["zero_shot", "ft"], tuning=None, methods_settings={},
        recipes={"common": recipe}, **own,
    )  # fmt: skip


def finished(process):
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def of_repository(tag):
    from open_clip.pretrained import get_pretrained_cfg

    return get_pretrained_cfg(MODEL, tag)["hf_hub"].rstrip("/")


def blobs(folder):
    """Every file of the cache that has content, by name; those that are named by their sha256 must have it."""
    found = {path.name: path for path in folder.glob("home/hub/*/blobs/*")}
    for name, path in found.items():
        assert len(name) == 40 or hashlib.sha256(path.read_bytes()).hexdigest() == name, f"half a file: {path}"
    return found


def test_what_is_fetched_once_trains_without_network(machine, tmp_path, weights):
    hub = Hub()
    hub.add("models", of_repository("openai"), {"open_clip_model.safetensors": weights})
    hub.add("datasets", "lab/pets", repository())
    suite = suite_of(tmp_path, "own", f"{MODEL}:openai", "huggingface:lab/pets")
    with serving(hub):
        machine["HF_ENDPOINT"] = hub.url
        code, out, error = finished(program("doctor", "--prefetch", suite, env=machine))
    assert code == 0, error
    assert f"{MODEL}:openai: weights are on this machine" in out and "huggingface:lab/pets: on this machine" in out
    fetched = sorted(line.rpartition("/")[2] for line in hub.asked if line.startswith("GET /store/"))
    parquets = ["test-00000-of-00001.parquet", "train-00000-of-00001.parquet"]
    assert fetched == ["open_clip_model.safetensors", *parquets]
    assert hashlib.sha256(weights).hexdigest() in blobs(tmp_path)
    asked = len(hub.asked)
    offline = machine | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": f"{tmp_path}{os.pathsep}{KITS}"}
    arguments = ("--method", "ft", "--seed", "0", "--limit", "4", "--runs", str(tmp_path / "runs"))
    command = [sys.executable, "-c", RUN_HERE, "run", suite, *arguments]
    done = subprocess.run(command, env=offline, capture_output=True, text=True, timeout=300)
    error = done.stderr
    assert done.returncode == 0, error
    (folder,) = folders(tmp_path / "runs")
    record = json.loads((folder / "record.json").read_text())
    assert record["cost"]["images_seen"] > 0 and record["sets"]["id"]["n"] == 3 and len(hub.asked) == asked
    assert "weights_doubt" not in record["info"] and "latest cached version" not in error


def test_a_pinned_revision_is_that_revision_without_network(machine, tmp_path):
    """The library takes the newest in its cache: a suite would have run on the data of another."""
    hub, newer = Hub(), "beef" + "0" * 36
    hub.add("datasets", "lab/pets", repository(test=(2, 0, 1)))
    hub.add("datasets", "lab/pets", repository(test=(0, 0, 0)), commit=newer)
    for name, commit in (("old", COMMIT), ("new", newer), ("gone", "dead" + "0" * 36)):
        (tmp_path / f"{name}.yaml").write_text(f"dataset: lab/pets\nrevision: {commit}\n")
    code = "import sys\nfrom robustft.datasets.hub import Hub\nfor name in sys.argv[1:]:\n  try:\n"
    code += "    print(Hub(name).eval_data('id').labels.tolist())\n  except ValueError as error: print(error)"

    def labels(environment, *names):
        files = [str(tmp_path / f"{name}.yaml") for name in names]
        command = [sys.executable, "-c", code, *files]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        return done.stdout.splitlines() or done.stderr

    with serving(hub):
        machine["HF_ENDPOINT"] = hub.url
        assert labels(machine, "old", "new") == ["[2, 0, 1]", "[0, 0, 0]"]
    old, new, gone = labels(machine | {"HF_HUB_OFFLINE": "1"}, "old", "new", "gone")
    assert (old, new) == ("[2, 0, 1]", "[0, 0, 0]")
    assert "lab/pets, train: not in the cache, and the hub cannot be reached with HF_HUB_OFFLINE=1" in gone


def test_each_refusal_is_one_sentence_and_no_half_file_is_kept(machine, tmp_path, weights):
    hub, suites = Hub(), {}
    gated = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to it is restricted."}
    busy = {"Retry-After": "0"}
    for tag in ("openai", "laion400m_e31", "laion400m_e32", "metaclip_400m", "metaclip_fullcc"):
        suites[tag] = suite_of(tmp_path, tag, f"{MODEL}:{tag}", "digits")
    hub.refused[of_repository("openai")] = (401, gated)
    for tag in ("laion400m_e31", "metaclip_400m"):
        hub.add("models", of_repository(tag), {"open_clip_model.safetensors": weights})
    hub.troubles["open_clip_model.safetensors"] = [500, 429, "cut", "cut"]  # 500 is for the first, which is then left
    hub.add("models", of_repository("metaclip_fullcc"), {"open_clip_pytorch_model.bin": weights[::-1]})
    hub.troubles["open_clip_pytorch_model.bin"] = ["cut"] * 99
    for name in ("gated", "missing", "busy", "broken", "cut"):
        suites[name] = suite_of(tmp_path, name, "tiny-vit-p8", f"huggingface:lab/{name}")
    hub.refused["lab/gated"] = (403, gated)
    hub.refused["lab/busy"] = (429, busy)
    broken = {path.replace("train", "training"): content for path, content in repository().items()}
    hub.add("datasets", "lab/broken", broken | {"data/train-00000-of-00001.parquet": pets([0, 1, 2])})
    hub.add("datasets", "lab/cut", repository())
    hub.troubles["train-00000-of-00001.parquet"] = [503, "cut", 429]
    with serving(hub):
        machine["HF_ENDPOINT"] = hub.url
        command = [sys.executable, "-c", PREFETCH_ALL, *suites.values()]
        done = subprocess.run(command, env=machine, capture_output=True, text=True, timeout=500)
    told = dict(zip(suites, map(json.loads, done.stdout.splitlines()), strict=True))
    expected = {
        "openai": f"weights of {MODEL}:openai: the hub answers 401: it is given to accounts that accepted its terms",
        "laion400m_e31": "laion400m_e31: the hub answers 500: it is busy or in trouble; call this again later",
        "laion400m_e32": "laion400m_e32: the hub answers 401: it has no such repository, or not for you",
        "metaclip_fullcc": "metaclip_fullcc: the connection broke, also when tried again (",
        "gated": "huggingface:lab/gated: the hub answers 403: it is given to accounts that accepted its terms",
        "missing": "huggingface:lab/missing: the hub answers 401: it has no such repository, or not for you",
        "busy": "huggingface:lab/busy: the hub answers 429: it is busy or in trouble; call this again later",
        "broken": "huggingface:lab/broken: the hub answers 503: it is busy or in trouble; call this again later",
    }
    for name, sentence in expected.items():
        code, error = told[name]
        assert code == 2 and "Traceback" not in error, error
        assert error.splitlines()[-1].startswith("robustft: --prefetch: ") and sentence in error.splitlines()[-1]
    for name in ("metaclip_400m", "cut"):  # cut off and asked to wait: tried again until it is whole
        assert told[name][0] == 0, told[name][1]
    cached = blobs(tmp_path)
    assert hashlib.sha256(weights).hexdigest() in cached and hashlib.sha256(weights[::-1]).hexdigest() not in cached
    assert not list(tmp_path.rglob("*.incomplete"))
