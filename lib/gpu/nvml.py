"""NVIDIA's GPUs through NVML: the one module that imports pynvml (package nvidia-ml-py).

Old and new drivers name some calls differently; of each the first that this driver knows is used. Memory is that of
version 2: version 1 counts what the driver reserves (513 MiB on an A10G) as used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import pynvml
from pynvml import NVMLError

from lib.gpu.readings import FIELDS, MIB, Absent, Gpu, Reading

LOST = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND}
LACKING = {
    pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH, pynvml.NVML_ERROR_DEPRECATED,
}  # fmt: skip
MULTIPROCESSORS, TENSOR_CORES = pynvml.NVML_GPM_METRIC_SM_UTIL, pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL

Handle = Any  # a pointer of the C library
Call = Callable[[Handle], float]


def visible(text: str | None, uuids: Sequence[str]) -> list[int]:
    """The positions in `uuids` that CUDA_VISIBLE_DEVICES=`text` leaves, in its order; all when it is not set.

    As in CUDA: indices, or UUIDs that may be cut short; what follows an entry that means no GPU is not seen.
    """
    if text is None:
        return list(range(len(uuids)))
    found: list[int] = []
    for entry in (entry.strip() for entry in text.split(",")):
        if entry.isdecimal():
            matches = [int(entry)] if int(entry) < len(uuids) else []
        else:
            named = entry.startswith("GPU-")
            matches = [position for position, uuid in enumerate(uuids) if named and uuid.startswith(entry)]
        if len(matches) != 1 or matches[0] in found:
            break
        found += matches
    return found


class Nvml:
    """The GPUs of this machine that CUDA_VISIBLE_DEVICES=`shown` leaves."""

    kind = "nvml"
    fields = FIELDS

    def __init__(self, shown: str | None) -> None:
        """Raises Absent: there is no driver, no GPU, or none that is visible."""
        try:
            pynvml.nvmlInit()
            count = pynvml.nvmlDeviceGetCount()
            self.about = f"driver {pynvml.nvmlSystemGetDriverVersion()}"
        except NVMLError as problem:
            raise Absent(f"no NVIDIA driver answers ({problem})") from None
        known = [_described(index) for index in range(count)]
        self._devices = [_Device(known[position]) for position in visible(shown, [gpu.uuid for gpu in known])]
        if not self._devices:
            raise Absent(_none_of(count, shown or ""))

    @property
    def gpus(self) -> list[Gpu]:
        return [device.gpu for device in self._devices]

    def read(self, position: int) -> Reading:
        return self._devices[position].read()


class _Device:
    """One GPU, with the calls that it has not refused yet."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self._handle: Handle = None
        self._gpm: _Gpm | None = None
        self._calls = {field: list(calls) for field, calls in CALLS.items()}
        self._lacks: dict[str, str] = {}  # field -> why no call offers it

    def read(self) -> Reading:
        try:
            if self._handle is None:
                self._handle = _handle(self.gpu)
                self._gpm = _gpm(self._handle)
                if self.gpu.memory_total_mib is None:  # it was lost when it was asked
                    self.gpu = _described(self.gpu.index)
            faults: dict[str, str] = {}
            values = [self._value(field, faults) for field in CALLS]
        except NVMLError as problem:
            self._handle = self._gpm = None  # when it is back it may have another one
            return Reading(None, {"gpu": str(problem)})
        return Reading([*values, *self._active(faults)], {**self._lacks, **faults})

    def _value(self, field: str, faults: dict[str, str]) -> float | None:
        """Raises NVMLError where the GPU itself is gone."""
        retried = False
        while calls := self._calls[field]:
            try:
                return calls[0](self._handle)
            except NVMLError as problem:
                if problem.value in LOST:
                    raise
                if problem.value in LACKING:
                    calls.pop(0)
                    self._lacks[field] = str(problem)
                elif retried:
                    faults[field] = str(problem)
                    return None
                else:
                    retried = True
        return None

    def _active(self, faults: dict[str, str]) -> tuple[float | None, float | None]:
        """How busy multiprocessors and tensor cores were since the last call [%]; nothing where the GPU can't tell."""
        if self._gpm is None:
            return None, None
        try:
            return self._gpm.read()
        except NVMLError as problem:
            if problem.value in LOST:
                raise
            if problem.value in LACKING:
                self._gpm = None
            faults["sm_active"] = faults["tensor_active"] = str(problem)
            return None, None


