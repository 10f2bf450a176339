"""Whole optimizer steps on GPT-2's 124 million parameters, against torch's fused AdamW and against the per-tensor form.

The per-tensor form is SPAM as it is usually written: for each tensor a norm that the host waits for, a mask, a cut, and
then AdamW's loop. All take turns on weights and gradients of their own, on the GPU when there is one.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

sys.path[0] = str(Path(__file__).resolve().parent.parent)

TURNS = 9
LAYERS, WIDTH, BLOCK, VOCABULARY = 12, 768, 1024, 50_304
PEER, SLOW = "torch.optim.AdamW(fused=True)", "SPAM, tensor by tensor"
THETA = 5000.0
OURS = {
    "adamwspam": ("adamwspam", None),
    "adamwprune": ("adamwprune", "adamw"),
    "adamwprune on adamwspam": ("adamwprune", "adamwspam"),
}
Step = Callable[[], object]


def main() -> int:
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    steps = {PEER: fused(device), SLOW: tensor_by_tensor(device), **{name: ours(name, device) for name in OURS}}
    for name, step in steps.items():
        print(f"{name}: the first two steps took {seconds(step) + seconds(step):.1f} s", file=sys.stderr)
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(TURNS):
        print(f"turn {turn + 1} of {TURNS}", file=sys.stderr)
        for name, step in steps.items() if turn % 2 else reversed(steps.items()):
            taken[name].append(seconds(step))
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    report(taken, name)
    return 0


def network(device: torch.device) -> nn.Module:
    """GPT-2's parameters, 124.5 million in 148 tensors, each with a gradient."""
    import torch
    from torch import nn

    def layer() -> nn.Module:
        norms = [nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)]
        attention = [nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)]
        return nn.ModuleList([*norms, *attention, nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)])

    torch.manual_seed(0)
    with device:
        tables = [nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(BLOCK, WIDTH)]
        model = nn.ModuleList([*tables, *(layer() for _ in range(LAYERS)), nn.LayerNorm(WIDTH)])
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) * 1e-3
    return model


def fused(device: torch.device) -> Step:
    import torch

    return torch.optim.AdamW(network(device).parameters(), 6e-4, fused=True).step


def ours(name: str, device: torch.device) -> Step:
    from lib import optim

    optimizer, base = OURS[name]
    settings = optim.Settings(6e-4, 0.1, beta1=0.9, beta2=0.95, epsilon=1e-8, adamwprune_base=base,
                              spam_theta=THETA, spam_interval=500, spam_warmup=150, spam_guard=0)  # fmt: skip
    return optim.build(optimizer, network(device), settings).step


def tensor_by_tensor(device: torch.device) -> Step:
    """For each tensor a norm that the host waits for, a mask, a cut; then AdamW's loop."""
    import torch

    parameters = list(network(device).parameters())
    optimizer = torch.optim.AdamW(parameters, 6e-4, foreach=False, fused=False)

    def step() -> None:
        norm = cut = 0.0
        for parameter in parameters:
            gradient, state = parameter.grad, optimizer.state[parameter]
            assert gradient is not None
            norm += gradient.norm().item() ** 2
            if "exp_avg_sq" in state:
                spikes = gradient**2 > THETA * state["exp_avg_sq"]
                if spikes.any():
                    cut += spikes.sum().item()
                    most = gradient.sign() * (THETA * state["exp_avg_sq"]).sqrt()
                    parameter.grad = torch.where(spikes, most, gradient)
        optimizer.step()

    return step


def seconds(step: Step) -> float:
    """Of one step, until the device has done it; of processor time with one thread, since others work here, too."""
    import torch

    on_gpu = torch.cuda.is_available()
    wait: Callable[[], object] = torch.cuda.synchronize if on_gpu else int
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.process_time
    wait()
    began = clock()
    step()
    wait()
    return clock() - began


def report(taken: dict[str, list[float]], device: str) -> None:
    """The median of the turns with their range, and of the ratios of a turn: to the peer, and how much faster."""
    print(f"{f'124M parameters, {device}':<34}{'[ms]':>28}{'/ fused AdamW':>24}{'tensor by tensor /':>24}")
    for name, times in taken.items():
        peer = [mine / other for mine, other in zip(times, taken[PEER], strict=True)]
        slow = [other / mine for mine, other in zip(times, taken[SLOW], strict=True)]
        cells = spread([1000 * each for each in times], ""), spread(peer, " x"), spread(slow, " x")
        print(f"{name:<34}{cells[0]:>28}{cells[1]:>24}{cells[2]:>24}")


def spread(values: list[float], unit: str) -> str:
    low, middle, high = (f"{value:.3g}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle}{unit} [{low}-{high}]"


if __name__ == "__main__":
    sys.exit(main())
