"""menuconfig, driven through a pseudo-terminal: what a user sees and types."""

from __future__ import annotations

from pathlib import Path

import pytest
from configuring import configure, copied_to, loaded, made, resolved, write
from terminal import CLEAR, CTRL_C, CTRL_U, ENTER, ESCAPE, Terminal

TITLE = "Kilter: train, track, compare"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


def menu(root: Path, **environ: str) -> Terminal:
    return Terminal(root, "menuconfig", **environ)


def jump_to(terminal: Terminal, symbol: str, *words: str) -> None:
    """Search by name, and to the symbol's menu."""
    terminal.press("/", "Jump to")
    terminal.press(f"^{symbol}$", symbol)
    terminal.press(ENTER, *words)


def save_and_leave(terminal: Terminal) -> None:
    terminal.press("q", "Save configuration?")
    terminal.child.send("y")
    assert terminal.ends() == 0


def test_trackio_is_enabled_in_experiment_tracking_and_saved(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=test-sgd")
    with menu(checkout) as terminal:
        terminal.sees(TITLE, "Experiment Tracking")
        terminal.press("G", "Experiment Tracking")  # the last entry
        terminal.press(ENTER, "[ ] Trackio: local, no account")
        assert "7860" not in terminal.text and "(NEW)" not in terminal.text
        terminal.press("y", "[*] Trackio: local, no account", "(7860)  Trackio dashboard port")  # indented
        terminal.press("s", "Filename to save configuration to", ".config")
        terminal.press(ENTER, "Configuration saved to")
        terminal.press(ENTER, "(7860)  Trackio dashboard port")
        terminal.child.send("q")
        assert terminal.ends() == 0
    config = loaded(checkout)
    assert (config.ENABLE_TRACKIO, config.TRACKIO_PORT, config.OPTIMIZER) == (True, 7860, "sgd")
    origins = ("menuconfig", "default", "lenet5/defconfigs/test-sgd:1")
    assert tuple(config.origins[name] for name in ("ENABLE_TRACKIO", "TRACKIO_PORT", "OPTIMIZER")) == origins
    assert "CONFIG_ENABLE_TRACKIO=y\nCONFIG_TRACKIO_PORT=7860\n" in (checkout / ".config").read_text()
    assert resolved(checkout).origins == config.origins


def test_a_bad_float_is_refused_in_the_dialog_and_a_good_one_is_saved_on_leaving(checkout: Path) -> None:
    made(checkout)
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "LEARNING_RATE", "(0.004) Peak learning rate")
        terminal.press(ENTER, "Range: (0, 10]")
        terminal.press(f"{CLEAR}fast{ENTER}", "LEARNING_RATE=fast: expected float")
        terminal.press(f"{ENTER}{CLEAR}20{ENTER}", "LEARNING_RATE=20: outside (0, 10]")
        terminal.press(f"{ENTER}{CLEAR}1e-4{ENTER}", "(1e-4) Peak learning rate")
        save_and_leave(terminal)
    assert (loaded(checkout).LEARNING_RATE, loaded(checkout).origins["LEARNING_RATE"]) == (1e-4, "menuconfig")


@pytest.mark.parametrize(
    ("symbol", "line", "refused"),
    [
        (
            "LEARNING_RATE",
            "Peak learning rate",
            {
                "nan": "=nan: expected float",
                "inf": "=inf: expected float",
                "1e999": "=1e999: outside (0, 10]",
                " 0.1": "= 0.1: expected float",
                "": "=: expected float",
            },
        ),
        ("SEED", "Seed", {"+5": "=+5: expected int", "1e3": "=1e3: expected int", "-1": "=-1: outside the range [0, "}),
        (
            "TRACKER_RUN_NAME",
            "Run name (empty",
            {
                "a/b": "=a/b: a name is a folder's",
                "a\x07b": "=a\\x07b: control characters cannot be stored",
                "a\0b": "=a\\x00b: control characters cannot be stored",
                "x" * 3000: "this has 3000",
            },
        ),
    ],
)
def test_the_dialog_refuses_what_a_file_could_not_hold(
    checkout: Path, symbol: str, line: str, refused: dict[str, str]
) -> None:
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, symbol, line)
        for text, reason in refused.items():
            terminal.press(ENTER, f"{line}")
            terminal.press(f"{CLEAR}{text}{ENTER}", "Error", reason)
            terminal.press(f"{ENTER}{CTRL_U}{ESCAPE}", line)


