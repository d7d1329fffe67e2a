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


def redact(text: str, env: Mapping[str, str] | None = None) -> str:
    """`text` with the values of secret environment variables replaced by `$NAME`, longest first."""
    variables = os.environ if env is None else env
    secrets = [(value, name) for name, value in variables.items() if secret(name)]
    for value, name in sorted(secrets, key=lambda pair: -len(pair[0])):
        if len(value) >= _SHORTEST:
            text = text.replace(value, f"${name}")
    text = _KNOWN_SHAPES.sub(lambda match: f"{match.group(1)}…", text)
    return _URL_USER.sub("…", text)
