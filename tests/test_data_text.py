"""Text on disk: what becomes tokens, what is held out, and that killing, damage and threads change nothing in it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import hub
import numpy as np
import pytest

from gpt2.task import Task
from lib.data import DataError, documents, shards, text, tokenizer
from lib.data.text import Source, Text

ROOT = Path(__file__).resolve().parents[1]
STDLIB = Source("stdlib")


def story(number: int) -> str:
    """About 800 bytes; each number's own."""
    return f"Story {number}: once upon a time the näher one went {number % 13} times to the market. \n" * 10


def written(folder: Path, count: int = 300) -> Source:
    """A folder of so many stories, a file each."""
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.txt").write_text(story(number))
    return Source("local", dataset_path=str(folder))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepared(root: Path) -> Path:
    (folder,) = (path for path in (root / "data").iterdir() if path.is_dir())
    return folder


# --- what is in it --------------------------------------------------------------------------------------------------


def test_the_standard_library_is_held_out_by_whole_files(tmp_path: Path) -> None:
    library = text.load(STDLIB, root=tmp_path)
    train, held = (split.tobytes().split(b"\0") for split in (library.train, library.held))
    here = Path(sysconfig.get_paths()["stdlib"], "email")
    sources = {path.read_bytes() for path in here.glob("*.py")}
    assert len(sources) > 10
    assert sources <= set(train) | set(held)
    assert not (set(held) & set(train)) - {b""}
    assert 0.03 < len(library.held) / (len(library.train) + len(library.held)) < 0.2
    assert (library.vocabulary, library.bytes_per_token) == (256, 1.0)
    assert len(library.train) + len(library.held) < 20 << 20
    assert Path(np.__file__).read_bytes() not in library.train.tobytes() + library.held.tobytes()


def test_files_become_tokens_a_separator_after_each_and_nothing_is_lost(tmp_path: Path) -> None:
    source = written(tmp_path / "stories")
    data = text.load(source, root=tmp_path)
    found = [split.tobytes().split(b"\0") for split in (data.train, data.held)]
    assert found[0][-1] == found[1][-1] == b""  # what follows the last separator
    assert sorted(found[0][:-1] + found[1][:-1]) == sorted(story(number).encode() for number in range(300))
    assert all(shards.held_out(document) for document in found[1][:-1])


@pytest.mark.parametrize(("kind", "vocabulary"), [("gpt2", 0), ("trained", 300)])
def test_byte_pairs_say_the_same_as_bytes(tmp_path: Path, kind: str, vocabulary: int) -> None:
    source = written(tmp_path / "stories")
    plain = text.load(source, root=tmp_path)
    pairs = text.load(Source("local", kind, vocabulary, dataset_path=source.dataset_path), root=tmp_path)
    words = pairs.tokenizer
    assert words is not None and words.vocabulary == pairs.vocabulary
    assert pairs.train.dtype == pairs.held.dtype == np.uint16
    for split, raw in ((pairs.train, plain.train), (pairs.held, plain.held)):
        ends = np.flatnonzero(split == words.separator)
        parts = np.split(split, ends + 1)
        assert [words.decode(part[:-1].tolist()).encode() for part in parts[:-1]] == raw.tobytes().split(b"\0")[:-1]
    assert pairs.bytes_per_token == len(plain.held) / len(pairs.held) > 2


def test_a_vocabulary_that_does_not_fit_two_bytes_gets_four() -> None:
    assert [shards.width(count) for count in (256, 257, 65536, 65537)] == [np.uint8, np.uint16, np.uint16, np.uint32]


@pytest.mark.parametrize("source", [Source("x"), Source("x", "gpt2"), Source("x", "trained", 300)])
def test_the_vocabulary_is_known_before_the_text_is_read(tmp_path: Path, source: Source) -> None:
    place = written(tmp_path / "stories").dataset_path
    there = Source("local", source.tokenizer, source.tokenizer_vocabulary, dataset_path=place)
    assert text.vocabulary(source) == text.load(there, root=tmp_path).vocabulary


