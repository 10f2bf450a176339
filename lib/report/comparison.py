"""The report's part about one model: who did how well, against whom, for how much."""

from __future__ import annotations

from lib.report import figures, markup
from lib.report.groups import Compared, Group, Part
from lib.report.markup import UNKNOWN, Table
from lib.report.outcomes import BEST_LOSS, SPARSITY, Quantity
from lib.report.statistics import CONFIDENCE, LEAST_PAIRS, Summary

SIGNIFICANT = 0.05


def sections(part: Part, most: int) -> str:
    """All that is said of the model, in tables of at most `most` rows."""
    quality = part.quality.label
    told = [
        ("results", "Results", _results(part, most)),
        ("baseline", "Against the baseline", _against(part, most)),
        ("sparsity", f"{quality} against sparsity", figures.sparsity(part, most)),
        ("front", f"{quality} against its cost", _front(part, most)),
        ("curves", "Learning curves", figures.curves(part, most)),
    ]
    return "".join(markup.section(f"{part.model}-{name}", head, body, level=3) for name, head, body in told)


def plus_minus(found: Summary | None, quantity: Quantity) -> str:
    """`97.41 ± 0.22`, the mean and the standard deviation; of one value there is none."""
    if found is None:
        return UNKNOWN
    mean = quantity.text(found.mean)
    return mean if found.std is None else f"{mean} ± {quantity.text(found.std)}"


def results(part: Part) -> Table:
    """What each configuration came to, the best first."""
    known = {name for outcome in part.outcomes for name in outcome.numbers}
    besides = [one for one in (BEST_LOSS, SPARSITY, *part.costs) if one.name in known]
    rows = [
        [group.label, _mean(group, part.quality), _counted(group), *(_mean(group, one) for one in besides)]
        for group in part.ranked
    ]
    return Table(["", part.quality.heading, "Runs", *(one.heading for one in besides)], rows)


def against(part: Part) -> Table:
    """Differences to the baseline, in pairs of one seed each."""
    quality = part.quality
    unit = "points" if quality.unit == "%" else quality.unit  # of percentage
    bases = list(dict.fromkeys(one.baseline.label for one in part.compared))
    first = [f"Against {bases[0]}"] if len(bases) == 1 else ["", "Against"]
    head = [*first, f"Difference{f' [{unit}]' if unit else ''}", f"{CONFIDENCE:.0%} interval", "Pairs", "Effect d", "p",
            "p (Holm)", "Verdict"]  # fmt: skip
    rows = [
        [one.group.label, *([one.baseline.label] if len(bases) > 1 else []), *_difference(one, quality)]
        for one in part.compared
    ]
    return Table(head, rows, len(first))


def _results(part: Part, most: int) -> str:
    better = "higher" if part.quality.higher else "lower"
    words = f"Mean ± standard deviation over seeds, of the weights at the end; {better} is better, the best first."
    if not part.is_ranked:
        words = "One seed each: the order says nothing, and there is no deviation."
    return markup.note(words) + markup.table(results(part), most)


def _against(part: Part, most: int) -> str:
    if not part.compared:
        return markup.note("No seed is done both in the baseline and in something else: there is nothing to compare.")
    words = (
        "Seed by seed. The interval is of the mean difference (Student's t); the effect is that mean in standard "
        "deviations of the differences; p comes from flipping signs, and Holm's correction holds for all "
        f"{len(part.compared)} comparisons at once: under {SIGNIFICANT} the verdict is better or worse."
    )
    if all(one.paired.p is None for one in part.compared):
        words += f" There is no p under {LEAST_PAIRS} seeds: whatever the numbers, no test could find anything."
    return markup.note(words) + markup.table(against(part), most)


def _difference(one: Compared, quality: Quantity) -> list[str]:
    found = one.paired
    interval = verdict = UNKNOWN
    if found.low is not None:
        interval = f"{quality.text(found.low, sign=True)} to {quality.text(found.high, sign=True)}"
    if one.p_holm is not None:
        good = (found.mean > 0) == quality.higher
        verdict = "open" if one.p_holm >= SIGNIFICANT else "better" if good else "worse"
    return [
        quality.text(found.mean, sign=True),
        interval,
        str(found.n),
        UNKNOWN if found.effect is None else f"{found.effect:+z.1f}".replace("-", "−"),
        *(UNKNOWN if p is None else f"{p:.3f}" for p in (found.p, one.p_holm)),
        verdict,
    ]


def _front(part: Part, most: int) -> str:
    """What nobody beats: who wants more of one has to give some of another."""
    if not part.front or not part.costs:
        return markup.note("No run is done whose time or memory is known.")
    shown = [part.quality, *part.costs]
    rows = [
        [f"{place}. {group.label}", *(_mean(group, one) for one in shown)] for place, group in enumerate(part.front, 1)
    ]
    costs = " and ".join(one.label.lower() for one in part.costs)
    words = f"Numbered: no other has as much quality for as little {costs}."
    if len(part.costs) == 1:
        words += f" Only the {costs} was measured."
    told = markup.table(Table(["", *(one.heading for one in shown)], rows), most)
    return figures.costs(part, most) + markup.note(words) + told


def _mean(group: Group, quantity: Quantity) -> str:
    return plus_minus(group.summary(quantity), quantity)


def _counted(group: Group) -> str:
    """How many runs there are, `2 of 3` where some have no result."""
    whole = f"{group.done}" if group.done == len(group.outcomes) else f"{group.done} of {len(group.outcomes)}"
    return f"{whole}, {group.diverged} diverged" if group.diverged else whole
