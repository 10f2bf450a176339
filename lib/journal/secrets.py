"""What may not be written: keys, tokens and passwords, by the name of their variable and by the shape of a URL."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

NAMED = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL|AUTH", re.IGNORECASE)
SHORTEST = 6  # characters: a shorter value is no secret, and would blank out ordinary words
USERINFO = re.compile(r"//[^\s'\"<>]*@")
QUERY = re.compile(r"(\w+://[^\s'\"<>?]*)\?[^\s'\"<>)]*")


def hidden(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without the values of variables that are named like a secret."""
    for name, value in environ.items():
        if len(value) >= SHORTEST and NAMED.search(name):
            text = text.replace(value, "***")
    return text


def scrubbed(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """`text` without those, and its URLs without user, password and query."""
    return QUERY.sub(r"\1", USERINFO.sub("//", hidden(text, environ)))
