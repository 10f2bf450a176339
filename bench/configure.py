"""What `make defconfig` costs, as a whole process: ours against kconfiglib's bare load and write, and against Hydra.

All read the same tree, or compose as many values as it has symbols. They take turns, so that whatever else the machine
does hits all of them; the files that they make are removed in between, so that each turn writes. Hydra writes none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lib.options import Symbol

sys.path[0] = str(Path(__file__).resolve().parent.parent)

DEFCONFIG = "lenet5-sgd"
TURNS = 15  # of each, in a round
ROUNDS = 3

BARE, LIBRARY, OURS, MAKE = "bare Python", "kconfiglib, load and write", "Kilter, scripts/configure.py", "Kilter, make"
IMPORT, DATACLASS, GROUPS = "from config import config", "Hydra, one dataclass", "Hydra, YAML groups"

LOAD_AND_WRITE = """
import sys, kconfiglib
tree = kconfiglib.Kconfig("Kconfig", warn=False)
tree.load_config(sys.argv[1])
tree.write_config(sys.argv[2])
"""
COMPOSE_DATACLASS = """
from dataclasses import dataclass
from hydra import compose, initialize
from hydra.core.config_store import ConfigStore

@dataclass
class Config:
{fields}

ConfigStore.instance().store(name="config", node=Config)
with initialize(version_base=None):
    values = compose("config", overrides=["seed=7"])
assert values.seed == 7
print(len([values[name] for name in values]))
"""
COMPOSE_GROUPS = """
from hydra import compose, initialize
with initialize(version_base=None, config_path="conf"):
    groups = compose("config", overrides=["{group}.seed=7"])
assert groups["{group}"].seed == 7
print(sum(len([group[name] for name in group]) for group in groups.values()))
"""


class Command(NamedTuple):
    """A process to time: what it runs and where, the files that it makes, and what it must print ("": anything)."""

    words: list[str]
    folder: Path
    makes: tuple[str, ...] = ()
    prints: str = ""


def main() -> int:
    if find_spec("hydra") is None:
        install = f"{sys.executable} -m pip install -r requirements-bench.txt"
        print(f"error: hydra-core, a peer of this measurement, is not installed. {install}", file=sys.stderr)
        return 2
    from lib import kconf
    from lib.options import ROOT

    symbols = kconf.symbols(ROOT)
    with tempfile.TemporaryDirectory() as scratch:
        commands = prepared(Path(scratch), ROOT, symbols)
        for command in commands.values():
            seconds(command)  # compiles what Python compiles once
        rows = []
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS}: {TURNS} processes each", file=sys.stderr)
            rows.append(measure(commands))
    report(rows, len(symbols))
    return 0


def prepared(here: Path, root: Path, symbols: Mapping[str, Symbol]) -> dict[str, Command]:
    """The commands by name, in a copy of the tree."""
    tree = copied(root, here / "tree")
    made = here / "made"
    subprocess.run([sys.executable, "scripts/configure.py", "defconfig", f"DEFCONFIG={DEFCONFIG}", f"O={made}"],
                   cwd=tree, env=environment(), stdout=subprocess.DEVNULL, check=True)  # fmt: skip
    count, pair = f"{len(symbols)}\n", (".config", "config.py")
    defconfig = next(path for path in tree.glob("*/defconfigs/*") if path.name == DEFCONFIG)
    for name, texts in {"dataclass": dataclass(symbols), "groups": groups(symbols)}.items():
        for path, text in texts.items():
            (here / name / path).parent.mkdir(parents=True, exist_ok=True)
            (here / name / path).write_text(text)
    python, asked = sys.executable, ["defconfig", f"DEFCONFIG={DEFCONFIG}"]
    return {
        BARE: Command([python, "-c", "pass"], tree),
        LIBRARY: Command([python, "-c", LOAD_AND_WRITE, str(defconfig), "theirs"], tree, ("theirs",)),
        OURS: Command([python, "scripts/configure.py", *asked], tree, pair),
        MAKE: Command(["make", *asked, f"VENV={sys.prefix}"], tree, pair),
        IMPORT: Command([python, "-c", "from config import config"], made),
        DATACLASS: Command([python, "app.py"], here / "dataclass", prints=count),
        GROUPS: Command([python, "app.py"], here / "groups", prints=count),
    }


def copied(root: Path, tree: Path) -> Path:
    models = [path.parent.name for path in root.glob("*/Kconfig")]
    for name in ("lib", "scripts", "defconfigs", *models):
        shutil.copytree(root / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Kconfig", "Makefile"):
        shutil.copy(root / name, tree / name)
    return tree


def dataclass(symbols: Mapping[str, Symbol]) -> dict[str, str]:
    """A program with a typed field for each symbol, by path."""
    lines = [f"    {name.lower()}: {kind(symbol)} = {value(symbol)!r}" for name, symbol in symbols.items()]
    return {"app.py": COMPOSE_DATACLASS.format(fields="\n".join(lines))}


def groups(symbols: Mapping[str, Symbol]) -> dict[str, str]:
    """A program and a YAML group for each menu, by path."""
    menus: dict[str, list[Symbol]] = {}
    for symbol in symbols.values():
        menus.setdefault("".join(filter(str.isalpha, symbol.menu.lower())) or "top", []).append(symbol)
    texts = {
        f"conf/{menu}/default.yaml": "".join(f"{item.name.lower()}: {value(item)!r}\n" for item in members)
        for menu, members in menus.items()
    }
    texts["conf/config.yaml"] = "defaults:\n" + "".join(f"  - {menu}: default\n" for menu in menus)
    with_seed = next(menu for menu, members in menus.items() if "SEED" in (item.name for item in members))
    return {**texts, "app.py": COMPOSE_GROUPS.format(group=with_seed)}


def kind(symbol: Symbol) -> str:
    return {"hex": "int", "string": "str"}.get(symbol.type, symbol.type)


def value(symbol: Symbol) -> bool | int | float | str:
    return {"bool": False, "int": 1, "float": 0.5}.get(kind(symbol), "text")


def measure(commands: Mapping[str, Command]) -> dict[str, float]:
    """The median milliseconds of each, in one round."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(TURNS):
        for name in commands if turn % 2 else reversed(list(commands)):
            taken[name].append(seconds(commands[name]) * 1e3)
    return {name: median(times) for name, times in taken.items()}


