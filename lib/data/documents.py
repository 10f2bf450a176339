"""Where text comes from, document after document: files on this machine, and rows of a table here or on the hub.

Reading can go on where it was: `state` is plain data that says how far the documents were read.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from lib.data import DataError

PASSAGE = 16 << 10  # bytes: what is one long text (a book, all plays) is held out by passages of about this size
PASSAGES_AT_LEAST = 64  # in a text that is smaller than so many of them

Guard = Callable[[], AbstractContextManager[None]]


class Documents(Protocol):
    """`name` tells these documents from all others and is part of a folder's name."""

    name: str

    def read(self, state: Any = None) -> Iterator[list[bytes]]:
        """The documents, those of one row or file after the other, from the beginning or from `state` on.

        Raises:
            DataError: they can't be read.
        """

    def state(self) -> Any:
        """How far the last `read` is: after all that it has yielded. JSON can hold it."""


class Files:
    """Files, each a document of its own, or read in passages of about `passage` bytes that end with a line."""

    def __init__(self, name: str, paths: Sequence[Path], *, passage: int | None = None) -> None:
        self.name = f"{name}-{listing(paths)}"
        self._paths, self._passage = paths, passage
        self._state = (0, 0)  # number of the file, offset in it

    def read(self, state: Any = None) -> Iterator[list[bytes]]:
        self._state = (state[0], state[1]) if state else (0, 0)
        for number in range(self._state[0], len(self._paths)):
            offset = self._state[1] if number == self._state[0] else 0
            try:
                with self._paths[number].open("rb") as file:
                    file.seek(offset)
                    for passage in passages(file, self._passage):
                        self._state = (number, file.tell())
                        yield [passage]
            except OSError as failure:
                raise DataError(f"{self._paths[number]}: can't be read ({failure.strerror})") from failure

    def state(self) -> Any:
        return self._state


class Rows:
    """Rows of a table whose `column` holds text; with `passage` a row is divided as a file is.

    `opened` gives the table; inside `guarded` its failures become a DataError.
    """

    def __init__(
        self, name: str, opened: Callable[[], Any], column: str, *, guarded: Guard, passage: int | None = None
    ) -> None:
        self.name = (name if column == "text" else f"{name}-{column}").replace("/", "--")
        self._opened, self._column, self._guarded, self._passage = opened, column, guarded, passage
        self._rows: Any = None  # a `datasets.IterableDataset`, which has no types

    def read(self, state: Any = None) -> Iterator[list[bytes]]:
        self._rows = self._opened()
        if state:
            self._rows.load_state_dict(state)
        with self._guarded():
            for row in self._rows:
                yield list(passages(io.BytesIO(self._text(row).encode(errors="replace")), self._passage))

    def state(self) -> Any:
        return self._rows.state_dict()

    def _text(self, row: Mapping[str, Any]) -> str:
        if self._column not in row:
            columns = ", ".join(row)
            raise DataError(f"DATASET_COLUMN={self._column}: {self.name} has no such column. Use one of: {columns}")
        return str(row[self._column] or "")


def passages(file: BinaryIO, size: int | None) -> Iterator[bytes]:
    """`file` from where it is: whole without a size, else in pieces of `size` bytes and the rest of their last line."""
    while piece := file.read() if size is None else file.read(size) + file.readline(size):
        yield piece


def fitting_passage(total: int) -> int:
    """The size of passage that divides `total` bytes into enough of them to hold some out."""
    return max(1, min(PASSAGE, total // PASSAGES_AT_LEAST))


def local(dataset_path: str, *, wanted: str) -> tuple[Path, list[Path]]:
    """Where the symbol DATASET_PATH leads, and the files there in order: that file, or all below that folder.

    Raises:
        DataError: nothing is there; `wanted` says what to give.
    """
    place = Path(dataset_path).expanduser()
    if not dataset_path or not place.exists():
        raise DataError(f"DATASET_PATH={dataset_path}: not there. Give {wanted}")
    return place, [place] if place.is_file() else sorted(path for path in place.rglob("*") if path.is_file())


def listing(paths: Sequence[Path]) -> str:
    """Eight hexadecimal digits that change with the files' names, sizes and times."""
    digest = hashlib.sha256()
    for path in paths:
        about = path.stat()
        digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()[:8]
