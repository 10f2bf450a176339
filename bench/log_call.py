"""What one `log()` of five scalars costs its caller: ours against `accelerate.Accelerator.log`, the same trackers.

Both have TensorBoard, W&B (offline) and Trackio on, and MLflow (SQLite) as well in a second table when it is installed.
Each logs from a process of its own, so that the threads of one do not slow the other, and they take turns in blocks of
calls, so that whatever else the machine does hits both.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parent.parent)

PEERS = ("kilter", "accelerate")
BASE = ("tensorboard", "wandb", "trackio")
BLOCK = 50  # calls between two turns
TURNS = 12  # of each, in a round
ROUNDS = 3
START_S = 60.0  # for the trackers to start
PACES_S = (0.0, 0.0014)  # work between two calls: none, and as in a small model's training

Log = Callable[[dict[str, float], int], None]
Taken = dict[tuple[str, float], list[float]]  # peer, pace -> seconds of each call


def main() -> int:
    if len(sys.argv) > 1:
        return peer(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    from lib.names import installed

    for trackers in (BASE, *([(*BASE, "mlflow")] if installed("mlflow") else [])):
        rows = []
        for number in range(ROUNDS):
            print(f"{', '.join(trackers)}: round {number + 1} of {ROUNDS}, {BLOCK * TURNS} calls each", file=sys.stderr)
            with tempfile.TemporaryDirectory() as scratch:
                rows.append(measure(Path(scratch), trackers))
        report(rows, trackers)
    return 0


def stores(here: Path) -> dict[str, str]:
    """This environment, in which trackers write to `here` and nowhere else."""
    mlflow = f"sqlite:///{here}/mlflow.db"
    ours = {"TRACKIO_DIR": str(here / "trackio"), "WANDB_DIR": str(here), "MLFLOW_TRACKING_URI": mlflow}
    return {**os.environ, **ours, "WANDB_MODE": "offline"}


def measure(here: Path, trackers: Sequence[str]) -> Taken:
    """One round of both, at each pace."""
    for name in PEERS:
        (here / name).mkdir()
    children = {
        name: subprocess.Popen(
            [sys.executable, __file__, name, str(here / name), *trackers],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            env=stores(here / name),
        )
        for name in PEERS
    }  # fmt: skip
    for child in children.values():
        assert child.stdout is not None
        while (line := child.stdout.readline()).strip() != "ready":
            assert line, "a peer ended before it was ready"
    taken: Taken = {(name, pace): [] for name in PEERS for pace in PACES_S}
    for turn in range(TURNS + 1):
        for name, pace in taken if turn % 2 else reversed(taken):
            child = children[name]
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(f"{pace}\n")
            child.stdin.flush()
            seconds = [float(word) for word in child.stdout.readline().split()]
            taken[name, pace] += seconds if turn else []  # the first turn warms up
    for child in children.values():
        child.communicate("end\n")
    return taken


def peer(name: str, here: Path, trackers: Sequence[str]) -> int:
    """One of the two: a block of calls for each line on standard input, the seconds of each call as one line back."""
    with {"kilter": ours, "accelerate": theirs}[name](here, trackers) as log:
        print("ready", flush=True)
        step = 0
        for line in sys.stdin:
            if line.strip() == "end":
                break
            seconds = []
            for _ in range(BLOCK):
                told = values(step)
                work_until = time.perf_counter() + float(line)
                while time.perf_counter() < work_until:
                    pass
                began = time.perf_counter()
                log(told, step)
                seconds.append(time.perf_counter() - began)
                step += 1
            print(*seconds, flush=True)
    return 0


@contextmanager
def ours(here: Path, trackers: Sequence[str]) -> Iterator[Log]:
    from lib.track.run import Run
    from lib.track.settings import Settings

    on: dict[str, Any] = {f"enable_{name}": True for name in trackers}  # Settings has other fields, of other types
    with Run.create(here, "ours", "run", texts={"config.json": "{}"}, trackers=Settings(60, **on)) as run:
        until = time.monotonic() + START_S
        while len(run.looks) < len(trackers) and time.monotonic() < until:  # accelerate, too, starts its own first
            print(*run.news(), sep="\n", file=sys.stderr)
            time.sleep(0.1)
        yield run.log
        run.finish({})


@contextmanager
def theirs(here: Path, trackers: Sequence[str]) -> Iterator[Log]:
    from accelerate import Accelerator

    accelerator = Accelerator(log_with=list(trackers), project_dir=str(here))
    accelerator.init_trackers("theirs", config={"seed": 0})
    yield lambda told, step: accelerator.log(told, step=step)
    accelerator.end_training()


def values(step: int) -> dict[str, float]:
    noise = random.Random(step)
    names = ("train_loss", "val_loss", "learning_rate", "grad_norm", "tokens_per_second")
    return {name: noise.random() for name in names}


def report(rows: list[Taken], trackers: Sequence[str]) -> None:
    """The median of the rounds with their range, and the ratio of the medians, at each pace."""
    middle = len(rows) // 2

    def at(name: str, pace: float, share: float) -> list[float]:
        return sorted(sorted(row[name, pace])[int(share * len(row[name, pace]))] * 1e6 for row in rows)

    for pace in PACES_S:
        between = f"{pace * 1e3:g} ms apart" if pace else "back to back"
        print(f"{f'5 scalars, {len(trackers)} trackers, {between}':<40}{'p50 [us]':>26}{'p99 [us]':>26}")
        for name in PEERS:
            cells = [at(name, pace, share) for share in (0.5, 0.99)]
            texts = [f"{cell[middle]:.1f} [{cell[0]:.1f}-{cell[-1]:.1f}]" for cell in cells]
            print(f"{name:<40}" + "".join(text.rjust(26) for text in texts))
        ratios = [at("accelerate", pace, share)[middle] / at("kilter", pace, share)[middle] for share in (0.5, 0.99)]
        print(f"{'accelerate / kilter':<40}" + "".join(f"{ratio:.0f} x".rjust(26) for ratio in ratios))


if __name__ == "__main__":
    sys.exit(main())
