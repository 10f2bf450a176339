"""Matrices whose trainer is a stand-in, for the tests of the engine: a script without torch that does as it is told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil
from cloning import cloned_to, environment

from lib.journal import lines
from lib.journal.folder import RunFolder
from lib.matrix.plan import Matrix, find

STEPS = 8
TRAINER = """
import fcntl, json, os, random, signal, subprocess, sys, time
folder = sys.argv[2]
values = json.load(open(folder + "/config.json"))["values"]
lock = open(folder + "/lock", "a+")
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
def event(**told):
    open(folder + "/events.jsonl", "a").write(json.dumps({"time": time.time(), **told}) + "\\n")
gpus, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ.get("OMP_NUM_THREADS")
event(event="start", pid=os.getpid(), gpus=gpus, threads=threads)
how = json.load(open(__HOW__)).get(values["OPTIMIZER"], "good")
journal = folder + "/journal.jsonl"
step = len(open(journal).readlines()) if os.path.exists(journal) else 0
if how == "crash":
    raise ValueError("no such thing")
if how == "refuse":
    sys.exit(print("error: DATASET=x: not here. Use y", file=sys.stderr) or 2)
if how == "hang":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
if how == "memory" and not os.path.exists(folder + "/trial-2.log"):
    raise MemoryError("out of memory")
if how == "corrupt":
    sys.exit(open(folder + "/result.json", "w").write('{"val_los') * 0)
if how == "nothing":
    sys.exit(0)
while step < __STEPS__:
    print(f"step {step}/__STEPS__", flush=True)
    with open(journal, "a") as file:
        line = {"seq": step, "time": time.time(), "step": step, "values": {"loss": 1 / (1 + step)}}
        file.write(json.dumps(line) + "\\n")
    step += 1
    if how == "killed" or (how == "killed once" and not os.path.exists(folder + "/trial-2.log")):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(float(how) if how[0].isdigit() else 0)
event(event="end", status="finished")
random.seed(values["SEED"])
open(folder + "/.result", "w").write(json.dumps({"steps": step, "val_loss": random.random(), "total_time_s": 1.5}))
os.rename(folder + "/.result", folder + "/result.json")
if how == "killed late":
    event(event="helper", pid=subprocess.Popen(["sleep", "600"]).pid)
    os.kill(os.getpid(), signal.SIGKILL)
"""
REPORT = """
def build(runs, out, **_): (out / "index.html").write_text(f"{len(runs)} runs")
def export_results(runs, out): return []
"""


class Workshop:
    """A clone in which LeNet-5's train.py is the stand-in, and make's verbs as processes of their own."""

    def __init__(self, here: Path) -> None:
        self.root = cloned_to(here)
        self.how = here / "how.json"
        self.behaves()
        text = TRAINER.replace("__HOW__", repr(str(self.how))).replace("__STEPS__", str(STEPS))
        (self.root / "lenet5" / "train.py").write_text(text)
        (self.root / "lib" / "report" / "__init__.py").write_text(REPORT)  # what it writes has tests of its own

    def behaves(self, **how: str) -> None:
        """What the trainers of each optimizer do; a number is the seconds of a step."""
        self.how.write_text(json.dumps(how))

    def command(self, verb: str, **typed: object) -> tuple[list[str], dict[str, str]]:
        names = {name: str(value) for name, value in typed.items()}
        return [sys.executable, "scripts/test_matrix.py", verb], environment(**names, KCONF_CLI=" ".join(names))

    def runs(self, verb: str, **typed: object) -> subprocess.CompletedProcess[str]:
        """The verb, as make would start it with these words, to its end."""
        words, environ = self.command(verb, **typed)
        return subprocess.run(words, cwd=self.root, env=environ, capture_output=True, text=True, timeout=120)

    def starts(self, verb: str, **typed: object) -> subprocess.Popen[bytes]:
        words, environ = self.command(verb, **typed)
        with (self.root / "said").open("ab") as said:
            return subprocess.Popen(words, cwd=self.root, env=environ, stdout=said, stderr=said)

    @property
    def matrix(self) -> Matrix:
        return find(self.root / "runs", "")

    @property
    def cells(self) -> list[RunFolder]:
        return [self.matrix.run(cell) for cell in self.matrix.cells]


def few(optimizers: Iterable[str], *, seeds: str = "0,1", **more: object) -> dict[str, object]:
    """What is typed for a small matrix."""
    return {"MATRIX_OPTIMIZERS": ",".join(optimizers), "MATRIX_PRUNINGS": "none", "MATRIX_SEEDS": seeds, **more}


def planned(root: Path) -> bool:
    """Whether a matrix is there by now."""
    return any((root / "runs").glob("*/matrices/*/matrix.json"))


def steps_of(run: RunFolder) -> list[int]:
    """Every line of the journal, whatever it says."""
    return [line.step for line in lines.Reader(run.path / lines.NAME).rest()]


def alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
