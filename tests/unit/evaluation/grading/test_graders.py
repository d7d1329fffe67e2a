"""Extract answers from text and grade them."""

from __future__ import annotations

import pytest

from flagrelease.evaluation.grading.algebra import equal, normal
from flagrelease.evaluation.grading.integers import integer
from flagrelease.evaluation.grading.letters import letter
from flagrelease.evaluation.grading.text import boxed, marked
from flagrelease.evaluation.grading.thinking import without_thinking
from flagrelease.evaluation.question import Grade, Question, Reply
from flagrelease.evaluation.tasks import TASKS


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} and then \\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed {a{b}c}", "a{b}c"),
        ("\\fbox{7}", "7"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\boxed{3} and \\boxed{never closed", "3"),
        ("nothing", None),
        ("\\boxed{", None),
    ],
)
def test_boxed(text: str, found: str | None) -> None:
    assert boxed(text) == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Answer: B", "B"),
        ("Let me think. A seems right, but no.\n\nANSWER: C", "C"),
        ("**Answer:** D", "D"),
        ("**Answer: D**", "D"),
        ("The answer is (B).", "B"),
        ("the final answer is $\\boxed{B}$", "B"),
        ("\\boxed{\\text{B}}", "B"),
        ("Answer: A\nAnswer: B", "B"),
        ("B", "B"),
        ("B.", "B"),
        ("(B)", "B"),
        ("B) the second", "B"),
        ("It must be the second one.\nB", "B"),
        ("Answer: B because it is", "B"),
        ("Answer: `B`", "B"),
        ("Answer: [B]", "B"),
        ("Answer: $\\mathrm{B}$", "B"),
        ("\\boxed{\\textbf{(B)}}", "B"),
        ("The correct option is B.", "B"),
        ("Answer: B, not C", "B"),
        ("Answer: A, I think", "A"),
        ("Answer: B\n\n(As asked: `Answer: LETTER`.)", "B"),
        ("\\boxed{A}, or rather: no.\nAnswer: B", "B"),
        ("Answer: A\nNo: \\boxed{B}", "B"),
        ("Answer: A or B", None),
        ("Answer: A, B", None),
        ("Answer: (A)/(B).", None),
        ("Answer: b", "B"),
        ("**B**", "B"),
        ("So B seems to fit best.", None),
        ("Answer: E", None),
        ("A good question, which I cannot decide", None),
        ("Answer: Because", None),
        ("", None),
        ("I do not know", None),
    ],
)
def test_letter(text: str, found: str | None) -> None:
    assert letter(text, "ABCD") == found


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("\\boxed{042}", 42),
        ("\\boxed{336^\\circ}", 336),
        ("\\boxed{1,234}", 1234),
        ("\\boxed{1{,}234}", 1234),
        ("\\boxed{x = -5}", -5),
        ("so it is 12 ducks.\n#### 12", 12),
        ("The answer is 17 dollars, not 18", 17),
        ("first 3, then 4.0", 4),
        ("\\boxed{0.5}", None),
        ("none", None),
    ],
)
def test_integer(text: str, found: int | None) -> None:
    assert integer(text) == found


def test_marked_takes_the_last_and_only_its_line() -> None:
    assert marked("Answer: one\nAnswer: two\nmore") == "two"
    assert marked("no mark") is None


@pytest.mark.parametrize(
    ("text", "unfinished", "left"),
    [
        ("<think>hm \\boxed{1}</think>\n\n\\boxed{2}", False, "\\boxed{2}"),
        ("hm</think>two", False, "two"),
        ("<think>a</think>b<think>c</think>d", False, "d"),
        ("<think>still", False, ""),
        ("still thinking", True, ""),
        ("plain", False, "plain"),
    ],
)
def test_thinking_is_not_an_answer(text: str, unfinished: bool, left: str) -> None:
    assert without_thinking(text, unfinished=unfinished) == left


def by_letters(scores: dict[str, float] | None) -> Grade:
    question = Question(subset="all", id="q", messages=(), reference=("ABCD", "B"))
    return TASKS["multiple-choice"].grade(
        question, Reply(text="", finish_reason=None, completion_tokens=1, letters=scores)
    )


