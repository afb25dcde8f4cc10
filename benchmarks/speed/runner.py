"""What the speed scripts share: their settings, timings that take turns, and the lines that are printed.

Other programs slow this machine down and speed it up again. So the alternatives take turns, each round times all of
them one after the other, and a ratio is the median over rounds of the ratio within a round: what disturbs a round
disturbs both sides of it. With one thread on a CPU the time is that of the CPU, which waiting does not stretch.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...backbones import DualEncoder, empty
from ...datasets.imagenet_metadata import imagenet_names, imagenet_prompts
from ..host.environment import peak_memory_bytes, start_peak_memory


@dataclass(frozen=True)
class Settings:
    """The options that all scripts take on the command line."""

    device: str = "cpu"
    precision: Literal["fp32", "bf16"] = "fp32"
    batch: int = 8
    """Images or captions a step."""
    repeats: int = 5
    """Rounds; each times every alternative once."""
    threads: int = 2
    backbone: str = "ViT-B-16"
    released: str | None = None
    """Folder of the authors' code."""

    def encoder(self) -> DualEncoder:
        """The backbone's architecture with random weights, on the device."""
        return empty(self.backbone, self.device)

    def autocast(self) -> torch.autocast:
        """The context of a forward pass."""
        return torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")


class Timings(dict[str, list[float]]):
    """Seconds of each alternative, round by round."""

    def median(self, name: str) -> float:
        """Seconds of one call."""
        return statistics.median(self[name])

    def ratio(self, slow: str, fast: str) -> float:
        """Time of `slow` over time of `fast`."""
        return statistics.median(a / b for a, b in zip(self[slow], self[fast], strict=True))


def take_turns(
    alternatives: Mapping[str, Callable[[], Any]], settings: Settings, clock: Callable[[], float] | None = None
) -> Timings:
    """Seconds of each alternative in every round, after one call of each that is not timed.

    Every other round goes backwards, so that none always follows the same one.

    Args:
        clock: what counts the seconds, where it is neither the clock on the wall nor the CPU time of this process.
    """
    for call in alternatives.values():
        call()
    timings = Timings({name: [] for name in alternatives})
    alone = settings.device == "cpu" and torch.get_num_threads() == 1
    clock = clock or (time.process_time if alone else time.perf_counter)
    for i in range(settings.repeats):
        for name in list(alternatives)[:: 1 if i % 2 == 0 else -1]:
            wait(settings.device)
            began = clock()
            alternatives[name]()
            wait(settings.device)
            timings[name].append(clock() - began)
    return timings


def peak_gigabytes(call: Callable[[], Any], device: str) -> float:
    """Largest memory in use during a call, in GB of 10^9 bytes."""
    start_peak_memory(device)
    call()
    wait(device)
    return peak_memory_bytes(device) / 1e9


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


def captions(encoder: DualEncoder, count: int) -> torch.Tensor:
    """(count, L) token ids of ImageNet captions, a class and a template each, cut after the longest."""
    names, prompts = imagenet_names(), imagenet_prompts()
    texts = [prompts[7 * i % len(prompts)].format(names[37 * i % len(names)]) for i in range(count)]
    return encoder.tokenize(texts)


def full_context(encoder: DualEncoder, tokens: torch.Tensor) -> torch.Tensor:
    """The same captions padded to the tower's whole context."""
    context = encoder.clip.positional_embedding.shape[0]
    return torch.nn.functional.pad(tokens, (0, context - tokens.shape[1]))


TOLD: list[tuple[str, float, str, str]] = []
"""What `tell` has printed in this process: title, ratio, goal, details; for whoever keeps it."""


def tell(title: str, ratio: float, goal: str, details: str) -> None:
    """One result on one line."""
    TOLD.append((title, ratio, goal, details))
    print(f"{title:<34} {ratio:6.2f}   {goal:<16} {details}", flush=True)
