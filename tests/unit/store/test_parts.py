"""Differences between the inputs of two attempts, as `plan` shows them."""

from __future__ import annotations

import pytest

from flagrelease.store.parts import Change, Value, in_line

A, B = "a" * 64, "b" * 64


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (True, False, "true → false"),
        (None, "", 'none → ""'),
        (1, 1.5, "1 → 1.5"),
        ("True", "None", "True → None"),
        (f"sha256:{A}", f"sha256:{B}", f"sha256:{A[:12]}… → sha256:{B[:12]}…"),
        (f"base@sha256:{A}", "x", f"base@sha256:{A[:12]}… → x"),
        (f"sha256:of sha256:{A}", "x", f"sha256:of sha256:{A[:12]}… → x"),
        (A, "sha256:abcdefabcdef", f"{A} → sha256:abcdefabcdef"),
        ("sha256:not hexadecimal", "x", "sha256:not hexadecimal → x"),
    ],
)
def test_values_are_shown_as_they_are_written(before: Value, after: Value, shown: str) -> None:
    assert str(change("speed.load", before, after)) == f"speed.load {shown}"


@pytest.mark.parametrize(
    ("number", "end"), [(1, "n0 1 → 2"), (4, "n3 1 → 2"), (5, "… and 2 more"), (9, "… and 6 more")]
)
def test_of_many_changes_the_first_are_shown(number: int, end: str) -> None:
    text = in_line(tuple(change(f"n{index}", 1, 2) for index in range(number)))
    assert text.startswith("n0 1 → 2")
    assert text.endswith(end)
    assert text.count(";") == min(number, 4) - 1


def change(name: str, before: Value, after: Value) -> Change:
    return Change(kind="input", name=name, before=before, after=after)
