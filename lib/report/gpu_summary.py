"""What the GPUs of a run did, as a text: a table, the balance, energy and cost, and what stood out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from lib.gpu import balance
from lib.gpu.alarms import told
from lib.gpu.readings import THROTTLE
from lib.progress import duration
from lib.report import totals
from lib.report.gpu_recording import Card, Recording, Track, stretches

GIB = 1024.0  # MiB
SPIKE = 0.1  # of the GPU's memory, over the median
DROP = 0.5  # of the median utilization
BRIEF = 0.1  # of the run: what lasts longer is no spike
MOST_EVENTS = 20
BLANK = "–"


def text(recording: Recording) -> str:
    """The whole summary, a line each."""
    run = recording.run
    lines = [
        f"GPUs of {run.project}/{run.name} ({run.state()})",
        f"{hardware(recording)}; {duration(recording.seconds)}, {recording.samples:,} samples, "
        f"one each {recording.header.interval_s:g} s",
        "",
        *_table(recording),
        "",
        *(_line(*said) for said in _said(recording)),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def hardware(recording: Recording) -> str:
    """`4 × NVIDIA A10G, driver 550.163.01`, and the hosts where there are several."""
    if recording.of_host:
        what = f"no GPU: processor and memory of {', '.join(recording.hosts)} ({recording.header.about})"
    else:
        names = Counter(track.card.gpu.name for track in recording.tracks)
        counted = ", ".join(f"{count} × {name}" for name, count in names.items())
        what = f"{counted} ({recording.header.about})"
    return f"{what} on {', '.join(recording.hosts)}" if len(recording.hosts) > 1 else what


def name_of(card: Card, recording: Recording) -> str:
    """How the GPU is called: its index in the job, and its host where there are several."""
    where = f" on {card.host}" if len(recording.hosts) > 1 else ""
    return f"host {card.host}" if recording.of_host else f"GPU {card.index}{where}"


def spikes(track: Track) -> tuple[int, float, float]:
    """How often memory rose briefly by a tenth of the GPU's over its median; the highest of them [MiB] and when [s]."""
    values, total = track.values["memory_used"], track.card.gpu.memory_total_mib
    if not total or np.isnan(values[:, 1]).all():
        return 0, 0.0, 0.0
    above = values[:, 2] > np.nanmedian(values[:, 1]) + SPIKE * total
    found = [(begin, end) for begin, end in stretches(above) if end - begin <= max(1, BRIEF * len(above))]
    best = max(
        ((float(values[at, 2]), float(track.seconds[at])) for begin, end in found for at in range(begin, end)),
        default=(0.0, 0.0),
    )
    return len(found), *best


def drops(track: Track) -> tuple[int, float]:
    """How often utilization fell under half its median, and for how many seconds in all."""
    values = track.values["utilization"][:, 1]
    if np.isnan(values).all() or not (median := float(np.nanmedian(values))):
        return 0, 0.0
    below = values < DROP * median
    each_s = float(np.median(np.diff(track.seconds))) if len(track.seconds) > 1 else 0.0
    return len(stretches(below)), float(below.sum()) * each_s


def _table(recording: Recording) -> Iterator[str]:
    """A line for each GPU, and one for all."""
    if recording.of_host:
        yield f"{'host':<28}{'processor [%]':>16}{'memory [GiB]':>24}"
        yield f"{'':<28}{'mean':>8}{'most':>8}{'mean':>8}{'peak':>8}{'of':>8}"
        for track in recording.tracks:
            cells = [track.mean("utilization"), track.highest("utilization"), *_memory(track)]
            yield f"{track.card.host[:27]:<28}" + "".join(f"{_number(cell):>8}" for cell in cells)
        return
    yield f"{'':<28}{'utilization [%]':>16}{'memory [GiB]':>24}{'temp. [°C]':>14}{'power [W]':>21}{'energy':>10}"
    yield _row("GPU", ["mean", "lowest", "mean", "peak", "of", "mean", "most", "mean", "most", "limit", "[kJ]"])
    for track in recording.tracks:
        name = f"{track.card.index} {track.card.gpu.name}"
        yield _row(name if len(recording.hosts) == 1 else f"{name} {track.card.host}", _cells(track))
    if len(recording.tracks) > 1:
        yield _row("all", _all(recording))


def _cells(track: Track) -> list[str]:
    power, limit = ([track.mean("power"), track.highest("power")], track.card.gpu.power_limit_watts)
    temperature = [track.mean("temperature"), track.highest("temperature")]
    first = [_number(track.mean("utilization")), _number(track.least("utilization"), "{:.0f}")]
    rest = [_number(value, "{:.0f}") for value in (*temperature, *power, limit)]
    return [*first, *map(_number, _memory(track)), *rest, _number(_scaled(track.joules, 1e-3))]


def _all(recording: Recording) -> list[str]:
    """Sums and means over the GPUs, as they were logged; the limits and capacities are those of the GPUs."""
    cards = [track.card.gpu for track in recording.tracks]
    memory = (recording.average("gpu_total_memory_used"), recording.highest("gpu_total_memory_used"))
    total = balance.total([gpu.memory_total_mib for gpu in cards])
    temperature, power = recording.highest("gpu_max_temperature"), recording.average("gpu_total_power")
    most, limit = recording.highest("gpu_total_power"), balance.total([gpu.power_limit_watts for gpu in cards])
    joules = balance.total([track.joules for track in recording.tracks])
    return [
        _number(recording.average("gpu_average_utilization")), "",
        *(_number(_scaled(value, 1 / GIB)) for value in (*memory, total)),
        "", *(_number(value, "{:.0f}") for value in (temperature, power, most, limit)),
        _number(_scaled(joules, 1e-3)),
    ]  # fmt: skip


