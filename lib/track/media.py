"""What a run logs beside numbers: pictures, tables, texts, histograms, files, models.

Each call writes its file into `media/` of the run folder, whole, and then one line of the journal that names it; the
trackers take it from there. Nothing here stops training: what can't be read is warned of once and left out.
"""

from __future__ import annotations

import ast
import functools
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lib.journal import folder, lines
from lib.track import contents, settings
from lib.track.client import KINDS

if TYPE_CHECKING:  # who starts a run need not wait for torch
    from torch import nn

FOLDER = "media"
LEVELS = ("info", "warn", "error")
LONGEST_REASON = 300  # characters


class Place:
    """Where the file of one line goes: `<run>/media/<name>-<step>`, and a number behind it when that is taken."""

    def __init__(self, run: Path, name: str, step: int) -> None:
        self._run = run
        plain = re.sub(r"[^\w.-]+", "_", name).strip(".")[:80] or "media"
        self._stem = f"{plain}-{step}"

    def put(self, suffix: str, data: bytes) -> str:
        """Write `data`; its path from the run folder."""
        return self._fill(suffix, lambda path: path.write_bytes(data))

    def copy(self, content: Any) -> str:
        """Copy a file or folder, or save a state with torch; its path from the run folder.

        A checkpoint is linked: it is on disk once, and stays when another one of its name replaces it.
        """
        if not isinstance(content, str | Path):
            import torch

            return self._fill(".pt", lambda path: torch.save(content, path))
        source = Path(content).resolve(strict=True)
        home = self._run.resolve()
        if home.is_relative_to(source):
            raise ValueError(f"{content} holds the run folder itself")
        copy = _linked if source.is_relative_to(home / "checkpoints") else shutil.copy2
        if source.is_dir():
            return self._fill("", lambda path: shutil.copytree(source, path, copy_function=copy))
        return self._fill(source.suffix, lambda path: copy(source, path))

    def _fill(self, suffix: str, write: Callable[[Path], object]) -> str:
        """Let `write` make the file or folder under a name of its own; then it appears, whole."""
        (self._run / FOLDER).mkdir(exist_ok=True)
        for number in itertools.count(1):
            path = self._run / FOLDER / f"{self._stem}{f'-{number}' if number > 1 else ''}{suffix}"
            temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
            try:
                path.touch(exist_ok=False)  # ours from here on, also beside another process
                break
            except FileExistsError:
                continue
        try:
            write(temporary)
            if temporary.is_dir():
                path.unlink()
            temporary.replace(path)
        except BaseException:
            path.unlink(missing_ok=True)
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink(missing_ok=True)
            raise
        return f"{FOLDER}/{path.name}"


