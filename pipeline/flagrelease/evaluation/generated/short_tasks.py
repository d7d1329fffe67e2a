"""Short tasks with one right answer, for models with a few hundred million parameters.

Each answer is a list or a sentence of several tokens, and each question has two worked examples of its kind. The words
and names are this project's own. docs/evaluation.md has what a small model answers right, by kind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

__all__ = ["KINDS", "rows"]

T = TypeVar("T")
Pair = tuple[str, str]
"""A question and its answer."""


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_WORDS = _split(
    "apple basket blanket bottle bridge button camera candle castle dinner doctor engine flower forest garden hammer "
    "horse island kitchen ladder letter market mirror morning mountain music needle ocean orange paper pencil pocket "
    "queen rabbit river rocket school shadow silver stone summer table ticket tunnel valley village wagon window "
    "winter yellow"
)
_NAMES = _split(
    "Anna Ben Clara David Emma Frank Grace Henry Irene Jack Laura Martin Nina Oscar Paula Robert Sarah Thomas"
)
_PLACES = _split("garden kitchen school market station harbour library museum")
_VERBS = _split("carried found lost bought sold painted hid forgot")


@dataclass(frozen=True)
class Draw:
    """Random choices that are the same in every version of Python: only `random()` is promised to be."""

    source: random.Random

    def below(self, limit: int) -> int:
        return int(self.source.random() * limit)

    def between(self, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        return low + self.below(high - low + 1)

    def one(self, values: Sequence[T]) -> T:
        return values[self.below(len(values))]

    def several(self, values: Sequence[T], number: int) -> list[T]:
        """Different values, in random order."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(number)]


def _count(draw: Draw) -> Pair:
    start = draw.between(2, 89)
    end = start + draw.between(4, 6)
    return f"Count from {start} to {end}.", _listed(range(start, end + 1))


def _commas(draw: Draw) -> Pair:
    words = draw.several(_WORDS, draw.between(4, 5))
    return f"Write a comma between the words: {' '.join(words)}", _listed(words)


def _last_word(draw: Draw) -> Pair:
    words = draw.several(_WORDS, draw.between(4, 5))
    return f"What is the last word of this list? {_listed(words)}", f"The last word of the list is {words[-1]}."


def _sum(draw: Draw) -> Pair:
    first, second = draw.between(11, 49), draw.between(2, 9)
    return f"What is {first} + {second}?", f"{first} + {second} = {first + second}"


def _rename(draw: Draw) -> Pair:
    before, after = draw.several(_NAMES, 2)
    rest = f"{draw.one(_VERBS)} the {draw.one(_WORDS)} in the {draw.one(_PLACES)}."
    return f"Write {after} instead of {before}: {before} {rest}", f"{after} {rest}"


KINDS: Mapping[str, Callable[[Draw], Pair]] = {
    "count": _count,
    "commas": _commas,
    "last_word": _last_word,
    "sum": _sum,
    "rename": _rename,
}
"""The kinds of tasks, by the name of their subset."""


def rows(seed: int) -> Iterator[Mapping[str, Any]]:
    """Distinct rows without end, the kinds in turn: subset, question, answer and two examples."""
    draw = Draw(random.Random(seed))
    seen: set[tuple[Pair, ...]] = set()
    for _ in count():
        for kind, make in KINDS.items():
            first, second, asked = _different(make, draw)
            while (first, second, asked) in seen:
                first, second, asked = _different(make, draw)
            seen.add((first, second, asked))
            yield {
                "subset": kind,
                "question": asked[0],
                "answer": asked[1],
                "examples": [{"question": question, "answer": answer} for question, answer in (first, second)],
            }


def _different(make: Callable[[Draw], Pair], draw: Draw) -> tuple[Pair, Pair, Pair]:
    """Three different tasks of one kind, so that no example gives the answer."""
    while True:
        first, second, asked = make(draw), make(draw), make(draw)
        if len({first, second, asked}) == len((first, second, asked)):
            return first, second, asked


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
