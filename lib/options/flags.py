"""Flags: every symbol is one, in the spelling of the model's train.py; reading them, and the text of --help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lib.names import near
from lib.options.terms import Assignment, Faults, Resolved, Symbol

OWN_FLAGS = {  # not symbols: they say which configuration and which run, not what is in them
    "--config": ("FOLDER", "Start from the .config in this folder, such as a run's"),
    "--resume": ("RUN", "Go on with this run; auto: the newest unfinished one of this configuration; no: none"),
    "--reproduce": (
        "RUN",
        "Train this run's configuration again; say what differs now, and whether the curve is the same",
    ),
    "--eval": ("RUN", "Validate the best weights of this run, with its configuration, and train nothing"),
    "--dry-run": ("[=N]", "Say what this would train as one process, or as N, and train nothing"),
}

ALSO = {"--log-strategy": "--tracker-ranks", "--group-name": "--tracker-group"}  # what W&B's own examples call them


def flag(name: str, model: str) -> str:
    """The flag of a symbol or of TRACKER: `--block-size` for GPT2_BLOCK_SIZE in gpt2, `--learning-rate` everywhere."""
    return "--" + name.removeprefix(f"{model.upper()}_").lower().replace("_", "-")


def flags(symbols: Mapping[str, Symbol], model: str) -> dict[str, Symbol]:
    """Every flag of the model's train.py; members of a choice (`--optimizer-sgd`), too, though not in --help."""
    others = tuple(f"{other.upper()}_" for other in symbols["MODEL"].values if other != model)
    return {
        flag(name, model): symbol
        for name, symbol in symbols.items()
        if (symbol.prompt or symbol.values) and not name.startswith(others) and "MODEL" not in (name, symbol.choice)
    }


def split(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """OWN_FLAGS with their values, and the other words. Raises Faults where a value is missing, or empty.

    A value in brackets may be left out; it is "1" then.
    """
    own, rest, queue = {}, [], list(words)
    while queue:
        word = queue.pop(0)
        name, equals, value = word.partition("=")
        if name not in OWN_FLAGS:
            rest.append(word)
        elif OWN_FLAGS[name][0].startswith("[") and not equals:
            own[name] = "1"
        elif text := value if equals or not queue else queue.pop(0):
            own[name] = text
        else:
            raise Faults([f"{name}: a value is missing"])
    return own, rest


def parse(words: Sequence[str], known: Mapping[str, Symbol]) -> tuple[list[Assignment], list[str]]:
    """`--x 1`, `--x=1`, `--x` and `--no-x` as assignments; of a flag that is given twice the last counts."""
    assignments: dict[str, Assignment] = {}
    wrong: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        spelled, equals, value = word.partition("=")
        name = spelled.replace("_", "-")
        name = ALSO.get(name, name)
        off = "--" + name.removeprefix("--no-")
        symbol = known.get(name)
        if not name.startswith("--"):
            wrong.append(f"{word!r}: expected a flag, such as --seed=1; --help lists them")
        elif name == "--tracker" or (symbol and symbol.type != "bool"):
            if not equals and not queue:
                wrong.append(f"{name}: a value is missing")
                continue
            target, value = symbol.name if symbol else "TRACKER", value if equals else queue.pop(0)
            assignments[target] = Assignment(target, value, name, typed=f"{name}={value}")
        elif symbol:
            assignments[symbol.name] = Assignment(symbol.name, value if equals else "y", name, typed=word)
        elif name.startswith("--no-") and off in known and known[off].type == "bool" and not equals:
            assignments[known[off].name] = Assignment(known[off].name, "n", name, typed=word)
        else:
            wrong.append(f"{spelled}: unknown flag{near(name, [*known, *OWN_FLAGS, '--tracker', '--help'])}")
            if not equals and queue and not queue[0].startswith("--"):
                queue.pop(0)  # its value
    return list(assignments.values()), wrong


def help_text(model: str, known: Mapping[str, Symbol], now: Resolved) -> str:
    """The flags by menu, each with the value that it has now."""
    menus: dict[str, list[tuple[str, str]]] = {
        "": [(f"{name} {value}", text) for name, (value, text) in OWN_FLAGS.items()]
    }
    for name, symbol in known.items():
        if symbol.choice:
            continue
        entries = menus.setdefault(symbol.menu, [])
        if symbol.name.startswith("ENABLE_") and not any(entry.startswith("--tracker ") for entry, _ in entries):
            entries.append(("--tracker LIST", "Trackers: none, both, all, or names with commas between"))
        also = "".join(f" (also {other})" for other, first in ALSO.items() if first == name)
        entries.append((_spelled(name, symbol), f"{symbol.prompt} {_state(symbol, now)}{also}"))
    width = min(34, max(len(entry) for entries in menus.values() for entry, _ in entries))
    lines = [
        f"usage: python {model}/train.py [flags]",
        "",
        "Flags hold for this run only. Behind `=` stands the value without them.",
    ]
    for menu, entries in menus.items():
        lines += ["", *([menu] if menu else []), *(f"  {entry:{width}}  {text}" for entry, text in entries)]
    return "\n".join(lines)


def _spelled(name: str, symbol: Symbol) -> str:
    if symbol.type == "bool":
        return f"--[no-]{name[2:]}"
    return f"{name} {'{' + ','.join(symbol.values) + '}' if symbol.values else symbol.type.upper()}"


def _state(symbol: Symbol, now: Resolved) -> str:
    if symbol.name in now.unset:
        return f"(needs {now.unset[symbol.name]})"
    value = now.values[symbol.name]
    shown = ("y" if value else "n") if isinstance(value, bool) else value
    return f"= {shown}" + (f" in {symbol.bounds}" if symbol.bounds else "")
