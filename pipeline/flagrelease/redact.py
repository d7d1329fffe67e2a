"""Know the secrets of this process, and remove them from text that is printed or stored.

A secret is known by its value: that of an environment variable with such a name, or one that was remembered when it
was read elsewhere. It is found as it is, and as URLs, JSON, Python, HTML, shells and base64 write it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache

_SECRET_NAME = re.compile(
    r"(KEYS?|SECRETS?|PASSWORDS?|PASSWD|PASSPHRASE|(?<!BY)(?<!COM)PASS|TOKEN|CREDENTIALS?"
    r"|(^|[_.-])(AUTH|AUTH_STRING|AUTH_CONFIG|PAT|COOKIE)|[_.-]PWD)([_.-]?[0-9]+)?$"
)
_TOKENS = re.compile(r"TOKENS([_.-]?[0-9]+)?$")
_START = r"(?:\b|(?<=\\[nrt]))"
"""The start of a word, also where JSON has written a line break in front of it."""
_KNOWN_SHAPES = re.compile(
    _START + r"(gh[pousr]_|github_pat_|glpat-|dckr_pat_|hf_|sk-|ms-|xox[abpr]-)[A-Za-z0-9_-]{16,}"
)
_URL_USER = re.compile(
    r"(?<=://)[^/@\s:\"']*:[^/\s\"']+(?=@)|(?<=http://)[^/\s:\"'@]+(?=@)|(?<=https://)[^/\s:\"'@]+(?=@)"
)
_URL_PASSWORD = re.compile(r"://[^/@\s:]*:([^/\s]+)@")
_HEADER = re.compile(rf"(?i)({_START}authorization\\*[\"']?\s*[:=]\s*\\*[\"']?(?:basic|bearer|token)\s+)[^\s\"',\\]+")
_QUERY = re.compile(r"(?i)([?&][\w.-]*(?:token|signature|secret|password|credential|api_?key)=)[^&\s\"'<>\\]+")

_SHORTEST = 4
_SHORTEST_ANYWHERE = 6
_LONGEST_WORD = 12
_SHORTEST_LINE = 12
_ORDINARY = frozenset(
    {"auto", "default", "disabled", "empty", "enabled", "false", "local", "localhost"}
    | {"main", "none", "null", "prod", "root", "stub", "test", "true", "user"}
)
"""Values that no secret has, but variables with the name of one do."""

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
"""Variables with the URLs, and maybe the passwords, of proxies: for programs that use the network."""
PIP = (*PROXIES, "PIP_*")
"""Variables of pip's own settings, such as an index URL with a password: for pip where it asks its index."""
UV = (*PROXIES, "UV_*")
"""The same for uv."""

_remembered: dict[str, str] = {}


def secret(name: str) -> bool:
    """Whether an environment variable with this name holds a secret."""
    return _SECRET_NAME.search(name.upper()) is not None


def remember(name: str, value: str) -> None:
    """Count `value` as a secret from now on, shown as `$name`; for those that are read from elsewhere."""
    if value:
        _remembered[value] = name


