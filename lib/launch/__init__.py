"""From `make` to a training script: the configuration that is there, what make's command line adds, one command.

The command is printed as it could be typed. It takes this process's place, or, where a run has several processes,
this process is the torchrun that starts them; signals reach the trainers themselves.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn, TypedDict

from lib import files, kconf, options
from lib.errors import Refused
from lib.journal import folder
from lib.launch import processes
from lib.launch.trackers import list_trackers, tracker_show, tracker_sync, tracker_test

__all__ = [
    "evaluate",
    "list_trackers",
    "plan",
    "reproduce",
    "tracker_show",
    "tracker_sync",
    "tracker_test",
    "train",
]

QUICKSTART = "quickstart"


class Asked(NamedTuple):
    """What make was told to train."""

    model: str
    base: Path  # its .config, which may not be there yet
    own: list[str]  # --config and --resume
    changes: list[options.Assignment]  # of symbols, MODEL left out
    resume: str  # auto, no or a run

    @property
    def words(self) -> list[str]:
        """The script and its flags."""
        flags = [f"{options.flag(change.name, self.model)}={change.value}" for change in self.changes]
        return [f"{self.model}/train.py", *self.own, *flags]

    def resolved(self, root: Path) -> options.Resolved:
        """The configuration that the script will find."""
        mine = options.Assignment("MODEL", self.model, f"{self.model}/train.py")
        base = self.base if self.base.exists() else None
        return kconf.resolve(root, base=base, assignments=[mine, *self.changes])


def asked(root: Path, environ: Mapping[str, str]) -> Asked:
    """To train what `.config` (in O=, or of the run that RESUME names) and make's words say.

    Raises:
        Refused: the model has no train.py, there is no such run, or the configuration can't be.
    """
    place = kconf.typed(environ, "O")
    resume = {"": "auto", "y": "auto", "n": "no"}.get(wanted := kconf.typed(environ, "RESUME"), wanted)
    where = kconf.folder(root, environ)
    own = ["--config", place, "--resume", resume] if place else ["--resume", resume]
    if resume not in ("auto", "no"):
        if place:
            raise Refused(
                f"O={place} with RESUME={resume}: the run has a configuration of its own. Leave one of them out"
            )
        where = folder.find(root / "runs", resume, asked_as="RESUME").path
        own = ["--config", str(where), "--resume", str(where)]
    base = where / options.DOTCONFIG
    model, changes = _changes(root, environ, base, ours=where == root)
    return Asked(model, base, own, changes, resume)


def train(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the training script, as many processes as there are GPUS or as NPROC says."""
    kconf.only(environ, "training", "O", "RESUME", "NPROC", symbols=True)
    wanted = asked(root, environ)  # a slip is answered before anything is written
    place, nproc = kconf.typed(environ, "O"), kconf.typed(environ, "NPROC")
    if not (root / place / options.DOTCONFIG).exists():
        missing = Path(place) / options.DOTCONFIG
        print(f"no {missing} yet: defconfigs/{QUICKSTART} is loaded (make list-defconfigs shows the others)")
        kconf.defconfig(root, {"DEFCONFIG": QUICKSTART} | ({"O": place} if place else {}))
    resolved = _settled(root, wanted, nproc)
    count = processes.count(nproc=nproc, **_devices(resolved))
    processes.become(root, _as_before(root, wanted.resume, resolved, count, nproc), wanted.words)


