"""The report's parts about all runs: how many, the GPUs, the energy, what failed, how to run each again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from lib.gpu import balance
from lib.progress import duration
from lib.report import markup, statistics
from lib.report.comparison import plus_minus
from lib.report.groups import Group, Part, known
from lib.report.markup import Table
from lib.report.outcomes import Outcome, Quantity

UTILIZATION = Quantity("gpu_utilization", "Utilization", "%")
POWER = Quantity("gpu_power_watts", "Power", "W", 0)
TEMPERATURE = Quantity("gpu_temperature", "Hottest", "°C", 0)
BALANCE = Quantity("gpu_balance_cv", "Load balance, CV", "%")
MEMORY = Quantity("gpu_memory_peak_mib", "Memory, highest", "MiB", 0)
HOST = (Quantity("host_utilization", "Processors", "%"), Quantity("host_memory_mib", "Memory", "MiB", 0))
ENERGY = (
    Quantity("gpu_energy_kwh", "Energy", "Wh", 2, 1000),
    Quantity("gpu_joules_per_unit", "Each token or image", "J", 4),
    Quantity("gpu_hours", "GPU time", "min", 1, 60),
    Quantity("gpu_cost", "Cost", "", 4),
)
OFF = "Nobody measured. GPU_MONITOR=y on make's line turns it on: make test_matrix GPU_MONITOR=y"


def facts(outcomes: Sequence[Outcome]) -> list[tuple[str, str]]:
    """How much there is: (number, what it is of)."""
    states = Counter(outcome.trouble for outcome in outcomes if outcome.trouble)
    done = sum(outcome.done for outcome in outcomes)
    found = [(f"{len(outcomes):,}", "runs"), (f"{done:,}", "finished")]
    found += [(f"{count:,}", trouble) for trouble, count in states.items()]
    seconds = sum(outcome.numbers.get("total_time_s", 0.0) for outcome in outcomes)
    found.append((duration(seconds), "of training"))
    if kwh := sum(outcome.numbers.get("gpu_energy_kwh", 0.0) for outcome in outcomes):
        found.append((f"{kwh:.3g} kWh", "by the GPUs"))
    return found


def gpus(parts: Sequence[Part], most: int) -> str:
    """Memory, utilization and balance: means over the seeds, and each run by itself."""
    groups = [(part, group) for part in parts for group in part.groups if _measured(group.outcomes)]
    if not groups:
        return _host(parts, most)
    runs = [one for _, group in groups for one in group.outcomes if _measured([one])]
    highest = max((one.numbers.get(MEMORY.name, 0.0) for one in runs), default=0.0)
    head = ["", MEMORY.heading, UTILIZATION.heading, BALANCE.heading, "Quality", POWER.heading, TEMPERATURE.heading]
    words = (
        "Over the whole run: memory of all GPUs together at its highest; utilization, power and the coefficient of "
        "variation of the GPUs' utilization as means over the run. Under 5 % the balance is Excellent, under 10 Good, "
        "under 20 Fair."
    )
    together = Table(head, [_of_gpus(_named(part, group), group.outcomes, highest) for part, group in groups])
    each = Table(head, [_of_gpus(one.run.name, [one], highest) for one in runs])
    return markup.note(words) + markup.table(together, most) + markup.folded("Each run", markup.table(each, most))


def _of_gpus(name: str, outcomes: Sequence[Outcome], highest: float) -> list[str]:
    """A row: means and deviations over the outcomes; the bar of the `highest` memory is full."""
    summaries = [statistics.summary(known(outcomes, one)) for one in (MEMORY, UTILIZATION, BALANCE, POWER, TEMPERATURE)]
    memory, load, cv, power, hottest = summaries
    quality = (
        balance.quality(cv.mean) if cv else ", ".join(dict.fromkeys(one.balance for one in outcomes if one.balance))
    )
    return [
        name,
        markup.bar(plus_minus(memory, MEMORY), memory.mean / highest if memory and highest else None),
        markup.bar(plus_minus(load, UTILIZATION), load.mean / 100 if load else None),
        plus_minus(cv, BALANCE),
        quality,
        plus_minus(power, POWER),
        plus_minus(hottest, TEMPERATURE),
    ]


def _host(parts: Sequence[Part], most: int) -> str:
    """What there is of the machine where there was no GPU to look at."""
    rows = _rows(parts, HOST)
    if not rows:
        return markup.note(OFF)
    head = ["", *(one.heading for one in HOST)]
    return markup.note("No GPU: the processors and the memory of the whole host.") + markup.table(
        Table(head, rows), most
    )


def energy(parts: Sequence[Part], most: int) -> str:
    """What was used, and what it cost."""
    shown = [one for one in ENERGY if any(group.values(one) for part in parts for group in part.groups)]
    if not shown:
        return markup.note(OFF)
    words = "Of the GPUs, each run from its first sample to its last; mean ± standard deviation of a run."
    head = ["", *(one.heading for one in shown)]
    return markup.note(words) + markup.table(Table(head, _rows(parts, shown)), most)


def failures(outcomes: Sequence[Outcome], most: int) -> str:
    """What is not done, and why."""
    odd = [one for one in outcomes if one.trouble]
    if not odd:
        return markup.note("Nothing: every run is finished, with a finite loss.")
    rows = [[one.run.name, one.trouble, markup.wide(one.why)] for one in odd]
    words = "The run's folder has more, in console.log and events.jsonl. make continue runs what is missing."
    return markup.note(words) + markup.table(Table(["Run", "State", "Why"], rows, 3), most)


def commands(outcomes: Sequence[Outcome], most: int) -> str:
    """A line for each run that trains it, and nothing else, where it was trained."""
    rows = [[one.run.name, markup.code(one.command)] for one in outcomes]
    words = (
        "In the folder of the repository. A run that is finished is left as it is; make reproduce RUN=<run> trains it "
        "again as a new one, and says whether the curve is the same."
    )
    return markup.note(words) + markup.folded("Each run", markup.table(Table(["Run", "Line"], rows, 2), most))


def _rows(parts: Sequence[Part], shown: Sequence[Quantity]) -> list[list[str]]:
    """A row for each group that has at least one of the quantities."""
    groups = [(part, group) for part in parts for group in part.groups if any(group.values(one) for one in shown)]
    return [[_named(part, group), *(plus_minus(group.summary(one), one) for one in shown)] for part, group in groups]


def _named(part: Part, group: Group) -> str:
    return f"{part.model} · {group.label}" if part.model else group.label


def _measured(outcomes: Sequence[Outcome]) -> bool:
    return any(one.name in of.numbers for of in outcomes for one in (MEMORY, UTILIZATION))
