"""The rules of docs/design.md, held: who imports whom, how long things may be, what may not be ignored or shadowed."""

from __future__ import annotations

import ast
import importlib.metadata
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lib.options import ROOT

MODELS = sorted(path.parent.name for path in ROOT.glob("*/train.py") if path.parent.name != "scripts")
ROWS = {
    0: ("errors", "files", "options", "names", "metrics", "journal"),
    1: ("kconf", "track", "gpu", "optim", "prune", "data", "checkpoint", "dist", "progress"),
    2: (
        "loop",
        "tasks",
        "matrix",
        "report",
        "plot",
        "session",
        "launch",
        "reproduce",
        "capacity",
        "evaluate",
        "forecast",
        "trained",
        "top",
    ),
}
ROW = {name: row for row, names in ROWS.items() for name in names}
# Row 1 speaks to its neighbours only where docs/design.md says so.
OWNERS = {
    "kconfiglib": "kconf", "menuconfig": "kconf", "guiconfig": "kconf",
    "wandb": "track", "trackio": "track", "tensorboard": "track", "mlflow": "track",
    "pynvml": "gpu", "datasets": "data", "tokenizers": "data", "sklearn": "data",
}  # fmt: skip


def sources(*patterns: str) -> list[Path]:
    skipped = {".venv", "runs", "data"}
    found = [path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()]
    return sorted(path for path in found if path.relative_to(ROOT).parts[0] not in skipped)


def own_sources() -> list[Path]:
    return sources("lib/**/*.py", "scripts/*.py", "bench/*.py", "tests/*.py", *(f"{model}/*.py" for model in MODELS))


def imports(path: Path) -> Iterator[str]:
    """Dotted names that the file imports, also inside functions; `from lib import dist` gives lib.dist."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(path: Path) -> str:
    """lib/track/run.py -> track"""
    return path.relative_to(ROOT / "lib").parts[0].removesuffix(".py")


def test_every_module_of_lib_has_its_row() -> None:
    found = {module_of(path) for path in sources("lib/**/*.py") if path != ROOT / "lib" / "__init__.py"}
    assert found <= ROW.keys()


def test_lib_imports_only_from_lower_rows() -> None:
    wrong = []
    for path in sources("lib/*.py", "lib/*/*.py"):
        if path == ROOT / "lib" / "__init__.py":
            continue
        own = module_of(path)
        for name in imports(path):
            top, _, rest = name.partition(".")
            if top in ("scripts", "config", "tests", *MODELS):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            if top == "lib" and (other := rest.partition(".")[0]) != own:
                lower = ROW[other] < ROW[own] or ROW[own] == 2 or (ROW[own] == 0 and ROW[other] == 0)
                if not lower:
                    wrong.append(f"{path.relative_to(ROOT)} (row {ROW[own]}) imports lib.{other} (row {ROW[other]})")
    assert wrong == []


def test_row_0_is_standard_library_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sources("lib/*.py", "lib/journal/*.py")
        if path != ROOT / "lib" / "__init__.py" and ROW[module_of(path)] == 0
        for name in imports(path)
        if name.partition(".")[0] not in {*sys.stdlib_module_names, "lib"}
    ]
    assert wrong == []


def test_each_outside_client_has_one_owner() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in [*sources("lib/**/*.py", "scripts/*.py"), *sources(*(f"{model}/*.py" for model in MODELS))]
        for name in imports(path)
        if (owner := OWNERS.get(name.partition(".")[0])) and not path.is_relative_to(ROOT / "lib" / owner)
        and path != ROOT / "lib" / f"{owner}.py"
    ]  # fmt: skip
    assert wrong == []


def test_scripts_import_lib_alone_and_models_lib_and_themselves() -> None:
    wrong = []
    for folder, allowed in [("scripts", {"lib"}), *((model, {"lib", "config", model}) for model in MODELS)]:
        for path in sources(f"{folder}/*.py"):
            ours = {name.partition(".")[0] for name in imports(path)} & {"lib", "config", "scripts", "tests", *MODELS}
            wrong += [f"{path.relative_to(ROOT)} imports {name}" for name in ours - allowed]
    assert wrong == []


@pytest.mark.parametrize("module", ["lib.options", "lib.names", "lib.metrics", "lib.journal.lines", "lib.kconf"])
def test_what_configures_imports_neither_torch_nor_kconfiglib(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'kconfiglib', 'numpy'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_configuring_loads_no_module_that_is_slow_to_load(tmp_path: Path) -> None:
    """Each of these takes 1 to 7 ms of the 50 that `make defconfig` has."""
    slow = {"json", "socket", "hashlib", "difflib", "curses", "locale", "signal", "dataclasses", "subprocess"}
    words = ["defconfig", f"O={tmp_path}", "TRACKER_PROJECT=named"]  # to name one, the host's address is looked up once
    configure = f"from lib import kconf, options; kconf.configure(options.ROOT, {{}}, {words})"
    code = f"{configure}; import sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert slow & set(done.stdout.split()) == set()


def test_files_and_functions_are_short() -> None:
    wrong = []
    for path in own_sources():
        text = path.read_text()
        if (count := text.count("\n")) > 400:
            wrong.append(f"{path.relative_to(ROOT)}: {count} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno
                if (count := node.end_lineno - node.lineno + 1) > 60:
                    wrong.append(f"{path.relative_to(ROOT)}: {node.name} has {count} lines")
    for name, most in {"README.md": 150, "Makefile": 150, "Kconfig": 60}.items():
        if (count := (ROOT / name).read_text().count("\n")) > most:
            wrong.append(f"{name}: {count} lines")
    assert wrong == []


def test_every_file_says_what_it_is_for_and_every_function_has_types() -> None:
    wrong = []
    for path in own_sources():
        tree = ast.parse(path.read_text())
        if path.stat().st_size and not ast.get_docstring(tree):
            wrong.append(f"{path.relative_to(ROOT)}: no docstring")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.returns is None:
                wrong.append(f"{path.relative_to(ROOT)}: {node.name} has no return type")
    assert wrong == []


def test_lib_init_is_empty_and_there_is_no_room_for_odds_and_ends() -> None:
    assert (ROOT / "lib" / "__init__.py").read_text() == ""
    bad = {"utils", "util", "common", "helpers", "helper", "misc"}
    assert [path for path in own_sources() if path.stem in bad or path.parent.name in bad] == []


def test_no_file_shadows_a_dependency_or_the_standard_library() -> None:
    """For a moment a script has its folder first in the path: `gpt2/datasets.py` would hide Hugging Face's."""
    tops = [dist.read_text("top_level.txt") or "" for dist in importlib.metadata.distributions()]
    known = {name.lower() for text in tops for name in text.split()}
    known |= {"torch", "datasets", "wandb", "trackio", "tensorboard", *sys.stdlib_module_names}
    known |= {"kconfiglib", "menuconfig", "guiconfig", "defconfig", "olddefconfig", "savedefconfig", "setconfig"}
    own = {"lib", "tests", "scripts", "bench", "docs", *MODELS}
    assert own & known <= {"tests", "docs", "scripts"}, "a folder of ours has a dependency's name"
    paths = [path for path in own_sources() if path.parent.name in (*MODELS, "scripts", "bench")]
    assert [str(path) for path in paths if path.stem in known] == []


