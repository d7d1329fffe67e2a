"""Read the whole number answered in a reply, as a careful reader would. Nothing is evaluated without a bound."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from flagrelease.evaluation.grading.arithmetic import SCALE, NoNumber, NotOneNumber, evaluate, whole
from flagrelease.evaluation.grading.text import bold, boxes, marks, readable

__all__ = ["integer"]

_LONGEST = 400
"""Characters of a candidate that are read."""
_SPACES = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_SIGNS = str.maketrans(
    dict.fromkeys("\u2212\u2010\u2011\u2012\ufe63\uff0d", "-") | dict.fromkeys(_SPACES, "\u00a0") | {"٬": ",", "٫": "."}
)
_RAISED = re.compile(r"[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_LOWERED = re.compile(r"[₀₁₂₃₄₅₆₇₈₉]+")
_PART = re.compile(r"[¼½¾⅐-⅞]")

_THIN = r"(?:\\[,;:! ]|\{[,\s]\}|\{\\[,;:! ]\}|~|\u00a0|\\_|['’]|(?<=\d)_(?=\d))"
_GROUPED = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:(?:{_THIN}|,\\!)\d{{3}})+(?!\d)")
_SPACED = re.compile(r"(?<![\d.,] )(?<![\d.,])\d{1,3}(?: \d{3})+(?!\d)(?! \d)")
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{2,3})*,\d{3}(?![\d,]*\d)(?!\.\d+,)")
_POINTS = re.compile(r"(?<![\d.,])\d{1,3}(?:\.\d{3}){2,}(?!\d)|(?<![\d.,])\d{1,3}(?:\.\d{3})+(?=,\d+(?!\d))")

_DROPPED = re.compile(
    r"\\(?:left|right|displaystyle|bf|big|Big|quad|qquad|hspace\{[^{}]*\})(?![A-Za-z])|\\[,;:! ]|\\(?=[{}$])"
    r"|\\p?mod\s*(?:\{[^{}]*\}|\d+)"
    r"|\(\s*\\?mod[^()]*\)|\\bmod\s*\d+|\^\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])|°|\\?%|~|\u00a0|\\\(|\\\)|\\\[|\\\]"
    r"|</?\w{1,20}>|<\|[^|<>]{1,40}\|>|\*\*|__|`"
    r"|\^\s*\{?\s*\\?(?:text\w*|mathrm)?\s*\{?\s*(?:st|nd|rd|th)\s*\}{0,2}|(?<=\d)(?:st|nd|rd|th)\b"
)
_MONEY = re.compile(r"\\?[$€£¥₹₽₩]|\b(?:USD|EUR|GBP|RMB|CNY|Rs\.?)(?![A-Za-z])")
_WORDS_IN_TEX = re.compile(
    r"\\(?:text\w*|math(?:rm|bf|sf|it)|operatorname|mbox|boldsymbol|bm|boxed|fbox)\s*(?:\{([^{}]*)\}|(?=\{))"
)
_EQUALS = re.compile(r"(?<![<>!])=+|≈|≡|⇒|→|\\(?:approx|equiv|simeq|Rightarrow|implies|to|rightarrow)(?![A-Za-z])")
_CLAUSE = re.compile(
    r"[,;]\s+(?=[A-Za-z(\\$]*[A-Za-z]{2})|[.!?](?=\s|$)|\s\(|;"
    r"|\b(?:because|since|where|which|when|if|so|not|but|per|of|out|in)\b",
    re.IGNORECASE,
)
_HEADING = re.compile(
    r"[\s*_#]*(?:step|case|part|check|eq|equation|figure|section|method|example|problem)\b", re.IGNORECASE
)
_RANGE = re.compile(
    r"\d\s*(?:–|—|\bto\b|\bor\b|\\text\{\s*(?:or|to|and)\s*\}|\\pm|±|\.\.+|\\l?dots|…|\\cdots)\s*\$?\d|\bbetween\b|\\pm|±",
    re.IGNORECASE,
)
_SEVERAL = re.compile(r"\d[^=]*\b(?:and|or)\b[^=]*\d", re.IGNORECASE)
_EACH = re.compile(r"\b(?:and|or)\b|,")
_ORDER = re.compile(
    r"[<>≤≥]|\\(?:l|g)(?:e|eq|t|eqslant)(?![A-Za-z])|\b(?:at\s+least|at\s+most|more\s+than|less\s+than)\b"
)
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_NAMES = dict(zip(_ONES.split(), range(20), strict=True)) | dict(zip(_TENS.split(), range(20, 100, 10), strict=True))
_SPELLED = re.compile(
    rf"[\s*_]*(?:{'|'.join(_NAMES)}|hundred|thousand|million|and|minus|negative|[\s-])+", re.IGNORECASE
)
_LAST = re.compile(r"(?<![\w)\]}.])[-+]?\d+(?:\.\d+)?|\d+(?:\.\d+)?")


def integer(text: str) -> int | None:
    r"""The integer answered: in the last `\boxed{…}` with a number, or after `####`, or in the last marked text with
    one, or in the last text in bold that is a number, or the last number of the text. None where that is no integer."""
    text = _clean(text)
    for candidate, exact in _candidates(text):
        try:
            return _value(candidate[:_LONGEST], exact=exact)
        except NoNumber:
            continue
        except NotOneNumber:
            return None
    numbers = _LAST.findall(_ungrouped(text[-20_000:]))
    return whole(Fraction(numbers[-1])) if numbers and len(numbers[-1]) < 1000 else None


def _candidates(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it is an expression alone)."""
    for box in boxes(text):
        yield box.content, True
    _, hashes, tail = text.rpartition("####")
    if hashes:
        yield tail.strip().partition("\n")[0], False
    for _, line in marks(text):
        yield line, False
    strong = bold(text)
    if strong and re.match(r"[\s$\\(]*[-+]?[$€£]?\d", strong):
        yield strong, False


