"""What a watch found: a check that was not made says nothing, and only changes are kept."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from flagrelease.releases import rot
from flagrelease.releases.rot import Check, Finding, Rot, State

GONE = Finding(check="image", place="h/r", what="it is gone", why="404", hint="push it", since="2026-01-01")


def check(state: State, what: str = "it is gone", name: str = "image", **more: str) -> Check:
    return Check(check=name, place="h/r", state=state, what=what, why=more.get("why", "404"), hint="push it")


def test_silence_neither_finds_nor_mends() -> None:
    assert rot.found([check(State.NOT_CHECKED)], (), "2026-01-02") == ()
    assert rot.found([check(State.NOT_CHECKED, "no answer")], (GONE,), "2026-01-02") == (GONE,)
    assert rot.found([check(State.HOLDS)], (GONE,), "2026-01-02") == ()


def test_a_place_that_is_silent_as_a_whole_mends_nothing_and_one_that_is_watched_no_more_does() -> None:
    late = replace(check(State.NOT_CHECKED, "no answer within 60 s"), silent=True)
    layers = replace(GONE, check="layers")
    assert rot.found([late], (layers,), "2026-01-02") == (layers,)
    assert rot.found([replace(late, place="h/other")], (layers,), "2026-01-02") == ()
    assert rot.found([check(State.NOT_CHECKED, "no key is given", "signature")], (layers,), "2026-01-02") == ()


def test_a_finding_keeps_the_time_it_was_found_first() -> None:
    assert rot.found([check(State.ROTTEN)], (GONE,), "2026-01-02") == (GONE,)
    (other,) = rot.found([check(State.ROTTEN, name="tag")], (GONE,), "2026-01-02")
    assert (other.check, other.since) == ("tag", "2026-01-02")


def test_other_words_of_advice_are_no_change() -> None:
    assert not rot.changed([GONE], [replace(GONE, hint="push it again")])
    moved = replace(GONE, check="tag")
    assert not rot.changed([GONE, moved], [moved, GONE])
    assert rot.changed([GONE], [replace(GONE, why="410")])
    assert rot.changed([GONE], [])


def test_the_newest_entry_of_each_release_stands() -> None:
    entries = [
        Rot(tag="one", image="h/r@sha256:1", at="1", findings=(GONE,)),
        Rot(tag="two", image="h/r@sha256:2", at="2", findings=(GONE,)),
        rot.parse({"tag": 3}),
        Rot(tag="one", image="h/r@sha256:1", at="3"),
    ]
    assert entries[2] is None
    assert list(rot.standing(entries)) == ["two"]
    told = [(each.at, len(new), len(mended)) for each, new, mended in rot.changes(entries)]
    assert told == [("1", 1, 0), ("2", 1, 0), ("3", 0, 1)]
    assert rot.parse(msgspec.to_builtins(entries[0])) == entries[0]