@pytest.mark.parametrize("path", ["lib/x.py", "lib/data/x.py", "lib/track/x.py", "tests/x.py", "gpt2/x.py"])
def test_git_ignores_nothing_of_ours(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 1


@pytest.mark.parametrize("path", [".config", "config.py", "runs/p/r/journal.jsonl", "data/x.bin", ".venv/bin/python"])
def test_git_ignores_what_is_made(path: str) -> None:
    assert subprocess.run(["git", "check-ignore", "-q", path], cwd=ROOT).returncode == 0


def test_each_make_recipe_is_one_line_and_its_target_is_phony() -> None:
    lines = (ROOT / "Makefile").read_text().splitlines()
    wrong = [line for before, line in itertools.pairwise(lines) if line[:1] == before[:1] == "\t"]
    assert wrong == []
    read = subprocess.run(["make", "-npq", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    phony = {name for line in read.splitlines() if line.startswith(".PHONY:") for name in line.split()[1:]}
    heads = [match[1] for line in lines if (match := re.match(r"([a-z][\w -]*):(?!=)", line))]
    targets = {name for head in heads for name in head.split()}
    assert targets <= phony


def test_nobody_reads_an_environment_variable_of_our_own() -> None:
    """RANK and its kin and the clients' variables are other people's; make's come through one door, scripts/."""
    others = re.compile(
        r"RANK|LOCAL_RANK|WORLD_SIZE|HF_\w+|OMP_\w+|TERM|LANG|LC_\w+"
        r"|(?:WANDB|TRACKIO|MLFLOW|COMET|CLEARML|AIM|SWANLAB|DVC|GOODSEED)_\w+"
        r"|TRACKER|KCONF_CLI|RUN|RESUME|PYTHONPATH|CUDA_VISIBLE_DEVICES|srctree|KCONFIG_\w+|MENUCONFIG_\w+"
    )
    wrong = []
    for path in sources("lib/**/*.py", *(f"{model}/*.py" for model in MODELS)):
        for name in re.findall(r"environ(?:\.get\(|\[|\.setdefault\()\s*[\"'](\w+)", path.read_text()):
            if not others.fullmatch(name):
                wrong.append(f"{path.relative_to(ROOT)}: {name}")
    assert wrong == []
