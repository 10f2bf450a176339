"""Values on an accelerator, handed over without a synchronisation: neither log() nor the device waits for the other.

All values of a call go into one buffer, on the stream that computes them: the caller may overwrite them at once. The
buffer is copied to pinned memory on a stream of its own, and an event says when it has arrived there.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch


class Cuda(Protocol):
    """What of `torch.cuda` is needed; its streams and events have no type that a test could stand in for."""

    def Event(self) -> Any: ...

    def current_stream(self, device: torch.device) -> Any: ...

    def stream(self, stream: Any) -> AbstractContextManager[Any]: ...


class Copy:
    """One-element tensors on their way to the host, along the stream `side` of their device."""

    def __init__(self, values: Sequence[torch.Tensor], side: Any, cuda: Cuda) -> None:
        device = values[0].device
        self._kinds = [value.dtype for value in values]
        parts = [value.detach().to(device, non_blocking=True).reshape(1).view(torch.uint8) for value in values]
        self._sizes = [part.numel() for part in parts]  # bytes
        self._buffer = torch.cat(parts)  # kept, so that nobody gets its memory before the copy is done
        side.wait_stream(cuda.current_stream(device))
        with cuda.stream(side):
            self._host = torch.empty(sum(self._sizes), dtype=torch.uint8, pin_memory=self._buffer.is_cuda)
            self._host.copy_(self._buffer, non_blocking=True)
            self._arrived = cuda.Event()
            self._arrived.record(side)

    def ready(self) -> bool:
        return bool(self._arrived.query())

    def values(self) -> list[float | int | bool]:
        """Each as a number of its own type, exactly; waits for the copy."""
        self._arrived.synchronize()
        parts = self._host.split(self._sizes)  # type: ignore[no-untyped-call]
        return [part.clone().view(kind).item() for part, kind in zip(parts, self._kinds, strict=True)]


def fetch(values: Sequence[torch.Tensor]) -> Copy:
    """Start to copy `values`, one-element tensors on CUDA (or ROCm) devices, to the host; see Journal."""
    return Copy(values, _side(values[0].device), torch.cuda)


@functools.cache
def _side(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
