"""menuconfig, driven through a pseudo-terminal: what a user sees and types."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType

import pexpect
import pyte
import pytest
from configuring import configure, copied_to, environment, loaded, made, resolved, write

ROWS, COLUMNS = 40, 100
ENTER, CLEAR = "\r", "\x7f" * 20
CLEAN = {"TERM": "linux", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


class Terminal:
    """A screen that shows menuconfig, and the keyboard before it."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.screen = pyte.Screen(COLUMNS, ROWS)
        self.stream = pyte.ByteStream(self.screen)
        self.printed = b""
        words = [str(root / "scripts" / "configure.py"), "menuconfig"]
        environ = environment(**CLEAN | environ)
        self.child = pexpect.spawn(sys.executable, words, env=environ, dimensions=(ROWS, COLUMNS), cwd="/")

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.child.close(force=True)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def sees(self, *words: str, within_s: float = 10) -> None:
        """Waits until the screen shows all the words."""
        end = time.monotonic() + within_s
        while not all(word in self.text for word in words):
            gone = not self._read() and not self.child.isalive()
            assert not gone and time.monotonic() < end, f"{words} never came:\n{self.text}"

    def press(self, keys: str, *words: str) -> None:
        self.child.send(keys)
        self.sees(*words)

    def ends(self) -> int:
        """The exit status, once everything that was printed is read."""
        while self.child.isalive() or self._read():
            self._read()
        self._read()
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else -1)

    def _read(self) -> bool:
        try:
            got = self.child.read_nonblocking(65536, timeout=0.05)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return False
        self.printed += got
        self.stream.feed(got)
        return True


def test_trackio_is_enabled_in_experiment_tracking_and_saved(checkout: Path) -> None:
    made(checkout, "DEFCONFIG=test-sgd")
    with Terminal(checkout) as terminal:
        terminal.sees("Kilter: train, track, compare", "Experiment Tracking")
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
    with Terminal(checkout) as terminal:
        terminal.sees("Kilter: train, track, compare")
        terminal.press("/", "Jump to")
        terminal.press("^LEARNING_RATE$", "LEARNING_RATE")
        terminal.press(ENTER, "(0.004) Peak learning rate")
        terminal.press(ENTER, "Range: (0, 10]")
        terminal.press(f"{CLEAR}fast{ENTER}", "LEARNING_RATE=fast: expected float")
        terminal.press(f"{ENTER}{CLEAR}20{ENTER}", "LEARNING_RATE=20: outside (0, 10]")
        terminal.press(f"{ENTER}{CLEAR}1e-4{ENTER}", "(1e-4) Peak learning rate")
        terminal.press("q", "Save configuration?")
        terminal.child.send("y")
        assert terminal.ends() == 0
    assert (loaded(checkout).LEARNING_RATE, loaded(checkout).origins["LEARNING_RATE"]) == (1e-4, "menuconfig")


def test_a_choice_that_is_changed_brings_its_defaults_along(checkout: Path) -> None:
    made(checkout)
    with Terminal(checkout) as terminal:
        terminal.sees("Kilter: train, track, compare")
        terminal.press("/", "Jump to")
        terminal.press("^OPTIMIZER_SGD$", "OPTIMIZER_SGD")
        terminal.press(ENTER, "( ) sgd")
        terminal.press(" ", "(0.05) Peak learning rate", "(0.9) Momentum")
        terminal.press("q", "Save configuration?")
        terminal.child.send("y")
        assert terminal.ends() == 0
    config = loaded(checkout)
    assert (config.OPTIMIZER, config.LEARNING_RATE) == ("sgd", 0.05)
    assert (config.origins["OPTIMIZER"], config.origins["LEARNING_RATE"]) == ("menuconfig", "default")


def test_leaving_without_a_change_writes_nothing(checkout: Path) -> None:
    made(checkout, "SEED=3")
    before = (checkout / ".config").stat().st_mtime_ns
    with Terminal(checkout) as terminal:
        terminal.sees("Kilter: train, track, compare")
        terminal.child.send("q")
        assert terminal.ends() == 0
    assert b"No changes to save" in terminal.printed
    assert (checkout / ".config").stat().st_mtime_ns == before


def test_it_opens_on_a_broken_configuration_and_lists_what_it_dropped(checkout: Path) -> None:
    write(checkout / ".config", "CONFIG_SEED=3\nCONFIG_GONE=1\nnonsense\nCONFIG_BATCH_SIZE=0\n")
    with Terminal(checkout) as terminal:
        terminal.sees("unknown symbol GONE", "malformed line 'nonsense'", "BATCH_SIZE=0: outside the range [1, 65536]")
        terminal.press(ENTER, "Kilter: train, track, compare")
        terminal.press("q", "Save configuration?")
        terminal.child.send("y")
        assert terminal.ends() == 0
    assert b"note: dropped: .config:2: unknown symbol GONE" in terminal.printed
    assert (loaded(checkout).SEED, loaded(checkout).BATCH_SIZE) == (3, 32)
    assert "GONE" not in (checkout / ".config").read_text()
    assert "GONE" in (checkout / ".config.old").read_text()


def test_it_opens_without_any_configuration_and_saves_one(checkout: Path) -> None:
    with Terminal(checkout) as terminal:
        terminal.sees("Kilter: train, track, compare")
        terminal.press("q", "Save configuration?")
        terminal.child.send("y")
        assert terminal.ends() == 0
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
    ],
)
def test_a_terminal_or_locale_that_is_unknown_is_one_line(checkout: Path, environ: dict[str, str], words: str) -> None:
    with Terminal(checkout, **environ) as terminal:
        assert terminal.ends() == 2
    printed = terminal.printed.decode().strip()
    assert printed.startswith("error: menuconfig: ") and words in printed and "\n" not in printed
