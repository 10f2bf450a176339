"""What a user should be told of while it happens: GPUs that are lost and back, and a job that spins without a step."""

from __future__ import annotations

import collections
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from lib.gpu.readings import Gpu, Reading

MOST = 5  # times that one thing of one GPU is told
SPIN_S, SPIN_STEPS = 60.0, 10  # without a step, the longer of the two
SPIN_UTILIZATION, SPIN_POWER = 95.0, 0.4  # [%] at least, and of the power limit at most
QUIET = ("sm_active", "tensor_active")  # only the newest GPUs have them: nobody misses them


def told(event: Mapping[str, Any], *, host: str = "") -> str:
    """An event of the sampler, of `host` where that is to be said, as a short line: `gpu 2 lost: GPU is lost`."""
    which = ", ".join(str(position) for position in event.get("gpus", ()))
    gpus = f"gpu {which}{f' of {host}' if host else ''}"
    match event["event"]:
        case "lost":
            return f"{gpus} lost: {event['why']}"
        case "lacks":
            return f"{gpus} lacks {event['field']}: {event['why']}"
        case "back":
            return f"{gpus}: {event['field']} is back"
    return str(event.get("why") or event.get("what", ""))


class Faults:
    """What each of the `count` GPUs can't say at present; a line when that changes."""

    def __init__(self, count: int) -> None:
        self._known: list[dict[str, str]] = [{} for _ in range(count)]
        self._told: set[tuple[int, str]] = set()  # of what is wrong now
        self._times: collections.Counter[tuple[int, str]] = collections.Counter()

    def look(self, readings: Sequence[Reading]) -> list[dict[str, Any]]:
        """The events of one sample: `lost`, `lacks` and `back`; GPUs of which the same can be said share one."""
        found: dict[tuple[str, str, str], list[int]] = {}
        for position, (before, reading) in enumerate(zip(self._known, readings, strict=True)):
            now = {field: why for field, why in reading.faults.items() if field not in QUIET}
            for field, why in now.items():
                if field not in before and self._times[position, field] < MOST:
                    self._times[position, field] += 1
                    self._told.add((position, field))
                    found.setdefault(("lost" if field == "gpu" else "lacks", field, why), []).append(position)
            if "gpu" not in now:  # while it is lost nothing is known of its fields
                for field in before.keys() - now.keys():
                    if (position, field) in self._told:
                        self._told.remove((position, field))
                        found.setdefault(("back", field, ""), []).append(position)
                self._known[position] = now
            else:
                self._known[position] = {**before, **now}
        return [
            {"event": event, "field": field.replace("gpu", "it"), "why": why, "gpus": positions}
            for (event, field, why), positions in found.items()
        ]


class Spin:
    """A job that is stuck: GPUs at full load, at low power, and no step; a process may hang in a collective."""

    def __init__(self) -> None:
        self._marked: float | None = None
        self._step = 0
        self._steps_s: collections.deque[float] = collections.deque(maxlen=32)
        self._since: float | None = None  # when it began to look like that
        self._told = False

    def mark(self, time: float, step: int) -> None:
        """The job is at `step`."""
        if self._marked is not None and step > self._step:
            self._steps_s.append((time - self._marked) / (step - self._step))
        self._marked, self._step, self._told = time, step, False

    def look(self, time: float, seen: Sequence[tuple[Gpu, float | None, float | None]]) -> str:
        """The warning, once, when it is due; else "". `seen` is of each GPU of the job its utilization and power."""
        spins = bool(seen) and all(
            utilization is not None and power is not None and gpu.power_limit_watts is not None
            and utilization >= SPIN_UTILIZATION and power < SPIN_POWER * gpu.power_limit_watts
            for gpu, utilization, power in seen
        )  # fmt: skip
        if not spins or self._marked is None:
            self._since = None
            return ""
        self._since = time if self._since is None else self._since
        patience_s = max(SPIN_S, SPIN_STEPS * statistics.median(self._steps_s or [0.0]))
        if self._told or time - max(self._since, self._marked) < patience_s:
            return ""
        self._told = True
        return (
            f"the GPUs are at full load with little power, and no step since step {self._step}, for "
            f"{time - self._marked:.0f} s: a process may be stuck while the others wait for it"
        )
