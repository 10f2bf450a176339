"""How much of the hardware a training uses: memory, and the share of its FLOPs (MFU; PaLM, 2022, appendix B)."""

from __future__ import annotations

import resource
import sys

import torch

TERA = 1e12
MIB = 1 << 20
# Peak of dense matrix products in bfloat16 with float32 sums, in TFLOP/s; makers' data sheets, A10G by its clock.
PEAKS = {
    "A100": 312, "A10G": 70, "A30": 165, "A40": 150, "B200": 2250, "H100 NVL": 835, "H100 PCIe": 756, "H100": 989,
    "H200": 989, "L4": 121, "L40S": 362, "MI250X": 383, "MI300X": 1307, "RTX 3090": 71, "RTX 4090": 165,
}  # fmt: skip


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s that one `device` reaches at most in `precision`; None for a device or precision without a figure here."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    words = name.replace("-", " ")
    known = [model for model in PEAKS if f" {model} " in f" {words} "]
    return max(PEAKS[model] for model in known if len(model) == max(map(len, known))) * TERA if known else None


def peak_memory_mib(device: torch.device) -> float:
    """The most memory that tensors of this process had on `device`; on a CPU, that the whole process had."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024  # bytes there, KiB elsewhere
