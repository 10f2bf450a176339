"""A batch of tokens: ours, chosen and gathered from a memory-mapped text, against nanoGPT's get_batch.

Both take 12 windows of 1,024 tokens from the same uint16 file, as inputs and as targets, in int64 on the CPU. They take
turns in blocks of calls, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)

BATCH, LENGTH = 12, 1024  # nanoGPT's defaults
TOKENS = 100_000_000
BLOCK = 50  # calls between two turns
TURNS = 20  # of each, in a round
ROUNDS = 5

Batch = tuple[Tensor, Tensor]


def main() -> int:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "train.bin")
        np.random.default_rng(0).integers(0, 50257, TOKENS, dtype=np.uint16).tofile(path)
        peers = {"kilter": ours(path), "nanoGPT": nanogpt(path)}
        for _, take in itertools.product(range(BLOCK), peers.values()):
            take()  # the file comes into memory, and torch gets its buffers
        ratios = []
        for number in range(ROUNDS):
            us = measure(peers)
            ratios.append(us["nanoGPT"] / us["kilter"])
            print(f"round {number + 1}: kilter {us['kilter']:.0f} us, nanoGPT {us['nanoGPT']:.0f} us")
        print(f"nanoGPT / kilter: {statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
    return 0


def ours(path: Path) -> Callable[[], Batch]:
    """The task's own iterator, with the choice of windows in it."""
    from gpt2.model import GPT2
    from gpt2.task import Task
    from lib.data.text import Text
    from lib.tasks import Sizes

    text = np.asarray(np.memmap(path, np.uint16, mode="r"))
    model = GPT2(layers=1, heads=1, width=8, block_size=LENGTH, vocabulary=64)  # only its block size counts here
    sizes = Sizes(batch_size=BATCH, eval_samples=1, eval_batch_size=1, seed=0)
    data = Text(text, text[:LENGTH], vocabulary=50257, fingerprint="")
    batches = Task(model, data, sizes, device=torch.device("cpu")).batches(0)
    return lambda: next(batches)


def nanogpt(path: Path) -> Callable[[], Batch]:
    """nanoGPT's get_batch (train.py of karpathy/nanoGPT) on the CPU: the file is mapped anew for each batch."""

    def get_batch() -> Batch:
        data = np.memmap(path, dtype=np.uint16, mode="r")
        ix = torch.randint(len(data) - LENGTH, (BATCH,))
        x = torch.stack([torch.from_numpy((data[i : i + LENGTH]).astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy((data[i + 1 : i + 1 + LENGTH]).astype(np.int64)) for i in ix])
        return x, y

    return get_batch


def measure(peers: dict[str, Callable[[], Batch]]) -> dict[str, float]:
    """Microseconds of a call of each: the median over the turns of a round."""
    taken: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(TURNS):
        for name in sorted(peers, reverse=turn % 2 == 0):
            began = time.perf_counter()
            for _ in range(BLOCK):
                peers[name]()
            taken[name].append((time.perf_counter() - began) / BLOCK * 1e6)
    return {name: statistics.median(times) for name, times in taken.items()}


if __name__ == "__main__":
    sys.exit(main())
