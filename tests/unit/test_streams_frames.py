"""Frames of a stream and its book: what may be sent, by whom, how much of it, and until when."""

from __future__ import annotations

import random

import pytest

from swarm.errors import ProtocolViolation
from swarm.protocol.streams import (
    HEADER,
    MAX_FRAME_BYTES,
    MAX_REFUSAL_BYTES,
    WINDOW,
    Conversation,
    Frames,
    Header,
    Kind,
    read_header,
)


def test_headers_are_found_however_the_bytes_are_cut() -> None:
    headers = [Header(Kind.ASK, 1, 0), Header(Kind.TELL, 2, 70_000), Header(Kind.ASK, 3, 1)]
    raw = b"".join(h.encode() + bytes(h.size_bytes) for h in headers)
    for seed in range(20):
        draw, frames, found, at = random.Random(seed), Frames(), [], 0
        while at < len(raw):
            size = draw.choice([1, 3, 15, 16, 17, 5000])
            found += list(frames.feed(memoryview(raw)[at : at + size]))
            at += size
        assert found == headers
        assert frames.is_between


def test_a_frame_that_has_begun_is_not_between_two() -> None:
    frames = Frames()
    assert list(frames.feed(memoryview(Header(Kind.ASK, 1, 2).encode()[:5]))) == []
    assert not frames.is_between


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (HEADER.pack(0, 1, 1), "is none"),
        (HEADER.pack(6, 1, 1), "is none"),
        (b"\1\0\0\1" + bytes(12), "is none"),
        (HEADER.pack(Kind.ASK, 1, MAX_FRAME_BYTES + 1), "exceeds"),
        (HEADER.pack(Kind.REFUSAL, 1, MAX_REFUSAL_BYTES + 1), "exceeds 1000"),
        (HEADER.pack(Kind.STATE, 1, 1), "exceeds 0"),
    ],
)
def test_a_header_that_cannot_be_is_refused(raw: bytes, words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        read_header(raw)


def test_the_largest_frame_is_taken() -> None:
    largest = Header(Kind.ANSWER, 1, MAX_FRAME_BYTES)
    assert read_header(largest.encode()) == largest


def test_questions_are_answered_in_order_and_the_window_opens_again() -> None:
    book = Conversation()
    for number in range(1, WINDOW + 1):
        assert book.has_room
        assert book.question(Kind.ASK, 10, due=5.0).number == number
    assert not book.has_room
    with pytest.raises(ProtocolViolation, match="more than 16"):
        book.note_question(Header(Kind.ASK, WINDOW + 1, 10))
    assert book.note_answer(Header(Kind.ANSWER, 1, 3))
    assert book.has_room
    assert (book.asked, book.answered, book.asked_bytes, book.answered_bytes) == (16, 1, 160, 3)


def test_what_is_told_takes_no_room_and_is_not_answered() -> None:
    book = Conversation()
    for _ in range(3 * WINDOW):
        book.question(Kind.TELL, 1, due=0.0)
    assert (book.awaited, book.has_room) == (0, True)
    with pytest.raises(ProtocolViolation, match="question 1 is not the one"):
        book.note_answer(Header(Kind.ANSWER, 1, 0))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (Header(Kind.ANSWER, 2, 0), "question 2 is not the one"),
        (Header(Kind.ANSWER, 9, 0), "question 9 is not the one"),
        (Header(Kind.ASK, 1, 0), "a holder that answers sent ASK"),
    ],
)
def test_an_answer_out_of_turn_is_refused(header: Header, words: str) -> None:
    book = Conversation()
    book.question(Kind.ASK, 0, due=1.0)
    book.question(Kind.ASK, 0, due=1.0)
    with pytest.raises(ProtocolViolation, match=words):
        book.note_answer(header)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (Header(Kind.ASK, 2, 0), "question 2 came after 0"),
        (Header(Kind.ASK, 0, 0), "question 0 came after 0"),
        (Header(Kind.ANSWER, 1, 0), "a site that asks sent ANSWER"),
    ],
)
def test_a_question_out_of_turn_is_refused(header: Header, words: str) -> None:
    with pytest.raises(ProtocolViolation, match=words):
        Conversation().note_question(header)


def test_a_late_answer_is_counted_and_dropped_and_the_next_one_taken() -> None:
    book = Conversation()
    book.question(Kind.ASK, 0, due=10.0)
    book.question(Kind.ASK, 0, due=20.0)
    assert not book.is_overdue(1, now=9.9)
    assert book.is_overdue(1, now=10.0)
    assert not book.is_overdue(2, now=10.0)
    assert not book.note_answer(Header(Kind.ANSWER, 1, 0))
    assert book.note_answer(Header(Kind.ANSWER, 2, 0))
    assert (book.late, book.awaited) == (1, 0)


def test_answers_that_never_come_keep_their_room() -> None:
    book = Conversation()
    for _ in range(WINDOW):
        book.question(Kind.ASK, 0, due=1.0)
    assert all(book.is_overdue(number, now=1.0) for number in range(1, WINDOW + 1))
    assert not book.has_room
