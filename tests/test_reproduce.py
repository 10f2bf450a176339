"""A run trained again: what is said to differ, whether the curve is the same bit by bit, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cloning import cloned_to, environment, make

from lib import reproduce
from lib.journal import lines
from lib.journal.folder import RunFolder
from lib.reproduce import Facts

QUICK = ("MAX_ITERS=4", "EVAL_SAMPLES=1", "LOG_INTERVAL=1", "TRACKER=none")
SURROUNDINGS = {
    "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
    "commit": "aaaa",
    "untracked": ["notes.txt"],
    "python": "3.11.7",
    "host": "here",
}
MACHINE = {"device": "cpu AVX2", "processes": 1, "threads": 2}
FACTS = Facts({"SEED": 0, "TRACKER_PROJECT": "lenet5-aaaaa"}, "d" * 64, [MACHINE], SURROUNDINGS, "")


def changed(**surroundings: Any) -> Facts:
    return FACTS._replace(environment={**SURROUNDINGS, **surroundings})


def said(then: Facts, now: Facts = FACTS) -> list[str]:
    return [str(difference) for difference in reproduce.differences(then, now)]


def logged(*points: tuple[int, dict[str, lines.Value]]) -> list[lines.Line]:
    return [lines.Line(seq, 0.0, step, values) for seq, (step, values) in enumerate(points)]


# --- what differs ---


def test_nothing_differs_between_a_run_and_itself() -> None:
    assert said(FACTS) == [] and reproduce.way_back(FACTS, FACTS, "dirty.diff") == ""


@pytest.mark.parametrize(
    ("then", "line"),
    [
        (FACTS._replace(configuration={**FACTS.configuration, "SEED": 1}), "configuration: SEED=0 (then 1)"),
        (FACTS._replace(configuration={"TRACKER_PROJECT": "lenet5-aaaaa"}), "configuration: SEED=0 (then none)"),
        (
            FACTS._replace(configuration={**FACTS.configuration, "TRACKER_PROJECT": "lenet5-bbbbb"}),
            "project: TRACKER_PROJECT=lenet5-aaaaa (then lenet5-bbbbb)",
        ),
        (FACTS._replace(data="e" * 64), "data: dddddddddddd (then eeeeeeeeeeee)"),
        (FACTS._replace(machines=[{**MACHINE, "device": "cuda H100"}]), "device: cpu AVX2 (then cuda H100)"),
        (FACTS._replace(machines=[{**MACHINE, "processes": 2}]), "processes: 1 (then 2)"),
        (
            FACTS._replace(machines=[MACHINE, {**MACHINE, "threads": 8}]),
            "threads: 2 (then 2 and 8); OMP_NUM_THREADS sets them",
        ),
        (FACTS._replace(machines=[]), "device: cpu AVX2 (then not recorded, nor processes and threads)"),
        (FACTS._replace(environment={}), "environment: not recorded then: packages, commit, Python, host"),
        (FACTS._replace(changes="+x"), "uncommitted changes: none (then some)"),
        (changed(commit="bbbb"), "commit: aaaa (then bbbb)"),
        (changed(untracked=["a.py"]), "untracked files: a.py is gone, notes.txt is new"),
        (changed(python="3.12.1"), "python: 3.11.7 (then 3.12.1)"),
        (changed(host="there"), "host: here (then there)"),
    ],
)
def test_each_thing_that_differs_is_one_line_with_what_it_is_now_and_was_then(then: Facts, line: str) -> None:
    assert said(then) == [line]


def test_threads_decide_nothing_where_a_gpu_computes() -> None:
    gpu = {**MACHINE, "device": "cuda H100"}
    now = FACTS._replace(machines=[gpu])
    assert said(FACTS._replace(machines=[{**gpu, "threads": 64}]), now) == []


def test_of_packages_torch_comes_first_and_a_handful_is_named() -> None:
    packages = {"torch": "2.12.0", "aa": "1", "bb": "1", "cc": "1", "dd": "1", "numpy": "2.4.6"}
    assert said(changed(packages=packages)) == [
        "packages: torch 2.13.0 (then 2.12.0), aa none (then 1), bb none (then 1), cc none (then 1) and 1 more"
    ]


def test_the_way_back_to_the_code_of_then_can_be_pasted() -> None:
    then = changed(commit="bbbb")._replace(changes="+then")
    dirty = FACTS._replace(changes="+now")
    assert reproduce.way_back(then, dirty, "my runs/dirty.diff") == (
        "git stash && git checkout bbbb && git apply 'my runs/dirty.diff'"
    )
    assert reproduce.way_back(changed(commit="bbbb"), FACTS, "x") == "git checkout bbbb"
    assert reproduce.way_back(FACTS, dirty, "x") == "git stash"
    assert reproduce.way_back(FACTS._replace(environment={}), dirty, "x") == "", "nobody knows"


# --- the curves ---


def test_curves_are_compared_bit_by_bit_and_without_what_a_clock_measures() -> None:
    then = logged((1, {"train_loss": 0.1, "images_per_second": 5.0}), (2, {"train_loss": 0.25, "total_time_s": 1.0}))
    now = logged((1, {"train_loss": 0.1, "images_per_second": 6.0}), (2, {"train_loss": 0.25, "total_time_s": 2.0}))
    assert reproduce.compare(then, now, whole=True) == (["train_loss"], 2, 2, [])
    off = logged((1, {"train_loss": 0.1}), (2, {"train_loss": 0.25000000000000006}))
    assert reproduce.compare(then, off, whole=True).wrong == [(2, "train_loss", 0.25000000000000006, 0.25)]


def test_nan_is_the_same_as_nan_and_minus_zero_is_not_zero() -> None:
    then = logged((1, {"train_loss": float("nan"), "grad_norm": 0.0}))
    now = logged((1, {"train_loss": float("nan"), "grad_norm": -0.0}))
    assert [name for _, name, *_ in reproduce.compare(then, now, whole=True).wrong] == ["grad_norm"]


def test_what_only_one_run_has_differs_unless_the_other_was_cut_short() -> None:
    short, long = logged((1, {"train_loss": 0.5})), logged((1, {"train_loss": 0.5}), (2, {"train_loss": 0.25}))
    assert reproduce.compare(long, short, whole=True).wrong == [(2, "train_loss", "none", 0.25)]
    assert reproduce.compare(short, long, whole=False) == (["train_loss"], 1, 1, [])
    assert reproduce.compare([], long, whole=True).values == 0


# --- as a user types it ---


@pytest.fixture(scope="module")
def clone_with_a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone, all of it committed, with one finished run."""
    clone = cloned_to(tmp_path_factory.mktemp("reproduce") / "a clone")
    commit(clone)
    done = make(clone, *QUICK)
    assert done.returncode == 0, done.stderr
    return clone


