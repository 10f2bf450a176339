"""The Hugging Face hub, through `datasets`, whose client honours HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from lib.data import DataError

CONNECT_TIMEOUT_S = 15.0
CONVERTED = "refs/convert/parquet"  # where the hub keeps its own copy, in parquet, of what came as a script
HELD_SPLITS = ("test", "validation", "valid", "val")  # what a data set's own held-out part may be called
NO_SCRIPTS = "Dataset scripts are no longer supported"  # what `datasets` says since 4.0


def load(
    repository: str, config: str | None = None, *, split: str | None = None, streaming: bool = False, instead: str
) -> Any:
    """A data set of the hub, or a split of it: `datasets`' own types, which are untyped; iterable when streaming.

    Raises:
        DataError: the hub can't be reached or has no such data set; `instead` says what to use.
    """
    with readable(repository, instead=instead):
        _ask_once()
        asked: dict[str, Any] = {"split": split, "streaming": streaming}
        try:
            return _loaded(repository, config, **asked)
        except RuntimeError as failure:
            if not str(failure).startswith(NO_SCRIPTS):
                raise
            return _loaded(repository, data_dir=config, revision=CONVERTED, **asked)


def asked_for(name: str) -> tuple[str, str | None]:
    """Repository and configuration in the symbol DATASET_NAME, `owner/name[:configuration]`.

    Raises:
        DataError: it is empty.
    """
    if not name:
        raise DataError("DATASET=hub: DATASET_NAME is empty. Give owner/name, as the hub's page has it")
    repository, _, config = name.partition(":")
    return repository, config or None


def local(kind: str, paths: Sequence[Path], *, split: str | None = None, streaming: bool = False) -> Any:
    """Files on this machine that `datasets` reads: "parquet", "json", or one "imagefolder".

    Raises:
        DataError: they can't be read.
    """
    where: dict[str, Any] = {"data_files": _by_split(paths) if split is None else [str(path) for path in paths]}
    if kind == "imagefolder":
        where = {"data_dir": str(paths[0])}
    with read_from(f"DATASET_PATH={paths[0]}"):
        return _loaded(kind, split=split, streaming=streaming, **where)


@contextlib.contextmanager
def read_from(place: str) -> Iterator[None]:
    """Inside it a failure of `datasets` over files on this machine becomes one `DataError` line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as failure:
        raise DataError(f"{place}: can't be read ({_reason(failure)}). Check the files") from failure


@contextlib.contextmanager
def readable(repository: str, *, instead: str) -> Iterator[None]:
    """Inside it a failure of the hub, of the network or of what came over it becomes one `DataError` line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's, whichever that is

    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as failure:
        raise DataError(
            f"{repository}: can't be read from {constants.ENDPOINT} ({_reason(failure)}). "
            f"Check the network and HF_ENDPOINT, or use {instead}"
        ) from failure


def _loaded(*named: str | None, **asked: Any) -> Any:
    """`datasets.load_dataset`; a failure of its own kind, which says too little, is a ValueError with the cause."""
    import datasets
    from datasets.exceptions import DatasetsError

    try:
        return datasets.load_dataset(*named, **asked)
    except DatasetsError as failure:
        raise ValueError(_reason(failure.__cause__ or failure)) from failure


def _by_split(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Files by what their names begin with: train, test or validation, as the hub names them; else they are train."""
    named: dict[str, list[str]] = {}
    for path in paths:
        split = next((split for split in HELD_SPLITS if path.stem.startswith(split)), "train")
        named.setdefault(split, []).append(str(path))
    return named


def _reason(failure: BaseException) -> str:
    first, *rest = (str(failure).strip() or type(failure).__name__).splitlines()
    because = [line for line in rest[-1:] if line.startswith("because ")]  # columns that differ, after all of them
    return " ".join([first, *because])


def _ask_once() -> None:
    """Fail at once where no hub answers: `datasets` would try each of many requests six times, for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    if not constants.is_offline_mode():  # then its cache is all there is
        get_session().head(constants.ENDPOINT, timeout=CONNECT_TIMEOUT_S)
