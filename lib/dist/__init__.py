"""The processes of one run: who am I, how many are we, and the few words that we exchange.

Started alone there is one process and nothing is exchanged. Under `torchrun` or `accelerate launch` (RANK, WORLD_SIZE
and MASTER_* are set) the processes meet in a group: NCCL on CUDA, gloo elsewhere.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as group
from torch import Tensor, nn
from torch.optim import Optimizer

from lib.errors import Refused


class NoDevice(Refused):
    """The device that was asked for is not there."""


def rank() -> int:
    """This process's number in the job, from 0."""
    return int(os.environ.get("RANK", "0"))


def local_rank() -> int:
    """This process's number on its node, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world() -> int:
    """Number of processes in the job."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def place() -> dict[str, int]:
    """`rank`, `local_rank` and `world` of this process."""
    return {"rank": rank(), "local_rank": local_rank(), "world": world()}


def device(wanted: str, *, threads: int = -1) -> torch.device:
    """The device `wanted` ("auto", "cuda", "mps", "cpu"); auto takes CUDA, else Apple's MPS, else the CPU.

    From here on this process computes with `threads` CPU threads; -1 leaves them to PyTorch and OMP_NUM_THREADS.

    Raises:
        NoDevice: it is not there.
    """
    if threads > 0:
        torch.set_num_threads(threads)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    name = next(kind for kind in there if there[kind]) if wanted == "auto" else wanted
    if not there[name]:
        found = ", ".join(kind for kind in there if there[kind])
        raise NoDevice(f"DEVICE={name}: PyTorch {torch.__version__} finds none. Use DEVICE=auto, or one of: {found}")
    return torch.device(name, local_rank()) if name == "cuda" else torch.device(name)


@contextlib.contextmanager
def joined(on: torch.device) -> Iterator[None]:
    """Inside it the job's processes can talk to each other."""
    if world() == 1:
        yield
        return
    import torch._dynamo  # noqa: F401  # imported later, as DDP does, it keeps the group, whose threads then abort the exit

    if on.type == "cuda":
        torch.cuda.set_device(on)
    group.init_process_group("nccl" if on.type == "cuda" else "gloo")
    try:
        yield
    finally:
        group.destroy_process_group()


def total(values: Tensor) -> Tensor:
    """Sum of `values` over the processes, the same on each."""
    if group.is_initialized():
        values = values.clone()
        group.all_reduce(values)
    return values


def highest(value: int, on: torch.device) -> int:
    """The highest `value` of the processes, the same on each; `on` is their devices' kind."""
    if not group.is_initialized():
        return value
    box = torch.tensor(value, device=on)
    group.all_reduce(box, op=group.ReduceOp.MAX)
    return int(box)


def alone(model: nn.Module) -> contextlib.AbstractContextManager[None]:
    """Inside it gradients stay with this process: for all batches of a step but the last."""
    if is_shared(model):
        from lib.dist import shares

        return shares.alone(model)
    return model.no_sync() if isinstance(model, nn.parallel.DistributedDataParallel) else contextlib.nullcontext()


def agreed(value: Any) -> Any:
    """Rank 0's `value`, on every process. Anything that pickles."""
    if not group.is_initialized():
        return value
    box = [value]
    group.broadcast_object_list(box, src=0)
    return box[0]


def each(value: Tensor) -> list[float]:
    """The processes' 0-dimensional `value`s, by rank."""
    box = torch.zeros(world(), device=value.device)
    box[rank()] = value
    found: list[float] = total(box).tolist()
    return found


def share(model: nn.Module, parallel: str) -> nn.Module:
    """`model`, whose weights the processes now share when `parallel` is "fsdp"; to be called before an optimizer is made."""
    if parallel == "fsdp" and group.is_initialized():
        from lib.dist import shares  # a second of imports

        shares.split(model)
    return model


def wrap(model: nn.Module) -> nn.Module:
    """`model` with its gradients averaged over the processes; itself when there is one, or when they share it."""
    alone = not group.is_initialized() or is_shared(model)
    return model if alone else nn.parallel.DistributedDataParallel(model)


def whole(value: Tensor) -> Tensor:
    """A plain tensor for one of which each process may have a share."""
    full: Tensor = value.full_tensor() if hasattr(value, "full_tensor") else value
    return full


def states(model: nn.Module, optimizer: Optimizer | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """State dicts of both; whole ones on rank 0 when the processes share them, so that all must call it."""
    if is_shared(model):
        from lib.dist import shares

        return shares.gathered(model, optimizer)
    return model.state_dict(), optimizer.state_dict() if optimizer else {}


def put(model: nn.Module, optimizer: Optimizer, weights: dict[str, Tensor], moments: dict[str, Any]) -> None:
    """Load what `states` gave into `model` and `optimizer`."""
    if is_shared(model):
        from lib.dist import shares

        shares.put(model, optimizer, weights, moments)
        return
    model.load_state_dict(weights)
    optimizer.load_state_dict(moments)


def is_shared(model: nn.Module) -> bool:
    """Whether `share` has split it."""
    return hasattr(model, "set_requires_gradient_sync")  # what FSDP2 gives a module; its class takes a second to import
