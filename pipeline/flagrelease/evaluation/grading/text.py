"""Extract parts of free text. Every function expects text without thinking, and takes linear time in its length."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Box", "bold", "boxed", "boxes", "listed", "marked", "marks", "plain", "readable", "tagged"]

_LINE = 400
"""Characters of a line after a mark that are read: an answer is short, and a looping model marks thousands."""

_NAMED = r"(?:(?:final|correct|right|best|my|chosen|selected)\s{1,8})"
_THING = (
    rf"(?:\b(?:answers?|ans)\b|\b{_NAMED}(?:option|choice|one|alternative|letter|response|statement|value|result)\b)"
)
_OTHERS = r"\b(?:antwort|réponse|respuesta|risposta|resposta|antwoord|ответ|đáp\s+án)(?:\s+(?:corr\w+|finale?))?\b"
_BETWEEN = r"(?:\s?\([^()\n]{1,20}\)|\s(?:to|for|of|here|that|which|in|would|then)\b[^.:=\n]{0,60}?)?"
_IS = (
    r"(?:\b(?:is|are|equals|must\s+be|should\s+be|would\s+be|will\s+be|has\s+to\s+be|can\s+only\s+be|ist|est|es|là)\b"
    r"|[èé]\s|[:=]|[-=]>|[→⇒]|[-–—](?=\s))"
)
_CHINESE = (
    r"(?:答案|答え|回答|解答|正解|정답)[\s*_]{0,8}(?:应该|應該|应当|就|只能|应)?\s?(?:是|为|為|选|選|は|은|는)?"
    r"[\s*_]{0,8}:?"
)
_MARK = re.compile(
    rf"""
    (?:\*\*)? (?:{_THING}|{_OTHERS}) [*_"'`)\]\s]{{0,8}} {_BETWEEN} [*_"'`)\]\s]{{0,8}} {_IS} \s{{0,8}} :?
    | <(?:final_?)?answer>
    | {_CHINESE}
    | (?<![不能没會会])(?:选择|選擇|选|選)\s{{0,4}}:?(?=[\s(\[*]{{0,8}}[A-Z](?![A-Za-z]))
    | ^[ \t>\#*_]{{0,20}} (?:the\s+)? {_NAMED}* (?:answer|答案) [ \t*_]{{0,20}}
      (?=\n|(?-i:\(?[A-Z]\)?)[ \t*_.]{{0,20}}$)
    """,
    re.IGNORECASE | re.VERBOSE | re.MULTILINE,
)
_BRACE = re.compile(r"(?:[\\\x08]f?(?:frame)?box(?:ed)?|\bboxed|\x08oxed)\s*\{|\\[{}]|[{}]")
_FORMAT = {ord(sign): None for sign in "\u00ad\u200b\u200c\u200d\u2060\ufeff\ufe0f\u200e\u200f"}


class Box(NamedTuple):
    r"""A complete `\boxed{…}`, `\fbox{…}` or `\framebox{…}`."""

    start: int
    end: int
    content: str


def readable(text: str) -> str:
    """Text with full-width and other compatible forms of characters as plain ones, without invisible characters."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text.translate(_FORMAT))


def boxed(text: str) -> str | None:
    r"""The content of the last complete `\boxed{…}`, `\fbox{…}` or `\framebox{…}`, braces balanced."""
    return next((box.content for box in boxes(text)), None)


def boxes(text: str) -> Iterator[Box]:
    """Each complete box, the last first, in linear time: a looping model opens thousands."""
    spans: list[tuple[int, int, int]] = []
    open_: list[re.Match[str]] = []
    for match in _BRACE.finditer(text):
        if match[0] != "\\{" and match[0].endswith("{"):
            open_.append(match)
        elif match[0] == "}" and open_:
            opening = open_.pop()
            if len(opening[0]) > 1:
                spans.append((opening.start(), opening.end(), match.start()))
    for start, inner, end in sorted(spans, reverse=True):
        yield Box(start, end + 1, text[inner:end].strip())


def marked(text: str) -> str | None:
    """The text after the last "Answer:" or "the answer is", up to the end of its line."""
    return next((line or None for _, line in marks(text)), None)


def marks(text: str) -> Iterator[tuple[int, str]]:
    """(start, following text up to the next mark or the end of the first line that is not empty) of each mark, the last
    one first."""
    end = len(text)
    for match in reversed(list(_MARK.finditer(text))):
        following = text[match.end() : min(match.end() + _LINE, end)].lstrip()
        yield match.start(), following.partition("\n")[0].strip()
        end = match.start()


def bold(text: str) -> str | None:
    """The last text between `**` and `**` on one line."""
    spans = [span.strip() for span in re.findall(r"\*\*([^*\n]+)\*\*", text)]
    return next((span for span in reversed(spans) if span), None)


def tagged(text: str, tag: str) -> str | None:
    """The content of the last `<tag>…</tag>`."""
    head, closing, _ = text.rpartition(f"</{tag}>")
    # The last closing tag, and the first opening tag after the one before it: where an opening tag is repeated, the
    # content begins at the first.
    opening = head.find(f"<{tag}>", head.rfind(f"</{tag}>") + 1 if f"</{tag}>" in head else 0)
    return head[opening + len(tag) + 2 :].strip() if closing and opening >= 0 else None


def plain(text: str) -> str:
    """Lower case, single spaces, and no quotation marks, asterisks or sentence marks at either end."""
    return " ".join(text.lower().split()).strip(" \"'`*.,;:!?")


def listed(text: str) -> list[str]:
    """The parts of a comma-separated list, lower-cased, without punctuation at their ends."""
    return [part.strip(" \t\n.*`'\"").lower() for part in text.split(",")]
