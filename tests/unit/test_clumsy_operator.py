"""Whatever an operator does wrong ends in what she asked for, or in one sentence with the remedy.

`python -m tests.campaigns operator --seeds 2000` goes on from here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from harness.clumsy_operator import Case, Consortia, Failure, case_of, check, opened
from harness.operator_slips import SAME, SLIPS
from harness.operator_tasks import TASKS

SEEDS = 60


@pytest.fixture(scope="module")
def consortia() -> Iterator[Consortia]:
    with opened() as consortia:
        yield consortia


@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_mistake_changes_nothing_and_has_a_sentence(seed: int, consortia: Consortia) -> None:
    assert check(case_of(seed), consortia)


def test_two_mistakes_at_once_are_no_worse(consortia: Consortia) -> None:
    for seed in range(len(SLIPS), len(SLIPS) + 8):
        assert check(case_of(seed), consortia), seed


def test_there_are_many_kinds_each_made_by_one_seed() -> None:
    assert len(SLIPS) >= 40
    assert {case_of(seed).slips[0].name for seed in range(len(SLIPS))} == {s.name for s in SLIPS}
    assert {name for slip in SLIPS for name in slip.tasks} == TASKS.keys()


def test_the_operator_notices_what_passes_or_is_told_badly(consortia: Consortia) -> None:
    slips = {slip.name: slip for slip in SLIPS}
    no_data, folder = slips["no data there"], slips["a folder of data"]

    def let_down(slip: object) -> Failure:
        with pytest.raises(Failure) as failure:
            check(Case(0, TASKS["init"], (slip,)), consortia)  # type: ignore[arg-type]
        return failure.value

    assert "is refused: " in str(let_down(replace(no_data, outcome=SAME)))
    assert "in other words" in str(let_down(replace(no_data, outcome="no such words")))
    assert "passes" in str(let_down(replace(folder, outcome="a sentence")))
