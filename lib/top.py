"""`make gputop`: what the GPUs of the running job do now, from the files that its samplers write.

A terminal shows it live, `q` leaves; without a terminal it is printed once. It asks no driver, so it also shows a job
whose GPUs this process can't see, and costs that job nothing.
"""

from __future__ import annotations

import collections
import contextlib
import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from lib import kconf
from lib.gpu import balance, store
from lib.gpu.alarms import told
from lib.gpu.readings import Values
from lib.gpu.store import Header, Row, Tail
from lib.gpu.tally import Key
from lib.journal import folder
from lib.journal.folder import RunFolder
from lib.progress import duration
from lib.report.gpu_recording import job, monitored, newest
from lib.report.gpu_summary import GIB

LOOK_S = 0.5  # between two looks at the files, and at the keyboard
STATE_EVERY_S = 2.0
HISTORY = 240  # samples behind the line of the past
BEHIND = 1 << 20  # bytes of each file, from its end, that are read at first
STALE_S, STALE_INTERVALS = 5.0, 3  # without a sample, the longer of the two
NAME, NARROW = 20, 61  # columns of the name; of a line without its two bars
EVENTS = 4
RED, GREEN, YELLOW, BOLD, PALE, PLAIN = "31", "32", "33", "1", "2", ""
COLOURS = {"Excellent": GREEN, "Good": GREEN, "Fair": YELLOW, "Poor": RED}
ENTER, LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # another screen, without a cursor; and back

Line = list[tuple[str, str]]  # pieces of text, each with its colour


class Letters(NamedTuple):
    """What bars and the line of the past are made of, from little to much."""

    bar: str
    rest: str  # of a bar
    past: str


FINE, COARSE = (
    Letters("▏▎▍▌▋▊▉█", "·", "▁▂▃▄▅▆▇█"),
    Letters("#", ".", "_.-=+*#"),
)  # a terminal without Unicode has no eighths


class View:
    """What is known of the run in `run`, at the last `look`."""

    def __init__(self, run: RunFolder) -> None:
        self.run = run
        self.headers: dict[int, Header] = {}
        self.rows: dict[int, collections.deque[Row]] = {}
        self.values: dict[str, Any] = {}  # of the latest window
        self.events: collections.deque[dict[str, Any]] = collections.deque(maxlen=EVENTS)
        self.step = 0
        self.state = ""
        self._home = run.path / store.FOLDER
        self._asked = -STATE_EVERY_S
        self._tails: dict[Path, Tail] = {}

    def look(self) -> None:
        """Take what was written since the last look."""
        for sampler in store.samplers(self.run.path):
            rank = store.rank_of(sampler)
            for entry in self._new(sampler / store.SAMPLES):
                if isinstance(entry, dict):
                    self.headers[rank] = Header.of(entry)
                elif rank in self.headers and len(entry[1]) == len(self.headers[rank].gpus):
                    self.rows.setdefault(rank, collections.deque(maxlen=HISTORY)).append(Row(*entry))
            self.events.extend(event for event in self._new(sampler / store.EVENTS) if event["event"] != "found")
        for window in self._new(self._home / store.WINDOWS):
            self.values, self.step = window["values"], max(self.step, window["step"])
        for mark in self._new(self._home / store.MARKS / "rank-0.jsonl"):
            self.step = mark.get("step", self.step)
        if time.monotonic() > self._asked + STATE_EVERY_S:
            self._asked, self.state = time.monotonic(), self.run.state()

    def cards(self) -> list[Key]:
        """The job's GPUs in the order of their logged names: node and position."""
        return job(self.run, self.headers)

    def now(self, key: Key) -> dict[str, float | None]:
        """The latest values of a GPU by name; nothing while it can't be reached."""
        rows = self.rows.get(key[0])
        values: Values | None = rows[-1].gpus[key[1]] if rows else None
        return dict(zip(self.headers[key[0]].fields, values or (), strict=False))

    def past(self, cards: Sequence[Key]) -> list[float]:
        """The mean utilization of each sample of the first node, as far as it is known."""
        name = "cpu_utilization" if self.of_host else "utilization"
        node = cards[0][0]
        place = self.headers[node].fields.index(name)
        own = [position for rank, position in cards if rank == node]
        means = [
            balance.mean([None if (gpu := row.gpus[position]) is None else gpu[place] for position in own])
            for row in self.rows.get(node, ())
            if len(row.gpus) > max(own)
        ]
        return [mean for mean in means if mean is not None]

    @property
    def of_host(self) -> bool:
        return all(header.kind == "host" for header in self.headers.values())

    def silent_s(self, now: float) -> float:
        """For how long no sample has come, where that is longer than it should be; else 0."""
        ages = [now - rows[-1].time for rows in self.rows.values() if rows]
        limit = max([STALE_S, *(STALE_INTERVALS * header.interval_s for header in self.headers.values())])
        return max(ages, default=0.0) if max(ages, default=0.0) > limit else 0.0

    def _new(self, path: Path) -> list[Any]:  # objects and lists, as the file has them
        if path in self._tails:
            return self._tails[path].read()
        try:
            begin = max(0, path.stat().st_size - BEHIND)
            with path.open("rb") as file:
                first = store.entries([file.readline()]) if begin else []  # the header
        except FileNotFoundError:
            return []
        self._tails[path] = Tail(path, begin=begin)
        return first + self._tails[path].read()


