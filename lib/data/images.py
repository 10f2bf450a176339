"""Images to classify, as bytes in memory or mapped from disk: digits, which scikit-learn ships, and others.

MNIST and CIFAR come from the Hugging Face hub, as does any data set there with a column of pictures and one of labels;
a folder with a subfolder for each class, and parquet files, are read alike.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lib import files
from lib.data import DataError, documents, hub, pictures, sampler
from lib.data.pictures import Opened, Pixels, Raw
from lib.data.store import unmade

LENET_SIZE = 32  # pixels: MNIST's 28 get a black border up to here, as in LeCun et al. (1998), section II.B
WHITE = 255
DIGITS_WHITE = 16  # the value of a white pixel in the digits
MOVES = 1 << 32  # the stream of random numbers that move and flip images; those of the epochs are below
AT_ONCE = 4096  # images
INSTEAD = "DATASET=digits, which needs no download"


class _Published(NamedTuple):
    """Images on the hub, all of `size` x `size` pixels."""

    repository: str
    label: str
    size: int


PUBLISHED = {
    "mnist": _Published("ylecun/mnist", "label", 28),  # LeCun et al. (1998): 60,000 and 10,000 test images
    "cifar10": _Published("uoft-cs/cifar10", "label", 32),  # Krizhevsky (2009): 50,000 and 10,000 test images
    "cifar100": _Published("uoft-cs/cifar100", "fine_label", 32),
}
NAMES = ("digits", *PUBLISHED, "hub", "local")


@dataclass(frozen=True)
class Source:
    """Which images; each field is the symbol of that name."""

    dataset: str
    dataset_name: str = ""  # owner/name[:configuration] on the hub
    dataset_column: str = ""  # of the labels; "": the only one there is
    dataset_path: str = ""
    dataset_augment: bool = False  # move and flip training images


@dataclass(frozen=True)
class Images:
    """N training and M held-out images, none in both; C is 1 for grey pictures and 3 for coloured ones."""

    train_x: Tensor  # (N, C, size, size) uint8
    train_y: Tensor  # (N,) int64
    held_x: Tensor  # (M, C, size, size) uint8
    held_y: Tensor  # (M,) int64
    classes: int
    fingerprint: str  # sha256 (hex) of pixels, labels and size
    mean: Tensor = field(default_factory=lambda: torch.zeros(()))  # (C, 1, 1) of the training pixels
    deviation: Tensor = field(default_factory=lambda: torch.ones(()))  # (C, 1, 1)
    augment: bool = False
    _there: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def channels(self) -> int:
        return self.train_x.shape[1]

    def normalized(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) as float32, shifted and scaled as gives the training images mean 0 and deviation 1."""
        if x.device not in self._there:  # copied there once: a copy in each step would be waited for
            self._there[x.device] = (self.mean.to(x.device), self.deviation.to(x.device))
        mean, deviation = self._there[x.device]
        return (x.float() - mean) / deviation

    def for_training(self, x: Tensor, *, seed: int, first: int) -> Tensor:
        """`normalized` images (B, C, H, W) of the samples from number `first` on, moved and flipped if that is on."""
        return self.normalized(augmented(x, seed=seed, first=first) if self.augment else x)


def load(source: Source, *, size: int, root: Path) -> Images:
    """The images of `source` at `size` x `size` pixels; what is not under `root`/data yet is read first.

    Raises:
        DataError: no such images, or they can't be read.
    """
    raw = _digits() if source.dataset == "digits" else pictures.kept(prepared(source, size=size, root=root))
    if source.dataset == "mnist":
        raw = raw._replace(train_x=_bordered(raw.train_x), held_x=_bordered(raw.held_x))
    train_x = _sized(raw.train_x, size)  # (N, C, h, w) -> (N, C, size, size)
    mean, deviation = _moments(train_x)
    return Images(
        train_x=train_x,
        train_y=torch.from_numpy(raw.train_y),
        held_x=_sized(raw.held_x, size),
        held_y=torch.from_numpy(raw.held_y),
        classes=int(max(raw.train_y.max(), raw.held_y.max())) + 1,
        fingerprint=hashlib.sha256(f"size {size} {raw.digest}".encode()).hexdigest(),
        mean=mean,
        deviation=deviation,
        augment=source.dataset_augment,
    )


def augmented(x: Tensor, *, seed: int, first: int) -> Tensor:
    """Images (B, C, H, W) moved by up to an eighth, black where nothing comes in, and half of them flipped.

    As CIFAR's are since He et al. (2015), section 4.2. How one is changed depends on the seed and on the number of the
    sample alone; these are the samples from number `first` on.
    """
    count, _, height, width = x.shape
    reach = height // 8  # 4 of 32 pixels
    drawn = sampler.draws(seed, MOVES, np.arange(first, first + count))  # (B,) of 64 random bits
    span = np.uint64(2 * reach + 1)
    flips, halves = drawn & np.uint64(1), (drawn >> np.uint64(1) & np.uint64(0x7FFFFFFF), drawn >> np.uint64(32))
    flip, down, right = (torch.from_numpy(part.astype(np.int64)) for part in (flips, *(half % span for half in halves)))
    rows = down[:, None] + torch.arange(height)  # (B, H): of the bordered image
    along = torch.arange(width)
    columns = right[:, None] + torch.where(flip[:, None] == 1, along.flip(0), along)  # (B, W)
    bordered = F.pad(x, (reach, reach, reach, reach))  # -> (B, C, H + 2 reach, W + 2 reach)
    every, rows, columns = (sent(index, x.device) for index in (torch.arange(count), rows, columns))
    moved = bordered[every[:, None, None], :, rows[:, :, None], columns[:, None, :]]  # -> (B, H, W, C)
    return moved.permute(0, 3, 1, 2).contiguous()  # -> (B, C, H, W)


