"""Which names hold secrets, every form in which a secret is replaced, and what stays as it is."""

from __future__ import annotations

import base64
import html
import json
import re
import shlex
from collections.abc import Callable
from urllib.parse import quote, quote_plus, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease import redact as module
from flagrelease.redact import redact, remember, secret, secret_variables, secrets_for, without_secrets

HUSH = 'Tr0ub4dor&3 "é"/+\\%'
"""A secret that every way of writing changes."""


@pytest.fixture(autouse=True)
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_remembered", {})


@pytest.mark.parametrize(
    "name",
    [
        *("HF_TOKEN", "GITHUB_TOKEN", "TOKEN", "token", "Hf_Token", "FLAGRELEASE_REGISTRY_PASSWORD", "DB_PASSWD"),
        *("AWS_SECRET_ACCESS_KEY", "API_KEY", "OPENAI_API_KEY", "API_KEYS", "SSH_PASSPHRASE", "REGISTRY_PASS", "PASS"),
        *("CLIENT_SECRET", "SECRETS", "GOOGLE_APPLICATION_CREDENTIALS", "NPM_AUTH", "DOCKER_AUTH_CONFIG", "GITLAB_PAT"),
        *("SESSION_COOKIE", "ROOT_PWD", "TOKEN_2", "API_KEY1", "registry.password", "x-api-key"),
    ],
)
def test_names_that_hold_secrets(name: str) -> None:
    assert secret(name)


@pytest.mark.parametrize(
    "name",
    [
        *("PATH", "PWD", "OLDPWD", "HOME", "AUTHOR"),
        *("AUTHORS", "BYPASS", "COMPASS", "PASSES", "MONKEYS_FED", "KEYBOARD"),
        *("TOKENIZER", "MAX_TOKENS", "max_tokens", "SPATIAL", "COMPAT", "SECRETARY", "HF_ENDPOINT", "DOCKER_HOST", ""),
    ],
)
def test_names_that_hold_no_secrets(name: str) -> None:
    assert not secret(name)


def test_a_variable_is_a_secret_by_its_name_or_by_the_password_in_its_url() -> None:
    env = {
        "HF_TOKEN": "hush-hush",
        "HTTPS_PROXY": "http://me:hush-hush@proxy:80",
        "MY_TOKENS": "hush-hush",
        "MAX_TOKENS": "4096",
        "HF_ENDPOINT": "https://hub.example",
        "PATH": "/bin",
    }
    assert set(secret_variables(env)) == {"HF_TOKEN", "HTTPS_PROXY", "MY_TOKENS"}
    assert set(without_secrets(env)) == {"MAX_TOKENS", "HF_ENDPOINT", "PATH"}


def test_a_program_gets_the_secrets_that_it_is_given_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_TOKEN", "UV_INDEX_PASSWORD", "UV_INDEX_PASSWORD_2", "OTHER_TOKEN"):
        monkeypatch.setenv(name, f"hush-{name}")
    monkeypatch.setenv("UV_CACHE", "/cache")
    assert secrets_for("HF_TOKEN", "UV_*") == {
        name: f"hush-{name}" for name in ("HF_TOKEN", "UV_INDEX_PASSWORD", "UV_INDEX_PASSWORD_2")
    }


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


FORMS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "with a newline": lambda text: f"{text}\n",
    "JSON": json.dumps,
    "JSON with letters as they are": lambda text: json.dumps(text, ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps({"a": text})),
    "after an escaped line break": lambda text: json.dumps(f"first\n{text}\tlast"),
    "Python": repr,
    "HTML": html.escape,
    "shell": shlex.quote,
    "YAML": lambda text: "'" + text.replace("'", "''") + "'",
    "URL": lambda text: f"https://x/?a={quote(text, safe='')}&b=1",
    "URL with slashes": lambda text: f"https://x/{quote(text)}/y",
    "form": quote_plus,
    "URL in lower case": lambda text: re.sub("%..", lambda part: part.group().lower(), quote(text, safe="")),
    "user and password of a URL": lambda text: f"https://me:{quote(text, safe='')}@host/path",
    "base64": in_base64,
    "base64 for URLs": lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
    "Basic": lambda text: f"Authorization: Basic {in_base64(f'me:{text}')}",
    "Bearer": lambda text: f"authorization: Bearer {text}",
    **{f"base64 after {n}": lambda text, n=n: in_base64(f"{'u' * n}{text} and more") for n in range(4)},  # type: ignore[misc]
    "base64 in JSON after a line break": lambda text: json.dumps("auth:\n" + in_base64(f"{text}\n")),
}


