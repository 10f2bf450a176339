"""The batch that fits: what a model takes of memory, against PyTorch's own profiler, and how a step is divided."""

from __future__ import annotations

import resource
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from cloning import environment
from hypothesis import given
from hypothesis import strategies as some
from torch import Tensor, nn

from gpt2.model import GPT2
from lenet5.model import LeNet5
from lib import capacity
from lib.capacity import Batches, Fitted, Need
from lib.errors import Refused
from lib.journal.folder import RunFolder

MIB = 2**20
NEED = Need(weights=10, gradients=10, states=20, between=lambda samples: 5 + 100 * samples, validating=int)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), foreach=False)


def measured(model: nn.Module, example: list[Tensor], processes: int = 1, *, shared: bool = False) -> Need:
    return capacity.measured(model, example, adamw, precision="fp32", processes=processes, shared=shared)


def profiled(model: nn.Module, batch: list[Tensor]) -> int:
    """The most bytes above what was there before, in the second of two micro-batches, as the profiler counts them."""
    for _ in range(2):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            loss = model(*batch).mean()
            if loss.requires_grad:
                loss.backward()
    changes = [event.nbytes() for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    return max(accumulate(changes))


def tiny_gpt2() -> tuple[nn.Module, list[Tensor]]:
    model = GPT2(layers=3, heads=4, width=64, block_size=128, vocabulary=512)
    return model, list(torch.randint(0, 512, (2, 6, 128)))


def lenet5() -> tuple[nn.Module, list[Tensor]]:
    return LeNet5(batch_norm=True, classes=10), [torch.randn(6, 1, 32, 32)]


@pytest.mark.parametrize("make", [tiny_gpt2, lenet5])
def test_the_estimate_of_a_step_is_what_the_profiler_sees(make: object) -> None:
    model, batch = make()  # type: ignore[operator]
    need = measured(model, batch)
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    assert (need.gradients, need.states) == (parameters, 2 * parameters)
    seen = profiled(model, batch)
    assert need.between(6) == pytest.approx(seen, rel=0.1)
    model.eval()
    with torch.no_grad():
        assert need.validating(6) == pytest.approx(profiled(model, batch), rel=0.1)


def test_measuring_takes_hardly_any_memory_and_leaves_no_trace() -> None:
    model = GPT2(layers=2, heads=4, width=64, block_size=1024, vocabulary=50304)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = list(torch.empty(2, 1, 1024, dtype=torch.long, device="meta").unbind())
    most, chance = resident(), torch.get_rng_state()
    assert measured(model, example).between(1) > 400 * MIB, "the logits of one sample in float32, and their gradient"
    assert resident() - most < 100 * MIB
    assert torch.equal(chance, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def resident() -> int:
    """The most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_half_precision_keeps_less_for_backward() -> None:
    model, example = tiny_gpt2()
    full, half = (capacity.measured(model, example, adamw, precision=name, processes=1) for name in ("fp32", "bf16"))
    assert half.between(8) < 0.9 * full.between(8) and half.states == full.states


def test_processes_average_in_buckets_or_share_the_weights() -> None:
    model, example = tiny_gpt2()
    alone, together, sharing = (
        measured(model, example),
        measured(model, example, 4),
        measured(model, example, 4, shared=True),
    )
    assert together.of(2) - alone.of(2) == alone.gradients
    assert sharing.states == alone.states // 4 and sharing.between(2) == alone.between(2)


@pytest.mark.parametrize(
    ("build", "copies"), [(adamw, 2), (lambda m: torch.optim.SGD(m.parameters(), momentum=0.9), 1)]
)
def test_what_the_optimizer_keeps_is_counted_on_the_optimizer_itself(build: object, copies: int) -> None:
    model, example = lenet5()
    need = capacity.measured(model, example, build, precision="fp32", processes=1)  # type: ignore[arg-type]
    assert need.states == copies * need.gradients


@given(
    share=some.integers(1, 5000),
    processes=some.integers(1, 16),
    cap=some.integers(1, 512),
    memory=some.integers(0, 100_000),
)
def test_a_step_always_sees_exactly_as_many_samples_as_asked(share: int, processes: int, cap: int, memory: int) -> None:
    wanted = Batches(batch_size=cap, hyper_param_auto=True, effective_batch_size=share * processes)
    batch, accumulation = wanted.fitted(processes, lambda count: NEED.fits(count, memory))
    assert batch * accumulation * processes == share * processes
    assert batch <= cap and (batch == 1 or NEED.of(batch) <= memory * capacity.SHARE)
    larger = [size for size in range(batch + 1, cap + 1) if share % size == 0]
    assert all(NEED.of(size) > memory * capacity.SHARE for size in larger), "the largest that fits"


def test_without_hyper_param_auto_the_batch_is_the_configured_one() -> None:
    assert Batches(batch_size=12, gradient_accumulation=5).fitted(3, lambda _: False) == (12, 5)


def test_a_batch_that_processes_cannot_share_is_one_clear_line() -> None:
    wanted = Batches(batch_size=12, hyper_param_auto=True, effective_batch_size=512)
    with pytest.raises(Refused, match=r"^EFFECTIVE_BATCH_SIZE=512: 3 processes can't share it. Use 510 or 513$"):
        wanted.share(3)
    with pytest.raises(Refused, match=r"Use 1024$"):
        wanted.share(1024)


def test_a_run_goes_on_with_the_batch_that_it_began_with(tmp_path: Path) -> None:
    store = RunFolder.create(tmp_path, "project", "run")
    wanted = Batches(batch_size=64, hyper_param_auto=True, effective_batch_size=64)
    first = capacity.at_start(wanted, lambda _: NEED, store, torch.device("cpu"))
    assert first == (64, 1)
    huge = Need(weights=0, gradients=0, states=10**18, between=int, validating=int)
    assert capacity.at_start(wanted, lambda _: huge, store, torch.device("cpu")) == first
    (event,) = [event for event in store.events if event["event"] == "fitted"]
    assert event["need_bytes"] == NEED.of(64) and event["memory_bytes"] > 0


def test_a_container_with_little_memory_counts_for_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    (tmp_path / "memory.current").write_text(f"{60 * MIB}\n")
    whole = capacity.free(torch.device("cpu"))
    monkeypatch.setattr(capacity, "CGROUP", tmp_path)
    assert capacity.free(torch.device("cpu")) < whole
    (tmp_path / "memory.max").write_text("max\n")
    assert capacity.free(torch.device("cpu")) > 200 * MIB


@pytest.mark.parametrize(
    ("batch", "accumulation", "said"), [(12, 5, "6 GRADIENT_ACCUMULATION=10"), (7, 1, "1 GRADIENT_ACCUMULATION=7")]
)
def test_the_advice_keeps_the_samples_of_a_step(batch: int, accumulation: int, said: str) -> None:
    assert capacity.advice(batch, accumulation).startswith(f"BATCH_SIZE={said} ")
    assert "BATCH_SIZE is 1 already" in capacity.advice(1, accumulation)


@pytest.mark.parametrize(
    ("fitted", "processes", "said"),
    [
        (Fitted(12, 10), 4, "12 samples x 10 added up x 4 processes = 480 a step"),
        (Fitted(32, 1), 1, "32 samples a step"),
    ],
)
def test_a_step_is_told_in_its_factors(fitted: Fitted, processes: int, said: str) -> None:
    assert capacity.told(fitted, processes) == said


def test_a_run_trains_with_the_batch_that_was_fitted_and_records_it(clone: Path) -> None:
    flags = ["--hyper-param-auto", "--effective-batch-size=48", "--batch-size=20", "--max-iters=4", "--log-interval=2"]
    command = [sys.executable, "lenet5/train.py", *flags, "--eval-samples=1", "--tracker=none", "--device=cpu"]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert "batch     16 samples x 3 added up = 48 a step; about " in done.stdout
    (config,) = clone.glob("runs/*/*/config.json")
    (event,) = [event for event in RunFolder(config.parent).events if event["event"] == "fitted"]
    assert (event["batch_size"], event["gradient_accumulation"]) == (16, 3)
    assert config.with_name("result.json").exists()
