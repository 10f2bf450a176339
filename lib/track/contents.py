"""What users hand in for a picture, a video, a histogram, …, as bytes and plain values that every tool can show.

Everything here raises on what it can't read, with a reason that names the shape or the type; media.py says it once.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from lib.metrics import normalize

if TYPE_CHECKING:  # who starts a run need not wait for torch
    from torch import fx, nn

BINS = 64
CHANNELS = (1, 3, 4)
GIF_TICK_S = 0.01  # a GIF counts in hundredths of a second, and viewers slow down what is faster than 50 a second


def array(values: Any) -> np.ndarray[Any, Any]:
    """`values` (a tensor on any device, an array, a list of numbers) in this process' memory."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        values = values.float() if values.is_floating_point() and values.element_size() < 4 else values  # no bfloat16
    return np.asarray(values)


def pixels(image: Any) -> np.ndarray[Any, Any]:
    """`image` as bytes (H, W, 1 | 3 | 4).

    Arrays and tensors are (H, W), (H, W, C) or (C, H, W) with C of 1, 3 or 4, where channels last wins; bytes 0..255,
    or floats 0..1, of which the rest is cut off. A PIL image and the path of a picture are taken as they are.
    """
    if isinstance(image, str | Path):
        with Image.open(image) as opened:
            return pixels(opened)
    if isinstance(image, Image.Image):
        return pixels(np.asarray(image if image.mode in ("L", "RGB", "RGBA") else image.convert("RGBA")))
    found = array(image)
    shape = found.shape
    if found.ndim == 2:
        found = found[:, :, None]  # (H, W) -> (H, W, 1)
    elif found.ndim == 3 and shape[-1] not in CHANNELS and shape[0] in CHANNELS:
        found = found.transpose(1, 2, 0)  # (C, H, W) -> (H, W, C)
    if found.ndim != 3 or found.shape[-1] not in CHANNELS or not found.size:
        raise ValueError(f"its shape {shape} is none of (H, W), (H, W, C), (C, H, W) with C of 1, 3 or 4")
    return _bytes(found)


def _bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Of any shape: floats and booleans from 0..1, integers from 0..255."""
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind in "fb":
        plain = np.nan_to_num(np.clip(values.astype(np.float32), 0, 1))
        return cast(np.ndarray[Any, Any], np.rint(plain * 255).astype(np.uint8))
    if values.dtype.kind in "iu" and values.min() >= 0 and values.max() <= 255:
        return values.astype(np.uint8)
    raise ValueError(f"it holds {values.dtype} from {values.min()} to {values.max()}, not bytes or floats from 0 to 1")


def png(image: Any) -> bytes:
    """The picture `image`, see `pixels`, as a PNG file."""
    return _saved([_picture(pixels(image))], "PNG", compress_level=1)  # a third of the time, a sixth more bytes


def gif(frames: Any, fps: float) -> bytes:
    """`frames`, a sequence of pictures or an array (T, …) of them, see `pixels`, as a GIF file without an end."""
    pictures = [_picture(pixels(frame)) for frame in (frames if isinstance(frames, Sequence) else array(frames))]
    if not pictures:
        raise ValueError("it has no frame")
    return _saved(pictures, "GIF", duration=max(2, round(1 / fps / GIF_TICK_S)) * 10, loop=0)


def video(path: Path) -> tuple[str, bytes]:
    """The ending and the content of the video at `path`."""
    suffix = path.suffix.lower()
    if suffix not in (".gif", ".mp4"):
        raise ValueError(f"{path} is neither a .gif nor an .mp4")
    if suffix == ".gif":
        Image.open(path).close()  # raises where it is none, as in each tracker that shows it
    return suffix, path.read_bytes()


def _picture(values: np.ndarray[Any, Any]) -> Image.Image:
    return Image.fromarray(values[:, :, 0] if values.shape[-1] == 1 else values)


def _saved(pictures: Sequence[Image.Image], form: str, **options: Any) -> bytes:  # Any: of Pillow's writer of that form
    file = io.BytesIO()
    several = {"save_all": True, "append_images": pictures[1:]} if len(pictures) > 1 else {}
    pictures[0].save(file, form, **several, **options)
    return file.getvalue()


def drawn(figure: Any) -> bytes:
    """A matplotlib figure as a PNG file."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def rows_of(rows: Iterable[Iterable[Any]], width: int) -> list[list[Any]]:
    """The cells of a table as plain numbers, texts and None; inf and nan, which JSON lacks, as their text."""
    table: list[list[Any]] = []
    for row in rows:
        cells = [normalize({"cell": cell}).get("cell", str(cell)) for cell in row]
        if len(cells) != width:
            raise ValueError(f"its row {len(table)} has {len(cells)} cells, not {width}")
        odd = (isinstance(cell, float) and not math.isfinite(cell) for cell in cells)
        table.append([str(cell) if is_odd else cell for cell, is_odd in zip(cells, odd, strict=True)])
    return table


