"""From `make` to a training script: the configuration that is there, what make's command line adds, one command.

The command is printed as it could be typed, and takes this process's place, so that signals reach the trainer itself.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from lib import files, kconf, options
from lib.errors import Refused
from lib.journal import folder

QUICKSTART = "quickstart"
NOT_HERE = {
    "DEFCONFIG": "make defconfig",
    "O": "make defconfig",
    "RUN": "tracker-sync and the trackers' tests",
}  # of make's variables, those that training would ignore


def command(root: Path, environ: Mapping[str, str]) -> list[str]:
    """The command line that trains what `.config` (or the run that RESUME names) and make's command line ask for.

    Raises:
        Refused: the model has no train.py, or there is no such run.
    """
    for name, place in NOT_HERE.items():
        if kconf.typed(environ, name):
            hint = "RESUME= goes on with a run" if name == "RUN" else "Configure first, then make"
            raise Refused(f"{name}: goes with {place}, not with training. {hint}")
    overrides = kconf.overrides(root, environ)
    resume = {"": "auto", "y": "auto", "n": "no"}.get(wanted := kconf.typed(environ, "RESUME"), wanted)
    model, flags = kconf.model(root), ["--resume", resume]
    if resume not in ("auto", "no"):
        run = folder.find(root / "runs", resume, asked_as="RESUME")
        model, flags = run.configuration["values"]["MODEL"], ["--config", str(run.path), "--resume", str(run.path)]
    model = next((a.value for a in overrides if a.name == "MODEL"), model)
    if not (root / model / "train.py").is_file():
        raise Refused(f"MODEL={model}: no {model}/train.py. A model is a folder with one")
    changed = [f"{options.flag(a.name, model)}={a.value}" for a in overrides if a.name != "MODEL"]
    return [sys.executable, f"{model}/train.py", *flags, *changed]


def train(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the training script."""
    words = command(root, environ)  # a slip is answered before anything is written
    if not (root / ".config").exists():
        print(f"no .config yet: defconfigs/{QUICKSTART} is loaded (make list-defconfigs shows the others)")
        kconf.defconfig(root, {"DEFCONFIG": QUICKSTART})
    print(f"$ {shlex.join([files.shown(Path(words[0]), root), *words[1:]])}", flush=True)
    os.chdir(root)
    os.execv(words[0], words)


def trackio_show(root: Path, environ: Mapping[str, str]) -> int:
    """Serve the Trackio dashboard of the configured project on its port, whether tracking is on now or not."""
    from lib.track import to_trackio  # a second of imports that training must not pay

    base = root / ".config"
    switch = options.Assignment("ENABLE_TRACKIO", "y", "make trackio-show")
    asked = [*kconf.overrides(root, environ), switch]
    values = kconf.resolve(root, base=base if base.exists() else None, assignments=asked).values
    to_trackio.show(str(values["TRACKER_PROJECT"]), int(values["TRACKIO_PORT"]))
    return 0
