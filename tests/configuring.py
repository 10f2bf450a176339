"""Checkouts to configure in, for the tests of the front end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lib import kconf
from lib.kconf import verbs
from lib.options import ROOT, Faults, Resolved

MNIST = "CONFIG_DATASET_MNIST=y\nCONFIG_BATCH_SIZE=128\n"
SGD = "CONFIG_OPTIMIZER_SGD=y\n"
FILES = (
    *("Kconfig", "*/Kconfig", "*/Kconfig.*", "lib/*/Kconfig", "defconfigs/*", "*/defconfigs/*"),
    *(
        "lib/__init__.py",
        "lib/errors.py",
        "lib/files.py",
        "lib/names.py",
        "lib/options/*.py",
        "lib/kconf/*.py",
        "lib/journal/*.py",
    ),
    *("scripts/configure.py", "scripts/*.sh"),
)
CODE = ("Makefile", "lib/**/*.py", "scripts/*.py", "*/train.py", "*/task.py", "*/model.py")  # what reads the symbols


def copied_to(root: Path, *more: str) -> Path:
    """A copy of what configuring needs, and of what else these patterns match, to write in."""
    for source in (path for pattern in (*FILES, *more) for path in ROOT.glob(pattern) if path.is_file()):
        target = root / source.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
    write(root / "lenet5" / "defconfigs" / "test-mnist", MNIST)  # those of the tree may be tuned
    write(root / "lenet5" / "defconfigs" / "test-sgd", SGD)
    return root


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what make or a user may have put there for the front end."""
    ours = ("KCONF_CLI", "TRACKER", "LOCAL_RANK", "RANK")
    return {name: value for name, value in os.environ.items() if name not in ours} | more


def configure(root: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """`scripts/configure.py words…` as a process of its own, from another directory."""
    command = [sys.executable, str(root / "scripts" / "configure.py"), *words]
    return subprocess.run(command, env=environment(**environ), cwd="/", capture_output=True, text=True, check=False)


def loaded(folder: Path) -> Any:
    """config.py, executed afresh."""
    module: dict[str, Any] = {"__name__": "config"}
    exec((folder / "config.py").read_text(), module)
    return module["config"]


def made(root: Path, *words: str, verb: str = "defconfig", **environ: str) -> Any:
    """The config of a verb that succeeds."""
    assert kconf.configure(root, environ, [verb, *words]) == 0
    return loaded(root)


def refused(root: Path, *words: str, verb: str = "defconfig", **environ: str) -> list[str]:
    """The lines of a verb that fails and must leave both files alone."""
    before = [(root / name).read_bytes() for name in (".config", "config.py") if (root / name).exists()]
    with pytest.raises(Faults) as faults:
        kconf.configure(root, environ, [verb, *words])
    assert [(root / name).read_bytes() for name in (".config", "config.py") if (root / name).exists()] == before
    return faults.value.lines


def resolved(root: Path, *typed: str) -> Resolved:
    """What a run target sees: .config, with the words on top."""
    return kconf.resolve(root, base=root / ".config", assignments=verbs.given({}, typed))


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
