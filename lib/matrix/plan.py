"""A matrix as it was when it started: its cells, its configuration and its code. Later edits change none of them.

runs/<project>/matrices/<name>-<hash>/
    matrix.json     name, code, axes, what was left out, the cells
    .config         the base configuration, MATRIX_ symbols included
    index.html results.csv results.md     the report
runs/<project>/src/<hash>/            the code
runs/<project>/<cell>/                a run folder for each cell
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from lib.errors import Refused
from lib.files import read_object, shown, write_whole
from lib.journal import secrets
from lib.journal.folder import RunFolder
from lib.matrix.axes import Axes, Rule, rule
from lib.matrix.points import Cell, Front
from lib.options import DOTCONFIG, Options, sha256_of

FILE = "matrix.json"
DIGITS = 8


@dataclass(frozen=True)
class Matrix:
    """The matrix in the folder `path`."""

    path: Path
    name: str
    code: str  # folder of the frozen source, below the project's src/
    axes: Axes  # as asked for
    baseline: Mapping[str, str]
    cells: Sequence[Cell]

    @classmethod
    def make(
        cls, project: Path, name: str, *, code: str, axes: Axes, baseline: Mapping[str, str], cells: Sequence[Cell],
        dotconfig: str,
    ) -> Matrix:  # fmt: skip
        """The matrix of these cells, on disk; the one that is there when it is the same."""
        told = sha256_of(" ".join([code, *(cell.id for cell in cells)]).encode())[:DIGITS]
        path = project / "matrices" / f"{name}-{told}"
        write_whole(path / DOTCONFIG, secrets.scrubbed(dotconfig))
        made = cls(path, name, code, axes, baseline, cells)
        facts = {"name": name, "code": code, "axes": axes, "baseline": dict(baseline)}
        write_whole(path / FILE, json.dumps({**facts, "cells": [asdict(cell) for cell in cells]}) + "\n")
        return made

    @classmethod
    def load(cls, path: Path) -> Matrix:
        """Raises Refused where there is none, or one that can't be read."""
        try:
            facts = read_object(path / FILE) or {}
            cells = [Cell(**cell) for cell in facts["cells"]]
            axes = {symbol: tuple(texts) for symbol, texts in facts["axes"].items()}
            return cls(path, str(facts["name"]), str(facts["code"]), axes, dict(facts["baseline"]), cells)
        except (OSError, LookupError, TypeError, ValueError, AttributeError):
            raise Refused(f"{path / FILE}: no matrix can be read there. make test_matrix makes it again") from None

    @property
    def project(self) -> Path:
        return self.path.parent.parent

    @property
    def source(self) -> Path:
        return self.project / "src" / self.code

    def run(self, cell: Cell) -> RunFolder:
        """The cell's run folder, which may not be there yet."""
        return RunFolder(self.project / cell.name)

    def words(self, cell: Cell, root: Path | None = None) -> list[str]:
        """The cell's script and its flags; with `root` as they are typed there."""
        base = root or Path("/")
        script, folder = (shown(path, base) if root else str(path)
                          for path in (self.source / cell.model / "train.py", self.run(cell).path))  # fmt: skip
        return [script, "--config", folder, "--resume", folder]

    @cached_property
    def front(self) -> Front:
        """The front end that the cells' configurations come from: the frozen one, on the frozen base."""
        return Front(self.source, self.path / DOTCONFIG)

    @cached_property
    def _group(self) -> dict[str, str]:
        """The trackers show the cells together, unless their group has a name, or is a run's own processes."""
        base = self.front.resolved({}).values
        free = not base.get("TRACKER_GROUP") and base.get("TRACKER_RANKS") == "main"
        return {"TRACKER_GROUP": self.path.name} if free else {}

    def texts(self, cell: Cell) -> dict[str, str]:
        """The files of the cell's run folder that make it the run that it is."""
        own = {"TRACKER_PROJECT": self.project.name, "TRACKER_RUN_NAME": cell.name, **self._group}
        resolved = self.front.resolved({**cell.axes, **own})
        return Options(cell.model, resolved).record().files

    def chosen(self, text: str) -> list[Cell]:
        """The cells that FILTER=text means. Raises Faults, and Refused when there are none."""
        wanted = self.filter(text)
        found = [cell for cell in self.cells if wanted.holds(cell.axes, cell.name)]
        if not found:
            raise Refused(f"FILTER={text}: none of the {len(self.cells)} cells. make test_matrix-dry-run lists them")
        return found

    def filter(self, text: str) -> Rule:
        known = {symbol for cell in self.cells for symbol in cell.axes}
        return rule(text, sorted(known), "FILTER", words=True)


def find(runs: Path, text: str) -> Matrix:
    """The matrix that MATRIX=text means, by name or path; without it the one that was started last."""
    found = sorted(runs.glob(f"*/matrices/*/{FILE}"), key=lambda path: path.stat().st_mtime)
    if text:
        place = Path(text).resolve()  # make is called at the root, from which paths are shown, too
        named = [path for path in found if text == path.parent.name or path.parent.resolve() == place]
        named = named or [path for path in found if path.parent.name.rpartition("-")[0] == text]
        if not named:
            known = ", ".join(path.parent.name for path in found[-3:]) or "none yet"
            raise Refused(f"MATRIX={text}: no such matrix below {runs} (the last ones: {known})")
        found = named
    if not found:
        raise Refused(f"no matrix below {runs} yet. make test_matrix starts one, make test_matrix-dry-run shows it")
    return Matrix.load(found[-1].parent)
