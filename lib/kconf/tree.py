"""The Kconfig tree, parsed by kconfiglib, with what Kconfig lacks: floats, and choices that have a name."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lib import names
from lib.options import Faults, Symbol, Value

TRACKER_MENU = "Experiment Tracking"
TRACKER_PREFIX = "ENABLE_"
INFINITE = float("inf")

# As text: `re` compiles each of them when it is first needed, and keeps it.
_ANNOTATION = r"\s*\[float(?: (?P<low>[^\s<]+)(?P<low_op><=?))?(?: (?P<high_op><=?)(?P<high>[^\s<]+))?\]$"
_NAME = r"CONFIG_(\w+)"
_FLOAT = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
_INT = r"-?[0-9]{1,100}"  # Python itself refuses to read thousands of digits
_HEX = r"0[xX][0-9a-fA-F]+"
_CONTROL = r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]"  # they break lines, or are no UTF-8


class Bounds(NamedTuple):
    """What the annotation `[float 0< <=10]` at the end of a string's prompt allows."""

    low: float
    low_open: bool
    high: float
    high_open: bool

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, float) or not -INFINITE < number < INFINITE:
            return False
        above = self.low < number if self.low_open else self.low <= number
        below = number < self.high if self.high_open else number <= self.high
        return above and below

    def __str__(self) -> str:
        return f"{'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"


def bounds_of(prompt: str) -> Bounds | None:
    """The bounds that a prompt is annotated with; None when it is no float."""
    match = re.search(_ANNOTATION, prompt)
    if not match:
        return None
    low, high = match["low"], match["high"]
    return Bounds(
        low=float(low) if low else -INFINITE,
        low_open=match["low_op"] != "<=",
        high=float(high) if high else INFINITE,
        high_open=match["high_op"] != "<=",
    )


def plain_prompt(prompt: str) -> str:
    return re.sub(_ANNOTATION, "", prompt)


class Tree:
    """A parsed tree, and the values that it has at the moment. kconfiglib carries no types, hence Any."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.kconf = _parse(root)
        self.symbols: dict[str, Any] = {symbol.name: symbol for symbol in self.kconf.unique_defined_syms}
        self.prompts: dict[str, str] = {name: _prompt(symbol) for name, symbol in self.symbols.items()}
        self.bounds: dict[str, Bounds] = {}
        self.named_choices: dict[str, dict[str, Any]] = {}  # MODEL -> {"lenet5": the symbol MODEL_LENET5, ...}
        for name, symbol in self.symbols.items():
            if symbol.orig_type != _kconfiglib().STRING:
                continue
            if bounds := bounds_of(self.prompts[name]):
                self.bounds[name] = bounds
            elif members := _members(symbol, has_prompt=bool(self.prompts[name])):
                self.named_choices[name] = members
        self.choice_names = {members[next(iter(members))].choice: name for name, members in self.named_choices.items()}

    @property
    def trackers(self) -> dict[str, str]:
        """Known trackers by name, and the symbol that switches each on."""
        return {
            name.removeprefix(TRACKER_PREFIX).lower(): name
            for name, symbol in self.symbols.items()
            if name.startswith(TRACKER_PREFIX) and top_menu(symbol) == TRACKER_MENU
        }

    @property
    def version(self) -> str:
        return ".".join(map(str, _kconfiglib().VERSION))

    def kind(self, name: str) -> str:
        if name in self.bounds:
            return "float"
        library = _kconfiglib()
        return str(library.TYPE_TO_STR[self.symbols[name].orig_type])

    def is_string(self, name: str) -> bool:
        """Whether files write its values in quotes: strings, floats and named choices."""
        return name in self.symbols and self.symbols[name].orig_type == _kconfiglib().STRING

    def fault(self, name: str, text: str) -> str | None:
        """Why the text can never be a value of this symbol; None when it can."""
        kind = self.kind(name)
        if kind == "bool":
            return None if text in ("y", "n") else "expected y or n"
        if kind == "float":
            if not re.fullmatch(_FLOAT, text):
                return "expected float"
            return None if float(text) in self.bounds[name] else f"outside {self.bounds[name]}"
        if kind == "string":
            if re.search(_CONTROL, text):
                return "control characters cannot be stored"
            if _holds_secret(text):
                return "holds a secret, and a configuration is no place for one. Set the client's own variable instead"
            return (names.fault(text) or None) if name in names.FOLDERS else None
        return None if re.fullmatch(_INT if kind == "int" else _HEX, text) else f"expected {kind}"

    def out_of_range(self, name: str, text: str) -> str | None:
        """Why an int or hex is not allowed as things stand, since ranges may depend on other symbols."""
        base = {"int": 10, "hex": 16}.get(self.kind(name))
        active = self.range(name)
        if base is None or active is None:
            return None
        low, high = active
        return None if int(low, base) <= int(text, base) <= int(high, base) else f"outside the range [{low}, {high}]"

    def range(self, name: str) -> tuple[str, str] | None:
        for low, high, condition in self.symbols[name].ranges:
            if _kconfiglib().expr_value(condition):
                return low.str_value, high.str_value
        return None

    def value(self, name: str) -> Value:
        """The typed value of a symbol that is set."""
        text: str = self.symbols[name].str_value
        match self.kind(name):
            case "bool":
                return text == "y"
            case "float":
                return float(text)
            case "int" | "hex" as kind:
                return int(text, 10 if kind == "int" else 16)
        return text

    def needs(self, name: str) -> list[Any]:
        """The conditions, in kconfiglib's form, that keep the symbol from being set now."""
        value = _kconfiglib().expr_value
        return [operand for operand in self.depends(name) if not value(operand)]

    def needs_text(self, name: str) -> str:
        return self.expression(self.needs(name)) or "a default that applies"

    def expression(self, operands: Sequence[Any]) -> str:
        """`A && (B || C)`: that all the operands hold."""
        library = _kconfiglib()
        texts = [library.expr_str(operand) for operand in operands]
        if len(texts) > 1:
            texts = [
                f"({text})" if operand.__class__ is tuple and operand[0] is library.OR else text
                for text, operand in zip(texts, operands, strict=True)
            ]
        return " && ".join(dict.fromkeys(texts))

    def now_text(self, operands: Sequence[Any]) -> str:
        """`OPTIMIZER=sgd, MODEL_GPT2=n`: what the conditions are made of, with present values."""
        library = _kconfiglib()
        found = set()
        for item in (item for operand in operands for item in library.expr_items(operand)):
            if item.name in self.symbols:
                named = self.choice_names.get(item.choice) if isinstance(item, library.Symbol) else None
                shown = self.symbols[named] if named and self.symbols[named].config_string else item
                found.add(f"{shown.name}={shown.str_value}")
        return ", ".join(sorted(found))

    def depends(self, name: str) -> list[Any]:
        """All the conditions, met or not, under which the symbol can be set; a choice's for its members."""
        return list(_conditions(self.symbols[name]))

    @contextmanager
    def trial(self) -> Iterator[None]:
        """What is set meanwhile is undone at the end."""
        before = [(symbol, symbol.user_value) for symbol in self.symbols.values() if symbol.user_value is not None]
        try:
            yield
        finally:
            self.kconf.unset_values()
            for symbol, value in before:
                symbol.set_value(value)

    def place(self, name: str) -> str:
        node = self.symbols[name].nodes[0]
        return f"{node.filename}:{node.linenr}"

    def written(self, name: str) -> str:
        """The value as a file holds it: n, 3, "0.1" in quotes; "" when the symbol is unset."""
        line = self.symbols[name].config_string.rstrip("\n")
        return "n" if line.startswith("#") else line.partition("=")[2]

    def minimal(self) -> dict[str, str]:
        """By symbol, the lines that savedefconfig writes: those that differ from what the tree gives by itself."""
        lines = self.kconf._min_config_contents("").splitlines()  # the public function only writes files
        return {re.search(_NAME, line)[1]: line for line in lines}  # type: ignore[index]

    def dotconfig(self, header: str) -> str:
        return str(self.kconf._config_contents(header))

    def describe(self, name: str) -> Symbol:
        symbol = self.symbols[name]
        node = next((node for node in symbol.nodes if node.prompt), symbol.nodes[0])
        if name in self.named_choices:
            node = self.symbols[next(iter(self.named_choices[name].values())).name].choice.nodes[0]
        active = self.range(name)
        return Symbol(
            name=name,
            type=self.kind(name),
            prompt=plain_prompt(self.prompts[name] or (node.prompt[0] if name in self.named_choices else "")),
            menu=top_menu(symbol),
            help=node.help or "",
            default=symbol.str_value if symbol.config_string else "",
            needs=self.needs_text(name) if not symbol.config_string else "",
            bounds=str(self.bounds[name]) if name in self.bounds else f"[{active[0]}, {active[1]}]" if active else "",
            values=tuple(self.named_choices.get(name, ())),
            choice=self.choice_names.get(symbol.choice, "") if symbol.choice else "",
            place=self.place(name),
        )


