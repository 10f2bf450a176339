"""Images and batches: what is in a data set, what is held out, how images are changed, which samples make a batch."""

from __future__ import annotations

import errno
import io
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lib.data import DataError, images, sampler, text
from lib.data.images import Images, Source
from lib.data.store import made_once

ROOT = Path(__file__).resolve().parents[1]
DIGITS = Source("digits")


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
    whole = sampler.windows(3, np.arange(40_000), starts=1000)
    parts = [sampler.windows(3, np.arange(first, first + 100), starts=1000) for first in range(0, 40_000, 100)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert np.array_equal(whole.reshape(200, 200), sampler.windows(3, np.arange(40_000).reshape(200, 200), starts=1000))
    counts = np.bincount(whole, minlength=1000)
    assert counts.size == 1000  # all are within 0 .. 999
    chi_squared = ((counts - 40) ** 2 / 40).sum()
    assert 999 - 5 * 44.7 < chi_squared < 999 + 5 * 44.7  # mean 999, deviation sqrt(2 * 999)
    assert not np.array_equal(whole, sampler.windows(4, np.arange(40_000), starts=1000))


# --- images ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits() -> Images:
    return images.load(DIGITS, size=32, root=ROOT)


def test_digits_are_1437_and_360_grey_images_of_ten_classes(digits: Images) -> None:
    assert digits.train_x.shape == (1437, 1, 32, 32)
    assert digits.held_x.shape == (360, 1, 32, 32)
    assert digits.train_x.dtype == digits.held_x.dtype == torch.uint8
    assert digits.train_y.dtype == digits.held_y.dtype == torch.int64
    assert (digits.classes, digits.channels) == (10, 1)


def test_no_held_out_digit_is_trained_on_and_each_class_gives_its_share(digits: Images) -> None:
    trained = {image.numpy().tobytes() for image in digits.train_x}
    assert not any(image.numpy().tobytes() in trained for image in digits.held_x)
    share = torch.bincount(digits.held_y) / torch.bincount(torch.cat([digits.train_y, digits.held_y]))
    assert share.min() > 0.19
    assert share.max() < 0.21


def test_the_digits_are_those_of_the_package() -> None:
    from sklearn.datasets import load_digits

    plain = images.load(DIGITS, size=8, root=ROOT)  # as they are, so that pixels can be traced
    levels = torch.cat([plain.train_x, plain.held_x]).float() / 255 * 16  # back to 0 .. 16
    assert (levels - levels.round()).abs().max() < 0.05
    raw = {bytes(picture.astype(np.uint8)) for picture in load_digits().images}
    assert {bytes(picture.round().to(torch.uint8).numpy()) for picture in levels} == raw


def test_both_splits_are_normalized_with_the_training_images_channel_by_channel() -> None:
    x = torch.randint(0, 256, (50, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    x[:, 1] //= 8
    mean, deviation = images._moments(x)
    data = Images(x, x[:, 0, 0, 0].long(), x, x[:, 0, 0, 0].long(), 256, "", mean=mean, deviation=deviation)
    normal = data.normalized(x)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3))
    back = normal * deviation + mean
    torch.testing.assert_close(back, x.float())


def test_the_fingerprint_tells_sizes_apart_and_repeats(digits: Images) -> None:
    assert digits.fingerprint == images.load(DIGITS, size=32, root=ROOT).fingerprint
    assert digits.fingerprint != images.load(DIGITS, size=16, root=ROOT).fingerprint


def test_unknown_names_are_answered_with_the_known_ones() -> None:
    with pytest.raises(DataError, match=r"DATASET=digit: .*digits, mnist, cifar10, cifar100, hub, local"):
        images.load(Source("digit"), size=32, root=ROOT)
    with pytest.raises(DataError, match=r"DATASET=web: .*stdlib, shakespeare, .*finewebedu, hub, local"):
        text.load(text.Source("web"), root=ROOT)
    with pytest.raises(DataError, match="DATASET=hub: DATASET_NAME is empty"):
        images.load(Source("hub"), size=32, root=ROOT)


# --- images that move -----------------------------------------------------------------------------------------------


def numbered(count: int, size: int = 16) -> torch.Tensor:
    """Images (count, 1, size, size) whose every pixel differs from its neighbours, and none is black."""
    return (torch.arange(count * size * size).reshape(count, 1, size, size) % 251 + 1).to(torch.uint8)


def placed(image: torch.Tensor, down: int, right: int, flip: bool) -> torch.Tensor:
    """`image` (1, H, W) cut out of its black border, as one would write it for one image."""
    reach = image.shape[-1] // 8
    bordered = torch.nn.functional.pad(image, (reach,) * 4)
    cut = bordered[:, down : down + image.shape[1], right : right + image.shape[2]]
    return cut.flip(2) if flip else cut


def test_each_image_is_one_cut_of_itself_in_its_border_and_all_cuts_come() -> None:
    x = numbered(400)
    moved = images.augmented(x, seed=1, first=0)
    seen = set()
    for image, after in zip(x, moved, strict=True):
        every = {(d, r, f): placed(image, d, r, f) for d in range(5) for r in range(5) for f in (False, True)}
        found = [cut for cut, there in every.items() if torch.equal(there, after)]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) == 50  # 5 x 5 places, flipped or not


