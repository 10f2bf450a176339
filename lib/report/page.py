"""The report as one HTML page that needs nothing else: no script, no font, no picture from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from lib.report import comparison, differences, markup, particulars
from lib.report.groups import Part

MOST_BYTES = 300_000  # so that it can be sent by mail
ROWS = (120, 60, 30, 15)  # of a table, shared by the models: as many as fit into MOST_BYTES
STYLE = Path(__file__).with_name("page.css")


def page(title: str, parts: Sequence[Part]) -> str:
    """The page, with tables and pictures as long as there is room for."""
    made = ""
    for most in ROWS:
        made = _page(title, parts, most)
        if len(made.encode()) <= MOST_BYTES:
            break
    return made


def _page(title: str, parts: Sequence[Part], most: int) -> str:
    outcomes = [outcome for part in parts for outcome in part.outcomes]
    each = max(ROWS[-1], most // len(parts))
    told = [
        *((part.model, part.model or "Results", comparison.sections(part, each)) for part in parts),
        ("gpus", "GPUs", particulars.gpus(parts, most)),
        ("energy", "Energy", particulars.energy(parts, most)),
        ("failures", "What is not done, and why", particulars.failures(outcomes, most)),
        ("configuration", "Configuration", differences.configuration(outcomes, most)),
        ("commands", "How to run each again", particulars.commands(outcomes, most)),
    ]
    links = "".join(f'<a href="#{escape(name)}">{escape(heading)}</a> ' for name, heading, _ in told)
    facts = "".join(f"<li><b>{escape(n)}</b>{escape(of)}" for n, of in particulars.facts(outcomes))
    body = "".join(markup.section(name, heading, content) for name, heading, content in told)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>\n{STYLE.read_text()}</style>\n<h1>{escape(title)}</h1>\n<nav>{links}</nav>\n"
        f"<ul class=facts>{facts}</ul>\n{body}</html>\n"
    )
