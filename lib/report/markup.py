"""HTML, as little as the report needs. A plain string is escaped wherever it is put; a `Cell` is HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import NamedTuple

UNKNOWN = "–"


class Cell(str):
    """A whole `<td>`."""


class Table(NamedTuple):
    """A table whose first `texts` columns are text; the others are numbers, to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int = 1


class Panel(NamedTuple):
    """A chart under its heading, and the number of each thing's colour."""

    heading: str
    chart: str
    legend: Mapping[str, int]


def bar(value: str, share: float | None) -> str:
    """A number above a bar that is this share of its cell long."""
    if share is None:
        return value
    return Cell(f'<td>{escape(value)}<i class=bar style="--part:{100 * min(1.0, max(0.0, share)):.0f}%"></i>')


def wide(value: str) -> Cell:
    """Text that breaks into lines."""
    return Cell(f"<td class=w>{escape(value)}")


def code(value: str) -> Cell:
    return Cell(f"<td class=w><code>{escape(value)}</code>")


def table(of: Table, most: int) -> str:
    """The first `most` rows, which scroll in themselves where the page is narrow, and how many more there are."""
    heads = "".join(f"<th{' class=t' if place < of.texts else ''}>{escape(name)}" for place, name in enumerate(of.head))
    body = "\n".join("<tr>" + "".join(_cells(row, of.texts)) for row in of.rows[:most])
    more = note(f"{most} of {len(of.rows):,}; results.csv has every run.") if len(of.rows) > most else ""
    return f"<div class=wide><table><thead><tr>{heads}<tbody>\n{body}\n</table></div>\n{more}"


def note(words: str) -> str:
    return f"<p class=note>{escape(words)}</p>\n"


def folded(heading: str, content: str) -> str:
    return f"<details><summary>{escape(heading)}</summary>\n{content}</details>\n"


def section(name: str, heading: str, content: str, *, level: int = 2) -> str:
    return f'<section id="{escape(name)}">\n<h{level}>{escape(heading)}</h{level}>\n{content}</section>\n'


def panels(charts: Iterable[Panel]) -> str:
    """Charts beside each other, as many as fit."""
    return "<div class=panels>\n" + "".join(_panel(one) for one in charts) + "</div>\n"


def _panel(one: Panel) -> str:
    heading = f"<figcaption>{escape(one.heading)}</figcaption>" if one.heading else ""
    legend = "".join(f"<li><i class=k{colour}></i>{escape(label)}" for label, colour in one.legend.items())
    return f"<figure>{heading}{one.chart}<ul class=legend>{legend}</ul></figure>\n"


def _cells(row: Sequence[str], texts: int) -> Iterable[str]:
    for place, value in enumerate(row):
        yield value if isinstance(value, Cell) else f"<td{' class=t' if place < texts else ''}>{escape(value)}"