def test_a_text_too_small_for_so_many_tokens_says_how_many_it_has(tmp_path: Path) -> None:
    place = written(tmp_path / "stories").dataset_path
    with pytest.raises(DataError, match=r"TOKENIZER_VOCABULARY=60000: .* Use at most \d{3}\b"):
        text.load(Source("local", "trained", 60000, dataset_path=place), root=tmp_path)


def test_what_is_learned_does_not_come_from_what_is_held_out(tmp_path: Path) -> None:
    source = written(tmp_path / "stories", count=40)
    read = text._documents(source)
    start = list(text._training_start(read))
    every = [passage for row in read.read() for passage in row]
    assert start == [passage for passage in every if not shards.held_out(passage)]
    assert len(start) < len(every)


def test_equal_documents_are_never_on_both_sides(tmp_path: Path) -> None:
    rows = [story(number % 50) for number in range(300)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row, "n": 1}) + "\n" for row in rows))
    data = text.load(Source("local", dataset_path=str(tmp_path / "rows.jsonl")), root=tmp_path)
    train, held = (set(split.tobytes().split(b"\0")) - {b""} for split in (data.train, data.held))
    assert train and held and not train & held
    assert len(data.train) + len(data.held) == sum(len(row.encode()) + 1 for row in rows)


def test_one_long_text_is_held_out_by_passages_that_end_with_a_line(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("".join(f"Line {number} of the play.\n" for number in range(3000)))
    data = text.load(Source("local", dataset_path=str(book)), root=tmp_path)
    pieces = [split.tobytes().split(b"\0")[:-1] for split in (data.train, data.held)]
    assert len(pieces[0]) + len(pieces[1]) > 50
    assert all(piece.endswith(b"\n") for split in pieces for piece in split)
    lines = [line for split in pieces for piece in split for line in piece.splitlines()]
    assert sorted(lines) == sorted(book.read_bytes().splitlines())


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_tables_are_read_by_their_column(tmp_path: Path, suffix: str) -> None:
    rows = [story(number) for number in range(100)]
    path = tmp_path / f"rows.{suffix}"
    lines = "".join(json.dumps({"story": row, "n": 1}) + "\n" for row in rows)
    path.write_bytes(hub.table(story=rows, n=[1] * 100) if suffix == "parquet" else lines.encode())
    data = text.load(Source("local", dataset_path=str(path), dataset_column="story"), root=tmp_path)
    found = {row for split in (data.train, data.held) for row in split.tobytes().split(b"\0")} - {b""}
    assert found == {row.encode() for row in rows}
    with pytest.raises(DataError, match=r"DATASET_COLUMN=text: rows-[-\w]+ has no such column. Use one of: story, n"):
        text.load(Source("local", "gpt2", dataset_path=str(path)), root=tmp_path)


def test_another_column_is_another_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(hub.table(one=[story(n) for n in range(100)], two=[story(-n) for n in range(100)]))
    sources = [Source("local", dataset_path=str(path), dataset_column=column) for column in ("one", "two")]
    first, second = (text.load(source, root=tmp_path) for source in sources)
    assert first.fingerprint != second.fingerprint


def test_reading_stops_after_the_document_that_fills_the_limit(tmp_path: Path) -> None:
    source = written(tmp_path / "stories", count=1500)  # 1.2 MiB
    limited = Source("local", dataset_path=source.dataset_path, dataset_mib=1)
    data = text.load(limited, root=tmp_path)
    assert 1 << 20 <= len(data.train) + len(data.held) < (1 << 20) + 1000


def test_what_was_killed_after_the_limit_was_read_gets_no_more(tmp_path: Path) -> None:
    limited = Source("local", dataset_path=written(tmp_path / "stories", count=1500).dataset_path, dataset_mib=1)
    folder = text.prepared(limited, root=tmp_path)
    whole = contents(folder)
    (folder / shards.META).unlink()
    folder.rename(folder.with_name(folder.name + ".part"))
    assert contents(text.prepared(limited, root=tmp_path)) == whole


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Source("hub"), "DATASET=hub: DATASET_NAME is empty"),
        (Source("local"), "DATASET_PATH=: not there"),
        (Source("local", dataset_path="/nowhere"), "DATASET_PATH=/nowhere: not there"),
        (Source("local", dataset_path="EMPTY"), "no text there. Known are files that end in .jsonl, .md"),
    ],
)
def test_a_slip_is_one_line(tmp_path: Path, source: Source, message: str) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    if source.dataset_path == "EMPTY":
        source = Source("local", dataset_path=str(tmp_path))
    with pytest.raises(DataError, match=message) as caught:
        text.load(source, root=tmp_path)
    assert "\n" not in str(caught.value)


