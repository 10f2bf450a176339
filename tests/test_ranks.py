"""Several processes: which of them log is a choice, and all of a job's runs are one group, as in W&B's own example."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from cloning import environment
from grouping import free_port

from lib.journal.folder import RunFolder

QUICK = ["--max-iters=6", "--log-interval=2", "--eval-samples=1", "--eval-interval=6", "--batch-size=8", "--device=cpu"]


# A line for each training process as Python ends: how many of its threads are the process group's.
LEFT = """
import atexit, os, sys

def tell():
    names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
    print("LEFT", sum("gloo" in name for name in names), flush=True)

if "RANK" in os.environ:
    atexit.register(tell)
"""


def job(clone: Path, *flags: str) -> RunFolder:
    """Two nodes of two processes each, as torchrun starts them; the folder of the run."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
    meet = ["--master-addr=127.0.0.1", f"--master-port={free_port()}"]
    nodes = [
        subprocess.Popen(
            [*torchrun, *meet, f"--node-rank={node}", "lenet5/train.py", *QUICK, "--tracker=both", *flags],
            cwd=clone,
            env=environment(OMP_NUM_THREADS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for node in (0, 1)
    ]
    said = [node.communicate(timeout=170)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    (config,) = clone.glob("runs/*/*/config.json")
    return RunFolder(config.parent)


def wandb_runs(store: RunFolder) -> list[dict[str, str]]:
    """The run records of W&B's offline files, by its own reader."""
    records = []
    for log in sorted(store.path.rglob("offline-run-*/run-*.wandb")):
        inspect = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
        rows = subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.splitlines()
        records += [row["run"] for row in map(json.loads, rows) if "run" in row]
    return records


def trackio_runs(store: RunFolder) -> list[str]:
    (database,) = Path(os.environ["TRACKIO_DIR"]).glob(f"{store.project}*.db")
    with sqlite3.connect(database) as connection:
        return sorted(name for (name,) in connection.execute("SELECT DISTINCT run_name FROM metrics"))


@pytest.mark.parametrize(
    ("strategy", "names"),
    [
        pytest.param("main", [], marks=pytest.mark.slow),
        pytest.param("node", ["rank-0", "rank-2"], marks=pytest.mark.slow),
        ("all", ["rank-0", "rank-1", "rank-2", "rank-3"]),
    ],
)
def test_main_node_and_all_give_one_two_and_four_runs_in_one_group(
    clone: Path, strategy: str, names: list[str]
) -> None:
    flags = [f"--tracker-project=ranks-{strategy}-{os.getpid()}", f"--log-strategy={strategy}"]
    store = job(clone, *flags, *(["--group_name=both-nodes"] if strategy == "all" else []))
    assert trackio_runs(store) == (names or [store.name])
    found = wandb_runs(store)
    assert sorted({run["display_name"] for run in found}) == (names or [store.name])
    group = {"main": [], "node": [store.name], "all": ["both-nodes"]}[strategy]
    assert sorted({run["run_group"] for run in found if run.get("run_group")}) == group
    assert len({run["run_id"] for run in found}) == max(1, len(names))


def test_no_thread_of_the_process_group_outlives_training(clone: Path, planted: Path) -> None:
    """One that does wants the GIL back while Python ends, and aborts the process (pytorch/pytorch pull 179291)."""
    planted.write_text(LEFT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, "lenet5/train.py", *QUICK, "--tracker=none"],
        cwd=clone, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=170,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line for line in done.stdout.splitlines() if "LEFT" in line] == ["LEFT 0", "LEFT 0"]
