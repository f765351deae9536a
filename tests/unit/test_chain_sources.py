"""Whom a node that is behind asks for blocks: what one peer claims or withholds costs the others
nothing but a patience, once."""

from __future__ import annotations

from itertools import pairwise

from harness.validators import sim_address

from swarm.chain.sync_sources import FIRST_PATIENCE_S, LONGEST_PAUSE_S, PATIENCE_S, Sources

A, B, C = (sim_address(i) for i in range(3))
ALL = (A, B, C)
FAR = 2**53


def asked(sources: Sources, head: int, until_s: float, now_s: float = 0.0) -> list[tuple]:
    """Who is asked, and when, if nobody ever answers."""
    found = []
    while now_s < until_s:
        peer = sources.next(head, ALL, now_s)
        if peer is not None:
            found.append((now_s, peer))
        due_s = sources.due_s(head, ALL)
        assert due_s > now_s
        now_s = due_s
    return found


def test_nobody_is_asked_who_does_not_say_that_it_is_ahead():
    sources = Sources()
    sources.claim(A, 5)
    assert sources.next(5, ALL, 0.0) is None
    assert sources.due_s(5, ALL) == float("inf")


def test_an_absurd_claim_gives_no_better_turn_than_a_modest_one():
    sources = Sources()
    sources.claim(B, 6)
    sources.claim(C, FAR)
    assert sources.next(5, ALL, 0.0) == B


def test_who_is_silent_costs_one_patience_and_comes_last_from_then_on():
    sources = Sources()
    sources.claim(A, FAR)
    sources.claim(B, 9)
    assert asked(sources, 5, FIRST_PATIENCE_S + 1) == [(0.0, A), (FIRST_PATIENCE_S, B)]
    sources.answered(B, 1, 9, 3.0)
    assert sources.next(6, ALL, 3.0) == B


def test_who_never_answers_is_asked_less_and_less_often():
    sources = Sources()
    sources.claim(A, FAR)
    times = [at for at, _ in asked(sources, 5, 300)]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S


def test_a_peer_in_good_standing_need_not_wait_until_one_in_bad_standing_answers():
    sources = Sources()
    sources.claim(A, FAR)
    asked(sources, 5, 3 * FIRST_PATIENCE_S)
    sources.claim(B, 9)
    assert sources.next(5, ALL, 3 * FIRST_PATIENCE_S) == B


def test_one_that_drips_blocks_just_in_time_is_left_for_one_that_is_quicker():
    sources = Sources()
    sources.claim(A, FAR)
    assert sources.next(0, ALL, 0.0) == A
    sources.answered(A, 1, FAR, FIRST_PATIENCE_S - 0.1)
    sources.claim(B, 900)
    assert sources.next(1, ALL, 2.0) == B
    for turn in range(10):
        sources.answered(B, 64, 900, 2.1 + turn / 10)
        assert sources.next(65 + 64 * turn, ALL, 2.1 + turn / 10) == B


def test_a_block_that_nobody_asked_for_does_not_make_up_for_silence():
    sources = Sources()
    sources.claim(A, FAR)
    sources.claim(B, 900)
    asked(sources, 0, FIRST_PATIENCE_S + 0.1)
    sources.answered(B, 0, 900, 2.2)
    sources.answered(A, 1, FAR, 2.3)  # late, for the turn that it had
    sources.answered(A, 1, FAR, 2.4)  # unasked
    sources.claim(C, 900)
    assert sources.next(2, ALL, 2.5) == C, "2.3 seconds for a block are worse than unknown"


def test_an_empty_or_useless_answer_passes_the_turn_on_at_once():
    sources = Sources()
    sources.claim(A, FAR)
    sources.claim(B, 9)
    assert sources.next(5, ALL, 0.0) == A
    sources.answered(A, 0, FAR, 0.1)
    assert sources.next(5, ALL, 0.1) == B


def test_who_proved_itself_has_the_time_that_many_blocks_take_on_a_slow_link():
    sources = Sources()
    sources.claim(B, 900)
    assert sources.next(0, ALL, 0.0) == B
    sources.answered(B, 64, 900, 1.0)
    assert sources.next(64, ALL, 1.0) == B
    assert sources.due_s(64, ALL) == 1.0 + PATIENCE_S


def test_disconnecting_and_coming_back_makes_nobody_trusted_again():
    sources = Sources()
    sources.claim(A, FAR)
    sources.claim(B, 9)
    assert sources.next(5, ALL, 0.0) == A
    assert sources.next(5, (B,), 0.1) == B
    sources.claim(A, FAR)
    sources.answered(B, 1, 9, 0.2)
    assert sources.next(6, ALL, 0.2) == B
