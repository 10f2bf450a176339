"""Accelerate's door: `Accelerator(log_with=KilterTracker.all(["trackio", "wandb"]))` in a script of the user's own.

Accelerate calls each tracker in turn inside the training process: the slowest sets the pace, the first that raises
stops the others and training. Here each name is a proxy; all proxies of one `all` share one Run (see run.py), so that
a log call writes one line to a journal, which the trackers read in processes of their own.

Accelerate tells instances neither the project nor their options. The proxies read both from the frame of
`Accelerator.init_trackers`, and see from the frame of `Accelerator.log` that a call is for all of them.
"""

from __future__ import annotations

import atexit
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from lib import names
from lib.errors import Refused
from lib.journal import secrets
from lib.metrics import normalize
from lib.options import ROOT
from lib.track import dialect
from lib.track.native import NOTHING
from lib.track.run import Run
from lib.track.settings import PACKAGES
from lib.track.writer import Writer

PATIENCE_S = 60  # for the trackers at the end of a run


class KilterTracker(GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """One tracker, by name, as Accelerate calls it. Made by `all`."""

    requires_logging_directory = False

    def __init__(self, name: str, door: Door) -> None:
        self.name = name
        super().__init__()
        self._door = door

    @classmethod
    def all(
        cls,
        trackers: str | Sequence[Any],  # names, accelerate's LoggerType, and GeneralTrackers of the user's own
        *,
        runs: str | Path = ROOT / "runs",
        name: str = "",
        **symbols: Any,
    ) -> list[GeneralTracker]:
        """What `Accelerator(log_with=…)` takes: a proxy for each name, and the user's own instances, guarded.

        `trackers` also takes "all" (every installed one) and "both". The run's folder is `runs/<project>/<name>`, by
        default `<script>_<time>`. `symbols` are those of the menu "Experiment Tracking" in lower case, as
        `wandb_offline=True`, `mlflow_uri=…`, `tracker_native="wandb"`.

        Raises:
            Refused: a name that is not known.
        """
        items = [trackers] if isinstance(trackers, str) else list(trackers)
        own = [item for item in items if isinstance(item, GeneralTracker)]
        text = ",".join(str(item) for item in items if not isinstance(item, GeneralTracker))
        try:
            wanted = names.trackers(text or "none", list(PACKAGES))
        except ValueError as problem:
            raise Refused(f"KilterTracker.all: {problem}") from None
        door = Door(Path(runs), name, dialect.Told(**{"tracker_exit_timeout_s": PATIENCE_S, **symbols}))
        return [*(cls(tracker, door) for tracker in PACKAGES if tracker in wanted), *map(Guarded, own)]

    def start(self) -> None:
        """Called by `Accelerator.init_trackers`: the first proxy opens the run."""
        call = sys._getframe(1)
        if not _is(call, "init_trackers"):
            raise Refused(f"{self.name}: a KilterTracker is started by Accelerator.init_trackers")
        self._door.enter(self, call.f_locals)

    @property
    def tracker(self) -> Any:  # a wandb.Run, a SummaryWriter, …
        """The tracker's own object where `tracker_native` names it; else one that is false and does nothing."""
        return self._door.run.get_tracker(self.name, unwrap=True) if self._door.run else NOTHING

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        """Nothing is left to do: the run was opened with what `init_trackers` was given."""

    def log(self, values: Mapping[str, Any], step: int | None = None, **options: Any) -> None:
        """One line for all proxies when Accelerator.log calls them; called by anyone else, for this tracker alone."""
        call = sys._getframe(1)
        if not _is(call, "log"):
            self._door.log(values, step, to=(self.name,), options={self.name: options} if options else {})
        elif self is self._door.first:
            self._door.log(values, step, options=call.f_locals["log_kwargs"])

    def log_images(self, values: Mapping[str, Any], step: int | None = None, *, caption: str = "", **_: Any) -> None:
        """Pictures by name, each a list or a batch (N, …) of them; several of one name are `name/0`, `name/1`, …"""
        for name, images in values.items():
            for index, image in enumerate(images):
                called = name if len(images) == 1 else f"{name}/{index}"
                picture = getattr(image, "image", image)  # a wandb.Image has the PIL image inside
                self._alone.image(called, picture, step, caption=caption)

    def log_table(
        self,
        table_name: str,
        columns: Sequence[str] | None = None,
        data: Iterable[Iterable[Any]] | None = None,
        dataframe: Any = None,  # pandas'
        step: int | None = None,
    ) -> None:
        """A table, by `columns` and `data` or as a data frame."""
        if dataframe is not None:
            columns, data = list(dataframe.columns), dataframe.to_numpy().tolist()
        self._alone.table(table_name, columns or (), data or (), step=step)

    def log_figure(self, figure: Any, artifact_file: str, **_: Any) -> None:
        """A matplotlib figure."""
        self._alone.figure(artifact_file, figure)

    @property
    def writer(self) -> Any:  # torch's SummaryWriter, or a Writer
        """What accelerate's TensorBoard tracker has under this name."""
        if self.name != "tensorboard":
            raise AttributeError(f"{self.name} has no writer")
        return self.tracker if self._door.has_native(self.name) else Writer(self._alone)

    def log_artifact(self, local_path: str | Path, artifact_path: str = "") -> None:
        """A file or folder."""
        self._alone.artifact(local_path, artifact_path)

    def finish(self) -> None:
        """Called by `Accelerator.end_training`: with the last proxy the run is done, and the trackers are drained."""
        self._door.leave(self)

    @property
    def _alone(self) -> Any:  # an Alone, or NOTHING
        return self._door.run.get_tracker(self.name) if self._door.run else NOTHING


class Door:
    """What the proxies of one `all` share: the run of the phase that is on, if one is."""

    def __init__(self, runs: Path, name: str, settings: dialect.Told) -> None:
        self._runs = runs
        self._name = name
        self._settings = settings
        self._inside: set[KilterTracker] = set()
        self._warned = False
        self.run: Run | None = None
        self.first: KilterTracker | None = None  # of those that Accelerator.log calls

    def enter(self, proxy: KilterTracker, call: Mapping[str, Any]) -> None:
        """`call`: what `Accelerator.init_trackers` was given. When the proxy is inside already, a new phase begins."""
        if proxy in self._inside:
            self._close(None)
        if self.run is None:
            self._open(call["self"], call["project_name"], call["config"] or {}, call["init_kwargs"] or {})
        self._inside.add(proxy)

    def leave(self, proxy: KilterTracker) -> None:
        """Once the last proxy has left, the run is closed: failed, when an exception is on its way out."""
        self._inside.discard(proxy)
        if not self._inside:
            error = sys.exc_info()[1]
            left = isinstance(error, SystemExit) and not error.code
            self._close(None if left or error is self._handled else error)

    def has_native(self, name: str) -> bool:
        return name in self._settings.natives

    def log(
        self,
        values: Mapping[str, Any],
        step: int | None,
        *,
        to: Sequence[str] = (),
        options: Mapping[str, Mapping[str, Any]],
    ) -> None:
        """One line of the journal, and what the trackers have to say. `options` may name others' trackers, too."""
        if self.run is None:
            self._warn("what is logged before Accelerator.init_trackers or after end_training is not kept")
            return
        ours = {proxy.name: options[proxy.name] for proxy in self._inside if proxy.name in options} if options else {}
        self.run.log(values, step, trackers=to, options=ours or None)
        _say(self.run.news())

    def _open(
        self,
        accelerator: Any,
        project: str,
        config: Mapping[str, Any],
        init_kwargs: Mapping[str, Mapping[str, Any]],
    ) -> None:
        accelerator.trackers[:] = _once(accelerator.trackers)
        proxies = [tracker for tracker in accelerator.trackers if getattr(tracker, "_door", None) is self]
        on = [proxy.name for proxy in proxies]
        options, unused = dialect.options(on, init_kwargs)
        for line in unused:
            print(f"note: {line}", file=sys.stderr)
        called = self._name or next((own["name"] for own in options.values() if "name" in own), "")
        name = called or f"{_script()}_{datetime.now():%Y%m%d-%H%M%S}"
        switches: dict[str, Any] = {f"enable_{tracker}": True for tracker in on}
        settings = replace(self._settings, **switches, options=options)
        texts = {"config.json": _configuration(config, accelerator)}
        self.run = Run.create(self._runs, project, name, texts=texts, trackers=settings)
        self.run.__enter__()
        self.first = proxies[0]
        self._began = time.monotonic()
        self._pid = os.getpid()
        self._handled = sys.exc_info()[1]
        atexit.register(self._abandoned)
        print(f"run       {self.run.store.path}", file=sys.stderr)

    def _close(self, error: BaseException | None) -> None:
        run, self.run = self.run, None
        self._inside.clear()
        atexit.unregister(self._abandoned)
        if run is None:
            return
        if error is None:
            run.finish({"total_time_s": time.monotonic() - self._began})
        run.__exit__(type(error) if error else None, error, None)
        _say(f"{name:<11} {look}" for name, look in run.looks.items())

    def _abandoned(self) -> None:
        """The process ends without end_training: what was logged is drained, and the run has failed."""
        if os.getpid() == self._pid:  # not in a child that was forked
            error = getattr(sys, "last_value", None)
            self._close(error or RuntimeError("the process ended without Accelerator.end_training"))

    def _warn(self, text: str) -> None:
        if not self._warned:
            self._warned = True
            print(f"warning: {text}", file=sys.stderr)


class Guarded(GeneralTracker):  # type: ignore[misc]  # accelerate has no types
    """A tracker instance of the user's own, in the trainer as Accelerate runs it; what it raises is warned of once."""

    def __init__(self, inner: GeneralTracker) -> None:
        self.inner = inner
        self.name = inner.name
        self.requires_logging_directory = inner.requires_logging_directory
        self._warned = False
        super().__init__()

    @property
    def tracker(self) -> Any:  # whatever the user's class gives
        return self.inner.tracker

    def start(self) -> None:
        self._try(self.inner.start)

    def store_init_configuration(self, values: Mapping[str, Any]) -> None:
        self._try(self.inner.store_init_configuration, values)

    def log(self, values: Mapping[str, Any], step: int | None = None, **options: Any) -> None:
        self._try(self.inner.log, values, step=step, **options)

    def finish(self) -> None:
        self._try(self.inner.finish)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _try(self, call: Callable[..., object], *values: Any, **options: Any) -> None:
        try:
            call(*values, **options)
        except Exception as problem:  # a foreign tracker may raise anything
            if not self._warned:
                self._warned = True
                why = secrets.scrubbed(f"{type(problem).__name__}: {problem}")
                print(f"warning: {self.name}: {why}; the other trackers go on without it", file=sys.stderr)


def _is(frame: FrameType, method: str) -> bool:
    """Whether `frame` runs the body of this method of Accelerator. (The attribute is a wrapper that hides it.)"""
    return frame.f_code.co_name == method and frame.f_globals.get("__name__") == Accelerator.__module__


def _once(trackers: Iterable[GeneralTracker]) -> list[GeneralTracker]:
    """Each of `trackers` once, the user's own guarded. Accelerate appends all of them again at each phase."""
    found: dict[int, GeneralTracker] = {}
    for tracker in trackers:
        ours = isinstance(tracker, KilterTracker | Guarded)
        found.setdefault(id(getattr(tracker, "inner", tracker)), tracker if ours else Guarded(tracker))
    return list(found.values())


def _configuration(config: Mapping[str, Any], accelerator: Any) -> str:
    """The run's config.json: what `init_trackers` was given, and how the job ran."""
    how = {"script": sys.argv[0], "processes": accelerator.num_processes, "precision": accelerator.mixed_precision}
    return json.dumps({"values": normalize(config), "provenance": how}, indent=1) + "\n"


def _script() -> str:
    """`train` of `python train.py`."""
    name = Path(sys.argv[0]).stem
    return "run" if not name or names.fault(name) else name


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)