def _clean(text: str) -> str:
    """The text with one form of each digit, minus sign, space and exponent."""
    if text.isascii():
        return text
    text = _PART.sub(lambda match: f"({unicodedata.normalize('NFKC', match[0])})", text.translate(_SIGNS))
    text = _RAISED.sub(lambda match: "^{" + unicodedata.normalize("NFKC", match[0]).replace("\u2212", "-") + "}", text)
    text = _LOWERED.sub(lambda match: "_{" + unicodedata.normalize("NFKC", match[0]) + "}", text)
    text = readable(text.replace("\u00a0", "\ue000")).replace("\ue000", "\u00a0")
    return "".join(_digit(sign) for sign in text)


def _digit(sign: str) -> str:
    if sign.isascii():
        return sign
    value = unicodedata.decimal(sign, None)
    return sign if value is None else str(value)


def _ungrouped(text: str, *, spaces: bool = False) -> str:
    """Numbers without the separators of their thousands."""
    text = text.replace("{,}", ",").replace("\\!", "")
    text = _GROUPED.sub(lambda match: re.sub(r"\D", "", match[0]), text)
    text = _POINTS.sub(lambda match: match[0].replace(".", ""), text)
    if spaces:
        text = _SPACED.sub(lambda match: match[0].replace(" ", ""), re.sub(r"(?<=\d), (?=\d{3}(?!\d))", ",", text))
    text = re.sub(r"(?<=\d),00(?!\d)(?!,\d)", "", text)
    return _COMMAS.sub(lambda match: match[0].replace(",", ""), text)


def _value(candidate: str, *, exact: bool) -> int:
    """The integer that a candidate says. Raises NoNumber, NotOneNumber."""
    text = _ungrouped(candidate, spaces=True)
    if not re.search(r"\d", text):
        return _spelled(text)
    if _HEADING.match(_unwrapped(text)):
        raise NoNumber
    if not exact:
        text = _first_clause(text)
        if not re.search(r"\d", text):
            raise NoNumber
    text = _MONEY.sub("", _DROPPED.sub(" ", _unwrapped(text)))
    text = re.sub(r"\([^()\d]*\)", " ", text)
    if _RANGE.search(text) or _ORDER.search(text) or (exact and _SEVERAL.search(text)):
        raise NotOneNumber
    if exact and len(_EQUALS.findall(text)) > 1 and _EACH.search(text):
        raise NotOneNumber
    sides = [side for side in _EQUALS.split(text) if re.search(r"\d", side)]
    # "x = 42" and "6 · 7 = 42" say the last side, "42 = x" the first.
    value = evaluate(sides[-1], exact=exact)
    answer = whole(value)
    if answer is None:
        raise NotOneNumber
    return answer


def _first_clause(text: str) -> str:
    """A line up to the end of the clause with its first number."""
    number = re.search(r"\d(?:[\d.,]*\d)?", text)
    end = _CLAUSE.search(text, number.end()) if number else None
    equals = _EQUALS.search(text, number.end()) if number else None
    if end is not None and not (equals and equals.start() < end.start()):
        return text[: end.start()]
    if equals is not None:
        end = _CLAUSE.search(text, equals.end())
        return text[: end.start()] if end and re.search(r"\d", text[equals.end() : end.start()]) else text
    return text


def _unwrapped(text: str) -> str:
    r"""`\text{5 apples}` as `5 apples`."""
    while True:
        shorter = _WORDS_IN_TEX.sub(r" \1 ", text)
        if shorter == text:
            return text
        text = shorter


def _spelled(text: str) -> int:
    """A number in English words. Raises NoNumber."""
    text = _unwrapped(text).replace("{", " ").replace("}", " ")
    match = _SPELLED.match(text)
    if match is None:
        raise NoNumber
    words = re.findall(r"[a-z]+", match[0].lower())
    inside_a_word = text[match.end() - 1].isalpha() and re.match(r"[A-Za-z]", text[match.end() :])
    if not set(words) & set(_NAMES) or inside_a_word:
        raise NoNumber
    total = part = 0
    for word in words:
        if word == "hundred":
            part = max(part, 1) * 100
        elif word in SCALE:
            total, part = total + max(part, 1) * SCALE[word], 0
        else:
            part += _NAMES.get(word, 0)
    return -(total + part) if words[0] in ("minus", "negative") else total + part