def leaks(text: str, value: str) -> bool:
    """Whether the value can be read in the text, however often that is decoded."""
    seen = {text}
    for _ in range(2):
        seen |= {html.unescape(each) for each in seen}
        seen |= set(map(unquote_plus, seen))
        seen |= {re.sub(r"\\u([0-9a-f]{4})", lambda part: chr(int(part[1], 16)), each) for each in seen}
        seen |= {re.sub(r"\\(.)", r"\1", each) for each in seen}
    return any(value in each for each in seen)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "value", [HUSH, "hush-hush-hush", "s3cr3t", "-----BEGIN-----\nMIIEvQIBADANBgkq\n-----END-----"]
)
def test_every_written_form_is_replaced(form: str, value: str) -> None:
    redacted = redact(f"before {FORMS[form](value)} after", {"SOME_TOKEN": value})
    assert not leaks(redacted, value)
    assert in_base64(value)[:-4] not in redacted
    assert redacted.startswith("before ")
    assert redacted.endswith(" after")
    assert "$SOME_TOKEN" in redacted or "…" in redacted


@pytest.mark.parametrize("secret_text", ["hunter", "hush", "123456", "s3cr3t-long-enough", HUSH])
@pytest.mark.parametrize("before", ["", "a\n", "a\t", "a\r\n", '"', "'", " ", "=", ":", "\\"])
def test_json_is_redacted_and_stays_json(secret_text: str, before: str) -> None:
    """Word-like secrets count only where they stand alone; the letter of an escape does not belong to a word."""
    for text in (secret_text, in_base64(f"x:{secret_text}"), f"Bearer {secret_text}"):
        written = json.dumps({"said": f"{before}{text}\nnext", "more": f'"{before}{text}"'})
        read = json.loads(redact(written, {"SOME_TOKEN": secret_text}))
        assert secret_text not in "".join(read.values())


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:opensesame@host/x", "https://…@host/x"),
        ("postgres://:opensesame@host", "postgres://…@host"),
        ("https://opensesame@host/x", "https://…@host/x"),
        ("ssh://git@host/x", "ssh://git@host/x"),
        ("https://host/x@1.0", "https://host/x@1.0"),
        ("Authorization: Bearer opensesame", "Authorization: Bearer …"),
        ("{'Authorization': 'Basic b3BlbnNlc2FtZQ=='}", "{'Authorization': 'Basic …'}"),
        ("AUTHORIZATION=token opensesame", "AUTHORIZATION=token …"),
        ("https://x/f?a=1&token=opensesame&b=2", "https://x/f?a=1&token=…&b=2"),
        ("https://x/f?X-Amz-Signature=0a1b", "https://x/f?X-Amz-Signature=…"),
        ("https://x/f?api_key=opensesame#end", "https://x/f?api_key=…"),
        ("https://x/f?page=2", "https://x/f?page=2"),
        ("hf_abcdefghijklmnop and ghp_ABCDEFGHIJKLMNOPQRST", "hf_… and ghp_…"),
        ('"\\nhf_abcdefghijklmnop"', '"\\nhf_…"'),
        ("hf_short sk-learn", "hf_short sk-learn"),
        ('{"a": "see \\"https://x/?token=opensesame\\""}', '{"a": "see \\"https://x/?token=…\\""}'),
        ('"\\r\\nAuthorization: Bearer opensesame\\r\\nHost: x"', '"\\r\\nAuthorization: Bearer …\\r\\nHost: x"'),
        ('"{\\"Authorization\\": \\"Bearer opensesame\\"}"', '"{\\"Authorization\\": \\"Bearer …\\"}"'),
    ],
)
def test_what_looks_like_a_secret_is_replaced_though_it_is_not_known(text: str, shown: str) -> None:
    assert redact(text, {}) == shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("abc", "abc"),
        ("1", "1 of 10"),
        ("12345", "12345"),
        *(
            (ordinary, f"it is {ordinary}")
            for ordinary in (
                *("true", "none", "default", "local", "Test", "EMPTY", "root", "auto", "disabled", "enabled", "false"),
                *("localhost", "main", "null", "prod", "stub", "user"),
            )
        ),
        ("", "anything"),
        (" \n", "any thing\n"),
        ("123456", "x1234567 0123456 a123456"),
        ("hush", "hushed, unhush, hush_x"),
        ("letter", "letters and newsletter"),
    ],
)
def test_short_and_ordinary_values_are_not_replaced(value: str, text: str) -> None:
    assert redact(text, {"SOME_TOKEN": value}) == text


