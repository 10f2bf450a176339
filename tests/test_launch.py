"""What make starts: processes for GPUS and NPROC, as many as before when a run goes on, a plan, an evaluation."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cloning import VENV, environment, make
from nvml.simulated import simulated

from lib import kconf, launch, options
from lib.errors import Refused
from lib.journal.folder import RunFolder
from lib.launch import processes
from lib.options import ROOT

QUICK = ("MAX_ITERS=4", "EVAL_SAMPLES=2", "EVAL_INTERVAL=2", "LOG_INTERVAL=1", "TRACKER=none")
LONG = ("MAX_ITERS=1000000", "LOG_INTERVAL=1", "EVAL_SAMPLES=1", "EVAL_INTERVAL=1000000", "TRACKER=none")


def the_run(clone: Path) -> RunFolder:
    (config,) = clone.glob("runs/*/*/config.json")
    return RunFolder(config.parent)


def everything(folder: Path) -> dict[str, str]:
    """The hash of each file that is no cache of Python's."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- how many ---


@pytest.mark.parametrize(
    ("gpus", "device", "there", "count"),
    [(-1, "auto", 4, 4), (-1, "auto", 0, 1), (2, "auto", 4, 2), (1, "cuda", 4, 1), (0, "auto", 4, 1), (4, "cpu", 0, 1)],
)
def test_there_is_a_process_for_each_gpu(
    gpus: int, device: str, there: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "visible", lambda: there)
    assert processes.count(gpus=gpus, device=device, nproc="") == count


def test_more_gpus_than_there_are_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "visible", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    with pytest.raises(Refused) as refusal:
        processes.count(gpus=3, device="auto", nproc="")
    assert str(refusal.value) == (
        "GPUS=3: there are 2 here (CUDA_VISIBLE_DEVICES=0,3). "
        "Use GPUS=-1 for those that are, or NPROC=3 for as many processes on the CPU"
    )


@pytest.mark.parametrize(
    ("gpus", "device", "nproc", "said"),
    [
        (-1, "auto", "two", "NPROC=two: expected a number of processes from 1 to 1024"),
        (-1, "auto", "0", "NPROC=0: expected a number of processes from 1 to 1024"),
        (-1, "cuda", "2", "NPROC=2 with DEVICE=cuda: NPROC is for the CPU. DEVICE=cpu goes with it, or GPUS=n"),
        (0, "cuda", "", "GPUS=0 with DEVICE=cuda: none of it is left to train on. Use DEVICE=cpu, or GPUS=-1"),
    ],
)
def test_what_makes_no_number_of_processes_is_refused(gpus: int, device: str, nproc: str, said: str) -> None:
    with pytest.raises(Refused) as refusal:
        processes.count(gpus=gpus, device=device, nproc=nproc)
    assert str(refusal.value) == said