@pytest.fixture
def trained(clone_with_a_run: Path) -> Iterator[Path]:
    """That clone; what a test leaves in it is taken away."""
    before = set(clone_with_a_run.glob("runs/*/*"))
    yield clone_with_a_run
    for run in set(clone_with_a_run.glob("runs/*/*")) - before:
        shutil.rmtree(run)
    subprocess.run(["git", "clean", "-fdq"], cwd=clone_with_a_run, check=True)


@pytest.fixture
def original(trained: Path, tmp_path: Path) -> RunFolder:
    """A copy of that run, to be edited, under a name of its own."""
    (first,) = (path.parent for path in trained.glob("runs/*/*/config.json"))
    return RunFolder(shutil.copytree(first, trained / "runs" / "copies" / tmp_path.name))


def commit(clone: Path) -> None:
    who = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
    subprocess.run(["git", "add", "-A"], cwd=clone, check=True)
    subprocess.run(["git", *who, "commit", "-qm", "all"], cwd=clone, check=True)


def reproduced(clone: Path, run: RunFolder, **environ: str) -> tuple[int, list[str], RunFolder]:
    """The exit status of the script itself (make makes 2 of every failure), its lines, and the new run."""
    done = subprocess.run(
        [sys.executable, "lenet5/train.py", "--reproduce", str(run.path)],
        cwd=clone, capture_output=True, text=True, timeout=170, env=environment(**environ),
    )  # fmt: skip
    assert "run       " in done.stdout, done.stderr
    fresh = done.stdout.partition("run       ")[2].partition("  on ")[0]
    return done.returncode, done.stdout.splitlines(), RunFolder(clone / fresh)


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the JSON object in a file."""
    entry = json.loads(path.read_text())
    change(entry)
    path.write_text(json.dumps(entry))


def test_make_reproduce_says_that_the_curve_is_identical(trained: Path, original: RunFolder) -> None:
    before = contents(original.path)
    make(trained, "defconfig", "DEFCONFIG=gpt2-stdlib")  # the run has a configuration of its own
    done = make(trained, "reproduce", f"RUN=copies/{original.name}")
    assert done.returncode == 0, done.stderr
    assert f"lenet5/train.py --reproduce runs/copies/{original.name}\n" in done.stdout
    assert f"again     runs/copies/{original.name}  (finished; 21 values to compare with)" in done.stdout
    assert "differs   nothing: " in done.stdout and "go back" not in done.stdout
    names = "val_loss, val_accuracy, train_loss, learning_rate, grad_norm, sparsity, best_val_loss"
    assert done.stdout.splitlines()[-1] == f"identical 21 values of {names} at 5 steps"
    assert contents(original.path) == before
    run = RunFolder(trained / done.stdout.partition("run       ")[2].partition("  on ")[0])
    assert run.original == original and run.state() == "finished"
    assert run.project != "copies", "the configuration names no project, so it is this checkout's"
    assert "identical 21 values" in (run.path / "console.log").read_text()


def test_another_curve_is_exit_1_with_its_first_step_and_the_likely_cause(trained: Path, original: RunFolder) -> None:
    def other(facts: dict[str, Any]) -> None:
        facts["packages"]["torch"] = "2.12.0"
        facts["host"] = "elsewhere"

    edit(original.path / "environment.json", other)
    events = original.path / "events.jsonl"
    events.write_text(events.read_text().replace(str(original.data), "f" * 64))
    journal = original.path / lines.NAME
    third = next(line for line in lines.read(original.path) if line.step == 3)
    loss = third.values["train_loss"]
    assert isinstance(loss, float)
    journal.write_text(journal.read_text().replace(repr(loss), repr(loss + 1e-9)))
    status, printed, _ = reproduced(trained, original)
    assert status == 1
    assert any(line.startswith("differs   data: ") and line.endswith(" (then ffffffffffff)") for line in printed)
    assert any(line.startswith("differs   packages: torch ") and "(then 2.12.0)" in line for line in printed)
    assert printed[-2] == f"differs   first at step 3: train_loss {loss}, not {loss + 1e-9}; 1 of 21 values"
    assert printed[-1].startswith("cause     likely data: ") and printed[-1].endswith("; or: packages, host")


def test_a_killed_original_is_compared_as_far_as_it_came(trained: Path, original: RunFolder) -> None:
    run = RunFolder(shutil.copytree(original.path, original.path.with_name("again")))
    (original.path / "result.json").unlink()
    events, journal = original.path / "events.jsonl", original.path / lines.NAME
    events.write_text("".join(line for line in events.read_text().splitlines(True) if '"end"' not in line))
    journal.write_text("".join(journal.read_text().splitlines(True)[:3]) + '{"seq":3,"time":1,"st')
    same, (line,) = reproduce.verdict(original, run)
    assert same and line.startswith("identical 10 values of ")
    assert line.endswith(" at 3 steps that both runs have (the original: killed)")
    journal.unlink()
    nothing = f"compared  nothing: {original.path} (killed) has no step in common with this run"
    assert reproduce.verdict(original, run) == (False, [nothing])


def test_other_code_is_named_with_the_way_back_which_works(trained: Path, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    shutil.copytree(trained, clone, ignore=shutil.ignore_patterns("runs"))
    model = clone / "lenet5" / "model.py"
    text = model.read_text()
    model.write_text(text + "# then\n")
    assert make(clone, *QUICK, "DEVICE=cpu", "MODEL=lenet5", "RESUME=n").returncode == 0
    (first,) = (RunFolder(path.parent) for path in clone.glob("runs/*/*/config.json"))
    model.write_text(text)
    with (clone / "lenet5" / "task.py").open("a") as file:
        file.write("# committed since\n")
    commit(clone)
    model.write_text(text + "# not committed\n")
    status, printed, _ = reproduced(clone, first)
    assert status == 0 and printed[-1].startswith("identical ")
    (back,) = (line.removeprefix("go back   ") for line in printed if line.startswith("go back"))
    subprocess.run(back.replace("git stash", "git -c user.name=n -c user.email=n@x stash"), shell=True, cwd=clone)
    assert model.read_text() == text + "# then\n"


def test_a_run_of_two_processes_is_reproduced_by_two(trained: Path) -> None:
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    flags = ["--max-iters=4", "--eval-samples=1", "--log-interval=1", "--device=cpu", "--tracker=none"]
    begun = subprocess.run(
        [*together, "lenet5/train.py", *flags], cwd=trained, capture_output=True, text=True, env=environment()
    )
    assert begun.returncode == 0, begun.stderr[-2000:]
    first = RunFolder(trained / begun.stdout.partition("run       ")[2].partition("  on ")[0])
    assert [machine["processes"] for machine in first.machines] == [2]
    done = make(trained, "reproduce", f"RUN={first.path}")
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torchrun --standalone --nproc-per-node 2 --shutdown-timeout 300 lenet5/train.py --reproduce " in done.stdout
    assert done.stdout.count("identical 21 values") == 1 and "differs   nothing: " in done.stdout


def test_a_reproduction_that_was_stopped_goes_on_and_then_compares(trained: Path, original: RunFolder) -> None:
    (first,) = (path.parent for path in trained.glob("runs/lenet5-*/*/config.json"))
    original.reproduces(RunFolder(first))
    (original.path / "result.json").unlink()
    shutil.rmtree(original.path / "checkpoints")
    done = make(trained, f"RESUME=copies/{original.name}")
    assert done.returncode == 0, done.stderr
    assert "goes on after step 0 of 4" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("identical 21 values of ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "error: RUN=: no such run folder; the newest is "),
        (["RUN=nope"], "error: RUN=nope: no such run folder; the newest is "),
        (["RUN={run}", "SEED=9"], "error: SEED=9: a reproduction takes no symbols"),
        (["RUN={run}", "TRACKER=none"], "error: TRACKER=none: a reproduction takes no symbols"),
        (["RUN={run}", "DEFCONFIG=quickstart"], "error: DEFCONFIG=quickstart: a reproduction does not read DEFCONFIG;"),
        (["RUN={run}", "RESUME=n"], "error: RESUME=n: a reproduction does not read RESUME; it goes with make"),
        (["RUN={run}", "O=out"], "error: O=out: a reproduction does not read O; it goes with make"),
    ],
)
def test_what_would_change_a_reproduction_is_refused(trained: Path, words: list[str], line: str) -> None:
    (first,) = trained.glob("runs/*/*/config.json")
    done = make(trained, "reproduce", *(word.format(run=first.parent) for word in words))
    errors = [text for text in done.stderr.splitlines() if not text.startswith("make: ***")]
    assert done.returncode == 2 and len(errors) == 1 and errors[0].startswith(line), done.stderr
    assert list(trained.glob("runs/*/*/config.json")) == [first]


def test_a_configuration_that_fits_no_longer_names_the_commit_that_it_fits(trained: Path, original: RunFolder) -> None:
    with (original.path / ".config").open("a") as file:
        file.write("CONFIG_LONG_GONE=3\n")
    done = make(trained, "reproduce", f"RUN={original.path}")
    first, *_, last = [text for text in done.stderr.splitlines() if text.startswith("error: ")]
    assert done.returncode == 2 and first.endswith(": unknown symbol LONG_GONE")
    assert last == (
        f"error: RUN=runs/copies/{original.name}: made by other code. "
        f"git checkout {original.environment['commit']} brings that back"
    )
    (original.path / ".config").unlink()
    done = make(trained, "reproduce", f"RUN={original.path}")
    assert done.returncode == 2 and "no .config there, so its configuration is lost" in done.stderr


@pytest.mark.parametrize("flags", [["--seed=9"], ["--resume", "auto"], ["--config", "x"], ["stray"]])
def test_the_flag_stands_alone(trained: Path, original: RunFolder, flags: list[str]) -> None:
    command = [sys.executable, "lenet5/train.py", "--reproduce", original.name, *flags]
    done = subprocess.run(command, cwd=trained, capture_output=True, text=True, env=environment())
    assert done.returncode == 2 and "a reproduction changes nothing. Give the run alone" in done.stderr


# --- make O=folder ---


def test_make_trains_the_configuration_in_another_folder(trained: Path) -> None:
    before = (trained / ".config").read_bytes()
    done = make(trained, "O=out of/tree", "RESUME=n", "SEED=5", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "no out of/tree/.config yet: defconfigs/quickstart is loaded" in done.stdout
    assert "lenet5/train.py --config 'out of/tree' --resume no " in done.stdout
    assert (trained / "out of" / "tree" / "config.py").exists() and (trained / ".config").read_bytes() == before
    assert make(trained, "defconfig", "O=out of/tree", "SEED=7", "OPTIMIZER=sgd").returncode == 0
    done = make(trained, "O=out of/tree", "RESUME=n", *QUICK)
    assert done.returncode == 0, done.stderr
    run = RunFolder(trained / done.stdout.partition("run       ")[2].partition("  on ")[0])
    values = run.configuration["values"]
    assert (values["SEED"], values["OPTIMIZER"]) == (7, "sgd")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["RESUME={run}"], "error: O=fresh with RESUME={run}: the run has a configuration of its own. Leave one of"),
        (["MODEL=gpt2"], "error: MODEL=gpt2: the configuration in fresh would be one of lenet5. make defconfig MODEL="),
        (["SEEED=1"], "error: command line: SEEED=1: unknown symbol; did you mean SEED?"),
    ],
)
def test_a_slip_with_o_is_one_line_and_makes_no_folder(trained: Path, words: list[str], line: str) -> None:
    (first,) = trained.glob("runs/*/*/config.json")
    run = os.path.relpath(first.parent, trained)
    done = make(trained, "O=fresh", *(word.format(run=run) for word in words))
    errors = [text for text in done.stderr.splitlines() if not text.startswith("make: ***")]
    assert done.returncode == 2 and len(errors) == 1 and errors[0].startswith(line.format(run=run)), done.stderr
    assert not (trained / "fresh").exists()
