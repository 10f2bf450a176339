"""What a logged value becomes, and the formulas that everyone shares."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lib.metrics import normalize, perplexity


def test_numbers_of_any_kind_become_plain_ones() -> None:
    numpy, torch = pytest.importorskip("numpy"), pytest.importorskip("torch")
    values = {
        "t": torch.tensor(2.5, requires_grad=True),
        "n": numpy.float32(0.5),
        "f": numpy.float64(0.1),
        "i": numpy.int64(3),
        "b": numpy.bool_(True),
        "one": torch.tensor([7]),
        "d": {"x": 1, "y": {"z": torch.tensor(4)}},
    }
    plain = normalize(values)
    assert plain == {"t": 2.5, "n": 0.5, "f": 0.1, "i": 3, "b": True, "one": 7, "d/x": 1, "d/y/z": 4}
    assert {type(value) for value in plain.values()} == {float, int, bool}


def test_what_is_no_scalar_becomes_its_text() -> None:
    torch = pytest.importorskip("torch")
    assert normalize({"v": torch.zeros(2), "p": Path("a"), 3: "x"}) == {"v": "tensor([0., 0.])", "p": "a", "3": "x"}


def test_perplexity_is_the_exponential_of_the_loss_and_capped() -> None:
    assert perplexity(math.log(50257)) == pytest.approx(50257)
    assert perplexity(1e9) == perplexity(20.0) == math.exp(20)
