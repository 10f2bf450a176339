"""GPT-2's task: to predict the next token of a text that lies in memory or on disk."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gpt2.model import GPT2, NO_TARGET
from lib.data import DataError, sampler
from lib.data.text import Text
from lib.metrics import perplexity
from lib.tasks import Batch, Sizes, batches_per_epoch, first_samples, held_out_batches, summed, unwrapped


class Task:
    """Train `model` on random windows of a text; evaluate it on windows of the held-out one that do not overlap.

    `batch_size` is of one process's micro-batch; `rank` and `world` say which of the processes this is. An evaluation
    sees `eval_samples` batches of `eval_batch_size` windows, or the whole held-out text once when it is shorter.

    Raises:
        DataError: a text is too short for one window.
    """

    unit = "tokens"

    def __init__(
        self,
        model: GPT2,
        data: Text,
        sizes: Sizes,
        *,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.model: torch.nn.Module = model.to(device)
        self.units_per_batch = sizes.batch_size * model.block_size
        self.batches_per_epoch = batches_per_epoch(len(data.train), self.units_per_batch * world)
        windows = -(-(len(data.held) - 1) // model.block_size)  # the last one may be shorter
        self._eval_batches = held_out_batches(windows, sizes, rank=rank, world=world)
        self._data, self._length, self._batch_size = data, model.block_size, sizes.batch_size
        self._seed, self._device, self._rank, self._world = sizes.seed, device, rank, world

    def batches(self, first: int) -> Iterator[Batch]:
        """Tokens (B, T) and the token after each (B, T), for ever: this process's micro-batches from `first` on."""
        starts = len(self._data.train) - self._length
        for sample in first_samples(first, self._batch_size, rank=self._rank, world=self._world):
            chosen = sampler.windows(self._seed, first=sample, count=self._batch_size, starts=starts)
            yield self._gathered(self._data.train, chosen)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy () of a batch, in nats per token."""
        loss: Tensor = self.model(*batch)
        return loss

    def evaluate(self) -> dict[str, float]:
        """`val_loss` (mean cross-entropy in nats per token) over the held-out batches, and its `val_perplexity`."""
        model = unwrapped(self.model)
        sums = []
        for windows in self._eval_batches:
            tokens, targets = self._gathered(self._data.held, windows * self._length)
            count = (targets != NO_TARGET).sum()
            sums.append(torch.stack([model(tokens, targets) * count, count]))
        loss_sum, tokens_seen = summed(sums, width=2, device=self._device)
        loss = loss_sum / tokens_seen
        return {"val_loss": loss, "val_perplexity": perplexity(loss)}

    def _gathered(self, text: NDArray[np.uint8], starts: NDArray[np.int64]) -> Batch:
        """The windows of `text` from `starts` (B,): tokens (B, T), and targets (B, T) without a value past the end."""
        index = starts[:, None] + np.arange(self._length + 1)  # (B,) -> (B, T+1)
        rows = torch.from_numpy(text[np.minimum(index, len(text) - 1)])  # -> (B, T+1) uint8: one gather
        if self._device.type == "cuda":
            rows = rows.pin_memory()
        rows = rows.to(self._device, non_blocking=True).long()
        targets = rows[:, 1:].contiguous()  # -> (B, T)
        if index[-1, -1] >= len(text):  # the held-out text's last window
            past_end = torch.from_numpy(index[:, 1:] >= len(text)).to(self._device)
            targets = targets.masked_fill(past_end, NO_TARGET)
        return rows[:, :-1].contiguous(), targets


def check_fits(data: Text, block_size: int) -> None:
    """Raises DataError when a text is too short for one window of `block_size` tokens."""
    shortest = min(len(data.train), len(data.held))
    if shortest <= block_size:
        raise DataError(f"GPT2_BLOCK_SIZE={block_size}: the text has {shortest:,} tokens. Use a smaller block")