def test_a_text_with_nothing_to_hold_out_says_so(tmp_path: Path) -> None:
    lines = [row for row in (f"row {number}" for number in range(30)) if not shards.held_out(row.encode())]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in lines))
    source = Source("local", dataset_path=str(tmp_path / "rows.jsonl"))
    with pytest.raises(DataError, match=rf"DATASET=local: nothing to hold out in {len(lines)} documents"):
        text.load(source, root=tmp_path)


# --- shards ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD_BYTES", 10_000)


def test_the_number_of_threads_changes_nothing(tmp_path: Path, small_shards: None) -> None:
    source = written(tmp_path / "stories")
    made = []
    for workers in (1, 7):
        folder = tmp_path / str(workers)
        folder.mkdir()
        read = text._documents(source)
        shards.write(folder, read, tokenizer.named("gpt2"), limit=0, workers=workers)
        made.append(contents(folder))
    assert made[0] == made[1]
    assert made[0][shards.LINES].count(b"\n") == 21  # of 10,000 bytes


def test_what_is_there_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = written(tmp_path / "stories")
    first = text.load(source, root=tmp_path)
    monkeypatch.setattr(shards, "write", None)
    again = text.load(source, root=tmp_path)
    assert again.fingerprint == first.fingerprint
    assert np.array_equal(again.held, first.held)


def test_files_that_change_are_read_anew(tmp_path: Path) -> None:
    source = written(tmp_path / "stories")
    first = text.load(source, root=tmp_path)
    (tmp_path / "stories" / "0007.txt").write_text("Another story.\n" * 60)
    assert text.load(source, root=tmp_path).fingerprint != first.fingerprint


KILLED = """
import pathlib, sys, time
sys.path[0] = {root!r}
from lib.data import shards, text
shards.SHARD_BYTES = 10_000
fast = shards._stretches
shards._stretches = lambda *block: (time.sleep(0.05), fast(*block))[1]
source = text.Source({dataset!r}, {kind!r}, {vocabulary}, dataset_path={path!r}, num_workers=2)
text.load(source, root=pathlib.Path({home!r}))
"""


def killed_after(lines: int, source: Source, home: Path) -> None:
    """Prepare in a process of its own, and kill it when so many shards are written."""
    code = KILLED.format(
        root=str(ROOT), dataset=source.dataset, kind=source.tokenizer, vocabulary=source.tokenizer_vocabulary,
        path=source.dataset_path, home=str(home),
    )  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        if any(path.read_bytes().count(b"\n") >= lines for path in home.glob(f"data/*.part/{shards.LINES}")):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.001)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"


@pytest.mark.parametrize(("suffix", "kind"), [("txt", "trained"), ("parquet", "bytes")])
def test_what_was_killed_goes_on_after_its_last_whole_shard(
    tmp_path: Path, small_shards: None, suffix: str, kind: str
) -> None:
    rows = [story(number) for number in range(400)]
    path = tmp_path / f"stories.{suffix}"
    path.write_bytes(hub.table(text=rows) if suffix == "parquet" else "".join(rows).encode())
    source = Source("local", kind, 300 if kind == "trained" else 0, dataset_path=str(path))
    killed_after(5, source, tmp_path)
    (part,) = (tmp_path / "data").glob("*.part")
    shards_before = (part / shards.LINES).read_bytes().splitlines()
    with (part / "train.bin").open("ab") as file:  # what a crash of the machine may leave
        file.write(b"torn")
    with (part / shards.LINES).open("ab") as file:
        file.write(b'{"documents": 3, "tra')
    again = text.load(source, root=tmp_path)
    whole = text.load(source, root=tmp_path / "undisturbed")
    assert again.fingerprint == whole.fingerprint
    both = [contents(prepared(place)) for place in (tmp_path, tmp_path / "undisturbed")]
    lines = [made.pop(shards.LINES).splitlines() for made in both]  # `datasets` words a position in several ways
    assert both[0] == both[1]
    assert len(lines[0]) == len(lines[1])
    assert lines[0][: len(shards_before)] == shards_before


