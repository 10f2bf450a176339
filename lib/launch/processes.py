"""How many processes a run has on this machine, and their start: one as Python starts a script, several by torchrun."""

from __future__ import annotations

import ctypes
import itertools
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from lib.errors import Refused
from lib.files import shown
from lib.journal import environment

KFD = Path("/dev/kfd")  # AMD's driver
LAST_S = 300  # for the last checkpoint after Ctrl-C; torchrun's own 30 s can be too short for a large model
MOST = 1024
WITHOUT_HANG_UP = ["--signals-to-handle", "SIGTERM,SIGINT,SIGQUIT"]  # torchrun hears SIGHUP even when nohup ignores it


def visible() -> int:
    """GPUs that PyTorch can use, of those that CUDA_VISIBLE_DEVICES leaves.

    PyTorch, which takes seconds to import, is asked only when a driver says that there could be several.
    """
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = [] if listed is None else list(itertools.takewhile(lambda name: name not in ("", "-1"), listed.split(",")))
    most = _nvidia() if listed is None else min(_nvidia(), len(named))
    if most < 2 and not KFD.exists():
        return most
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def count(*, gpus: int, device: str, nproc: str) -> int:
    """Processes of a run with these GPUS and DEVICE, and with NPROC as it was typed, or "".

    Raises:
        Refused: NPROC is no number or meets a GPU, or there are not so many GPUs.
    """
    if nproc:
        return on_cpu(nproc, device)
    if gpus == 0 and device in ("cuda", "mps"):
        raise Refused(f"GPUS=0 with DEVICE={device}: none of it is left to train on. Use DEVICE=cpu, or GPUS=-1")
    if device in ("cpu", "mps") or gpus == 0:
        return 1
    there = visible()
    if gpus > there:
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        by = "" if listed is None else f" (CUDA_VISIBLE_DEVICES={listed})"
        raise Refused(
            f"GPUS={gpus}: there are {there} here{by}. "
            f"Use GPUS=-1 for those that are, or NPROC={gpus} for as many processes on the CPU"
        )
    return max(1, there if gpus == -1 else gpus)


def on_cpu(nproc: str, device: str) -> int:
    """NPROC, which was typed beside this DEVICE. Raises Refused for what is no number of processes on the CPU."""
    if not nproc.isdecimal() or not 1 <= int(nproc) <= MOST:
        raise Refused(f"NPROC={nproc}: expected a number of processes from 1 to {MOST}")
    if device in ("cuda", "mps"):
        raise Refused(f"NPROC={nproc} with DEVICE={device}: NPROC is for the CPU. DEVICE=cpu goes with it, or GPUS=n")
    return int(nproc)


def line(processes: int, words: Sequence[str]) -> str:
    """How `words`, a script and its flags, are typed at the root to start as so many processes."""
    tool = Path(sys.executable) if processes == 1 else Path(sys.executable).with_name("torchrun")
    variables = [f"{name}={value}" for name, value in _surroundings(processes).items()]
    return shlex.join([*variables, shown(tool, Path.cwd()), *together(processes), *words])


def become(root: Path, processes: int, words: Sequence[str]) -> NoReturn:
    """Print that line, and be it. Several processes are torchrun's children; the first that fails gives the status."""
    os.chdir(root)
    print(f"$ {line(processes, words)}", flush=True)
    if processes == 1:
        os.execv(sys.executable, [sys.executable, *words])
    os.environ.update(_surroundings(processes))
    import logging

    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say it themselves
    own = WITHOUT_HANG_UP if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else []
    try:
        run.main([*together(processes), *own, *words])
    except ChildFailedError as failed:
        status = failed.get_first_failure()[1].exitcode
        sys.exit(status if status >= 0 else 128 - status)  # a process that a signal ended has minus its number
    except SignalException as ended:
        sys.exit(128 + int(ended.sigval))
    sys.exit(0)


def together(processes: int) -> list[str]:
    """torchrun's own flags for so many processes of a script; none for one."""
    if processes == 1:
        return []
    return ["--standalone", "--nproc-per-node", str(processes), "--shutdown-timeout", str(LAST_S)]


def _surroundings(processes: int) -> dict[str, str]:
    """Variables for so many processes: they share the cores, where torchrun itself would give each of them one."""
    if processes == 1 or "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, environment.cores() // processes))}


def _nvidia() -> int:
    """GPUs that NVIDIA's driver has, by NVML; 0 without one."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    found = ctypes.c_uint()
    if nvml.nvmlInit_v2() or nvml.nvmlDeviceGetCount_v2(ctypes.byref(found)):
        return 0
    nvml.nvmlShutdown()
    return found.value
