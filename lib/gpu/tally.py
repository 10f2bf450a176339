"""The sums over one window: what is kept of samples until their means are due. Its size does not grow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from lib.gpu import balance
from lib.gpu.readings import THROTTLE, Values

Key = tuple[int, int]  # the process that started the node's sampler, and the position among the GPUs that it reads
LEAST_SHARE = 0.5  # of the samples must have a value, else the mean of the rest would pass for that of the window


@dataclass
class Sums:
    """Of one GPU."""

    samples: int = 0
    lost: bool = False  # it could not be reached in one of them: then nothing of it counts
    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    hottest: float | None = None
    throttled: dict[str, int] = field(default_factory=lambda: dict.fromkeys(THROTTLE.values(), 0))
    joules: float | None = None  # since its first sample of all, at its last one in the window

    def add(self, fields: Sequence[str], values: Values | None) -> None:
        self.samples += 1
        if values is None:
            self.lost = True
            return
        for name, value in zip(fields, values, strict=True):
            if value is not None:
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1
                if name == "temperature":
                    self.hottest = value if self.hottest is None else max(self.hottest, value)
                if name == "throttle":
                    for bit, reason in THROTTLE.items():
                        self.throttled[reason] += bool(int(value) & bit)

    def mean(self, name: str) -> float | None:
        """The time-mean; None when the GPU was lost for a moment, or the value unknown for more than half the time."""
        count = self.counts.get(name, 0)
        known = count and not self.lost and count >= LEAST_SHARE * self.samples
        return self.sums[name] / count if known else None

    def throttled_percent(self, reason: str) -> float | None:
        count = self.counts.get("throttle", 0)
        return 100 * self.throttled[reason] / count if count and not self.lost else None


class Tally:
    """Of all GPUs of a window that began at `begin`."""

    def __init__(self, begin: float) -> None:
        self.begin = begin
        self.gpus: dict[Key, Sums] = {}
        self.samples = 0  # of the first node
        self._cvs: list[float] = [0.0, 0]  # sum and number of the samples' own coefficients of variation
        self._job: Sequence[Key] = ()

    def of(self, key: Key) -> Sums:
        return self.gpus.setdefault(key, Sums())

    def add_cv(self, utilization: balance.Means, job: Sequence[Key]) -> None:
        """The balance of one sample; `job` are the GPUs that count: when those change, it begins anew."""
        if job != self._job:
            self._job, self._cvs = job, [0.0, 0]
        cv = balance.cv_percent(utilization, least=balance.IDLE)
        if cv is not None:
            self._cvs = [self._cvs[0] + cv, self._cvs[1] + 1]

    @property
    def cv_sampled(self) -> float | None:
        """The mean of the samples' coefficients of variation [%]: a straggler that changes shows only here."""
        return self._cvs[0] / self._cvs[1] if self._cvs[1] else None

    def throttled_percent(self, reason: str, job: Sequence[Key]) -> float | None:
        """Share of the GPUs' time in which they ran slower for that reason."""
        return balance.mean([self.of(key).throttled_percent(reason) for key in job])

    def hottest(self, job: Sequence[Key]) -> float | None:
        known = [None if self.of(key).lost else self.of(key).hottest for key in job]
        return max((value for value in known if value is not None), default=None) if None not in known else None


def rounded(value: float | None) -> float | None:
    """Six significant digits: more is noise, and the journal is read by people too."""
    return value if value is None or value == 0 or not math.isfinite(value) else float(f"{value:.6g}")
