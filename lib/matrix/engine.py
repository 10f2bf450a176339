"""The local engine: starts cells while there are slots, takes in how they end, and leaves nothing behind.

Each trainer is a process of its own; a thread waits for it, so that the next one starts at once. Cells that another
driver has, or that outlived their driver, are waited for.
"""

from __future__ import annotations

import queue
import signal
import threading
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from lib.errors import Refused
from lib.journal import environment
from lib.matrix import cell as unit
from lib.matrix import status, times
from lib.matrix.gpus import Slots
from lib.matrix.plan import Matrix
from lib.matrix.points import Cell
from lib.matrix.verdict import Verdict
from lib.progress import describe, duration

TICK_S = 0.25
TOLD = ("val_accuracy", "val_perplexity", "val_loss")


@dataclass(frozen=True)
class Limits:
    """How cells are run; each field is the symbol of that name."""

    matrix_jobs_per_gpu: int
    matrix_memory_mib: int
    matrix_timeout_s: int
    matrix_retries: int
    matrix_breaker: int


class Engine:
    """One driver's work on a matrix. `slots` None: the cells compute on the CPU, `processes` each."""

    def __init__(
        self, matrix: Matrix, limits: Limits, *, jobs: int, slots: Slots | None, board: status.Board, processes: int = 1
    ) -> None:
        self.matrix, self.limits, self.board, self.slots, self.jobs = matrix, limits, board, slots, jobs
        self.failed: dict[str, unit.State] = {}
        self.done = self.taken = 0
        self._processes = processes
        self._total = 0
        self._queue: deque[Cell] = deque()
        self._alone: deque[Cell] = deque()  # had no memory beside others
        self._claimed: deque[unit.Trial] = deque()  # ready to start
        self._running: dict[str, unit.Trial] = {}
        self._elsewhere: dict[str, Cell] = {}
        self._verdicts: dict[str, int] = {}  # that those had when we began to wait
        self._held: dict[str, tuple[str, ...]] = {}  # GPUs that those have, as far as we know
        self._ended: queue.SimpleQueue[unit.Trial] = queue.SimpleQueue()
        self._tries: Counter[str] = Counter()
        self._equal = 0  # failures in a row for one reason
        self._last_why = ""
        self._peaks: dict[str, float] = {}  # model -> memory that one took [MiB]
        self._times = times.Times()

    def run(self, cells: Sequence[Cell]) -> bool:
        """Train what has no result yet; whether all have one now. Raises KeyboardInterrupt after SIGINT or SIGTERM."""
        before = signal.signal(signal.SIGTERM, _interrupted)
        self._total = len(cells)
        try:
            self._sort(cells)
            while self._running or self._elsewhere or (not self.is_broken and self._has_more):
                self._fill()
                self._take_in()
        except KeyboardInterrupt:
            self._stop()
            raise
        finally:
            for trial in self._claimed:
                trial.release()
            self.board.close()
            signal.signal(signal.SIGTERM, before)
        return self.done + self.taken == self._total

    @property
    def is_broken(self) -> bool:
        """Whether so many failed alike that the rest would, too."""
        return 0 < self.limits.matrix_breaker <= self._equal

    @property
    def left(self) -> int:
        return self._total - self.done - self.taken - len(self.failed)

    @property
    def _has_more(self) -> bool:
        return bool(self._queue or self._claimed or self._alone)

    def _sort(self, cells: Sequence[Cell]) -> None:
        """What is done is taken, what somebody has is waited for, the rest is to be run."""
        for cell in cells:
            run = self.matrix.run(cell)
            result = run.result
            if result is not None:
                self.taken += 1
                self._learn(cell, result)
            elif unit.is_held(run):
                self._wait_for(cell)
            else:
                self._queue.append(cell)

    def _fill(self) -> None:
        """Start what there is room for, and make the next cell ready."""
        while not self.is_broken and len(self._running) + len(self._elsewhere) < self.jobs and self._next():
            trial = self._claimed[0]
            gpus = self._gpus_for(trial.cell)
            if gpus is None:
                break
            self._claimed.popleft()
            self._start(trial, gpus)
        if self._running:
            self._next()
        elif self._claimed:  # another driver may wait for it, while we wait for that one
            trial = self._claimed.popleft()
            trial.release()
            self._queue.appendleft(trial.cell)
        elif not self._elsewhere and not self._queue and not self._claimed and self._alone and not self.is_broken:
            self._queue.append(self._alone.popleft())  # nobody else runs: this one goes next, and alone

    def _next(self) -> bool:
        """Whether a cell is ready to start."""
        while not self._claimed and self._queue:
            cell = self._queue.popleft()
            trial = unit.Trial.claim(self.matrix, cell)
            if trial is None:
                self._wait_for(cell)
            elif trial.run.result is not None:
                trial.release()
                self.taken += 1
            else:
                self._claimed.append(trial)
        return bool(self._claimed)

    def _gpus_for(self, cell: Cell) -> tuple[str, ...] | None:
        """Its GPUs, none on the CPU; None when it has to wait."""
        if self.slots is None or cell.device == "cpu":
            return ()
        need = self.limits.matrix_memory_mib or self._peaks.get(cell.model, 0.0)
        return self.slots.take(share(cell, self.slots, self.jobs), need)

    def _start(self, trial: unit.Trial, gpus: tuple[str, ...]) -> None:
        processes = max(len(gpus), 1) if gpus else self._processes
        sharing = self.jobs * processes
        threads = 0 if trial.cell.threads > 0 or sharing == 1 else max(1, environment.cores() // sharing)
        trial.start(gpus, processes=processes, threads=threads)
        self._running[trial.cell.id] = trial
        threading.Thread(target=self._follow, args=(trial,), daemon=True).start()

    def _follow(self, trial: unit.Trial) -> None:
        trial.wait()
        self._ended.put(trial)

    def _take_in(self) -> None:
        """Wait for an end, or a tick, and look after the rest."""
        if self._running or self._elsewhere:
            try:
                self._settle(self._ended.get(timeout=TICK_S))
            except queue.Empty:
                self._watch()

    def _watch(self) -> None:
        for trial in self._running.values():
            if 0 < self.limits.matrix_timeout_s < trial.age_s:
                trial.end(self._too_long)
        for cell in [cell for cell in self._elsewhere.values() if not unit.is_held(self.matrix.run(cell))]:
            self._came_back(cell)
        for cell in self._elsewhere.values():
            self._hold(cell)
            if self.limits.matrix_timeout_s:
                unit.end_orphan(self.matrix.run(cell), self._too_long, limit_s=self.limits.matrix_timeout_s)
        if self.board.is_due:
            running = {trial.cell.name: status.progress(trial.run) for trial in self._running.values()}
            self.board.draw(running, self._summary(running))

    @property
    def _too_long(self) -> Verdict:
        return Verdict("timeout", f"ran for more than {self.limits.matrix_timeout_s} s")

    def _settle(self, trial: unit.Trial) -> None:
        """One of ours has ended."""
        del self._running[trial.cell.id]
        found = trial.settle()
        if self.slots and trial.gpus:
            self.slots.give(trial.gpus)
        if found.kind == "done":
            self._succeeded(trial)
        else:
            self._again_or_failed(trial.cell, unit.State("failed", found.kind, found.why))

    def _again_or_failed(self, cell: Cell, state: unit.State) -> None:
        """What comes after a try without a result, ours or another driver's: by its kind, see verdict.py."""
        self._tries[cell.id] += 1
        if state.kind == "killed" and self._tries[cell.id] <= self.limits.matrix_retries:
            self.board.say(f"again     {cell.name}: {state.why}")
            self._queue.append(cell)
        elif state.kind == "memory" and self._tries[cell.id] == 1 and (self.jobs > 1 or self._shares):
            self.board.say(f"later     {cell.name}, alone: {state.why}")
            self._alone.append(cell)
        else:
            self._failed(cell, state)

    @property
    def _shares(self) -> bool:
        return self.limits.matrix_jobs_per_gpu > 1

    def _succeeded(self, trial: unit.Trial) -> None:
        self.done += 1
        self._equal = 0
        result = trial.run.result or {}
        self._learn(trial.cell, result, trial.age_s)
        told = {name: float(result[name]) for name in TOLD if isinstance(result.get(name), int | float)}
        self._tell("done", f"{trial.cell.name}  {describe(told)}  {duration(trial.age_s)}")

    def _learn(self, cell: Cell, result: dict[str, object], seconds: float = 0.0) -> None:
        self._times.add(cell, seconds or times.of_result(result))
        if isinstance(peak := result.get("peak_memory_mib"), int | float):
            self._peaks[cell.model] = max(self._peaks.get(cell.model, 0.0), float(peak))

    def _failed(self, cell: Cell, state: unit.State) -> None:
        self.failed[cell.name] = state
        self._equal = self._equal + 1 if state.why == self._last_why else 1
        self._last_why = state.why
        self._tell("failed", f"{cell.name}: {state.why}")
        if self.is_broken:
            self.board.say(
                f"stopped   {self._equal} cells in a row failed alike; {self.left} are left. make continue goes on"
            )

    def _tell(self, what: str, text: str) -> None:
        count = f"[{self.done + self.taken + len(self.failed)}/{self._total}]"
        self.board.say(f"{what:<9} {count} {text}")

    def _wait_for(self, cell: Cell) -> None:
        """Somebody has it, on GPUs that are theirs."""
        run = self.matrix.run(cell)
        self._elsewhere[cell.id], self._verdicts[cell.id] = cell, unit.count(run, "verdict")
        self._hold(cell)
        trial = unit.last_event(run, "trial")
        who = f"process {trial['pid']}" if trial else "another driver"
        self.board.say(f"wait      {cell.name}: {who} has it")

    def _hold(self, cell: Cell) -> None:
        """Its GPUs are not ours to give. Which they are is known once its trainer has been started."""
        if self.slots:
            self._let_go(cell)
            self._held[cell.id] = tuple(unit.last_event(self.matrix.run(cell), "trial").get("gpus", ()))
            self.slots.hold(self._held[cell.id])

    def _let_go(self, cell: Cell) -> None:
        if self.slots:
            self.slots.give(self._held.pop(cell.id, ()))

    def _came_back(self, cell: Cell) -> None:
        """Nobody has it any more."""
        del self._elsewhere[cell.id]
        run = self.matrix.run(cell)
        self._let_go(cell)
        state, tried = unit.state(run), unit.count(run, "verdict") > self._verdicts.pop(cell.id)
        if state.name == "done":
            self.done += 1
            self._learn(cell, run.result or {})
            self._tell("done", f"{cell.name}, by another process")
        elif state.name == "failed" and tried:  # or it was let go, not started: then that is the verdict of another day
            self._again_or_failed(cell, state)
        elif state.name == "running":
            self._wait_for(cell)
        else:
            self._queue.append(cell)

    def _summary(self, running: dict[str, status.Progress]) -> str:
        counts = f"{self.done + self.taken} of {self._total} done"
        counts += f", {len(self.failed)} failed" if self.failed else ""
        queued = [*self._queue, *(trial.cell for trial in self._claimed), *self._alone]
        left_s = self._times.left(queued, [at.left_s for at in running.values()], self.jobs)
        return counts + ("" if left_s is None else f", about {duration(left_s)} left")

    def _stop(self) -> None:
        """Ask all trainers to save a last checkpoint, and wait for them; a second signal kills them."""
        if self._running:
            self.board.say(f"stops     {len(self._running)} running, with a last checkpoint (once more: at once)")
        at_once = False
        while self._running:
            try:
                for trial in self._running.values():
                    trial.end(Verdict("stopped", "the matrix was stopped"), at_once=at_once)
                trial = self._ended.get(timeout=TICK_S)
                del self._running[trial.cell.id]
                self.done += trial.settle().kind == "done"
            except queue.Empty:
                continue
            except KeyboardInterrupt:
                at_once = True


def share(cell: Cell, slots: Slots, jobs: int) -> int:
    """GPUs of a cell: as many as GPUS says, or its share of all."""
    if cell.gpus > len(slots.gpus):
        raise Refused(f"GPUS={cell.gpus}: there are {len(slots.gpus)} here. Use GPUS=-1 for those that are")
    return cell.gpus if cell.gpus > 0 else max(1, len(slots.gpus) // jobs)


def _interrupted(_: int, __: FrameType | None) -> None:
    raise KeyboardInterrupt
