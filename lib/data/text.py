"""Text to model, as tokens on disk: which data set it is, how it becomes tokens, and where those are kept.

Documents follow each other, a separator after each. One in ten is held out, whole; see `lib.data.shards`.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib import files
from lib.data import DataError, documents, hub, shards, tokenizer
from lib.data.documents import Documents
from lib.data.progress import MIB
from lib.data.store import made_once, unmade
from lib.data.tokenizer import Tokenizer
from lib.journal import environment

LEARNED_FROM = 32 * MIB  # of training text: more does not change the first thousands of byte pairs much
NOT_THE_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
PLAIN = {".txt", ".md", ".py"}
TABLES = {".parquet": "parquet", ".jsonl": "json"}


class _Published(NamedTuple):
    """A text on the hub."""

    repository: str
    config: str | None = None
    column: str = "text"
    passage: int | None = None  # of rows that are whole books


PUBLISHED = {
    "shakespeare": _Published("karpathy/tiny_shakespeare", passage=documents.PASSAGE),  # one row: all of it
    "tinystories": _Published("roneneldan/TinyStories"),
    "openwebtext": _Published("Skylion007/openwebtext"),
    "finewebedu": _Published("HuggingFaceFW/fineweb-edu", "sample-10BT"),
}
NAMES = ("stdlib", *PUBLISHED, "hub", "local")


@dataclass(frozen=True)
class Source:
    """Which text, and how it becomes tokens; each field is the symbol of that name."""

    dataset: str
    tokenizer: str = "bytes"
    tokenizer_vocabulary: int = 0  # of a trained one
    dataset_name: str = ""  # owner/name[:configuration] on the hub
    dataset_column: str = "text"
    dataset_path: str = ""
    dataset_mib: int = 0  # where reading stops; 0: at the end
    num_workers: int = -1  # threads that make tokens; -1: one for each core


@dataclass(frozen=True)
class Text:
    """A text for training and one that is held out: 1-D tokens, uint8 to uint32, mapped from disk."""

    train: NDArray[np.unsignedinteger]
    held: NDArray[np.unsignedinteger]
    vocabulary: int
    fingerprint: str  # sha256 (hex) of all tokens
    bytes_per_token: float = 1.0  # of the held-out text; a separator counts as one byte
    tokenizer: Tokenizer | None = None


def load(source: Source, *, root: Path) -> Text:
    """The text of `source`; what is not under `root`/data yet is read and tokenized first.

    Raises:
        DataError: no such text, it can't be read, it is too short, or what was kept of it is damaged.
    """
    folder = prepared(source, root=root)
    meta = files.read_object(folder / shards.META) or {}
    found = {}
    for split in shards.SPLITS:
        path, size = folder / f"{split}.bin", meta[split]["tokens"] * meta["token_bytes"]
        there = path.stat().st_size if path.exists() else 0
        if there != size:
            raise DataError(f"{path}: {there:,} bytes where {size:,} were written. `make data` mends it")
        mapped = np.memmap(path, shards.width(meta["vocabulary"]), mode="r")
        found[split] = np.asarray(mapped)  # a plain view: numpy's gather is slower on its own memmap class
    return Text(
        **found,
        vocabulary=meta["vocabulary"],
        fingerprint=meta["fingerprint"],
        bytes_per_token=meta["held"]["bytes"] / meta["held"]["tokens"],
        tokenizer=tokenizer.named(source.tokenizer, folder),
    )


def vocabulary(source: Source) -> int:
    """How many tokens there are, known before the text is: a network can be made without it."""
    if source.tokenizer == "trained":
        return source.tokenizer_vocabulary
    return tokenizer.named(source.tokenizer).vocabulary


def prepared(source: Source, *, root: Path) -> Path:
    """The folder with the tokens of `source`, made if it is not there. Raises DataError as `load` does."""
    read = _documents(source)
    suffix = f"{source.tokenizer}{source.tokenizer_vocabulary or ''}"
    limit = f"-{source.dataset_mib}mib" if source.dataset_mib else ""
    folder = root / "data" / f"{read.name}-{suffix}{limit}"
    return made_once(folder, lambda part: _fill(part, read, source), resumable=True)


def check(source: Source, *, root: Path) -> str:
    """Prepare the text of `source`, compare each shard with its hash, mend what is damaged; a line of what is there."""
    folder = prepared(source, root=root)
    mended = ""
    if wrong := shards.damage(folder):
        unmade(folder)
        folder, mended = prepared(source, root=root), f", mended: {wrong}"
    meta = files.read_object(folder / shards.META) or {}
    train, held = (f"{meta[split]['tokens']:,}" for split in shards.SPLITS)
    documents_read, digest = f"{meta['documents']:,}", meta["fingerprint"]
    return (
        f"{files.shown(folder, root)}: {train} tokens to train on, {held} held out, of {documents_read} documents; "
        f"sha256 {digest}{mended}"
    )


def _fill(part: Path, read: Documents, source: Source) -> None:
    """Write the tokens of the documents into `part`, going on with what is whole in it."""
    workers = source.num_workers if source.num_workers > 0 else environment.cores()
    if source.tokenizer == "trained" and not (part / tokenizer.FILE).exists():
        _learn(part, read, source.tokenizer_vocabulary)
    made = tokenizer.named(source.tokenizer, part)
    shards.write(part, read, made, limit=source.dataset_mib * MIB, workers=workers)
    meta = files.read_object(part / shards.META) or {}
    for split in shards.SPLITS:
        if not meta[split]["tokens"]:
            what = "hold out" if split == "held" else "train on"
            raise DataError(
                f"DATASET={source.dataset}: nothing to {what} in {meta['documents']} documents. "
                "Use a larger DATASET_MIB, or more text"
            )


def _learn(part: Path, read: Documents, vocabulary: int) -> None:
    """Learn byte pairs from the first part of the training text and keep them in `part`."""
    print(f"{read.name}: learning {vocabulary:,} tokens from the text", file=sys.stderr, flush=True)
    learned = tokenizer.trained("trained", _training_start(read), vocabulary=vocabulary)
    if learned.vocabulary < vocabulary:
        raise DataError(
            f"TOKENIZER_VOCABULARY={vocabulary}: the text repeats itself too little for so many. "
            f"Use at most {learned.vocabulary}, or more text"
        )
    files.write_whole(part / tokenizer.FILE, learned.json())


def _training_start(read: Documents) -> Iterator[bytes]:
    left = LEARNED_FROM
    for document in chain.from_iterable(read.read()):
        if not shards.held_out(document):
            yield document
            left -= len(document)
        if left <= 0:
            return


def _documents(source: Source) -> Documents:
    if source.dataset == "stdlib":
        return _stdlib()
    if source.dataset == "local":
        return _local(source)
    if source.dataset == "hub":
        asked_for = _Published(*hub.asked_for(source.dataset_name), source.dataset_column)
        return _streamed(source.dataset_name.replace(":", "-"), asked_for)
    if source.dataset in PUBLISHED:
        return _streamed(source.dataset, PUBLISHED[source.dataset])
    raise DataError(f"DATASET={source.dataset}: not a text. Use one of: {', '.join(NAMES)}")


def _stdlib() -> Documents:
    """The source of the running Python's standard library, without its tests."""
    library = Path(sysconfig.get_paths()["stdlib"])
    paths = [library / name for name in sorted(_sources(library))]
    if not paths:
        raise DataError(
            f"DATASET=stdlib: {library} holds no source files. Install Python's standard library as .py files"
        )
    return documents.Files("stdlib", paths)


