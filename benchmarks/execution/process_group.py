"""The processes that make one run together, on several GPUs or nodes: the first leads, the others follow.

The leader holds the lease and writes. For copies of the data on each node, for training and for evaluation it calls the
others, and each then goes through the same function with the same run folder; between calls they wait. Who starts the
processes (SLURM's srun, or torchrun) says so in RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

import datetime
import os
from collections.abc import Callable
from pathlib import Path

LONG = datetime.timedelta(days=30)
"""A follower waits for the leader's next call, however long that takes."""
FAREWELL_SECONDS = 5.0


def size() -> int:
    """How many processes were started to make each run together; 1 for the usual one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The place of this process among them, from 0."""
    return int(os.environ.get("RANK", "0"))


class Team:
    """This process's membership; made by every process at the same point.

    Args:
        device: "cpu", or "cuda" for the GPU of this process on its node.
    """

    def __init__(self, device: str) -> None:
        import torch
        from torch import distributed

        self.rank, self.size, self.device = rank(), size(), device
        if device != "cpu":
            # A cluster shows a process its own GPU alone, or all of the node's.
            index = int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count())
            self.device = f"cuda:{index}"
            torch.cuda.set_device(index)
        distributed.init_process_group("gloo" if device == "cpu" else "nccl")
        self.calls = distributed.new_group(backend="gloo", timeout=LONG)

    def call(self, part: str, folder: Path) -> None:
        """Called by the leader: all others start this part of the run: "stage", "train" or "measure"."""
        self._send(f"{part} {folder}")

    def meet(self) -> None:
        """Called by every process: each waits for all others, however long that takes."""
        from torch import distributed

        distributed.barrier(self.calls)

    def dismiss(self) -> None:
        """Called by the leader at the end: every process leaves its group."""
        from torch import distributed

        self._send("")
        distributed.destroy_process_group()

    def follow(self, make: Callable[[str, Path], None]) -> None:
        """Called by a follower: do each part of a run that the leader calls for, until dismissed."""
        from torch import distributed

        while call := self._receive():
            part, _, folder = call.partition(" ")
            make(part, Path(folder))
        distributed.destroy_process_group()

    def _send(self, text: str) -> None:
        self._broadcast(len(text.encode()), text.encode())

    def _receive(self) -> str:
        return self._broadcast(None, b"")

    def _broadcast(self, length: int | None, content: bytes) -> str:
        import torch
        from torch import distributed

        count = torch.tensor(length or 0)
        distributed.broadcast(count, src=0, group=self.calls)
        letters = torch.zeros(int(count), dtype=torch.uint8)
        if length:
            letters.copy_(torch.frombuffer(bytearray(content), dtype=torch.uint8))
        if int(count):
            distributed.broadcast(letters, src=0, group=self.calls)
        return bytes(letters.tolist()).decode()


def batch_text(batch: int, processes: int, micro_batch: int | None) -> str:
    """A sentence on how a batch is split: images a process, and forward passes for them."""
    share = -(-batch // processes)
    part = min(micro_batch or share, share)
    passes = -(-share // part)
    each = f"{processes} processes x {share} images" if processes > 1 else f"{share} images"
    return f"batch of {batch}: {each}, {passes} forward pass{'es' if passes > 1 else ''} of up to {part}"
