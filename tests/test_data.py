"""Data sets: what is in them, what is held out, what a failed download leaves, and which samples make a batch."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import hub
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lib.data import DataError, images, sampler, text
from lib.data.store import made_once

ROOT = Path(__file__).resolve().parents[1]
NO_HUB = "http://127.0.0.1:9"  # the discard port: nobody answers


# --- which samples make a batch -------------------------------------------------------------------------------------


def test_the_mixer_is_splitmix64() -> None:
    states = np.arange(3).astype(np.uint64) * sampler.GAMMA  # what its reference code goes through from seed 0
    assert [hex(value) for value in sampler.mix64(states)] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


@pytest.mark.parametrize(("batch_size", "world"), [(1, 1), (32, 1), (7, 3), (50, 4)])
def test_every_sample_comes_once_an_epoch_whatever_the_batch_size_and_the_ranks(batch_size: int, world: int) -> None:
    size, epochs = 101, 3
    seen: list[int] = []
    first = 0
    while len(seen) < size * epochs:  # the ranks' batches of a step lie side by side
        for _ in range(world):
            seen += sampler.permuted(5, first=first, count=batch_size, size=size).tolist()
            first += batch_size
    assert seen[:size] != seen[size : 2 * size]  # the epochs have orders of their own
    for epoch in range(epochs):
        assert sorted(seen[epoch * size : (epoch + 1) * size]) == list(range(size))
    assert seen[: size * epochs] == sampler.permuted(5, first=0, count=size * epochs, size=size).tolist()


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(sampler.order(seed, epoch, 50)) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    assert tuple(range(50)) not in orders


def test_windows_are_the_same_however_they_are_asked_for_and_evenly_spread() -> None:
    whole = sampler.windows(3, first=0, count=40_000, starts=1000)
    parts = [sampler.windows(3, first=first, count=100, starts=1000) for first in range(0, 40_000, 100)]
    assert np.array_equal(whole, np.concatenate(parts))
    counts = np.bincount(whole, minlength=1000)
    assert counts.size == 1000  # all are within 0 .. 999
    chi_squared = ((counts - 40) ** 2 / 40).sum()
    assert 999 - 5 * 44.7 < chi_squared < 999 + 5 * 44.7  # mean 999, deviation sqrt(2 * 999)
    assert not np.array_equal(whole, sampler.windows(4, first=0, count=40_000, starts=1000))


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> images.Images:
    return images.load("digits", size=32, root=ROOT)


def test_digits_are_1437_and_360_images_of_ten_classes(digits: images.Images) -> None:
    assert digits.train_x.shape == (1437, 1, 32, 32)
    assert digits.held_x.shape == (360, 1, 32, 32)
    assert digits.train_x.dtype == digits.held_x.dtype == torch.float32
    assert digits.train_y.dtype == digits.held_y.dtype == torch.int64
    assert digits.classes == 10


def test_no_held_out_digit_is_trained_on_and_each_class_gives_its_share(digits: images.Images) -> None:
    trained = {image.numpy().tobytes() for image in digits.train_x}
    assert not any(image.numpy().tobytes() in trained for image in digits.held_x)
    share = torch.bincount(digits.held_y) / torch.bincount(torch.cat([digits.train_y, digits.held_y]))
    assert share.min() > 0.19
    assert share.max() < 0.21


def test_both_splits_are_normalized_with_the_training_images() -> None:
    from sklearn.datasets import load_digits

    plain = images.load("digits", size=8, root=ROOT)  # as they are, so that pixels can be traced
    assert plain.train_x.mean().abs() < 1e-5
    assert (plain.train_x.std() - 1).abs() < 1e-5
    both = torch.cat([plain.train_x, plain.held_x])
    levels = (both - both.min()) / (both.max() - both.min()) * 16  # one affine map for both gives back 0 .. 16
    assert (levels - levels.round()).abs().max() < 1e-3
    raw = {bytes(picture.astype(np.uint8)) for picture in load_digits().images}
    assert {bytes(picture.round().to(torch.uint8).numpy()) for picture in levels} == raw


def test_the_fingerprint_tells_sizes_apart_and_repeats(digits: images.Images) -> None:
    assert digits.fingerprint == images.load("digits", size=32, root=ROOT).fingerprint
    assert digits.fingerprint != images.load("digits", size=16, root=ROOT).fingerprint


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"DATASET=digit: .*digits, mnist"):
        images.load("digit", size=32, root=ROOT)
    with pytest.raises(DataError, match=r"DATASET=web: .*stdlib, finewebedu"):
        text.load("web", mib=1, root=ROOT)


# --- text -----------------------------------------------------------------------------------------------------------


def test_the_standard_library_is_held_out_by_whole_files() -> None:
    library = text.load("stdlib", mib=None, root=ROOT)
    train, held = (bytes(split).split(b"\0")[:-1] for split in (library.train, library.held))
    library_folder = Path(sysconfig.get_paths()["stdlib"], "email")
    sources = {path.read_bytes() for path in library_folder.glob("*.py")}
    assert len(sources) > 10
    assert sources <= set(train) | set(held)
    assert not {file for file in held if len(file) > 200} & set(train)
    assert 0.03 < len(library.held) / (len(library.train) + len(library.held)) < 0.2
    assert library.vocabulary == 256


def test_the_standard_library_repeats_and_leaves_out_installed_packages_and_tests() -> None:
    first, second = (text.load("stdlib", mib=None, root=ROOT) for _ in range(2))
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.held, second.held)
    assert len(first.train) + len(first.held) < 20 * text.MIB
    assert Path(np.__file__).read_bytes() not in bytes(first.train) + bytes(first.held)


# --- the hub --------------------------------------------------------------------------------------------------------


def loaded(dataset: str, root: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """Load `dataset` in a process of its own: the client reads its settings at import. Leaves `root`/loaded.npz."""
    call = f"images.load('{dataset}', size=32" if dataset == "mnist" else f"text.load('{dataset}', mib=1"
    fields = ("train_x", "train_y", "held_x", "held_y") if dataset == "mnist" else ("train", "held")
    code = f"""
