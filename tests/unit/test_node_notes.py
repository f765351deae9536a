"""What is told of notes about members, and how often."""

from __future__ import annotations

from swarm.node.members.notes import AN_HOUR_S, MOST_AN_HOUR, ToldNotes


def test_a_note_is_told_once_while_it_stands_and_again_an_hour_after_it_went() -> None:
    told = ToldNotes()
    assert told.fresh({"b", "a"}, 0) == ["a", "b"]
    assert told.fresh({"a"}, 2) == []
    assert told.fresh({"a", "b"}, AN_HOUR_S - 1) == []  # it comes and goes
    assert told.fresh({"a", "b"}, 3 * AN_HOUR_S) == []
    assert told.fresh(set(), 4 * AN_HOUR_S) == []
    assert told.fresh({"a"}, 5 * AN_HOUR_S) == ["a"]


def test_a_member_that_says_something_else_each_time_fills_no_log_and_no_memory() -> None:
    told = ToldNotes()
    lines = [told.fresh({f"it runs release {second}"}, second) for second in range(20_000)]
    assert sum(map(len, lines[: int(AN_HOUR_S)])) == MOST_AN_HOUR
    assert sum(map(len, lines)) <= 6 * MOST_AN_HOUR
    assert len(told._told) <= MOST_AN_HOUR
