"""Clones of this repository, and make in them as a user types it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from lib.options import ROOT

VENV = f"VENV={sys.prefix}"


def cloned_to(here: Path) -> Path:
    """A copy of the work tree as git would commit it now, in a repository of its own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, here / name)
    subprocess.run(["git", "init", "-q", "."], cwd=here, check=True)
    return here


def environment(**changes: str) -> dict[str, str]:
    """Ours, as far as a user's shell has it: without what an outer make left."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "KCONF_CLI"))}
    return {**kept, **changes}


def make(clone: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    command = ["make", VENV, *words]
    return subprocess.run(
        command,
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=170,
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
    )
