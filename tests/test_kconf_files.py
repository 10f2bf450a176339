"""What the verbs write: .config, config.py and defconfigs."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from configuring import configure, copied_to, environment, loaded, made, refused, resolved, write

from lib import kconf, names


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


# --- olddefconfig, savedefconfig, list-defconfigs ---
def test_olddefconfig_drops_what_does_not_fit_and_says_what(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(checkout, "DEFCONFIG=test-sgd", "SEED=3")
    text = (checkout / ".config").read_text().replace("CONFIG_EVAL_SAMPLES=200", "CONFIG_EVAL_SAMPLES=0")
    write(checkout / ".config", text + "CONFIG_GONE=1\nnonsense\n")
    capsys.readouterr()
    config = made(checkout, verb="olddefconfig")
    notes = capsys.readouterr().err
    assert (config.SEED, config.EVAL_SAMPLES, config.OPTIMIZER) == (3, 200, "sgd")
    assert config.origins["OPTIMIZER"] == "lenet5/defconfigs/test-sgd:1"
    assert config.provenance["defconfig"] == "lenet5/defconfigs/test-sgd"
    for words in ("unknown symbol GONE", "malformed line 'nonsense'", "EVAL_SAMPLES=0: outside the range [1, 1000000]"):
        assert words in notes
    assert notes.count("\n") == 3
    assert resolved(checkout).values["SEED"] == 3  # strict again


def test_of_a_line_that_was_appended_to_dotconfig_olddefconfig_keeps_the_last(checkout: Path) -> None:
    made(checkout, "SEED=4")
    with (checkout / ".config").open("a") as file:
        file.write("CONFIG_SEED=12\n")
    done = configure(checkout, "olddefconfig")
    assert done.returncode == 0 and re.search(
        r"dropped: \.config:\d+: SEED=4: \.config:\d+: SEED=12 stands", done.stderr
    )
    assert loaded(checkout).SEED == 12


def test_olddefconfig_is_strict_about_what_is_typed_now(checkout: Path) -> None:
    made(checkout)
    assert refused(checkout, "BATCH_SIZE=x", verb="olddefconfig") == ["command line: BATCH_SIZE=x: expected int"]


def test_olddefconfig_keeps_values_when_a_default_changes(checkout: Path) -> None:
    made(checkout)
    kconfig = checkout / "lib" / "Kconfig.loop"
    write(kconfig, kconfig.read_text().replace("default 200\n", "default 300\n"))
    assert made(checkout, verb="olddefconfig").EVAL_SAMPLES == 200


def test_savedefconfig_round_trips_and_holds_nothing_of_the_host(checkout: Path) -> None:
    words = ["DEFCONFIG=test-mnist", "TRACKER=wandb", "WANDB_ENTITY=me", "LEARNING_RATE=1e-4", "SEED=0"]
    before = made(checkout, *words)
    assert kconf.configure(checkout, {}, ["savedefconfig"]) == 0
    assert (checkout / "defconfig").read_text().splitlines() == [
        "CONFIG_DATASET_MNIST=y",
        'CONFIG_LEARNING_RATE="1e-4"',
        "CONFIG_BATCH_SIZE=128",
        "CONFIG_ENABLE_WANDB=y",
        'CONFIG_WANDB_ENTITY="me"',
    ]
    assert made(checkout, "DEFCONFIG=defconfig").asdict() == before.asdict()


@pytest.mark.parametrize(
    ("wanted", "saved"),
    [
        ("test-sgd", "lenet5/defconfigs/test-sgd"),
        ("lenet5-new", "lenet5/defconfigs/lenet5-new"),
        ("defconfigs/new", "defconfigs/new"),
    ],
)
def test_savedefconfig_writes_to_the_defconfig_that_is_named(checkout: Path, wanted: str, saved: str) -> None:
    made(checkout, "SEED=5")
    assert kconf.configure(checkout, {"KCONF_CLI": "DEFCONFIG", "DEFCONFIG": wanted}, ["savedefconfig"]) == 0
    assert (checkout / saved).read_text() == "CONFIG_SEED=5\n"


def test_savedefconfig_without_a_configuration_says_what_to_do(checkout: Path) -> None:
    assert "make defconfig" in refused(checkout, verb="savedefconfig")[0]


def test_list_defconfigs_tells_name_content_and_path(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kconf.configure(checkout, {}, ["list-defconfigs"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["test-mnist", "lenet5/defconfigs", "DATASET_MNIST", "BATCH_SIZE=128"] in lines
    assert len(lines) == len([*checkout.glob("defconfigs/*"), *checkout.glob("*/defconfigs/*")])


def test_a_name_that_two_folders_have_needs_its_path(checkout: Path) -> None:
    write(checkout / "gpt2" / "defconfigs" / "quickstart", "CONFIG_MODEL_GPT2=y\n")
    assert "ambiguous" in refused(checkout, "DEFCONFIG=quickstart")[0]
    assert made(checkout, "DEFCONFIG=gpt2/defconfigs/quickstart").MODEL == "gpt2"


# --- files ---
def test_the_users_previous_dotconfig_is_kept_and_an_equal_one_is_not_rewritten(checkout: Path) -> None:
    made(checkout, "SEED=1")
    mine = write(checkout / ".config", (checkout / ".config").read_text().replace("SEED=1\n", "SEED=2\n")).read_text()
    made(checkout, "SEED=3")
    made(checkout, "SEED=3")
    assert (checkout / ".config.old").read_text() == mine


def test_o_names_another_folder(checkout: Path) -> None:
    assert kconf.configure(checkout, {}, ["defconfig", "O=out of/tree", "SEED=3"]) == 0
    assert loaded(checkout / "out of" / "tree").SEED == 3
    assert not (checkout / ".config").exists()


def test_parallel_configures_leave_one_consistent_pair(checkout: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        told = list(pool.map(lambda seed: configure(checkout, "defconfig", f"SEED={seed}"), range(1, 7)))
    assert [process.returncode for process in told] == [0] * 6
    dotconfig, config = kconf.resolve(checkout, base=checkout / ".config", assignments=[]), loaded(checkout)
    assert dotconfig.values["SEED"] == config.SEED
    assert config.provenance["hash"] == dotconfig.provenance["hash"]
    assert not list(checkout.glob(".*.tmp"))


def test_a_change_within_a_second_is_seen_by_the_next_import(checkout: Path) -> None:
    code = "from config import config; print(config.SEED, getattr(config, 'ENABLE_TRACKIO', False))"
    printed = []
    for seed in (1, 2):
        made(checkout, f"SEED={seed}", "TRACKER=trackio")
        command = [sys.executable, "-c", code]
        environ = {name: value for name, value in environment().items() if name != "PYTHONDONTWRITEBYTECODE"}
        printed.append(
            subprocess.run(command, cwd=checkout, env=environ, capture_output=True, text=True, check=True).stdout
        )
    assert printed == ["1 True\n", "2 True\n"]


def test_a_wrong_verb_is_one_line(checkout: Path) -> None:
    told = configure(checkout, "defconfg")
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)


# --- config.py ---
def test_config_py_is_typed_and_read_only(checkout: Path) -> None:
    config = made(checkout, "LEARNING_RATE=1e-4", "TRACKER=trackio")
    values = (config.LEARNING_RATE, config.SEED, config.ENABLE_TRACKIO, config.OPTIMIZER, config.TRACKIO_PORT)
    assert [(type(value), value) for value in values] == [
        (float, 1e-4), (int, 0), (bool, True), (str, "adamw"), (int, 7860),
    ]  # fmt: skip
    with pytest.raises(AttributeError, match="read-only"):
        config.SEED = 1
    with pytest.raises(AttributeError):
        config.NEW = 1
    config.provenance["hash"] = config.origins["SEED"] = "changed"
    assert config.provenance["hash"] != "changed" and config.origins["SEED"] == "default"


def test_an_unset_symbol_says_what_it_needs(checkout: Path) -> None:
    config = made(checkout)
    with pytest.raises(AttributeError, match=r"^MOMENTUM is unset: needs OPTIMIZER_SGD$"):
        _ = config.MOMENTUM
    assert getattr(config, "MOMENTUM", 7) == getattr(config, "NOPE", 7) == config.get("NOPE", 7) == 7
    assert "MOMENTUM" not in config.asdict()


def test_an_empty_project_becomes_this_checkouts_and_stays_empty_in_dotconfig(checkout: Path) -> None:
    config = made(checkout, "TRACKER=wandb")
    assert config.TRACKER_PROJECT == config.WANDB_PROJECT == names.project("lenet5", checkout)
    assert 'CONFIG_TRACKER_PROJECT=""' in (checkout / ".config").read_text()
    assert made(checkout, "TRACKER=wandb", "TRACKER_PROJECT=mine").WANDB_PROJECT == "mine"
    assert config.TRACKER_RUN_NAME == ""


def test_config_py_imports_nothing_and_survives_copying(checkout: Path) -> None:
    made(checkout)
    tree = ast.parse((checkout / "config.py").read_text())
    imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported == ["__future__"] and not any(isinstance(node, ast.Import) for node in ast.walk(tree))
    code = "import config, copy, pickle; c = config.config; print(config.SEED, copy.deepcopy(c).SEED, "
    code += "pickle.loads(pickle.dumps(c)).SEED, hasattr(config, 'NOPE'))"
    printed = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, check=True)
    assert printed.stdout == "0 0 0 False\n"
    assert json.loads(json.dumps(loaded(checkout).asdict()))["SEED"] == 0
    assert pickle.loads(pickle.dumps(loaded(checkout).asdict())) == copy.deepcopy(loaded(checkout).asdict())


@pytest.mark.parametrize("text", ["../../x", "a/b", ".hidden", "-x", " x", "x" * 101, "x" * 10**6])
def test_what_can_not_name_a_folder_is_refused_in_one_short_line(checkout: Path, text: str) -> None:
    (line,) = refused(checkout, f"TRACKER_RUN_NAME={text}")
    assert ": a name " in line and len(line) < 250


def test_what_the_terminal_can_not_show_is_shown_as_its_code(checkout: Path) -> None:
    configure(checkout, "defconfig", "TRACKER=wandb", "WANDB_ENTITY=é")
    told = configure(checkout, "showconfig", "SYM=WANDB_ENTITY", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert told.returncode == 0 and told.stdout.startswith("WANDB_ENTITY=\\xe9\n")


def test_both_files_are_the_same_whatever_the_hash_seed(checkout: Path) -> None:
    texts = set()
    for seed in ("1", "2"):
        configure(checkout, "defconfig", "DEFCONFIG=gpt2-finewebedu-a10gx4", "TRACKER=both", PYTHONHASHSEED=seed)
        texts.add((checkout / ".config").read_text() + (checkout / "config.py").read_text())
    assert len(texts) == 1