def _sources(library: Path) -> Iterator[str]:
    """The library's source files, relative to it, as posix paths; without the one that tells of the host."""
    for folder, subfolders, found in os.walk(library):
        subfolders[:] = set(subfolders) - NOT_THE_LIBRARY  # what is not in the list is not entered
        inside = (Path(folder, file).relative_to(library) for file in found)
        yield from (path.as_posix() for path in inside if path.suffix == ".py" and "_sysconfigdata" not in path.stem)


def _streamed(name: str, it: _Published) -> Documents:
    """The rows of a text on the hub, in its order."""
    instead = "DATASET=stdlib, which needs no download"
    opened = partial(hub.load, it.repository, it.config, split="train", streaming=True, instead=instead)
    guarded = partial(hub.readable, it.repository, instead=instead)
    return documents.Rows(name, opened, it.column, guarded=guarded, passage=it.passage)


def _local(source: Source) -> Documents:
    """A file or a folder of the user's: tables (.parquet, else .jsonl) where there are any, else plain text."""
    place, there = documents.local(source.dataset_path, wanted="a file, or a folder of files")
    for suffix, kind in TABLES.items():
        if tables := [path for path in there if path.suffix == suffix]:
            opened = partial(hub.local, kind, tables, split="train", streaming=True)
            name = f"{place.stem}-{documents.listing(tables)}"
            guarded = partial(hub.read_from, f"DATASET_PATH={place}")
            return documents.Rows(name, opened, source.dataset_column, guarded=guarded)
    texts = [path for path in there if path.suffix in PLAIN]
    if not texts:
        known = ", ".join(sorted({*PLAIN, *TABLES}))
        raise DataError(f"DATASET_PATH={place}: no text there. Known are files that end in {known}")
    total = sum(path.stat().st_size for path in texts)
    return documents.Files(place.stem, texts, passage=documents.fitting_passage(total))
