"""Evaluate the arithmetic of an answer: `\\frac{84}{2}`, `6 \\times 7`, `2^{10}`. Every value is bounded."""

from __future__ import annotations

import math
import re
from fractions import Fraction

__all__ = ["SCALE", "NoNumber", "NotOneNumber", "evaluate", "whole"]

_BITS = 4096
"""A value with more bits is no answer."""

SCALE = {
    "hundred": 100,
    "thousand": 1000,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "万": 10**4,
    "萬": 10**4,
    "亿": 10**8,
    "億": 10**8,
}
_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+(?![\dA-Za-z]))?|\.\d+)|(?P<name>\\[A-Za-z]+|[A-Za-zα-ωΑ-Ω°%万萬亿億]+)"
    r"|(?P<sign>\S))"
)
_TIMES = frozenset(("*", "×", "·", "⋅", "∙", "\\times", "\\cdot", "\\ast"))
_OVER = frozenset(("/", "÷", "\\div", "\u2044", ":"))
_UNKNOWNS = frozenset("xyzntkabcieprwquvjfπ")


class NotOneNumber(Exception):
    """The candidate says something else than one whole number: a fraction, a formula, several numbers."""


class NoNumber(Exception):
    """The candidate has no number."""


def evaluate(text: str, *, exact: bool) -> Fraction:
    """The value of the first expression in `text`, which may follow words and have a unit.

    With `exact` nothing else may follow. Raises NoNumber, and NotOneNumber for a formula with unknowns, several numbers
    and what is too large.
    """
    return _Parser(text, exact=exact).value()


def whole(value: Fraction) -> int | None:
    """The value as an integer; None if it is none."""
    return int(value) if value.denominator == 1 and value.numerator.bit_length() <= _BITS else None


class _Parser:
    """Arithmetic between words: `n`, `-n`, `a \\times b`, `\\frac{a}{b}`, `a^b`, `n!`, `(…)`; then maybe a unit."""

    def __init__(self, text: str, *, exact: bool) -> None:
        self._exact = exact
        self._tokens = [(match.lastgroup or "", match[match.lastgroup or 0]) for match in _TOKEN.finditer(text)]
        self._at = 0
        self._depth = 0

    def value(self) -> Fraction:
        self._skip_words()
        value = self._sum()
        return self._with_unit(value)

    def _skip_words(self) -> None:
        """Skip what is not a number: names, colons; a sign belongs to the number if it stands before it."""
        while self._at < len(self._tokens):
            kind, word = self._tokens[self._at]
            if kind == "number" or word in ("\\frac", "\\dfrac", "\\tfrac", "\\binom", "\\sqrt", "(", "{", "["):
                return
            if word in "+-" and self._starts_number(1):
                return
            following = self._peek(1)[1]
            if following in ("_", "^") or (self._exact and self._is_formula(kind, word, following)):
                raise NotOneNumber
            self._at += 1
        raise NoNumber

    @staticmethod
    def _is_formula(kind: str, word: str, following: str) -> bool:
        """Whether a name before the first number is a function or an unknown rather than a word."""
        if kind != "name":
            return word == "|"
        if word.startswith("\\"):
            return word not in _WORDS
        return len(word) == 1 and following in tuple("(+-*/")

    def _peek(self, further: int = 0) -> tuple[str, str]:
        at = self._at + further
        return self._tokens[at] if at < len(self._tokens) else ("", "")

    def _next(self) -> tuple[str, str]:
        word = self._peek()
        self._at += 1
        return word

    def _sum(self) -> Fraction:
        value = self._product()
        while self._peek()[1] in ("+", "-") and self._starts_number(1):
            _, sign = self._next()
            other = self._product()
            if sign == "-" and value < other:
                raise NotOneNumber  # a range: 5-10
            value = value + other if sign == "+" else value - other
        return value

    def _starts_number(self, further: int) -> bool:
        kind, word = self._peek(further)
        return kind == "number" or word in ("\\frac", "\\dfrac", "\\tfrac", "\\binom", "\\sqrt", "(", "{")

    def _product(self) -> Fraction:
        value = self._factor()
        while True:
            word = self._peek()[1]
            if word in _TIMES or (word in ("x", "X") and self._peek(1)[0] == "number"):
                self._at += 1
                value *= self._factor()
            elif word in _OVER and self._starts_number(1):
                self._at += 1
                other = self._factor()
                if other == 0:
                    raise NotOneNumber
                value /= other
            elif word in ("\\frac", "\\dfrac", "\\tfrac") or (word == "(" and self._peek(2)[1] == "\u2044"):
                value += abs(self._factor()) if value >= 0 else -abs(self._factor())  # a mixed number
            else:
                return _bounded(value)

    def _factor(self) -> Fraction:
        kind, word = self._next()
        if word in ("+", "-"):
            value = self._factor()
            return -value if word == "-" else value
        if kind == "number":
            value = self._power(_number(word))
            scale = SCALE.get(self._peek()[1].lower())
            if scale is not None:
                self._at += 1
                value *= scale
            return value
        if word in ("(", "{", "["):
            return self._power(self._group({"(": ")", "{": "}", "[": "]"}[word]))
        if word in ("\\frac", "\\dfrac", "\\tfrac"):
            over, under = self._argument(), self._argument()
            if under == 0:
                raise NotOneNumber
            return self._power(over / under)
        if word == "\\binom":
            return self._power(_binomial(self._argument(), self._argument()))
        if word == "\\sqrt":
            return self._power(_root(self._argument()))
        raise NotOneNumber

    def _group(self, closing: str) -> Fraction:
        self._depth += 1
        if self._depth > 20:
            raise NotOneNumber
        self._skip_words()
        value = self._sum()
        while self._peek()[0] == "name":  # a unit inside the braces
            self._at += 1
        if self._next()[1] != closing:
            raise NotOneNumber
        self._depth -= 1
        return value

    def _argument(self) -> Fraction:
        r"""Of a TeX command: a group, or one digit (`\frac12`)."""
        kind, word = self._peek()
        if kind == "number" and len(word) > 1 and word.isdigit():
            self._tokens[self._at] = (kind, word[1:])
            return Fraction(int(word[0]))
        if word == "[":
            raise NotOneNumber
        return self._factor()

    def _power(self, value: Fraction) -> Fraction:
        word = self._peek()[1]
        if word == "^" and (self._starts_number(1) or self._peek(1)[1] == "-"):
            self._at += 1
            return _raised(value, self._argument())
        if word == "^":
            raise NotOneNumber
        if word == "_":
            self._at += 1
            return _in_base(value, self._argument())
        if word == "!" and self._exact:
            self._at += 1
            return _factorial(value)
        return value

    def _with_unit(self, value: Fraction) -> Fraction:
        """The value, if what follows may be its unit."""
        kind, word = self._peek()
        if kind == "number":
            raise NotOneNumber
        if not word or not self._exact:
            unknown = kind == "name" and (word in _UNKNOWNS or word in ("\\pi", "\\sqrt"))
            if unknown and word not in ("a", "i"):
                raise NotOneNumber
            return value
        if kind == "name" and (word in _UNKNOWNS or (word.startswith("\\") and word not in _UNIT_SIGNS)):
            raise NotOneNumber
        if kind == "sign" and word not in "}])\\{.:;$'\"!|?*" and not (word == "/" and self._peek(1)[0] == "name"):
            raise NotOneNumber
        return value