def plan(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the training script that only says what it would do; GPUS counts, whether they are here or not."""
    kconf.only(environ, "plan", "O", "NPROC", symbols=True)
    wanted = asked(root, environ)
    if not wanted.base.exists():
        print(f"note: no {options.DOTCONFIG} yet, so all defaults; make would load {QUICKSTART}", file=sys.stderr)
        wanted = wanted._replace(own=[])
    nproc = kconf.typed(environ, "NPROC")
    resolved = _settled(root, wanted, nproc)
    devices = _devices(resolved)
    planned = devices["gpus"] > 0 and devices["device"] in ("auto", "cuda") and not nproc
    count = devices["gpus"] if planned else processes.count(nproc=nproc, **devices)
    processes.become(root, 1, [*wanted.words, f"--dry-run={count}"])


def reproduce(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the training script of an earlier run, with as many processes as it had."""
    kconf.only(environ, "a reproduction", "RUN")
    run, base = _earlier(root, environ)
    model, _ = _changes(root, environ, base, ours=False)
    count = max((int(machine["processes"]) for machine in run.machines), default=1)
    processes.become(root, count, [f"{model}/train.py", "--reproduce", files.shown(run.path, root)])


def evaluate(root: Path, environ: Mapping[str, str]) -> NoReturn:
    """Become the script that validates the best weights of an earlier run; the number of processes changes nothing."""
    kconf.only(environ, "eval", "RUN", "NPROC", symbols=True)
    run, base = _earlier(root, environ)
    model, changes = _changes(root, environ, base, ours=False)
    wanted = Asked(model, base, ["--eval", files.shown(run.path, root)], changes, "no")
    nproc = kconf.typed(environ, "NPROC")
    devices = _devices(_settled(root, wanted, nproc))
    devices["gpus"] = min(devices["gpus"], processes.visible()) or -1
    processes.become(root, processes.count(nproc=nproc, **devices), wanted.words)


def _changes(root: Path, environ: Mapping[str, str], base: Path, *, ours: bool) -> tuple[str, list[options.Assignment]]:
    """The model, and what make's command line changes in the configuration `base`; `ours`: the model, too."""
    overrides, theirs = kconf.overrides(root, environ, base), kconf.model(root, base)
    model = next((change.value for change in overrides if change.name == "MODEL"), theirs)
    if not ours and model != theirs:
        state = "is" if base.exists() else "would be"
        raise Refused(
            f"MODEL={model}: the configuration in {files.shown(base.parent, root)} {state} one of {theirs}. "
            f"make defconfig MODEL={model} O=folder makes one of {model}"
        )
    if not (root / model / "train.py").is_file():
        raise Refused(f"MODEL={model}: no {model}/train.py. A model is a folder with one")
    return model, [change for change in overrides if change.name != "MODEL"]


class Devices(TypedDict):
    gpus: int
    device: str


def _devices(resolved: options.Resolved) -> Devices:
    return {"gpus": int(resolved.values["GPUS"]), "device": str(resolved.values["DEVICE"])}


def _settled(root: Path, wanted: Asked, nproc: str) -> options.Resolved:
    """The configuration that the script will find; DEVICE=auto has become the CPU where NPROC or GPUS=0 ask for it."""
    resolved = wanted.resolved(root)
    if resolved.values["DEVICE"] == "auto" and (nproc or resolved.values["GPUS"] == 0):
        wanted.changes.append(options.Assignment("DEVICE", "cpu", "NPROC" if nproc else "GPUS=0"))
        resolved = wanted.resolved(root)
    return resolved


def _earlier(root: Path, environ: Mapping[str, str]) -> tuple[folder.RunFolder, Path]:
    """The run that RUN names, and its .config.

    Raises:
        Refused: no such run, or its configuration does not fit the Kconfig files of now.
    """
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
    return run, base


def _as_before(root: Path, resume: str, resolved: options.Resolved, count: int, nproc: str) -> int:
    """`count`, or as many processes as the run had that training will go on with: its curve is of so many.

    Raises:
        Refused: another NPROC was typed, or there are fewer GPUs now.
    """
    runs, run = root / "runs", None
    if resume == "auto":
        project, digest = str(resolved.values["TRACKER_PROJECT"]), str(resolved.provenance["hash"])
        run = folder.unfinished(runs, project, digest)
    elif resume != "no":
        run = folder.find(runs, resume, asked_as="RESUME")
    if run is None or not run.machines or (had := int(run.machines[-1]["processes"])) == count:
        return count
    said = f"{files.shown(run.path, root)} had {had} process{'es' * (had > 1)} and goes on with as many"
    if nproc:
        raise Refused(f"NPROC={nproc}: {said}. Use NPROC={had}, or RESUME=n for a new run")
    if not str(run.machines[-1]["device"]).startswith("cpu") and had > (there := max(1, processes.visible())):
        raise Refused(f"GPUS={there} visible: {said}. Make {had} visible, or use RESUME=n for a new run")
    print(f"note: {said} (RESUME=n starts a new run)", file=sys.stderr)
    return had
