"""What may not be written: keys, tokens and passwords, known by their name, by their shape, or as a variable's value.

Nearly every text has nothing to hide, and most are looked at while training waits or a configuration is made. So each
pattern goes with a few letters without which it can't match, and is compiled and tried only where they stand.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
SHORTEST = 6  # characters: a shorter value is no secret, and would blank out ordinary words
LONG = 16  # characters: a key or a token that stands in a text without quotes has at least so many

# Words that make a name a secret's wherever they stand in it.
ALWAYS = frozenset([
    "password", "passwords", "passwd", "passphrase", "secret", "secrets", "credential", "credentials", "authorization",
    "bearer", "apikey", "apikeys", "accesskey", "secretkey", "accesstoken", "authtoken",
])  # fmt: skip
# Words after which a token or a key is none: `pad_token`, `loss_per_token`, `label_key`.
PUBLIC = frozenset([
    "bos", "eos", "pad", "unk", "mask", "sep", "cls", "special", "next", "first", "last", "start", "end", "stop", "per",
    "num", "n", "max", "min", "prefix", "suffix", "image", "audio", "text", "label", "sample", "input", "output",
    "target", "source", "sort", "order", "primary", "foreign", "column", "group", "dict", "cache", "state", "metric",
    "monitor", "feature", "data", "json", "hot", "public",
])  # fmt: skip

# letters without which the pattern can't match (in lower case), the pattern, what stays of a match
SHAPES: tuple[tuple[str, str, str], ...] = (
    ("private key-----", r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", HIDDEN),
    ("hf_", r"\bhf_[A-Za-z0-9]{16,}", HIDDEN),  # Hugging Face
    ("local-", r"\blocal-[0-9a-f]{40}\b", HIDDEN),  # W&B, a server of one's own
    ("wandb_v", r"\bwandb_v\d_\w{16,}", HIDDEN),
    ("sk-", r"(?<![\w-])sk-(?=[\w-]{0,60}\d)[\w-]{16,}", HIDDEN),  # OpenAI, Anthropic
    ("k_", r"\b[rs]k_(?:live|test)_\w{16,}", HIDDEN),  # Stripe
    ("gh", r"\bgh[a-z]_[A-Za-z0-9]{16,}", HIDDEN),  # GitHub
    ("github_pat_", r"\bgithub_pat_\w{16,}", HIDDEN),
    ("glpat-", r"\bglpat-[\w-]{16,}", HIDDEN),  # GitLab
    ("akia", r"\bAKIA[A-Z0-9]{12,}", HIDDEN),  # Amazon
    ("asia", r"\bASIA[A-Z0-9]{12,}", HIDDEN),
    ("aiza", r"\bAIza[\w-]{30,}", HIDDEN),  # Google
    ("xox", r"\bxox[a-z]-[\w-]{8,}", HIDDEN),  # Slack
    ("eyj", r"\beyJ[\w-]{10,}\.[\w-]{6,}[\w.-]*", HIDDEN),  # a JWT
    ("eyj", r"\beyJ[\w+/=-]{32,}", HIDDEN),  # a JSON object in base 64: Neptune's tokens
    ("bearer ", r"\b(?:Bearer +[\w.~+/=-]{8,}|(?i:bearer) +(?=\S{0,60}\d)[\w.~+/=-]{16,})", f"Bearer {HIDDEN}"),
    ("authorization", r"(?i)\b(authorization[\"']?\s*[:=]\s*[\"']?(?:basic|digest|token|api-?key)) +[\w.~+/=-]+",
     rf"\1 {HIDDEN}"),
    # A user and a password, which may have a / or an @; a token in place of the user; parameters.
    ("://", r"://[^\s/:@'\"<>]*:(?!\d+(?:[/?#]|$))[^\s'\"<>]{0,300}@", f"://{HIDDEN}@"),
    ("://", r"://[^\s/:@'\"<>]{16,}@", f"://{HIDDEN}@"),
    ("://", r"(?i)([?&;#](?:[\w.-]{0,80}?(?:key|token|secret|passw|signature|credential|auth(?!or))[\w.-]*|sig)=)"
     r"[^\s&#'\"<>]+", rf"\1{HIDDEN}"),
)  # fmt: skip

NAMING = ("key", "token", "secret", "passw", "passphrase", "credential")
_ASSIGNED = (  # name, what is between, and the value: in one or the other quotes, or bare
    rf"(?i)(?<![\w.-])([\w.-]{{0,80}}?(?:{'|'.join(NAMING)})[\w-]{{0,40}})([\"']?\s*[:=]\s*)"
    r"(?:\"([^\"\n]*)\"|'([^'\n]*)'|([\w+/~=-]{6,}+)(?![(.\[]))"
)


@functools.lru_cache(maxsize=4096)
def named(name: str) -> bool:
    """Whether a text of this name is a secret: `api_key`, `HF_TOKEN`, `db.password`, `accessToken`.

    `tokens_per_second`, `GPT2_TOKENS`, `author`, `pad_token` and `label_key` are not.
    """
    words = [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if not ALWAYS.isdisjoint(words):
        return True
    while words and (words[-1] == "id" or words[-1].isdigit()):  # AWS_ACCESS_KEY_ID, token_2
        words.pop()
    if not words:
        return False
    of = words[-2] if len(words) > 1 else ""
    if words[-1] in ("keys", "tokens"):
        return of in ("api", "access", "auth", "private")
    return words[-1] in ("key", "token") and of not in PUBLIC


def scrubbed(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without what has a secret's shape, stands beside such a name, or is the value of a variable so named."""
    if len(text) < SHORTEST:
        return text
    for name in filter(named, environ):  # before its value is read: that is slow, and most are none
        if len(environ[name]) >= SHORTEST:
            text = text.replace(environ[name], HIDDEN)
    folded = text.lower()
    for letters, pattern, left in SHAPES:
        if letters in folded:
            text = re.sub(pattern, left, text)
    if any(letters in folded for letters in NAMING):
        text = re.sub(_ASSIGNED, _without_value, text)
    return text


