"""Text as tokens on disk: one file to train on and one held out, written shard by shard by several threads.

A shard is a stretch of both files. A line of shards.jsonl says how long it is, what its hashes are and how far the
documents were read, so that what was killed goes on after its last whole shard, and damage is found and mended.
One document in ten is held out, whole, by the hash of its text: equal ones always go the same way.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lib import files
from lib.data.documents import Documents
from lib.data.progress import MIB, Reading
from lib.data.tokenizer import Tokenizer

SHARD_BYTES = 8 * MIB  # of text
HELD_OUT_EVERY = 10
SPLITS = ("train", "held")
COUNTED = ("tokens", "bytes")
LINES, META = "shards.jsonl", "meta.json"

Shard = dict[str, Any]  # documents, state, and for each split bytes (of text), tokens, sha256


class _Stretch(NamedTuple):
    """What one shard adds to one of the files."""

    data: bytes
    tokens: int
    text_bytes: int  # with one for each separator


def held_out(document: bytes) -> bool:
    """Whether the document with this text is held out."""
    return int.from_bytes(hashlib.sha256(document).digest()[:8]) % HELD_OUT_EVERY == 0


def width(vocabulary: int) -> type[np.unsignedinteger]:
    """The smallest type that holds every token."""
    return next(kind for kind in (np.uint8, np.uint16, np.uint32) if vocabulary - 1 <= np.iinfo(kind).max)


def write(folder: Path, documents: Documents, tokenizer: Tokenizer, *, limit: int, workers: int) -> None:
    """Fill `folder` with the tokens of `documents` until `limit` bytes of text are read (0: all), and describe them.

    What is whole in `folder` already is kept. The result does not depend on `workers`, the number of threads.
    """
    shards = _whole(folder, np.dtype(width(tokenizer.vocabulary)).itemsize)
    done = sum(shard[split]["bytes"] for shard in shards for split in SPLITS)
    rows = documents.read(shards[-1]["state"] if shards else None)
    with (
        (folder / "train.bin").open("ab") as train,
        (folder / "held.bin").open("ab") as held,
        (folder / LINES).open("a") as lines,
        Reading(documents.name, limit, unit="B", done=done) as progress,
    ):
        blocks = _blocks(rows, documents, limit - done if limit else sys.maxsize)
        for shard, stretches in _tokenized(blocks, tokenizer, workers):
            for split, file in (("train", train), ("held", held)):
                file.write(stretches[split].data)
                file.flush()
            lines.write(json.dumps(shard) + "\n")  # last: a line without its tokens would be damage
            lines.flush()
            shards.append(shard)
            progress.add(sum(shard[split]["bytes"] for split in SPLITS))
    files.write_whole(folder / META, json.dumps(_summed(shards, documents, tokenizer), indent=2) + "\n")


def damage(folder: Path) -> str:
    """What is wrong with a finished `folder`, in words; "" when every shard has its hash."""
    meta = files.read_object(folder / META) or {}
    lines = files.read_lines(folder / LINES)
    good = _intact(folder, lines, int(meta.get("token_bytes", 1)))
    if len(good) < len(lines):
        return f"shard {len(good)} of {len(lines)} does not have its hash"
    return "" if _totals(good).items() <= meta.items() else f"{META} and {LINES} do not agree"


def _summed(shards: list[Shard], documents: Documents, tokenizer: Tokenizer) -> dict[str, Any]:
    """What meta.json says of the whole."""
    return {
        "source": documents.name,
        "tokenizer": tokenizer.name,
        "vocabulary": tokenizer.vocabulary,
        "token_bytes": np.dtype(width(tokenizer.vocabulary)).itemsize,
        **_totals(shards),
    }


def _totals(shards: list[Shard]) -> dict[str, Any]:
    """The shards' sums, and one sha256 (hex) of their hashes."""
    digests = " ".join(shard[split]["sha256"] for shard in shards for split in SPLITS)
    return {
        "documents": sum(shard["documents"] for shard in shards),
        **{split: {what: sum(shard[split][what] for shard in shards) for what in COUNTED} for split in SPLITS},
        "fingerprint": hashlib.sha256(digests.encode()).hexdigest(),
    }


def _blocks(rows: Iterable[list[bytes]], documents: Documents, limit: int) -> Iterator[tuple[list[bytes], Any]]:
    """The documents of one shard after the other, and how far they were read; the last document is never cut."""
    block: list[bytes] = []
    size = 0
    for row in rows if limit > 0 else ():  # all may be there already, for want of the last file alone
        block += row
        size += sum(len(document) + 1 for document in row)
        if size >= min(SHARD_BYTES, limit):
            yield block, documents.state()
            limit -= size
            block, size = [], 0
            if limit <= 0:
                return
    if block:
        yield block, documents.state()


def _tokenized(
    blocks: Iterable[tuple[list[bytes], Any]], tokenizer: Tokenizer, workers: int
) -> Iterator[tuple[Shard, dict[str, _Stretch]]]:
    """Each block's shard, in the blocks' order; the threads are at most two blocks each ahead."""
    pending: deque[tuple[int, Any, Future[dict[str, _Stretch]]]] = deque()
    pool = ThreadPoolExecutor(workers, "tokenizer")
    try:
        for block, state in blocks:
            pending.append((len(block), state, pool.submit(_stretches, block, tokenizer)))
            if len(pending) > 2 * workers:
                yield _shard(*pending.popleft())
        while pending:
            yield _shard(*pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _shard(documents: int, state: Any, done: Future[dict[str, _Stretch]]) -> tuple[Shard, dict[str, _Stretch]]:
    stretches = done.result()
    described = {
        split: {"tokens": it.tokens, "bytes": it.text_bytes, "sha256": hashlib.sha256(it.data).hexdigest()}
        for split, it in stretches.items()
    }
    return {"documents": documents, **described, "state": state}, stretches


def _stretches(block: list[bytes], tokenizer: Tokenizer) -> dict[str, _Stretch]:
    """The tokens of each split, a separator after each document."""
    kind = width(tokenizer.vocabulary)
    separator = np.array([tokenizer.separator], kind)
    found = {}
    for split in SPLITS:
        chosen = [document for document in block if held_out(document) == (split == "held")]
        pieces = [piece for tokens in tokenizer.encode(chosen) for piece in (tokens.astype(kind), separator)]
        tokens = np.concatenate(pieces) if pieces else np.empty(0, kind)
        found[split] = _Stretch(tokens.tobytes(), len(tokens), sum(map(len, chosen)) + len(chosen))
    return found


def _whole(folder: Path, token_bytes: int) -> list[Shard]:
    """The shards that a killed process finished; whatever comes after them is cut off."""
    shards = _intact(folder, files.read_lines(folder / LINES), token_bytes)
    for split in SPLITS:
        path = folder / f"{split}.bin"
        path.touch()
        os.truncate(path, sum(shard[split]["tokens"] for shard in shards) * token_bytes)
    files.write_whole(folder / LINES, "".join(json.dumps(shard) + "\n" for shard in shards))
    return shards


def _intact(folder: Path, lines: list[Shard], token_bytes: int) -> list[Shard]:
    """The shards before the first whose tokens are not the ones that were written."""
    if not all((folder / f"{split}.bin").is_file() for split in SPLITS):
        return []
    with (folder / "train.bin").open("rb") as train, (folder / "held.bin").open("rb") as held:
        for number, shard in enumerate(lines):
            for split, file in (("train", train), ("held", held)):
                tokens = file.read(shard[split]["tokens"] * token_bytes)
                if hashlib.sha256(tokens).hexdigest() != shard[split]["sha256"]:
                    return lines[:number]
    return lines
