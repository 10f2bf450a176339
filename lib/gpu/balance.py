"""Whether several GPUs (or processes) do the same amount of work: the definitions, and nothing else.

All over the time-means of one window, one for each GPU of the job. docs/gpu-monitoring.md has the reasons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

EXCELLENT, GOOD, FAIR = 5.0, 10.0, 20.0  # [%] up to which a coefficient of variation is called so; from there on Poor
IDLE = 5.0  # [%] of mean utilization, under which there is no load to balance
UNUSED = 0.01  # of the total memory, likewise
CODES = {"Excellent": 4, "Good": 3, "Fair": 2, "Poor": 1, "Idle": 0, "Single": 0, "Unknown": 0}  # charts need numbers

Means = Sequence[float | None]


def cv_percent(means: Means, *, least: float = 0.0) -> float | None:
    """Population standard deviation / mean × 100 of what the GPUs did.

    None where that says nothing: fewer than two, one of them unknown, or a mean that is 0 or under `least`.
    """
    known = [value for value in means if value is not None]
    if len(known) < max(2, len(means)):
        return None
    mean = math.fsum(known) / len(known)
    if mean <= 0 or mean < least:
        return None
    return 100 * math.sqrt(math.fsum((value - mean) ** 2 for value in known) / len(known)) / mean


def quality(cv_percent: float) -> str:
    """The word for a coefficient of variation [%]."""
    bands = ((EXCELLENT, "Excellent"), (GOOD, "Good"), (FAIR, "Fair"))
    return next((word for limit, word in bands if cv_percent < limit), "Poor")


def state(utilization: Means) -> str:
    """The quality of the load's balance; Single, Unknown or Idle where there is none to speak of."""
    if len(utilization) == 1:
        return "Single"
    if not utilization or None in utilization:
        return "Unknown"
    cv = cv_percent(utilization, least=IDLE)
    return "Idle" if cv is None else quality(cv)


def suspect(utilization: float | None, *, power: float | None, compute_time: float | None) -> bool:
    """Whether a balanced utilization [CV in %] hides a straggler.

    Who waits for the others in a collective spins, at 100 %; his lower power or the straggler's longer work tell.
    """
    others = [cv for cv in (power, compute_time) if cv is not None]
    return utilization is not None and utilization < EXCELLENT and max(others, default=0.0) >= FAIR


def max_over_mean(means: Means) -> float | None:
    """How much more than the average the busiest has; None as in `cv_percent`."""
    if cv_percent(means) is None:
        return None
    known = [value for value in means if value is not None]
    return max(known) * len(known) / math.fsum(known)


def total(values: Means) -> float | None:
    """The sum; None, and not less, when one is unknown."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def mean(values: Means) -> float | None:
    """The mean; None, and no survivors' mean, when one is unknown."""
    summed = total(values)
    return None if summed is None else summed / len(values)


class Energy:
    """What one GPU has used since its first reading.

    From its counter; where it has none, or the counter began anew, the area under its power (the trapezoidal rule).
    """

    def __init__(self) -> None:
        self.joules = 0.0
        self.counted = True  # all of it by the counter
        self._time = 0.0
        self._power: float | None = None
        self._counter: float | None = None

    def add(self, time: float, power_watts: float | None, counter_j: float | None) -> None:
        """Take a reading. One without any value changes nothing: the next with one stands for the time between."""
        if counter_j is not None and self._counter is not None and counter_j >= self._counter:
            self.joules += counter_j - self._counter
        elif power_watts is not None and self._power is not None:
            self.joules += (power_watts + self._power) / 2 * (time - self._time)
            self.counted = False
        if power_watts is not None or counter_j is not None:
            self._time, self._power, self._counter = time, power_watts, counter_j