def test_how_an_image_moves_depends_on_seed_and_sample_alone() -> None:
    x = numbered(40)
    whole = images.augmented(x, seed=1, first=100)
    parts = [images.augmented(x[first : first + 7], seed=1, first=100 + first) for first in range(0, 40, 7)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, images.augmented(x, seed=2, first=100))
    assert not torch.equal(whole, images.augmented(x, seed=1, first=140))  # the next epoch


def test_only_training_images_move_and_only_when_asked(digits: Images) -> None:
    x = digits.train_x[:20]
    assert torch.equal(digits.for_training(x, seed=0, first=0), digits.normalized(x))
    moving = images.load(Source("digits", dataset_augment=True), size=32, root=ROOT)
    assert torch.equal(moving.for_training(x, seed=3, first=5), digits.normalized(images.augmented(x, seed=3, first=5)))
    assert torch.equal(moving.held_x, digits.held_x)


# --- images on this machine -----------------------------------------------------------------------------------------


def paint(path: Path, colour: tuple[int, int, int], shape: tuple[int, int] = (40, 30)) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", shape, colour).save(path)


def test_a_folder_with_a_subfolder_for_each_class_is_a_data_set(tmp_path: Path) -> None:
    for number in range(10):
        paint(tmp_path / "pets" / "cat" / f"{number}.png", (number, 100, 0))
        paint(tmp_path / "pets" / "dog" / f"{number}.png", (0, 100, number + 50), shape=(20, 50))
    source = Source("local", dataset_path=str(tmp_path / "pets"))
    data = images.load(source, size=16, root=tmp_path)
    assert data.train_x.shape == (16, 3, 16, 16)
    assert data.held_x.shape == (4, 3, 16, 16)
    assert data.held_y.tolist() == [0, 0, 1, 1]  # each class gives its share
    cats = torch.cat([data.train_x[data.train_y == 0], data.held_x[:2]])
    assert sorted(cats[:, 0, 8, 8].tolist()) == list(range(10))
    assert images.load(source, size=16, root=tmp_path).fingerprint == data.fingerprint
    paint(tmp_path / "pets" / "dog" / "10.png", (0, 100, 90))  # a folder that changes is read anew
    assert len(images.load(source, size=16, root=tmp_path).train_x) == 16
    assert len(images.load(source, size=16, root=tmp_path).held_x) == 5


def parquet(path: Path, colours: list[int]) -> None:
    """Grey pictures with a label each, as `datasets` writes them."""
    import datasets
    from PIL import Image

    features = datasets.Features({"picture": datasets.Image(), "kind": datasets.ClassLabel(num_classes=3)})
    rows = {"picture": [Image.new("L", (8, 8), colour) for colour in colours], "kind": [c % 3 for c in colours]}
    file = io.BytesIO()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(file)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(file.getvalue())


def test_parquet_files_are_a_data_set_and_those_named_test_are_held_out(tmp_path: Path) -> None:
    parquet(tmp_path / "tables" / "train-0.parquet", [0, 1, 2, 3])
    parquet(tmp_path / "tables" / "test-0.parquet", [4, 5])
    place = str(tmp_path / "tables")
    data = images.load(Source("local", dataset_path=place), size=8, root=tmp_path)
    assert data.train_x[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.held_x[:, 0, 0, 0].tolist() == [4, 5]
    assert (data.classes, data.channels, data.train_y.tolist()) == (3, 1, [0, 1, 2, 0])
    with pytest.raises(DataError, match=r"DATASET_COLUMN=breed: no such column. Use one of: kind"):
        images.load(
            Source("local", dataset_path=str(tmp_path / "tables"), dataset_column="breed"), size=9, root=tmp_path
        )


def test_tables_with_other_columns_are_one_line_with_the_reason(tmp_path: Path) -> None:
    import datasets

    parquet(tmp_path / "tables" / "train-0.parquet", [0, 1])
    datasets.Dataset.from_dict({"kind": [1], "breed": [2]}).to_parquet(str(tmp_path / "tables" / "train-1.parquet"))
    with pytest.raises(DataError, match=r"DATASET_PATH=.*: can't be read \(.* because column names don't match\)"):
        images.load(Source("local", dataset_path=str(tmp_path / "tables")), size=8, root=tmp_path)


def test_damaged_images_are_found_and_mended(tmp_path: Path) -> None:
    parquet(tmp_path / "tables" / "train.parquet", list(range(20)))
    source = Source("local", dataset_path=str(tmp_path / "tables"))
    good = images.check(source, size=8, root=tmp_path)
    assert "16 images to train on, 4 held out, of 3 classes" in good
    (pixels,) = tmp_path.glob("data/tables-*-8px/train_x.npy")
    pixels.write_bytes(pixels.read_bytes()[:-1] + b"?")
    assert images.check(source, size=8, root=tmp_path) == f"{good}, mended: train_x.npy does not have its hash"
    pixels.unlink()
    with pytest.raises(DataError, match="`make data` mends it"):
        images.load(source, size=8, root=tmp_path)


def test_a_place_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"DATASET_PATH=.*nowhere: not there"):
        images.load(Source("local", dataset_path=str(tmp_path / "nowhere")), size=8, root=tmp_path)
    with pytest.raises(DataError, match=r"DATASET_PATH=: not there"):
        images.load(Source("local"), size=8, root=tmp_path)


# --- what is made once ----------------------------------------------------------------------------------------------


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
