"""What training takes of a device's memory, and the batch that fits into it while a step sees as many samples as asked.

The need is measured without a byte of it: the model is copied as fake tensors, which have shapes and no content, and
runs forward and backward, which takes about a second whatever the batch, while the sizes of all storages that live are
summed. On the CPU's kernels, so that fused attention counts as it does on a GPU. A compiled model needs less.
"""

from __future__ import annotations

import bisect
import copy
import dataclasses
import functools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import psutil
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lib import dist
from lib.errors import Refused
from lib.journal.folder import RunFolder

SHARE = 0.85  # of the free memory; allocators and kernels need some that nobody can foresee
CGROUP = Path("/sys/fs/cgroup")  # a container's limit, which the machine's own numbers do not show
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}

T = TypeVar("T")


class Fitted(NamedTuple):
    """Samples of a micro-batch of one process, and how many of these are added up before a step."""

    batch_size: int
    gradient_accumulation: int

    def into(self, form: T) -> T:
        """A copy of the dataclass `form` with these in its fields of the same names."""
        names = {field.name for field in dataclasses.fields(form)}  # type: ignore[arg-type]  # T is any dataclass
        return dataclasses.replace(form, **{k: v for k, v in self._asdict().items() if k in names})  # type: ignore[type-var]


@dataclass(frozen=True)
class Batches:
    """What is configured; each field is the symbol of that name.

    Raises:
        Refused: the processes can't share the effective batch.
    """

    batch_size: int
    gradient_accumulation: int = 1
    hyper_param_auto: bool = False
    effective_batch_size: int = 0  # unset without the former
    eval_batch_size: int = 1

    def __post_init__(self) -> None:
        self.share(dist.world())  # a batch that can't be shared is told before anything is written

    def share(self, processes: int) -> int:
        """Samples of a step that each of so many processes sees. Raises Refused where they can't be shared evenly."""
        if not self.hyper_param_auto:
            return self.batch_size * self.gradient_accumulation
        whole, rest = divmod(self.effective_batch_size, processes)
        if rest or not whole:
            below, above = max(1, whole) * processes, (whole + 1) * processes
            near = f"{below} or {above}" if below < above else str(above)
            raise Refused(
                f"EFFECTIVE_BATCH_SIZE={self.effective_batch_size}: {processes} processes can't share it. Use {near}"
            )
        return whole

    def fitted(self, processes: int, fits: Callable[[int], bool]) -> Fitted:
        """As configured; or the largest batch of at most BATCH_SIZE that divides a process's share, and `fits`.

        Where not even the smallest fits it is that: what was measured is no reason to refuse what might just work.
        """
        if not self.hyper_param_auto:
            return Fitted(self.batch_size, self.gradient_accumulation)
        share = self.share(processes)
        sizes = [count for count in range(1, min(self.batch_size, share) + 1) if share % count == 0]
        too_large = bisect.bisect_left(sizes, True, key=lambda count: not fits(count))
        batch = sizes[max(0, too_large - 1)]
        return Fitted(batch, share // batch)


@dataclass(frozen=True)
class Need:
    """Bytes of memory that training takes on each device."""

    weights: int
    gradients: int  # with the buckets in which processes average them
    states: int  # of the optimizer
    between: Callable[[int], int]  # forward and the end of backward, at the peak, with so many samples at a time
    validating: Callable[[int], int]  # the same where there is no backward

    def of(self, batch_size: int) -> int:
        """With so many samples at a time."""
        return self.weights + self.gradients + self.states + self.between(batch_size)

    def in_validation(self, batch_size: int) -> int:
        """The same, while the model is validated."""
        return self.weights + self.states + self.validating(batch_size)

    def fits(self, batch_size: int, memory: int) -> bool:
        """Into so many bytes, which are free before the weights take theirs."""
        return self.of(batch_size) <= memory * SHARE


def measured(
    model: nn.Module,
    example: Sequence[Tensor],
    build: Callable[[nn.Module], Optimizer],
    processes: int,
    *,
    precision: str,
    shared: bool = False,
) -> Need:
    """What training `model` takes, as `processes` of them; `shared`: each holds its part of the weights alone (FSDP).

    `example` is what its forward takes, of one sample or more; only shapes and kinds count, so that a meta tensor does.
    `build` makes an optimizer for a model; what it keeps of each weight is counted on a small one.
    """
    weights = sum(p.nbytes for p in {*model.parameters(), *model.buffers()})
    gradients = sum(p.nbytes for p in set(model.parameters()) if p.requires_grad)
    half = HALF.get(precision)
    states = int(_kept(build) * gradients)
    between = functools.cache(lambda samples: _peak(model, example, samples, half) - weights - gradients)
    validating = functools.cache(lambda samples: _peak(model, example, samples, half, training=False) - weights)
    if shared:
        return Need(weights // processes, gradients // processes, states // processes, between, validating)
    return Need(weights, gradients * min(2, processes), states, between, validating)


def free(device: torch.device) -> int:
    """Bytes of `device` that this process could have, with those that it holds already; of a CPU its share of them."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) + torch.cuda.memory_reserved(device)
    own, there = int(psutil.Process().memory_info().rss), int(psutil.virtual_memory().available)
    limit, used = (_number(CGROUP / name) for name in ("memory.max", "memory.current"))
    if limit is not None and used is not None:
        there = min(there, limit - used)
    return max(0, there) // dist.world() + own


def at_start(wanted: Batches, need: Callable[[int], Need], store: RunFolder, device: torch.device) -> Fitted:
    """The batch of the run in `store`: the one that it began with, else the one that fits the smallest device now.

    `need` measures for a number of processes. All processes call this together. What was chosen is recorded.
    """
    if not wanted.hyper_param_auto:
        return wanted.fitted(dist.world(), lambda _: True)
    earlier = [event for event in store.job.events if event.get("event") == "fitted"] if dist.rank() == 0 else []
    known: Mapping[str, Any] | None = dist.agreed(earlier[0] if earlier else None)
    if known:
        return Fitted(int(known["batch_size"]), int(known["gradient_accumulation"]))
    taken = need(dist.world())
    memory = -dist.highest(-free(device), device)
    fitted = wanted.fitted(dist.world(), lambda count: taken.fits(count, memory))
    if dist.rank() == 0:
        store.record("fitted", **fitted._asdict(), memory_bytes=memory, need_bytes=taken.of(fitted.batch_size))
        print(f"batch     {told(fitted, dist.world())}; about {size(taken.of(fitted.batch_size))} of {size(memory)}")
    return fitted


def told(fitted: Fitted, processes: int) -> str:
    """`12 samples x 10 added up x 4 processes = 480 a step`; factors of 1 left out."""
    factors = [f"{fitted.batch_size} samples"]
    factors += [f"{fitted.gradient_accumulation} added up"] if fitted.gradient_accumulation > 1 else []
    factors += [f"{processes} processes"] if processes > 1 else []
    total = f" = {fitted.batch_size * fitted.gradient_accumulation * processes}" if len(factors) > 1 else ""
    return f"{' x '.join(factors)}{total} a step"


def advice(batch_size: int, accumulation: int) -> str:
    """What to change when memory has run out, so that a step still sees as many samples."""
    if batch_size == 1:
        return "BATCH_SIZE is 1 already: use PRECISION=bf16, a smaller model, or PARALLEL=fsdp on several GPUs"
    smaller = next(count for count in range(batch_size // 2, 0, -1) if batch_size % count == 0)
    more = accumulation * batch_size // smaller
    return (
        f"BATCH_SIZE={smaller} GRADIENT_ACCUMULATION={more} sees as many samples a step in less memory, "
        "HYPER_PARAM_AUTO=y finds both. In validation, lower EVAL_BATCH_SIZE"
    )


def size(count: int) -> str:
    """`11.3 GiB`, `24 MiB`."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Sums the sizes of all storages that live, and remembers the most."""

    def __init__(self, there: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.most = self._now = 0
        self._known: set[int] = set()
        self._count(there)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # what any operation of torch takes and gives
        out = func(*args, **(kwargs or {}))
        self._count(leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor))
        return out

    def _count(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self._now)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size


def _peak(
    model: nn.Module, example: Sequence[Tensor], samples: int, half: torch.dtype | None, *, training: bool = True
) -> int:
    """The most bytes at once, of weights, gradients and all between them, in the second of two micro-batches."""
    with torch.random.fork_rng(devices=[]), FakeTensorMode(allow_non_fake_inputs=True):
        twins: dict[int, Any] = {}  # what deepcopy takes for already copied
        for tensor in (*model.parameters(), *model.buffers()):
            fake = torch.empty(tensor.shape, dtype=tensor.dtype)
            twins[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
        twin = copy.deepcopy(model, twins).train(training)
        batch = [torch.empty((samples, *part.shape[1:]), dtype=part.dtype) for part in example]
        live = _Live([*twin.parameters(), *twin.buffers(), *batch])
        with live, torch.set_grad_enabled(training):
            for _ in range(2):  # the gradients of the first are there while the second runs
                live.most = 0
                with torch.autocast("cpu", dtype=half, enabled=half is not None):
                    loss = twin(*batch).mean()
                if training:
                    loss.backward()
    return live.most


def _kept(build: Callable[[nn.Module], Optimizer]) -> float:
    """Bytes of an optimizer's state for each byte of a weight."""
    with torch.random.fork_rng(devices=[]):  # measured or not, what comes after draws the same numbers
        small = nn.Linear(8, 8, bias=False)
        optimizer = build(small)
        small.weight.grad = torch.ones_like(small.weight)
        optimizer.step()
    kept: list[Tensor] = [
        value for value in optimizer.state[small.weight].values() if isinstance(value, Tensor) and value.dim()
    ]
    return float(sum(value.nbytes for value in kept) / small.weight.nbytes)


def _number(path: Path) -> int | None:
    """What a file of the kernel says; None without one, or where it says `max`."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