def main(root: Path, environ: Mapping[str, str]) -> int:
    """`make gputop [RUN=run]`; without RUN the job that runs now, and the next one when that has ended."""
    kconf.only(environ, "gputop", "RUN")
    named, runs = kconf.typed(environ, "RUN"), root / "runs"
    view = View(folder.find(runs, named) if named else current(runs))
    view.look()
    if not (sys.stdin.isatty() and sys.stdout.isatty()) or environ.get("TERM") in (None, "dumb"):
        print("\n".join(rendered(line) for line in frame(view, time.time(), 100, letters=_letters())))
        return 0
    with _screen():
        while not _leaves():
            if not named and view.state != "running" and (run := current(runs)).path != view.run.path:
                view = View(run)
            view.look()
            _show(view)
    return 0


def current(runs: Path) -> RunFolder:
    """The monitored run that runs now, the one sampled last of several; else the one that was sampled last of all."""
    return next((run for run in monitored(runs) if run.lock.holder), None) or newest(runs)


def frame(view: View, now: float, width: int, *, letters: Letters) -> list[Line]:
    """The lines of the view at the time `now`, for so many columns."""
    lines: list[Line] = [_head(view, now), []]
    if not view.rows:
        return [*lines, [("no samples yet", PALE)]]
    cards = view.cards()
    bar = max(0, (width - NARROW) // 2)
    lines += [_card(view, number, key, bar, letters) for number, key in enumerate(cards)]
    lines += [[], *(_all(view, cards) if not view.of_host else []), *_balance(view, cards), *_spent(view.values)]
    if past := view.past(cards)[-max(10, width - NAME) :]:
        most = len(letters.past) - 1
        levels = [letters.past[round(value / 100 * most)] for value in past]
        lines.append([(f"{'the last ' + _span(view, cards, len(past)):<{NAME}}", PALE), ("".join(levels), GREEN)])
    for event in view.events:
        clock = time.strftime("%H:%M:%S", time.localtime(event["time"]))
        text = told(event, host=event["host"] if len(view.headers) > 1 else "")
        lines.append([(f"{clock}  {text}", RED if event["event"] in ("lost", "alarm") else PLAIN)])
    return [_cut(line, width) for line in lines]


def rendered(line: Line, *, coloured: bool = False) -> str:
    """A line as it is printed."""
    return "".join(f"\x1b[{colour}m{text}\x1b[0m" if coloured and colour else text for text, colour in line).rstrip()


def _head(view: View, now: float) -> Line:
    silent_s = view.silent_s(now) if view.state == "running" else 0.0
    line: Line = [
        (f"{view.run.project}/{view.run.name}", BOLD),
        (f"  {view.state}", GREEN if view.state == "running" else YELLOW),
        (f"  step {view.step:,}", PLAIN),
    ]
    return [*line, (f"  no sample for {duration(silent_s)}", RED)] if silent_s else line


def _card(view: View, number: int, key: Key, bar: int, letters: Letters) -> Line:
    """One GPU: utilization and memory with a bar each, temperature, power; a host has the first two."""
    header = view.headers[key[0]]
    gpu, values = header.gpus[key[1]], view.now(key)
    where = f" {header.host}" if len(view.headers) > 1 and not view.of_host else ""
    name = (f"{number} {gpu.name}" if not view.of_host else header.host) + where
    line: Line = [(f"{name[: NAME - 1]:<{NAME}}", BOLD)]
    if not values:
        return [*line, ("lost: it can't be reached", RED)]
    utilization, used = values.get("cpu_utilization" if view.of_host else "utilization"), values.get("memory_used")
    total = gpu.memory_total_mib
    line += [
        (f"{_number(utilization):>4} % ", PLAIN), *_bar(utilization, 100.0, bar, letters),
        (f" {_number(used, GIB, 1):>5}/{_number(total, GIB, 1)} GiB ".rjust(16), PLAIN),
        *_bar(used, total, bar, letters),
    ]  # fmt: skip
    if not view.of_host:
        power = f"{_number(values.get('power'))}/{_number(gpu.power_limit_watts)} W"
        line.append((f"{_number(values.get('temperature')):>4} °C{power:>11}", PLAIN))
    return line


def _all(view: View, cards: Sequence[Key]) -> Iterator[Line]:
    now = [view.now(key) for key in cards]
    used, power = (balance.total([values.get(name) for values in now]) for name in ("memory_used", "power"))
    total = balance.total([view.headers[rank].gpus[position].memory_total_mib for rank, position in cards])
    utilization = balance.mean([values.get("utilization") for values in now])
    yield [
        (f"{'all':<{NAME}}", BOLD),
        (f"{_number(utilization):>4} %   {_number(used, GIB, 1)}/{_number(total, GIB, 1)} GiB", PLAIN),
        (f"   {_number(power)} W", PLAIN),
    ]


def _balance(view: View, cards: Sequence[Key]) -> Iterator[Line]:
    """Of the latest window, and of this moment."""
    title = f"{'load balance':<{NAME}}"
    quality = view.values.get("gpu_load_balance_quality")
    if not view.values:
        yield [(title, BOLD), ("the first window is over after 10 samples and a logged step", PALE)]
        return
    named = {"memory": "memory", "power": "power", "compute_time": "work", "sampled": "samples"}
    others = {label: view.values.get(f"gpu_load_balance_cv_{name}") for name, label in named.items()}
    if quality:
        cv = view.values.get("gpu_load_balance_cv")
        now = balance.cv_percent([view.now(key).get("utilization") for key in cards], least=balance.IDLE)
        yield [
            (title, BOLD),
            ("" if cv is None else f"CV {cv:.1f} %  ", PLAIN),
            (str(quality), COLOURS.get(quality, PLAIN)),
            ("" if now is None else f"   now {now:.1f} %", PALE),
        ]
    if known := [f"{label} {cv:.1f} %" for label, cv in others.items() if cv is not None]:
        yield [(f"{'' if quality else 'load balance':<{NAME}}", BOLD), (f"CV of {', '.join(known)}", PLAIN)]
    slowest = view.values.get("gpu_slowest_rank")
    if slowest is not None:
        yield [(" " * NAME, PLAIN), (f"rank {slowest} does the most work: the others wait for it", RED)]
    if view.values.get("gpu_load_balance_suspect"):
        yield [(" " * NAME, PLAIN), ("suspect: even utilization, uneven power or work; who waits spins at 100 %", RED)]


def _spent(values: Mapping[str, Any]) -> Iterator[Line]:
    prefix = "gpu_joules_per_"
    rates = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    kwh, cost = values.get("gpu_energy_total_kwh"), values.get("gpu_cost")
    said = [
        *([f"{kwh:.4g} kWh"] if kwh is not None else []),
        *(f"{value:.4g} J per {unit}" for unit, value in rates.items() if value is not None),
        *([f"cost {cost:.4g}"] if cost is not None else []),
    ]
    if said:
        yield [(f"{'energy':<{NAME}}", BOLD), ("   ".join(said), PLAIN)]


def _span(view: View, cards: Sequence[Key], samples: int) -> str:
    return duration(samples * view.headers[cards[0][0]].interval_s)


def _bar(value: float | None, most: float | None, width: int, letters: Letters) -> Line:
    """`value` of `most` in so many columns, to an eighth of one where the letters are that fine."""
    share = min(1.0, (value or 0.0) / most) if most else 0.0
    whole, rest = divmod(round(share * width * len(letters.bar)), len(letters.bar))
    filled = letters.bar[-1] * whole + (letters.bar[rest - 1] if rest else "")
    return [(filled, GREEN), (letters.rest * (width - len(filled)), PALE)]


def _number(value: float | None, divisor: float = 1.0, digits: int = 0) -> str:
    return "–" if value is None else f"{value / divisor:.{digits}f}"


def _cut(line: Line, width: int) -> Line:
    kept: Line = []
    for text, colour in line:
        kept.append((text[:width], colour))
        width -= len(text[:width])
    return kept


def _letters() -> Letters:
    try:
        "".join(FINE).encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return COARSE
    return FINE


def _show(view: View) -> None:
    size = shutil.get_terminal_size()
    lines = frame(view, time.time(), size.columns - 1, letters=_letters())[: size.lines - 2]
    shown = [*(rendered(line, coloured=True) for line in lines), "", "\x1b[2mq leaves\x1b[0m"]
    sys.stdout.write("\x1b[H" + "\x1b[K\n".join(shown) + "\x1b[K\x1b[J")
    sys.stdout.flush()


@contextlib.contextmanager
def _screen() -> Iterator[None]:
    """Inside it the terminal shows another screen, and each key comes at once; afterwards it is as it was."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        tty.setcbreak(fd)
        sys.stdout.write(ENTER)
        with contextlib.suppress(KeyboardInterrupt):  # a way to leave, too
            yield
    finally:
        sys.stdout.write(LEAVE)
        sys.stdout.flush()
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _terminated(*_: object) -> NoReturn:
    raise SystemExit(128 + signal.SIGTERM)


def _leaves() -> bool:
    """Whether `q` was pressed, or the terminal is gone, within the time between two looks."""
    ready, _, _ = select.select([sys.stdin], [], [], LOOK_S)
    return bool(ready) and ((keys := os.read(sys.stdin.fileno(), 64)) == b"" or b"q" in keys.lower())