class _Gpm:
    """GPU performance metrics (Hopper and later): what happened between two samples, at least 0.1 s apart."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._before, self._now = pynvml.nvmlGpmSampleAlloc(), pynvml.nvmlGpmSampleAlloc()
        self._first = True

    def read(self) -> tuple[float | None, float | None]:
        pynvml.nvmlGpmSampleGet(self._handle, self._now)
        asked = pynvml.c_nvmlGpmMetricsGet_t()
        asked.version, asked.numMetrics = pynvml.NVML_GPM_METRICS_GET_VERSION, 2
        asked.sample1, asked.sample2 = self._before, self._now
        asked.metrics[0].metricId, asked.metrics[1].metricId = MULTIPROCESSORS, TENSOR_CORES
        self._before, self._now = self._now, self._before
        if self._first:
            self._first = False
            return None, None
        told = pynvml.nvmlGpmMetricsGet(asked).metrics
        multiprocessors, tensor_cores = (None if metric.nvmlReturn else float(metric.value) for metric in told[:2])
        return multiprocessors, tensor_cores


def _gpm(handle: Handle) -> _Gpm | None:
    try:
        return _Gpm(handle) if pynvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice else None
    except NVMLError:  # an older driver does not know the question
        return None


def _none_of(count: int, shown: str) -> str:
    """Why none of so many GPUs is visible."""
    if not count:
        return "no NVIDIA GPU"
    if shown.strip().startswith("MIG-"):
        return f"CUDA_VISIBLE_DEVICES={shown} is a MIG instance, and NVML measures whole GPUs only"
    return f"CUDA_VISIBLE_DEVICES={shown} hides all of {count} GPUs"


def _described(index: int) -> Gpu:
    """What the GPU says of itself; as much as there is of one that is lost already."""
    told: dict[str, Any] = {"uuid": "", "name": "NVIDIA GPU"}  # str and float
    with contextlib.suppress(NVMLError):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        told["uuid"] = pynvml.nvmlDeviceGetUUID(handle)
        told["name"] = pynvml.nvmlDeviceGetName(handle)
        with contextlib.suppress(NVMLError):
            told["power_limit_watts"] = pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000
        try:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2)
            told["memory_reserved_mib"] = memory.reserved / MIB
        except NVMLError:
            memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        told["memory_total_mib"] = memory.total / MIB
    return Gpu(index, **told)


def _handle(gpu: Gpu) -> Handle:
    if gpu.uuid:
        return pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
    return pynvml.nvmlDeviceGetHandleByIndex(gpu.index)


# Field -> the calls that give it, the newest first.
CALLS: dict[str, tuple[Call, ...]] = {
    "utilization": (lambda handle: float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),),
    "memory_used": (
        lambda handle: float(pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2).used) / MIB,
        lambda handle: float(pynvml.nvmlDeviceGetMemoryInfo(handle).used) / MIB,
    ),
    "temperature": (
        lambda handle: float(pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU)),
        lambda handle: float(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
    ),
    "power": (lambda handle: float(pynvml.nvmlDeviceGetPowerUsage(handle)) / 1000,),
    "sm_clock": (lambda handle: float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)),),
    "memory_clock": (lambda handle: float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM)),),
    "throttle": (
        lambda handle: float(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        lambda handle: float(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)),
    ),
    "energy": (lambda handle: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000,),
}
