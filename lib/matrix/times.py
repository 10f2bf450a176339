"""How long cells take: medians of those that are done, of the same kind where there are any."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median

from lib.matrix.points import Cell

START_S = 6.0  # of a trainer, before its first step and after its last: what total_time_s does not have in it


class Times:
    """Seconds of cells that are done."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, ...], list[float]] = defaultdict(list)

    def add(self, cell: Cell, seconds: float) -> None:
        for kind in _kinds(cell):
            self._taken[kind].append(seconds)

    def expected(self, cell: Cell) -> float | None:
        """Of a cell of this kind; None when nothing like it was ever done."""
        return next((median(self._taken[kind]) for kind in _kinds(cell) if kind in self._taken), None)

    def left(self, queued: Iterable[Cell], running: Sequence[float | None], jobs: int) -> float | None:
        """Seconds until all are done, `jobs` at a time; `running` are the seconds that each of those has left."""
        known = [seconds for seconds in running if seconds is not None]
        if len(known) < len(running):
            return None
        per_kind: dict[tuple[str, ...], float | None] = {}
        ahead = []
        for cell in queued:
            kind = next(iter(_kinds(cell)))
            if kind not in per_kind:
                per_kind[kind] = self.expected(cell)
            seconds = per_kind[kind]
            if seconds is None:
                return None
            ahead.append(seconds)
        return max([*known, (sum(known) + sum(ahead)) / max(1, jobs)])


def of_result(result: Mapping[str, object]) -> float:
    """Seconds that the cell took, as far as its result says."""
    trained = result.get("total_time_s")
    return START_S + (float(trained) if isinstance(trained, int | float) else 0.0)


def _kinds(cell: Cell) -> Iterator[tuple[str, ...]]:
    """From the nearest kind to the furthest."""
    method = [cell.axes.get(name, "") for name in ("OPTIMIZER", "PRUNING")]
    yield (cell.model, cell.work, *method)
    yield (cell.model, cell.work)