def sent(values: Tensor, device: torch.device) -> Tensor:
    """`values` of the CPU on `device`, without waiting for what it does."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def prepared(source: Source, *, size: int, root: Path) -> Path:
    """The folder with the arrays of `source`, made if it is not there. Raises DataError as `load` does."""
    data = root / "data"
    if source.dataset in PUBLISHED:
        it = PUBLISHED[source.dataset]
        return pictures.read(data / f"{source.dataset}-{it.size}px", _on_hub(it.repository, None, it.label), it.size)
    if source.dataset == "hub":
        opened = _on_hub(*hub.asked_for(source.dataset_name), source.dataset_column)
        name = source.dataset_name.replace("/", "--").replace(":", "-")
        return pictures.read(data / f"{name}{_named(source)}-{size}px", opened, size)
    if source.dataset == "local":
        place, there = documents.local(source.dataset_path, wanted="a folder with a subfolder for each class")
        tables = [path for path in there if path.suffix == ".parquet"]
        opened = _on_disk(place, tables, source.dataset_column)
        name = f"{place.stem}-{documents.listing(tables or there)}{_named(source)}"
        return pictures.read(data / f"{name}-{size}px", opened, size)
    raise DataError(f"DATASET={source.dataset}: not a set of images. Use one of: {', '.join(NAMES)}")


def _named(source: Source) -> str:
    """The part of a folder's name that tells labels apart."""
    return f"-{source.dataset_column}".replace("/", "--") if source.dataset_column else ""


def check(source: Source, *, size: int, root: Path) -> str:
    """Prepare the images of `source`, compare them with their hashes, mend what is damaged; a line of what is there."""
    where, mended = "in scikit-learn", ""
    if source.dataset != "digits":
        folder = prepared(source, size=size, root=root)
        if wrong := pictures.damage(folder):
            unmade(folder)
            folder, mended = prepared(source, size=size, root=root), f", mended: {wrong}"
        where = files.shown(folder, root)
    images = load(source, size=size, root=root)
    return (
        f"{where}: {len(images.train_x):,} images to train on, {len(images.held_x):,} held out, of {images.classes} "
        f"classes; sha256 {images.fingerprint}{mended}"
    )


def _on_hub(repository: str, config: str | None, label: str) -> Opened:
    guarded = partial(hub.readable, repository, instead=INSTEAD)
    return Opened(partial(hub.load, repository, config, instead=INSTEAD), guarded, label)


def _on_disk(place: Path, tables: list[Path], label: str) -> Opened:
    """Parquet files where there are any, test-… or validation-… held out; else pictures in folders."""
    table = partial(hub.local, "parquet", tables) if tables else partial(hub.local, "imagefolder", [place])
    return Opened(table, partial(hub.read_from, f"DATASET_PATH={place}"), label)


def _digits() -> Raw:
    """1,797 digits of 8x8 pixels and 17 grey levels (UCI optdigits): 1,437 to train on and 360 held out."""
    package = importlib.util.find_spec("sklearn")  # its file alone: the package takes a second to import
    if package is None or package.origin is None:
        raise DataError("DATASET=digits: scikit-learn, which ships them, is not installed. pip install scikit-learn")
    table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",", dtype=int)
    greys = table[:, :-1].reshape(-1, 1, 8, 8)  # (N, 64) -> (N, 1, 8, 8)
    pixels = np.rint(greys * (WHITE / DIGITS_WHITE)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return pictures.divided(Raw(pixels, labels, pixels[:0], labels[:0], digest))


def _bordered(pixels: Pixels) -> Pixels:
    border = (LENET_SIZE - pixels.shape[-1]) // 2
    return np.pad(pixels, ((0, 0), (0, 0), (border, border), (border, border)))  # (N, 1, 28, 28) -> (N, 1, 32, 32)


def _sized(pixels: Pixels, size: int) -> Tensor:
    """Scaled to (N, C, size, size), some at a time: as floats they take four times the memory."""
    images = torch.from_numpy(pixels)
    if images.shape[-2:] == (size, size):
        return images
    scaled = torch.empty(*images.shape[:2], size, size, dtype=torch.uint8)
    for first in range(0, len(images), AT_ONCE):
        some = images[first : first + AT_ONCE].float()
        some = F.interpolate(some, (size, size), mode="bilinear", antialias=True)  # (n, C, h, w) -> (n, C, size, size)
        scaled[first : first + AT_ONCE] = some.round_()
    return scaled


def _moments(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C, 1, 1) of the pixels of (N, C, H, W), per channel."""
    sums = torch.zeros(2, images.shape[1], dtype=torch.float64)
    for first in range(0, len(images), AT_ONCE):
        some = images[first : first + AT_ONCE].double()
        sums += torch.stack([some.sum((0, 2, 3)), some.square().sum((0, 2, 3))])
    mean, square = sums / (images.numel() / images.shape[1])
    deviation = (square - mean.square()).sqrt().clamp(min=1e-6)
    return mean.float()[:, None, None], deviation.float()[:, None, None]  # (C,) -> (C, 1, 1)