def test_the_likeliest_letter_answers() -> None:
    assert by_letters({"A": -2.0, "B": -0.5, "C": -3.0, "D": -9.0}) == Grade(True, "B")
    assert by_letters({"A": -0.1, "B": -0.5}) == Grade(False, "A")


def test_letters_other_than_the_choices_are_ignored() -> None:
    assert by_letters({"I": -0.1, "B": -5.0}) == Grade(True, "B")
    assert by_letters({"I": -0.1}) == Grade(False, None)
    assert by_letters({}) == Grade(False, None)


def test_a_tie_goes_to_the_earlier_letter() -> None:
    assert by_letters({"D": -1.0, "B": -1.0}) == Grade(True, "B")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("\\dfrac{1}{2}", "\\frac{1}{2}"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\frac{\\pi}{2})"),
        ("$5$", "5"),
        ("90^\\circ", "90"),
        ("10\\%", "10"),
    ],
)
def test_insignificant_notation_is_ignored(one: str, other: str) -> None:
    assert normal(one) == normal(other)
    assert equal(one, other)


def test_significant_notation_is_kept() -> None:
    assert normal("\\leftarrow") != normal("arrow")
    assert normal("x^2") != normal("x2")


@pytest.mark.parametrize(
    ("answer", "reference", "same"),
    [
        ("0.5", "\\frac{1}{2}", True),
        ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt{3}}", True),
        ("2\\sqrt{2}", "\\sqrt{8}", True),
        ("x^2 + 2x + 1", "(x+1)^2", True),
        ("\\frac{1}{3}", "0.33", False),
        ("7", "8", False),
    ],
)
def test_mathematics_is_compared_by_meaning(answer: str, reference: str, same: bool) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert equal(answer, reference) is same


@pytest.mark.parametrize(
    "degrees", ["90°", "90^\\circ", "90^{\\circ}", "90^{ \\circ }", "90\\degree", "90^\\degree", "90º", "90^°"]
)
def test_degrees_are_a_notation(degrees: str) -> None:
    assert equal(degrees, "90")
    assert equal("90", degrees)
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert equal(f"x = {degrees}", "90")
    assert equal(degrees, "\\frac{180}{2}")
    assert not equal(degrees, "91")


