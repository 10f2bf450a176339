"""Where and with what a run ran: host, Python, packages, the clients' variables without secrets, commit and changes.

Recorded once, when the run is created, so that it can be reproduced later. What can't be found out is left out: nothing
here stops a training.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from lib.files import write_whole
from lib.journal import secrets
from lib.options import ROOT

CLIENTS = (
    "WANDB_", "TRACKIO_", "HF_", "MLFLOW_", "COMET_", "CLEARML_", "AIM_", "SWANLAB_", "DVC_", "DVCLIVE_", "GOODSEED_",
    "OMP_", "CUDA_VISIBLE_DEVICES",
)  # fmt: skip


def record(folder: Path) -> None:
    """Write environment.json, and dirty.diff when tracked files differ from their commit."""
    facts = secrets.without({
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "processors": os.cpu_count(),
        "variables": variables(os.environ),
        "commit": _git("rev-parse", "HEAD").strip(),
        "untracked": _git("ls-files", "--others", "--exclude-standard").splitlines(),
    })  # fmt: skip
    packages = {str(dist.name): dist.version for dist in importlib.metadata.distributions() if dist.name}
    facts["packages"] = packages  # nothing but their names could be taken for a secret's
    write_whole(folder / "environment.json", json.dumps(facts, indent=1, sort_keys=True) + "\n")
    if changes := _git("diff", "--no-ext-diff", "--no-color", "--binary", "HEAD", "--", "."):
        write_whole(folder / "dirty.diff", secrets.scrubbed(changes))


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The clients' own variables in `environ`: without those named like a secret, and without what a URL may hide."""
    told = {name: text for name, text in environ.items() if name.startswith(CLIENTS) and not secrets.named(name)}
    return {name: secrets.scrubbed(text, environ) for name, text in sorted(told.items())}


def cores() -> int:
    """How many cores this process may use: what OMP_NUM_THREADS and workers are shared out of."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else ""
