"""Layers: defconfig, fragments, .config and command line become values that know where they came from."""

from __future__ import annotations

import functools
import re
from pathlib import Path

import pytest
from configuring import configure, copied_to, made, refused, resolved, write

from lib import kconf, names
from lib.options import Faults


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


# --- loading ---
@pytest.mark.parametrize("spelled", ["gpt2-finewebedu-a10gx4", "gpt2/defconfigs/gpt2-finewebedu-a10gx4"])
def test_a_defconfig_is_found_by_name_and_by_path(checkout: Path, spelled: str) -> None:
    config = made(checkout, f"DEFCONFIG={spelled}")
    assert (config.MODEL, config.GPT2_SIZE, config.DATASET) == ("gpt2", "124m", "finewebedu")
    assert config.provenance["defconfig"] == "gpt2/defconfigs/gpt2-finewebedu-a10gx4"


@pytest.mark.parametrize("words", [[], ["DEFCONFIG="]])
def test_without_a_defconfig_everything_is_default_and_no_tracker_is_on(checkout: Path, words: list[str]) -> None:
    config = made(checkout, *words)
    assert set(config.origins.values()) == {"default"}
    assert not any(value for name, value in config.asdict().items() if name.startswith("ENABLE_"))


def test_layers_win_in_their_order_and_every_value_knows_its_origin(checkout: Path) -> None:
    write(checkout / "defconfigs" / "long.config", 'CONFIG_NUM_EPOCHS=50\nCONFIG_LEARNING_RATE="0.5"\n')
    config = made(checkout, "DEFCONFIG=test-mnist+long", "NUM_EPOCHS=60", "OPTIMIZER=sgd")
    assert (config.BATCH_SIZE, config.LEARNING_RATE, config.NUM_EPOCHS, config.MOMENTUM) == (128, 0.5, 60, 0.9)
    assert {
        name: config.origins[name] for name in ("SEED", "BATCH_SIZE", "LEARNING_RATE", "NUM_EPOCHS", "OPTIMIZER")
    } == {
        "SEED": "default",
        "BATCH_SIZE": "lenet5/defconfigs/test-mnist:2",
        "LEARNING_RATE": "defconfigs/long.config:2",
        "NUM_EPOCHS": "command line",
        "OPTIMIZER": "command line",
    }
    assert [path for path, _ in config.provenance["fragments"]] == ["defconfigs/long.config"]
    assert config.provenance["overrides"] == ["NUM_EPOCHS=60", "OPTIMIZER=sgd"]