def _linked(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


Content = Callable[[Place], Mapping[str, Any]]  # makes what a line says of its media; Any: JSON


class Media:
    """The calls. Here they do nothing, as on processes that keep no journal; `Kept` keeps them.

    `step` is the optimizer step, the highest so far when it is left out; `trackers` those that it is for (none: all).
    """

    def image(
        self, name: str, image: Any, step: int | None = None, *, caption: str = "", trackers: Sequence[str] = ()
    ) -> None:
        """A picture: (H, W), (H, W, C) or (C, H, W), bytes or floats 0..1; a PIL image; a path."""

        def content(place: Place) -> Mapping[str, Any]:
            return {"file": place.put(".png", contents.png(image)), "caption": caption}

        self._keep("image", name, content, step=step, trackers=trackers)

    def video(
        self, name: str, frames: Any, step: int | None = None, *, fps: float = 8, trackers: Sequence[str] = ()
    ) -> None:
        """Pictures (T, …), each as in `image`, `fps` a second (at most 50) as a GIF; or the path of a gif or mp4."""

        def content(place: Place) -> Mapping[str, Any]:
            if not isinstance(frames, str | Path):
                return {"file": place.put(".gif", contents.gif(frames, fps)), "fps": fps}
            return {"file": place.put(*contents.video(Path(frames))), "fps": fps}

        self._keep("video", name, content, step=step, trackers=trackers)

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Iterable[Any]],
        *,
        step: int | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        """`rows`, each with a cell (number, text, one-element tensor, None) for each of `columns`."""

        def content(_: Place) -> Mapping[str, Any]:
            return {"columns": [str(column) for column in columns], "rows": contents.rows_of(rows, len(columns))}

        self._keep("table", name, content, step=step, trackers=trackers)

    def text(self, name: str, text: str, step: int | None = None, *, trackers: Sequence[str] = ()) -> None:
        """A text of any length, shown as it is. A word that has a curve's place is better logged with `log`."""
        self._keep("text", name, lambda _: {"text": str(text)}, step=step, trackers=trackers)

    def histogram(
        self,
        name: str,
        values: Any,
        step: int | None = None,
        *,
        bins: int = contents.BINS,
        trackers: Sequence[str] = (),
    ) -> None:
        """How the finite ones of `values` (a tensor or array of any shape, a list) lie, counted in equal `bins`."""
        self._keep("histogram", name, lambda _: contents.binned(values, bins), step=step, trackers=trackers)

    def figure(self, name: str, figure: Any, step: int | None = None, *, trackers: Sequence[str] = ()) -> None:
        """A matplotlib figure, as a picture. It is not closed."""

        def content(place: Place) -> Mapping[str, Any]:
            return {"file": place.put(".png", contents.drawn(figure))}

        self._keep("figure", name, content, step=step, trackers=trackers)

    def embedding(
        self,
        name: str,
        vectors: Any,
        step: int | None = None,
        *,
        labels: Sequence[Any] | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        """`vectors` (N, D), each with its one of `labels` (N)."""

        def content(place: Place) -> Mapping[str, Any]:
            return {"file": place.put(".npz", contents.packed(vectors, labels))}

        self._keep("embedding", name, content, step=step, trackers=trackers)

    def alert(
        self,
        title: str,
        text: str = "",
        level: Literal["info", "warn", "error"] = "warn",
        *,
        step: int | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        """Something to look at now, for the trackers that send messages or ring."""

        def content(_: Place) -> Mapping[str, Any]:
            if level not in LEVELS:
                raise ValueError(f"its level {level} is none of {', '.join(LEVELS)}")
            return {"title": str(title), "text": str(text), "level": level}

        self._keep("alert", title, content, step=step, trackers=trackers)

    def artifact(
        self,
        content: Any,
        name: str = "",
        type: str = "file",
        *,
        step: int | None = None,
        aliases: Sequence[str] = (),
        trackers: Sequence[str] = (),
    ) -> None:
        """A file or folder by its path, or a state for `torch.save`: `{"model": …, "optimizer": …}`.

        It is kept as it is now. `type` is a word that trackers group by: file, dataset, model, checkpoint.
        """
        name = name or (Path(content).name if isinstance(content, str | Path) else type)
        about = {"type": type, "aliases": list(aliases)}
        self._keep("artifact", name, lambda place: {"file": place.copy(content), **about}, step=step, trackers=trackers)

    def model(
        self,
        model: Any,
        name: str = "model",
        *,
        registered_name: str = "",
        signature: Mapping[str, Any] | None = None,
        example: Any = None,
        step: int | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        """A network (its weights are saved) or the path of a saved one; registered where it has a `registered_name`.

        `signature` has `inputs` and `outputs`, each a list of `name`, `dtype`, `shape` (-1: any size). Without one, a
        batch `example` goes through the network once, without gradients, and its tensors are the signature.
        """

        def content(place: Place) -> Mapping[str, Any]:
            path = isinstance(model, str | Path)
            if signature:
                contents.require_signature(signature)
            traced = None if path or example is None else contents.signature_of(model, example)
            file = place.copy(model if path else model.state_dict())
            return {"file": file, "signature": signature or traced, "registered_name": registered_name}

        self._keep("model", name, content, step=step, trackers=trackers)

    def graph(
        self,
        network: nn.Module,
        example: Any = None,
        name: str = "graph",
        *,
        step: int | None = None,
        trackers: Sequence[str] = (),
    ) -> None:
        """What `network` computes, as torch.fx or, with a batch `example`, torch.export writes it down."""

        def content(place: Place) -> Mapping[str, Any]:
            text, nodes = contents.graph_of(network, example)
            return {"file": place.put(".txt", text.encode()), "nodes": nodes}

        self._keep("graph", name, content, step=step, trackers=trackers)

    def watch(self, network: nn.Module, every: int = 100, *, name: str = "") -> None:
        """From now on `observe` logs histograms of the weights and gradients of `network`, each `every` steps.

        `name` comes before theirs: for several networks.
        """

    def observe(self, step: int) -> None:
        """Log what is watched. To be called after backward and before the optimizer clears the gradients."""

    def _keep(self, kind: str, name: str, content: Content, *, step: int | None, trackers: Sequence[str]) -> None:
        """Write the file and the line that `content` makes. Here, nothing."""


class Kept(Media):
    """Media in the folder and the journal of a run."""

    store: folder.RunFolder
    journal: lines.Journal
    _highest: int  # step

    @functools.cached_property
    def _watched(self) -> list[tuple[str, nn.Module, int]]:
        return []

    @functools.cached_property
    def _said(self) -> set[tuple[str, str]]:
        """What the user has been told: (kind, name) that could not be logged, (kind, "") that a tracker lacks."""
        return set()

    def watch(self, network: nn.Module, every: int = 100, *, name: str = "") -> None:
        self._watched.append((f"{name}/" if name else "", network, every))

    def observe(self, step: int) -> None:
        for prefix, network, every in self._watched:
            if step % every == 0:
                for name, parameter in network.named_parameters():
                    self.histogram(f"weights/{prefix}{name}", parameter, step)
                    if parameter.grad is not None:
                        self.histogram(f"gradients/{prefix}{name}", parameter.grad, step)

    def _keep(self, kind: str, name: str, content: Content, *, step: int | None, trackers: Sequence[str]) -> None:
        step = max(self._highest, 0) if step is None else int(step)
        self._highest = max(self._highest, step)
        try:
            media = {"kind": kind, "name": str(name), **content(Place(self.store.path, str(name), step))}
        except Exception as problem:  # what users hand in can raise anything when it is read, drawn or traced
            why = (str(problem).splitlines() or [type(problem).__name__])[0][:LONGEST_REASON]
            self._say(kind, name, f"warning: {kind} {name} at step {step} is not logged: {why}")
            return
        self.journal.append({}, step, to=trackers, media=media)
        if (kind, "") not in self._said:
            on = trackers or settings.read(self.store.trackers)
            if lacking := [tracker for tracker in on if kind not in takes_of(tracker)]:
                self._say(kind, "", f"note: no {kind} goes to {', '.join(lacking)}; it stays in the run folder")
            self._said.add((kind, ""))

    def _say(self, kind: str, name: str, line: str) -> None:
        if (kind, name) not in self._said:
            self._said.add((kind, name))
            print(line, file=sys.stderr)


def takes_of(tracker: str) -> frozenset[str]:
    """The kinds that `tracker` takes, read from its source: its package is not imported here. All, for a user's own."""
    path = Path(__file__).with_name(f"to_{tracker}.py")
    if not path.exists():
        return KINDS
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Assign(targets=[ast.Name(id="takes")], value=ast.Call(args=[kinds])):
                return frozenset(ast.literal_eval(kinds))
            case ast.AnnAssign(target=ast.Name(id="takes"), value=ast.Call(args=[kinds])):
                return frozenset(ast.literal_eval(kinds))
    return frozenset()
