"""The verbs of make: which module does each, which of make's variables it reads, and what was typed for it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from lib.kconf.layers import ENVIRONMENT, quoted
from lib.names import near
from lib.options import Assignment, Faults

COMMAND_LINE = "command line"
# Make's own variables, and who reads them; the rest of its command line are symbols. None of these may be one.
MAKE_VARIABLES = {
    **dict.fromkeys(("GOAL", "MAKEFLAGS", "PY", "PYTHON", "Q", "QUIET", "SHELL", "V", "VENV"), "every target"),
    **dict.fromkeys(("A", "B"), "make diffconfig"),
    "AXES": "make test_matrix",
    "DEFCONFIG": "make defconfig and make savedefconfig",
    "DRY_RUN": "make tracker-sync",
    **dict.fromkeys(("FILTER", "JOBS"), "make test_matrix, continue, rerun and estimate"),
    "KCONFIG_ALLCONFIG": "make alldefconfig, allnoconfig, allyesconfig and randconfig",
    "KCONFIG_CONFIG": "no target; O=folder says where .config lies",
    "KCONFIG_SEED": "make randconfig",
    "NPROC": "make, make plan, eval, test_matrix, continue and rerun",
    "MATRIX": "make continue, rerun, status, estimate, report and graphs",
    "O": "make, make plan, make export and the configuration targets",
    "RESUME": "make",
    "RUN": "make reproduce, eval, sample, export, gpu-report, gputop, showconfig, tracker-sync and the trackers' tests",
    "SYM": "make showconfig",
    **dict.fromkeys(("PROMPT", "TEMPERATURE", "TOKENS", "TOP_K"), "make sample"),
    "T": "make test",
    "YES": "make runs-clean and data-clean",
}

Verb = Callable[[Path, Sequence[Assignment]], int]


class Door(NamedTuple):
    """Where a verb's function is, and what it reads of make's command line besides O=."""

    module: str
    variables: tuple[str, ...] = ()
    symbols: bool = True


_ALL = ("KCONFIG_ALLCONFIG",)
VERBS = {
    "menuconfig": Door("screens"),
    "nconfig": Door("screens"),
    "guiconfig": Door("screens"),
    "config": Door("ask"),
    "oldconfig": Door("ask"),
    "olddefconfig": Door("making"),
    "defconfig": Door("making", ("DEFCONFIG",)),
    "fragment": Door("making", ("DEFCONFIG",)),
    "setconfig": Door("making"),
    "savedefconfig": Door("making", ("DEFCONFIG",)),
    "alldefconfig": Door("presets", _ALL),
    "allnoconfig": Door("presets", _ALL),
    "allyesconfig": Door("presets", _ALL),
    "randconfig": Door("presets", (*_ALL, "KCONFIG_SEED")),
    "listnewconfig": Door("show", symbols=False),
    "helpnewconfig": Door("show", symbols=False),
    "list-defconfigs": Door("show", symbols=False),
    "diffconfig": Door("show", ("A", "B"), symbols=False),
    "showconfig": Door("show", ("SYM", "RUN")),
    "checkconfig": Door("checks", symbols=False),
}


def perform(root: Path, goal: str, assignments: Sequence[Assignment]) -> int:
    """What make was asked for: a verb, or a name: `lenet5-sgd_defconfig`, `defconfig-lenet5-sgd`, `bf16.config`.

    Raises Faults, also for a variable on the command line that the verb would not read.
    """
    verb, file = _verb(goal)
    if file:
        if named := own(assignments, "DEFCONFIG"):
            raise Faults(
                [f"{goal} DEFCONFIG={named}: two defconfigs. Fragments are added with +: DEFCONFIG=name+fragment"]
            )
        assignments = [*assignments, Assignment("DEFCONFIG", file, COMMAND_LINE)]
    door = VERBS[verb]
    refuse_unread(assignments, goal, variables=("O", *door.variables), symbols=door.symbols)
    function: Verb = getattr(import_module(f"lib.kconf.{door.module}"), verb.replace("-", "_"))
    return function(root, assignments)


def _verb(goal: str) -> tuple[str, str]:
    """The verb, and the file that the goal's name holds."""
    if goal in VERBS:
        return goal, ""
    if goal.endswith("_defconfig"):
        return "defconfig", goal.removesuffix("_defconfig")
    if goal.startswith("defconfig-"):
        return "defconfig", goal.removeprefix("defconfig-")
    if goal.endswith(".config"):
        return "fragment", goal
    raise Faults([f"{goal!r}: no such verb{near(goal, VERBS)}. Use one of: {', '.join(VERBS)}"])


def given(environ: Mapping[str, str], words: Sequence[str] = ()) -> list[Assignment]:
    """What came on make's command line (KCONF_CLI lists the names) or in words; TRACKER also from the environment."""
    typed = {name: environ.get(name, "") for name in environ.get("KCONF_CLI", "").split()}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise Faults([f"{quoted(word)!r}: expected NAME=value"])
        typed[name] = value
    assignments = [Assignment(name.removeprefix("CONFIG_"), value, COMMAND_LINE) for name, value in typed.items()]
    if environ.get("TRACKER") and "TRACKER" not in typed:
        assignments.insert(0, Assignment("TRACKER", environ["TRACKER"], ENVIRONMENT))
    return assignments


def refuse_unread(
    assignments: Iterable[Assignment], goal: str, *, variables: Sequence[str] = (), symbols: bool = False
) -> None:
    """Raises Faults for what was typed and would not be read: nothing is ignored in silence."""
    wrong = []
    for typed in assignments:
        home = MAKE_VARIABLES.get(typed.name)
        if typed.origin == ENVIRONMENT or typed.name in variables or home == "every target":
            continue
        if home:
            wrong.append(f"{quoted(typed.text)}: {quoted(goal)} does not read {typed.name}; it goes with {home}")
        elif not symbols:
            wrong.append(f"{quoted(typed.text)}: {quoted(goal)} takes no symbols")
    if wrong:
        raise Faults(wrong)


def overrides(assignments: Iterable[Assignment]) -> list[Assignment]:
    """Those that are about symbols."""
    return [assignment for assignment in assignments if assignment.name not in MAKE_VARIABLES]


def own(assignments: Iterable[Assignment], name: str) -> str:
    """One of make's own variables; "" when it was not given."""
    return next((assignment.value for assignment in assignments if assignment.name == name), "")
