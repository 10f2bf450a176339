"""What tracking costs a training: the same loop without it, with Kilter's log(), and with `accelerate.Accelerator.log`.

A step is 1.4 ms of arithmetic, as in a small model's training, and logs two numbers to TensorBoard, W&B (offline),
Trackio, and MLflow (SQLite) when it is installed. Each way has a process of its own; they take turns. Only the loop is
timed, with the trackers running beside it: not their start, and not what is left to them at the end.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from bench.log_call import BASE, Log, ours, stores, theirs  # noqa: E402  # it lies beside this file

STEPS = 600
ROUNDS = 3
TOOK = "the loop took "  # on a line of its own: clients, too, print
WORK = 16_000  # additions, about 1.4 ms; fixed, so that a step that is interrupted takes longer


def main() -> int:
    if len(sys.argv) > 1:
        print(f"{TOOK}{train(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])}")
        return 0
    from lib.names import installed

    trackers = (*BASE, "mlflow") if installed("mlflow") else BASE
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    for number in range(ROUNDS):
        print(f"{', '.join(trackers)}: round {number + 1} of {ROUNDS}, {STEPS} steps each", file=sys.stderr)
        for name in WAYS if number % 2 else reversed(WAYS):
            taken[name].append(seconds(name, trackers))
    report(taken, len(trackers))
    return 0


def seconds(name: str, trackers: Sequence[str]) -> float:
    """Of the loop, in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        words = [sys.executable, __file__, name, scratch, *trackers]
        done = subprocess.run(words, env=stores(Path(scratch)), capture_output=True, text=True, check=True)
    return next(float(line.removeprefix(TOOK)) for line in done.stdout.splitlines() if line.startswith(TOOK))


def train(name: str, here: Path, trackers: Sequence[str]) -> float:
    with WAYS[name](here, trackers) as log:
        began = time.perf_counter()
        for step in range(STEPS):
            total = 0.0
            for term in range(WORK):
                total += term * 0.5
            log({"train_loss": total / (step + 1), "learning_rate": 0.001}, step)
        return time.perf_counter() - began


@contextmanager
def nothing(here: Path, trackers: Sequence[str]) -> Iterator[Log]:
    yield lambda told, step: None


WAYS = {"no tracking": nothing, "kilter": ours, "accelerate": theirs}


def report(taken: dict[str, list[float]], trackers: int) -> None:
    """The median of the rounds with their range, and the median ratio of a round."""
    print(f"{f'{STEPS} steps, {trackers} trackers':<32}{'[s]':>26}{'/ no tracking':>26}")
    for name, times in taken.items():
        ratios = sorted(mine / without for mine, without in zip(times, taken["no tracking"], strict=True))
        cell = f"{statistics.median(times):.2f} [{min(times):.2f}-{max(times):.2f}]"
        ratio = f"{statistics.median(ratios):.2f} x [{ratios[0]:.2f}-{ratios[-1]:.2f}]"
        print(f"{name:<32}{cell:>26}{ratio:>26}")


if __name__ == "__main__":
    sys.exit(main())
