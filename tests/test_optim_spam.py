"""AdamWSPAM: its published update in float64, step by step; and what its ancestor got wrong."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from configuring import loaded
from torch import Tensor, nn

from lib import kconf
from lib.optim import adamwspam
from lib.optim.adamwspam import AdamWSPAM, Compiled
from lib.options import ROOT

# torch's compiler, when it is imported, uses what torch deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")

LR, DECAY, BETA1, BETA2, EPS = 1e-3, 0.1, 0.9, 0.999, 1e-6
THETA, INTERVAL, WARMUP, GUARD = 5000.0, 100, 30, 5


def spam(*parameters: Tensor, theta: float = THETA, interval: int = INTERVAL, guard: int = GUARD) -> AdamWSPAM:
    groups = [{"params": [parameter], "weight_decay": DECAY} for parameter in parameters]
    betas = (BETA1, BETA2)
    return AdamWSPAM(groups, LR, theta=theta, interval=interval, warmup=WARMUP, guard=guard, betas=betas, eps=EPS)


def gradients(shape: tuple[int, ...], steps: int) -> Iterator[Tensor]:
    """Noise, with a spike now and then."""
    random = torch.Generator().manual_seed(1)
    for step in range(1, steps + 1):
        gradient = torch.randn(shape, generator=random)
        if step % 37 == 0:
            gradient[3] *= 1e4
        yield gradient


def published(weight: Tensor, steps: int) -> tuple[Tensor, int]:
    """The weights after `steps`, in float64, and how many elements were cut.

    The authors' order: reset, cut against the old second moment, moments, update with the corrections in the step size
    and a plain epsilon, decay. The corrections restart at a reset: that is ours.
    """
    w = weight.double()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    count = 0
    for t, gradient in enumerate(gradients(tuple(weight.shape), steps), 1):
        g = gradient.double()
        if t % INTERVAL == 0:
            m, v = torch.zeros_like(w), torch.zeros_like(w)
        if t >= GUARD and t % INTERVAL >= GUARD:
            spikes = g**2 > THETA * v
            g = torch.where(spikes, g.sign() * (THETA * v).sqrt(), g)
            count += int(spikes.sum())
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g**2
        n = t if t < INTERVAL else t % INTERVAL + 1
        grown = t < INTERVAL or n > WARMUP
        scale = 1 if grown else 1 - 0.99 * (1 + math.cos(math.pi * n / (WARMUP + 1))) / 2
        size = LR * scale * math.sqrt(1 - BETA2**n) / (1 - BETA1**n)
        w = w - size * m / (v.sqrt() + EPS)
        w = w - LR * DECAY * w
    return w, count


def walk(optimizer: AdamWSPAM, parameter: Tensor, steps: int) -> None:
    for gradient in gradients(tuple(parameter.shape), steps):
        parameter.grad = gradient
        optimizer.step()


@pytest.mark.parametrize("compiled", [False, True])
def test_a_thousand_steps_are_those_of_the_published_update(compiled: bool) -> None:
    parameter = nn.Parameter(torch.randn(60, 7, generator=torch.Generator().manual_seed(0)))
    expected, count = published(parameter.detach(), 1000)
    assert count > 100
    optimizer = spam(parameter)
    if compiled:
        optimizer._advance = Compiled(on_cpu=True)
    walk(optimizer, parameter, 1000)
    assert (parameter.detach() - expected).norm() <= 1e-6 * expected.norm()
    assert optimizer.param_groups[0]["step"] == 1000  # once a step; the ancestor counted twice


def test_noise_is_not_cut_with_the_constants_of_the_authors_and_mostly_cut_with_the_ancestors() -> None:
    shares = {}
    for name, theta, guard in (("authors", 5000.0, 20), ("ancestor", 50.0, 0)):
        parameter = nn.Parameter(torch.zeros(1000))
        optimizer = spam(parameter, theta=theta, interval=500, guard=guard)
        cut = total = 0
        for step in range(1, 61):
            parameter.grad = torch.randn(1000, generator=torch.Generator().manual_seed(step))
            before = optimizer.state[parameter].get("exp_avg", torch.zeros(1000)).clone()
            optimizer.step()
            entered = (optimizer.state[parameter]["exp_avg"] - BETA1 * before) / (1 - BETA1)
            cut += int((entered.abs() < parameter.grad.abs() * 0.999 - 1e-5).sum())
            total += 1000
        shares[name] = cut / total
    assert shares["authors"] == 0 and shares["ancestor"] > 0.4


def test_an_update_after_a_reset_is_no_longer_than_before() -> None:
    parameter = nn.Parameter(torch.zeros(1000))
    optimizer = spam(parameter)
    longest = []
    for gradient in gradients((1000,), 150):
        before = parameter.detach().clone()
        parameter.grad = gradient
        optimizer.step()
        longest.append(float((parameter.detach() - before).abs().max()) / LR)
    assert longest[99] < 0.02  # the reset: a hundredth of a whole step
    assert max(longest[99:]) <= max(longest[:99])


def test_a_weight_whose_first_gradient_comes_late_moves_all_the_same() -> None:
    parameter = nn.Parameter(torch.zeros(4))
    optimizer = spam(parameter, guard=2)
    for step in range(12):
        parameter.grad = torch.tensor([1.0, 1.0, 1.0, float(step >= 10)])
        optimizer.step()
    assert parameter[3] != 0


def test_nothing_is_reset_or_cut_when_both_are_off_and_that_is_adam_with_late_decay() -> None:
    ours, theirs = nn.Parameter(torch.ones(50, 3)), nn.Parameter(torch.ones(50, 3))
    adam = torch.optim.Adam([theirs], LR, betas=(BETA1, BETA2), eps=0.0)
    optimizer = AdamWSPAM(
        [{"params": [ours]}], LR, theta=0.0, interval=0, warmup=0, guard=0, betas=(0.9, 0.999), eps=1e-30
    )
    for gradient in gradients((50, 3), 700):
        ours.grad, theirs.grad = gradient, gradient.clone()
        optimizer.step()
        adam.step()
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=1e-6)


def test_layout_and_size_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """channels_last weights, gradients in the other order, and more elements than one piece holds."""
    monkeypatch.setattr(adamwspam, "PIECE", 10)
    plain, other = nn.Parameter(torch.ones(4, 3, 5, 2)), nn.Parameter(torch.ones(4, 3, 5, 2))
    other.data = other.data.to(memory_format=torch.channels_last)
    optimizers = spam(plain), spam(other)
    for step in range(8):
        random = torch.Generator().manual_seed(step)
        plain.grad = torch.randn(plain.shape, generator=random)
        order = torch.channels_last if step % 2 else torch.contiguous_format
        other.grad = plain.grad.clone().contiguous(memory_format=order)
        for optimizer in optimizers:
            optimizer.step()
    assert torch.equal(plain, other)


def test_on_an_accelerator_a_skipped_step_is_decided_there() -> None:
    """What an accelerator runs, here on the CPU: the host does not look at found_inf."""
    parameter = nn.Parameter(torch.randn(50))
    optimizer = spam(parameter)
    walk(optimizer, parameter, INTERVAL - 1)  # so that the next is a reset
    state = optimizer.state[parameter]
    before = [tensor.clone() for tensor in (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])]
    parameter.grad = torch.full_like(parameter, math.nan)
    group, here = optimizer.param_groups[0], torch.device("cpu")
    numbers = adamwspam._numbers(group, here, torch.tensor(1.0))
    adamwspam.by_pieces([optimizer._flat(parameter)], numbers)
    after = [parameter.detach(), state["exp_avg"], state["exp_avg_sq"]]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert group["step"] == INTERVAL - 1
    parameter.grad = torch.ones(50)
    adamwspam.by_pieces([optimizer._flat(parameter)], adamwspam._numbers(group, here, torch.tensor(0.0)))
    torch.testing.assert_close(state["exp_avg"], torch.full((50,), 1 - BETA1))
    assert group["step"] == INTERVAL


def test_a_compiler_that_fails_costs_a_warning_and_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    walked, failing = spam(plain), spam(other)
    walk(walked, plain, 3)
    failing._advance = Compiled(on_cpu=True)
    broken = torch._dynamo.exc.TorchDynamoException("no compiler\nat all")

    def fails(*_: object) -> None:
        raise broken

    monkeypatch.setattr(failing._advance, "_rule", fails)
    with pytest.warns(UserWarning, match="AdamWSPAM can't be compiled, its step is slower: no compiler$"):
        walk(failing, other, 3)
    assert torch.equal(plain, other)


def test_only_a_large_model_is_compiled_on_a_cpu() -> None:
    assert spam(nn.Parameter(torch.zeros(10)))._advance is adamwspam.by_pieces
    large = nn.Parameter(torch.zeros(adamwspam.WORTH_COMPILING, device="cpu"))
    assert isinstance(spam(large)._advance, Compiled)


@pytest.mark.parametrize(
    ("preset", "expected"), [("reference", (5000.0, 500, 150, 20)), ("ancestor", (50.0, 1000, 1000, 0))]
)
def test_the_preset_brings_the_constants(preset: str, expected: tuple[float, ...], tmp_path: Path) -> None:
    words = ["defconfig", f"O={tmp_path}", "OPTIMIZER=adamwspam", f"SPAM_PRESET={preset}", "TRACKER_PROJECT=named"]
    assert kconf.configure(ROOT, {}, words) == 0
    values = loaded(tmp_path)
    assert tuple(getattr(values, f"SPAM_{name}") for name in ("THETA", "INTERVAL", "WARMUP", "GUARD")) == expected
