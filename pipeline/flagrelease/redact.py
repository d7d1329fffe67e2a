"""Remove secrets from text that is printed or stored."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(r"(KEY|SECRET|PASSWORD|TOKEN|CREDENTIALS?)$")
_KNOWN_SHAPES = re.compile(r"\b(ghp_|gho_|dckr_pat_|hf_|sk-|ms-)[A-Za-z0-9_-]{16,}")
_URL_USER = re.compile(r"(?<=://)[^/@\s:]+:[^/@\s]+(?=@)")
_SHORTEST = 6


def secret(name: str) -> bool:
    """Whether an environment variable with this name holds a secret."""
    return _SECRET_NAME.search(name.upper()) is not None


def secret_variables(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of the environment that hold secrets. Pass them to `redact` to read the environment once."""
    return {name: value for name, value in (os.environ if env is None else env).items() if secret(name)}


def redact(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` with the values of secret environment variables replaced by `$NAME`, longest first."""
    for name, value in sorted(secret_variables(env).items(), key=lambda pair: -len(pair[1])):
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"${name}")
    text = _KNOWN_SHAPES.sub(lambda match: f"{match.group(1)}…", text)
    return _URL_USER.sub("…", text)
