"""What a run came to, read from its folder: numbers under one name each, curves, and what it was."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lib.gpu import balance
from lib.journal import lines
from lib.journal.folder import RunFolder
from lib.plot import Curve, curve
from lib.report import totals

SEED = "SEED"
AXES = ("MODEL", "OPTIMIZER", "PRUNING", "TARGET_SPARSITY", SEED)  # of a run that is not part of a matrix
MEANS = {  # number of an outcome -> what was logged of each window, whose mean over the run it is
    "gpu_utilization": "gpu_average_utilization",
    "gpu_memory_mib": "gpu_total_memory_used",
    "gpu_power_watts": "gpu_total_power",
    "gpu_balance_cv": "gpu_load_balance_cv",
    "host_utilization": "host_cpu_utilization",
    "host_memory_mib": "host_memory_used",
}
HIGHEST = {"gpu_memory_peak_mib": "gpu_total_memory_used", "gpu_temperature": "gpu_max_temperature"}
LAST = {"gpu_energy_kwh": "gpu_energy_total_kwh", "gpu_hours": "gpu_hours", "gpu_cost": "gpu_cost"}
PER_UNIT = ("gpu_joules_per_token", "gpu_joules_per_image")
QUALITY = "gpu_load_balance_quality"


@dataclass(frozen=True)
class Quantity:
    """A number of an outcome as it is shown: times `scale`, with so many digits, in `unit`."""

    name: str
    label: str
    unit: str = ""
    digits: int = 1
    scale: float = 1.0
    higher: bool = False  # is better
    short: str = ""  # the heading of a column

    def shown(self, value: float) -> float:
        return value * self.scale

    def text(self, value: float | None, *, sign: bool = False) -> str:
        """`97.41`, with `sign` `+0.31`; a dash for what nobody knows. What rounds to zero is `0.00` or `+0.00`."""
        if value is None:
            return "–"
        return f"{self.shown(value):{'+' if sign else ''}z,.{self.digits}f}".replace("-", "−")

    @property
    def heading(self) -> str:
        return (self.short or self.label) + (f" [{self.unit}]" if self.unit else "")


# What a model is judged by: the first of these that its runs have.
QUALITIES = (
    Quantity("val_accuracy", "Validation accuracy", "%", 2, 100, higher=True, short="Accuracy"),
    Quantity("val_perplexity", "Validation perplexity", "", 2, short="Perplexity"),
    Quantity("val_loss", "Validation loss", "nats", 4, short="Loss"),
)
BEST_LOSS = Quantity("best_val_loss", "Best validation loss", "nats", 4, short="Best loss")
SPARSITY = Quantity("sparsity", "Sparsity", "%", 1, 100)
TIME = Quantity("total_time_s", "Training time", "s", 1, short="Time")
MEMORY = Quantity("peak_memory_mib", "Peak memory", "MiB", 0)


@dataclass(frozen=True)
class Outcome:
    """One run."""

    run: RunFolder
    axes: Mapping[str, str]
    state: str  # as RunFolder.state says
    numbers: Mapping[str, float]  # of result.json and of the GPUs; what is no finite number is left out
    diverged: bool  # it is done, and its loss is no number
    balance: str  # quality of the GPUs' load balance; empty where nobody measured
    curves: Mapping[str, Curve]
    values: Mapping[str, Any] = field(default_factory=dict)  # of its configuration
    environment: Mapping[str, str] = field(default_factory=dict)  # machine and code, as far as they are known
    command: str = ""
    why: str = ""  # it failed

    @property
    def done(self) -> bool:
        return self.state == "finished"

    @property
    def trouble(self) -> str:
        """What is wrong with it, in a word or two; empty when nothing is."""
        if self.done:
            return "diverged" if self.diverged else ""
        return "failed" if self.why else "not started" if self.state == "empty" else self.state

    @property
    def model(self) -> str:
        return self.axes.get("MODEL", "")

    @property
    def seed(self) -> str:
        return self.axes.get(SEED, "")


def read(run: RunFolder, *, axes: Mapping[str, str] | None, command: str, why: str) -> Outcome:
    """The outcome of the run; without `axes` it is placed by its own configuration."""
    told = run.configuration.get("values", {})
    values = {name: value for name, value in told.items() if not name.startswith("MATRIX_")}  # a cell's say nothing
    result = run.result or {}
    numbers = {name: float(value) for name, value in result.items() if totals.is_finite(value)}
    points = lines.read(run.path)
    names = ("train_loss", *(quality.name for quality in QUALITIES))
    numbers |= monitored([point.values for point in points])
    loss = result.get("val_loss")
    return Outcome(
        run=run,
        axes=axes or {name: str(values[name]) for name in AXES if name in values},
        state="finished" if result else run.state(),
        numbers=numbers,
        diverged=bool(result) and loss is not None and not totals.is_finite(loss),
        balance=_balance(numbers, [point.values.get(QUALITY) for point in points]),
        curves={name: found for name in names if (found := curve(points, name)).steps},
        values=values,
        environment=_environment(run),
        command=command,
        why=why,
    )


def monitored(logged: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """What was logged of the GPUs (or, without any, of the host), over the run; empty where nobody measured."""
    windows = [values for values in logged if totals.SECONDS in values]
    if not windows:
        return {}
    found: dict[str, float | None] = {}
    for name, source in MEANS.items():
        found[name] = totals.mean(windows, source)
    for name, source in HIGHEST.items():
        found[name] = max(totals.known(windows, source), default=None)
    for name, source in LAST.items():
        found[name] = next(reversed(totals.known(windows, source)), None)
    rates = (totals.joules_per_unit(windows, unit) for unit in PER_UNIT)
    found["gpu_joules_per_unit"] = next((rate for rate in rates if rate), None)
    return {name: value for name, value in found.items() if value is not None}


def _environment(run: RunFolder) -> dict[str, str]:
    told = run.environment
    machine = run.machines[-1] if run.machines else {}
    found = {
        **{name: told.get(name) for name in ("host", "platform", "python", "commit")},
        "torch": told.get("packages", {}).get("torch"),
        **{name: machine.get(name) for name in ("device", "processes", "threads")},
    }
    return {name: str(value) for name, value in found.items() if value is not None}


def _balance(numbers: Mapping[str, float], states: Sequence[Any]) -> str:
    """The word for the mean over the run; where no window has a number, the last one's reason."""
    if (cv := numbers.get("gpu_balance_cv")) is not None:
        return balance.quality(cv)
    return str(next((state for state in reversed(states) if state), ""))
