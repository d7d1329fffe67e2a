"""Event streams: the same events however the bytes arrive."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flagrelease.ports.event_stream import EventStream, ReportedError, event


def read(*blocks: bytes) -> list[str]:
    stream = EventStream()
    return [data for block in blocks for data in stream.feed(block)] + stream.end()


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n"])
def test_a_line_ends_at_cr_lf_or_crlf(end: str) -> None:
    assert read(f"data: one{end}data:two{end}".encode()) == ["one", "two"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"])
def test_other_line_ends_of_python_are_part_of_the_data(separator: str) -> None:
    assert read(f"data: one{separator}data: two\n\n".encode()) == [f"one{separator}data: two"]


def test_a_crlf_between_two_blocks_is_one_line_end() -> None:
    stream = EventStream()
    assert stream.feed(b"data: one\r") == ["one"]  # not only with the next block, which may be late
    assert stream.feed(b"\ndata: two\n") == ["two"]


def test_a_character_between_two_blocks_is_whole() -> None:
    character = "\N{CJK UNIFIED IDEOGRAPH-4E2D}".encode()
    assert read(b"data: " + character[:1], character[1:2], b"", character[2:] + b"\n") == [character.decode()]


def test_a_last_line_without_an_end_counts() -> None:
    assert read(b"data: one\n\ndata: [DO", b"NE]") == ["one", "[DONE]"]


def test_comments_other_fields_and_empty_data_are_no_events() -> None:
    assert read(b": ping\nevent: message\nid: 7\nretry: 9\ndatum: x\ndata\ndata:\ndata: \n\ndata: one\n") == ["one"]


def test_bytes_that_are_not_utf_8_are_replaced() -> None:
    assert read(b"data: \xffx\n") == ["\ufffdx"]


PIECES = st.sampled_from(
    [b"data:", b"error:", b" {}", b"\r", b"\n", b"\r\n", b"\xe2\x80\xa8", b"\xc2\x85", b"\xe4\xb8\xad", b"\xff", b":"]
)


@given(st.lists(PIECES | st.binary(max_size=4), max_size=30).map(b"".join), st.lists(st.integers(0, 60), max_size=12))
@example(b"data: one\r\ndata: two", [10])
@example(b"data: \xe2\x80\xa8\n", [7, 8])
def test_any_division_into_blocks_gives_the_events_of_one_block(content: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(content)) for cut in cuts), len(content)]
    blocks = [content[start:stop] for start, stop in pairwise(places)]
    assert read(*blocks) == read(content)


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1), max_size=5))
def test_any_data_of_one_line_arrives_whole(events: list[str]) -> None:
    expected = [data.strip() for data in events if data.strip()]
    assert read(*(f"data: {data}\r\n\r\n".encode() for data in events)) == expected


@pytest.mark.parametrize(
    ("blocks", "document"),
    [
        ([b' {"error"', b': "x"}'], b' {"error": "x"}'),
        ([b'{\n  "error": "x"\n}'], b'{\n  "error": "x"\n}'),
        ([b": ping\n"], b""),
        ([b"data: {}\n"], b""),
        ([b'{"', b'"}\n', b"data: {}\n", b"x\n"], b""),
        ([b"{" * 9000], b"{" * 4096),
    ],
)
def test_a_document_instead_of_events_is_kept(blocks: list[bytes], document: bytes) -> None:
    stream = EventStream()
    for block in blocks:
        stream.feed(block)
    stream.end()
    assert stream.document == document


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'data: {"error": {"message": "CUDA out of memory", "code": 500}}', "CUDA out of memory"),
        (b'data: {"choices": [], "error": {"message": "CUDA out of memory"}}', "CUDA out of memory"),
        (b'data: {"object": "error", "message": "CUDA out of memory"}', "CUDA out of memory"),
        (b'data: {"error": {"code": 503}}', "503"),
        (b'error: {"code": 500, "message": "CUDA out of memory"}', "CUDA out of memory"),
        (b"error: CUDA out of memory", "CUDA out of memory"),
    ],
)
def test_an_error_is_reported_in_the_server_s_words(line: bytes, words: str) -> None:
    (data,) = read(line + b"\n\n")
    with pytest.raises(ReportedError, match=f"the server reports an error: .*{words}"):
        event(data)


@pytest.mark.parametrize(
    "data",
    ["", "x", "[]", "5", "{}", '{"choices": {}}', '{"choices": null}', '{"choices":' + "[" * 100_000, "[" * 100_000],
)
def test_what_is_not_an_event_is_a_value_error(data: str) -> None:
    with pytest.raises(ValueError, match=r"event|Expecting") as caught:
        event(data)
    assert not isinstance(caught.value, ReportedError)


def test_an_event_with_a_null_error_is_an_event() -> None:
    assert event('{"choices": [], "error": null}') == {"choices": [], "error": None}
