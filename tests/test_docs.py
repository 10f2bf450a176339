"""The documents say what is so: every `make TARGET` that they name runs, every file that they name is there."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest
from cloning import VENV, cloned_to, environment, make
from gpu_runs import created, sampled

from lib.names import installed
from lib.options import ROOT
from lib.track.settings import PACKAGES

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
QUICK = ["MAX_ITERS=2", "EVAL_SAMPLES=1"]
MATRIX = ["O=matrix", "MATRIX_OPTIMIZERS=sgd", "MATRIX_PRUNINGS=none", "MATRIX_SEEDS=0", *QUICK]  # O: all defaults
NO_TERMINAL = {"menuconfig", "nconfig", "config", "oldconfig", "guiconfig"}  # driven in tests of their own
SERVERS = {"trackio-show": "TRACKIO_PORT", "trackio-view": "TRACKIO_PORT"}
UNATTENDED = {  # they run this very suite, install or measure for minutes, need an account, or serve until Ctrl-C
    *("check", "check-all", "test", "lint", "types", "bench", "trackers", "wandb-sync"),
    *("tensorboard-show", "mlflow-show", "aim-show", "goodseed-show"),
}
WORDS = {  # what a target needs beside its name
    "train": [*QUICK, "O=train"],  # where quickstart is loaded, whatever was configured by chance before
    "plan": ["O=plain"],
    "data": ["O=plain"],
    "eval": ["RUN={run}"],
    "export": ["RUN={run}"],
    "sample": ["RUN=writer", "TOKENS=2"],
    "test_matrix": MATRIX,
    "test-matrix": MATRIX,
    "rerun": ["FILTER=SEED=0"],
    "setconfig": ["SEED=3"],
    "diffconfig": ["A=quickstart", "B=lenet5-sgd"],
    "reproduce": ["RUN={run}"],
    "tracker-sync": ["RUN={run}"],
    "runs-clean": ["YES=1"],
    "data-clean": ["YES=1"],
}
LAST = ["trackers", "clean", "mrproper", "distclean", "data-clean", "runs-clean"]  # they take away what others need


def code_of(page: Path) -> list[str]:
    """What stands in code spans, and the lines of code blocks."""
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [*spans, *(line for block in blocks for line in block.splitlines())]


def targets() -> list[str]:
    """Every target of every page, those that clean up last."""
    found = set()
    for code in (code for page in PAGES for code in code_of(page)):
        for line in code.split("&&"):
            if command := re.match(r"(?:\$ )?make\b(?![\w-])([^#(]*)", line.strip()):
                words = [word for word in shlex.split(command[1]) if "=" not in word and word[0] not in "-…<"]
                found |= set(words) if words else {"train"}
    return sorted(found, key=lambda name: (LAST.index(name) if name in LAST else -1, name))


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A clone with a run that had Trackio on, a GPT-2, a matrix and a run on four GPUs; and the name of the first."""
    here = cloned_to(tmp_path_factory.mktemp("docs") / "kilter")
    done = make(here, *QUICK)
    assert done.returncode == 0, done.stderr
    (run,) = here.glob("runs/*/*/result.json")
    done = make(here, *QUICK, "MODEL=gpt2", "DATASET=local", "DATASET_PATH=docs", "TRACKER_RUN_NAME=writer")
    assert done.returncode == 0, done.stderr
    assert make(here, "test_matrix", *MATRIX).returncode == 0  # there is one to continue
    sampled(created(here))
    assert make(here, "defconfig", "O=plain").returncode == 0
    assert make(here, "setconfig", "SEED=1").returncode == 0  # so that there is a .config.old
    return here, run.parent.name


def test_the_documents_name_the_targets_that_people_need() -> None:
    assert len(targets()) > 35 and {"train", "menuconfig", "smoke.config", "reproduce", "check"} <= set(targets())


@pytest.mark.parametrize("target", targets())
def test_a_documented_target_runs(workshop: tuple[Path, str], target: str) -> None:
    here, run = workshop
    words = [word.format(run=run) for word in WORDS.get(target, [])]
    if (tracker := target.rpartition("-")[0]) in PACKAGES and not installed(tracker):
        done = make(here, target)
        assert done.returncode == 2 and f"{tracker} is not installed. pip install {tracker}" in done.stderr
    elif target in SERVERS:
        assert _serves(here, target, SERVERS[target])
    elif target in NO_TERMINAL:
        done = make(here, target, DISPLAY="")
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 2, done.stderr  # the last line is make's
    else:
        done = make(here, *(["-n"] if target in UNATTENDED else []), target, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_target_of_the_makefile_is_in_a_document() -> None:
    """But for those that only developers of Kilter need; `make help` has them all."""
    read = subprocess.run(["make", "-npq", "help"], cwd=ROOT, capture_output=True, text=True).stdout
    phony = {name for line in read.splitlines() if line.startswith(".PHONY:") for name in line.split()[1:]}
    named = {name for name in phony if not re.search(r"_defconfig$|^defconfig-|\.config$", name)}
    assert sorted(named - set(targets()) - {"lint", "types", "test", "help", "trackers", "clean", "FORCE"}) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def _serves(here: Path, target: str, port_symbol: str) -> bool:
    """Whether the dashboard answers on the port that it was told."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["make", VENV, target, f"{port_symbol}={port}"]
    server = subprocess.Popen(words, cwd=here, env=environment(BROWSER="true"), start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
    try:
        until = time.monotonic() + 90
        while time.monotonic() < until and server.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                time.sleep(0.2)
        return False
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)
