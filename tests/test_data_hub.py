"""Data sets of the Hugging Face hub, read from a hub on the loopback interface: what comes, and what goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hub
import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
NO_HUB = "http://127.0.0.1:9"  # the discard port: nobody answers
FINEWEBEDU = "text.load(text.Source('finewebedu', dataset_mib=1), root=HOME)"
MNIST = "images.load(images.Source('mnist'), size=32, root=HOME)"
CODE = """
import numpy, pathlib, sys, time
sys.path[0] = {root!r}
from lib.data import DataError, images, shards, text
HOME = pathlib.Path({home!r})
{before}
for call in {calls!r}:
    try:
        data = eval(call)
    except DataError as fault:
        print("error:", fault)
        continue
    names = [name for name in ("train", "held", "train_x", "train_y", "held_x", "held_y") if hasattr(data, name)]
    numpy.savez(HOME / "loaded.npz", **{{name: numpy.asarray(getattr(data, name)) for name in names}})
    print(data.fingerprint)
"""


def started(home: Path, endpoint: str, *calls: str, before: str = "") -> subprocess.Popen[str]:
    """Load in a process of its own: the hub's client reads its settings at import."""
    code = CODE.format(root=str(ROOT), calls=calls, home=str(home), before=before)
    environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_OFFLINE": "0"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def loaded(home: Path, endpoint: str, *calls: str, before: str = "") -> list[str]:
    """The fingerprint or the error of each call; the last one's data are in `home`/loaded.npz."""
    process = started(home, endpoint, *calls, before=before)
    said, complaints = process.communicate(timeout=120)
    assert process.returncode == 0, complaints
    assert "Traceback" not in complaints
    return said.splitlines()


def asked(served: hub.Hub) -> int:
    """How often the hub was asked for a data set."""
    return served.requests.count(("HEAD", "/"))


def arrays(home: Path) -> Mapping[str, NDArray[Any]]:
    with np.load(home / "loaded.npz") as file:
        return dict(file)


def documents(home: Path) -> list[set[bytes]]:
    """The documents of the training and of the held-out text, as bytes."""
    data = arrays(home)
    return [set(data[split].tobytes().split(b"\0")) - {b""} for split in ("train", "held")]


# --- images ---------------------------------------------------------------------------------------------------------


def test_mnist_comes_once_with_its_own_test_images_held_out(tmp_path: Path) -> None:
    with hub.Hub({"ylecun/mnist": hub.mnist(train=60, test=20)}) as served:
        first, again = loaded(tmp_path, served.endpoint, MNIST, MNIST)
    assert asked(served) == 1
    assert again == first
    data = arrays(tmp_path)
    assert data["train_x"].shape == (60, 1, 32, 32)
    assert data["held_x"].shape == (20, 1, 32, 32)
    assert data["train_y"].tolist() == [number % 10 for number in range(60)]
    assert data["held_y"].tolist() == [number % 10 for number in range(60, 80)]
    assert data["train_x"][:, 0, 16, 16].tolist() == list(range(60))
    assert data["held_x"][:, 0, 16, 16].tolist() == list(range(60, 80))
    assert not data["train_x"][:, 0, :2].any()  # a border of two pixels


def test_cifar100_has_colours_and_a_hundred_classes(tmp_path: Path) -> None:
    with hub.Hub({"uoft-cs/cifar100": hub.cifar100(train=150, test=40)}) as served:
        loaded(tmp_path, served.endpoint, "images.load(images.Source('cifar100'), size=32, root=HOME)")
    data = arrays(tmp_path)
    assert data["train_x"].shape == (150, 3, 32, 32)
    assert data["train_x"][120, :, 5, 5].tolist() == [120, 0, 135]
    assert data["train_y"].tolist() == [number % 100 for number in range(150)]
    assert data["held_y"].tolist() == [number % 100 for number in range(150, 190)]


def test_any_set_of_images_can_be_named(tmp_path: Path) -> None:
    source = "images.Source('hub', 'someone/pictures:cifar100', '{}')"
    calls = [f"images.load({source.format(column)}, size=16, root=HOME)" for column in ("", "coarse_label")]
    with hub.Hub({"someone/pictures": hub.cifar100(train=20, test=10)}) as served:
        unclear, _ = loaded(tmp_path, served.endpoint, *calls)
    assert unclear.startswith("error: DATASET_COLUMN is empty")
    assert unclear.endswith("Use one of: fine_label, coarse_label")
    assert arrays(tmp_path)["train_x"].shape == (20, 3, 16, 16)
    assert (tmp_path / "data" / "someone--pictures-cifar100-coarse_label-16px").is_dir()


