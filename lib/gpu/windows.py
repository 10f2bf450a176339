"""Windows: from samples and marks to what is logged. Pure: the clock, the files and the GPUs are the sampler's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from lib.gpu import balance
from lib.gpu.readings import HOST_FIELDS, THROTTLE, Gpu
from lib.gpu.store import HOUR_S, Header, Row
from lib.gpu.tally import Key, Tally, rounded

FIRST = 0  # the node whose sampler makes the windows
LEAST_SAMPLES, LEAST_S = 10, 10.0  # of a window, one of the two
PATIENCE_S = 3.0  # for the samples of other nodes and the marks of other processes
KWH_J = 3.6e6
ALWAYS = ("memory_used", "utilization", "temperature", "power")  # are logged of each GPU, also where they are unknown
WHERE_KNOWN = ("sm_clock", "memory_clock", "sm_active", "tensor_active")
ACTIVE = ("sm_active", "tensor_active")

Value = float | int | str | None


@dataclass(frozen=True)
class Terms:
    """What the values are computed for."""

    unit: str = "token"
    world: int = 1
    gpu_price_per_hour: float = 0.0
    electricity_price_per_kwh: float = 0.0


@dataclass
class Rank:
    """What one process of the job has said of itself, and of its work since the window began."""

    uuid: str  # of the GPU that it computes on
    step: int = 0  # the last that it has marked
    steps: int = 0
    compute_s: float = 0.0
    memory_mib: float | None = None

    @property
    def step_s(self) -> float | None:
        """Seconds of its own work for each step; None when it has not said."""
        return self.compute_s / self.steps if self.steps and self.compute_s else None


@dataclass(frozen=True)
class Closed:
    """A window that is over."""

    time: float
    begin: float
    step: int
    values: dict[str, Value]
    totals: dict[str, float]  # since the run began

    def entry(self) -> dict[str, Any]:
        """Its line in the file of windows."""
        return asdict(self)

    def suspicion(self) -> str:
        """Why the balance of the utilization is not to be believed."""
        cv = {name: self.values.get(f"gpu_load_balance_cv{name}") for name in ("", "_power", "_compute_time")}
        said = (
            f"utilization is balanced (CV {cv['']} %), but power ({cv['_power']} %) or work ({cv['_compute_time']} %)"
        )
        slowest = self.values.get("gpu_slowest_rank")
        who = "" if slowest is None else f"; rank {slowest} is the slowest"
        return f"{said} is not: some processes wait for another, spinning{who}"


@dataclass
class Windows:
    """The windows of one attempt of a job, which began at `began`; `totals` are those of earlier attempts."""

    terms: Terms
    began: float
    totals: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ranks: dict[int, Rank] = {}
        self.job: list[Key] = []
        self._headers: dict[int, Header] = {}
        self._energy: dict[Key, balance.Energy] = {}
        self._reached: dict[int, float] = {}  # node -> time of its latest sample
        self._tally, self._next = Tally(self.began), Tally(self.began)
        self._joules: dict[Key, float | None] = {}  # at the end of the window before
        self._counted: dict[Key, float] = {}  # what of each is in the total
        self._cut: tuple[float, int] | None = None  # time and step at which the current window ends
        self._later: list[tuple[int, Mapping[str, Any]]] = []  # marks of after that
        self._step, self._steps, self._units = 0, 0, 0  # the latest, and those of the current window

    def describe(self, node: int, header: Header) -> None:
        """The samples of `node` that follow are of these GPUs."""
        self._headers[node] = header
        self.job = self._job()

    def add(self, node: int, row: Row) -> None:
        """Take a sample."""
        header = self._headers[node]
        tally = self._tally if self._cut is None or row.time <= self._cut[0] else self._next
        tally.samples += node == FIRST
        self._reached[node] = row.time
        named = _named(header, row)
        for position, values in enumerate(row.gpus):
            key = (node, position)
            tally.of(key).add(header.fields, values)
            tally.of(key).joules = self._joules_of(key, row.time, named[position])
        tally.add_cv([named[position].get("utilization") for of, position in self.job if of == node], self.job)

    def _joules_of(self, key: Key, time: float, values: Mapping[str, float | None]) -> float | None:
        """What the GPU has used since its first sample; None when it does not say now."""
        power, counter = values.get("power"), values.get("energy")
        if power is None and counter is None:
            return None
        energy = self._energy.setdefault(key, balance.Energy())
        energy.add(time, power, counter)
        return energy.joules

    def mark(self, rank: int, entry: Mapping[str, Any]) -> None:
        """Take a line of a process: who it is, or how far it is."""
        if "uuid" in entry:
            self.ranks[rank] = Rank(entry["uuid"])
            self.job = self._job()
            return
        if rank not in self.ranks:
            return
        known = self.ranks[rank]
        known.step = entry["step"]
        if self._cut and known.step > self._cut[1]:
            self._later.append((rank, entry))
            return
        known.steps += entry["steps"]
        known.compute_s += entry["compute_s"]
        known.memory_mib = entry.get("memory_mib")
        if rank == 0:
            self._step = entry["step"]
            self._steps += entry["steps"]
            self._units += entry["units"]
            due = self._tally.samples >= LEAST_SAMPLES or entry["time"] >= self._tally.begin + LEAST_S
            if due and self._cut is None:
                self._cut = (entry["time"], entry["step"])

    def seen(self, node: int, row: Row) -> list[tuple[Gpu, float | None, float | None]]:
        """Of each GPU of the job on `node` what it is, and its utilization and power in a sample."""
        header = self._headers[node]
        named = _named(header, row)
        return [
            (header.gpus[position], named[position].get("utilization"), named[position].get("power"))
            for of, position in self.job if of == node
        ]  # fmt: skip

    def finished(self, now: float) -> Closed | None:
        """The window that is over, if all that belongs to it is in, or has not come for long."""
        if self._cut is None or (self.awaits(*self._cut) and now < self._cut[0] + PATIENCE_S):
            return None
        return self._close(*self._cut)

    def awaits(self, time: float, step: int) -> bool:
        """Whether a node's samples until `time`, or a process's mark of `step`, are still to come."""
        nodes = any(self._reached.get(node, 0.0) < time for node in self._headers if node != FIRST)
        return nodes or any(rank.step < step for rank in self.ranks.values())

    def complete(self) -> bool:
        """Whether all processes have marked the step that the first has marked last."""
        return FIRST not in self.ranks or all(rank.step >= self.ranks[FIRST].step for rank in self.ranks.values())

    def last(self, now: float) -> Closed | None:
        """What is left when training ends, however short; None when there is nothing."""
        if self._cut is not None:
            return self._close(*self._cut)
        return self._close(now, self._step) if self._tally.samples else None

    def _job(self) -> list[Key]:
        """The GPUs of the job: those that its processes compute on, in their order; else all that are visible."""
        gpus = self._gpus()
        places = {gpu.uuid: key for key, gpu in gpus.items() if gpu.uuid}  # one that is lost has none
        named = [places.get(rank.uuid) for _, rank in sorted(self.ranks.items())]
        known = [key for key in named if key is not None]
        whole = len(named) == self.terms.world and len(known) == len(named)
        return list(dict.fromkeys(known)) if whole else list(gpus)

    def _gpus(self) -> dict[Key, Gpu]:
        return {
            (node, position): gpu
            for node, header in sorted(self._headers.items())
            if header.fields != HOST_FIELDS
            for position, gpu in enumerate(header.gpus)
        }

    def _memory_total_mib(self, job: Sequence[Key]) -> float | None:
        gpus = self._gpus()
        return balance.total([gpus[key].memory_total_mib for key in job])

    def _close(self, time: float, step: int) -> Closed:
        tally, job = self._tally, self.job
        hours = (time - tally.begin) / HOUR_S
        self.totals["gpu_hours"] = self.totals.get("gpu_hours", 0.0) + hours * len(job)
        values: dict[str, Value] = {"gpu_samples": tally.samples, "gpu_window_s": time - tally.begin}
        values |= self._host(tally) if not job else self._of_gpus(tally, job)
        values |= self._balance(tally, job)
        values |= self._spent(tally, job) if job else {}
        shown = {name: rounded(value) if isinstance(value, float) else value for name, value in values.items()}
        closed = Closed(time, tally.begin, step, shown, dict(self.totals))
        self._tally, self._next, self._cut = self._next, Tally(time), None
        self._tally.begin = time
        self._steps = self._units = 0
        for rank in self.ranks.values():
            rank.steps, rank.compute_s = 0, 0.0
        later, self._later = self._later, []
        for number, entry in later:
            self.mark(number, entry)
        return closed

    def _of_gpus(self, tally: Tally, job: Sequence[Key]) -> dict[str, Value]:
        """What each GPU did, and all together."""
        means = {name: [tally.of(key).mean(name) for key in job] for name in (*ALWAYS, *WHERE_KNOWN)}
        values: dict[str, Value] = {}
        for name, known in means.items():
            if name in ALWAYS or any(value is not None for value in known):
                values |= {f"gpu_{index}_{name}": value for index, value in enumerate(known)}
        used, total = balance.total(means["memory_used"]), self._memory_total_mib(job)
        values |= {
            "gpu_total_memory_used": used,
            "gpu_total_memory_percent": 100 * used / total if used is not None and total else None,
            "gpu_average_utilization": balance.mean(means["utilization"]),
            "gpu_total_power": balance.total(means["power"]),
            "gpu_max_temperature": tally.hottest(job),
            "gpu_count_valid": sum(value is not None for value in means["utilization"]),
        }
        for name in ACTIVE:
            if any(value is not None for value in means[name]):
                values[f"gpu_average_{name}"] = balance.mean(means[name])
        for reason in THROTTLE.values():
            values[f"gpu_throttled_{reason}_percent"] = tally.throttled_percent(reason, job)
        return values

    def _balance(self, tally: Tally, job: Sequence[Key]) -> dict[str, Value]:
        """Whether all did the same; of processes without GPUs only their work can tell."""
        work = {rank: known.step_s for rank, known in sorted(self.ranks.items())}
        step_s = list(work.values()) if len(work) == self.terms.world else []
        compute_time = balance.cv_percent(step_s)
        values = self._of_load(tally, job, compute_time) if job else {}
        values["gpu_load_balance_cv_compute_time"] = compute_time
        if self.terms.world > 1:
            uneven = compute_time is not None and compute_time >= balance.FAIR
            values |= {f"gpu_{rank}_compute_time": seconds for rank, seconds in work.items()}
            values["gpu_slowest_rank"] = max(work, key=lambda rank: work[rank] or 0.0) if uneven else None
        return values

    def _of_load(self, tally: Tally, job: Sequence[Key], compute_time: float | None) -> dict[str, Value]:
        utilization, memory, power = (
            [tally.of(key).mean(name) for key in job] for name in ("utilization", "memory_used", "power")
        )
        unused_mib = balance.UNUSED * (self._memory_total_mib(job) or 0) / len(job)
        cv = balance.cv_percent(utilization, least=balance.IDLE)
        cv_power = balance.cv_percent(power)
        state = balance.state(utilization)
        return {
            "gpu_load_balance_cv": cv,
            "gpu_load_balance_quality": state,
            "gpu_load_balance_quality_code": balance.CODES[state],
            "gpu_load_balance_cv_memory": balance.cv_percent(memory, least=unused_mib),
            "gpu_load_balance_cv_power": cv_power,
            "gpu_load_balance_cv_sampled": tally.cv_sampled,
            "gpu_load_balance_max_over_mean": balance.max_over_mean(utilization) if cv is not None else None,
            "gpu_load_balance_suspect": int(balance.suspect(cv, power=cv_power, compute_time=compute_time)),
        }

    def _spent(self, tally: Tally, job: Sequence[Key]) -> dict[str, Value]:
        """Energy and money, of this window and since the run began."""
        now = {key: tally.of(key).joules for key in job}
        before = self._joules or dict.fromkeys(job, 0.0)
        self._joules = now
        gone = [
            end - begin if (end := now[key]) is not None and (begin := before.get(key)) is not None else None
            for key in job
        ]
        joules = balance.total(gone)
        known = balance.total(list(now.values())) is not None
        for key, spent in now.items():
            if spent is not None:
                self.totals["joules"] = self.totals.get("joules", 0.0) + spent - self._counted.get(key, 0.0)
                self._counted[key] = spent
        kwh = self.totals.get("joules", 0.0) / KWH_J
        terms = self.terms
        cost = self.totals["gpu_hours"] * terms.gpu_price_per_hour + kwh * terms.electricity_price_per_kwh
        counted = all(self._energy[key].counted for key in job if key in self._energy)
        values: dict[str, Value] = {
            "gpu_energy_joules": joules,
            "gpu_joules_per_step": joules / self._steps if joules is not None and self._steps else None,
            f"gpu_joules_per_{terms.unit}": joules / self._units if joules is not None and self._units else None,
            "gpu_energy_total_kwh": kwh if known else None,
            "gpu_energy_source": "counter" if counted else "power",
            "gpu_hours": self.totals["gpu_hours"],
        }
        if terms.gpu_price_per_hour or terms.electricity_price_per_kwh:
            values["gpu_cost"] = cost if known or not terms.electricity_price_per_kwh else None
        return values

    def _host(self, tally: Tally) -> dict[str, Value]:
        """What there is without a GPU: the nodes' processors and memory, and what a process says of its device."""
        nodes = [(node, 0) for node in sorted(self._headers)]
        used = balance.total([tally.of(key).mean("memory_used") for key in nodes])
        total = balance.total([self._headers[node].gpus[0].memory_total_mib for node, _ in nodes])
        values: dict[str, Value] = {
            "host_cpu_utilization": balance.mean([tally.of(key).mean("cpu_utilization") for key in nodes]),
            "host_memory_used": used,
            "host_memory_percent": 100 * used / total if used is not None and total else None,
        }
        told = {rank: known.memory_mib for rank, known in sorted(self.ranks.items()) if known.memory_mib is not None}
        return values | {f"gpu_{rank}_memory_used": mib for rank, mib in told.items()}


def _named(header: Header, row: Row) -> list[dict[str, float | None]]:
    """Of each GPU its values by name; none while it can't be reached."""
    return [dict(zip(header.fields, values or [], strict=False)) for values in row.gpus]
