"""The k lowest of many scores: exact at any size, the same on every machine, and without waiting for a GPU in between.

A radix selection over the bits of float32 numbers: the upper 16 bits of all scores are counted, then the lower 16 of
those in the bucket that holds the k-th. torch.quantile refuses more than 2^24 numbers, and torch.kthvalue takes several
times as long (bench/threshold.py).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

HALF = 1 << 15
BUCKETS = 1 << 16
CHUNK = 1 << 18  # numbers at a time: what a processor's cache holds


class Cut(NamedTuple):
    """Where the k lowest scores end."""

    score: float  # the k-th lowest
    going: int  # scores of just that value among the k
    equal: int  # scores of just that value


def cuts(groups: Sequence[Sequence[Tensor]], counts: Sequence[int]) -> list[Cut]:
    """For each group of float32 tensors, where its `counts` (from 1) lowest scores end. Waits for the device once.

    Scores are not NaN and hold no -0.0, which is no other number than 0.0 but has other bits.
    """
    found = [_kth(group, count) for group, count in zip(groups, counts, strict=True)]
    return [Cut(_number(bits), going, equal) for bits, going, equal in torch.stack(found).tolist()]


def kept(scores: Sequence[Tensor], cut: Cut) -> list[Tensor]:
    """Masks of all scores but the lowest ones that `cut` found; of equal ones the first go. Doesn't wait."""
    if cut.going == cut.equal:
        return [score > cut.score for score in scores]
    masks = []
    seen = torch.zeros((), dtype=torch.int64, device=scores[0].device)  # equal ones so far
    for score in scores:
        equal = score == cut.score
        place = seen + equal.flatten().cumsum(0).view_as(equal)  # from 1
        masks.append((score > cut.score) | (equal & (place > cut.going)))
        seen = seen + equal.sum()
    return masks


def _kth(scores: Sequence[Tensor], k: int) -> Tensor:
    """(3,): the bits of the k-th lowest number, which of its equals it is (from 1), and how many these are."""
    device = scores[0].device
    count = count_on_cpu if device.type == "cpu" else count_elsewhere
    chunks = [chunk for score in scores for chunk in torch.split(score.flatten().view(torch.int32), CHUNK)]
    highs, lows = torch.zeros(2, BUCKETS, dtype=torch.int64, device=device)
    for bits in chunks:
        count(highs, bits)
    ranks = torch.arange(BUCKETS, device=device)
    order = torch.where(ranks < HALF, HALF - 1 - ranks, ranks)  # the bits of negative numbers rise as they fall
    at, rest = _find(highs[order], k)
    high = order[at]
    for bits in chunks:
        count(lows, bits, high)
    ordered = torch.where(high < HALF, lows.flip(0), lows)
    at, rest = _find(ordered, rest)
    low = torch.where(high < HALF, BUCKETS - 1 - at, at)
    return torch.stack([((high - HALF) << 16) | low, rest, ordered[at]])


def _find(counts: Tensor, k: int | Tensor) -> tuple[Tensor, Tensor]:
    """The bucket with the k-th, and which one of that bucket it is (from 1); both 0-dimensional."""
    upto = counts.cumsum(0)
    at = torch.searchsorted(upto, torch.as_tensor(k, device=counts.device))
    return at, k - upto[at] + counts[at]


def count_on_cpu(counts: Tensor, bits: Tensor, high: Tensor | None = None) -> None:
    """Add to `counts` (65536,) the upper halves of `bits`, or the lower halves of those whose upper half is `high`.

    Upper halves count from that of the lowest int32. Selecting takes numpy a third of torch's time.
    """
    words = bits.numpy()
    index = (words >> 16) + HALF if high is None else words[words >> 16 == int(high) - HALF] & (BUCKETS - 1)
    counts += torch.bincount(torch.from_numpy(index), minlength=BUCKETS)


def count_elsewhere(counts: Tensor, bits: Tensor, high: Tensor | None = None) -> None:
    """The same without waiting for the device, as selecting and torch.bincount do. Sums of integers have no order."""
    upper = (bits >> 16) + HALF
    if high is None:
        counts.index_add_(0, upper, torch.ones_like(upper, dtype=counts.dtype))
    else:
        counts.index_add_(0, bits & (BUCKETS - 1), (upper == high).to(counts.dtype))


def _number(bits: int) -> float:
    number: float = struct.unpack("<f", struct.pack("<i", bits))[0]
    return number
