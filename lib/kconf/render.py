"""A settled tree as the two files that everything else reads: .config and config.py."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lib import names
from lib.kconf import dotconfig
from lib.kconf.tree import Tree, top_menu
from lib.kconf.verbs import COMMAND_LINE
from lib.options import Assignment, Resolved, Value, digest_of, sha256_of

_CONFIG_PY = '''\
"""The values of .config, typed: `from config import config`. Made by make; edit .config through `make menuconfig`."""

from __future__ import annotations

TYPE_CHECKING = False  # a type checker takes it for true, and then sees the annotated names only

_PROVENANCE = {provenance}
_ORIGINS = {origins}
_UNSET = {unset}


class _Config:
    """Read-only. The comment behind a value is its origin; a name without a value is unset."""

    __slots__ = ()
{attributes}
    @property
    def provenance(self) -> dict[str, object]:
        """Where the configuration came from; `hash` stands for all its values."""
        return dict(_PROVENANCE)

    @property
    def origins(self) -> dict[str, str]:
        return {{name: _ORIGINS.get(name, "default") for name in self.asdict()}}

    @property
    def unset(self) -> dict[str, str]:
        """Symbols without a value, and what each needs."""
        return dict(_UNSET)

    def asdict(self) -> dict[str, bool | int | float | str]:
        return {{name: value for name, value in vars(_Config).items() if name in _Config.__annotations__}}

    def get(self, name: str, default: object = None) -> object:
        return self.asdict().get(name, default)

    if not TYPE_CHECKING:

        def __getattr__(self, name):
            if name in _UNSET:
                raise AttributeError(f"{{name}} is unset: needs {{_UNSET[name]}}", name=name, obj=self)
            raise AttributeError(f"no symbol {{name}}", name=name, obj=self)

    def __dir__(self) -> list[str]:
        return [*self.asdict(), "asdict", "get", "origins", "provenance", "unset"]


config = _Config()

if not TYPE_CHECKING:

    def __getattr__(name):
        return getattr(config, name)
'''


def render(tree: Tree, sources: dotconfig.Sources, taken: Mapping[str, Assignment], notes: Iterable[str]) -> Resolved:
    """Both texts, and what they say as values."""
    kconfig = digest_of(tree.root, tree.kconf.kconfig_filenames)
    overrides = tuple(text for text in sources.overrides if _still_decides(tree, text, taken))
    text = tree.dotconfig(dotconfig.header(tree, sources._replace(kconfig=kconfig, overrides=overrides), taken))
    written = {name: line for name in tree.symbols if (line := tree.symbols[name].config_string)}
    values = _values(tree, written)
    origins = {name: _origin(tree, name, taken) for name in values}
    unset = {name: tree.needs_text(name) for name in tree.symbols if name not in values}
    path, digest = sources.defconfig or (None, None)
    provenance: dict[str, Any] = {
        "defconfig": path,
        "defconfig_sha256": digest,
        "fragments": [list(fragment) for fragment in sources.fragments],
        "overrides": list(overrides),
        "hash": sha256("".join(written[name] for name in sorted(written)))[:16],
        "dotconfig_sha256": sha256(text),
        "kconfig": list(tree.kconf.kconfig_filenames),
        "kconfig_sha256": kconfig,
        "kconfiglib": tree.version,
    }
    python = _config_py(tree, values, origins, unset, provenance)
    return Resolved(values, origins, unset, provenance, list(notes), text, python)


def sha256(text: str | bytes) -> str:
    return sha256_of(text.encode(errors="surrogateescape") if isinstance(text, str) else text)


def _values(tree: Tree, written: Iterable[str]) -> dict[str, Value]:
    """The typed values. An empty project becomes this checkout's here, so that .config holds nothing of the host."""
    values = {name: tree.value(name) for name in written}
    if values.get("TRACKER_PROJECT") == "":
        values["TRACKER_PROJECT"] = names.project(str(values["MODEL"]), tree.root)
    if values.get("WANDB_PROJECT") == "":
        values["WANDB_PROJECT"] = values["TRACKER_PROJECT"]
    return values


def _origin(tree: Tree, name: str, taken: Mapping[str, Assignment]) -> str:
    """A member of a choice, and the choice's name, have the origin of the selection."""
    symbol = tree.symbols[name]
    members = tree.named_choices.get(name)
    choice = next(iter(members.values())).choice if members else symbol.choice
    decisive = choice.selection.name if choice and choice.selection else name
    return taken[decisive].origin if decisive in taken else "default"


def _still_decides(tree: Tree, override: str, taken: Mapping[str, Assignment]) -> bool:
    """False once the symbol that was typed then got its value elsewhere, or lost it."""
    name = override.partition("=")[0]
    return name not in tree.symbols or _origin(tree, name, taken) == COMMAND_LINE


def _config_py(
    tree: Tree,
    values: Mapping[str, Value],
    origins: Mapping[str, str],
    unset: Mapping[str, str],
    provenance: Mapping[str, Any],
) -> str:
    """Strings are written by ascii(), so that no value can end a literal, a comment or a line."""
    lines, menu = [], None
    for name, symbol in tree.symbols.items():
        kind = {"bool": "bool", "int": "int", "hex": "int", "float": "float"}.get(tree.kind(name), "str")
        if (heading := top_menu(symbol)) != menu:
            menu = heading
            lines.append(f"\n    # {_in_comment(menu or 'Model')}\n")
        if name in values:
            value = hex(values[name]) if tree.kind(name) == "hex" else ascii(values[name])  # type: ignore[arg-type]
            lines.append(f"    {name}: {kind} = {value}  # {_in_comment(origins[name])}\n")
        else:
            lines.append(f"    {name}: {kind}  # unset: needs {_in_comment(unset[name])}\n")
    return _CONFIG_PY.format(
        provenance=_literal(provenance),
        origins=_literal({name: origin for name, origin in origins.items() if origin != "default"}),
        unset=_literal(unset),
        attributes="".join(lines),
    )


def _in_comment(text: str) -> str:
    return ascii(text)[1:-1]


def _literal(table: Mapping[str, Any]) -> str:
    return "{\n" + "".join(f"    {key!a}: {value!a},\n" for key, value in table.items()) + "}" if table else "{}"
