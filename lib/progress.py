"""What a person watching sees: a bar on a terminal, a plain line now and then elsewhere, the same words in both."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Self

from tqdm import tqdm

from lib.journal import console

FORMAT = "{percentage:3.0f}% {bar} {n_fmt}/{total_fmt}  {elapsed}<{remaining}{postfix}"
BESIDE = ("train_loss", "images_per_second", "tokens_per_second", "mfu")  # the bar: more would leave it no room
PLAIN_EVERY_S = 5.0  # without a terminal, between two lines that only say how far it is


class Progress:
    """Progress over `steps` steps. `shown` is false on all processes of a job but one."""

    def __init__(self, steps: int, *, shown: bool) -> None:
        self._steps = steps
        self._shown = shown
        screen = console.screen()
        hidden = not (shown and screen.isatty())
        self._bar = tqdm(total=steps, file=screen, disable=hidden, dynamic_ncols=True, leave=False, bar_format=FORMAT)
        self._spoke = 0.0
        self._began, self._first = time.monotonic(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def resume(self, step: int) -> None:
        """Training goes on after `step`."""
        self._bar.initial = self._bar.n = self._bar.last_print_n = step  # done before: no part of the rate
        self._bar.refresh()
        self._began, self._first = time.monotonic(), step

    def advance(self) -> None:
        self._bar.update()

    def show(self, step: int, values: Mapping[str, float], *, news: Iterable[str]) -> None:
        """The numbers of a step: beside the bar, or as a line when the last one is a while ago."""
        if not self._shown:
            return
        for line in news:
            self.say(line)
        beside = {name: value for name, value in values.items() if name in BESIDE}
        self._bar.set_postfix_str(describe(beside), refresh=False)
        if self._bar.disable and time.monotonic() - self._spoke > PLAIN_EVERY_S:
            left_s = (time.monotonic() - self._began) * (self._steps - step) / max(1, step - self._first)
            self.say(f"step {step}/{self._steps}  {describe(values)}  {duration(left_s)} left")

    def say(self, text: str) -> None:
        """A line of its own."""
        if self._shown:
            self._spoke = time.monotonic()
            self._bar.clear()
            print(text, flush=True)
            self._bar.refresh()


def describe(values: Mapping[str, float]) -> str:
    """`train_loss 0.1234  val_accuracy 97.8 %  12.3k images/s`: each number as people write it."""
    return "  ".join(_phrase(name, value) for name, value in values.items())


def _phrase(name: str, value: float) -> str:
    if name.endswith("accuracy") or name in ("mfu", "sparsity"):
        return f"{name} {value:.1%}"
    if name.endswith("_per_second"):
        amount = f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"
        return f"{amount} {name.removesuffix('_per_second')}/s"
    if name.endswith("_s"):
        return f"{name.removesuffix('_s')} {duration(value)}"
    return f"{name} {value:.4g}"


def duration(seconds: float) -> str:
    """`9.8 s`, `4 min 05 s`, `3 h 12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
