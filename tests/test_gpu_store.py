"""The samples on disk: what is read is what was written, by the hour and by the minute, after any kind of death."""

from __future__ import annotations

import json
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from gpu_runs import BEGIN, cards

from lib.gpu import store
from lib.gpu.readings import FIELDS
from lib.gpu.store import Header, Row, Tail, Writer, pack
from lib.options import ROOT

WEEK_S = 604_800


def header(count: int = 2, host: str = "a") -> Header:
    return Header(BEGIN, host, "nvml", "driver 1", 1.0, FIELDS, cards(count))


def noise(seconds: int, count: int) -> Iterator[Row]:
    """Readings of `count` GPUs as they are in training, one a second."""
    chance = random.Random(1)
    for second in range(seconds):
        gpus = [
            [
                chance.randrange(80, 100), 18000 + chance.randrange(3), 66, round(chance.uniform(240, 260), 2),
                chance.choice([1560, 1575]), 5666, chance.choice([0, 4]),
                round(1e6 + 250 * second + chance.random(), 2), None, None,
            ]
            for _ in range(count)
        ]  # fmt: skip
        yield Row(BEGIN + second, gpus)


def wait_for_packing(folder: Path) -> None:
    until = time.monotonic() + 30
    while list(folder.glob("samples-*.jsonl")) and time.monotonic() < until:
        time.sleep(0.02)


def test_what_is_read_is_what_was_written_over_hours_and_attempts(tmp_path: Path) -> None:
    rows = list(noise(7200 + 60, 2))
    writer = Writer(tmp_path)
    writer.describe(header())
    for row in rows[:5000]:
        writer.add(row)
    writer.close()
    writer = Writer(tmp_path)  # another attempt
    writer.describe(header(host="b"))
    for row in rows[5000:]:
        writer.add(row)
        if row.time % 3600 == 0:
            wait_for_packing(tmp_path)
    writer.close()
    found = list(store.samples(tmp_path))
    assert [[row.time, row.gpus] for _, row in found] == [[row.time, row.gpus] for row in rows]
    assert {of.host for of, _ in found[:5000]} == {"a"}
    assert {of.host for of, _ in found[5000:]} == {"b"}
    assert len(list(tmp_path.glob("samples-*.jsonl.gz"))) == 3  # the first attempt was in its second hour


def test_a_minute_holds_least_mean_and_highest(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.describe(header(1))
    for second in range(90):
        writer.add(Row(BEGIN + second, [[second, 1000, 60, 200.0, 1500, 5000, 4, 100.0 * second, None, None]]))
    writer.close()
    (of, begin, count, rolled), (_, later, rest, _) = list(store.minutes(tmp_path))
    assert (begin, count, later, rest) == (BEGIN, 60, BEGIN + 60, 30)
    values = dict(zip(of.fields, rolled[0], strict=True))
    assert values["utilization"] == [0, 29.5, 59]
    assert values["memory_used"] == [1000, 1000, 1000]
    assert values["energy"] == [5900, 5900, 5900]  # a counter's mean means nothing: its last value
    assert values["sm_active"] is None


def test_a_lost_gpu_is_null_on_disk_too(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.describe(header())
    writer.add(Row(BEGIN, [None, [90.0] * len(FIELDS)]))
    writer.close()
    ((_, row),) = store.samples(tmp_path)
    assert row.gpus == [None, [90.0] * len(FIELDS)]
    ((_, _, _, rolled),) = store.minutes(tmp_path)
    assert rolled[0] == [None] * len(FIELDS)


@pytest.mark.parametrize("moment", range(4))
def test_the_samples_are_readable_after_sigkill_at_any_point(tmp_path: Path, moment: int) -> None:
    code = """
import sys; sys.path.insert(0, "tests")
from pathlib import Path
from test_gpu_store import BEGIN, header, noise
from lib.gpu.store import Writer
writer = Writer(Path(sys.argv[1])); writer.describe(header(8))
print("ready", flush=True)
for number, row in enumerate(noise(10**6, 8)):
    writer.add(row._replace(time=BEGIN + 20 * number))  # an hour is over after 180 of them
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        time.sleep(0.2 + 0.13 * moment)
        process.send_signal(signal.SIGKILL)
    rows = [row for _, row in store.samples(tmp_path)]
    assert len(rows) > 100
    assert [row.time for row in rows] == [BEGIN + 20 * number for number in range(len(rows))]
    Writer(tmp_path).close()  # the next attempt
    wait_for_packing(tmp_path)
    assert [row for _, row in store.samples(tmp_path)] == rows


def test_a_torn_line_is_skipped_and_closed(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.describe(header())
    rows = list(noise(3, 2))
    writer.add(rows[0])
    with (tmp_path / store.SAMPLES).open("a") as file:
        file.write("[1763719201.0,[[9")
    writer.add(rows[1])
    assert [row.time for _, row in store.samples(tmp_path)] == [rows[0].time, rows[1].time]


def test_packing_leaves_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "samples-1.jsonl"
    path.write_text(header().line() + "\n" + json.dumps([BEGIN, [None, None]]) + "\n")
    (tmp_path / ".samples-1.jsonl.tmp").write_bytes(b"half of it")  # of a packer that was killed
    before = list(store.samples(tmp_path))
    packed = path.read_bytes()
    pack([path])
    assert list(store.samples(tmp_path)) == before
    path.write_bytes(packed)  # killed before it took the old one away
    assert list(store.samples(tmp_path)) == before


@pytest.mark.parametrize("place", [0, 100, -6], ids=["its beginning", "its middle", "its sum"])
def test_a_packed_hour_that_is_damaged_costs_no_more_than_itself(tmp_path: Path, place: int) -> None:
    writer = Writer(tmp_path)
    writer.describe(header())
    rows = list(noise(3600 + 5, 2))
    for row in rows:
        writer.add(row)
    writer.close()
    wait_for_packing(tmp_path)
    (packed,) = tmp_path.glob("*.gz")
    damaged = bytearray(packed.read_bytes())
    damaged[place] ^= 0xFF
    packed.write_bytes(damaged)
    found = [row.time for _, row in store.samples(tmp_path)]
    assert found[-5:] == [row.time for row in rows[-5:]]


def test_who_follows_a_file_misses_no_line_when_another_takes_its_place(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    tail = Tail(path)
    assert tail.read() == []
    path.write_text("[1]\n[2]\n[3")
    assert tail.read() == [[1], [2]]
    with path.open("a") as file:
        file.write("]\n[4]\n")
    path.rename(tmp_path / "aside")
    path.write_text("[5]\n")
    assert tail.read() == [[3], [4], [5]]
    assert Tail(path, begin=path.stat().st_size).read() == []


@pytest.mark.timeout(600)
@pytest.mark.parametrize("hours", [3, pytest.param(WEEK_S // 3600, marks=pytest.mark.slow)])
def test_a_week_of_eight_gpus_takes_less_than_80_mb_and_no_memory(tmp_path: Path, hours: int) -> None:
    writer = Writer(tmp_path)
    writer.describe(header(8))
    rows = list(noise(3600, 8))
    for hour in range(hours):
        for row in rows:
            writer.add(row._replace(time=row.time + 3600 * hour))
        if hour == 0:
            began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        wait_for_packing(tmp_path)
    writer.rotate()
    wait_for_packing(tmp_path)
    writer.close()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size / (hours * 3600) * WEEK_S < 80e6
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began < 8 << 10  # KiB
