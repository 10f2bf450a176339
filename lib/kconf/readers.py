"""Who reads which symbol: the Python sources, searched for what takes a value out of a configuration."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from lib.kconf.tree import Tree

CONFIGURATIONS = {"opts", "config"}  # what code calls one: opts.seed, config.SEED, opts.get("seed")
TABLES = {"values", "origins"}  # its dictionaries: made.values["SEED"]


class Source(NamedTuple):
    folder: str  # of the root: lib, scripts or a model's
    text: str


class Found(NamedTuple):
    """What one file says, names in upper case."""

    read: set[str]  # taken from a configuration
    filled: set[str]  # classes that `opts.fill` makes, whose fields name symbols
    fields: dict[str, set[str]]  # by class
    attributes: set[str]  # read from anything: a field that nobody looks at is not read
    handed: set[str]  # classes that hand their fields on as a dictionary
    keys: set[str]  # looked up in any dictionary


def sources(root: Path, models: Iterable[str]) -> Iterator[Source]:
    """The product's code, without its tests."""
    for folder in ("lib", "scripts", *models):
        for path in sorted((root / folder).rglob("*.py")):
            yield Source(folder, path.read_text(encoding="utf-8"))


def unread(tree: Tree, code: Iterable[Source]) -> list[str]:
    """Symbols that no other symbol uses, and that the code does not read.

    A model's own code may leave its prefix out: `opts.width` is GPT2_WIDTH in gpt2/. The members of a choice and its
    name are one: who reads one of them has read them all.
    """
    files = [(source.folder, found_in(source.text)) for source in code]
    attributes = set().union(*(found.attributes for _, found in files))
    handed = {form for _, found in files for form in found.handed}
    keys = tuple({f"_{key}" for _, found in files for key in found.keys})
    known = _used_in(tree)
    for folder, found in files:
        forms = [(form, other.fields[form]) for _, other in files for form in found.filled & other.fields.keys()]
        fields = {field for _, own in forms for field in own} & attributes
        fields |= {field for form, own in forms if form in handed for field in own if field.endswith(keys)}
        for name in found.read | fields:
            own = f"{folder.upper()}_{name}"
            known.add(own if own in tree.symbols else name)
    for name, members in tree.named_choices.items():
        whole = {name, *(member.name for member in members.values())}
        known |= whole if whole & known else set()
    return [name for name in tree.symbols if name not in known]


def found_in(text: str) -> Found:
    """By the way it is read, not by its mere name: a local variable `seed` reads no SEED."""
    found = Found(set(), set(), {}, set(), set(), set())
    for node in ast.walk(ast.parse(text)):
        found.read.update(_read(node))
        match node:
            case ast.Attribute(ctx=ast.Load(), attr=name):
                found.attributes.add(name.upper())
            case ast.Call(func=ast.Name(id="getattr"), args=[_, ast.Constant(value=str(name)), *_]):
                found.attributes.add(name.upper())
            case ast.Call(func=ast.Attribute(attr="fill"), args=[form, *_]):
                found.filled.add(_last_name(form))
            case ast.ClassDef(name=name):
                found.fields[name] = set(_fields(node))
                found.read.update(_own_symbols(node))
                if any(_last_name(item.func) == "fields" for item in ast.walk(node) if isinstance(item, ast.Call)):
                    found.handed.add(name)
            case ast.Call(func=ast.Attribute(attr="get"), args=[ast.Constant(value=str(name)), *_]):
                found.keys.add(name.upper())
            case ast.Subscript(slice=ast.Constant(value=str(name)), ctx=ast.Load()):
                found.keys.add(name.upper())
    return found


def _read(node: ast.AST) -> Iterator[str]:
    """opts.seed, getattr(config, "SEED"), opts.get("seed"), made.values["SEED"]."""
    match node:
        case ast.Attribute(ctx=ast.Load(), attr=name, value=holder):
            known = CONFIGURATIONS
        case ast.Call(func=ast.Name(id="getattr"), args=[holder, ast.Constant(value=str(name)), *_]):
            known = CONFIGURATIONS
        case ast.Call(func=ast.Attribute(attr="get", value=holder), args=[ast.Constant(value=str(name)), *_]):
            known = CONFIGURATIONS | TABLES
        case ast.Subscript(value=holder, slice=ast.Constant(value=str(name)), ctx=ast.Load()):
            known = TABLES
        case _:
            return
    if _last_name(holder) in known:
        yield name.upper()


def _fields(node: ast.ClassDef) -> Iterator[str]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            yield statement.target.id.upper()


def _own_symbols(node: ast.ClassDef) -> Iterator[str]:
    """`self.tracker_project` in a class that looks unknown attributes up itself, as Options does."""
    if any(isinstance(item, ast.FunctionDef) and item.name == "__getattr__" for item in node.body):
        for item in ast.walk(node):
            if isinstance(item, ast.Attribute) and _last_name(item.value) == "self":
                yield item.attr.upper()


def _last_name(node: ast.expr) -> str:
    """`settings` of self.settings, `Plan` of loop.Plan; "" of what has none."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _used_in(tree: Tree) -> set[str]:
    """Symbols that others depend on, or take their default or range from."""
    used: set[str] = set()
    for name in tree.symbols.keys() - tree.named_choices.keys():  # the name of a choice only repeats its members
        for node in tree.symbols[name].nodes:
            used |= {item.name for item in node.referenced if item.name in tree.symbols} - {name}
    return used