# --- text -----------------------------------------------------------------------------------------------------------


def test_finewebedu_is_streamed_once_up_to_its_limit_and_held_out_by_document(tmp_path: Path) -> None:
    texts = [f"Document {number % 75}: näher. " * 400 for number in range(200)]  # 2 MiB; the first MiB repeats some
    with hub.Hub({"HuggingFaceFW/fineweb-edu": hub.fineweb_edu(texts)}) as served:
        first, again = loaded(tmp_path, served.endpoint, FINEWEBEDU, FINEWEBEDU)
    assert asked(served) == 1
    assert again == first
    train, held = documents(tmp_path)
    assert train | held <= {text.encode() for text in texts}
    assert not train & held
    data = arrays(tmp_path)
    size = len(data["train"]) + len(data["held"])
    assert 1 << 20 <= size < (1 << 20) + len(texts[-1].encode()) + 1
    assert 0.03 < len(data["held"]) / size < 0.2


def test_a_data_set_that_is_a_script_is_read_from_the_hubs_own_copy_and_the_script_does_not_run(tmp_path: Path) -> None:
    play = "".join(f"Line {number} of the play.\n" for number in range(20_000))
    with hub.Hub(hub.scripted("karpathy/tiny_shakespeare", [play])) as served:
        loaded(tmp_path, served.endpoint, "text.load(text.Source('shakespeare'), root=HOME)")
    train, held = documents(tmp_path)
    assert sum(map(len, train)) + sum(map(len, held)) == len(play)
    assert all(passage.endswith(b"\n") for passage in train | held)
    assert len(held) > 1


def test_any_text_can_be_named_and_its_missing_column_is_one_line(tmp_path: Path) -> None:
    stories = [f"Story {number} " * 20 for number in range(200)]
    source = "text.Source('hub', dataset_name='someone/stories', dataset_column='{}')"
    calls = [f"text.load({source.format(column)}, root=HOME)" for column in ("text", "story")]
    with hub.Hub({"someone/stories": hub.stories(stories, column="story")}) as served:
        missing, _ = loaded(tmp_path, served.endpoint, *calls)
    assert missing.startswith("error: DATASET_COLUMN=text: ")
    assert missing.endswith("Use one of: story")
    train, held = documents(tmp_path)
    assert train | held == {story.encode() for story in stories}


@pytest.mark.slow
def test_a_killed_download_does_not_begin_again(tmp_path: Path) -> None:
    texts = [f"Document {number} näher. " * 40 for number in range(900)]
    small = "shards.SHARD_BYTES = 10_000\n"
    slow = "fast = shards._stretches\nshards._stretches = lambda *block: (time.sleep(0.03), fast(*block))[1]\n"
    calls = [f"text.load(text.Source('finewebedu', num_workers=1), root={root})" for root in ("HOME", "HOME / 'new'")]
    with hub.Hub({"HuggingFaceFW/fineweb-edu": hub.fineweb_edu(texts, files=3)}) as served:
        process = started(tmp_path, served.endpoint, calls[0], before=small + slow)
        until = time.monotonic() + 90
        while process.poll() is None and time.monotonic() < until:
            lines = b"".join(path.read_bytes() for path in tmp_path.glob("data/*.part/shards.jsonl"))
            if lines.count(b"\n") >= 65:  # of 86, 29 in each file
                process.send_signal(signal.SIGKILL)
            time.sleep(0.002)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        before = [path for method, path in served.requests if method == "GET"]
        resumed, undisturbed = loaded(tmp_path, served.endpoint, *calls, before=small)
    assert resumed == undisturbed
    after = [path for method, path in served.requests if method == "GET"][len(before) :]
    reads = [sum(path.endswith("000_00000.parquet") for path in paths) for paths in (before, after)]
    assert reads[1] < 2 * reads[0]  # the undisturbed one reads the first file, the resumed one asks for its columns


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_a_hub_that_is_not_there_is_one_line_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    for line, instead in zip(loaded(tmp_path, NO_HUB, MNIST, FINEWEBEDU), ("digits", "stdlib"), strict=True):
        assert f"can't be read from {NO_HUB} (" in line
        assert f"DATASET={instead}, which needs no download" in line
    assert time.monotonic() - began < 25
    assert not [path for path in (tmp_path / "data").iterdir() if path.suffix not in (".lock", ".part")]


def test_a_hub_without_the_data_set_is_one_line(tmp_path: Path) -> None:
    with hub.Hub({}) as served:
        (line,) = loaded(tmp_path, served.endpoint, MNIST)
    assert line.startswith("error: ylecun/mnist: can't be read")
