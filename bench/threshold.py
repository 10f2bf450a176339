"""The threshold of a pruning over the 85 million weights of a 124M GPT-2: ours against torch.kthvalue.

One thread, processor time, taking turns. Ours reads the layers' scores where they lie; torch.kthvalue gets them in one
tensor, which is not timed. Both must find the same number. torch.quantile refuses so many.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib.prune.threshold import cuts  # noqa: E402  # the repository is not installed

WIDTH, LAYERS = 768, 12
SHAPES = [(3 * WIDTH, WIDTH), (WIDTH, WIDTH), (4 * WIDTH, WIDTH), (WIDTH, 4 * WIDTH)] * LAYERS
SPARSITY = 0.5
ROUNDS = 5


def main() -> int:
    torch.set_num_threads(1)
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=random) * 0.02 for shape in SHAPES]
    moved = [w * torch.randn(w.shape, generator=random) * 0.001 for w in weights]
    compare("magnitude", [w.abs() for w in weights])
    compare("movement, signed", moved)
    return 0


def compare(title: str, scores: list[Tensor]) -> None:
    flat = torch.cat([score.flatten() for score in scores])
    count = int(SPARSITY * flat.numel())
    ways: dict[str, Callable[[], float]] = {
        "torch.kthvalue": lambda: float(torch.kthvalue(flat, count).values),
        "kilter": lambda: cuts([scores], [count])[0].score,
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        print(f"{title}: round {number + 1} of {ROUNDS}", file=sys.stderr)
        found = set()
        for name in ways if number % 2 else reversed(ways):
            began = time.process_time()
            found.add(ways[name]())
            taken[name].append(time.process_time() - began)
        assert len(found) == 1, f"they differ: {found}"
    print(f"{f'{flat.numel() / 1e6:.1f}M scores, {title}':<40}{'CPU time [ms]':>26}")
    for name, seconds in taken.items():
        middle, low, high = (1e3 * of(seconds) for of in (statistics.median, min, max))
        print(f"{name:<40}{f'{middle:.0f} [{low:.0f}-{high:.0f}]':>26}")
    ratios = [theirs / ours for theirs, ours in zip(*taken.values(), strict=True)]
    spread = f"{statistics.median(ratios):.1f} x [{min(ratios):.1f}-{max(ratios):.1f}]"
    print(f"{'torch.kthvalue / kilter':<40}{spread:>26}")


if __name__ == "__main__":
    sys.exit(main())
