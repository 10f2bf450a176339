"""`make oldconfig`: a question, one line each, for every symbol that .config does not have yet."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from lib.kconf import dotconfig, layers, making
from lib.kconf.tree import Tree, top_menu
from lib.kconf.verbs import overrides
from lib.options import DOTCONFIG, Assignment, Faults

ORIGIN = "oldconfig"
HELP = "?"


class Question(NamedTuple):
    """What is asked about: a symbol, or a choice with its members by the names that answer it."""

    name: str  # of the symbol; of the choice, or of its first member when it has none
    members: Mapping[str, Any]
    default: str


def oldconfig(root: Path, assignments: Sequence[Assignment]) -> int:
    """Asks for what is new and writes both files, or neither when the answers end early."""
    return _asked(root, assignments, "oldconfig")


def config(root: Path, assignments: Sequence[Assignment]) -> int:
    """The same: without a .config everything is new."""
    return _asked(root, assignments, "config")


def _asked(root: Path, assignments: Sequence[Assignment], verb: str) -> int:
    if not sys.stdin.isatty():
        raise Faults([f"{verb} asks questions and needs a terminal; make olddefconfig takes the defaults"])
    _edit_lines()
    tree = Tree(root)
    place = making.folder(root, assignments)
    below, typed = making.old(tree, place), layers.layered(overrides(assignments))
    making.resolved(tree, below, typed)  # what is wrong already is said before the first question
    try:
        answered = answers(tree, place / DOTCONFIG, below=below.assignments, typed=typed)
    except EOFError:
        raise Faults([f"{verb}: the answers ended before the questions; nothing is written"]) from None
    if answered is None:
        print(f"{verb}: nothing is new")
    return making.finish(tree, place, making.resolved(tree, below, [*([answer] for answer in answered or ()), *typed]))


def _edit_lines() -> None:
    """input() edits its lines with readline where that is imported."""
    with contextlib.suppress(ImportError):
        import readline

        for setting in ("input-meta on", "convert-meta off"):  # in the C locale, too, letters are letters
            readline.parse_and_bind(f"set {setting}")


def answers(
    tree: Tree, path: Path, *, below: Sequence[Assignment], typed: Sequence[Sequence[Assignment]]
) -> list[Assignment] | None:
    """Asks in the tree's order until nothing is new; None when nothing was. An answer may bring further questions.

    Enter follows the default and makes no assignment. Raises EOFError at the end of input.
    """
    given: list[Assignment] = []
    asked: set[str] = set()
    heading = ""
    while True:
        decided = asked | layers.settle(tree, [below, *([one] for one in given), *typed]).taken.keys()
        question = next(_open_questions(tree, path, decided), None)
        if question is None:
            return given if asked else None
        if (menu := top_menu(tree.symbols[question.name])) != heading:
            heading = menu
            print(f"\n* {heading}" if heading else "")
        prompt = _listed(tree, question) if question.members else tree.prompts[question.name]
        while answer := _answer(tree, question, f"{prompt} ({question.name}) [{question.default}] "):
            settled = layers.settle(tree, [below, *([one] for one in given), *typed, [answer]])
            if not settled.faults:
                given.append(answer)
                break
            print(f"  {settled.faults[0].line.removeprefix(f'{ORIGIN}: ')}")
        asked |= {question.name, *(member.name for member in question.members.values())}


def _open_questions(tree: Tree, path: Path, decided: set[str]) -> Iterator[Question]:
    for name in dotconfig.new_symbols(tree, path):
        choice = tree.symbols[name].choice
        if choice and not decided & {member.name for member in choice.syms}:
            members = {name: tree.symbols[name] for name in (member.name for member in choice.syms)}
            subject = tree.choice_names.get(choice, name)
            shown = {text: one for text, one in tree.named_choices.get(subject, members).items() if one.visibility}
            if len(shown) > 1 and choice.selection:
                default = next(text for text, member in shown.items() if member is choice.selection)
                yield Question(subject, shown, default)
        elif not choice and name not in decided and len(tree.symbols[name].assignable) != 1:
            yield Question(name, {}, tree.symbols[name].str_value)


def _answer(tree: Tree, question: Question, prompt: str) -> Assignment | None:
    """What the user wants, right or wrong; None for the default."""
    while True:
        try:
            text = input(prompt)
        except (EOFError, KeyboardInterrupt):
            print()  # the prompt stands without a newline
            raise
        except UnicodeDecodeError:
            print("  not UTF-8")
            continue
        if text == HELP:
            print(_help(tree, question))
        elif text in ("", question.default):
            return None
        else:
            return _assignment(tree, question, text)


def _assignment(tree: Tree, question: Question, text: str) -> Assignment:
    numbered = {str(number): name for number, name in enumerate(question.members, 1)}
    text = numbered.get(text, text)
    if text in question.members and question.name not in tree.named_choices:
        return Assignment(text, "y", ORIGIN)
    return Assignment(question.name, text, ORIGIN)


def _listed(tree: Tree, question: Question) -> str:
    """Prints the members of a choice, numbered; returns what to ask."""
    choice = next(iter(question.members.values())).choice
    width = max(map(len, question.members))
    print(choice.nodes[0].prompt[0])
    for number, (name, member) in enumerate(question.members.items(), 1):
        mark = ">" if name == question.default else " "
        text = tree.prompts[member.name].removeprefix(name).lstrip(": ")
        print(f"{mark} {number} {name:{width}}  {text}".rstrip())
    return "Number or name"


def _help(tree: Tree, question: Question) -> str:
    told = tree.describe(question.name)
    kind = f"one of {', '.join(question.members)}" if question.members else f"{told.type} {told.bounds}".rstrip()
    lines = [*told.help.splitlines(), f"{question.name}: {kind}, {told.place}"]
    for name, member in question.members.items():
        if text := tree.describe(member.name).help:
            lines += [f"{name}:", *(f"  {line}" for line in text.splitlines())]
    return "\n".join(f"  {line}".rstrip() for line in lines)
