"""Where and with what a run ran: host, Python, packages, the clients' variables without secrets, commit and changes.

Recorded once, when the run is created, so that it can be reproduced later.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import socket
import subprocess
import sys
from pathlib import Path

from lib.journal.folder import write_whole

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = ("WANDB_", "TRACKIO_", "HF_", "MLFLOW_", "OMP_", "CUDA_VISIBLE_DEVICES")
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
USERINFO = re.compile(r"//[^/@\s]+@")
QUERY = re.compile(r"\?\S*")


def record(folder: Path) -> None:
    """Write environment.json, and dirty.diff when the work tree differs from its commit."""
    facts = {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "processors": os.cpu_count(),
        "variables": variables(dict(os.environ)),
        "commit": _git("rev-parse", "HEAD"),
        "packages": {dist.name: dist.version for dist in importlib.metadata.distributions()},
    }
    write_whole(folder / "environment.json", json.dumps(facts, indent=1, sort_keys=True) + "\n")
    if changes := _git("diff", "HEAD"):
        write_whole(folder / "dirty.diff", changes + "\n")


def variables(environ: dict[str, str]) -> dict[str, str]:
    """The clients' own variables in `environ`: without those named like a secret, and without what a URL may hide."""
    told = {name: value for name, value in environ.items() if name.startswith(CLIENTS) and not SECRET.search(name)}
    return {name: QUERY.sub("", USERINFO.sub("//", value)) for name, value in sorted(told.items())}


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
