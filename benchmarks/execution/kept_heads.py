"""Zero-shot heads that are built once: kept in the user's cache folder for all runs that share a pretrained text tower.

A kept head has the bits of one that is built here, or is not used: the name of its file is a sha256 over all that they
depend on, the head of the first class, as this process computes it, included. The cache only saves time: where it
cannot be written, or a file in it is damaged, heads are built.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...backbones import DualEncoder
from ...backbones.zero_shot import BATCH_SIZE, Between, build_head, head_of_tokens, tokens_of
from ...datasets.contents import cache_folder
from ...methods.training.parallel import World
from ...results.records.atomic import OutputError, write_atomic
from ..host import environment
from .predict import never

SIGN_SECONDS = 30.0
"""Between the lines that say how far a head is."""
SWITCHES = ("MKL_", "DNNL_", "ONEDNN_", "ATEN_", "OMP_", "KMP_", "CUBLAS_", "NVIDIA_TF32_", "TORCH_ALLOW_TF32_")
"""What variables begin with that change how torch's libraries compute."""


def head(
    encoder: DualEncoder,
    class_names: Sequence[str],
    prompts: Sequence[str],
    check_stop: Callable[[], object] = never,
    trained: bool = False,
) -> Tensor:
    """`build_head`, or the same bits from an earlier call; a `methods.base.HeadBuilder`.

    A head of one pass of the text tower is built every time. Where several processes make a run, all of them call this,
    and build the head where one of them has none.

    Args:
        check_stop: called before and between text passes; what it raises ends the work, and nothing is kept.
        trained: the text tower is this run's own; no other run could use its head.
    """
    texts = len(class_names) * len(prompts)
    between = _telling(check_stop)
    if trained or texts <= BATCH_SIZE:
        return build_head(encoder, class_names, prompts, between=between)
    # What every head of this tower and process begins with: no list of settings is as complete.
    tokens = tokens_of(encoder, class_names, prompts)
    first = head_of_tokens(encoder, tokens[:1])
    check_stop()  # so many texts may have taken seconds to tokenise
    path = _place(encoder, tokens, first)
    kept = None if path is None else _read(path, (len(class_names), first.shape[1]), first)
    if not World().largest(int(kept is None)) and kept is not None:
        _tell(f"{texts} texts, built before and kept")
        return kept
    made = head_of_tokens(encoder, tokens, between=between)
    if path is not None and kept is None:
        with suppress(OutputError):
            write_atomic(path, save({"head": made.cpu()}, {"key": path.stem, "sha256": _sha256(made)}))
    return made


def _place(encoder: DualEncoder, tokens: Tensor, first: Tensor) -> Path | None:
    """The file of a head; None where none can be kept: no home, or a device whose arithmetic has no name."""
    folder, device = cache_folder("heads"), encoder.clip.logit_scale.device
    if folder is None or device.type not in ("cpu", "cuda"):
        return None
    now = environment.describe()
    about = {
        "code": now["code_hash"],
        "packages": now["packages"],
        "build": torch.__config__.show(),
        "processor": [device.type, environment.processor(str(device)), torch.get_num_threads()],
        "precision": [torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()],
        "switches": sorted(item for item in os.environ.items() if item[0].startswith(SWITCHES)),
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in {**encoder.text_state(), "tokens": tokens, "first": first}.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} {_sha256(tensor)}".encode())
    return folder / f"{digest.hexdigest()}.safetensors"


def _read(path: Path, shape: tuple[int, int], like: Tensor) -> Tensor | None:
    """The head of a file, in memory of its own; None where there is none, or it is not what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            found, about = file.get_tensor("head"), file.metadata()
    except (OSError, SafetensorError):
        return None
    whole = about == {"key": path.stem, "sha256": _sha256(found)}
    return found.clone().to(like.device) if whole and found.shape == shape and found.dtype == like.dtype else None


def _sha256(tensor: Tensor) -> str:
    plain = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).hexdigest()


def _telling(check_stop: Callable[[], object]) -> Between:
    """Asks whether to stop, and says now and then how far the head is."""
    told = time.monotonic()

    def between(done: int, texts: int) -> None:
        nonlocal told
        check_stop()
        if time.monotonic() - told > SIGN_SECONDS:
            told = time.monotonic()
            _tell(f"{done} of {texts} texts")

    return between


def _tell(what: str) -> None:
    with suppress(OSError):
        print(f"zero-shot head: {what}", file=sys.stderr, flush=True)