def without(content: Any, name: str = "") -> Any:
    """`content`, which is JSON-able, without secrets, however deep they lie; `name` is what it is the value of."""
    if isinstance(content, str):
        return HIDDEN if content and named(name) else scrubbed(content)
    if isinstance(content, Mapping):
        return {scrubbed(str(key)): without(inner, name if named(name) else str(key)) for key, inner in content.items()}
    if isinstance(content, list | tuple):
        before = ["", *content]  # --api-key VALUE
        return [
            without(item, word if isinstance(word, str) and word.startswith("-") else name)
            for word, item in zip(before, content, strict=False)
        ]
    return content


def in_file(name: str, text: str) -> str:
    """`text` without secrets, as it is written to a file of this name: what is JSON stays so."""
    import json  # what checks a configuration is faster without it

    return json.dumps(without(json.loads(text)), indent=1) + "\n" if name.endswith(".json") else scrubbed(text)


def _without_value(found: re.Match[str]) -> str:
    """`name=***` where the name is a secret's and the value looks like one: what is code has to stay code."""
    name, between, _, _, bare = found.groups()
    group = next(group for group in (3, 4, 5) if found[group] is not None)
    value = found[group]
    if len(value) < SHORTEST or not named(name):
        return found[0]
    sure = not {"api", *ALWAYS}.isdisjoint(re.findall(r"[a-z]+", name.lower()))
    random = " " not in value and bool(re.search(r"\d", value) and re.search(r"[A-Za-z]", value))
    if bare is None:
        secret = sure or random
    elif sure:
        secret = random or (between == "=" and not named(value))  # `connect(password=db_password)` is code
    else:
        secret = random and len(value) >= LONG
    if not secret:
        return found[0]
    return found[0][: found.start(group) - found.start()] + HIDDEN + found[0][found.end(group) - found.start() :]