@pytest.mark.parametrize(
    "thin", ["\\,", "\\;", "\\:", "\\!", "\\ ", "~", "\\thinspace ", "\u2009", "\u202f", "\u00a0", "{,}", ","]
)
def test_thousands_are_separated_in_many_ways(thin: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert equal(f"10{thin}080", "10080")
    assert equal("10080", f"10{thin}080")
    assert equal(f"1{thin}010{thin}080", "1010080")
    assert equal(f"n = 10{thin}080", "10080") or thin == ",", "after an equals sign, a comma may be one of a list"
    assert not equal(f"10{thin}080", "1080")
    assert not equal(f"10{thin}080", "80")
    assert not equal(f"(10{thin}080, 1)", "(10, 80, 1)") or thin == ","


INTERVALS = [
    ("x<2", "(-\\infty,2)"),
    ("1 \\le x \\leq 2", "[1,2]"),
    ("1 ≤ x < 2", "[1, 2)"),
    ("x \\ge 3", "\\left[3,\\infty\\right)"),
    ("2<x", "(2, \\infty)"),
    ("-2 \\le a \\le \\frac{1}{2}", "\\left[-2,\\frac12\\right]"),
    ("x<-1 \\text{ or } x>2", "(-\\infty,-1)\\cup(2,\\infty)"),
    ("x < -1 or x > 2", "(-\\infty,-1)\\cup(2,\\infty)"),
    ("x<2 \\lor x \\geq 4", "(-\\infty,2) \\cup [4,\\infty)"),
    ("1<x<2 \\text{ or } 3<x<4", "(1,2)\\cup(3,4)"),
]


@pytest.mark.parametrize(("answer", "reference"), INTERVALS)
def test_an_inequality_equals_the_interval_that_it_describes(answer: str, reference: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert equal(answer, reference)
    for _, other in INTERVALS:
        assert equal(answer, other) is (other.replace(" ", "") == reference.replace(" ", ""))


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("x<-1 \\cup x>2", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("x > 2,\\, x < -1", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("(2,\\infty) ∪ x<-1", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("(-\\infty,2), [4,\\infty)", "(-\\infty,2) \\cup [4,\\infty)"),
        ("x \\ge 1, x \\le 2", "[1,2]"),
        ("1<x<2, 3<x<4", "(1,2)\\cup(3,4)"),
    ],
)
def test_inequalities_that_are_joined_are_one_set(answer: str, reference: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert equal(answer, reference)
    assert not equal(answer, "(-\\infty,3)\\cup(7,\\infty)")


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("1 \\le x \\le 2", "[1,2)"),
        ("x \\ge 3", "(3,\\infty)"),
        ("x<-1 \\text{ or } y>2", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("x<-1 \\text{ and } x>2", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("x<-1 \\cup x>3", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("x<-1, y>2", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("x>1, x<2", "(-\\infty,\\infty)"),
        ("x>1, x<2, 5", "(1,2)"),
        ("a < b \\text{ or } a > b", "(-\\infty,-1)\\cup(2,\\infty)"),
        ("1<x<2", "\\{1,2\\}"),
        ("x<2", "2"),
    ],
)
def test_another_inequality_is_wrong(answer: str, reference: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert not equal(answer, reference, asked="Write it as an interval.")


def test_a_pair_is_an_interval_if_the_question_says_so() -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    assert equal("1<x<2", "(1,2)", asked="Express your answer in interval notation.")
    assert not equal("1<x<2", "(1,2)", asked="At which point do they meet?")
    assert not equal("1<x<3", "(1,2)", asked="Find the domain of f.")
    reply = Reply(text="so \\boxed{1<x<2}", finish_reason="stop", completion_tokens=1)
    for asked, right in (("Which interval?", True), ("Which point?", False)):
        message = {"role": "user", "content": asked}
        question = Question(subset="all", id="q", messages=(message,), reference="(1,2)")
        assert TASKS["math"].grade(question, reply).correct is right


@pytest.mark.parametrize("answer", ["nan", "NaN", "\\text{nan}", "-nan", "[nan,nan]", "x = nan", "5 = nan", "nan = 5"])
@pytest.mark.parametrize("reference", ["5", "n^2 a", "\\infty", "x = 5", "n a n"])
def test_no_number_is_never_right(answer: str, reference: str) -> None:
    assert not equal(answer, reference)


@pytest.mark.parametrize("answer", ["inf", "-inf", "Infinity", "\\text{inf}", "x = inf"])
def test_the_text_of_an_infinite_float_is_right_only_for_infinity(answer: str) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    for reference in ("5", "in f", "i n f", "f i n", "10^{400}", "x", "\\frac{1}{0}"):
        assert not equal(answer, reference)
    assert equal("inf", "\\infty")
    assert not equal("-inf", "\\infty")
    assert equal("\\infty", "\\infty")


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("so \\boxed{0.5}", True),
        ("Answer: 1/2", True),
        ("we get $\\frac{1}{2}$", True),
        ("\\frac{1}{2}", True),
        ("\\boxed{1/3} though 1/2 is near", False),
        ("I do not know", False),
        ("", False),
    ],
)
def test_mathematics_is_extracted_from_text(text: str, right: bool) -> None:
    pytest.importorskip("math_verify", reason="math-verify is not installed (flagrelease[eval])")
    question = Question(subset="all", id="q", messages=(), reference="\\frac{1}{2}")
    reply = Reply(text=text, finish_reason="stop", completion_tokens=1)
    assert TASKS["math"].grade(question, reply).correct is right


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("nan", "1"), ("NaN", "1"), ("Inf", "1"), ("inf", "10"), ("-Infinity", "5"), ("-INF", "-1")],
)
def test_the_text_of_a_float_that_is_no_number_equals_none(answer: str, reference: str) -> None:
    assert not equal(answer, reference)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("\\tfrac12", "\\frac12"), ("30\\degree", "30"), ("INF", "INF"), ("\\infty", "\\infty"), ("banana", "banana")],
)
def test_other_ways_of_writing_the_same(answer: str, reference: str) -> None:
    assert equal(answer, reference)
