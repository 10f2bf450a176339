"""The configuration targets as they are typed: completion, silence, other folders, names that hold anything."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cloning import VENV, environment, make

from lib.kconf import defconfigs
from lib.options import ROOT

READY = defconfigs.listing(ROOT)


def values(folder: Path) -> set[str]:
    return {line for line in (folder / ".config").read_text().splitlines() if not line.startswith("# ")}


def test_tab_completes_defconfigs_and_fragments(clone: Path) -> None:
    """Shells ask `make -npq` for its targets."""
    read = subprocess.run(["make", VENV, "-npq"], cwd=clone, capture_output=True, text=True, env=environment()).stdout
    told = {line.partition(":")[0] for line in read.splitlines()}
    named = [item.name for item in READY if item.path.suffix != ".config"]
    fragments = {item.name for item in READY if item.path.suffix == ".config"}
    assert {f"{name}_defconfig" for name in named} | {f"defconfig-{name}" for name in named} | fragments <= told


def test_the_lines_of_the_tracking_document_as_printed(clone: Path) -> None:
    path = "gpt2/defconfigs/gpt2-finewebedu-a10gx4"
    for words, on in (
        (["DEFCONFIG=gpt2-finewebedu-a10gx4"], set()),
        (["DEFCONFIG=gpt2-finewebedu-a10gx4", "TRACKER=trackio"], {"TRACKIO"}),
        (["DEFCONFIG=gpt2-finewebedu-a10gx4", "TRACKER=wandb"], {"WANDB"}),
        (["DEFCONFIG=gpt2-finewebedu-a10gx4", "TRACKER=both"], {"TRACKIO", "WANDB"}),
        (["DEFCONFIG=gpt2-finewebedu-a10gx4", "TRACKER=wandb,trackio"], {"TRACKIO", "WANDB"}),
        ([f"DEFCONFIG={path}"], set()),
        ([f"DEFCONFIG={path}", "TRACKER=both"], {"TRACKIO", "WANDB"}),
    ):
        done = make(clone, "defconfig", *words)
        assert done.returncode == 0 and done.stderr == "", done.stderr
        assert done.stdout.startswith(f"wrote .config and config.py ({path}")
        switched = {name for name in ("TRACKIO", "WANDB", "TENSORBOARD") if f"CONFIG_ENABLE_{name}=y" in values(clone)}
        assert switched == on, words


def test_silent_make_says_nothing_and_v_1_shows_the_commands(clone: Path) -> None:
    done = make(clone, "-s", "lenet5-sgd_defconfig")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "CONFIG_OPTIMIZER_SGD=y" in values(clone)
    assert "SEED=0" in make(clone, "-s", "showconfig", "SYM=SEED").stdout, "what was asked for is told"
    assert make(clone, "-s", "defconfig", "SEED=x").stderr.startswith("error: command line: SEED=x: expected int")
    assert "scripts/configure.py" in make(clone, "V=1", "defconfig").stdout
    assert "scripts/configure.py" not in make(clone, "defconfig").stdout


def test_several_targets_of_one_command_line_come_one_after_the_other(clone: Path) -> None:
    assert make(clone, "-j4", "lenet5-sgd_defconfig", "smoke.config", "bf16.config").returncode == 0
    assert {"CONFIG_OPTIMIZER_SGD=y", "CONFIG_MAX_ITERS=20", "CONFIG_PRECISION_BF16=y"} <= values(clone)


def test_out_of_tree_everything_lies_there(clone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out of tree"
    place = f"O={out}"
    for goal in (
        "gpt2-stdlib_defconfig",
        "bf16.config",
        "olddefconfig",
        "savedefconfig",
        "showconfig",
        "listnewconfig",
    ):
        assert make(clone, place, goal).returncode == 0, goal
    assert make(clone, place, "setconfig", "SEED=5").returncode == 0
    assert make(clone, place, "diffconfig").stdout == " SEED 0 -> 5\n"
    assert {"CONFIG_SEED=5", "CONFIG_MODEL_GPT2=y", "CONFIG_PRECISION_BF16=y"} <= values(out)
    assert {".config", ".config.old", "config.py", "defconfig"} <= {path.name for path in out.iterdir()}
    assert not (clone / ".config").exists() and not (clone / "config.py").exists()


@pytest.mark.parametrize(
    "goal",
    ["$(shell touch canary)_defconfig", "`touch canary`.config", "defconfig-;touch canary", "x'\"&touch canary.config"],
)
def test_what_a_target_is_named_is_data(clone: Path, goal: str) -> None:
    done = make(clone, goal)
    assert done.returncode == 2 and done.stderr.startswith("error: no "), done.stderr
    assert not list(clone.rglob("canary*")) and not (clone / ".config").exists()


def test_a_file_of_any_name_can_be_loaded(clone: Path) -> None:
    (clone / "defconfigs" / "it's $HOME; touch canary").write_text("CONFIG_SEED=8\n")
    assert make(clone, "defconfig", "DEFCONFIG=it's $HOME; touch canary").returncode == 0
    assert "CONFIG_SEED=8" in values(clone) and not list(clone.rglob("canary"))


def test_only_what_is_typed_counts(clone: Path) -> None:
    done = make(clone, "defconfig", DEFCONFIG="nope", SEED="7", O="elsewhere", LEARNING_RATE="fast", TRACKER="trackio")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "note: TRACKER=trackio taken from the environment\n"
    assert {"CONFIG_SEED=0", "CONFIG_ENABLE_TRACKIO=y"} <= values(clone)


def test_both_spellings_of_a_symbol_are_one(clone: Path) -> None:
    assert make(clone, "defconfig", "CONFIG_SEED=7", "LEARNING_RATE=1e-4").returncode == 0
    code = "from config import config; print(config.SEED, repr(config.LEARNING_RATE))"
    command = [f"{VENV.removeprefix('VENV=')}/bin/python", "-c", code]
    assert subprocess.check_output(command, cwd=clone, text=True) == "7 0.0001\n"
