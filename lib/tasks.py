"""What lies between a model and the loop: batches, a loss, and one number for how good the model is.

Image classification is here because two models share it. The held-out batches of an evaluation are the same every time
and spread over the processes; sums are in float64, so that the result does not depend on how many processes there are.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lib import dist
from lib.data import sampler
from lib.data.images import Images, sent

Batch = tuple[Tensor, Tensor]  # what the model reads, and what it should say


@dataclass(frozen=True)
class Sizes:
    """How much a task reads at a time; each field is the symbol of that name."""

    batch_size: int  # of one micro-batch of one process
    eval_samples: int  # batches in a validation
    eval_batch_size: int
    seed: int  # of the order of the data


class ImageClassification:
    """Train `model` (B, C, H, W) -> (B, classes) on images that stay on `device`, as bytes.

    `batch_size` is of one process's micro-batch; `rank` and `world` say which of the processes this is. An evaluation
    sees `eval_samples` batches of `eval_batch_size`, or all held-out images once when there are fewer.
    """

    unit = "images"

    def __init__(
        self,
        model: nn.Module,
        data: Images,
        sizes: Sizes,
        *,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model = model.to(device)
        self.batch_size = self.units_per_batch = sizes.batch_size
        self.batches_per_epoch = batches_per_epoch(len(data.train_x), sizes.batch_size * world)
        self._data = data
        self._train = (data.train_x.to(device), data.train_y.to(device))
        self._held = (data.held_x.to(device), data.held_y.to(device))
        self._eval_batches = held_out_batches(len(data.held_x), sizes, rank=rank, world=world)
        self._seed, self._rank, self._world = sizes.seed, rank, world

    @cached_property
    def flops_per_unit(self) -> float:
        """Of training with one image: backward is twice forward. Counted when somebody asks, which takes seconds."""
        inner = getattr(self.model, "module", self.model)
        return 3 * forward_flops(inner, self._data.train_x[:1].float())

    def batches(self, first: int) -> Iterator[Batch]:
        """Images (B, C, H, W) and labels (B,) of this process's micro-batches from number `first` on, for ever."""
        images, labels = self._train
        for sample in first_samples(first, self.units_per_batch, rank=self._rank, world=self._world):
            index = sampler.permuted(self._seed, first=sample, count=self.units_per_batch, size=len(images))
            chosen = sent(torch.from_numpy(index), images.device)
            yield self._data.for_training(images[chosen], seed=self._seed, first=sample), labels[chosen]

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy () of a batch, in nats."""
        images, labels = batch
        return F.cross_entropy(self.model(images), labels)

    def evaluate(self) -> dict[str, float]:
        """`val_loss` (mean cross-entropy in nats) and `val_accuracy` (0 to 1) over the held-out batches."""
        model = unwrapped(self.model)
        images, labels = self._held
        sums = []
        for index, weight in self._eval_batches:
            chosen = sent(torch.from_numpy(index), images.device)
            logits, right = model(self._data.normalized(images[chosen])), labels[chosen]
            loss = F.cross_entropy(logits, right, reduction="sum")
            sums.append(weight * torch.stack([loss, (logits.argmax(1) == right).sum(), loss.new_tensor(len(right))]))
        loss_sum, hits, count = summed(sums, images.device)
        return {"val_loss": loss_sum / count, "val_accuracy": hits / count}


def forward_flops(model: nn.Module, sample: Tensor) -> float:
    """Floating point operations of matrix products and convolutions in a forward pass over `sample`.

    Counted on a copy without content: no time passes, and the model stays as it is.
    """
    from torch.utils.flop_counter import FlopCounterMode  # it and meta tensors import torch's compiler: seconds

    twin = copy.deepcopy(model).to("meta").eval()
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        twin(sample.to("meta"))
    return float(counter.get_total_flops())


def batches_per_epoch(samples: int, batch_size: int) -> int:
    """Batches that show every one of `samples` at least once."""
    return max(1, -(-samples // batch_size))


def first_samples(first: int, batch_size: int, *, rank: int, world: int) -> Iterator[int]:
    """The global index of the first sample in each micro-batch of process `rank`, for ever from micro-batch `first` on.

    The processes' batches lie side by side, so the samples of a step do not depend on how many processes share it.
    """
    while True:
        yield (first * world + rank) * batch_size
        first += 1


def held_out_batches(size: int, sizes: Sizes, *, rank: int, world: int) -> list[tuple[NDArray[np.int64], int]]:
    """The held-out samples that process `rank` evaluates, batch by batch: every `world`-th batch from number `rank` on.

    Over all processes `eval_samples * eval_batch_size` of `size` samples, evenly spread, or each once if fewer. Each
    batch has a weight, 1; where there is none for a process it gets one sample with weight 0, so that all of them make
    equally many forward passes, as shared weights (FSDP) need.
    """
    batch_size = sizes.eval_batch_size
    count = min(size, sizes.eval_samples * batch_size)
    chosen = np.arange(count) * size // count  # 0 .. count-1 -> evenly over 0 .. size-1, each at most once
    batches = [(chosen[start : start + batch_size], 1) for start in range(0, count, batch_size)]
    return [*batches, *[(chosen[:1], 0)] * (-len(batches) % world)][rank::world]


def summed(sums: list[Tensor], device: torch.device) -> list[float]:
    """The batches' (n,) sums added up over all processes, in float64; `device` is the model's.

    They stay on the device until here, so that evaluating costs one synchronization. MPS has no float64: the CPU adds.
    """
    mine = torch.stack(sums).cpu().double().sum(0)  # (batches, n) -> (n,)
    total: list[float] = dist.total(mine.to(device) if device.type == "cuda" else mine).tolist()
    return total


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP's wrapper, with process 0's running statistics: what a checkpoint would hold.

    DDP's own forward exchanges buffers: it would wait for ever where processes have unequal numbers of such batches.
    """
    inner: nn.Module = getattr(model, "module", model)
    if inner is not model or dist.is_shared(model):
        for buffer in inner.buffers():
            buffer.copy_(dist.total(buffer if dist.rank() == 0 else torch.zeros_like(buffer)))
    return inner
