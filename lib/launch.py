"""From `make` to a training script: the configuration that is there, what make's command line adds, one command.

The command is printed as it could be typed, and takes this process's place, so that signals reach the trainer itself.
"""

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

QUICKSTART = "quickstart"


def command(root: Path, environ: Mapping[str, str]) -> list[str]:
    """The command line that trains what `.config` (in O=, or of the run that RESUME names) and make's words ask for.

    Raises:
        Refused: the model has no train.py, there is no such run, or a variable that training would not read.
    """
    kconf.only(environ, "training", "O", "RESUME", symbols=True)
    place = kconf.typed(environ, "O")
    resume = {"": "auto", "y": "auto", "n": "no"}.get(wanted := kconf.typed(environ, "RESUME"), wanted)
    where = kconf.folder(root, environ)
    flags = ["--config", place, "--resume", resume] if place else ["--resume", resume]
    if resume not in ("auto", "no"):
        if place:
            raise Refused(
                f"O={place} with RESUME={resume}: the run has a configuration of its own. Leave one of them out"
            )
        where = folder.find(root / "runs", resume, asked_as="RESUME").path
        flags = ["--config", str(where), "--resume", str(where)]
    base = where / options.DOTCONFIG
    overrides, theirs = kconf.overrides(root, environ, base), kconf.model(root, base)
    model = next((a.value for a in overrides if a.name == "MODEL"), theirs)
    if where != root and model != theirs:
        state = "is" if base.exists() else "would be"
        raise Refused(
            f"MODEL={model}: the configuration in {files.shown(where, root)} {state} one of {theirs}. "
            f"make defconfig MODEL={model} O=folder makes one of {model}"
        )
    changed = [f"{options.flag(a.name, model)}={a.value}" for a in overrides if a.name != "MODEL"]
    return [sys.executable, _script(root, model), *flags, *changed]


def again(root: Path, environ: Mapping[str, str]) -> list[str]:
    """The command line that trains the configuration of the run RUN again, with as many processes as it had.

    Raises:
        Refused: no such run, its configuration does not fit the Kconfig files of now, or anything else was typed.
    """
    kconf.only(environ, "a reproduction", "RUN")
    run = folder.find(root / "runs", kconf.typed(environ, "RUN"))
    where, base = files.shown(run.path, root), run.path / options.DOTCONFIG
    if not base.is_file():
        raise Refused(f"RUN={where}: no {options.DOTCONFIG} there, so its configuration is lost")
    try:
        kconf.resolve(root, base=base, assignments=[])
    except options.Faults as faults:
        commit = run.environment.get("commit")
        back = [f"RUN={where}: made by other code. git checkout {commit} brings that back"] if commit else []
        raise options.Faults([*faults.lines, *back]) from None
    processes = max((int(machine["processes"]) for machine in run.machines), default=1)
    together = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = _script(root, kconf.model(root, base))
    return [sys.executable, *(together if processes > 1 else []), script, "--reproduce", where]


def train(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the training script."""
    words = command(root, environ)  # a slip is answered before anything is written
    place = kconf.typed(environ, "O")
    if not (root / place / options.DOTCONFIG).exists():
        missing = Path(place) / options.DOTCONFIG
        print(f"no {missing} yet: defconfigs/{QUICKSTART} is loaded (make list-defconfigs shows the others)")
        kconf.defconfig(root, {"DEFCONFIG": QUICKSTART} | ({"O": place} if place else {}))
    _become(root, words)


def reproduce(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the training script of an earlier run."""
    _become(root, again(root, environ))


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


def _script(root: Path, model: str) -> str:
    if not (root / model / "train.py").is_file():
        raise Refused(f"MODEL={model}: no {model}/train.py. A model is a folder with one")
    return f"{model}/train.py"


def _become(root: Path, words: list[str]) -> NoReturn:
    print(f"$ {shlex.join([files.shown(Path(words[0]), root), *words[1:]])}", flush=True)
    os.chdir(root)
    os.execv(words[0], words)
