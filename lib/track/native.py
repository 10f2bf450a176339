"""One tracker of a run: written to alone, or its own object in the training process for those who ask for it.

A native object is not isolated: what it does, training waits for, and what it raises, training gets. It writes a run
of its own, `<name>-native`, beside the one that the tracker's process writes: two processes in one run lose points (an
offline W&B run has one writer, TensorBoard's files are written anew at a rewind, Comet's archive at each start). It
is opened as that process opens its own: without questions, capture or telemetry, offline where there is no login.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from lib import files
from lib.journal import secrets
from lib.journal.folder import RunFolder
from lib.track import settings
from lib.track.client import Target
from lib.track.media import Content, Media

if TYPE_CHECKING:
    from lib.track.run import Run


PATIENCE_S = 60.0


class Nothing:
    """In place of what is not there: it is false, and all that is asked of it does nothing and gives it back."""

    def __bool__(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Self:
        if name.startswith("__"):  # a protocol that others probe for, as copy and numpy do
            raise AttributeError(name)
        return self

    def __setattr__(self, name: str, value: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> Self:
        return self

    def __getitem__(self, _: object) -> Self:
        return self

    def __setitem__(self, _: object, value: object) -> None: ...

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


NOTHING = Nothing()


class Alone(Media):
    """The tracker `name` of `run`: what is logged here, numbers and media, goes to no other."""

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self.name = name

    def log(self, values: Mapping[str, Any], step: int | None = None, **options: Any) -> None:
        """As `Run.log`; `options` are keyword arguments of the tracker's own log call."""
        self._run.log(values, step, trackers=(self.name,), options={self.name: options} if options else None)

    def _keep(self, kind: str, name: str, content: Content, *, step: int | None, trackers: Sequence[str]) -> None:
        self._run._keep(kind, name, content, step=step, trackers=(self.name,))


OBJECTS = {  # tracker -> where its client keeps the tool's own object of a run
    "trackio": "_run", "wandb": "_run", "aim": "_run", "comet_ml": "_experiment", "clearml": "_task",
    "dvclive": "_live", "swanlab": "_run", "goodseed": "_run", "custom": "_tracker",
}  # fmt: skip


class Natives:
    """The native objects of the run in `store`, each opened when it is asked for first."""

    def __init__(self, store: RunFolder) -> None:
        self._store = store
        self._objects: dict[str, Any] = {}
        self._finishing: dict[str, Callable[[bool], object]] = {}  # called with whether the run failed

    def get(self, name: str) -> Any:
        """The object of the tracker `name`, which is on; NOTHING where it was not declared."""
        if name not in self._objects:
            self._objects[name] = self._opened(name)
        return self._objects[name]

    def close(self, *, failed: bool) -> None:
        """Finish all that are open."""
        for name, finish in self._finishing.items():
            try:
                finish(failed)
            except Exception as problem:  # a foreign client may raise anything
                _warn(f"{name}: its native object did not finish ({type(problem).__name__}: {problem})")
        self._objects.clear()
        self._finishing.clear()

    def _opened(self, name: str) -> Any:
        options = settings.read(self._store.trackers)[name]
        if not options.get("native"):
            _warn(f"{name} lives in a process of its own; TRACKER_NATIVE={name} gives its own object to this one too")
            return NOTHING
        attempt = f"-{self._store.attempts}" if self._store.attempts > 1 else ""  # some clients write a run anew
        try:
            return self._start(name, f"-native{attempt}", options)
        except Exception as problem:  # a foreign client may raise anything: the run goes on without this object
            _warn(f"{name}: there is no native object of it ({type(problem).__name__}: {problem})")
            return NOTHING

    def _start(self, name: str, suffix: str, options: Mapping[str, Any]) -> Any:
        store = self._store
        folder = store.path.with_name(store.path.name + suffix)
        if name == "tensorboard":
            writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / name))
            self._finishing[name] = lambda _: writer.close()
            return writer
        (folder / "trackers").mkdir(parents=True, exist_ok=True)
        target = Target(
            id=store.id + suffix,
            project=store.project,
            name=(options.get("name") or store.name) + suffix,
            folder=folder,
            runs=store.job.path.parent.parent,
            config=store.configuration.get("values", {}),
            options=dict(options),
        )
        if name == "mlflow":
            self._await(name)
        client = importlib.import_module(f"lib.track.to_{name}").Tracker(target)
        client.start(fresh=False)
        if name == "mlflow":  # its functions, as mlflow.log_artifact, go to the run that is active
            mlflow = importlib.import_module(name)
            mlflow.set_tracking_uri(client._uri)
            self._finishing[name] = lambda failed: mlflow.end_run("FAILED" if failed else "FINISHED")
            return mlflow.start_run(run_id=client._id)
        self._finishing[name] = lambda failed: client.finish(failed=failed)
        return getattr(client, OBJECTS[name])

    def _await(self, name: str) -> None:
        """Until the tracker's process has started: two that create one database at the same time spoil it."""
        until = time.monotonic() + PATIENCE_S
        reports = self._store.trackers / f"{name}.jsonl"
        while not any(event["event"] == "started" for event in files.read_lines(reports)):
            if time.monotonic() > until:
                raise TimeoutError(f"its process has not started in {PATIENCE_S:g} s")
            time.sleep(0.1)


def _warn(text: str) -> None:
    print(f"warning: {secrets.scrubbed(text)}", file=sys.stderr)
