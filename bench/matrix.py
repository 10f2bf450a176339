"""What the test matrix costs beside training: a cell against a bare subprocess, 10,000 cells planned, two at a time.

The trainer is a stand-in, a Python script that writes its result and nothing else, or computes for a while on one
thread. Driver and bare subprocesses take turns.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

sys.path[0] = str(Path(__file__).resolve().parent.parent)

from lib.journal import environment  # noqa: E402
from lib.matrix import axes, engine, source, status  # noqa: E402
from lib.matrix.plan import Matrix  # noqa: E402
from lib.matrix.points import Cell, Front  # noqa: E402
from lib.options import ROOT  # noqa: E402

CELLS, ROUNDS = 60, 5
METHODS = {
    "OPTIMIZER": ("sgd", "adam", "adamw", "adamwadv", "adamwspam", "adamwprune"),
    "PRUNING": ("none", "magnitude", "movement", "state"),
}
RULE = "OPTIMIZER=adamwprune PRUNING=magnitude,movement"
WORK_S = 1.0  # of a cell that computes
QUICK = 'import sys\nopen(sys.argv[2] + "/result.json", "w").write("{}")\n'
BUSY = f"""import sys, time
while time.process_time() < {WORK_S}:
    pass
open(sys.argv[2] + "/result.json", "w").write("{{}}")
"""
LIMITS = engine.Limits(1, 0, 0, 0, 0)


def main() -> int:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        told = [overhead(place / "quick"), *(planned(place / str(seeds), seeds) for seeds in (10, 100))]
        told.append(speed_up(place / "busy"))
    print("\n".join(told))
    return 0


def overhead(place: Path) -> str:
    """Milliseconds of a cell on top of the process that it is, and of the driver's own computing."""
    more, bare, own = [], [], []
    for number in range(ROUNDS):
        matrix = made(place / str(number), QUICK, CELLS)
        computed = time.process_time()
        ours_s = seconds(run, matrix, 1)
        own.append((time.process_time() - computed) / CELLS * 1e3)
        bare_s = seconds(one_by_one, matrix)
        more.append((ours_s - bare_s) / CELLS * 1e3)
        bare.append(bare_s / CELLS * 1e3)
    return f"driver, per cell: {spread(more)} ms more than {spread(bare)} bare; it computes for {spread(own)} ms"


def planned(place: Path, seeds: int) -> str:
    """Seconds to plan many cells, and to look at them when half of them are done."""
    tree = planted(place, QUICK)
    sparsities = tuple(str(tenths / 10) for tenths in range(1, 10))
    varied = {**METHODS, "TARGET_SPARSITY": sparsities, "SEED": tuple(map(str, range(seeds)))}
    began = time.perf_counter()
    cells = Front(tree, None).product(varied, [axes.rule(RULE, METHODS, "rule")]).cells
    plan_s = time.perf_counter() - began
    matrix = frozen(tree, varied, cells)
    for cell in matrix.cells[: len(cells) // 2]:
        folder = matrix.run(cell).path
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps({"val_loss": 0.1, "total_time_s": 3.0}))
    status_s = seconds(lambda: status.standing(Matrix.load(matrix.path)))
    return f"{len(cells):,} cells: planned in {plan_s:.2f} s, status in {status_s:.2f} s"


def speed_up(place: Path) -> str:
    """Of two cells at a time, each on one thread."""
    one, two = (seconds(run, made(place / str(jobs), BUSY, 6), jobs) for jobs in (1, 2))
    cores = environment.cores()
    return f"JOBS=2 is {one / two:.2f} times as fast as JOBS=1, cells of {WORK_S} s on {cores} cores"


def made(tree: Path, trainer: str, count: int) -> Matrix:
    varied = {"SEED": tuple(map(str, range(count)))}
    planted(tree, trainer)
    return frozen(tree, varied, Front(tree, None).product(varied, []).cells)


def planted(tree: Path, trainer: str) -> Path:
    """A tree with the Kconfig files of this one, and `trainer` as LeNet-5's train.py."""
    for pattern in ("Kconfig", "*/Kconfig", "lib/Kconfig.*", "lib/*/Kconfig"):
        for path in ROOT.glob(pattern):
            target = tree / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    (tree / "lenet5" / "train.py").write_text(trainer)
    return tree


def frozen(tree: Path, varied: axes.Axes, cells: Sequence[Cell]) -> Matrix:
    project = tree / "runs" / "bench"
    code = source.freeze(tree, project).name
    text = Front(tree, None).resolved({}).dotconfig
    return Matrix.make(project, "bench", code=code, axes=varied, baseline={}, cells=cells, dotconfig=text)


def run(matrix: Matrix, jobs: int) -> None:
    work = engine.Engine(matrix, LIMITS, jobs=jobs, slots=None, board=status.Board(io.StringIO()))
    assert work.run(matrix.cells), work.failed


def one_by_one(matrix: Matrix) -> None:
    for cell in matrix.cells:
        subprocess.run([sys.executable, *matrix.words(cell)], check=True)


def seconds(work: Callable[..., object], *given: object) -> float:
    began = time.perf_counter()
    work(*given)
    return time.perf_counter() - began


def spread(numbers: Sequence[float]) -> str:
    return f"{median(numbers):.1f} [{min(numbers):.1f}-{max(numbers):.1f}]"


if __name__ == "__main__":
    sys.exit(main())
