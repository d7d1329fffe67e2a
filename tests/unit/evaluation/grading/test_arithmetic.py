"""The value of an arithmetic expression, and what is not one number."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.evaluation.grading.arithmetic import NoNumber, NotOneNumber, evaluate, whole

HALF = Fraction(1, 2)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2\\frac{1}{2}", Fraction(5, 2)),
        ("2\\tfrac12", Fraction(5, 2)),
        ("2\\dfrac12", Fraction(5, 2)),
        ("-2\\frac12", Fraction(-5, 2)),
        ("0\\frac12", HALF),
        ("2 (1\u20442)", Fraction(5, 2)),
        ("\\frac{12}{4}", 3),
        ("{5 apples}", 5),
        ("{5 big apples}+1", 6),
        ("5-5", 0),
        ("6/1", 6),
        ("5 x 3", 15),
        ("\\sqrt{9}", 3),
        ("2^{-1}", HALF),
        ("10_{36}", 36),
        ("10_2 apples", 2),
        ("2^{3} apples", 8),
        ("(" * 20 + "1" + ")" * 20, 1),
        ("+".join(["(1)"] * 30), 30),
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_the_value_of_an_expression(text: str, value: Fraction, exact: bool) -> None:
    assert evaluate(text, exact=exact) == value


@pytest.mark.parametrize(
    "text",
    [
        "5-7",
        "6/0",
        "\\frac{1}{0}",
        "\\sqrt[3]{8}",
        "\\sqrt{8}",
        "10_{37}",
        "10_1",
        "1.5_2",
        "10_{\\frac12}",
        "9_2",
        "2^x",
        "4_5 7",
        "(" * 21 + "1" + ")" * 21,
        "(1-2)!",
    ],
)
@pytest.mark.parametrize("exact", [True, False])
def test_what_is_not_one_number(text: str, exact: bool) -> None:
    with pytest.raises(NotOneNumber):
        evaluate(text, exact=exact)


@pytest.mark.parametrize(("text", "value"), [("0!", 1), ("1!", 1), ("3!", 6), ("500!", math.factorial(500))])
def test_factorials_of_whole_numbers(text: str, value: int) -> None:
    assert evaluate(text, exact=True) == value


@pytest.mark.parametrize("text", ["(\\frac12)!", "1.5!", "(-1)!", "501!", "7 (2)", "(2 m)(3)", "7 ( 2 + 1"])
def test_what_follows_must_belong_to_the_number_where_it_stands_alone(text: str) -> None:
    with pytest.raises(NotOneNumber):
        evaluate(text, exact=True)


NUMBERS = st.integers(0, 999)
EXPRESSIONS = st.recursive(
    NUMBERS.map(lambda number: (str(number), Fraction(number))),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]})+({two[1][0]})", two[0][1] + two[1][1])),
        st.tuples(inner, inner).map(lambda two: (f"({two[0][0]})\\times({two[1][0]})", two[0][1] * two[1][1])),
        st.tuples(inner, st.integers(1, 99)).map(
            lambda two: (f"\\frac{{{two[0][0]}}}{{{two[1]}}}", two[0][1] / two[1])
        ),
        inner.map(lambda one: (f"-({one[0]})", -one[1])),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_expressions_have_the_value_that_their_parts_have(expression: tuple[str, Fraction]) -> None:
    text, value = expression
    assert evaluate(text, exact=True) == value
    assert whole(value) == (int(value) if value.denominator == 1 else None)


@given(st.text(alphabet="0123456789+-*/^_!(){}[]. \\eabx:", max_size=24))
def test_any_text_has_a_bounded_value_or_none(text: str) -> None:
    for exact in (True, False):
        try:
            value = evaluate(text, exact=exact)
        except (NoNumber, NotOneNumber):
            continue
        assert max(value.numerator.bit_length(), value.denominator.bit_length()) <= 8192
