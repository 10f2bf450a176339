"""The trackers' own commands of make: their pages, their tests, what they have not taken yet, which there are."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

from lib import files, kconf, names, options
from lib.errors import Refused
from lib.journal import folder


def tracker_show(root: Path, environ: Mapping[str, str], goal: str) -> int:
    """Serve the pages of the tracker that `goal` names, `mlflow-show`, whether tracking is on now or not.

    Raises:
        Refused: it is not installed, or Trackio's port is taken.
    """
    from lib.track.settings import missing

    tracker = goal.partition("-")[0]
    kconf.only(environ, goal, symbols=True)
    if pip := missing(tracker):
        raise Refused(f"{tracker} is not installed. {pip}")
    opts = _with(root, environ, goal, tracker)
    if tracker == "trackio":
        from lib.track import to_trackio  # a second of imports that training must not pay

        to_trackio.show(opts.tracker_project, opts.trackio_port)
        return 0
    words = {
        "tensorboard": ["--logdir", "runs"],
        "mlflow": ["ui", "--backend-store-uri", _mlflow(opts, environ)],
        "aim": ["up", "--repo", opts.get("aim_repo") or "runs/aim"],
        "goodseed": ["serve"],
    }[tracker]
    return _become(root, [str(Path(sys.executable).with_name(tracker)), *words])


def _become(root: Path, words: list[str]) -> NoReturn:
    print(f"$ {shlex.join([files.shown(Path(words[0]), root), *words[1:]])}", flush=True)
    os.chdir(root)
    os.execv(words[0], words)


def _mlflow(opts: options.Options, environ: Mapping[str, str]) -> str:
    """Where MLflow's runs go: the symbol, its own variable, or beside the run folders."""
    return opts.get("mlflow_uri") or environ.get("MLFLOW_TRACKING_URI") or "sqlite:///runs/mlflow.db"


def tracker_test(root: Path, environ: Mapping[str, str], tracker: str) -> int:
    """Send curves through the tracker's client and read them back, or compare an earlier RUN.

    The tracker is told what is configured, with make's command line on top; the project is one of its own.
    """
    from lib.track import check
    from lib.track.settings import Settings

    goal, run = f"{tracker}-test", kconf.typed(environ, "RUN")
    kconf.only(environ, goal, "RUN", symbols=not run)
    if run:
        return check.main(tracker, folder.find(root / "runs", run))
    name = names.run_name("curves", tracker, datetime.now())
    project = names.project("tracker-test", root)
    opts = _with(root, environ, goal, tracker, TRACKER_PROJECT=project, TRACKER_RUN_NAME=name)
    return check.main(tracker, check.send(tracker, root / "runs", opts.record(), opts.fill(Settings)))


def tracker_sync(root: Path, environ: Mapping[str, str], *, dry_run: bool) -> int:
    """Send to the trackers of RUN, or of every run, what they have not taken yet.

    TRACKER names others than those that were on; what is configured says what these are told.
    """
    from lib.track import sync
    from lib.track.settings import Settings

    goal, named = "tracker-sync", kconf.typed(environ, "TRACKER")
    kconf.only(environ, goal, "RUN", "DRY_RUN", "TRACKER", symbols=bool(named))
    others = _with(root, environ, goal, "").fill(Settings).enabled() if named else None
    dry_run |= kconf.typed(environ, "DRY_RUN") not in ("", "0", "n")
    return sync.main(kconf.typed(environ, "RUN"), root / "runs", trackers=others, dry_run=dry_run)


def list_trackers(root: Path, environ: Mapping[str, str]) -> int:
    """A line for each tracker: its name, whether it is on, its version or what installs it."""
    from lib.track import settings

    kconf.only(environ, "list-trackers", symbols=True)
    opts = _with(root, environ, "list-trackers", "")
    for name in settings.PACKAGES:
        on = "on" if opts.get(f"enable_{name}") else "off"
        print(f"{name:<12} {on:<4} {settings.missing(name) or version(settings.PACKAGES[name])}")
    return 0


def _with(root: Path, environ: Mapping[str, str], goal: str, tracker: str, **values: str) -> options.Options:
    """What is configured, these values, and make's command line on top.

    One `tracker` is on alone then, whatever they say; without, those that they say.
    """
    below = [options.Assignment(name, value, f"make {goal}") for name, value in values.items()]
    above = [options.Assignment("TRACKER", tracker, f"make {goal}, which needs it")] if tracker else []
    base = root / options.DOTCONFIG
    asked = kconf.overrides(root, environ, below=below, above=above)
    resolved = kconf.resolve(root, base=base if base.exists() else None, assignments=asked)
    return options.Options(str(resolved.values["MODEL"]), resolved)
