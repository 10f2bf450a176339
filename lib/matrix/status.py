"""Where a matrix is, read from its folders alone: what is done, what runs and how far, what failed and why."""

from __future__ import annotations

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TextIO

from lib.journal import lines
from lib.journal.folder import RunFolder
from lib.matrix import cell as unit
from lib.matrix import verdict
from lib.matrix.plan import Matrix
from lib.matrix.points import Cell
from lib.matrix.times import START_S, Times, of_result
from lib.progress import duration

BAR = 24  # characters
SHOWN = 12  # running cells, and failures, that have a line
STEP = re.compile(r"step (\d+)/(\d+)")
JOURNALED = re.compile(r'"step": ?(\d+)')
UP, CLEAR = "\x1b[{}A", "\x1b[J"
EVERY_S = 1.0


class Progress(NamedTuple):
    """How far a running cell is."""

    step: int
    steps: int  # 0: it has not said yet
    age_s: float

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def left_s(self) -> float | None:
        """Seconds until it is done, at the rate that it had so far."""
        if not self.step or not self.steps:
            return None
        trained_s = max(0.0, self.age_s - START_S / 2)
        return trained_s * (self.steps - self.step) / self.step + START_S / 2


@dataclass
class Standing:
    """All cells of a matrix at one moment."""

    total: int
    done: int = 0
    left: list[Cell] = field(default_factory=list)
    running: dict[str, Progress] = field(default_factory=dict)  # by the run's name
    failed: dict[str, unit.State] = field(default_factory=dict)
    times: Times = field(default_factory=Times)

    @property
    def is_over(self) -> bool:
        return not self.running and not self.left

    @property
    def said(self) -> str:
        """`5 of 84 done, 2 running, 1 failed`."""
        counts = {"running": len(self.running), "failed": len(self.failed), "left": len(self.left)}
        return ", ".join(
            [f"{self.done} of {self.total} done", *(f"{count} {what}" for what, count in counts.items() if count)]
        )

    def eta_s(self, jobs: int) -> float | None:
        """Seconds until all is done; None as long as nothing like it is."""
        running = [progress.left_s for progress in self.running.values()]
        return self.times.left(self.left, running, jobs)


def standing(matrix: Matrix) -> Standing:
    """What the folders say now."""
    there = {entry.name for entry in os.scandir(matrix.project) if entry.is_dir()}
    found = Standing(len(matrix.cells))
    for cell in matrix.cells:
        if cell.name not in there:
            found.left.append(cell)
            continue
        run = matrix.run(cell)
        if (result := run.result) is not None:
            found.done += 1
            found.times.add(cell, of_result(result))
            continue
        state = unit.state(run)
        if state.name == "running":
            found.running[cell.name] = progress(run)
        elif state.name == "failed":
            found.failed[cell.name] = state
        else:
            found.left.append(cell)
    return found


def progress(run: RunFolder) -> Progress:
    """From the ends of the cell's output and of its journal."""
    trial = unit.last_event(run, "trial")
    said = STEP.findall(verdict.tail(run.path / f"trial-{trial.get('number', 1)}.log"))
    step, steps = (int(said[-1][0]), int(said[-1][1])) if said else (0, 0)
    if logged := JOURNALED.findall(verdict.tail(run.path / lines.NAME)):
        step = max(step, int(logged[-1]))
    return Progress(step, steps, time.time() - float(trial.get("time", time.time())))


class Board:
    """What a person watching sees: the news, and on a terminal a bar for each running cell below them."""

    def __init__(self, screen: TextIO | None = None) -> None:
        self._screen = screen or sys.stdout
        self._live = self._screen.isatty()
        self._height = 0
        self._drawn = 0.0

    @property
    def is_due(self) -> bool:
        """Whether `draw` would draw: on a terminal, once a second."""
        return self._live and time.monotonic() - self._drawn >= EVERY_S

    def say(self, text: str) -> None:
        """A line that stays."""
        self._wipe()
        print(text, file=self._screen, flush=True)

    def draw(self, running: Mapping[str, Progress], summary: str) -> None:
        """The bars and the summary below them, when that is due."""
        if not self.is_due:
            return
        columns = os.get_terminal_size(self._screen.fileno()).columns or 80  # 0 where a terminal does not know
        rows = [*bars(running, columns), *_cut([summary], columns)]
        self._wipe()
        self._screen.write("\n".join(rows) + "\n")
        self._screen.flush()
        self._height, self._drawn = len(rows), time.monotonic()

    def close(self) -> None:
        self._wipe()

    def _wipe(self) -> None:
        if self._height:
            self._screen.write(UP.format(self._height) + CLEAR)
            self._height = 0
            self._drawn = 0.0


def bars(running: Mapping[str, Progress], columns: int) -> list[str]:
    """A line for each running cell."""
    rows = []
    for name, at in list(running.items())[:SHOWN]:
        filled = round(at.share * BAR)
        left = "" if (left_s := at.left_s) is None else f"  {duration(left_s)} left"
        count = f"{at.step}/{at.steps}" if at.steps else "starts"
        rows.append(f"{at.share:4.0%} {'█' * filled}{'░' * (BAR - filled)} {count:>11}{left:<16}  {name}")
    if len(running) > SHOWN:
        rows.append(f"     and {len(running) - SHOWN} more")
    return _cut(rows, columns)


def summary(now: Standing, jobs: int) -> str:
    left_s = now.eta_s(jobs)
    return now.said + ("" if left_s is None or now.is_over else f", about {duration(left_s)} left")


def failures(failed: Mapping[str, unit.State]) -> list[str]:
    """A line for each failed cell, equal reasons counted when there are many."""
    rows = [f"failed    {name}: {state.why}" for name, state in list(failed.items())[:SHOWN]]
    rest = Counter(state.why for state in list(failed.values())[SHOWN:])
    return [*rows, *(f"failed    {count} more: {why}" for why, count in rest.items())]


def watch(matrix: Matrix, board: Board, *, live: bool) -> Standing:
    """Show where the matrix is; with `live` until it is over, whoever drives it."""
    told: set[str] = set()
    while True:
        now = standing(matrix)
        for line in failures({name: state for name, state in now.failed.items() if name not in told}):
            board.say(line)
        told |= now.failed.keys()
        if not live or not now.running:
            break
        board.draw(now.running, summary(now, len(now.running)))
        time.sleep(EVERY_S)
    if not live:
        for row in bars(now.running, 120):
            board.say(row.rstrip())
    board.close()
    board.say(summary(now, max(1, len(now.running))))
    return now


def _cut(rows: Sequence[str], columns: int) -> list[str]:
    return [row[: columns - 1] for row in rows]
