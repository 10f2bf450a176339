"""Names of projects, runs and trackers, and the three documented shell scripts."""

from __future__ import annotations

import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from configuring import copied_to, environment

from lib import names

KNOWN = ["trackio", "wandb", "tensorboard"]


def test_a_project_is_the_model_and_five_hex_digits(tmp_path: Path) -> None:
    assert re.fullmatch("gpt2-[0-9a-f]{5}", names.project("gpt2", tmp_path))


def test_models_of_one_checkout_share_the_digits(tmp_path: Path) -> None:
    assert names.project("gpt2", tmp_path).removeprefix("gpt2") == names.project("lenet5", tmp_path).removeprefix(
        "lenet5"
    )


def test_two_directories_of_the_same_name_differ(tmp_path: Path) -> None:
    (tmp_path / "a" / "same").mkdir(parents=True)
    (tmp_path / "b" / "same").mkdir(parents=True)
    assert names.project("gpt2", tmp_path / "a" / "same") != names.project("gpt2", tmp_path / "b" / "same")


def test_a_new_address_does_not_rename_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "_address", lambda: "192.0.2.7")
    before = names.project("gpt2", tmp_path)
    monkeypatch.setattr(names, "_address", lambda: "192.0.2.8")
    assert names.project("gpt2", tmp_path) == before
    (tmp_path / names.CHECKSUM_FILE).unlink()
    assert names.project("gpt2", tmp_path) != before


def test_a_copied_checkout_gets_a_name_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    before = names.project("gpt2", tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert names.project("gpt2", tmp_path / "two") != before
    assert names.project("gpt2", tmp_path / "one") == before


def test_a_damaged_checksum_file_is_made_anew(tmp_path: Path) -> None:
    before = names.project("gpt2", tmp_path)
    (tmp_path / names.CHECKSUM_FILE).write_text(f"$(rm) {tmp_path}\n")
    assert names.project("gpt2", tmp_path) == before


def test_a_run_is_named_after_model_optimizer_and_time() -> None:
    assert names.run_name("lenet5", "adamw", datetime(2026, 11, 21, 10, 15, 0)) == "lenet5_adamw_20261121-101500"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("none", set()),
        ("wandb", {"wandb"}),
        ("both", {"wandb", "trackio"}),
        ("wandb,trackio", {"wandb", "trackio"}),
        ("wandb, tensorboard", {"wandb", "tensorboard"}),
        ("both,wandb", {"wandb", "trackio"}),
        ("both,tensorboard", {"wandb", "trackio", "tensorboard"}),
        ("all", {"trackio", "tensorboard"}),  # those that are installed, as the test says
    ],
)
def test_a_tracker_list_means_exactly_these(text: str, meant: set[str]) -> None:
    assert names.trackers(text, KNOWN, available=lambda name: name != "wandb") == meant


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("wandbb", ["'wandbb'", "did you mean wandb?", "known: trackio, wandb, tensorboard"]),
        ("notrackio-please", ["unknown tracker 'notrackio-please'"]),
        ("trackio-off", ["unknown tracker 'trackio-off'", "did you mean trackio?"]),
        ("none,wandb", ["'none' does not go with other names"]),
        ("WANDB", ["did you mean wandb?"]),
        ("", ["unknown tracker ''"]),
        ("wandb,", ["unknown tracker ''"]),
    ],
)
def test_what_names_no_tracker_is_refused_with_the_nearest_name(text: str, words: list[str]) -> None:
    with pytest.raises(ValueError) as error:
        names.trackers(text, KNOWN)
    assert all(word in str(error.value) for word in words)


def test_a_folder_of_a_trackers_name_is_not_the_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "swanlab_of_tests").mkdir()
    (tmp_path / "dvclive_of_tests.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert not names.installed("swanlab_of_tests")
    assert names.installed("dvclive_of_tests")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


def run(root: Path, script: str, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [str(root / "scripts" / script), *words]
    return subprocess.run(command, env=environment(**environ), cwd="/", capture_output=True, text=True, check=False)


def test_the_project_script_prints_what_python_says_from_any_directory(checkout: Path) -> None:
    printed = run(checkout, "generate-project-name.sh", "gpt2", "tracking")
    assert (printed.stdout, printed.stderr) == (f"{names.project('gpt2', checkout)}\n", "")


def test_the_project_script_does_not_take_the_purpose_for_the_model(checkout: Path) -> None:
    assert run(checkout, "generate-project-name.sh", "", "tracking").returncode == 2
    assert run(checkout, "generate-project-name.sh").returncode == 2


@pytest.mark.parametrize(
    ("environ", "answer"),
    [
        ({"KCONF_CLI": "DEFCONFIG TRACKER", "TRACKER": "both"}, "y"),
        ({"KCONF_CLI": "DEFCONFIG TRACKERS", "TRACKER": "both"}, "n"),
        ({"TRACKER": ""}, "y"),
        ({}, "n"),
    ],
)
def test_the_variable_script_tells_makes_command_line(checkout: Path, environ: dict[str, str], answer: str) -> None:
    assert run(checkout, "check-cli-set-var.sh", "TRACKER", **environ).stdout == f"{answer}\n"


@pytest.mark.parametrize(
    ("tracker", "text", "answer"),
    [
        ("wandb", "wandb", "y"),
        ("wandb", "trackio, wandb", "y"),
        ("wandb", "both", "y"),
        ("tensorboard", "both", "n"),
        ("wandb", "wandbb", "n"),
        ("wandb", "wandb; touch pwned", "n"),
        ("trackio", "notrackio-please", "n"),
        ("trackio", "none", "n"),
        ("trackio", "", "n"),
        ("no_such_package", "all", "n"),
    ],
)
def test_the_tracker_script_matches_whole_names(checkout: Path, tracker: str, text: str, answer: str) -> None:
    assert run(checkout, "check-tracker-enabled.sh", tracker, text).stdout == f"{answer}\n"
    assert not (checkout / "pwned").exists()