def top_menu(symbol: Any) -> str:
    """The prompt of the menu of the top level that holds the symbol; "" for one that stands outside of menus."""
    node = symbol.nodes[0]
    while node.parent and node.parent.parent:
        node = node.parent
    return str(node.prompt[0]) if node.item == _kconfiglib().MENU else ""


def _prompt(symbol: Any) -> str:
    return next((str(node.prompt[0]) for node in symbol.nodes if node.prompt), "")


def _members(symbol: Any, *, has_prompt: bool) -> dict[str, Any]:
    """The values of a choice that has a name: a string without a prompt whose defaults are `"sgd" if OPTIMIZER_SGD`."""
    members = {value.str_value: member for value, member in symbol.orig_defaults if value.is_constant}
    choices = {getattr(member, "choice", None) for member in members.values()}
    return members if not has_prompt and len(choices) == 1 and None not in choices else {}


def _conditions(item: Any) -> Iterator[Any]:
    """The operands of what a symbol or choice depends on. A choice stands for what it depends on itself."""
    library = _kconfiglib()
    prompt = next((node.prompt for node in item.nodes if node.prompt), None)
    condition = prompt[1] if prompt else item.direct_dep
    for operand in library.split_expr(condition, library.AND):
        if isinstance(operand, library.Choice):
            yield from _conditions(operand)
        elif operand is not item.kconfig.y:
            yield operand


def _holds_secret(text: str) -> bool:
    from lib.journal import secrets  # who types no text needs none of it

    return secrets.scrubbed(text) != text


def _parse(root: Path) -> Any:
    library = _kconfiglib()
    with _environment(root):
        try:
            return library.Kconfig("Kconfig", warn_to_stderr=False)
        except (library.KconfigError, OSError) as error:
            raise Faults([str(error).strip().replace("\n", " ")]) from None


@contextmanager
def _environment(root: Path) -> Iterator[None]:
    """A variable tells kconfiglib where the tree is; its others (prefix, plug-ins) are kept from deciding anything."""
    hidden = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("KCONFIG_", "CONFIG_", "srctree"))
    }
    os.environ.update(srctree=str(root))
    try:
        yield
    finally:
        os.environ.pop("srctree", None)
        os.environ.update(hidden)


def _kconfiglib() -> Any:
    import kconfiglib  # not at the top: `import lib.kconf` is for those, too, who need no tree

    return kconfiglib
