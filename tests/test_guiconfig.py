"""guiconfig in a real window on a virtual display: what a user sees, presses and types."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
from configuring import configure, copied_to, environment, loaded, made, write

WINDOWED = Path(__file__).with_name("windowed.py")
in_a_window = pytest.mark.skipif(
    not (find_spec("_tkinter") and shutil.which("Xvfb")), reason="needs Python's tkinter and Xvfb"
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    return copied_to(tmp_path / "a checkout")


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """A screen of our own; the server chooses a free number and says it once it is ready."""
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", "1024x768x24"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout
        yield f":{server.stdout.readline().strip()}"
        server.terminate()


class Window:
    """guiconfig in a process of its own."""

    def __init__(self, root: Path, display: str) -> None:
        self.printed: list[str] = []
        command = [sys.executable, "-u", str(WINDOWED), str(root)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, env=environment(DISPLAY=display), stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True
        )

    def __enter__(self) -> Window:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.kill()
        self.process.communicate()

    def sees(self, *words: str) -> None:
        """Waits until the window shows all the words."""
        self._wait(f"sees {words}", lambda: all(word in "\n".join(self._asked("texts") or ()) for word in words))

    def press(self, button: str) -> None:
        self._wait(f"press {button}", lambda: bool(self._asked("press", button)))

    def fill(self, text: str) -> None:
        self._wait(f"fill {text}", lambda: bool(self._asked("fill", text)))

    def choose(self, line: str) -> None:
        """Presses Space on a line of the list in front: a menu opens, a switch changes, a value gets its dialog."""
        self._wait(f"choose {line}", lambda: bool(self._asked("choose", line)))

    def close(self) -> None:
        self._wait("close", lambda: bool(self._asked("close")))

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def ends(self) -> int:
        self.printed += self.process.communicate(timeout=60)[0].splitlines()
        assert not any("Traceback" in line for line in self.printed), self.printed
        return self.process.returncode

    def _wait(self, what: str, done: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not done():
            assert time.monotonic() < end, f"{what}: never; there are {self._asked('texts')}"

    def _asked(self, action: str, text: str = "") -> Any:  # what JSON holds
        assert self.process.stdin and self.process.stdout
        print(json.dumps([action, text]), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("answer: "):
                return json.loads(line.removeprefix("answer: "))
            self.printed.append(line.rstrip("\n"))
        raise AssertionError(f"the window is gone: {self.printed}")


@in_a_window
def test_switches_floats_and_choices_are_changed_checked_and_saved(checkout: Path, display: str) -> None:
    made(checkout, "DEFCONFIG=test-mnist")
    with Window(checkout, display) as window:
        window.sees("Kilter: train, track, compare")
        window.choose("Experiment Tracking")
        window.choose("Trackio: local")
        window.sees("(7860) Trackio dashboard port")
        window.choose("Optimizer")
        window.choose("Peak learning rate")
        window.sees("Range: (0, 10]")
        for wrong, reason in (("fast", "expected float"), ("nan", "expected float"), ("20", "outside (0, 10]")):
            window.fill(wrong)
            window.press("OK")
            window.sees("Bad value", f"LEARNING_RATE={wrong}: {reason}")
            window.press("OK")
        window.fill("1e-4")
        window.press("OK")
        window.sees("Peak learning rate [float 0< <=10]: 1e-4", "Modified")
        window.press("Jump to...")
        window.fill("^OPTIMIZER_SGD$")
        window.press("Search")
        window.sees("sgd: stochastic gradient descent with momentum\n")
        window.choose("sgd: stochastic")
        window.press("Jump to selected item")
        window.sees("Momentum [float 0<= <1]: 0.9")
        window.press("Save")
        window.sees("Configuration saved to", "config.py beside it")
        window.close()
        assert window.ends() == 0
    config = loaded(checkout)
    assert (config.LEARNING_RATE, config.OPTIMIZER, config.ENABLE_TRACKIO, config.BATCH_SIZE) == (
        1e-4,
        "sgd",
        True,
        128,
    )
    assert {name: config.origins[name] for name in ("LEARNING_RATE", "OPTIMIZER", "ENABLE_TRACKIO", "BATCH_SIZE")} == {
        **dict.fromkeys(("LEARNING_RATE", "OPTIMIZER", "ENABLE_TRACKIO"), "guiconfig"),
        "BATCH_SIZE": "lenet5/defconfigs/test-mnist:2",
    }
    assert window.printed[-1].startswith("No changes to save")


@in_a_window
def test_it_opens_on_a_broken_configuration_and_lists_what_it_dropped(checkout: Path, display: str) -> None:
    write(checkout / ".config", "CONFIG_SEED=3\nCONFIG_GONE=1\nnonsense\n")
    with Window(checkout, display) as window:
        window.sees("Not taken along", "unknown symbol GONE", "malformed line 'nonsense'")
        window.press("OK")
        window.close()
        window.sees("Save changes?")
        window.press("Yes")
        assert window.ends() == 0
    assert "note: dropped: .config:2: unknown symbol GONE" in window.printed
    assert loaded(checkout).SEED == 3 and "GONE" not in (checkout / ".config").read_text()


@in_a_window
def test_another_file_is_opened_and_a_copy_saved_but_dotconfig_is_what_save_means(checkout: Path, display: str) -> None:
    made(checkout)
    other = write(checkout / "other", "CONFIG_SEED=5\nCONFIG_GONE=1\n")
    with Window(checkout, display) as window:
        window.press("Open...")
        window.sees("Open configuration")
        window.fill(str(other))
        window.press("Open")
        window.sees("Not taken along", "other:2: unknown symbol GONE")
        window.press("OK")
        window.choose("Training")
        window.sees("(5) Seed")
        window.press("Save as...")
        window.sees("Save configuration as")
        window.fill(str(checkout / "copy"))
        window.press("Save")
        window.sees("Copy saved to", "config.py is written beside")
        assert loaded(checkout).SEED == 0
        window.press("Save")
        window.sees("Configuration saved to")
        window.close()
        assert window.ends() == 0
    assert (loaded(checkout).SEED, loaded(checkout).origins["SEED"]) == (5, "other:1")
    assert (checkout / "copy").read_text() == (checkout / ".config").read_text()
    assert other.read_text() == "CONFIG_SEED=5\nCONFIG_GONE=1\n"


@in_a_window
def test_ctrl_c_closes_the_window_and_writes_nothing(checkout: Path, display: str) -> None:
    made(checkout)
    before = (checkout / ".config").read_bytes()
    with Window(checkout, display) as window:
        window.choose("Training")
        window.choose("Seed")
        window.sees("Enter int value")
        window.interrupt()
        assert window.ends() == 130
    assert window.printed == ["left with Ctrl-C: what was not saved is gone"]
    assert (checkout / ".config").read_bytes() == before


@pytest.mark.skipif(not find_spec("_tkinter"), reason="needs Python's tkinter")
def test_without_a_display_it_says_so_in_one_line(checkout: Path) -> None:
    told = configure(checkout, "guiconfig", DISPLAY="")
    assert (told.returncode, told.stdout) == (2, "")
    assert told.stderr.startswith("error: guiconfig cannot open a window: ")
    assert told.stderr.endswith(". make menuconfig needs none\n") and told.stderr.count("\n") == 1


def test_without_tkinter_it_names_the_package(checkout: Path, tmp_path: Path) -> None:
    write(tmp_path / "tkinter.py", "raise ImportError")
    told = configure(checkout, "guiconfig", PYTHONPATH=str(tmp_path))
    assert (told.returncode, told.stdout) == (2, "")
    needed = "guiconfig needs Python's tkinter (Debian: python3-tk); make menuconfig needs none"
    assert told.stderr == f"error: {needed}\n"
