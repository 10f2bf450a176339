"""Pruning: scores against formulas in float64, learned ones against autograd, exact counts, zeros that stay zero."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lib import optim, prune
from lib.prune import scores
from lib.prune.ramp import ramp

Formula = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
FORMULAS: dict[str, Formula] = {  # of weight, first value, first and second moment
    "magnitude": lambda w, w0, m, v: w.abs(),
    "movement": lambda w, w0, m, v: w * (w - w0),
    "hybrid": lambda w, w0, m, v: w**2 * m.abs() / (v**0.5 + 1e-8),
    "gradient": lambda w, w0, m, v: w.abs() * (m.abs() + 1e-8) ** 0.5,
    "variance": lambda w, w0, m, v: w.abs() * (v + 1e-8) ** 0.25,
}
KINDS = {
    "magnitude": ("magnitude", {}),
    "movement": ("movement", {}),
    "learned": ("movement", {"movement_kind": "learned"}),
    "hybrid": ("state", {"state_score": "hybrid"}),
    "gradient": ("state", {"state_score": "gradient"}),
    "variance": ("state", {"state_score": "variance"}),
}
STEPS, RAMP_END = 60, 40
SPAM = optim.Settings(
    0.01, 0.1, beta1=0.9, beta2=0.999, epsilon=1e-8, spam_theta=5000, spam_interval=30, spam_warmup=10, spam_guard=5
)


class Net(nn.Module):
    """A tied embedding (10, 8), a convolution, a norm and two linear layers: one of each that matters here."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(10, 8)
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.hidden = nn.Linear(4 * 8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.tail = nn.Linear(10, 5)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """(B,) -> (B, 5)."""
        x = self.embedding(tokens)[:, None, None]  # (B,) -> (B, 1, 1, 8)
        x = self.norm(self.conv(x)).relu().flatten(1)  # -> (B, 4, 1, 8) -> (B, 32)
        y: Tensor = self.tail(self.head(self.hidden(x).relu()))  # -> (B, 8) -> (B, 10) -> (B, 5)
        return y


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=0.01),
    "adam": lambda model: torch.optim.Adam(model.parameters(), 0.01, weight_decay=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1, fused=True),
    "amsgrad": lambda model: torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1, amsgrad=True),
    "spam": lambda model: optim.build("adamwspam", model, SPAM),  # resets its moments while training goes on
}


class Training:
    """What the loop does around a pruner, on batches that are a function of the step."""

    def __init__(self, kind: str = "magnitude", optimizer: str = "adamw", **settings: Any) -> None:
        name, own = KINDS[kind]
        filled = {"target_sparsity": 0.8, "pruning_warmup": 5, "pruning_ramp_end": RAMP_END, "pruning_interval": 7}
        self.model = Net()
        self.optimizer = OPTIMIZERS[optimizer](self.model)
        self.moments = optim.moments(self.optimizer)
        self.pruner = prune.build(
            name, self.model, prune.Settings(**{**filled, **own, **settings}), moments=self.moments
        )

    def run(self, first: int, last: int, *, steps: int = STEPS) -> None:
        self.pruner.start(steps)
        for step in range(first, last + 1):
            tokens = torch.randint(10, (16,), generator=torch.Generator().manual_seed(step))
            nn.functional.cross_entropy(self.model(tokens), tokens % 5).backward()
            self.pruner.before_step(0.01)
            self.optimizer.step()
            self.pruner.after_step(step)
            self.optimizer.zero_grad()

    def state(self) -> dict[str, Any]:
        parts = {"model": self.model, "optimizer": self.optimizer, "pruner": self.pruner}
        return {name: part.state_dict() for name, part in parts.items()}


def zeros(training: Training) -> int:
    return sum(int((weight == 0).sum()) for weight in prune.prunable(training.model).values())


# --- scores ---


