"""The Hugging Face hub, through `datasets`, whose client honours HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from lib.data import DataError

CONNECT_TIMEOUT_S = 15.0


def load(repository: str, config: str | None = None, *, split: str, streaming: bool = False, instead: str) -> Any:
    """A split of a data set of the hub: a `datasets.Dataset`, or an `IterableDataset` when streaming (both untyped).

    Raises:
        DataError: the hub can't be reached or has no such data set; `instead` says what to use.
    """
    with readable(repository, instead=instead):
        _ask_once()
        import datasets

        return datasets.load_dataset(repository, config, split=split, streaming=streaming)


@contextlib.contextmanager
def readable(repository: str, *, instead: str) -> Iterator[None]:
    """Inside it a failure of the hub, of the network or of what came over it becomes one `DataError` line."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # its HTTP client's, whichever that is

    try:
        yield
    except (OSError, ValueError, RuntimeError, HTTPError) as failure:
        reason = (str(failure).strip() or type(failure).__name__).splitlines()[0]
        raise DataError(
            f"{repository}: can't be read from {constants.ENDPOINT} ({reason}). "
            f"Check the network and HF_ENDPOINT, or use {instead}"
        ) from failure


def _ask_once() -> None:
    """Fail at once where no hub answers: `datasets` would try each of many requests six times, for half a minute."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

    if not constants.is_offline_mode():  # then its cache is all there is
        get_session().head(constants.ENDPOINT, timeout=CONNECT_TIMEOUT_S)
