"""Images to classify, in memory: digits, which scikit-learn ships, and MNIST from the Hugging Face hub."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from lib.data import DataError, hub
from lib.data.sampler import order
from lib.data.store import made_once

Pixels = NDArray[np.uint8]
HELD_OUT_EVERY = 5  # one digit in five is held out
LENET_SIZE = 32  # pixels: MNIST's 28 get a black border up to here, as in LeCun et al. (1998), section II.B
DIGITS_WHITE, MNIST_WHITE = 16, 255  # pixel value that becomes 1.0


@dataclass(frozen=True)
class Images:
    """N training and M held-out images, none in both; normalized with the training images' mean and deviation."""

    train_x: Tensor  # (N, 1, size, size) float32
    train_y: Tensor  # (N,) int64
    held_x: Tensor  # (M, 1, size, size) float32
    held_y: Tensor  # (M,) int64
    classes: int
    fingerprint: str  # sha256 (hex) of pixels, labels and size


@dataclass(frozen=True)
class _Source:
    """Pixels and labels as they came: (N, H, W) and (N,) bytes of each split."""

    train_x: Pixels
    train_y: Pixels
    held_x: Pixels
    held_y: Pixels
    white: int


def load(name: str, *, size: int, root: Path) -> Images:
    """The data set `name` ("digits" or "mnist") at `size` x `size` pixels; what it downloads is kept under `root`/data.

    Raises:
        DataError: no such data set, or the hub can't be reached.
    """
    if name not in SOURCES:
        raise DataError(f"DATASET={name}: not a set of images. Use one of: {', '.join(SOURCES)}")
    source = SOURCES[name](root)
    train_x = _enlarged(source.train_x, size) / source.white  # (N, h, w) -> (N, 1, size, size)
    held_x = _enlarged(source.held_x, size) / source.white
    deviation, mean = torch.std_mean(train_x)
    return Images(
        train_x=train_x.sub_(mean).div_(deviation),
        train_y=torch.from_numpy(source.train_y).long(),
        held_x=held_x.sub_(mean).div_(deviation),
        held_y=torch.from_numpy(source.held_y).long(),
        classes=int(source.train_y.max()) + 1,
        fingerprint=_fingerprint(source, size),
    )


def _digits(root: Path) -> _Source:
    """1,797 digits of 8x8 pixels and 17 grey levels (UCI optdigits): 1,437 to train and 360 held out.

    Held out is every fifth image when they are sorted by class and shuffled within it, so that each class gives its
    share; the same ones for every seed.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels, labels = digits.images.astype(np.uint8), digits.target.astype(np.uint8)
    shuffled = order(0, 0, len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    held_out = by_class[::HELD_OUT_EVERY]
    train = np.setdiff1d(by_class, held_out)
    return _Source(pixels[train], labels[train], pixels[held_out], labels[held_out], DIGITS_WHITE)


def _mnist(root: Path) -> _Source:
    """MNIST (LeCun et al. 1998): 60,000 images to train, its own 10,000 test images held out; 28x28, bordered to 32."""
    folder = made_once(root / "data" / "mnist", _download_mnist)
    train_x, train_y, test_x, test_y = (
        np.load(folder / f"{name}.npy") for name in ("train_x", "train_y", "test_x", "test_y")
    )
    return _Source(_bordered(train_x), train_y, _bordered(test_x), test_y, MNIST_WHITE)


def _bordered(pixels: Pixels) -> Pixels:
    border = (LENET_SIZE - pixels.shape[-1]) // 2
    return np.pad(pixels, ((0, 0), (border, border), (border, border)))  # (N, 28, 28) -> (N, 32, 32)


def _download_mnist(folder: Path) -> None:
    instead = "DATASET=digits, which needs no download"
    for split in ("train", "test"):
        rows = hub.load("ylecun/mnist", split=split, instead=instead)
        with hub.readable("ylecun/mnist", instead=instead):
            pixels = np.stack(
                [np.asarray(image, np.uint8) for image in tqdm(rows["image"], f"MNIST {split}", disable=None)]
            )
            np.save(folder / f"{split}_x.npy", pixels)
            np.save(folder / f"{split}_y.npy", np.asarray(rows["label"], np.uint8))


SOURCES: dict[str, Callable[[Path], _Source]] = {"digits": _digits, "mnist": _mnist}


def _enlarged(pixels: Pixels, size: int) -> Tensor:
    images = torch.from_numpy(pixels).float().unsqueeze(1)  # (N, h, w) -> (N, 1, h, w)
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)  # -> (N, 1, size, size)


def _fingerprint(source: _Source, size: int) -> str:
    digest = hashlib.sha256(f"size {size}".encode())
    for array in (source.train_x, source.train_y, source.held_x, source.held_y):
        digest.update(str(array.shape).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
