"""What a user types, in a clone: make from nothing to a trained model, stopping and killing it, and going on."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pyte
import pytest
from cloning import VENV, environment, make

from lib.journal import folder, lines
from lib.options import ROOT
from lib.track import check

SMALL = ("NUM_EPOCHS=1", "TRACKER=none")


def runs(clone: Path) -> list[folder.RunFolder]:
    return [folder.RunFolder(path.parent) for path in sorted(clone.glob("runs/*/*/config.json"))]


def logged(run: folder.RunFolder, name: str) -> dict[int, object]:
    return {line.step: line.values[name] for line in lines.read(run.path) if name in line.values}


def test_make_goes_from_nothing_to_a_trained_tracked_model(clone: Path) -> None:
    done = make(clone)
    assert done.returncode == 0, done.stderr
    assert "defconfigs/quickstart is loaded" in done.stdout
    (run,) = runs(clone)
    result = run.result
    assert result and result["val_accuracy"] >= 0.97
    for shown in (f"folder    runs/{run.project}/{run.name}", "trackio   make trackio-show", "val_accuracy"):
        assert shown in done.stdout, done.stdout
    kept = {"curves.png", "console.log", "environment.json", "journal.jsonl", ".config", "config.py", "result.json"}
    assert kept <= {path.name for path in run.path.iterdir()}
    assert done.stdout.partition("run       ")[2].splitlines()[1] in (run.path / "console.log").read_text()
    assert check.compare("trackio", run)[1] == []
    code = "from config import config; print(getattr(config, 'ENABLE_TRACKIO', False))"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=clone, text=True) == "True\n"
    assert make(clone, "mrproper").returncode == 0
    assert runs(clone) and not (clone / ".config").exists(), "cleaning never touches results"
    assert make(clone, "runs-clean").returncode == 2 and runs(clone)
    assert make(clone, "runs-clean", "YES=1").returncode == 0 and not runs(clone)


def test_trackio_and_wandb_hold_the_same_run(clone: Path) -> None:
    assert make(clone, "defconfig", "TRACKER=both", "NUM_EPOCHS=2").returncode == 0
    done = subprocess.run(
        [sys.executable, "lenet5/train.py"], cwd=clone, capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, done.stderr
    (run,) = runs(clone)
    assert re.fullmatch(r"lenet5-[0-9a-f]{5}", run.project)
    assert re.fullmatch(r"lenet5_adamw_\d{8}-\d{6}", run.name)
    for tracker in ("trackio", "wandb"):
        sent, wrong, found = check.compare(tracker, run)
        assert sent == found > 20 and wrong == [], tracker


def test_an_override_holds_for_that_run_alone_and_is_recorded(clone: Path) -> None:
    assert make(clone, "defconfig", "DEFCONFIG=lenet5-sgd").returncode == 0
    before = (clone / ".config").read_bytes(), (clone / "config.py").read_bytes()
    done = make(clone, *SMALL, "LEARNING_RATE=1e-2")
    assert done.returncode == 0, done.stderr
    assert "lenet5/train.py" in done.stdout and "--learning-rate=1e-2" in done.stdout
    assert ((clone / ".config").read_bytes(), (clone / "config.py").read_bytes()) == before
    (run,) = runs(clone)
    told = run.configuration
    assert told["values"]["LEARNING_RATE"] == 0.01 and told["values"]["OPTIMIZER"] == "sgd"
    assert told["origins"]["OPTIMIZER_SGD"].startswith("lenet5/defconfigs/lenet5-sgd:")
    assert 'CONFIG_LEARNING_RATE="1e-2"' in (run.path / ".config").read_text()


def test_another_model_brings_its_own_defaults(clone: Path) -> None:
    assert make(clone, "defconfig").returncode == 0
    quick = ("MAX_ITERS=2", "EVAL_SAMPLES=1", "EVAL_BATCH_SIZE=2", "TRACKER=none")
    assert make(clone, "MODEL=gpt2", *quick).returncode == 0
    assert make(clone, "MODEL=resnet50", "RESNET50_DEPTH=18", "RESNET50_WIDTH=4", *quick).returncode == 0
    gpt2, resnet = runs(clone)
    assert gpt2.configuration["values"]["BATCH_SIZE"] == 16 and set(logged(gpt2, "val_perplexity")) == {0, 2}
    assert resnet.configuration["values"]["RESNET50_DEPTH"] == "18" and set(logged(resnet, "val_accuracy")) == {0, 2}


def test_after_sigkill_no_point_is_lost_and_make_goes_on(clone: Path) -> None:
    """Killed after the 1000th log() returned; Trackio ends with each point once."""
    words = ["NUM_EPOCHS=30", "LOG_INTERVAL=1", "EVAL_INTERVAL=500", "CHECKPOINT_INTERVAL_S=1"]
    trainer = subprocess.Popen(["make", VENV, *words], cwd=clone, stdout=subprocess.DEVNULL, env=environment())
    journal = _awaited(clone, "runs/*/*/journal.jsonl")
    while len(lines.Reader(journal).read()) < 1000:
        time.sleep(0.05)
    run = folder.RunFolder(journal.parent)
    os.kill(int((run.path / "lock").read_text().split()[0]), signal.SIGKILL)
    assert trainer.wait() != 0
    kept = lines.Reader(journal).read()
    assert len(kept) >= 1000 and [line.seq for line in kept] == list(range(len(kept)))
    done = make(clone, *words)
    assert done.returncode == 0, done.stderr
    assert f"resume    runs/{run.project}/{run.name}" in done.stderr
    assert len(runs(clone)) == 1 and run.state() == "finished"
    steps = list(logged(run, "train_loss"))
    assert steps == list(range(1, 30 * 45 + 1))
    (database,) = Path(os.environ["TRACKIO_DIR"]).glob(f"{run.project}*.db")
    with sqlite3.connect(database) as connection:
        query = (
            "SELECT step FROM metrics WHERE run_name = ? AND CAST(metrics AS TEXT) LIKE '%train_loss%' ORDER BY step"
        )
        assert [step for (step,) in connection.execute(query, [run.name])] == steps
    assert check.compare("trackio", run)[1] == []


def test_ctrl_c_saves_and_the_next_make_goes_on(clone: Path) -> None:
    words = ["NUM_EPOCHS=40", "TRACKER=none", "EVAL_INTERVAL=100"]
    terminal = pexpect.spawn("make", [VENV, *words], cwd=str(clone), env=environment(TERM="xterm"), timeout=60)  # type: ignore[arg-type]
    terminal.setwinsize(60, 120)
    terminal.logfile_read = seen = io.BytesIO()
    terminal.expect("step 100/")
    terminal.expect(r"\d+% ")  # the bar
    terminal.sendintr()
    terminal.expect("go on     make RESUME=")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus != 0
    screen = pyte.Screen(120, 60)
    pyte.ByteStream(screen).feed(seen.getvalue())
    assert [row for row in screen.display if row.startswith("step 100/")], "each line starts a row of its own"
    assert not [row for row in screen.display if re.match(r" *\d+%.*step \d", row)], "the bar is wiped before a line"
    (run,) = runs(clone)
    assert run.state() == "interrupted" and list(run.path.glob("checkpoints/last-*"))
    assert "\r" not in (run.path / "console.log").read_text(), "the bar is not kept"
    anew = make(clone, *SMALL, "RESUME=n")
    assert anew.returncode == 0 and len(runs(clone)) == 2
    assert make(clone, "defconfig", "DEFCONFIG=gpt2-stdlib").returncode == 0  # the run has its own configuration
    refused = make(clone, f"RESUME={run.name}", "SEED=9").stderr
    assert "its configuration is another one: SEED=0, not 9. RESUME=n starts a new run" in refused
    done = make(clone, f"RESUME={run.name}")
    assert done.returncode == 0, done.stderr
    assert "goes on after step" in done.stdout and run.state() == "finished"
    again = make(clone, f"RESUME={run.name}", *words)
    assert again.returncode == 2 and "this run is finished. RESUME=n starts a new one" in again.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["defconfig", "TRACKER=wandbb"], "error: TRACKER=wandbb: unknown tracker 'wandbb'; did you mean wandb?"),
        (["defconfig", "DEFCONFIG=lenet5-adma"], "error: no defconfig 'lenet5-adma'; close: lenet5-adam"),
        (["defconfig", "LEARNING_RATE=fast"], "error: command line: LEARNING_RATE=fast: "),
        (["BATCH_SIZE=1e3"], "error: command line: BATCH_SIZE=1e3: expected int"),
        (["RESUME=nope"], "error: RESUME=nope: no such run folder"),
        (["DEVICE=cuda"], "error: DEVICE=cuda: PyTorch "),
        (["DEFCONFIG=gpt2-stdlib"], "error: DEFCONFIG=gpt2-stdlib: training does not read DEFCONFIG; "),
        (["TRACKER_RUN_NAME=../../x"], "error: command line: TRACKER_RUN_NAME=../../x: a name is a folder's"),
        (["RUN=x"], "error: RUN=x: training does not read RUN; it goes with make reproduce"),
        (["LEARNING_RATE=a\nb"], r"error: command line: LEARNING_RATE=a\nb: expected float"),
        (["NUM_EPOCHS=0"], "error: NUM_EPOCHS=0 and MAX_ITERS=0: "),
    ],
)
def test_a_slip_is_one_line_exit_2_and_changes_nothing(clone: Path, words: list[str], line: str) -> None:
    assert make(clone, "defconfig", "DEFCONFIG=quickstart").returncode == 0
    before = (clone / ".config").read_bytes(), (clone / "config.py").read_bytes()
    done = make(clone, *words, CUDA_VISIBLE_DEVICES="")
    errors = [text for text in done.stderr.splitlines() if not text.startswith("make: ***")]
    assert done.returncode == 2 and len(errors) == 1 and errors[0].startswith(line), done.stderr
    assert ((clone / ".config").read_bytes(), (clone / "config.py").read_bytes()) == before
    assert not runs(clone)


def test_training_scripts_run_from_any_directory(clone: Path, tmp_path: Path) -> None:
    flags = ["--max-iters=1", "--tracker", "none", "--eval_samples", "1"]
    for cwd, script in (
        (clone, "lenet5/train.py"),
        (clone / "lenet5", "train.py"),
        (tmp_path, clone / "lenet5/train.py"),
    ):
        done = subprocess.run(
            [sys.executable, script, *flags], cwd=cwd, capture_output=True, text=True, env=environment()
        )
        assert done.returncode == 0, done.stderr
    done = subprocess.run(
        [sys.executable, "-m", "lenet5.train", *flags], cwd=clone, capture_output=True, env=environment()
    )
    assert done.returncode == 0
    assert len(runs(clone)) == 4


@pytest.mark.parametrize("model", ["lenet5", "resnet50", "gpt2"])
def test_help_is_grouped_and_does_not_import_torch(model: str) -> None:
    code = (
        f"import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"try: runpy.run_path('{model}/train.py', run_name='__main__')\n"
        f"except SystemExit as end: assert not end.code and 'torch' not in sys.modules\n"
    )
    shown = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    for text in (
        "Experiment Tracking",
        "--tracker-project",
        "Optimizer",
        "--learning-rate",
        "--optimizer {sgd,adam,adamw,adamwadv,adamwspam,adamwprune}",
    ):
        assert text in shown
    assert "--learnin-rate: unknown flag; did you mean --learning-rate?" in subprocess.run(
        [sys.executable, f"{model}/train.py", "--learnin-rate=1"], cwd=ROOT, capture_output=True, text=True
    ).stderr  # fmt: skip


def test_a_run_folder_s_configuration_runs_again(clone: Path) -> None:
    assert make(clone, *SMALL, "SEED=5", "LEARNING_RATE=0.01").returncode == 0
    (first,) = runs(clone)
    assert make(clone, "defconfig", "DEFCONFIG=gpt2-stdlib").returncode == 0
    command = [sys.executable, "lenet5/train.py", "--config", str(first.path)]
    assert subprocess.run(command, cwd=clone, capture_output=True, env=environment()).returncode == 0
    _, second = runs(clone)
    assert first.configuration["provenance"]["hash"] == second.configuration["provenance"]["hash"]
    for name in ("train_loss", "val_loss", "grad_norm"):
        assert logged(first, name) == logged(second, name), "the same curve, bit for bit"


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_processes_train_one_run(clone: Path, launcher: str) -> None:
    """With gloo: rank 0's folder is everyone's, the loss is the mean over both, the trackers see one run."""
    words = {
        "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"],
        "accelerate": ["-m", "accelerate.commands.launch", "--cpu", "--num_processes=1", "--num_machines=1",
                       "--mixed_precision=no", "--dynamo_backend=no", "--num_cpu_threads_per_process=1"],
    }[launcher]  # fmt: skip
    flags = ["lenet5/train.py", "--num-epochs=1", "--tracker=trackio", "--batch-size=32", "--device=cpu"]
    command = [sys.executable, *words, *flags]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, timeout=170, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    (run,) = runs(clone)
    processes = 2 if launcher == "torchrun" else 1
    result = run.result
    assert result and result["steps"] == -(-1437 // (32 * processes)) and result["val_accuracy"] > 0.5
    assert done.stdout.count("val_accuracy") == 3, "step 0, the last step, the result: from one process"
    sent, wrong, found = check.compare("trackio", run)
    assert sent == found > 0 and wrong == []


def test_a_path_is_data_for_make_whatever_it_holds(clone: Path, tmp_path: Path) -> None:
    (tmp_path / "my env; touch pwned").symlink_to(sys.prefix)
    done = make(clone, f"VENV={tmp_path}/my env; touch pwned", "list-defconfigs")
    assert done.returncode == 0 and "gpt2-stdlib" in done.stdout, done.stderr
    words = ["make", "PYTHON=python3; touch pwned", "list-defconfigs"]
    done = subprocess.run(words, cwd=clone, capture_output=True, text=True, env=environment(VENV="elsewhere"))
    assert done.returncode == 2 and "Python 3.11 or newer is needed" in done.stderr
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize("name", ["price$5", "$(shell touch pwned)", "a$$b", "${HOME}", "`touch pwned`;'\""])
def test_a_dollar_is_data_for_make(clone: Path, name: str) -> None:
    done = make(clone, "defconfig", "TRACKER=wandb", f"WANDB_ENTITY={name}")
    assert done.returncode == 0, done.stderr
    code = "from config import config; print(config.WANDB_ENTITY)"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=clone, text=True) == f"{name}\n"
    assert not list(clone.rglob("pwned"))


def test_training_goes_on_when_nobody_reads_its_output(clone: Path) -> None:
    trainer = subprocess.Popen(
        ["make", VENV, "TRACKER=none", "NUM_EPOCHS=2"], cwd=clone, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=environment(),
    )  # fmt: skip
    assert trainer.stdout is not None
    while b"step 0/" not in trainer.stdout.readline():
        pass
    trainer.stdout.close()
    assert trainer.wait(60) == 0
    (run,) = runs(clone)
    assert run.state() == "finished" and "done      val_loss" in (run.path / "console.log").read_text()


def test_what_stands_in_the_environment_alone_decides_nothing(clone: Path) -> None:
    assert make(clone, "defconfig").returncode == 0
    (clone / "runs").mkdir()
    assert make(clone, "runs-clean", YES="1").returncode == 2 and (clone / "runs").exists()
    assert make(clone, "trackio-test", RUN="nope").returncode == 0
    assert make(clone, *SMALL, RESUME="nope", LEARNING_RATE="fast").returncode == 0


def test_help_lists_every_documented_target(clone: Path) -> None:
    shown = make(clone, "help").stdout
    documented = (
        "train menuconfig defconfig olddefconfig savedefconfig list-defconfigs check check-all bench clean mrproper "
    )
    documented += "distclean runs-clean data-clean list-trackers <tracker>-test trackio-show <tracker>-show "
    documented += "tracker-sync reproduce"
    listed = {word for line in shown.splitlines() if line.startswith("  ") for word in line[2:].split("  ")[0].split()}
    assert [name for name in documented.split() if name not in listed] == []


def test_the_shell_scripts_are_doors_to_the_same_code(clone: Path) -> None:
    def shell(*words: str, **changes: str) -> str:
        return subprocess.check_output(words, cwd=clone, text=True, env=environment(**changes)).strip()

    assert re.fullmatch(r"gpt2-[0-9a-f]{5}", name := shell("scripts/generate-project-name.sh", "gpt2", "tracking"))
    assert shell("scripts/generate-project-name.sh", "gpt2", "tracking") == name
    for value, answer in {
        "wandb": "y",
        "both": "y",
        "trackio,wandb": "y",
        "wandbb": "n",
        "trackio": "n",
        "none": "n",
    }.items():
        assert shell("scripts/check-tracker-enabled.sh", "wandb", value) == answer, value
    assert shell("scripts/check-cli-set-var.sh", "TRACKER", KCONF_CLI="TRACKER V") == "y"
    assert shell("scripts/check-cli-set-var.sh", "TRACKER", KCONF_CLI="TRACKERS") == "n"


def _awaited(clone: Path, pattern: str) -> Path:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if found := list(clone.glob(pattern)):
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"no {pattern}")


def test_the_journal_reads_with_one_line_of_pandas(clone: Path) -> None:
    assert make(clone, *SMALL).returncode == 0
    (run,) = runs(clone)
    table = 'pandas.json_normalize(pandas.read_json(sys.argv[1], lines=True).to_dict("records"))'  # as the docs have it
    code = f"import pandas, sys; print(len({table}))"
    read = subprocess.check_output([sys.executable, "-c", code, run.path / "journal.jsonl"], text=True)
    assert int(read) == len(lines.read(run.path))
    assert json.loads((run.path / "environment.json").read_text())["packages"]["torch"].startswith("2.13.0")
