"""A member's bytes of a day: counted by itself, until the day of chain time ends."""

from __future__ import annotations

from swarm.chain.budget import DAY_S, DayBudget

NOON = 20_000 * DAY_S + DAY_S // 2


def test_what_a_member_sends_leaves_it_less_room_and_others_the_same() -> None:
    budget = DayBudget(100, NOON, {1: 30})
    budget.take(1, 50)
    assert (budget.room(1), budget.room(2)) == (20, 100)
    budget.take(1, 50)  # an older rule may have let more in: there is no debt
    assert budget.room(1) == 0


def test_a_block_of_the_same_day_goes_on_and_one_of_the_next_begins_anew() -> None:
    budget = DayBudget(100, NOON, {1: 30})
    last, next_day = budget.at(NOON + DAY_S // 2 - 1), budget.at(NOON + DAY_S // 2)
    assert (last.room(1), next_day.room(1)) == (70, 100)
    last.take(1, 5)
    assert budget.room(1) == 70, "a block that is tried must not change the head's"
