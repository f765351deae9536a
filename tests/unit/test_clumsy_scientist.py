"""Whatever a scientist does wrong ends in the right result, or in one sentence with its place.

`python -m tests.campaigns scientist --seeds 2000` goes on from here.
"""

from __future__ import annotations

import pytest
from harness.clumsy_mistakes import MISTAKES, SAME
from harness.clumsy_scientist import Case, Failure, case_of, check

SEEDS = 60


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_mistake_costs_no_row_and_has_a_sentence(seed: int) -> None:
    assert check(case_of(seed))


def test_two_mistakes_at_once_are_no_worse() -> None:
    for seed in range(len(MISTAKES), len(MISTAKES) + 15):
        assert check(case_of(seed)), seed


def test_there_are_many_kinds_each_made_by_one_seed() -> None:
    assert len(MISTAKES) >= 40
    assert {case_of(seed).mistakes[0].name for seed in range(len(MISTAKES))} == {
        mistake.name for mistake in MISTAKES
    }


def test_the_scientist_notices_what_is_let_pass_or_told_badly() -> None:
    by_name = {mistake.name: mistake for mistake in MISTAKES}
    passes, refused = by_name["settings: an own setting"], by_name["settings: lr"]
    made = passes.make, refused.make
    wrong = type(passes)("as if", "settings", made[0], "a sentence")
    with pytest.raises(Failure, match="passes, with the scores"):
        check(Case(0, (wrong,)))
    with pytest.raises(Failure, match="is refused: plan"):
        check(Case(0, (type(passes)("as if", "settings", made[1], SAME),)))
    with pytest.raises(Failure, match="in other words"):
        check(Case(0, (type(passes)("as if", "settings", made[1], "no such words"),)))
    other = type(passes)("as if", "loss", by_name["loss: a number"].make, SAME)
    with pytest.raises(Failure, match="is refused"):
        check(Case(0, (other,)))