def test_an_integer_with_leading_zeros_is_the_number_that_it_reads_as(checkout: Path) -> None:
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "SEED", "(0) Seed")
        terminal.press(f"{ENTER}{CLEAR}007{ENTER}", "(007) Seed")
        save_and_leave(terminal)
    assert loaded(checkout).SEED == resolved(checkout).values["SEED"] == 7


def test_another_file_is_loaded_with_origins_and_saved_as_dotconfig(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=test-sgd", "BATCH_SIZE=8")
    other = write(checkout / "other", 'CONFIG_SEED=5\nCONFIG_GONE=1\nCONFIG_OPTIMIZER_ADAM=y\nCONFIG_MOMENTUM="0.5"\n')
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        terminal.press("o", "File to load")
        terminal.press(f"{CTRL_U}{other}{ENTER}", "Success", "Loaded")
        terminal.press(ENTER, "other:2: unknown symbol GONE", "other:4: MOMENTUM=0.5: needs OPTIMIZER_SGD")
        terminal.press(ENTER, TITLE)
        save_and_leave(terminal)
    config = loaded(checkout)
    assert (config.SEED, config.OPTIMIZER, config.BATCH_SIZE) == (5, "adam", 32)
    assert (config.origins["SEED"], config.origins["OPTIMIZER"]) == ("other:1", "other:3")
    assert "GONE" in other.read_text(), "the file that was loaded is not the one that is saved"
    assert b"note: dropped: other:2: unknown symbol GONE" in terminal.printed


def test_a_copy_and_a_minimal_copy_leave_dotconfig_to_be_saved(checkout: Path) -> None:
    made(checkout)
    before = (checkout / ".config").read_text()
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "SEED", "(0) Seed")
        terminal.press(f"{ENTER}{CLEAR}4{ENTER}", "(4) Seed")
        terminal.press("s", "Filename to save configuration to")
        terminal.press(f"{CTRL_U}{checkout / 'copy'}{ENTER}", "Copy saved to", "config.py is")
        terminal.press(f"{ENTER}d", "Filename to save minimal configuration to")
        terminal.press(f"{CTRL_U}{checkout / 'minimal'}{ENTER}", "Minimal configuration saved to")
        assert (checkout / ".config").read_text() == before and loaded(checkout).SEED == 0
        terminal.press(ENTER, "(4) Seed")
        save_and_leave(terminal)
    assert (checkout / "copy").read_text() == (checkout / ".config").read_text()
    assert "# origin: SEED menuconfig: 4\n" in (checkout / "copy").read_text()
    assert (checkout / "minimal").read_text() == "CONFIG_SEED=4\n"
    assert not list(checkout.glob(".*.tmp"))


@pytest.mark.parametrize("name", ["", ".", "a\0b", "Kconfig/below-a-file"])
def test_a_name_that_no_file_can_have_is_an_error_in_the_dialog(checkout: Path, name: str) -> None:
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        terminal.press("s", "Filename to save configuration to")
        terminal.press(f"{CTRL_U}{name and checkout / name}{ENTER}", "Error saving configuration to")
        terminal.press(f"{ENTER}{ESCAPE}", TITLE)
        save_and_leave(terminal)
    assert loaded(checkout).SEED == 0


