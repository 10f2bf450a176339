"""Text to model, as bytes: Python's own standard library, and educational web pages (FineWeb-Edu) from the hub.

Documents follow each other, a zero byte after each. One document in ten is held out, whole, by a hash of what it is.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from lib.data import DataError, hub
from lib.data.store import made_once

Bytes = NDArray[np.uint8]
MIB = 1 << 20
HELD_OUT_EVERY = 10
VOCABULARY = 256  # bytes
SPLITS = ("train", "held")
HUB_NAME = "HuggingFaceFW/fineweb-edu"
SEPARATOR = b"\0"
NOT_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
PROGRESS_INTERVAL_S = 10.0


@dataclass(frozen=True)
class Text:
    """A text for training and one that is held out: 1-D uint8, mapped from disk where it is large."""

    train: Bytes
    held: Bytes
    vocabulary: int
    fingerprint: str  # sha256 (hex) of both


def load(name: str, *, mib: int | None, root: Path) -> Text:
    """The text `name`: "stdlib", or "finewebedu" cut at `mib` MiB and kept under `root`/data.

    Raises:
        DataError: no such text, the hub can't be reached, or what was kept of it is damaged.
    """
    if name == "stdlib":
        return _stdlib()
    if name == "finewebedu":
        if mib is None:
            raise DataError("DATASET=finewebedu: DATASET_MIB is unset. Give the MiB of text to download")
        return _finewebedu(mib, root)
    raise DataError(f"DATASET={name}: not a text. Use one of: stdlib, finewebedu")


def _stdlib() -> Text:
    """The source of the running Python's standard library, without its tests; files are told apart by name."""
    library = Path(sysconfig.get_paths()["stdlib"])
    train, held = bytearray(), bytearray()
    for name in sorted(_sources(library)):
        (held if _held_out(name.encode()) else train).extend((library / name).read_bytes() + SEPARATOR)
    if not train or not held:
        raise DataError(
            f"DATASET=stdlib: {library} holds no source files. Install Python's standard library as .py files"
        )
    digests = [hashlib.sha256(split).hexdigest() for split in (train, held)]
    return Text(np.frombuffer(train, np.uint8), np.frombuffer(held, np.uint8), VOCABULARY, _fingerprint(digests))


def _sources(library: Path) -> Iterator[str]:
    """The library's source files, relative to it, as posix paths; without the one that tells of the host."""
    for folder, subfolders, files in os.walk(library):
        subfolders[:] = set(subfolders) - NOT_THE_LIBRARY  # what is not in the list is not entered
        inside = (Path(folder, file).relative_to(library) for file in files)
        yield from (path.as_posix() for path in inside if path.suffix == ".py" and "_sysconfigdata" not in path.stem)


def _finewebedu(mib: int, root: Path) -> Text:
    """The first `mib` MiB of HuggingFaceFW/fineweb-edu, sample-10BT, in the hub's order."""
    folder = root / "data" / f"finewebedu-{mib}mib"
    made_once(folder, lambda part: _download(part, mib * MIB, _documents()))
    meta = json.loads((folder / "meta.json").read_text())
    for split in SPLITS:
        there = (folder / f"{split}.bin").stat().st_size
        if there != meta[split]["bytes"]:
            raise DataError(
                f"{folder}/{split}.bin: {there:,} bytes where {meta[split]['bytes']:,} were written. Delete {folder}"
            )
    train, held = (np.memmap(folder / f"{split}.bin", np.uint8, mode="r") for split in SPLITS)
    return Text(train, held, VOCABULARY, _fingerprint([meta[split]["sha256"] for split in SPLITS]))


def _documents() -> Iterator[bytes]:
    instead = "DATASET=stdlib, which needs no download"
    rows = hub.load(HUB_NAME, "sample-10BT", split="train", streaming=True, instead=instead)
    with hub.readable(HUB_NAME, instead=instead):
        for row in rows:
            yield row["text"].encode()


def _download(folder: Path, limit: int, documents: Iterable[bytes]) -> None:
    """Write train.bin, held.bin and meta.json from `documents` until `limit` bytes are full; the last one is cut."""
    written = dict.fromkeys(SPLITS, 0)
    digests = {split: hashlib.sha256() for split in SPLITS}
    with contextlib.ExitStack() as opened:
        files = {split: opened.enter_context((folder / f"{split}.bin").open("wb")) for split in SPLITS}
        progress = opened.enter_context(_Progress(limit))
        for document in documents:
            split = "held" if _held_out(document) else "train"
            text = (document + SEPARATOR)[: limit - sum(written.values())]
            files[split].write(text)
            digests[split].update(text)
            written[split] += len(text)
            progress.add(len(text))
            if sum(written.values()) == limit:
                break
    if not all(written.values()):
        raise DataError(f"DATASET=finewebedu: no text to hold out in {limit // MIB} MiB. Set a larger DATASET_MIB")
    meta = {split: {"bytes": written[split], "sha256": digests[split].hexdigest()} for split in SPLITS}
    (folder / "meta.json").write_text(json.dumps({"source": HUB_NAME, **meta}, indent=2) + "\n")


class _Progress:
    """How much of `limit` bytes is there: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self, limit: int) -> None:
        self._limit, self._done, self._said = limit, 0, time.monotonic()
        self._bar = tqdm(total=limit, desc=HUB_NAME, unit="B", unit_scale=True, disable=None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, count: int) -> None:
        self._done += count
        self._bar.update(count)
        if self._bar.disable and time.monotonic() - self._said > PROGRESS_INTERVAL_S:
            self._said = time.monotonic()
            print(f"{HUB_NAME}: {self._done / MIB:,.0f} of {self._limit / MIB:,.0f} MiB", file=sys.stderr, flush=True)


def _held_out(identity: bytes) -> bool:
    """Whether the document with this name or text is held out: one in ten, and equal ones always go the same way."""
    return int.from_bytes(hashlib.sha256(identity).digest()[:8]) % HELD_OUT_EVERY == 0


def _fingerprint(digests: list[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()
