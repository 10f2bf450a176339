"""A trained GPT-2 as a folder that transformers reads: `python gpt2/export.py RUN [FOLDER]`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from gpt2 import pretrained, trained
from lib import errors, options
from lib.data.tokenizer import SEPARATOR, Bytes, Tokenizer
from lib.errors import Refused
from lib.journal import folder
from lib.trained import about, best, written


def main() -> int:
    if len(sys.argv) not in (2, 3):
        raise Refused("usage: python gpt2/export.py RUN [FOLDER]")
    run = folder.find(options.ROOT / "runs", sys.argv[1])
    weights = best(run)
    model, tokenizer = trained.load(run, weights)
    with written(run, Path(sys.argv[2]) if len(sys.argv) == 3 else None, weights) as target:
        pretrained.save(
            weights,
            target,
            heads=model.heads,
            gelu_tanh=model.gelu_tanh,
            vocabulary=tokenizer.vocabulary,
            end=tokenizer.separator,
            about=about(run, weights),
        )
        if not isinstance(tokenizer, Bytes):
            save_tokenizer(tokenizer, target, length=model.block_size)
    return 0


def save_tokenizer(tokenizer: Tokenizer, target: Path, *, length: int) -> None:
    """Write what `AutoTokenizer.from_pretrained` reads; texts of up to `length` tokens fit the model."""
    tokenizer.save(target)
    ends = dict.fromkeys(("bos_token", "eos_token", "unk_token"), SEPARATOR)
    config = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": length, "add_prefix_space": False, **ends}
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(errors.guarded(main))