def seconds(command: Command) -> float:
    for name in command.makes:
        (command.folder / name).unlink(missing_ok=True)
    began = time.perf_counter()
    child = subprocess.run(command.words, cwd=command.folder, env=environment(), capture_output=True, text=True)
    took = time.perf_counter() - began
    assert child.returncode == 0, child.stderr
    assert command.prints in ("", child.stdout), child.stdout
    assert all((command.folder / name).exists() for name in command.makes)
    return took


def environment() -> dict[str, str]:
    """Nothing of make's or Python's: with PYTHONDONTWRITEBYTECODE ours alone would be compiled in each turn."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ} | {"PYTHONUTF8": "1"}


def report(rows: list[dict[str, float]], symbols: int) -> None:
    """The median of the rounds with their range; ratios and differences are those within a round."""

    def cell(numbers: list[float], digits: int) -> str:
        low, *_, high = sorted(numbers)
        return f"{median(numbers):.{digits}f} [{low:.{digits}f}-{high:.{digits}f}]"

    print(f"{f'whole process, {symbols} symbols':<32}{'[ms]':>24}{'/ kconfiglib':>24}")
    for name in rows[0]:
        ratio = cell([row[name] / row[LIBRARY] for row in rows], 2)
        print(f"{name:<32}{cell([row[name] for row in rows], 1):>24}{ratio:>24}")
    for peer in (DATACLASS, GROUPS):
        print(f"{f'{OURS} / {peer}':<56}{cell([row[OURS] / row[peer] for row in rows], 2):>24}")
    print(f"{f'{IMPORT}, over bare Python [ms]':<56}{cell([row[IMPORT] - row[BARE] for row in rows], 1):>24}")


if __name__ == "__main__":
    sys.exit(main())
