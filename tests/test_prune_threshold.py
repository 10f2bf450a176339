"""The k lowest scores: the number that a sort finds, exactly k of them, whatever their signs, ties and sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from lib.prune import threshold

TINY = torch.finfo(torch.float32).smallest_normal


def numbers(count: int, seed: int) -> Tensor:
    """Signed, over many powers of ten, with repeated ones, zeros, denormal ones and infinities."""
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(count, generator=random) * 10.0 ** torch.randint(-38, 38, (count,), generator=random)
    special = torch.tensor([0.0, 1.0, -1.0, TINY / 8, -TINY / 8, torch.inf, -torch.inf])
    picked = torch.randint(0, 3 * len(special), (count,), generator=random)
    return torch.where(picked < len(special), special[picked % len(special)], values) + 0.0


def in_parts(values: Tensor) -> list[Tensor]:
    """Layers of several shapes and strides, one of a single number."""
    one, rest = values[:1], values[1:]
    even = len(rest) // 12 * 12
    image = rest[:even].view(2, 3, -1, 2).contiguous(memory_format=torch.channels_last)
    return [one, image, rest[even:]]


@pytest.mark.parametrize("count", [20, 1_003, 600_011])  # the last takes several chunks
def test_the_cut_is_the_one_that_a_sort_finds(count: int) -> None:
    values = numbers(count, seed=count)
    ordered = values.sort().values
    for k in (1, 2, count // 3, count // 2, count - 1, count):
        (cut,) = threshold.cuts([in_parts(values)], [k])
        assert cut.score == ordered[k - 1].item()
        assert cut.equal == (values == cut.score).sum()
        assert cut.going == k - (values < cut.score).sum()


@pytest.mark.parametrize("k", [1, 17, 400, 999])
def test_exactly_k_go_and_of_equal_ones_the_first(k: int) -> None:
    values = numbers(1_000, seed=3).round(decimals=0)
    parts = in_parts(values)
    (cut,) = threshold.cuts([parts], [k])
    lowest = values.sort(stable=True).indices[:k]
    wanted = torch.ones_like(values, dtype=torch.bool).index_fill(0, lowest, False)
    assert torch.equal(torch.cat([mask.flatten() for mask in threshold.kept(parts, cut)]), wanted)


def test_groups_are_cut_one_by_one() -> None:
    low, high = torch.arange(10.0), torch.arange(100.0, 110.0)
    assert [cut.score for cut in threshold.cuts([[low], [high]], [3, 5])] == [2.0, 104.0]


def test_what_never_waits_for_the_device_counts_the_same() -> None:
    bits = numbers(300_000, seed=5).view(torch.int32)
    for high in (None, torch.tensor(threshold.HALF + 0x3F80), torch.tensor(0x407F), torch.tensor(7)):
        quick, patient = torch.zeros(2, threshold.BUCKETS, dtype=torch.int64)
        threshold.count_on_cpu(quick, bits, high)
        threshold.count_elsewhere(patient, bits, high)
        assert torch.equal(quick, patient)
        assert high is not None or quick.sum() == len(bits)
