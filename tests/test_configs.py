"""The Kconfig tree and the defconfigs of this repository: nothing in them is without effect."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from lib import kconf, options
from lib.kconf import defconfigs, layers, verbs
from lib.kconf.tree import Tree, bounds_of
from lib.options import ROOT

MODELS = sorted(path.parent.name for path in ROOT.glob("*/train.py") if path.parent.name != "scripts")
READY = defconfigs.listing(ROOT)
NUMBER = re.compile(r"[+-]?[0-9]+\.[0-9]*([eE][+-]?[0-9]+)?|[+-]?[0-9]+[eE][+-]?[0-9]+")


@cache
def tree() -> Tree:
    return Tree(ROOT)


def settled(path: Path) -> tuple[Tree, layers.Settled]:
    """A fresh tree with the defconfig in it. Every line that is no assignment fails the test."""
    fresh = Tree(ROOT)
    lines, faults = layers.read_lines(fresh, path.read_text(), path.name)
    assert faults == []
    return fresh, layers.settle(fresh, [lines])


def test_there_are_defconfigs_of_every_model() -> None:
    folders = {item.path.parent.parent.name for item in READY}
    assert {*MODELS, ROOT.name} <= folders
    assert {"quickstart", "gpt2-finewebedu-a10gx4"} <= {item.name for item in READY}


@pytest.mark.parametrize("item", READY, ids=lambda item: item.name)
def test_every_line_of_a_defconfig_is_taken(item: defconfigs.Ready) -> None:
    _, told = settled(item.path)
    assert (told.faults, told.notes) == ([], [])


@pytest.mark.parametrize("item", [item for item in READY if item.path.suffix != ".config"], ids=lambda item: item.name)
def test_a_defconfig_is_what_savedefconfig_writes(item: defconfigs.Ready) -> None:
    fresh, _ = settled(item.path)
    lines = [line for line in item.path.read_text().splitlines() if line and not line.startswith("# ")]
    off = [line for line in item.path.read_text().splitlines() if line.endswith(" is not set")]
    assert sorted([*lines, *off]) == sorted(fresh.minimal().values())


@pytest.mark.parametrize("item", READY, ids=lambda item: item.name)
def test_a_defconfig_in_a_models_folder_is_that_models(item: defconfigs.Ready) -> None:
    fresh, _ = settled(item.path)
    folder = item.path.parent.parent
    assert folder == ROOT or fresh.value("MODEL") == folder.name


@pytest.mark.parametrize("model", MODELS)
def test_the_defaults_of_every_model_are_valid(model: str) -> None:
    chosen = kconf.resolve(ROOT, base=None, assignments=verbs.given({}, [f"MODEL={model}"]))
    assert (chosen.values["MODEL"], chosen.notes) == (model, [])


def test_kconfiglib_has_nothing_to_warn_of() -> None:
    Tree(ROOT).dotconfig("")  # evaluates everything
    assert tree().kconf.warnings == []


def test_every_string_that_looks_like_a_float_is_one_within_its_bounds() -> None:
    wrong = []
    for name, symbol in tree().symbols.items():
        if not tree().prompts[name]:
            continue
        for default in (value.str_value for value, _ in symbol.orig_defaults if value.is_constant):
            bounds = bounds_of(tree().prompts[name])
            if tree().is_string(name) and bounds is None and NUMBER.fullmatch(default):
                wrong.append(f"{tree().place(name)}: {name} needs an annotation such as [float 0<= <1]")
            if bounds is not None and tree().fault(name, default):
                wrong.append(f"{tree().place(name)}: {name}: default {default}: {tree().fault(name, default)}")
        if tree().is_string(name) and "[float" in tree().prompts[name] and name not in tree().bounds:
            wrong.append(f"{tree().place(name)}: {name}: the annotation is not understood")
    assert wrong == []


def test_no_symbol_takes_a_name_of_makes() -> None:
    makes = {*re.findall(r"^(?:export )?([A-Za-z_]+) *[?:]?=", (ROOT / "Makefile").read_text(), re.MULTILINE)}
    assert not tree().symbols.keys() & {*verbs.MAKE_VARIABLES, *makes, "TRACKER"}


def test_every_variable_that_the_makefile_documents_is_makes_own() -> None:
    documented = re.findall(r"\[([A-Z]+)=", (ROOT / "Makefile").read_text())
    assert {*documented, "PYTHON", "VENV", "V", "O", "DEFCONFIG", "RESUME", "RUN", "YES"} <= verbs.MAKE_VARIABLES


@pytest.mark.parametrize("model", MODELS)
def test_no_two_flags_collide(model: str) -> None:
    flags = options.flags(kconf.symbols(ROOT), model)
    negated = {f"--no-{name[2:]}" for name, symbol in flags.items() if symbol.type == "bool"}
    own = {*options.OWN_FLAGS, "--tracker", "--help"}
    assert not flags.keys() & (negated | own) and not negated & own
    others = tuple(f"{other.upper()}_" for other in MODELS if other != model)
    mine = [name for name, s in kconf.symbols(ROOT).items() if (s.prompt or s.values) and not name.startswith(others)]
    assert len(flags) == len([name for name in mine if not name.startswith("MODEL")])


# --- every symbol is read by somebody ---


def names_read(text: str) -> set[str]:
    """Upper-case names that a Python file reads: `opts.learning_rate`, the field `learning_rate:`, "LEARNING_RATE"."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr.upper())
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id.upper())
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            found.add(node.value.upper())
        elif isinstance(node, ast.Name):
            found.add(node.id)  # a constant in upper case
    return found


