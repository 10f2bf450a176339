"""config and oldconfig: the questions that a terminal shows, and what the answers make."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from configuring import configure, copied_to, loaded, made, resolved, write
from terminal import CTRL_C, CTRL_D, ENTER, Terminal

MODEL, SWITCH = "Number or name (MODEL) [lenet5]", "Compile the model (COMPILED) [n]"
NEW = """\
config COMPILED
    bool "Compile the model"
    help
      Takes a while.

config LEVEL
    int "Level"
    depends on COMPILED
    default 2
    range 1 4

"""
NEW_CHOICE = """\
choice
    prompt "Mode"
    default MODE_FAST

config MODE_FAST
    bool "Fast"

config MODE_EXACT
    bool "Exact"

endchoice

"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


def updated(root: Path, symbols: str) -> None:
    """As if the symbols had come with an update, after .config was made."""
    made(root, "DEFCONFIG=test-sgd")
    fragment = root / "lib" / "Kconfig.loop"
    write(fragment, fragment.read_text().replace("endmenu", f"{symbols}endmenu"))


def asking(root: Path, *words: str) -> Terminal:
    return Terminal(root, *(words or ("oldconfig",)), rows=200)


def asked(terminal: Terminal) -> list[str]:
    """Every symbol that was asked for, in order."""
    return re.findall(r"\((\w+)\) \[[^]\n]*\] ", terminal.text)


def test_only_new_symbols_are_asked_for_and_an_answer_reveals_further_ones(checkout: Path) -> None:
    updated(checkout, NEW)
    with asking(checkout) as terminal:
        terminal.sees("* Training", SWITCH)
        terminal.press(f"?{ENTER}", "Takes a while.", "COMPILED: bool, lib/Kconfig.loop:")
        terminal.press(f"yes{ENTER}", "COMPILED=yes: expected y or n")
        terminal.press(f"y{ENTER}", "Level (LEVEL) [2]")
        terminal.press(f"?{ENTER}", "LEVEL: int [1, 4], lib/Kconfig.loop:")
        terminal.press(f"9{ENTER}", "LEVEL=9: outside the range [1, 4]")
        terminal.press(f"3{ENTER}", "wrote .config and config.py")
        assert terminal.ends() == 0
        assert list(dict.fromkeys(asked(terminal))) == ["COMPILED", "LEVEL"]
    config = loaded(checkout)
    assert (config.COMPILED, config.LEVEL, config.OPTIMIZER) == (True, 3, "sgd")
    assert (config.origins["LEVEL"], config.origins["OPTIMIZER"]) == ("oldconfig", "lenet5/defconfigs/test-sgd:1")
    assert resolved(checkout).origins == config.origins


def test_the_default_is_followed_whether_it_is_typed_or_not(checkout: Path) -> None:
    updated(checkout, NEW)
    with asking(checkout) as terminal:
        terminal.sees(SWITCH)
        terminal.press(f"y{ENTER}", "Level (LEVEL) [2]")
        terminal.child.send(f"2{ENTER}")
        assert terminal.ends() == 0
    assert (loaded(checkout).LEVEL, loaded(checkout).origins["LEVEL"]) == (2, "default")
    assert "CONFIG_LEVEL=2\n" in (checkout / ".config").read_text()


def test_when_nothing_is_new_it_says_so_and_refreshes_both_files(checkout: Path) -> None:
    made(checkout, "SEED=3")
    (checkout / "config.py").unlink()
    with asking(checkout) as terminal:
        assert terminal.ends() == 0
    assert terminal.printed.decode().splitlines()[0] == "oldconfig: nothing is new"
    assert (loaded(checkout).SEED, loaded(checkout).origins["SEED"]) == (3, "command line")


