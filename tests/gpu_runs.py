"""Run folders with GPU samples, as a sampler would have left them: for the tests of what reads them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path

from lib.files import append_line, write_whole
from lib.gpu import store
from lib.gpu.readings import FIELDS, HOST_FIELDS, Gpu, Values
from lib.gpu.store import Header, Row, Writer
from lib.gpu.windows import FIRST, Terms, Windows
from lib.journal.folder import RunFolder

BEGIN = 1_763_719_200.0  # a full hour
TOTAL_MIB, RESERVED_MIB, LIMIT_WATTS = 23028.0, 513.0, 300.0
STEPS, UNITS, COMPUTE_S = 10, 5000, 0.5  # of a mark, which comes every MARK_S
MARK_S = 5

Wave = Callable[[int, int], Values | None]  # second and GPU -> its values, None while it is lost


def busy(second: int, gpu: int) -> Values:
    """A GPU in training: 90 %, 18 GB, with jitter; the energy is the exact integral of 240 W."""
    chance = random.Random(second * 16 + gpu)
    utilization = min(100.0, max(0.0, chance.gauss(90, 3)))
    memory = 18000.0 * min(1.0, second / 20) + chance.randrange(20)
    temperature = 68 - 30 * math.exp(-second / 60)
    return [round(utilization), memory, round(temperature), 240.0, 1560, 5666, 4, 1e6 + 240.0 * second, None, None]


def cards(count: int, host: str = "a") -> tuple[Gpu, ...]:
    """NVIDIA A10Gs."""
    return tuple(
        Gpu(index, f"GPU-{host}{index}", "NVIDIA A10G", TOTAL_MIB, RESERVED_MIB, LIMIT_WATTS) for index in range(count)
    )


def created(tmp_path: Path, name: str = "gpt2_adamw_1") -> RunFolder:
    """A run without any samples yet."""
    run = RunFolder.create(tmp_path / "runs", "gpt2-a3f2c", name)
    write_whole(run.path / "config.json", json.dumps({"values": {"MODEL": "gpt2"}}))
    return run


def sampled(
    run: RunFolder,
    *,
    gpus: int = 4,
    seconds: int = 120,
    wave: Wave = busy,
    begin: float = BEGIN,
    host: str = "a",
    slow_rank: int | None = None,
    price: float = 1.0,
    interval_s: float = 1.0,
) -> RunFolder:
    """An attempt of `seconds`, with as many processes as GPUs, of which `slow_rank` has three times the work."""
    header = Header(begin, host, "nvml", "driver 550.163.01", interval_s, FIELDS, cards(gpus, host))
    if not gpus:  # one process on a host without
        header = Header(begin, host, "host", "psutil 7", interval_s, HOST_FIELDS, (Gpu(0, "", host, 64000.0),))
    world = max(1, gpus)
    earlier = store.windows(run.path)
    windows = Windows(Terms("token", world, price), begin, dict(earlier[-1]["totals"]) if earlier else {})
    windows.describe(FIRST, header)
    for rank in range(world):
        uuid = header.gpus[rank].uuid if gpus else ""
        mark(run, rank, windows, {"time": begin, "rank": rank, "host": host, "uuid": uuid}, fresh=True)
    writer = Writer(run.path / store.FOLDER / "rank-0")
    writer.describe(header)
    for second in range(seconds):
        row = Row(begin + second * interval_s, [wave(second, index) for index in range(world)])
        writer.add(row)
        windows.add(FIRST, row)
        if second and second % MARK_S == 0:
            for rank in range(world):
                compute_s = COMPUTE_S * (3 if rank == slow_rank else 1)
                told = {"step": second * 2, "steps": STEPS, "units": UNITS, "compute_s": compute_s, "time": row.time}
                mark(run, rank, windows, told)
        log(run, [windows.finished(row.time)])
    log(run, iter(lambda: windows.last(begin + seconds * interval_s), None))
    writer.close()
    return run


def mark(run: RunFolder, rank: int, windows: Windows, entry: dict[str, object], *, fresh: bool = False) -> None:
    path = run.path / store.FOLDER / store.MARKS / f"rank-{rank}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if fresh:
        path.unlink(missing_ok=True)
    append_line(path, entry)
    windows.mark(rank, entry)


def log(run: RunFolder, closed: Iterable[object]) -> None:
    for window in closed:
        if window is not None:
            append_line(run.path / store.FOLDER / store.WINDOWS, window.entry())  # type: ignore[attr-defined]