def _row(name: str, cells: list[str]) -> str:
    wide, narrow, energy = cells[:5], cells[5:-1], cells[-1]
    return (
        f"{name[:27]:<28}"
        + "".join(f"{cell:>8}" for cell in wide)
        + "".join(f"{cell:>7}" for cell in narrow)
        + f"{energy:>10}"
    )


def _memory(track: Track) -> list[float | None]:
    used = track.mean("memory_used"), track.highest("memory_used"), track.card.gpu.memory_total_mib
    return [_scaled(value, 1 / GIB) for value in used]


def _said(recording: Recording) -> Iterator[tuple[str, str]]:
    """What there is to say below the table: what it is about, and the words."""
    if not recording.windows:
        yield "balance", "no window of 10 samples is over yet"
    else:
        yield from _balance(recording)
        yield from _spent(recording)
    for track in recording.tracks:
        who = name_of(track.card, recording)
        number, most, when = spikes(track)
        if number:
            yield (
                "spikes",
                f"{who}: memory {_times(number)} for a short while over {100 * SPIKE:.0f} % above its median, "
                f"up to {most / GIB:.1f} GiB after {duration(when)}",
            )
        number, seconds = drops(track)
        if number and not recording.of_host:
            yield "drops", f"{who}: utilization under half its median {_times(number)}, together {duration(seconds)}"
        if spans := track.lost_spans():
            yield "lost", f"{who}: {', '.join(f'{duration(begin)} to {duration(end)}' for begin, end in spans[:5])}"
    events = [event for event in recording.events if event["event"] != "found"]
    for event in events[:MOST_EVENTS]:
        said = told(event, host=event["host"] if len(recording.hosts) > 1 else "")
        yield "alarms", f"after {duration(event['seconds'])}: {said}"
    if len(events) > MOST_EVENTS:
        yield "alarms", f"and {len(events) - MOST_EVENTS} more, in {recording.run.path.name}/gpu/rank-*/events.jsonl"


def _balance(recording: Recording) -> Iterator[tuple[str, str]]:
    shares = recording.qualities()
    cv = recording.average("gpu_load_balance_cv")
    if cv is not None:
        times = ", ".join(f"{state} {100 * share:.0f} %" for state, share in shares.items())
        yield "balance", f"utilization CV {cv:.1f} %: {balance.quality(cv)}; of the time {times}"
    elif shares:
        why = {"Single": "one GPU: nothing to balance", "Idle": "idle", "Unknown": "a GPU without readings"}
        yield (
            "balance",
            "; ".join(f"{why.get(state, state)} {100 * share:.0f} % of the time" for state, share in shares.items()),
        )
    others = {
        "memory": "_memory",
        "power": "_power",
        "work of the processes": "_compute_time",
        "each sample": "_sampled",
    }
    means = {name: recording.average(f"gpu_load_balance_cv{suffix}") for name, suffix in others.items()}
    if known := [f"{name} {mean:.1f} %" for name, mean in means.items() if mean is not None]:
        yield "", f"CV of {', '.join(known)}"
    slowest = Counter(
        values["gpu_slowest_rank"] for values in recording.values if values.get("gpu_slowest_rank") is not None
    )
    for rank, number in slowest.most_common(1):
        yield (
            "",
            f"rank {rank} did the most work in {number} of {len(recording.windows)} windows: the others wait for it",
        )
    if suspects := int(np.nansum(recording.logged("gpu_load_balance_suspect"))):
        yield (
            "suspect",
            f"in {suspects} of {len(recording.windows)} windows utilization was balanced, and power or work was not: "
            "who waits for another spins, at 100 %",
        )


def _spent(recording: Recording) -> Iterator[tuple[str, str]]:
    reasons = {reason: recording.average(f"gpu_throttled_{reason}_percent") for reason in THROTTLE.values()}
    if held := [f"{reason.replace('_', ' ')} {share:.0f} %" for reason, share in reasons.items() if share]:
        yield "throttled", f"{', '.join(held)} of the time"
    kwh = recording.last("gpu_energy_total_kwh")
    if kwh is not None:
        source = {"counter": "by the GPUs' counters", "power": "from sampled power"}
        rates = [f"{rate:.4g} J per {unit}" for unit, rate in joules_per(recording).items()]
        said = [f"{kwh:.4g} kWh", *rates]
        yield "energy", f"{', '.join(said)} ({source.get(recording.last('gpu_energy_source'), 'unknown source')})"
    if (hours := recording.last("gpu_hours")) is not None:
        yield "GPU hours", f"{hours:.4g}"
    if (cost := recording.last("gpu_cost")) is not None:
        yield "cost", f"{cost:.4g} at the configured prices"


def joules_per(recording: Recording) -> dict[str, float]:
    """Energy for each step, token or image, over all windows in which both are known."""
    prefix = "gpu_joules_per_"
    names = sorted({name for values in recording.values for name in values if name.startswith(prefix)})
    rates = {name.removeprefix(prefix): totals.joules_per_unit(recording.values, name) for name in names}
    return {unit: rate for unit, rate in rates.items() if rate is not None}


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return BLANK if value is None else form.format(value)


def _line(about: str, said: str) -> str:
    return f"{about:<12}{said}"