def test_a_choice_that_is_changed_brings_its_defaults_along(checkout: Path) -> None:
    made(checkout)
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "OPTIMIZER_SGD", "( ) sgd")
        terminal.press(" ", "(0.05) Peak learning rate", "(0.9) Momentum")
        save_and_leave(terminal)
    config = loaded(checkout)
    assert (config.OPTIMIZER, config.LEARNING_RATE) == ("sgd", 0.05)
    assert (config.origins["OPTIMIZER"], config.origins["LEARNING_RATE"]) == ("menuconfig", "default")


def test_a_change_that_somebody_else_saved_meanwhile_is_told_before_it_is_overwritten(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=test-sgd")
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        assert configure(checkout, "setconfig", "SEED=9").returncode == 0
        jump_to(terminal, "LEARNING_RATE", "(0.05) Peak learning rate")
        terminal.press(ENTER, "Range: (0, 10]")
        terminal.press(f"{CLEAR}0.3{ENTER}", "(0.3) Peak learning rate")
        terminal.press("q", "Save configuration?")
        terminal.press("y", "changed by another program")
        assert loaded(checkout).SEED == 9
        terminal.press(ENTER, "Peak learning rate")
        save_and_leave(terminal)
    assert loaded(checkout).LEARNING_RATE == 0.3
    assert "CONFIG_SEED=9" in (checkout / ".config.old").read_text()


def test_leaving_without_a_change_writes_nothing(checkout: Path) -> None:
    made(checkout, "SEED=3")
    before = (checkout / ".config").stat().st_mtime_ns
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        terminal.child.send("q")
        assert terminal.ends() == 0
    assert b"No changes to save" in terminal.printed
    assert (checkout / ".config").stat().st_mtime_ns == before


def test_it_opens_on_a_broken_configuration_and_lists_what_it_dropped(checkout: Path) -> None:
    write(checkout / ".config", "CONFIG_SEED=3\nCONFIG_GONE=1\nnonsense\nCONFIG_BATCH_SIZE=0\n")
    with menu(checkout) as terminal:
        terminal.sees("unknown symbol GONE", "malformed line 'nonsense'", "BATCH_SIZE=0: outside the range [1, 65536]")
        terminal.press(ENTER, TITLE)
        save_and_leave(terminal)
    assert b"note: dropped: .config:2: unknown symbol GONE" in terminal.printed
    assert (loaded(checkout).SEED, loaded(checkout).BATCH_SIZE) == (3, 32)
    assert "GONE" not in (checkout / ".config").read_text()
    assert "GONE" in (checkout / ".config.old").read_text()


def test_a_tracker_from_the_environment_is_a_note_and_nothing_dropped(checkout: Path) -> None:
    with menu(checkout, TRACKER="wandb") as terminal:
        terminal.sees(TITLE, "Experiment Tracking")
        assert "Not taken along" not in terminal.text
        save_and_leave(terminal)
    assert b"note: TRACKER=wandb taken from the environment" in terminal.printed
    assert loaded(checkout).ENABLE_WANDB


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'CONFIG_TRACKER_RUN_NAME="caf\xe9"\n', "control characters"),
        (b"CONFIG_SEED=1\x00\n", "expected int"),
        (b'CONFIG_TRACKER_RUN_NAME="' + b"x" * 1_000_000 + b'"\n', "this has 1000000"),
    ],
)
def test_it_opens_on_bytes_that_are_no_configuration(checkout: Path, line: bytes, shown: str) -> None:
    (checkout / ".config").write_bytes(b"CONFIG_BATCH_SIZE=8\n" + line)
    with menu(checkout) as terminal:
        terminal.sees("Not taken along", shown)
        terminal.press(ENTER, TITLE)
        save_and_leave(terminal)
    assert (loaded(checkout).BATCH_SIZE, loaded(checkout).TRACKER_RUN_NAME, loaded(checkout).SEED) == (8, "", 0)


def test_a_megabyte_in_a_string_is_shown_and_kept(checkout: Path) -> None:
    long = "é" * 1_000_000
    write(checkout / ".config", f'CONFIG_ENABLE_WANDB=y\nCONFIG_WANDB_ENTITY="{long}"\n')
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "WANDB_ENTITY", "(éééé")
        save_and_leave(terminal)
    kept: str = loaded(checkout).WANDB_ENTITY
    assert kept == long


