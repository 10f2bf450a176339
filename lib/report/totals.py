"""What was logged of the GPUs in each window, put together over a run; what a window does not know is left out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

SECONDS, JOULES = "gpu_window_s", "gpu_energy_joules"  # of each window

Windows = Sequence[Mapping[str, Any]]  # what was logged of each, by name


def known(windows: Windows, name: str) -> list[float]:
    """The finite numbers of that name."""
    return [float(values[name]) for values in windows if is_finite(values.get(name))]


def mean(windows: Windows, name: str) -> float | None:
    """Each window counts by its length."""
    pairs = [(float(values[name]), float(values[SECONDS])) for values in windows if is_finite(values.get(name))]
    total = math.fsum(seconds for _, seconds in pairs)
    return math.fsum(value * seconds for value, seconds in pairs) / total if total > 0 else None


def joules_per_unit(windows: Windows, name: str) -> float | None:
    """Energy over units, of all windows in which both are known; the mean of rates would count idle time too much."""
    pairs = [(values.get(JOULES), values.get(name)) for values in windows]
    both = [(joules, each) for joules, each in pairs if is_finite(joules) and is_finite(each) and joules and each]
    units = math.fsum(joules / each for joules, each in both)
    return math.fsum(joules for joules, _ in both) / units if units else None


def is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