_WORDS = frozenset(
    ("\\therefore", "\\text", "\\mathrm", "\\Large", "\\large", "\\huge", "\\Huge", "\\rm", "\\it", "\\because")
)
_UNIT_SIGNS = frozenset(
    ("\\circ", "\\deg", "\\degree", "\\text", "\\mathrm", "\\ldots", "\\checkmark", "\\mu", "\\Omega", "\\end")
)


def _number(word: str) -> Fraction:
    mantissa, _, exponent = word.lower().partition("e")
    if len(mantissa) > 300 or (exponent and abs(int(exponent[:6])) > 1000):
        raise NotOneNumber
    return Fraction(mantissa.rstrip(".") if mantissa.endswith(".") else mantissa) * Fraction(10) ** int(exponent or 0)


def _bounded(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > _BITS:
        raise NotOneNumber
    return value


def _raised(base: Fraction, exponent: Fraction) -> Fraction:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > _BITS or (base == 0 and exponent < 0):
        raise NotOneNumber
    return base ** int(exponent)


def _factorial(value: Fraction) -> Fraction:
    if value.denominator != 1 or not 0 <= value <= 500:
        raise NotOneNumber
    return Fraction(math.factorial(int(value)))


def _binomial(n: Fraction, k: Fraction) -> Fraction:
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n <= 1000:
        raise NotOneNumber
    return Fraction(math.comb(int(n), int(k)))


def _root(value: Fraction) -> Fraction:
    if value < 0 or value.denominator != 1 or math.isqrt(int(value)) ** 2 != value:
        raise NotOneNumber
    return Fraction(math.isqrt(int(value)))


def _in_base(value: Fraction, base: Fraction) -> Fraction:
    if value.denominator != 1 or base.denominator != 1 or not 2 <= base <= 36:
        raise NotOneNumber
    try:
        return Fraction(int(str(int(value)), int(base)))
    except ValueError:
        raise NotOneNumber from None