def test_a_folder_in_place_of_the_configuration_is_one_line(checkout: Path) -> None:
    (checkout / ".config").mkdir()
    with menu(checkout) as terminal:
        assert terminal.ends() == 2
    assert terminal.printed.decode().split(": ")[-1].strip() == "Is a directory"
    assert terminal.printed.count(b"\n") == 1


@pytest.mark.parametrize("verb", ["menuconfig", "nconfig"])
def test_it_opens_without_any_configuration_and_saves_one(checkout: Path, verb: str) -> None:
    with Terminal(checkout, verb) as terminal:
        terminal.sees(TITLE)
        save_and_leave(terminal)
    assert loaded(checkout).MODEL == "lenet5"


def test_without_a_terminal_it_says_so_in_one_line(checkout: Path) -> None:
    told = configure(checkout, "menuconfig")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr == "error: menuconfig needs a terminal; without one: make defconfig SYMBOL=value\n"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"TERM": "no-such-terminal"}, "TERM=no-such-terminal cannot show a menu"),
        ({"TERM": "dumb"}, "TERM=dumb cannot show a menu"),
        ({"TERM": ""}, "TERM= cannot show a menu"),
        ({"LC_ALL": "xx_XX.UTF-8"}, "the locale xx_XX.UTF-8 is not installed"),
        ({"LC_ALL": "", "LC_TIME": "xx_XX", "LANG": "C.UTF-8"}, "the locale xx_XX is not installed"),
    ],
)
def test_a_terminal_or_locale_that_is_unknown_is_one_line(checkout: Path, environ: dict[str, str], words: str) -> None:
    with menu(checkout, **environ) as terminal:
        assert terminal.ends() == 2
    printed = terminal.printed.decode().strip()
    assert printed.startswith("error: menuconfig: ") and words in printed and "\n" not in printed


def test_ctrl_c_leaves_with_nothing_written(checkout: Path) -> None:
    made(checkout)
    files = sorted(path.name for path in checkout.iterdir())
    with menu(checkout) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "SEED", "(0) Seed")
        terminal.press(f"{ENTER}{CLEAR}4{ENTER}", "(4) Seed")
        terminal.child.send(CTRL_C)
        assert terminal.ends() == 130
    assert b"what was not saved is gone" in terminal.printed and b"Traceback" not in terminal.printed
    assert loaded(checkout).SEED == 0 and sorted(path.name for path in checkout.iterdir()) == files


def test_a_tiny_terminal_shows_what_fits_and_grows(checkout: Path) -> None:
    write(checkout / ".config", "CONFIG_GONE=1\n")
    with Terminal(checkout, "menuconfig", rows=5, columns=20) as terminal:
        terminal.sees("Not taken along")
        terminal.child.send(ENTER)
        for rows, columns in ((1, 1), (3, 7), (40, 100)):
            terminal.resize(rows, columns)
            terminal.child.send("?")
            terminal.child.send(ESCAPE)
        terminal.sees(TITLE, "Experiment Tracking  --->")
        jump_to(terminal, "SEED", "(0) Seed")
        save_and_leave(terminal)


@pytest.mark.parametrize("environ", [{"LC_ALL": "C"}, {"LC_ALL": "", "LANG": "C"}])
def test_help_beyond_ascii_is_shown_in_any_locale(checkout: Path, environ: dict[str, str]) -> None:
    fragment = checkout / "lib" / "Kconfig.loop"
    write(fragment, fragment.read_text().replace("Decides initial weights", "Décides “initial” → weights"))
    with menu(checkout, **environ) as terminal:
        terminal.sees(TITLE)
        jump_to(terminal, "SEED", "(0) Seed")
        terminal.press("?", "Décides “initial” → weights")
        terminal.press(ESCAPE, "(0) Seed")
