"""Runs on disk as training leaves them, for what reads them: folders with a configuration, a journal and a result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lib.journal import folder, lines

GPUS = {
    "gpu_average_utilization": 80.0, "gpu_total_memory_used": 4000.0, "gpu_total_power": 600.0,
    "gpu_max_temperature": 61,
    "gpu_load_balance_cv": 7.0, "gpu_load_balance_quality": "Good",
    "gpu_energy_joules": 200.0, "gpu_joules_per_image": 0.5, "gpu_hours": 0.1,
}  # fmt: skip


def made_run(
    project: Path, name: str, values: Mapping[str, Any], *, accuracy: float | None = 0.9, gpus: bool = False,
    result: Mapping[str, Any] | None = None,
) -> folder.RunFolder:  # fmt: skip
    """A run of 40 steps that came to this accuracy; None: it never ended. `result` is what else it came to."""
    run = folder.RunFolder.create(project.parent, project.name, name)
    run.keep({"config.json": json.dumps({"values": {"MODEL": "lenet5", "LEARNING_RATE": 0.004, **values}})})
    run.keep({"environment.json": json.dumps({"host": "bench", "python": "3.11.7", "packages": {"torch": "2.13.0"}})})
    run.record("start", pid=1)
    end = 0.5 if accuracy is None else accuracy
    journal = lines.Journal(run.path / lines.NAME)
    for step in range(10, 50, 10):
        journal.append({"train_loss": 2.0 / step, "learning_rate": 0.004}, step)
        journal.append({"val_loss": 1.5 / step, "val_accuracy": end * step / 40}, step)
        if gpus:
            spent = {"gpu_energy_total_kwh": step / 4000, "gpu_window_s": 10.0, "gpu_samples": 10}
            journal.append({**GPUS, **spent, "gpu_total_memory_used": 3000.0 + 25 * step}, step)
    journal.close()
    if accuracy is not None:
        came_to = {"steps": 40, "val_loss": 0.04, "val_accuracy": accuracy, "best_val_loss": 0.03, "total_time_s": 12.0,
                   "sparsity": float(values.get("TARGET_SPARSITY", 0))}  # fmt: skip
        folder.write_result(run.path, {**came_to, **(result or {})})
    return run
