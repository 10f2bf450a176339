"""The same for other programs: a row for each run as CSV and Parquet, and the table of results as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lib.report.comparison import against, results
from lib.report.groups import Part
from lib.report.markup import Table
from lib.report.outcomes import Outcome
from lib.report.particulars import facts

Row = Mapping[str, Any]  # values as a configuration and a result have them


def row(outcome: Outcome, *, symbols: bool) -> dict[str, Any]:
    """What is known of a run, by name: symbols in capitals, what it came to in small letters.

    `symbols`: all that it was configured by, and not the axes alone.
    """
    return {
        "project": outcome.run.project,
        "run": outcome.run.name,
        "state": outcome.state,
        **(outcome.values if symbols else outcome.axes),
        **outcome.numbers,
        "gpu_balance": outcome.balance or None,
        "why": outcome.why or None,
        "command": outcome.command or None,
    }


def columns(rows: Sequence[Row]) -> list[str]:
    """All names, in the order in which they first come, the long ones last."""
    names = dict.fromkeys(name for one in rows for name in one)
    last = [name for name in ("why", "command") if name in names]
    return [name for name in names if name not in last] + last


def as_csv(rows: Sequence[Row]) -> str:
    target = io.StringIO()
    writer = csv.DictWriter(target, columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return target.getvalue()


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Each column of one type: what has several is text."""
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow import parquet  # type: ignore[import-untyped]

    table = pyarrow.table({name: _column([one.get(name) for one in rows]) for name in columns(rows)})
    fresh = path.with_name(f".{path.name}.tmp")
    parquet.write_table(table, fresh)
    fresh.replace(path)


def _column(values: Sequence[Any]) -> list[Any]:
    kinds = {type(value) for value in values if value is not None}
    if kinds == {int, float}:
        return [None if value is None else float(value) for value in values]
    return list(values) if len(kinds) <= 1 else [None if value is None else str(value) for value in values]


def markdown(title: str, parts: Sequence[Part]) -> str:
    """The results of each model, the differences to the baseline, and what is not done."""
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    told = [f"# {_cell(title)}", ", ".join(f"{number} {of}" for number, of in facts(outcomes)) + "."]
    for part in parts:
        told += [f"## {_cell(part.model or 'Results')}", _table(results(part))]
        if part.compared:
            told += ["### Against the baseline", _table(against(part))]
    if odd := [one for one in outcomes if one.trouble]:
        rows = [[one.run.name, one.trouble, one.why] for one in odd]
        told += ["## What is not done, and why", _table(Table(["Run", "State", "Why"], rows, 3))]
    return "\n\n".join(told) + "\n"


def _table(of: Table) -> str:
    line = ["---"] * of.texts + ["---:"] * (len(of.head) - of.texts)
    return "\n".join("| " + " | ".join(_cell(text) for text in row) + " |" for row in (of.head, line, *of.rows))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
