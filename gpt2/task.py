"""GPT-2's task: to predict the next token of a text that lies on disk."""

from __future__ import annotations

import itertools
import math
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

AHEAD = 64  # batches whose windows are drawn at once: one by one that takes longer than to read them


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
        self.batch_size, self.units_per_batch = sizes.batch_size, sizes.batch_size * model.block_size
        self.flops_per_unit = float(model.flops_per_token())
        self.batches_per_epoch = batches_per_epoch(len(data.train), self.units_per_batch * world)
        windows = -(-(len(data.held) - 1) // model.block_size)  # the last one may be shorter
        self._eval_batches = held_out_batches(windows, sizes, rank=rank, world=world)
        self._data, self._length = data, model.block_size
        self._seed, self._device, self._rank, self._world = sizes.seed, device, rank, world

    def batches(self, first: int) -> Iterator[Batch]:
        """Tokens (B, T) and the token after each (B, T), for ever: this process's micro-batches from `first` on."""
        starts = len(self._data.train) - self._length
        inside = np.arange(self.batch_size)
        samples = first_samples(first, self.batch_size, rank=self._rank, world=self._world)
        while ahead := list(itertools.islice(samples, AHEAD)):
            index = np.array(ahead)[:, None] + inside  # (AHEAD, B)
            for chosen in sampler.windows(self._seed, index, starts=starts):
                yield self._gathered(self._data.train, chosen)

    def loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy () of a batch, in nats per token."""
        loss: Tensor = self.model(*batch)
        return loss

    def evaluate(self) -> dict[str, float]:
        """`val_loss` (nats per token) over the held-out batches, its `val_perplexity`, and `val_bits_per_byte`.

        Only the last compares tokenizers: it is per byte of text, as many as a token has in all that is held out.
        """
        model = unwrapped(self.model)
        sums = []
        for windows, weight in self._eval_batches:
            tokens, targets = self._gathered(self._data.held, windows * self._length)
            count = (targets != NO_TARGET).sum()
            sums.append(weight * torch.stack([model(tokens, targets) * count, count]))
        loss_sum, tokens_seen = summed(sums, self._device)
        loss = loss_sum / tokens_seen
        bits_per_byte = loss / math.log(2) / self._data.bytes_per_token
        return {"val_loss": loss, "val_perplexity": perplexity(loss), "val_bits_per_byte": bits_per_byte}

    def _gathered(self, text: NDArray[np.unsignedinteger], starts: NDArray[np.int64]) -> Batch:
        """The windows of `text` from `starts` (B,): tokens (B, T), and targets (B, T) without a value past the end."""
        length = self._length
        last = len(text) - length - 1  # the last start of a whole window
        whole = np.ndarray((last + 1, length + 1), text.dtype, text, strides=text.strides * 2)  # all windows: a view
        windows = whole[np.minimum(starts, last)]  # (B,) -> (B, T+1): one gather
        both = np.empty((2, len(starts), length), np.int64)
        both[0], both[1] = windows[:, :-1], windows[:, 1:]
        if (past := int(starts[-1]) - last) > 0:  # the held-out text's last window
            both[:, -1, :-past] = both[:, -1, past:]
            both[0, -1, -past:], both[1, -1, -past:] = 0, NO_TARGET
        rows = torch.from_numpy(both)
        if self._device.type == "cuda":
            rows = rows.pin_memory()
        tokens, targets = rows.to(self._device, non_blocking=True)  # (2, B, T) -> 2 x (B, T)
        return tokens, targets


def check_fits(data: Text, block_size: int) -> None:
    """Raises DataError when a text is too short for one window of `block_size` tokens."""
    shortest = min(len(data.train), len(data.held))
    if shortest <= block_size:
        raise DataError(f"GPT2_BLOCK_SIZE={block_size}: the text has {shortest:,} tokens. Use a smaller block")
