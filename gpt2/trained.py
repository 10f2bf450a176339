"""A trained GPT-2: its run's weights as a network, the tokenizer that it was trained with, and what it goes on with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from gpt2.model import GPT2
from lib.data import tokenizer
from lib.data.tokenizer import Tokenizer
from lib.errors import Refused
from lib.files import shown
from lib.journal.folder import RunFolder
from lib.options import ROOT

TOKENIZER = "tokenizer"  # the folder in the run's own that keeps one that was learned
TORN = "\ufffd"  # what a character is shown as while its last bytes are missing
SHAPE = ("layers", "heads", "width", "block_size", "bias", "gelu_tanh")


def load(run: RunFolder, weights: dict[str, Tensor]) -> tuple[GPT2, Tokenizer]:
    """The network of `run` with these weights, not in training, and its tokenizer.

    Raises:
        Refused: they are not of the shape that the run's configuration says.
        lib.data.DataError: the tokenizer is missing or damaged.
    """
    values = run.configuration["values"]
    words = tokenizer.named(values["TOKENIZER"], run.path / TOKENIZER)
    model = GPT2(**{name: values[f"GPT2_{name.upper()}"] for name in SHAPE}, vocabulary=len(weights["tokens.weight"]))
    model.vocabulary = words.vocabulary  # a text with few pairs teaches fewer tokens than TOKENIZER_VOCABULARY
    try:
        model.load_state_dict(weights)
    except RuntimeError as problem:
        why = str(problem).splitlines()[-1].strip()
        raise Refused(f"RUN={shown(run.path, ROOT)}: its checkpoint is another network's ({why})") from problem
    return model.eval(), words


def keep(words: Tokenizer, run: RunFolder) -> None:
    """Put a tokenizer that was learned into the folder of `run`; of the others the name is enough."""
    if words.name not in ("bytes", "gpt2"):
        (run.path / TOKENIZER).mkdir(exist_ok=True)
        words.save(run.path / TOKENIZER)


def continued(
    model: GPT2,
    start: Sequence[int],
    *,
    count: int,
    temperature: float,
    top_k: int,
    generator: torch.Generator,
) -> Iterator[int]:
    """At most `count` tokens after `start`, whose first one, which separates documents, ends the text.

    A token's chance is the softmax of its logit divided by `temperature`, among the `top_k` likeliest (0: all); at
    temperature 0 the likeliest is taken. The draws are the CPU's: the same on every device with the same logits.
    """
    device = next(model.parameters()).device
    tokens = list(start)
    for _ in range(count):
        seen = torch.tensor([tokens[-model.block_size :]], device=device)  # (1, T)
        with torch.no_grad():
            logits = model.logits(model.hidden(seen)[0, -1]).float().cpu()  # (V,)
        if 0 < top_k < len(logits):
            logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
        if temperature:
            chances = (logits / temperature).softmax(-1)
            token = int(torch.multinomial(chances, 1, generator=generator))
        else:
            token = int(logits.argmax())
        if token == start[0]:
            return
        tokens.append(token)
        yield token


def decoded(words: Tokenizer, prompt: Sequence[int], tokens: Iterable[int]) -> Iterator[str]:
    """The text of `prompt` and `tokens`, piece by piece as they come; a character is not torn apart."""
    seen, said = list(prompt), ""
    if prompt:
        yield (said := words.decode(seen))
    for token in tokens:
        seen.append(token)
        text = words.decode(seen)
        if not text.endswith(TORN):
            yield text[len(said) :]
            said = text
    yield words.decode(seen)[len(said) :]
