"""Tasks: the same batches and validation however many processes there are, and nothing left out or seen twice."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from grouping import by_rank
from torch import Tensor, nn

from gpt2.model import GPT2, NO_TARGET
from gpt2.task import Task as TextTask
from gpt2.task import check_fits
from lib import dist
from lib.data import DataError
from lib.data.images import Images
from lib.data.text import Text
from lib.tasks import ImageClassification, Sizes, held_out_batches

CPU = torch.device("cpu")
Maker = Callable[..., ImageClassification | TextTask]


class Classifier(nn.Module):
    """A linear layer over normalized pixels; the norm has running statistics, as in real networks."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.BatchNorm2d(1)
        self.linear = nn.Linear(16, 3)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 4, 4) -> (B, 3)."""
        logits: Tensor = self.linear(self.norm(images).flatten(1))
        return logits


def pictures(train: int = 50, held: int = 37) -> Images:
    """Images whose first pixel is their number; labels 0, 1, 2, 0, ..."""
    x = torch.randn(train + held, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    x[:, 0, 0, 0] = torch.arange(train + held)
    y = torch.arange(train + held) % 3
    return Images(x[:train], y[:train], x[train:], y[train:], classes=3, fingerprint="")


def image_task(*, batch_size: int = 5, eval_samples: int = 100, rank: int = 0, world: int = 1) -> ImageClassification:
    return ImageClassification(
        Classifier(), pictures(),
        Sizes(batch_size=batch_size, eval_samples=eval_samples, eval_batch_size=6, seed=3),
        device=CPU, rank=rank, world=world,
    )  # fmt: skip


def letters(train: int = 500, held: int = 131) -> Text:
    data = np.random.default_rng(0).integers(0, 256, train + held, dtype=np.uint8)
    return Text(data[:train], data[train:], vocabulary=256, fingerprint="")


def text_task(*, data: Text | None = None, eval_samples: int = 100, rank: int = 0, world: int = 1) -> TextTask:
    torch.manual_seed(0)
    return TextTask(
        GPT2(layers=1, heads=2, width=16, block_size=8), data or letters(),
        Sizes(batch_size=4, eval_samples=eval_samples, eval_batch_size=3, seed=3), device=CPU, rank=rank, world=world,
    )  # fmt: skip


@torch.no_grad()
def evaluated(task: ImageClassification | TextTask) -> dict[str, float]:
    task.model.eval()
    return task.evaluate()


# --- batches --------------------------------------------------------------------------------------------------------


def test_an_epoch_of_images_shows_each_once_with_its_label() -> None:
    task = image_task(batch_size=5)
    assert task.batches_per_epoch == 10
    epoch = list(itertools.islice(task.batches(0), 10))
    numbers = torch.cat([images[:, 0, 0, 0] for images, _ in epoch]).long()
    assert sorted(numbers.tolist()) == list(range(50))
    assert torch.equal(torch.cat([labels for _, labels in epoch]), numbers % 3)


def test_an_epoch_has_no_fewer_batches_than_show_everything() -> None:
    assert image_task(batch_size=7).batches_per_epoch == 8  # 50 / 7
    assert image_task(batch_size=7, world=2).batches_per_epoch == 4
    assert image_task(batch_size=64).batches_per_epoch == 1


@pytest.mark.parametrize("task", [image_task, text_task])
def test_batches_go_on_anywhere_as_if_they_had_never_stopped(task: Maker) -> None:
    whole = list(itertools.islice(task().batches(0), 30))
    later = list(itertools.islice(task().batches(20), 10))
    for one, other in zip(whole[20:], later, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_two_processes_share_the_samples_that_one_would_see() -> None:
    alone = list(itertools.islice(image_task(batch_size=10).batches(0), 6))
    shares = [list(itertools.islice(image_task(batch_size=5, rank=rank, world=2).batches(0), 6)) for rank in (0, 1)]
    for step, (images, _) in enumerate(alone):
        assert torch.equal(images, torch.cat([shares[rank][step][0] for rank in (0, 1)]))


def test_targets_are_the_tokens_after_the_tokens() -> None:
    task = text_task()
    text = task._data.train.tobytes()
    for tokens, targets in itertools.islice(task.batches(0), 50):
        assert tokens.shape == targets.shape == (4, 8)
        assert targets.is_contiguous()
        for row, after in zip(tokens.tolist(), targets.tolist(), strict=True):
            assert bytes([*row, after[-1]]) in text
            assert row[1:] == after[:-1]


def test_the_last_window_of_the_training_text_is_drawn_too() -> None:
    task = text_task(data=letters(train=12))
    starts = {tuple(tokens[0].tolist()) for tokens, _ in itertools.islice(task.batches(0), 200)}
    assert len(starts) == 4  # 12 bytes hold windows of 8 + 1 at 0, 1, 2 and 3


def test_a_text_shorter_than_a_window_is_refused() -> None:
    with pytest.raises(DataError, match="GPT2_BLOCK_SIZE=8: the text has 8 tokens"):
        check_fits(letters(held=8), 8)
    check_fits(letters(held=9), 8)


# --- losses ---------------------------------------------------------------------------------------------------------


def test_losses_have_a_graph_and_are_means() -> None:
    for task in (image_task(), text_task()):
        loss = task.loss(next(task.batches(0)))
        assert loss.shape == ()
        loss.backward()
        assert all(parameter.grad is not None for parameter in task.model.parameters())
    images, labels = next(image_task().batches(0))
    chances = image_task().model(images).softmax(1)
    expected = -chances[torch.arange(5), labels].log().mean()
    torch.testing.assert_close(image_task().loss((images, labels)), expected)


# --- validation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "batches", "batch_size"), [(37, 100, 6), (36, 6, 6), (37, 3, 6), (1000, 7, 10)])
@pytest.mark.parametrize("world", [1, 2, 5])
def test_held_out_samples_are_shared_out_each_once(size: int, batches: int, batch_size: int, world: int) -> None:
    shares = [held_out_batches(size, Sizes(1, batches, batch_size, 0), rank=rank, world=world) for rank in range(world)]
    seen = np.concatenate([batch for share in shares for batch, weight in share if weight])
    assert len(seen) == len(set(seen.tolist())) == min(size, batches * batch_size)
    assert seen.min() == 0
    assert size - 1 - seen.max() <= size // len(seen)  # spread to the end
    assert len(set(map(len, shares))) == 1, "all make equally many forward passes"
    assert all(len(batch) == 1 for share in shares for batch, weight in share if not weight)


def test_a_small_held_out_set_is_evaluated_whole() -> None:
    data, model = pictures(), Classifier().eval()
    with torch.no_grad():
        logits = model(data.held_x)
    result = evaluated(image_task())
    assert result["val_loss"] == pytest.approx(nn.functional.cross_entropy(logits, data.held_y).item(), rel=1e-6)
    assert result["val_accuracy"] == pytest.approx((logits.argmax(1) == data.held_y).double().mean().item(), abs=1e-12)


def test_a_held_out_text_is_evaluated_to_its_last_token() -> None:
    data, model = letters(held=131), text_task().model.eval()
    losses = []
    with torch.no_grad():
        for start in range(0, 130, 8):  # 130 predictions: 16 windows of 8 and one of 2
            window = torch.from_numpy(data.held[start : start + 9]).long()
            logits = model(window[None, :-1])[0]
            losses.append(nn.functional.cross_entropy(logits, window[1:], reduction="sum").double())
    result = evaluated(text_task(data=data))
    assert result["val_loss"] == pytest.approx(sum(losses).item() / 130, rel=1e-6)  # type: ignore[union-attr]
    assert result["val_perplexity"] == pytest.approx(math.exp(result["val_loss"]))


def test_what_lies_past_the_end_of_the_text_counts_for_nothing() -> None:
    task = text_task(data=letters(held=131))
    _, targets = task._gathered(task._data.held, np.array([128]))
    assert (targets != NO_TARGET).tolist() == [[True, True] + [False] * 6]


@pytest.mark.parametrize("task", [image_task, text_task])
def test_evaluations_repeat_and_do_not_depend_on_the_training_batch(task: Maker) -> None:
    one = task(eval_samples=3)
    first = evaluated(one)
    next(one.batches(7))
    assert evaluated(one) == first
    assert evaluated(task(eval_samples=2)) != first


def evaluated_together() -> list[dict[str, float]]:
    """What the process that runs this one finds, among others."""
    found = []
    for make in (image_task, text_task):
        task = make(rank=dist.rank(), world=dist.world())
        model = task.model
        task.model = dist.wrap(model)
        if isinstance(model, Classifier):
            model.norm.get_buffer("running_mean").add_(5.0 * dist.rank())  # what ranks that saw different batches have
        found.append(evaluated(task))
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_several_processes_find_what_one_finds(world: int) -> None:
    first, *others = by_rank(evaluated_together, world=world)
    assert all(other == first for other in others)
    for found, alone in zip(first, [evaluated(image_task()), evaluated(text_task())], strict=True):
        assert found == pytest.approx(alone, rel=1e-12)
