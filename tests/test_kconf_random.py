"""Any .config, any defconfig and any command line: taken whole or refused in lines, and nothing is lost in silence."""

from __future__ import annotations

import contextlib
import hashlib
import io
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from configuring import copied_to, environment, loaded, made, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib import kconf
from lib.kconf.tree import Tree
from lib.options import ROOT, Faults

OLD = "# what was there before\n", "config = 'old'\n"
MAKING = ("defconfig", "olddefconfig", "setconfig")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout", "*/train.py")


@cache
def tree() -> Tree:
    return Tree(ROOT)


# --- what people type, rightly and wrongly ---

NAMES = sorted(tree().symbols)
OPEN = [name for name in NAMES if tree().prompts[name] and tree().symbols[name].visibility] + ["MODEL", "OPTIMIZER"]
RIGHT = {
    "bool": ["y", "n", "y"],
    "int": ["1", "3", "64", "8"],
    "hex": ["0x1"],
    "float": ["0.5", "1e-4", ".25", "0.9"],
    "string": ["me", "a b", "é", "'\"$`#;", "", "gpt2"],
}
WRONG = [
    *("", "yes", "x", "-1", "1e3", "nan", "inf", "9" * 30, "9" * 5000, "99999", "0x1", "sgd", "mnist", "a\\"),
    *("\x00", "\u2028", "\udcff", '"', "a\rb", "$(x)"),
]
TRACKER = ["none", "both", "wandb,trackio"]


def near_miss(name: str, place: int) -> str:
    cut = place % len(name)
    return name[:cut] + name[cut + 1 :] if place % 2 else name[:cut] + name[cut : cut + 2][::-1] + name[cut + 2 :]


def right_values(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from(
        TRACKER if name == "TRACKER" else list(tree().named_choices.get(name, RIGHT[tree().kind(name)]))
    )


def settings_of(
    names: list[str], values: Callable[[str], st.SearchStrategy[str]]
) -> st.SearchStrategy[tuple[str, str]]:
    return st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), values(name)))


RIGHTLY = settings_of(OPEN, right_values)
WILDLY = settings_of(
    [*NAMES, "TRACKER"], lambda name: right_values(name) | st.sampled_from(WRONG) | st.text(max_size=5)
)
MISSED = st.tuples(st.builds(near_miss, st.sampled_from(NAMES), st.integers(0, 99)), st.sampled_from(["y", "1"]))
WORDS = (
    st.lists(RIGHTLY | settings_of(["TRACKER", *OPEN], right_values), max_size=4)
    | st.lists(RIGHTLY | WILDLY | MISSED, max_size=4)
).map(dict)


def as_line(name: str, value: str, *, slip: bool = False) -> str:
    if value == "n":
        return f"# CONFIG_{name} is not set"
    if (name in tree().symbols and tree().is_string(name)) == slip:
        return f"CONFIG_{name}={value}"
    return 'CONFIG_{}="{}"'.format(name, value.replace("\\", "\\\\").replace('"', '\\"'))


LINES = st.lists(RIGHTLY.map(lambda setting: as_line(*setting)), max_size=6) | st.lists(
    RIGHTLY.map(lambda setting: as_line(*setting))
    | WILDLY.map(lambda setting: as_line(*setting))
    | WILDLY.map(lambda setting: as_line(*setting, slip=True))
    | MISSED.map(lambda setting: as_line(*setting))
    | st.text(max_size=20),
    max_size=6,
)


# --- what must hold ---


def follows(config: object, name: str, value: str) -> bool:
    """Whether the configuration has what was asked for."""
    told = config.asdict()  # type: ignore[attr-defined]
    if name == "TRACKER":
        on = {tracker for tracker, symbol in tree().trackers.items() if told.get(symbol)}
        return on == {"none": set(), "both": {"trackio", "wandb"}, "wandb,trackio": {"trackio", "wandb"}}[value]
    if tree().kind(name) == "bool":
        return bool(told.get(name, False) == (value == "y"))
    if value == "" and name in ("TRACKER_PROJECT", "WANDB_PROJECT"):
        return told[name] != ""  # config.py has the project's own name there
    return name in told and told[name] == type(told[name])(value)


def subjects(name: str) -> set[str]:
    """The symbols that an assignment decides: with a member of a choice all of its members, and the choice's name."""
    if name == "TRACKER":
        return set(tree().trackers.values())
    members = tree().named_choices.get(name)
    choice = next(iter(members.values())).choice if members else tree().symbols[name].choice
    return (
        {name, *(member.name for member in choice.syms), *filter(None, [tree().choice_names.get(choice)])}
        if choice
        else {name}
    )