def test_without_a_configuration_everything_is_asked_in_the_order_of_the_tree(checkout: Path) -> None:
    with asking(checkout, "config") as terminal:
        terminal.sees("> 1 lenet5", "  2 resnet50  ResNet", "  3 gpt2", MODEL)
        terminal.press(
            f"lenet{ENTER}", "MODEL=lenet: unknown value; did you mean lenet5? (known: lenet5, resnet50, gpt2)"
        )
        terminal.press(f"3{ENTER}", "* GPT-2", "Number or name (GPT2_SIZE) [tiny]")
        terminal.press(ENTER * 13, "Number or name (OPTIMIZER) [adamw]")
        terminal.press(f"sgd{ENTER}", "Peak learning rate [float 0< <=10] (LEARNING_RATE) [0.05]")
        terminal.press(f"nan{ENTER}", "LEARNING_RATE=nan: expected float")
        terminal.press(f"20{ENTER}", "LEARNING_RATE=20: outside (0, 10]")
        terminal.press(f"1e-4{ENTER}", "Learning rate floor")
        terminal.child.send(ENTER * 90)
        terminal.sees("wrote .config and config.py")
        assert terminal.ends() == 0
    config = loaded(checkout)
    assert (config.MODEL, config.OPTIMIZER, config.LEARNING_RATE, config.MOMENTUM) == ("gpt2", "sgd", 1e-4, 0.9)
    assert {name for name, origin in config.origins.items() if origin == "oldconfig"} == {
        *("MODEL", "MODEL_LENET5", "MODEL_RESNET50", "MODEL_GPT2"),
        *("OPTIMIZER", "LEARNING_RATE", *(name for name in config.asdict() if re.match("OPTIMIZER_", name))),
    }
    order = list(dict.fromkeys(asked(terminal)))
    assert order == [name for name in config.asdict() if name in order] and "BETA1" not in order


def test_a_choice_without_a_name_takes_the_symbol_of_a_member(checkout: Path) -> None:
    updated(checkout, NEW_CHOICE)
    with asking(checkout) as terminal:
        terminal.sees("> 1 MODE_FAST   Fast", "  2 MODE_EXACT  Exact")
        terminal.child.send(f"MODE_EXACT{ENTER}")
        assert terminal.ends() == 0
    assert (loaded(checkout).MODE_EXACT, loaded(checkout).origins["MODE_EXACT"]) == (True, "oldconfig")


def test_what_the_command_line_says_is_not_asked_for(checkout: Path) -> None:
    updated(checkout, NEW)
    with asking(checkout, "oldconfig", "COMPILED=y", "LEARNING_RATE=0.5") as terminal:
        terminal.sees("Level (LEVEL) [2]")
        terminal.child.send(f"4{ENTER}")
        assert terminal.ends() == 0
        assert asked(terminal) == ["LEVEL"]
    assert (loaded(checkout).COMPILED, loaded(checkout).LEVEL, loaded(checkout).LEARNING_RATE) == (True, 4, 0.5)


def test_lines_that_no_longer_fit_are_dropped_and_named(checkout: Path) -> None:
    updated(checkout, NEW)
    write(checkout / ".config", (checkout / ".config").read_text() + "CONFIG_GONE=1\n")
    with asking(checkout) as terminal:
        terminal.sees(SWITCH)
        terminal.child.send(ENTER)
        assert terminal.ends() == 0
    assert b"unknown symbol GONE" in terminal.printed
    assert "GONE" not in (checkout / ".config").read_text()


@pytest.mark.parametrize(
    ("key", "status", "line"),
    [
        (CTRL_D, 2, "error: oldconfig: the answers ended before the questions; nothing is written"),
        (CTRL_C, 130, "interrupted"),
    ],
)
def test_answers_that_end_early_write_nothing(checkout: Path, key: str, status: int, line: str) -> None:
    updated(checkout, NEW)
    before = {path: path.read_bytes() for path in checkout.iterdir() if path.is_file()}
    with asking(checkout) as terminal:
        terminal.sees(SWITCH)
        terminal.press(f"y{ENTER}", "Level (LEVEL) [2]")
        assert terminal.ends(key) == status
    assert terminal.printed.decode().splitlines()[-1] == line
    assert {path: path.read_bytes() for path in checkout.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("verb", ["config", "oldconfig"])
def test_without_a_terminal_it_refuses_in_one_line(checkout: Path, verb: str) -> None:
    told = configure(checkout, verb)
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == f"error: {verb} asks questions and needs a terminal; make olddefconfig takes the defaults\n"
    assert not (checkout / ".config").exists()
