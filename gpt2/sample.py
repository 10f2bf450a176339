"""A text from a trained GPT-2, a token at a time: `python gpt2/sample.py RUN --prompt="def " --tokens=100`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from lib import errors, options
from lib.errors import Refused
from lib.journal import folder


def main() -> int:
    given = _parser().parse_args()
    run = folder.find(options.ROOT / "runs", given.run)

    import torch  # from here on it takes seconds

    from gpt2 import trained
    from lib import dist
    from lib.trained import best, model_of

    if model_of(run) != "gpt2":
        raise Refused(f"RUN={given.run}: a run of {model_of(run)}, which makes no text. Name a run of gpt2")
    model, tokenizer = trained.load(run, best(run))
    (prompt,) = tokenizer.encode([given.prompt.encode()])
    tokens = trained.continued(
        model.to(dist.device("auto")),
        [tokenizer.separator, *prompt.tolist()],
        count=given.tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        generator=torch.Generator().manual_seed(given.seed),
    )
    for text in trained.decoded(tokenizer, prompt.tolist(), tokens):
        print(text, end="", flush=True)
    print()
    return 0


class _Parser(argparse.ArgumentParser):
    """Answers a slip with one line, as everything here does."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"sample: {message}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python gpt2/sample.py", description=__doc__.partition(":")[0] if __doc__ else "")
    parser.add_argument("run", metavar="RUN", help="a run's folder or name")
    parser.add_argument("--prompt", default="", help="what the text begins with")
    parser.add_argument("--tokens", type=_whole, default=200, help="how many at most (default %(default)s)")
    parser.add_argument("--temperature", type=_positive, default=0.8, help="0: always the likeliest (default 0.8)")
    parser.add_argument("--top-k", type=_whole, default=200, help="of how many tokens to draw; 0: all (default 200)")
    parser.add_argument("--seed", type=_whole, default=0, help="another one, another text (default 0)")
    return parser


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 on")
    return number


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