def binned(values: Any, bins: int = BINS) -> dict[str, list[float]]:
    """`counts` in `bins` equal bins and their `edges`, one more, of the finite ones of `values`, of any shape.

    Counted where a tensor lies, so that only the counts leave an accelerator.
    """
    import torch

    flat = torch.as_tensor(values).detach().flatten()
    flat = flat if flat.dtype == torch.float64 else flat.float()
    finite = flat.isfinite()
    flat = flat if finite.all() else flat[finite]
    if not flat.numel():
        raise ValueError("it has no finite value")
    low, high = (float(bound) for bound in flat.aminmax())
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts = torch.histc(flat, bins, low, high)
    edges = [low + (high - low) * edge / bins for edge in range(bins)] + [high]
    return {"counts": [int(count) for count in counts.tolist()], "edges": edges}


def packed(vectors: Any, labels: Sequence[Any] | None) -> bytes:
    """`vectors` (N, D) and `labels` (N) as texts, in an .npz file."""
    table = array(vectors)
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        raise ValueError(f"its vectors are {table.dtype} {table.shape}, not numbers (N, D)")
    if labels is not None and len(labels) != len(table):
        raise ValueError(f"it has {len(labels)} labels for {len(table)} vectors")
    file = io.BytesIO()
    named: dict[str, Any] = {} if labels is None else {"labels": np.asarray([str(label) for label in labels])}
    np.savez(file, vectors=table, **named)
    return file.getvalue()


def signature_of(network: nn.Module, example: Any) -> dict[str, list[dict[str, Any]]]:
    """The `inputs` and `outputs` of `network` for the batch `example`: name, dtype, shape with -1 for the batch."""
    import torch

    inputs = example if isinstance(example, tuple) else (example,)
    trained = network.training
    network.eval()
    try:
        with torch.no_grad():
            outputs = network(*inputs)
    finally:
        network.train(trained)
    return {"inputs": _specs(inputs), "outputs": _specs(outputs)}


def require_signature(told: Mapping[str, Any]) -> None:
    """Raise where `told` is none."""
    tensors = [*told.get("inputs", [{}]), *told.get("outputs", [{}])]
    if not all("dtype" in tensor and "shape" in tensor for tensor in tensors):
        raise ValueError("its signature lacks inputs or outputs, each a list of tensors with dtype and shape")


def _specs(tensors: Any) -> list[dict[str, Any]]:
    if isinstance(tensors, Mapping):
        named = list(tensors.items())
    else:
        named = list(enumerate(tensors if isinstance(tensors, tuple | list) else [tensors]))
    return [
        {"name": str(name), "dtype": str(tensor.dtype).removeprefix("torch."), "shape": [-1, *tensor.shape[1:]]}
        for name, tensor in named
        if hasattr(tensor, "dtype")
    ]


def graph_of(network: nn.Module, example: Any = None) -> tuple[str, list[dict[str, Any]]]:
    """What `network` computes, as torch writes it down, and its nodes: `name`, `op`, `inputs`.

    Traced with torch.fx; where its way depends on the data, exported with the batch `example`; where there is none, or
    that fails too, its modules, each after the one that holds it.
    """
    import torch

    inputs = example if isinstance(example, tuple) else (example,)
    try:
        graph = torch.fx.symbolic_trace(network).graph
    except Exception:  # what a network's own code raises when it is handed a proxy can be anything
        try:
            if example is None:
                raise TypeError("no example")
            graph = torch.export.export(network, inputs).graph
        except Exception:  # as above
            return str(network), [
                {"name": name or "network", "op": type(module).__name__, "inputs": _holder(name)}
                for name, module in network.named_modules()
            ]
    nodes = [
        {"name": node.name, "op": _op(network, node), "inputs": [one.name for one in node.all_input_nodes]}
        for node in graph.nodes
    ]
    return str(graph), nodes


def _op(network: nn.Module, node: fx.Node) -> str:
    """What a node does, in a word: the class of a module, the name of a function or method, `placeholder`, `output`."""
    if node.op == "call_module":
        return type(network.get_submodule(str(node.target))).__name__
    if node.op in ("call_function", "call_method"):
        return str(getattr(node.target, "__name__", node.target))
    return node.op


def _holder(name: str) -> list[str]:
    return [name.rpartition(".")[0] or "network"] if name else []