def assignments_in(lines: list[str]) -> list[tuple[str, str]]:
    """What the lines ask for, read in a plain way of the test's own."""
    found = []
    for line in "\n".join(lines).split("\n"):
        line = line.rstrip()
        if line.startswith("# CONFIG_") and line.endswith(" is not set"):
            found.append((line[len("# CONFIG_") : -len(" is not set")], "n"))
        elif line.startswith("CONFIG_") and "=" in line:
            name, _, value = line[len("CONFIG_") :].partition("=")
            quoted = value[:1] == '"' == value[-1:] and tree().is_string(name)
            text = value[1:-1].replace('\\"', '"').replace("\\\\", "\\") if quoted else value
            found.append((name, text))
    return found


def check_any_input(root: Path, verb: str, lines: list[str], words: dict[str, str]) -> None:
    """One example. The lines are a .config; for defconfig, they are the defconfig."""
    file = root / "defconfigs" / "any" if verb == "defconfig" else root / ".config"
    write(root / ".config", OLD[0])
    write(root / "config.py", OLD[1])
    file.write_bytes("\n".join(lines).encode(errors="surrogatepass"))
    before = (root / ".config").read_bytes(), (root / "config.py").read_bytes()
    typed = [f"{name}={value}" for name, value in words.items()]
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(told):
            kconf.configure(root, {}, [verb, *(["DEFCONFIG=any"] if verb == "defconfig" else []), *typed])
    except Faults as faults:
        assert faults.lines and all(line and len(line) < 1000 for line in faults.lines)
        assert ((root / ".config").read_bytes(), (root / "config.py").read_bytes()) == before
        return
    config = loaded(root)
    holds_together(root, config)
    for name, value in words.items():
        assert follows(config, name, value), f"{name}={value} was typed and is lost"
    decided = set().union(*(subjects(name) for name in words)) if words else set()
    for name, value in assignments_in(lines):
        free = name in tree().symbols and (tree().prompts[name] or name in tree().named_choices)
        if (verb == "olddefconfig" and words) or (free and name in decided):
            continue  # defaults in a .config follow what is typed; what is typed wins
        assert name in told.getvalue() or (free and follows(config, name, value)), f"{name}={value} is lost in silence"


def holds_together(root: Path, config: object) -> None:
    """config.py is typed, belongs to .config, and .config read again says the same."""
    values, provenance = config.asdict(), config.provenance  # type: ignore[attr-defined]
    assert provenance["dotconfig_sha256"] == hashlib.sha256((root / ".config").read_bytes()).hexdigest()
    types = {name: kind for name, kind in type(config).__annotations__.items() if name in values}
    assert {name: type(value).__name__ for name, value in values.items()} == types
    again = kconf.resolve(root, base=root / ".config", assignments=[])
    assert (again.values, again.provenance["hash"], again.notes) == (values, provenance["hash"], [])


ANY = {"verb": st.sampled_from(MAKING), "lines": LINES, "words": WORDS}
AS_THEY_COME = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None
)


@settings(AS_THEY_COME, max_examples=100)
@given(**ANY)
def test_a_hundred_inputs_are_taken_or_refused(
    checkout: Path, verb: str, lines: list[str], words: dict[str, str]
) -> None:
    check_any_input(checkout, verb, lines, words)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(AS_THEY_COME, max_examples=2000)
@given(**ANY)
def test_two_thousand_inputs_are_taken_or_refused(
    checkout: Path, verb: str, lines: list[str], words: dict[str, str]
) -> None:
    check_any_input(checkout, verb, lines, words)


# --- configurations by chance ---


def check_random_configuration(root: Path, seed: int) -> None:
    """It loads, renders, imports, and the train.py of its model shows its flags."""
    config = made(root, f"KCONFIG_SEED={seed}", verb="randconfig")
    holds_together(root, config)
    code = "from config import config; print(config.MODEL, config.provenance['hash'])"
    imported = subprocess.check_output([sys.executable, "-c", code], cwd=root, text=True)
    assert imported == f"{config.MODEL} {config.provenance['hash']}\n"
    command = [sys.executable, str(root / config.MODEL / "train.py"), "--help"]
    told = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert f"= {config.OPTIMIZER}" in told.stdout


def test_twenty_configurations_by_chance_work(checkout: Path) -> None:
    for seed in range(20):
        check_random_configuration(checkout, seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_configurations_by_chance_work(checkout: Path) -> None:
    for seed in range(20, 200):
        check_random_configuration(checkout, seed)
