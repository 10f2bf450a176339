"""GPUs as slots: which cell gets which, by UUID, so that each sees its own alone; no memory is promised twice."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from lib.gpu.readings import Absent
from lib.launch import processes


class Slots:
    """The GPUs of this machine. `free_mib` asks what memory each has left, by UUID; empty where nobody can tell."""

    def __init__(self, gpus: Sequence[str], per_gpu: int, free_mib: Callable[[], Mapping[str, float]]) -> None:
        self.gpus = tuple(gpus)
        self._per_gpu = per_gpu
        self._free_mib = free_mib
        self._taken: Counter[str] = Counter()

    @property
    def count(self) -> int:
        return len(self.gpus) * self._per_gpu

    def take(self, count: int, need_mib: float = 0.0) -> tuple[str, ...] | None:
        """`count` GPUs with a free slot, and so much memory where it is shared, the emptiest first; None: not now."""
        open_slots = [gpu for gpu in self.gpus if self._taken[gpu] < self._per_gpu]
        if need_mib and self._per_gpu > 1:
            free = self._free_mib()
            open_slots = [gpu for gpu in open_slots if not self._taken[gpu] or free.get(gpu, need_mib) >= need_mib]
        chosen = tuple(sorted(open_slots, key=lambda gpu: (self._taken[gpu], self.gpus.index(gpu)))[:count])
        if len(chosen) < count:
            return None
        self.hold(chosen)
        return chosen

    def hold(self, gpus: Sequence[str]) -> None:
        """Somebody uses these already."""
        self._taken.update(gpus)

    def give(self, gpus: Sequence[str]) -> None:
        self._taken.subtract(gpus)


def here(per_gpu: int) -> Slots:
    """The GPUs that PyTorch can use on this machine; none where there are none."""
    count = processes.visible()
    if count == 0:
        return Slots((), per_gpu, dict)
    try:
        from lib.gpu.nvml import Nvml

        source = Nvml(os.environ.get("CUDA_VISIBLE_DEVICES"))
    except Absent:  # AMD's, which have numbers only
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        return Slots(listed.split(",")[:count] if listed else [str(n) for n in range(count)], per_gpu, dict)
    used = source.fields.index("memory_used")

    def free_mib() -> dict[str, float]:
        found = {}
        for position, gpu in enumerate(source.gpus):
            values = source.read(position).values
            taken = values[used] if values else None
            if taken is not None and gpu.memory_total_mib is not None:
                found[gpu.uuid] = gpu.memory_total_mib - (gpu.memory_reserved_mib or 0.0) - taken
        return found

    return Slots([gpu.uuid for gpu in source.gpus][:count], per_gpu, free_mib)