def test_pytorch_has_the_last_word_on_how_many_gpus_it_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML sees all of the machine's, and a stand-in for it sees GPUs that are not there."""
    monkeypatch.setattr(processes, "_nvidia", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert processes.visible() == 3
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert processes.visible() == 0


@pytest.mark.parametrize(
    ("scenario", "listed", "imports"), [("gpus=4", None, True), ("gpus=4", "2", False), ("gpus=1", None, False)]
)
def test_pytorch_is_imported_only_where_nvml_leaves_several(
    tmp_path: Path, scenario: str, listed: str | None, imports: bool
) -> None:
    code = "import sys; from lib.launch import processes as p; p.visible(); print(p._nvidia(), 'torch' in sys.modules)"
    with simulated(tmp_path, scenario) as gpus:
        env = {name: value for name, value in gpus.env.items() if name != "CUDA_VISIBLE_DEVICES"}
        env |= {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
    assert said.stdout.split() == [scenario.removeprefix("gpus="), str(imports)]


def test_the_line_of_several_processes_is_torchruns_with_the_cores_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    words = processes.line(4, ["gpt2/train.py", "--seed=1"]).split()
    assert words[0] == "OMP_NUM_THREADS=3" and words[1].endswith("/torchrun")
    assert words[2:5] == ["--standalone", "--nproc-per-node", "4"] and words[-2:] == ["gpt2/train.py", "--seed=1"]
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert processes.line(4, ["gpt2/train.py"]).partition(" ")[0].endswith("/torchrun"), "the user's own choice counts"


# --- as many as before ---


@pytest.fixture
def interrupted(tmp_path: Path) -> tuple[Path, options.Resolved]:
    """A run of three processes on the CPU that was interrupted, and its configuration."""
    words = [options.Assignment("TRACKER_PROJECT", "p", "test"), options.Assignment("DEVICE", "cpu", "test")]
    resolved = kconf.resolve(ROOT, base=None, assignments=words)
    run = RunFolder.create(tmp_path / "runs", "p", "r")
    record = options.Options("lenet5", resolved).record()
    run.keep(record.files)
    run.record("start")
    run.record("machine", device="cpu AVX2", processes=3, threads=1)
    return tmp_path, resolved


def test_a_run_goes_on_with_as_many_processes_as_it_had(
    interrupted: tuple[Path, options.Resolved], capsys: pytest.CaptureFixture[str]
) -> None:
    root, resolved = interrupted
    assert launch._as_before(root, "auto", resolved, 1, "") == 3
    assert "runs/p/r had 3 processes and goes on with as many (RESUME=n starts a new run)" in capsys.readouterr().err
    assert launch._as_before(root, str(root / "runs/p/r"), resolved, 1, "") == 3
    assert launch._as_before(root, "no", resolved, 1, "") == 1
    with pytest.raises(Refused, match=r"^NPROC=2: runs/p/r had 3 processes .* Use NPROC=3, or RESUME=n"):
        launch._as_before(root, "auto", resolved, 2, "2")


def test_a_run_of_more_gpus_than_are_left_is_not_gone_on_with(
    interrupted: tuple[Path, options.Resolved], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, resolved = interrupted
    RunFolder(root / "runs/p/r").record("machine", device="cuda NVIDIA A10G", processes=4, threads=1)
    monkeypatch.setattr(processes, "visible", lambda: 2)
    with pytest.raises(Refused, match=r"^GPUS=2 visible: runs/p/r had 4 processes .* Make 4 visible"):
        launch._as_before(root, "auto", resolved, 2, "")


# --- as it is typed ---


def test_nproc_trains_on_the_cpu_stops_safely_and_goes_on_with_as_many(clone: Path) -> None:
    trainer = subprocess.Popen(
        ["make", VENV, "NPROC=2", *LONG], cwd=clone, env=environment(), text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    until = time.monotonic() + 120
    while not any(b'"train_loss"' in path.read_bytes() for path in clone.glob("runs/*/*/journal.jsonl")):
        assert time.monotonic() < until and trainer.poll() is None
        time.sleep(0.1)
    os.killpg(trainer.pid, signal.SIGINT)  # as a terminal does
    said = trainer.communicate(timeout=60)[0]
    assert "torchrun --standalone --nproc-per-node 2" in said and "Traceback" not in said, said
    run = the_run(clone)
    assert run.state() == "interrupted" and run.configuration["values"]["DEVICE"] == "cpu"
    assert [machine["processes"] for machine in run.machines] == [2]
    typed = dict(word.split("=") for word in (*LONG, "DEVICE=cpu"))
    resolved = launch.asked(clone, {"KCONF_CLI": " ".join(typed), **typed}).resolved(clone)
    assert launch._as_before(clone, "auto", resolved, 1, "") == 2, "make with this configuration would go on with it"
    done = make(clone, "NPROC=2", f"RESUME={run.path}", "SEED=7")
    assert done.returncode == 2 and "its configuration is another one: SEED=0, not 7" in done.stderr
    assert "Traceback" not in done.stderr, "a slip stays one line, also under torchrun"


def test_a_hang_up_that_nohup_has_ignored_does_not_reach_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed import run

    words: list[str] = []
    monkeypatch.setattr(run, "main", words.extend)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with pytest.raises(SystemExit):
            processes.become(tmp_path, 2, ["train.py"])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert "SIGHUP" not in run.get_args_parser().parse_args(words).signals_to_handle


def test_a_plan_says_it_all_and_writes_nothing(clone: Path) -> None:
    words = ("MODEL=gpt2", "MAX_ITERS=10", "GPUS=4", "BATCH_SIZE=3", "GRADIENT_ACCUMULATION=5", "TRACKER=none")
    before = everything(clone)
    done = make(clone, "plan", *words)
    assert done.returncode == 0, done.stderr
    for said in (
        "GPT2, 828,544 parameters",
        "3 samples x 5 added up x 4 processes = 60 a step",
        "10 of 3,840 tokens, 38,400 in all",
        "on each GPU; there is none here to compare with",
        "torchrun --standalone --nproc-per-node 4 --shutdown-timeout 300 gpt2/train.py",
    ):
        assert said in done.stdout, done.stdout
    made_once = {str(clone / ".project-checksum")}  # the project's name, whoever asks for it first
    assert {name for name, _ in everything(clone).items() - before.items()} <= made_once


def test_an_evaluation_prints_the_runs_numbers_again_and_leaves_it_alone(clone: Path) -> None:
    assert make(clone, *QUICK).returncode == 0
    run = the_run(clone)
    before = everything(run.path)
    done = make(clone, "eval", f"RUN={run.name}")
    assert done.returncode == 0, done.stderr
    best, logged = (line for line in done.stdout.splitlines() if line.startswith(("best", "logged")))
    assert best.split()[1:] == logged.split()[1:-3] and "val_loss" in best
    assert everything(run.path) == before


@pytest.mark.slow
def test_an_evaluation_by_two_processes_prints_the_same(clone: Path) -> None:
    assert make(clone, *QUICK).returncode == 0
    run = the_run(clone)
    said = [make(clone, "eval", f"RUN={run.name}", *more).stdout for more in ((), ("NPROC=2",))]
    assert said[0].splitlines()[1:] == said[1].splitlines()[1:]


@pytest.mark.parametrize("word", ["--dry-run=0", "--dry-run=four", "--eval"])
def test_slips_in_these_flags_are_told(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        options.load("lenet5", [word], front_end=kconf)
    assert capsys.readouterr().err.startswith(f"error: {word}: ")


def test_a_dry_run_is_of_one_process_unless_it_says_of_how_many() -> None:
    for words, count in (([], 0), (["--dry-run"], 1), (["--dry-run=4", "--seed=1"], 4)):
        assert options.load("lenet5", words, front_end=kconf).dry_run == count
