"""What is varied, and which combinations are meant: the texts of the MATRIX_ symbols, AXES= and FILTER= as values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lib.names import near
from lib.options import Faults

SPAN = 100_000  # values of one from:to
Axes = dict[str, tuple[str, ...]]  # symbol -> its values as they were typed, in the order of the table


@dataclass(frozen=True)
class Settings:
    """What decides which cells there are; each field is the symbol of that name."""

    matrix_models: str
    matrix_optimizers: str
    matrix_prunings: str
    matrix_sparsities: str
    matrix_seeds: str
    matrix_axes: str
    matrix_exclude: str
    matrix_baseline: str


def lists(settings: Settings) -> dict[str, tuple[str, str]]:
    """The axes that have a symbol of their own: that symbol, and its text."""
    return {
        "MODEL": ("MATRIX_MODELS", settings.matrix_models),
        "OPTIMIZER": ("MATRIX_OPTIMIZERS", settings.matrix_optimizers),
        "PRUNING": ("MATRIX_PRUNINGS", settings.matrix_prunings),
        "TARGET_SPARSITY": ("MATRIX_SPARSITIES", settings.matrix_sparsities),
        "SEED": ("MATRIX_SEEDS", settings.matrix_seeds),
    }


def listed(settings: Settings, typed: str = "") -> Axes:
    """The axes; `typed` is AXES= of make's line, which goes before MATRIX_AXES. Raises Faults, all at once."""
    texts = lists(settings)
    faults: list[str] = []
    for source, text in (("MATRIX_AXES", settings.matrix_axes), ("AXES", typed)):
        said = set()
        for word in text.split():
            name, equals, values = word.partition("=")
            name = name.removeprefix("CONFIG_")
            if not equals or not values:
                faults.append(f"{source}: {word!r}: expected SYMBOL=value,value")
            elif name in said:
                faults.append(f"{source}: {name} is there twice. List all its values once, with commas")
            said.add(name)
            texts[name] = (source, values)
    found: Axes = {}
    for name, (source, text) in texts.items():
        try:
            if several := _values(text):
                found[name] = several
        except ValueError as problem:
            faults.append(f"{source}: {name}={text}: {problem}")
    if faults:
        raise Faults(faults)
    return found


def _values(text: str) -> tuple[str, ...]:
    """`a,b` and `from:to[:step]`, whose end is left out as in Python; each value once. Raises ValueError."""
    found: list[str] = []
    for item in (item.strip() for item in text.split(",") if item.strip()):
        if ":" not in item:
            found.append(item)
            continue
        bounds = item.split(":")
        if len(bounds) > 3 or not all(part.removeprefix("-").isdecimal() for part in bounds):
            raise ValueError(f"{item}: expected whole numbers from:to or from:to:step, the end left out")
        numbers = [int(part) for part in bounds]
        if (len(numbers) == 3 and numbers[2] == 0) or not 0 < len(span := range(*numbers)) <= SPAN:
            raise ValueError(f"{item}: expected 1 to {SPAN:,} numbers from:to, the end left out")
        found += map(str, span)
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Rule:
    """Combinations, by the values that some symbols have in them; those of a rule without terms are all."""

    terms: Mapping[str, tuple[str, ...]]
    words: tuple[str, ...] = ()  # patterns for the name of a cell

    def holds(self, values: Mapping[str, str], name: str = "") -> bool:
        """Whether each term holds; a symbol that is unset there has none of the values."""
        return all(
            symbol in values and any(_fits(values[symbol], wanted) for wanted in texts)
            for symbol, texts in self.terms.items()
        ) and all(fnmatchcase(name, f"*{word}*") for word in self.words)


def rule(text: str, known: Iterable[str], asked_as: str, *, words: bool = False) -> Rule:
    """`SYMBOL=value,value SYMBOL=value`, where a value may be a pattern. `known` are the symbols.

    With `words` what has no = is a part of a name. Raises Faults.
    """
    terms, names, known, faults = {}, [], set(known), []
    for item in text.split():
        symbol, equals, values = item.partition("=")
        symbol = symbol.upper().removeprefix("CONFIG_")
        if not equals and words:
            names.append(item)
        elif not equals or not values:
            faults.append(f"{asked_as}: {item!r}: expected SYMBOL=value,value")
        elif symbol not in known:
            faults.append(f"{asked_as}: {item!r}: no symbol {symbol} to choose by{near(symbol, known)}")
        else:
            terms[symbol] = tuple(values.split(","))
    if faults:
        raise Faults(faults)
    return Rule(terms, tuple(names))


def rules(text: str, known: Sequence[str], asked_as: str) -> list[Rule]:
    """Rules with ; between."""
    return [rule(part, known, asked_as) for part in text.split(";") if part.strip()]


def _fits(value: str, wanted: str) -> bool:
    """As a text or a pattern, or as the same number: 0.50 is 0.5."""
    try:
        return float(value) == float(wanted)
    except ValueError:
        return fnmatchcase(value, wanted)
