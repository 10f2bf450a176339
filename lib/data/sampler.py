"""Which samples make up a batch: pure functions of (seed, global sample index), the same on every machine.

The samples of a run are numbered 0, 1, 2, ... whatever the batch size and the number of processes are. Nothing is
remembered, so a resumed run needs no state of its data, and no process sees another's samples.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

GAMMA = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: the step between two states of splitmix64


def mix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """What splitmix64 returns in each `state`: Steele, Lea & Flood, "Fast splittable generators" (2014), figure 16."""
    z = state + GAMMA
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def draws(seed: int, stream: int, index: NDArray[np.int64]) -> NDArray[np.uint64]:
    """The 64-bit random numbers with these indices in a stream of a seed's own; any index at once, in any order."""
    return mix64(_key(seed, stream) + index.astype(np.uint64) * GAMMA)


@lru_cache(maxsize=16)  # as much work as all the rest of a small batch
def _key(seed: int, stream: int) -> NDArray[np.uint64]:
    return mix64(mix64(np.array([seed], np.uint64)) + np.array([stream], np.uint64))


@lru_cache(maxsize=4)  # two epochs meet in one batch; nothing else is ever asked for again
def order(seed: int, epoch: int, size: int) -> NDArray[np.int64]:
    """The permutation of 0 .. size-1 in which `epoch` goes through the data."""
    shuffled = np.argsort(draws(seed, epoch, np.arange(size)), kind="stable")
    shuffled.flags.writeable = False  # it is shared between callers
    return shuffled


def permuted(seed: int, *, first: int, count: int, size: int) -> NDArray[np.int64]:
    """The samples (count,) with global indices `first` .. `first + count - 1`: each of `size` once an epoch."""
    index = np.arange(first, first + count)
    epoch, place = np.divmod(index, size)
    runs = [order(seed, e, size)[place[epoch == e]] for e in range(epoch[0], epoch[-1] + 1)]
    return np.concatenate(runs)


def windows(seed: int, index: NDArray[np.int64], *, starts: int) -> NDArray[np.int64]:
    """Window starts, in 0 .. starts-1 and shaped as `index`, of the samples with these global indices.

    One may come again.
    """
    return (draws(seed, 0, index) % np.uint64(starts)).astype(np.int64)  # bias below starts / 2^64