import numpy, pathlib, sys
sys.path[0] = {str(ROOT)!r}
from lib.data import DataError, images, text
try:
    data = {call}, root=pathlib.Path({str(root)!r}))
except DataError as fault:
    sys.exit(f"error: {{fault}}")
numpy.savez({str(root / "loaded.npz")!r}, **{{name: getattr(data, name) for name in {fields}}})
print(data.fingerprint)
"""
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(root / "hf"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def arrays(root: Path) -> Mapping[str, NDArray[np.float32]]:
    with np.load(root / "loaded.npz") as file:
        return dict(file)


def test_mnist_comes_from_the_hub_once_with_its_own_test_images_held_out(tmp_path: Path) -> None:
    with hub.Hub({"ylecun/mnist": hub.mnist(train=60, test=20)}) as served:
        first = loaded("mnist", tmp_path, served.endpoint)
        assert first.returncode == 0, first.stderr
    assert any(path.endswith(".parquet") for _, path in served.requests)
    data = arrays(tmp_path)
    assert data["train_x"].shape == (60, 1, 32, 32)
    assert data["held_x"].shape == (20, 1, 32, 32)
    assert data["train_y"].tolist() == [number % 10 for number in range(60)]
    assert data["held_y"].tolist() == [number % 10 for number in range(60, 80)]
    black, step = data["train_x"][0, 0, 0, 0], data["train_x"][1, 0, 16, 16] - data["train_x"][0, 0, 16, 16]
    assert np.allclose(data["train_x"][:, 0, :2], black)  # a border of two pixels
    assert np.allclose(data["held_x"][:, 0, 16, 16], black + step * np.arange(60, 80), atol=1e-5)  # normalized alike
    again = loaded("mnist", tmp_path, NO_HUB)  # the server is gone by now
    assert (again.returncode, again.stdout) == (0, first.stdout)


@pytest.mark.parametrize(("dataset", "instead"), [("mnist", "DATASET=digits"), ("finewebedu", "DATASET=stdlib")])
def test_a_hub_that_is_not_there_is_one_line_at_once(tmp_path: Path, dataset: str, instead: str) -> None:
    started = time.monotonic()
    result = loaded(dataset, tmp_path, NO_HUB)
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 1
    assert f"can't be read from {NO_HUB} (" in result.stderr
    assert instead in result.stderr
    assert time.monotonic() - started < 15
    assert not [path for path in (tmp_path / "data").iterdir() if path.suffix != ".lock"]


def test_a_hub_without_the_data_set_is_one_line(tmp_path: Path) -> None:
    with hub.Hub({}) as served:
        result = loaded("mnist", tmp_path, served.endpoint)
    assert result.returncode == 1
    assert "ylecun/mnist" in result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_finewebedu_is_streamed_once_cut_to_size_and_held_out_by_document(tmp_path: Path) -> None:
    documents = [f"Document {number % 75}: näher. " * 400 for number in range(200)]  # 2 MiB; the first MiB repeats some
    with hub.Hub({"HuggingFaceFW/fineweb-edu": hub.fineweb_edu(documents)}) as served:
        first = loaded("finewebedu", tmp_path, served.endpoint)
        assert first.returncode == 0, first.stderr
        asked = len(served.requests)
        again = loaded("finewebedu", tmp_path, served.endpoint)
        assert len(served.requests) == asked  # the second load does not touch the hub
    assert (again.returncode, again.stdout) == (0, first.stdout)
    data = {name: array.tobytes() for name, array in arrays(tmp_path).items()}
    assert len(data["train"]) + len(data["held"]) == text.MIB
    train, held = (data[name].split(b"\0") for name in ("train", "held"))
    whole = {document.encode() for document in documents}
    assert not set(train) & set(held) - {b""}
    assert sum(document not in whole | {b""} for document in train + held) == 1  # the last one, cut
    assert 0.03 < len(data["held"]) / text.MIB < 0.2
    meta = json.loads((tmp_path / "data" / "finewebedu-1mib" / "meta.json").read_text())
    assert meta["held"]["sha256"] == hashlib.sha256(data["held"]).hexdigest()


def test_a_damaged_copy_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "finewebedu-1mib"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(json.dumps({"train": {"bytes": 9}, "held": {"bytes": 9}}))
    (folder / "train.bin").write_bytes(b"short")
    with pytest.raises(DataError, match=r"train.bin: 5 bytes where 9 were written. Delete"):
        text.load("finewebedu", mib=1, root=tmp_path)


def whole(part: Path) -> None:
    (part / "new").write_text("whole")


def test_a_torn_download_never_looks_complete(tmp_path: Path) -> None:
    def torn(part: Path) -> None:
        (part / "new").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "text"
    with pytest.raises(DataError, match=r"text: can't be written \(.*No space left on device\)"):
        made_once(folder, torn)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    made_once(folder, whole)
    assert (folder / "new").read_text() == "whole"


def test_what_a_killed_download_left_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "text.part").mkdir()
    (tmp_path / "text.part" / "old").write_text("half")
    folder = made_once(tmp_path / "text", whole)
    assert [path.name for path in folder.iterdir()] == ["new"]


def test_processes_that_ask_together_make_it_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(part: Path) -> None:
        made.append(part)
        time.sleep(0.1)
        (part / "file").write_text("whole")

    askers = [threading.Thread(target=made_once, args=(tmp_path / "text", make)) for _ in range(4)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert len(made) == 1
    assert (tmp_path / "text" / "file").read_text() == "whole"
