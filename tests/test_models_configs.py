"""The defconfigs of the three models: each is there, and means what its name says."""

from __future__ import annotations

from typing import Any

import pytest

from lib import kconf
from lib.kconf import defconfigs
from lib.options import ROOT

FINEWEBEDU = {
    "MODEL": "gpt2",
    "GPT2_SIZE": "124m",
    "GPT2_BLOCK_SIZE": 1024,
    "DATASET": "finewebedu",
    "TOKENIZER": "gpt2",
    "PRECISION": "bf16",
    "COMPILE": True,
    "MAX_ITERS": 10_000,
    "EVAL_SAMPLES": 200,
    "EVAL_BATCH_SIZE": 64,
}
A10G = "gpt2-finewebedu-a10gx4"
EXPECTED: dict[str, dict[str, Any]] = {
    A10G: FINEWEBEDU | {"OPTIMIZER": "adamw", "PRUNING": "none", "WEIGHT_DECAY": 0.1, "LEARNING_RATE": 6e-4},
    **{
        f"{A10G}-{name}": FINEWEBEDU | {"OPTIMIZER": name, "PRUNING": "none"}
        for name in ("sgd", "adam", "adamwadv", "adamwspam")
    },
    f"{A10G}-adamwprune": FINEWEBEDU | {"OPTIMIZER": "adamwprune", "PRUNING": "state", "TARGET_SPARSITY": 0.5},
    f"{A10G}-magnitude": FINEWEBEDU | {"OPTIMIZER": "adamw", "PRUNING": "magnitude"},
    f"{A10G}-movement": FINEWEBEDU | {"OPTIMIZER": "adamw", "PRUNING": "movement"},
    "gpt2-shakespeare": {"MODEL": "gpt2", "DATASET": "shakespeare", "TOKENIZER": "bytes"},
    "gpt2-tinystories": {"MODEL": "gpt2", "DATASET": "tinystories", "TOKENIZER": "trained"},
    "gpt2-stdlib": {"MODEL": "gpt2", "DATASET": "stdlib", "GPT2_SIZE": "tiny", "PRECISION": "fp32"},
    "resnet50-cifar100": {"DATASET": "cifar100", "RESNET50_DEPTH": "50", "DATASET_AUGMENT": True},
    "resnet18-cifar10": {"DATASET": "cifar10", "RESNET50_DEPTH": "18", "RESNET50_WIDTH": 64},
    "lenet5-mnist": {"MODEL": "lenet5", "DATASET": "mnist"},
    "lenet5-digits": {"MODEL": "lenet5", "DATASET": "digits"},
}


def values_of(name: str) -> dict[str, Any]:
    (file,) = [item.path for item in defconfigs.listing(ROOT) if item.name == name]
    return kconf.resolve(ROOT, base=file, assignments=[]).values


@pytest.mark.parametrize("name", EXPECTED)
def test_a_defconfig_means_what_its_name_says(name: str) -> None:
    values = values_of(name)
    assert {symbol: values[symbol] for symbol in EXPECTED[name]} == EXPECTED[name]


def test_a_step_on_four_a10gs_sees_about_half_a_million_tokens() -> None:
    values = values_of(A10G)
    samples = values["BATCH_SIZE"] * values["GRADIENT_ACCUMULATION"] * 4
    assert samples * values["GPT2_BLOCK_SIZE"] == 491_520  # as nanoGPT, and like GPT-2's own
