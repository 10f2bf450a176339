"""Pictures in a table of `datasets`, read once into arrays on disk: pixels and labels, to train on and held out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lib import files
from lib.data import DataError, hub, sampler
from lib.data.progress import Reading
from lib.data.store import made_once

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
HELD_OUT_EVERY = 5  # one image in five, where a data set brings none to hold out
DIGESTS = "sha256.json"


class Raw(NamedTuple):
    """Pixels (N, C, H, W) and labels (N,) of each split, and a sha256 (hex) of all."""

    train_x: Pixels
    train_y: Labels
    held_x: Pixels
    held_y: Labels
    digest: str


class Opened(NamedTuple):
    """How a table is opened; inside `guarded` its failures become a DataError. `label` names a column, or "" none."""

    table: Callable[[], Mapping[str, Any]]  # split -> `datasets.Dataset`, which has no types
    guarded: Callable[[], AbstractContextManager[None]]
    label: str


def read(folder: Path, opened: Opened, size: int) -> Path:
    """`folder` with the pictures at `size` x `size` pixels, read if it is not there."""
    return made_once(folder, lambda part: _fill(part, opened, size))


def kept(folder: Path) -> Raw:
    """What `read` has put into `folder`, the pixels mapped from disk."""
    digests = files.read_object(folder / DIGESTS)
    try:
        mapped = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in Raw._fields[:4])
        pixels, labels, held_pixels, held_labels = mapped  # c: torch wants arrays that can be written to
    except (OSError, ValueError) as failure:
        raise DataError(f"{folder}: can't be read ({failure}). `make data` mends it") from failure
    digest = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    return divided(Raw(pixels, labels, held_pixels, held_labels, digest))


def damage(folder: Path) -> str:
    """What is wrong with `folder`, in words; "" when each file has its hash."""
    digests = files.read_object(folder / DIGESTS) or {}
    changed = [name for name, digest in digests.items() if _sha256(folder / name) != digest]
    if not digests:
        return f"no {DIGESTS}"
    return f"{', '.join(changed)} does not have its hash" if changed else ""


def divided(raw: Raw) -> Raw:
    """`raw`; with nothing held out, every fifth image sorted by class and shuffled within it, whatever the seed.

    So each class gives its share.
    """
    if len(raw.held_y):
        return raw
    shuffled = sampler.order(0, 0, len(raw.train_y))
    by_class = shuffled[np.argsort(raw.train_y[shuffled], kind="stable")]
    held = by_class[::HELD_OUT_EVERY]
    train = np.setdiff1d(by_class, held)
    pixels, labels = raw.train_x, raw.train_y
    return Raw(pixels[train], labels[train], pixels[held], labels[held], raw.digest)


def _fill(part: Path, opened: Opened, size: int) -> None:
    """Write the arrays and their hashes into `part`."""
    with opened.guarded():
        table = opened.table()
        train = table["train"] if "train" in table else next(iter(table.values()))
        picture, label = _columns(train, opened.label)
        held = next((table[name] for name in hub.HELD_SPLITS if name in table and min(table[name][label]) >= 0), None)
        grey = _grey(train, picture)
        for name, rows in (("train", train), ("held", held if held is not None else train.select([]))):
            labels = np.asarray(rows[label], np.int64)
            np.save(part / f"{name}_y.npy", labels)
            _write(part / f"{name}_x.npy", rows.select_columns([picture]), picture, size=size, grey=grey)
    digests = {path.name: _sha256(path) for path in sorted(part.glob("*.npy"))}
    files.write_whole(part / DIGESTS, json.dumps(digests, indent=2) + "\n")


def _write(path: Path, rows: Any, picture: str, *, size: int, grey: bool) -> None:
    """The pictures of `rows` as one array (N, C, size, size): the shorter side scaled to `size`, the middle cut out."""
    from PIL import Image, ImageOps

    shape = (len(rows), 1 if grey else 3, size, size)
    if not len(rows):  # nothing can be mapped
        np.save(path, np.empty(shape, np.uint8))
        return
    pixels = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    with Reading(path.stem, len(rows), unit="image") as progress:
        for number, row in enumerate(rows):
            image = row[picture].convert("L" if grey else "RGB")
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)
            pixels[number] = np.asarray(image).reshape(size, size, -1).transpose(2, 0, 1)  # (H, W[, C]) -> (C, H, W)
            progress.add(1)
    pixels.flush()


def _columns(rows: Any, label: str) -> tuple[str, str]:
    """The names of the columns that hold pictures and labels."""
    import datasets

    kinds = rows.features
    pictures = [name for name, kind in kinds.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in kinds.items() if isinstance(kind, datasets.ClassLabel)]
    if not pictures:
        raise DataError(f"DATASET: no column of pictures among {', '.join(kinds)}. Use another data set")
    if label and label not in kinds:
        raise DataError(f"DATASET_COLUMN={label}: no such column. Use one of: {', '.join(labels or kinds)}")
    if not label and len(labels) != 1:
        choice = ", ".join(labels or (name for name in kinds if name not in pictures))
        raise DataError(
            f"DATASET_COLUMN is empty, and it is unclear which column holds the labels. Use one of: {choice}"
        )
    return pictures[0], label or labels[0]


def _grey(rows: Any, picture: str) -> bool:
    return rows[0][picture].mode in ("1", "L", "LA")


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