def test_a_finished_shard_is_not_made_again(tmp_path: Path, small_shards: None) -> None:
    source = written(tmp_path / "stories")
    whole = text.prepared(source, root=tmp_path)
    part = whole.with_name(whole.name + ".part")
    whole.rename(part)
    kept = (part / shards.LINES).read_text().splitlines(keepends=True)[:20]
    (part / shards.LINES).write_text("".join(kept))
    (part / shards.META).unlink()
    seen: list[int] = []

    class Counted(tokenizer.Bytes):
        def encode(self, documents: object) -> object:  # type: ignore[override]
            seen.append(len(list(documents)))  # type: ignore[call-overload]
            return super().encode(documents)  # type: ignore[arg-type]

    shards.write(part, text._documents(source), Counted(), limit=0, workers=1)
    assert sum(seen) < 60  # of 300 documents; 20 of 21 shards are there


@pytest.mark.parametrize("file", ["train.bin", "held.bin", shards.LINES, shards.META])
def test_make_data_finds_damage_and_mends_it(tmp_path: Path, small_shards: None, file: str) -> None:
    source = written(tmp_path / "stories")
    good = text.check(source, root=tmp_path)
    before = contents(prepared(tmp_path))
    path = prepared(tmp_path) / file
    raw = bytearray(path.read_bytes())
    if file == shards.LINES:
        raw = raw[: raw.rindex(b"\n", 0, -1)]  # less the last line
    else:
        raw[len(raw) * 2 // 3] ^= 1
    path.write_bytes(raw)
    mended = text.check(source, root=tmp_path)
    assert mended.startswith(f"{good}, mended: ")
    assert contents(prepared(tmp_path)) == before
    assert text.check(source, root=tmp_path) == good


def test_a_file_of_the_wrong_size_is_named(tmp_path: Path) -> None:
    source = written(tmp_path / "stories")
    text.load(source, root=tmp_path)
    os.truncate(prepared(tmp_path) / "train.bin", 5)
    with pytest.raises(DataError, match=r"train.bin: 5 bytes where \d\d\d,\d\d\d were written. `make data` mends it"):
        text.load(source, root=tmp_path)


def test_a_document_that_can_not_be_read_is_named_and_the_rest_is_kept(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path in paths:
        path.write_text("text")
    read = documents.Files("name", paths)
    paths[1].unlink()
    rows = read.read()
    assert next(rows) == [b"text"]
    with pytest.raises(DataError, match=r"1.txt: can't be read"):
        next(rows)


# --- the task -------------------------------------------------------------------------------------------------------


def test_bits_per_byte_do_not_depend_on_how_long_tokens_are() -> None:
    import torch

    from gpt2.model import GPT2
    from lib.tasks import Sizes

    torch.manual_seed(0)
    model = GPT2(layers=1, heads=1, width=8, block_size=8, vocabulary=256)
    tokens = np.random.default_rng(0).integers(0, 256, 200, dtype=np.uint16)
    found = []
    for bytes_per_token in (1.0, 4.0):
        data = Text(tokens, tokens, vocabulary=256, fingerprint="", bytes_per_token=bytes_per_token)
        task = Task(model, data, Sizes(4, 10, 4, 0), device=torch.device("cpu"))
        with torch.no_grad():
            found.append(task.evaluate())
    assert found[0]["val_bits_per_byte"] == pytest.approx(found[0]["val_loss"] / np.log(2))
    assert found[1]["val_bits_per_byte"] == pytest.approx(found[0]["val_bits_per_byte"] / 4)