@pytest.mark.parametrize("name", FORMULAS)
def test_each_score_is_its_formula_in_float64(name: str) -> None:
    random = torch.Generator().manual_seed(0)
    w, w0, m = (torch.randn(10_000, generator=random) * scale for scale in (0.02, 0.02, 1e-4))
    v = m**2 * torch.rand(10_000, generator=random) * 3
    wanted = FORMULAS[name](w.double(), w0.double(), m.double(), v.double())
    ours = {"magnitude": lambda: scores.magnitude(w), "movement": lambda: scores.movement(w, w0)}
    got = ours.get(name, lambda: scores.STATE[name](w, m, v))()
    close = (w - w0).abs() > 1e-3 * w.abs()  # elsewhere the difference has few digits left, in any order of operations
    torch.testing.assert_close(got.double()[close], wanted[close], rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", FORMULAS)
def test_the_masks_are_those_of_the_formula_in_float64(kind: str) -> None:
    training = Training(kind, pruning_interval=20, pruning_warmup=19)
    start = {name: weight.detach().double() for name, weight in prune.prunable(training.model).items()}
    seen: dict[str, Tensor] = {}
    after = training.pruner.after_step

    def watched(step: int) -> None:
        """Before the pruner acts at step 20, note what the formula says of the state as it is."""
        if step == 20:
            for name, weight in prune.prunable(training.model).items():
                m, v = training.moments(weight) or (weight, weight)
                seen[name] = FORMULAS[kind](weight.detach().double(), start[name], m.double(), v.double())
        after(step)

    training.pruner.after_step = watched  # type: ignore[method-assign]
    training.run(1, 20)
    flat = torch.cat([score.flatten() for score in seen.values()])
    gone = round(training.pruner.sparsity * len(flat))
    limit = flat.sort().values[gone - 1]
    assert 20 < gone < len(flat) / 2
    for name, mask in training.pruner.state_dict()["masks"].items():
        assert torch.equal(mask, seen[name] > limit)


def test_without_moments_state_pruning_goes_by_magnitude() -> None:
    by_state, by_size = Training("hybrid", "sgd"), Training("magnitude", "sgd")
    for training in (by_state, by_size):
        training.run(1, 30)
    masks = by_size.pruner.state_dict()["masks"]
    assert masks
    assert all(torch.equal(mask, masks[name]) for name, mask in by_state.pruner.state_dict()["masks"].items())


class Masked(torch.autograd.Function):
    """The paper's binarizer: the mask that the scores had at the last update; the gradient passes straight on."""

    @staticmethod
    def forward(_: Any, own: Tensor, mask: Tensor) -> Tensor:
        return mask.to(own.dtype)

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


def test_learned_movement_is_what_autograd_derives_in_float64() -> None:
    """The published form: parameters W and S, y = (W * mask(S)) x, one gradient descent for both."""
    torch.manual_seed(1)
    layer = nn.Linear(12, 6, bias=False).double()
    w, s = layer.weight.detach().clone().requires_grad_(), torch.zeros(6, 12, dtype=torch.float64, requires_grad=True)
    settings = prune.Settings(0.5, 3, 30, 2, movement_kind="learned")
    pruner = prune.build("movement", layer, settings, moments=lambda _: None)
    pruner.start(40)
    mask, returned = torch.ones_like(w, dtype=torch.bool), 0
    for step in range(1, 41):
        x, y = torch.randn(8, 12, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
        lr = 0.3 / step
        nn.functional.mse_loss(nn.functional.linear(x, w * Masked.apply(s, mask)), y).backward()
        nn.functional.mse_loss(layer(x), y).backward()
        pruner.before_step(lr)
        with torch.no_grad():
            for ours in (w, s, layer.weight):
                assert ours.grad is not None
                ours -= lr * ours.grad
                ours.grad = None
        pruner.after_step(step)
        if step > 3 and (step % 2 == 0 or step == 30) and (gone := round(ramp_of(step) * 72)):
            limit = s.detach().flatten().sort().values[gone - 1]
            returned += int(((s.detach() > limit) & ~mask).sum())
            mask = s.detach() > limit
        state = pruner.state_dict()["carried"]
        torch.testing.assert_close(state["scores"][""], s.detach(), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(layer.weight.detach() + state["hidden"][""], w.detach(), rtol=1e-12, atol=1e-15)
        assert torch.equal(layer.weight != 0, mask)
    assert returned > 0, "no weight came back: the test would not see whether they can"


def ramp_of(step: int) -> float:
    return 0.5 * (1 - (1 - min(1.0, (step - 3) / 27)) ** 3)


@pytest.mark.parametrize(("value", "skip"), [(1e9, torch.tensor(1.0)), (math.nan, None)])
def test_a_skipped_step_and_nan_teach_learned_scores_nothing(value: float, skip: Tensor | None) -> None:
    training = Training("learned")
    training.run(1, 20)
    before = {name: score.clone() for name, score in training.pruner.state_dict()["carried"]["scores"].items()}
    for weight in training.model.parameters():
        weight.grad = torch.full_like(weight, value)
    training.pruner.before_step(0.01, skip=skip)
    assert all(
        torch.equal(before[name], own) for name, own in training.pruner.state_dict()["carried"]["scores"].items()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_the_loop_leaves_out_changes_nothing(kind: str) -> None:
    training = Training(kind)
    training.run(1, 20)
    before = copy.deepcopy(training.state())
    training.pruner.after_step(22)  # no update is due
    after = training.state()
    assert all(torch.equal(before["model"][name], tensor) for name, tensor in after["model"].items())
    for kind_, table in before["pruner"]["carried"].items():
        assert all(torch.equal(tensor, after["pruner"]["carried"][kind_][name]) for name, tensor in table.items())


# --- how many, where and when ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_exactly_the_asked_share_is_zero_at_each_step(kind: str, scope: str) -> None:
    training = Training(kind, pruning_scope=scope)
    sizes = [weight.numel() for weight in prune.prunable(training.model).values()]
    rising = ramp(0.8, "cubic", warmup=5, end=RAMP_END, steps=STEPS)
    gone = 0
    for step in range(1, STEPS + 1):
        training.run(step, step)
        if step > 5 and (step % 7 == 0 or step == RAMP_END) and step <= RAMP_END:
            parts = sizes if scope == "layer" else [sum(sizes)]
            gone = sum(round(rising.sparsity(step) * size) for size in parts)
        assert zeros(training) == gone == round(training.pruner.sparsity * sum(sizes))
    shares = training.pruner.layers()
    if scope == "layer":
        assert shares == pytest.approx(dict.fromkeys(shares, 0.8), abs=0.5 / min(sizes))
        assert training.pruner.logged == {}
    else:
        assert len({round(share, 2) for share in shares.values()}) > 1
        assert math.isfinite(training.pruner.logged["pruning_threshold"])
    weights = prune.prunable(training.model)
    assert shares == pytest.approx({name: float((w == 0).float().mean()) for name, w in weights.items()})


def test_nothing_is_pruned_during_the_warm_up() -> None:
    training = Training(pruning_warmup=20)
    training.run(1, 20)
    assert (zeros(training), training.pruner.sparsity, training.pruner.logged) == (0, 0.0, {})
    assert training.pruner.layers() == {"conv": 0.0, "hidden": 0.0, "tail": 0.0}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_pruned_weights_stay_exactly_zero_for_200_steps(optimizer: str) -> None:
    training = Training("magnitude", optimizer)
    training.run(1, RAMP_END, steps=300)
    masks = training.pruner.state_dict()["masks"]
    before = [parameter.detach().clone() for parameter in training.model.parameters()]
    for step in range(RAMP_END + 1, RAMP_END + 201):
        training.run(step, step, steps=300)
        for name, weight in prune.prunable(training.model).items():
            assert torch.equal(weight != 0, masks[name])
    assert all(not torch.equal(old, new) for old, new in zip(before, training.model.parameters(), strict=True))


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - {"learned"}))
def test_what_is_pruned_is_never_chosen_again_also_among_equal_scores(kind: str) -> None:
    training = Training(kind)
    with torch.no_grad():
        training.model.hidden.weight[::2] = 0.0  # these score 0 as pruned ones do
    earlier: dict[str, Tensor] = {}
    for step in range(1, STEPS + 1):
        training.run(step, step)
        masks = training.pruner.state_dict()["masks"]
        assert all(not (masks[name] & ~mask).any() for name, mask in earlier.items())
        earlier = masks


def test_embeddings_norms_and_biases_are_left_whole() -> None:
    training = Training(target_sparsity=0.95)
    training.run(1, STEPS)
    model = training.model
    assert prune.prunable(model).keys() == {"conv", "hidden", "tail"}
    whole = [model.embedding.weight, model.norm.weight, model.conv.bias, model.hidden.bias, model.tail.bias]
    assert all(bool((parameter != 0).all()) for parameter in whole)


def test_excluded_layers_are_left_whole_and_do_not_count() -> None:
    training = Training(pruning_exclude=" conv, t*l ")
    training.run(1, STEPS)
    assert training.pruner.layers().keys() == {"hidden"}
    assert training.pruner.sparsity == pytest.approx(0.8, abs=1e-2)
    assert bool((training.model.conv.weight != 0).all() and (training.model.tail.weight != 0).all())


def test_averages_of_the_weights_get_the_same_zeros() -> None:
    training = Training()
    training.run(1, STEPS)
    average = {name: torch.ones_like(parameter) for name, parameter in training.model.named_parameters()}
    training.pruner.zero(average)
    assert torch.equal(average["hidden.weight"], (training.model.hidden.weight != 0).float())
    assert bool((average["embedding.weight"] == 1).all())


# --- going on ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [3, 17, 28, 55])  # before, between and at updates, after the ramp
def test_a_resumed_training_is_the_undisturbed_one_bit_for_bit(kind: str, stop: int) -> None:
    whole, first, second = Training(kind), Training(kind), Training(kind)
    whole.run(1, STEPS)
    first.run(1, stop)
    file = io.BytesIO()
    torch.save(first.state(), file)
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    second.model.load_state_dict(state["model"])
    second.optimizer.load_state_dict(state["optimizer"])
    second.pruner.load_state_dict(state["pruner"])
    assert second.pruner.sparsity == first.pruner.sparsity
    second.run(stop + 1, STEPS)
    for ours, theirs in zip(second.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert second.pruner.logged == whole.pruner.logged
    assert all(mask.dtype == torch.bool for mask in second.pruner.state_dict()["masks"].values())


def test_a_checkpoint_of_another_pruning_or_network_is_refused() -> None:
    movement, plain = Training("movement"), Training("magnitude")
    other = prune.build("magnitude", nn.Linear(3, 3), prune.Settings(), moments=lambda _: None)
    for training in (movement, plain):
        training.run(1, 20)
    for pruner, state in [
        (plain.pruner, movement.pruner.state_dict()),
        (other, plain.pruner.state_dict()),
        (other, prune.NullPruner().state_dict()),
    ]:
        with pytest.raises(prune.BadPruning, match=r"pruned in another way or is of another network\. Start anew"):
            pruner.load_state_dict(state)


def test_off_is_an_object_that_does_nothing() -> None:
    layer = nn.Linear(3, 3)
    layer.weight.grad = torch.ones(3, 3)
    before = layer.weight.detach().clone()
    off = prune.build("none", layer, prune.Settings(), moments=lambda _: None)
    off.start(10)
    off.before_step(0.1)
    off.after_step(1)
    off.load_state_dict(off.state_dict())
    assert torch.equal(layer.weight, before)
    assert bool((layer.weight.grad == 1).all())
    assert (off.sparsity, off.logged, off.layers()) == (0.0, {}, {})


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("random", {}, "PRUNING=random: unknown. Use one of: none, magnitude, movement, state"),
        (
            "magnitude",
            {"pruning_exclude": "conv,hiden"},
            "PRUNING_EXCLUDE=conv,hiden: hiden fits no layer; did you mean",
        ),
        ("magnitude", {"pruning_exclude": "*"}, "Net has no linear layer or convolution left to prune"),
    ],
)
def test_a_pruning_that_cannot_be_is_one_clear_line(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(prune.BadPruning) as refused:
        prune.build(name, Net(), prune.Settings(**settings), moments=lambda _: None)
    assert str(refused.value).startswith(message)