def secret_variables(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of the environment that hold secrets, and without `env` the secrets that were remembered, by name.
    Pass them to `redact` to read the environment once."""
    found = {name: value for name, value in (os.environ if env is None else env).items() if _holds(name, value)}
    if env is None:
        found |= {f"{name}#{number}": value for number, (value, name) in enumerate(_remembered.items())}
    return found


def without_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """The environment for a program that needs none of our secrets; a URL with a password counts as one."""
    return {name: value for name, value in env.items() if not _holds(name, value)}


def secrets_for(*names: str) -> dict[str, str]:
    """The secrets of the environment that a program needs: the variables of these names, or beginning with `NAME*`."""
    wanted = tuple(name.removesuffix("*") for name in names if name.endswith("*"))
    return {
        name: value
        for name, value in os.environ.items()
        if (name in names or name.startswith(wanted)) and _holds(name, value)
    }


def redact(text: str, secrets: Mapping[str, str] | None = None) -> str:
    """`text` with `secrets` (by default, all that are known) replaced by `$NAME`, longest first."""
    known = secret_variables() if secrets is None else secrets
    for form in _forms(tuple(known.items())):
        text = form(text)
    text = _KNOWN_SHAPES.sub(lambda match: f"{match.group(1)}…", text)
    text = _HEADER.sub(r"\1…", text) if "uthorization" in text or "UTHORIZATION" in text else text
    text = _QUERY.sub(r"\1…", text) if "=" in text else text
    return _URL_USER.sub("…", text) if "://" in text else text


def secret_in(data: bytes) -> str:
    """The name of a known secret whose value is in `data`, in any form; empty if none is. Values that may be ordinary
    words or numbers do not count."""
    return next((name for written, name in _traces(tuple(secret_variables().items())) if written in data), "")


@lru_cache(maxsize=8)
def _traces(secrets: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, str], ...]:
    """What data that contains one of these secrets contains, with the secret's name."""
    found: dict[bytes, str] = {}
    for name, value in secrets:
        for plain in _plain(name, value):
            if not _is_word(plain):
                for written in (*_written(plain), *_base64("", plain)):
                    found.setdefault(written.encode(errors="surrogateescape"), name.partition("#")[0])
    return tuple(found.items())


@lru_cache(maxsize=4096)
def _holds(name: str, value: str) -> bool:
    """Whether the variable holds a secret: by its name, or because it is a URL with a password."""
    if secret(name):
        return True
    if _TOKENS.search(name.upper()) and not value.strip().isdigit():
        return True
    return "://" in value and _URL_PASSWORD.search(value) is not None


Form = Callable[[str], str]
"""Replaces one way to write a secret."""


@lru_cache(maxsize=8)
def _forms(secrets: tuple[tuple[str, str], ...]) -> tuple[Form, ...]:
    """All ways to write these secrets, longest first."""
    found: dict[str, tuple[str, str]] = {}
    for name, value in secrets:
        shown = f"${name.partition('#')[0]}"
        for plain in _plain(name, value):
            for written in _written(plain):
                found.setdefault(written, (shown, plain))
    ordered = sorted(found.items(), key=lambda item: -len(item[0]))
    forms = [_replaced(written, shown, _is_word(plain)) for written, (shown, plain) in ordered]
    encoded = {core: f"${name.partition('#')[0]}" for name, value in secrets for core in _base64(name, value)}
    return (*(_expanded(core, shown) for core, shown in encoded.items()), *forms)


def _plain(name: str, value: str) -> Iterator[str]:
    """The secret without white space at its ends, and its long lines, which may be printed apart; of a URL, its
    password."""
    if (password := _URL_PASSWORD.search(value)) and not secret(name.partition("#")[0]):
        value = password[1]
    whole = value.strip()
    lines = [line.strip() for line in whole.splitlines() if len(line.strip()) >= _SHORTEST_LINE]
    for text in dict.fromkeys((whole, *lines)):
        least = _SHORTEST_ANYWHERE if text.isdigit() else _SHORTEST
        if len(text) >= least and text.lower() not in _ORDINARY:
            yield text


def _is_word(text: str) -> bool:
    """Whether the secret may be part of an ordinary word or number, so that it counts only where it stands alone."""
    lower = len(text) < _LONGEST_WORD and text.isalpha() and text.islower()
    return len(text) < _SHORTEST_ANYWHERE or text.isdigit() or lower


def _written(text: str) -> set[str]:
    import html
    import json
    import shlex
    from urllib.parse import quote, quote_plus

    once = json.dumps(text)[1:-1]
    forms = {text, once, json.dumps(text, ensure_ascii=False)[1:-1], json.dumps(once)[1:-1], repr(text)[1:-1]}
    forms |= {html.escape(text), shlex.quote(text).strip("'"), text.replace("'", "''"), " ".join(text.split())}
    data = text.encode(errors="surrogateescape")
    encoded = {quote(data, safe=""), quote(data), quote_plus(data)}
    lower = {re.sub("%..", lambda match: match.group().lower(), each) for each in encoded}
    return {form for form in forms | encoded | lower if form}


def _replaced(written: str, shown: str, word: bool) -> Form:
    if not word:
        return lambda text: text.replace(written, shown)
    # A key of a JSON object is no secret: the reader of our JSON looks for it.
    # The letter of an escape, as in \n and %2F, is no part of the word that follows.
    before = r"(?:(?<![A-Za-z0-9_])|(?<=\\[nrtbf])|(?<=\\u[0-9a-fA-F]{4})|(?<=%[0-9A-Fa-f]{2}))"
    alone = re.compile(rf"{before}{re.escape(written)}(?![A-Za-z0-9_])(?!\"\s*:)")
    return lambda text: alone.sub(lambda _match: shown, text) if written in text else text


def _base64(name: str, value: str) -> Iterator[str]:
    """What base64 of any text that contains the secret contains: one form for each place in a group of three bytes."""
    import base64

    for plain in _plain(name, value):
        data = plain.encode(errors="surrogateescape")
        if len(data) < _SHORTEST_ANYWHERE:
            continue
        for before in range(3):
            for encode in (base64.b64encode, base64.urlsafe_b64encode):
                text = encode(b"\0" * before + data).decode()
                yield text[-(-before * 8 // 6) : (before + len(data)) * 8 // 6]


_BASE64 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=")


def _expanded(core: str, shown: str) -> Form:
    """Replace the whole encoded word around `core`."""

    def replace(text: str) -> str:
        while (found := text.find(core)) >= 0:
            start, end = found, found + len(core)
            while start > 0 and text[start - 1] in _BASE64:
                start -= 1
            if start > 0 and text[start - 1] == "\\":  # in JSON, the word follows \n or \u000a
                start = min(start + (5 if text[start] == "u" else 1), found)
            while end < len(text) and text[end] in _BASE64:
                end += 1
            text = text[:start] + shown + text[end:]
        return text

    return replace
