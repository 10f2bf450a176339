"""GPT-2's weights by the names of Hugging Face's transformers: read from a folder or the hub, and written.

transformers' linear layers are OpenAI's `Conv1D`, whose matrices are transposed. What a network of ours without biases
lacks is written as zeros, and the rows of the embedding that stand for no token are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gpt2.model import GPT2
from lib.data import hub
from lib.errors import Refused

CONFIG, WEIGHTS = "config.json", "model.safetensors"
OUTSIDE = {"tokens.weight": "wte.weight", "positions.weight": "wpe.weight", "norm.": "ln_f."}
INSIDE = {
    "norm1.": "ln_1.",
    "attention.qkv.": "attn.c_attn.",
    "attention.out.": "attn.c_proj.",
    "norm2.": "ln_2.",
    "up.": "mlp.c_fc.",
    "down.": "mlp.c_proj.",
}
TRANSPOSED = re.compile(r".*\.(c_attn|c_proj|c_fc)\.weight")
SYMBOLS = {"layers": "n_layer", "heads": "n_head", "width": "n_embd"}  # of the same meaning here and there
ACTIVATIONS = ("gelu", "gelu_new")  # exact, by tanh


@torch.no_grad()
def load(model: GPT2, source: str) -> None:
    """Put the weights of `source`, a folder or a name on the hub ("gpt2", "openai-community/gpt2"), into `model`.

    Its block may be shorter than theirs: the first positions are kept.

    Raises:
        Refused: it can't be read, or is of another shape; the line says what to set.
        lib.data.DataError: the hub can't be reached or has no such model.
    """
    folder = Path(source)
    if not folder.is_dir():
        folder = _fetched(source)
    try:
        config = json.loads((folder / CONFIG).read_text())
        theirs = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    except (OSError, ValueError, SafetensorError) as problem:
        why = str(problem).splitlines()[0]
        raise Refused(
            f"GPT2_INIT_FROM={source}: no {CONFIG} and {WEIGHTS} that can be read ({why}). Name a GPT-2"
        ) from problem
    _check_fits(model, config, source)
    try:
        for name, tensor in model.named_parameters():
            name_there = theirs_name(name)
            value = theirs[name_there]
            value = value.mT if TRANSPOSED.fullmatch(name_there) else value
            if name == "tokens.weight":
                tensor.zero_()[: model.vocabulary] = value  # (vocabulary, C) -> (rows, C)
            else:
                tensor.copy_(value[: model.block_size] if name == "positions.weight" else value)
    except (KeyError, RuntimeError) as problem:
        raise Refused(f"GPT2_INIT_FROM={source}: {WEIGHTS} is not a GPT-2's ({problem})") from problem


def save(
    weights: Mapping[str, Tensor],
    folder: Path,
    *,
    heads: int,
    gelu_tanh: bool,
    vocabulary: int,
    end: int,
    about: Mapping[str, object],
) -> None:
    """Write config.json and model.safetensors so that `GPT2LMHeadModel.from_pretrained(folder)` is this network.

    `weights` are a GPT2's, by our names; `end` is the token that ends a document. `about` is kept in config.json.
    """
    tensors = {theirs_name(name): tensor for name, tensor in weights.items()}
    tensors = {name: tensor.mT if TRANSPOSED.fullmatch(name) else tensor for name, tensor in tensors.items()}
    tensors["wte.weight"] = tensors["wte.weight"][:vocabulary]  # (rows, C) -> (vocabulary, C)
    for name in [name for name in tensors if name.endswith(".weight") and not name.startswith(("wte", "wpe"))]:
        width = tensors[name].shape[-1]
        tensors.setdefault(name.removesuffix("weight") + "bias", tensors[name].new_zeros(width))
    tensors = {f"transformer.{name}": tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    (length, width), layers = weights["positions.weight"].shape, _layers(weights)
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": ACTIVATIONS[gelu_tanh],
        "layer_norm_epsilon": 1e-5,
        "vocab_size": vocabulary,
        "n_positions": length,
        "n_embd": width,
        "n_layer": layers,
        "n_head": heads,
        "bos_token_id": end,
        "eos_token_id": end,
        "tie_word_embeddings": True,
        "kilter": about,
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def theirs_name(name: str) -> str:
    """blocks.3.attention.qkv.weight -> h.3.attn.c_attn.weight"""
    inside = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
    words, rest, start = (INSIDE, inside[2], f"h.{inside[1]}.") if inside else (OUTSIDE, name, "")
    ours = next(ours for ours in words if rest.startswith(ours))
    return start + words[ours] + rest.removeprefix(ours)


def _layers(weights: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def _check_fits(model: GPT2, config: Mapping[str, object], source: str) -> None:
    """Raises Refused with every size that must be set otherwise."""
    ours = {
        "layers": len(model.blocks),
        "heads": model.heads,
        "width": model.positions.embedding_dim,
    }
    wrong = [
        f"GPT2_{name.upper()}={config.get(there)}, not {ours[name]}"
        for name, there in SYMBOLS.items()
        if config.get(there) != ours[name]
    ]
    positions, vocabulary = config.get("n_positions"), config.get("vocab_size")
    if not isinstance(positions, int) or positions < model.block_size:
        wrong.append(f"GPT2_BLOCK_SIZE={positions} at most, not {model.block_size}")
    if model.norm.bias is None:
        wrong.append("GPT2_BIAS=y")
    activation = str(config.get("activation_function", "gelu_new"))  # which is transformers' default
    if activation not in ACTIVATIONS:
        wrong.append(f"a network with {' or '.join(ACTIVATIONS)}, not {activation}")
    elif activation != ACTIVATIONS[model.gelu_tanh]:
        wrong.append(f"GPT2_GELU_TANH={'n' if model.gelu_tanh else 'y'}")
    if vocabulary != model.vocabulary:
        wrong.append(f"a tokenizer with {vocabulary} tokens, not {model.vocabulary}; GPT-2's own has 50257")
    if wrong:
        raise Refused(f"GPT2_INIT_FROM={source}: is of another shape. Set {'; '.join(wrong)}")


def _fetched(source: str) -> Path:
    """The folder in Hugging Face's cache that holds the files of `source`; HF_ENDPOINT and HF_HOME are honoured."""
    from huggingface_hub import hf_hub_download

    with hub.readable(source, instead='GPT2_INIT_FROM="", random weights'):
        paths = [Path(hf_hub_download(source, file)) for file in (CONFIG, WEIGHTS)]
    return paths[0].parent
