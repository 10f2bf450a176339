"""The report of a large matrix: 1,000 runs of 200 log calls each, on GPUs that were monitored."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)

RUNS, CALLS, VALIDATIONS, WINDOWS = 1000, 200, 10, 20
SEEDS, RATES = 5, 8
AXES = ("OPTIMIZER", "PRUNING", "TARGET_SPARSITY", "LEARNING_RATE", "SEED")
OPTIMIZERS = ("sgd", "adam", "adamw", "adamwadv", "adamwspam")
PRUNINGS = ("none", "magnitude", "movement")
MOST_S = 20.0


def main() -> int:
    from lib import report
    from lib.journal.folder import RunFolder

    taken_s = []
    for count in (RUNS // 10, RUNS):
        with tempfile.TemporaryDirectory() as scratch:
            project = Path(scratch, "runs", "lenet5-bench")
            axes = {}
            for number, values in enumerate(itertools.islice(combinations(), count)):
                path = project / f"run-{number:04d}"
                make_run(path, number, values)
                axes[str(path)] = dict(zip(AXES, map(str, values), strict=True))
            runs = [RunFolder(Path(path)) for path in axes]
            began, busy = time.perf_counter(), time.process_time()
            paths = report.build(
                runs, Path(scratch), title="bench", axes=axes, baseline={"OPTIMIZER": "adamw", "PRUNING": "none"},
                commands={}, failures={},
            )  # fmt: skip
            taken_s.append(time.perf_counter() - began)
            cpu_s, size = time.process_time() - busy, paths[0].stat().st_size
        print(f"{count:5} runs: {taken_s[-1]:.1f} s ({cpu_s:.1f} s of the processor), a page of {size / 1000:.0f} KB")
    print(f"{taken_s[-1] / taken_s[0]:.1f} times as long for 10 times as many; at most {MOST_S:.0f} s for {RUNS}")
    return 0


def combinations() -> itertools.product[tuple[str, str, str, str, int]]:
    rates = [repr(0.001 * 1.1**n) for n in range(RATES)]
    return itertools.product(OPTIMIZERS, PRUNINGS, ("0.5", "0.9"), rates, range(SEEDS))


def make_run(folder: Path, number: int, made_of: tuple[str, str, str, str, int]) -> None:
    """A finished run, as far as a report reads it."""
    chance = random.Random(number)
    optimizer, pruning, sparsity, rate, seed = made_of
    reached = 0.0 if pruning == "none" else float(sparsity)
    best = 0.98 - 0.05 * reached**4 + chance.gauss(0, 0.003)
    folder.mkdir(parents=True)
    values = {f"SYMBOL_{n}": n for n in range(100)} | {
        "MODEL": "lenet5", "OPTIMIZER": optimizer, "PRUNING": pruning, "TARGET_SPARSITY": sparsity,
        "LEARNING_RATE": rate, "SEED": seed,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"values": values}))
    result = {
        "steps": 10 * CALLS,
        "val_loss": 1 - best,
        "val_accuracy": best,
        "sparsity": reached,
        "total_time_s": 60.0,
    }
    (folder / "result.json").write_text(json.dumps({**result, "peak_memory_mib": 900 + 100 * chance.random()}))
    environment = {"host": "bench", "packages": {f"package-{n}": "1.0" for n in range(120)}, "commit": "0" * 40}
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "journal.jsonl").write_text("".join(lines(chance, best)))


def lines(chance: random.Random, best: float) -> list[str]:
    """What it has logged."""
    logged: list[tuple[int, dict[str, float | str | None]]] = []
    for call in range(1, CALLS + 1):
        share = call / CALLS
        loss = 2.3 * math.exp(-5 * share) + 0.05 + chance.gauss(0, 0.01)
        logged.append(
            (10 * call, {"train_loss": loss, "learning_rate": 1e-3, "grad_norm": 2.5, "sparsity": 0.5 * share})
        )
        if call % (CALLS // VALIDATIONS) == 0:
            logged.append((10 * call, {"val_loss": loss, "val_accuracy": best * (1 - math.exp(-6 * share))}))
        if call % (CALLS // WINDOWS) == 0:
            gpus = {f"gpu_{n}_{name}": chance.uniform(10, 90) for n in range(4) for name in ("utilization", "power")}
            totals = {"gpu_average_utilization": 80.0, "gpu_total_memory_used": 8000.0, "gpu_load_balance_cv": 4.2}
            logged.append((10 * call, {"gpu_window_s": 10.0, "gpu_energy_total_kwh": 0.01 * share, **gpus, **totals}))
    return [
        json.dumps({"seq": number, "time": 1.7e9 + number, "step": step, "values": values}) + "\n"
        for number, (step, values) in enumerate(logged)
    ]


if __name__ == "__main__":
    sys.exit(main())
