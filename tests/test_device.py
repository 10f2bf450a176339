"""Values on an accelerator: nobody waits for them, and they keep their order, their time and their type."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from lib.journal import lines
from lib.journal.lines import Journal, Reader
from lib.track import device
from lib.track.run import Run
from lib.track.settings import Settings


class Away:
    """Stands in for a tensor of one element on a GPU; asking it for its number is what must not happen."""

    device = SimpleNamespace(type="cuda")

    def __init__(self, number: float) -> None:
        self.number = number

    def numel(self) -> int:
        return 1

    def item(self) -> float:
        raise AssertionError("a synchronisation")


@dataclass
class Gpu:
    """Stands in for the copies from a GPU; they arrive when a test says so, or when somebody waits."""

    copies: list[FakeCopy] = field(default_factory=list)
    waits: int = 0

    def fetch(self, values: list[Away]) -> FakeCopy:
        self.copies.append(FakeCopy(self, [value.number for value in values]))
        return self.copies[-1]

    def arrive(self) -> None:
        for copy in self.copies:
            copy.arrived = True


@dataclass
class FakeCopy:
    gpu: Gpu
    numbers: list[float]
    arrived: bool = False
    broken: bool = False

    def ready(self) -> bool:
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered\nmore of it")
        return self.arrived

    def values(self) -> list[float]:
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered\nmore of it")
        self.gpu.waits += not self.arrived
        return self.numbers


@pytest.fixture
def gpu() -> Gpu:
    return Gpu()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / lines.NAME


def seqs(path: Path) -> list[int]:
    return [line.seq for line in Reader(path).read()]


def test_a_value_that_is_on_its_way_holds_back_no_later_line(path: Path, gpu: Gpu) -> None:
    journal = Journal(path, gpu.fetch)
    journal.append({"loss": Away(0.5), "rate": 0.1}, 0)
    journal.append({"loss": 0.25}, 1)
    assert seqs(path) == [1]
    journal.append({"loss": Away(0.125)}, 2)
    assert (seqs(path), gpu.waits) == ([1], 0)
    gpu.copies[0].arrived = True
    journal.append({"loss": 0.0625}, 3)
    assert (seqs(path), gpu.waits) == ([1, 0, 3], 0)


def test_a_line_has_the_number_and_the_time_of_its_call_whenever_it_is_written(path: Path, gpu: Gpu) -> None:
    journal = Journal(path, gpu.fetch)
    before = time.time()
    journal.append({"loss": Away(0.5), "rate": 0.1}, 7, to=["wandb"])
    called = time.time()
    time.sleep(0.05)
    journal.append({"loss": 1.0}, 8)
    gpu.arrive()
    journal.flush()
    late = next(line for line in Reader(path).read() if line.step == 7)
    assert (late.seq, late.values, late.to) == (0, {"loss": 0.5, "rate": 0.1}, ("wandb",))
    assert before <= late.time <= called


def test_who_reads_a_run_has_its_points_in_the_order_of_the_calls(path: Path, gpu: Gpu) -> None:
    journal = Journal(path, gpu.fetch)
    for step in range(6):
        journal.append({"loss": Away(step) if step % 2 else float(step)}, step)
    journal.close()
    assert sorted(seqs(path)) != seqs(path), "else this shows nothing"
    assert [(line.step, line.values["loss"]) for line in lines.read(path.parent)] == [(i, i) for i in range(6)]


def test_all_values_of_a_call_go_with_one_copy_also_nested_ones(path: Path, gpu: Gpu) -> None:
    journal = Journal(path, gpu.fetch)
    journal.append({"a": Away(1), "b": {"c": Away(2), "d": 3}, "e": Away(math.nan)}, 0)
    assert len(gpu.copies) == 1
    journal.close()
    values = Reader(path).read()[0].values
    assert math.isnan(float(str(values.pop("e")))) and values == {"a": 1, "b/c": 2, "b/d": 3}


@pytest.mark.parametrize("end", ["flush", "close"])
def test_flush_and_close_write_all_that_is_on_its_way(path: Path, gpu: Gpu, end: str) -> None:
    journal = Journal(path, gpu.fetch)
    for step in range(3):
        journal.append({"loss": Away(step)}, step)
    getattr(journal, end)()
    assert (seqs(path), gpu.waits) == ([0, 1, 2], 3)


def test_a_rewind_voids_what_was_on_its_way_at_later_steps_and_nothing_else(path: Path, gpu: Gpu) -> None:
    journal = Journal(path, gpu.fetch)
    for step in range(5):
        journal.append({"loss": Away(step)}, step)
    journal.rewind(2)
    journal.append({"loss": Away(30)}, 3)
    journal.close()
    assert [(line.step, line.values["loss"]) for line in lines.read(path.parent)] == [(0, 0), (1, 1), (2, 2), (3, 30)]


def test_a_rewind_counts_by_its_number_wherever_its_line_stands() -> None:
    def line(seq: int, step: int, rewind: int | None = None) -> lines.Line:
        return lines.Line(seq, 0.0, step, {"a": seq}, rewind)

    written = [line(0, 0), line(2, 1, rewind=1), line(3, 2), line(1, 2)]  # the last one was logged before the rewind
    assert [kept.seq for kept in lines.effective(written)] == [0, 3]


def test_when_the_accelerator_fails_the_host_values_are_kept_with_one_warning(
    path: Path, gpu: Gpu, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = Journal(path, gpu.fetch)
    for step in range(3):
        journal.append({"loss": Away(step), "rate": 0.5}, step)
        gpu.copies[-1].broken = True
    journal.append({"rate": 0.25}, 3)
    journal.close()
    assert [line.values for line in lines.read(path.parent)] == [{"rate": 0.5}] * 3 + [{"rate": 0.25}]
    assert capsys.readouterr().err == (
        "warning: values on the accelerator are lost: CUDA error: device-side assert triggered\n"
    )


def test_a_run_writes_them_at_its_flush_and_at_its_end(
    tmp_path: Path, gpu: Gpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "fetch", gpu.fetch)
    with Run.create(tmp_path, "p", "run", texts={"config.json": "{}"}, trackers=Settings(1)) as run:
        run.log({"loss": Away(0.5)}, 0)
        assert lines.read(run.store.path) == []
        run.flush()
        assert len(lines.read(run.store.path)) == 1
        run.log({"loss": Away(0.25)}, 1)
        run.finish({})
        assert len(lines.read(run.store.path)) == 2
        run.log({"loss": Away(0.125)}, 2)
    assert [line.values["loss"] for line in lines.read(run.store.path)] == [0.5, 0.25, 0.125]


# --- the copy itself ---
@dataclass
class Cuda:
    """Writes down what is asked of `torch.cuda`, in its order."""

    told: list[str] = field(default_factory=list)

    def current_stream(self, _: torch.device) -> str:
        return "main"

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        self.told.append(f"on {stream.name}")
        yield
        self.told.append(f"off {stream.name}")

    def Event(self) -> Event:
        return Event(self.told)


@dataclass
class Stream:
    name: str
    told: list[str]

    def wait_stream(self, other: str) -> None:
        self.told.append(f"{self.name} waits for {other}")


@dataclass
class Event:
    told: list[str]

    def record(self, stream: Stream) -> None:
        self.told.append(f"recorded on {stream.name}")

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.told.append("waited")


def copied(values: list[torch.Tensor]) -> tuple[device.Copy, list[str]]:
    cuda = Cuda()
    return device.Copy(values, Stream("side", cuda.told), cuda), cuda.told


def test_a_copy_waits_for_the_computing_stream_on_its_own_and_for_the_host_nobody_does() -> None:
    copy, told = copied([torch.tensor(1.0)])
    assert told == ["side waits for main", "on side", "recorded on side", "off side"]
    assert not copy.ready() and "waited" not in told
    assert (copy.values(), told[-1]) == ([1.0], "waited")


def test_each_value_comes_with_its_own_type_to_the_last_bit() -> None:
    given = [
        torch.tensor(0.1), torch.tensor(0.1, dtype=torch.float64), torch.tensor([2**62 + 1]), torch.tensor(True),
        torch.tensor(3.140625, dtype=torch.bfloat16), torch.tensor(-7, dtype=torch.int8),
        torch.ones(3, 3, requires_grad=True)[1, 1], torch.tensor(math.inf, dtype=torch.float16),
    ]  # fmt: skip
    got = copied(given)[0].values()
    assert got == [value.item() for value in given]
    assert list(map(type, got)) == [float, float, int, bool, float, int, float, float]


def test_a_value_that_is_overwritten_after_the_call_keeps_what_it_was() -> None:
    loss = torch.tensor(0.5)
    copy, _ = copied([loss])
    loss.zero_()
    assert copy.values() == [0.5]


# --- with a GPU ---
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_log_does_not_synchronise_with_a_gpu(tmp_path: Path) -> None:
    work = torch.randn(4096, 4096, device="cuda")
    total = torch.zeros((), device="cuda")
    with Run.create(tmp_path, "p", "run", texts={"config.json": "{}"}, trackers=Settings(1)) as run:
        run.log({"loss": total + 0.5}, 0)  # what is made once (the stream, pinned memory) may synchronise
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(50):
                work = work @ work / 64
            before = time.perf_counter()
            for step in range(1, 20):
                total += 1
                run.log({"loss": total, "twice": total.double() * 2, "count": total.long(), "host": 0.25}, step)
            took = time.perf_counter() - before
            busy = not torch.cuda.current_stream().query()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert busy, f"the device was done before log() returned ({took:.3f} s): nothing is shown"
        run.finish({})
    got = {line.step: line.values for line in lines.read(run.store.path)}
    assert got[0] == {"loss": 0.5}
    assert all(got[i] == {"loss": i, "twice": 2.0 * i, "count": i, "host": 0.25} for i in range(1, 20))
