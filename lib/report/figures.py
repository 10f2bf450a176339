"""What the report shows of one model in pictures, each with the words that belong to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lib.report import charts, markup
from lib.report.charts import COLOURS, Series
from lib.report.groups import Group, Part
from lib.report.markup import Panel
from lib.report.outcomes import SPARSITY, Quantity
from lib.report.statistics import Summary

ROWS_PER_PICTURE = 10  # of a table take as much of the page
LOSS = Quantity("train_loss", "Training loss", "nats")


def sparsity(part: Part, most: int) -> str:
    """How much quality each method loses as it prunes."""
    known = [group for group in part.groups if group.values(part.quality)]
    pruned = [group for group in known if group.mean(SPARSITY)]
    if not pruned:
        return markup.note("Nothing was pruned.")
    methods: dict[str, dict[str, list[Group]]] = {}  # of each picture
    for heading, groups in list(part.pictures(pruned).items())[: most // ROWS_PER_PICTURE]:
        for group in groups:
            methods.setdefault(heading, {}).setdefault(part.within(group, "TARGET_SPARSITY"), []).append(group)
    drawn = []
    for (heading, found), colours in zip(methods.items(), palettes(methods.values()), strict=True):
        series = [_line(part.quality, groups, colours[name]) for name, groups in found.items()]
        beside = part.pictures(known)[heading]
        whole = next((_shown(group, part.quality) for group in beside if group not in pruned), None)
        name = f"{part.model}-sparsity-{heading}"
        chart = charts.sparsity(series, whole, y=part.quality.heading, name=name)
        drawn.append(Panel(heading, chart, {name: colours[name] for name in found}))
    return markup.panels(drawn) + markup.note("Dashed: not pruned. Bars and band: a standard deviation over seeds.")


def costs(part: Part, most: int) -> str:
    """Quality against time and against memory, as far as they are known."""
    axis = part.varying[0] if part.varying else ""
    kinds: dict[str, list[Group]] = {}
    for group in part.whole:
        kinds.setdefault(group.axes.get(axis, part.model), []).append(group)
    (colours,) = palettes([kinds])
    drawn = []
    for cost in part.costs:
        series = [_points(groups, cost, part.quality, colours[kind]) for kind, groups in kinds.items()]
        best = _points(part.front[: most // ROWS_PER_PICTURE], cost, part.quality)
        chart = charts.front(
            series, best, higher=part.quality.higher, x=f"{cost.label.lower()} [{cost.unit}]", y=part.quality.heading,
            name=f"{part.model}-{cost.name}",
        )  # fmt: skip
        drawn.append(Panel("", chart, colours))
    return markup.panels(drawn) + markup.note("Dotted: the best that can be had for so much or less.")


def curves(part: Part, most: int) -> str:
    """Quality and training loss by step, over the seeds."""
    ranked = [group for group in part.ranked if any(outcome.curves for outcome in group.outcomes)]
    if not ranked:
        return markup.note("No run has logged anything yet.")
    pictures = list(part.pictures(ranked).items())[: max(1, most // ROWS_PER_PICTURE // 2)]
    chosen = {heading: {part.within(one): one for one in groups[:COLOURS]} for heading, groups in pictures}
    drawn = []
    for quantity in (part.quality, LOSS):
        for (heading, groups), colours in zip(chosen.items(), palettes(chosen.values()), strict=True):
            bands = {name: band for name, group in groups.items() if (band := _band(group, quantity, colours[name]))}
            if bands:
                chart = charts.curves(
                    list(bands.values()), logarithmic=not quantity.higher, y=quantity.heading,
                    name=f"{part.model}-{quantity.name}-{heading}",
                )  # fmt: skip
                drawn.append(Panel(heading, chart, {name: colours[name] for name in bands}))
    words = "Mean over seeds; the band goes from the lowest to the highest."
    if (shown := sum(len(groups) for groups in chosen.values())) < len(ranked):
        words += f" The best {shown} of {len(ranked)} configurations are drawn."
    return markup.panels(drawn) + markup.note(words)


def palettes(pictures: Iterable[Iterable[str]]) -> list[dict[str, int]]:
    """The colour of each name in each picture: the same in all of them, where there are enough colours for that."""
    named = [list(names) for names in pictures]
    every = dict.fromkeys(name for names in named for name in names)
    if len(every) <= COLOURS:
        return [{name: number for number, name in enumerate(every)}] * len(named)
    return [{name: number % COLOURS for number, name in enumerate(names)} for names in named]


def _line(quality: Quantity, groups: Sequence[Group], colour: int) -> Series:
    """The groups in the order of their sparsity, with the deviation of each that has one."""
    ordered = sorted(groups, key=lambda group: group.mean(SPARSITY) or 0.0)
    summaries = [_shown(group, quality) for group in ordered]
    line = _points(ordered, SPARSITY, quality, colour)
    return Series(colour, line.x, line.y, [found.std or 0.0 if found else 0.0 for found in summaries])


def _points(groups: Sequence[Group], x: Quantity, y: Quantity, colour: int = 0) -> Series:
    """A point for each group, all of which have both."""
    return Series(colour, *([one.shown(group.mean(one) or 0.0) for group in groups] for one in (x, y)))


def _band(group: Group, quantity: Quantity, colour: int) -> charts.Band | None:
    found = [outcome.curves[quantity.name] for outcome in group.outcomes if quantity.name in outcome.curves]
    return charts.band(found, colour, quantity.scale) if found else None


def _shown(group: Group, quantity: Quantity) -> Summary | None:
    """The summary in the unit that is shown."""
    found = group.summary(quantity)
    if found is None:
        return None
    return Summary(found.n, quantity.shown(found.mean), None if found.std is None else quantity.shown(found.std))