def test_a_word_is_replaced_where_it_stands_alone_but_not_as_a_key_of_json() -> None:
    secrets = {"SOME_TOKEN": "letter"}
    assert redact("letter, 'letter' (letter)", secrets) == "$SOME_TOKEN, '$SOME_TOKEN' ($SOME_TOKEN)"
    assert redact('{"letter": "letter"}', secrets) == '{"letter": "$SOME_TOKEN"}'


def test_of_a_url_its_password_is_the_secret() -> None:
    secrets = secret_variables({"HTTPS_PROXY": "http://me:opensesame@proxy:80"})
    assert redact("proxy:80 refused opensesame of me", secrets) == "proxy:80 refused $HTTPS_PROXY of me"


def test_the_longest_secret_is_replaced_first() -> None:
    secrets = {"A_KEY": "abcdefgh", "B_KEY": "abcdefghijkl"}
    assert redact("abcdefghijkl abcdefgh", secrets) == "$B_KEY $A_KEY"


def test_the_environment_is_read_where_no_secrets_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "opensesame!")
    assert redact("opensesame!") == "$SOME_TOKEN"
    monkeypatch.delenv("SOME_TOKEN")
    assert redact("opensesame!") == "opensesame!"


def test_a_remembered_secret_is_replaced_under_its_name() -> None:
    assert redact("opensesame!") == "opensesame!"
    remember("docker-login", "opensesame!")
    remember("docker-login", "another-one!")
    remember("nothing", "")
    assert redact("opensesame! another-one!") == "$docker-login $docker-login"
    assert secret_variables({}) == {}


VALUES = st.text(min_size=6, max_size=40).filter(lambda text: len(text.strip()) >= 6 and not text.strip().isalnum())
AROUND = st.text(alphabet=list("ab \n\"'=:/?&"), max_size=12)


@given(VALUES, AROUND, AROUND)
def test_no_value_is_left_in_a_text_or_in_its_json(value: str, before: str, after: str) -> None:
    plain = value.strip()
    known = {"A_TOKEN": value}
    if plain.lower() in before.lower() + after.lower() or plain in "$A_TOKEN…":
        return
    assert plain not in redact(f"{before}{value}{after}", known).replace("$A_TOKEN", "")
    for ascii_only in (True, False):
        read = json.loads(redact(json.dumps([f"{before}{value}{after}"], ensure_ascii=ascii_only), known))
        assert plain not in read[0].replace("$A_TOKEN", "")


@given(VALUES, st.binary(max_size=9), st.binary(max_size=9))
def test_no_value_is_left_in_base64(value: str, before: bytes, after: bytes) -> None:
    written = base64.b64encode(before + value.encode() + after).decode()
    assert redact(f"x {written} y", {"A_TOKEN": value}) == "x $A_TOKEN y"


@pytest.mark.parametrize("before", ["", "x ", "\\n", "\\t", "\\u000a", "\\uabcd", '"'])
def test_of_what_stands_before_base64_nothing_is_lost(before: str) -> None:
    written = base64.b64encode(b"user:opensesame!").decode()
    assert redact(f"{before}{written} y", {"A_TOKEN": "opensesame!"}) == f"{before}$A_TOKEN y"


@given(st.text(max_size=60))
def test_without_secrets_an_ordinary_text_stays_and_twice_is_once(text: str) -> None:
    once = redact(text, {})
    assert redact(once, {}) == once
    if "://" not in text and "=" not in text and "uthorization" not in text.lower() and "_" not in text:
        assert "-" in text or once == text