def test_only_what_make_was_given_on_its_command_line_counts(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environ = {
        "KCONF_CLI": "SEED PYTHON O",
        "SEED": "3",
        "BATCH_SIZE": "5",
        "PYTHON": "python3",
        "O": "",
        "DEVICE": "cpu",
    }
    config = made(checkout, **environ)
    assert (config.SEED, config.BATCH_SIZE, config.DEVICE) == (3, 32, "auto")
    assert capsys.readouterr().err == ""


def test_a_symbol_may_carry_its_prefix(checkout: Path) -> None:
    assert made(checkout, "CONFIG_SEED=3").SEED == 3


def test_kconfiglibs_own_variables_decide_nothing(checkout: Path) -> None:
    (checkout / "evil.py").write_text("open('pwned', 'w')")
    environ = {"CONFIG_": "X_", "KCONFIG_FUNCTIONS": "evil", "KCONFIG_CONFIG": "elsewhere", "PYTHONPATH": str(checkout)}
    assert configure(checkout, "defconfig", "SEED=3", **environ).returncode == 0
    assert "CONFIG_SEED=3" in (checkout / ".config").read_text()
    assert not (checkout / "pwned").exists()


# --- trackers and notes ---
@pytest.mark.parametrize(
    ("text", "on"),
    [
        ("none", []),
        ("trackio", ["TRACKIO"]),
        ("wandb", ["WANDB"]),
        ("both", ["TRACKIO", "WANDB"]),
        ("wandb,trackio", ["TRACKIO", "WANDB"]),
        ("both,wandb", ["TRACKIO", "WANDB"]),
        ("tensorboard", ["TENSORBOARD"]),
    ],
)
def test_tracker_sets_every_tracker_also_against_a_defconfig(checkout: Path, text: str, on: list[str]) -> None:
    config = made(checkout, "DEFCONFIG=quickstart", f"TRACKER={text}")  # the defconfig switches Trackio on
    trackers = {name: value for name, value in config.asdict().items() if name.startswith("ENABLE_")}
    assert {name.removeprefix("ENABLE_") for name, value in trackers.items() if value} == set(on)
    assert {config.origins[name] for name in trackers} == {"command line"}


@pytest.mark.parametrize(
    "text", ["wandbb", "notrackio-please", "trackio-off", "none,wandb", "nosuch", "wandb; touch x"]
)
def test_what_is_no_tracker_is_refused(checkout: Path, text: str) -> None:
    (line,) = refused(checkout, f"TRACKER={text}")
    assert line.startswith(f"TRACKER={text}: ")


def test_all_means_every_installed_tracker(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_wandb = functools.partial(names.trackers, available=lambda name: name != "wandb")
    monkeypatch.setattr(names, "trackers", without_wandb)
    config = made(checkout, "TRACKER=all")
    assert (config.ENABLE_TRACKIO, config.ENABLE_WANDB, config.ENABLE_TENSORBOARD) == (True, False, True)


def test_a_tracker_that_is_not_installed_is_one_note(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "installed", lambda name: name == "trackio")
    assert made(checkout, "TRACKER=both").ENABLE_WANDB
    assert capsys.readouterr().err == "note: on, but not installed: wandb. Install with: pip install wandb\n"


def test_tracker_may_come_from_the_environment_with_a_note(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = made(checkout, TRACKER="wandb")
    assert (config.ENABLE_WANDB, config.origins["ENABLE_WANDB"]) == (True, "environment")
    assert capsys.readouterr().err == "note: TRACKER=wandb taken from the environment\n"
    assert not made(checkout, "TRACKER=none", TRACKER="wandb").ENABLE_WANDB
    assert capsys.readouterr().err == ""


def test_a_line_that_a_higher_layer_switched_off_is_a_note(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = 'CONFIG_ENABLE_WANDB=y\nCONFIG_WANDB_ENTITY="me"\nCONFIG_DATASET_MNIST=y\nCONFIG_OPTIMIZER_SGD=y\n'
    write(checkout / "lenet5" / "defconfigs" / "mine", text + 'CONFIG_MOMENTUM="0.5"\n')
    config = made(checkout, "DEFCONFIG=mine", "TRACKER=trackio", "MODEL=gpt2", "OPTIMIZER=adam")
    assert (config.MODEL, config.DATASET, config.OPTIMIZER) == ("gpt2", "stdlib", "adam")
    assert capsys.readouterr().err.splitlines() == [
        "note: lenet5/defconfigs/mine:2: WANDB_ENTITY dropped, command line: TRACKER=trackio",
        "note: lenet5/defconfigs/mine:3: DATASET_MNIST dropped, command line: MODEL=gpt2",
        "note: lenet5/defconfigs/mine:5: MOMENTUM dropped, command line: OPTIMIZER=adam",
    ]


# --- .config as a layer ---
def test_defaults_in_dotconfig_do_not_hold_back_another_optimizers_defaults(checkout: Path) -> None:
    made(checkout)
    assert resolved(checkout).values["LEARNING_RATE"] == 0.004
    assert resolved(checkout, "OPTIMIZER=sgd").values["LEARNING_RATE"] == 0.05
    assert resolved(checkout, "MODEL=gpt2").values["BATCH_SIZE"] == 16


def test_what_the_user_set_to_the_default_stays_set(checkout: Path) -> None:
    made(checkout, "LEARNING_RATE=0.004")
    after = resolved(checkout, "OPTIMIZER=sgd")
    assert (after.values["LEARNING_RATE"], after.origins["LEARNING_RATE"]) == (0.004, "command line")


def test_a_value_edited_by_hand_has_its_line_as_origin(checkout: Path) -> None:
    made(checkout, "SEED=3", "BATCH_SIZE=64")
    text = (checkout / ".config").read_text().replace("CONFIG_SEED=3\n", "CONFIG_SEED=4\n")
    number = write(checkout / ".config", text).read_text().split("\n").index("CONFIG_SEED=4") + 1
    after = resolved(checkout)
    assert (after.values["SEED"], after.origins["SEED"]) == (4, f".config:{number}")
    assert after.origins["BATCH_SIZE"] == "command line"


def test_a_choice_edited_by_hand_in_one_place_only_is_a_conflict(checkout: Path) -> None:
    made(checkout)
    write(checkout / ".config", (checkout / ".config").read_text().replace('OPTIMIZER="adamw"', 'OPTIMIZER="sgd"'))
    with pytest.raises(Faults) as faults:
        resolved(checkout)
    assert re.fullmatch(
        r"\.config:\d+: OPTIMIZER=sgd: conflicts with OPTIMIZER_ADAMW=y at \.config:\d+", faults.value.lines[0]
    )


def test_a_run_target_reads_dotconfig_strictly(checkout: Path) -> None:
    made(checkout)
    with (checkout / ".config").open("a") as file:
        file.write("CONFIG_GONE=1\nnonsense\n")
    with pytest.raises(Faults) as faults:
        resolved(checkout)
    assert len(faults.value.lines) == 3
    assert any("unknown symbol GONE" in line for line in faults.value.lines)
    assert "make olddefconfig" in faults.value.lines[-1]


def test_overrides_of_a_run_leave_dotconfig_alone_and_are_recorded(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=quickstart", "SEED=3")
    before = (checkout / ".config").read_bytes()
    environ = {"KCONF_CLI": "SEED BATCH_SIZE TRACKER V", "SEED": "9", "BATCH_SIZE": "2", "TRACKER": "none", "V": "1"}
    assert kconf.overrides(checkout, environ) == [
        kconf.Assignment("SEED", "9", "command line"),
        kconf.Assignment("BATCH_SIZE", "2", "command line"),
        kconf.Assignment("TRACKER", "none", "command line"),
    ]
    run = resolved(checkout, "SEED=9", "BATCH_SIZE=2", "TRACKER=none")
    assert run.provenance["defconfig"] == "defconfigs/quickstart"
    assert run.provenance["overrides"] == ["SEED=9", "BATCH_SIZE=2", "TRACKER=none"]
    assert (checkout / ".config").read_bytes() == before


def test_the_model_of_a_run_target_may_be_typed_as_a_member(checkout: Path) -> None:
    environ = {"KCONF_CLI": "SEED MODEL_GPT2", "SEED": "9", "MODEL_GPT2": "y"}
    assert [override.text for override in kconf.overrides(checkout, environ)] == ["MODEL=gpt2", "SEED=9"]


def test_a_wrong_override_of_a_run_target_is_refused_before_it_starts(checkout: Path) -> None:
    made(checkout)
    with pytest.raises(Faults) as faults:
        kconf.overrides(checkout, {"KCONF_CLI": "SEEED", "SEEED": "1"})
    assert faults.value.lines == ["command line: SEEED=1: unknown symbol; did you mean SEED?"]


def test_a_tracker_in_the_environment_is_an_override_with_a_note(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kconf.overrides(checkout, {"TRACKER": "wandb"}) == [kconf.Assignment("TRACKER", "wandb", "environment")]
    assert capsys.readouterr().err == "note: TRACKER=wandb taken from the environment\n"


def test_the_model_is_dotconfigs_or_the_default(checkout: Path) -> None:
    assert kconf.model(checkout) == "lenet5"
    made(checkout, "MODEL=gpt2")
    assert kconf.model(checkout) == "gpt2"


def test_the_hash_stands_for_the_values_alone(checkout: Path) -> None:
    plain = made(checkout).provenance["hash"]
    assert made(checkout, "SEED=0").provenance["hash"] == plain
    assert resolved(checkout).provenance["hash"] == plain
    assert made(copied_to(checkout.parent / "elsewhere")).provenance["hash"] == plain
    assert made(checkout, "SEED=1").provenance["hash"] != plain