def names_used_in_the_tree() -> set[str]:
    """Symbols that others depend on, or take their default or range from."""
    used: set[str] = set()
    for name in tree().symbols.keys() - tree().named_choices.keys():  # the name of a choice only repeats its members
        for node in tree().symbols[name].nodes:
            used |= {item.name for item in node.referenced if item.name in tree().symbols} - {name}
    return used


def unread(code: str) -> list[str]:
    """Symbols that no other symbol uses, and that the code reads neither in full nor without their model's prefix.

    The members of a choice and its name are one: who reads one of them has read them all.
    """
    prefix = re.compile("|".join(f"^{model.upper()}_" for model in MODELS))
    read, used = names_read(code), names_used_in_the_tree()
    known = {name for name in tree().symbols if {name, prefix.sub("", name)} & read or name in used}
    for name, members in tree().named_choices.items():
        whole = {name, *(member.name for member in members.values())}
        known |= whole if whole & known else set()
    return sorted(tree().symbols.keys() - known)


def code_of_the_product() -> str:
    folders = [ROOT / "lib", ROOT / "scripts", *(ROOT / model for model in MODELS)]
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    return "\n".join(path.read_text().replace("from __future__ import annotations", "") for path in files)


def test_every_symbol_is_read_by_some_code_or_by_another_symbol() -> None:
    assert unread(code_of_the_product()) == []


def test_this_guard_finds_a_symbol_that_nothing_reads() -> None:
    assert {"SEED", "MOMENTUM", "PRECISION_BF16", "PRECISION"} <= set(unread(""))
    assert not {"MODEL", "MODEL_GPT2", "GPT2_SIZE_TINY", "ENABLE_WANDB"} & set(unread(""))  # others depend on them
    assert not {"PRECISION_BF16", "PRECISION"} & set(unread("opts.precision"))
    assert "SEED" not in unread("opts.seed")
    assert "SEED" not in unread('values["SEED"]')
    assert "SEED" not in unread("class Plan:\n    seed: int\n")
    assert "GPT2_BLOCK_SIZE" not in unread("opts.block_size")
    assert "SEED" in unread("seeds = 3  # seed SEED")
