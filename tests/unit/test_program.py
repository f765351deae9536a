"""Programs of stages: where a round stands, what follows it, and their one encoding."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from swarm.errors import ConfigurationError
from swarm.node.programs import program_of, stages_of
from swarm.protocol.program import (
    Program,
    Stage,
    encode,
    federated_averaging,
    find_program,
)
from swarm.protocol.state import MODEL_SLOT, STATISTICS_SLOT, Plan, Rules
from swarm.types import Digest, MemberId, PlanId, to_hex

WITH = federated_averaging(3, statistics=True)
WITHOUT = federated_averaging(3)


def test_rounds_of_the_chain_are_numbered_through_and_trainers_count_within_the_stage() -> None:
    found = [WITH.place(n) for n in range(1, 5)]
    assert [(p.index, p.stage.name, p.number) for p in found if p] == [
        (1, "statistics", 1),
        (2, "training", 1),
        (2, "training", 2),
        (2, "training", 3),
    ]
    assert WITH.place(0) is WITH.place(5) is None
    assert (WITH.rounds, WITHOUT.rounds) == (4, 3)


def test_the_stage_that_follows_is_nought_after_the_last_round() -> None:
    assert [WITH.next_after(n) for n in range(1, 5)] == [2, 2, 2, 0]
    assert [WITHOUT.next_after(n) for n in range(1, 4)] == [1, 1, 0]


def test_people_read_statistics_and_then_rounds_from_1() -> None:
    titles = [p.title for n in range(1, 5) if (p := WITH.place(n))]
    assert titles == ["statistics", "round 1", "round 2", "round 3"]


def test_statistics_and_models_are_different_outputs() -> None:
    assert [stage.slot for stage in WITH.stages] == [STATISTICS_SLOT, MODEL_SLOT]


def test_the_digests_of_todays_programs_stay() -> None:
    assert encode(WITHOUT) == b"\1\x08training\x05train\x04mean" + bytes([0, 0, 0, 3, 0])
    assert [to_hex(program.digest)[:10] for program in (WITHOUT, WITH)] == GOLDEN


GOLDEN = ["0x6f4eafef", "0xfcd7b2ef"]


@pytest.mark.parametrize(
    "change",
    [{"name": "x"}, {"task": "x"}, {"merge": "x"}, {"rounds": 4}, {"slot": 2}],
)
def test_every_field_of_a_stage_is_in_the_digest(change: dict[str, Any]) -> None:
    other = Program((replace(WITHOUT.stages[0], **change),))
    assert other.digest != WITHOUT.digest


def test_no_two_programs_share_an_encoding() -> None:
    one = Program((Stage("ab", "c", "d", 1),))
    other = Program((Stage("a", "bc", "d", 1),))
    assert encode(one) != encode(other)


def test_a_known_program_is_found_by_its_digest_and_an_unknown_one_is_not() -> None:
    for program in (WITH, WITHOUT):
        assert find_program(program.digest, program.rounds) == program
        assert find_program(program.digest, program.rounds + 1) is None
    assert find_program(Digest(b"\7" * 32), 1) is None


def plan_with(program: Program) -> Plan:
    digests = (Digest(b"\1" * 32), program.digest, Digest(b"\3" * 32))
    return Plan(PlanId(4), MemberId(0), "p", *digests, Rules(program.rounds, 2))


def test_the_program_of_a_plan_is_what_its_code_says() -> None:
    for statistics, program in ((True, WITH), (False, WITHOUT)):
        loaded: Any = SimpleNamespace(has_statistics=statistics)
        assert program_of(plan_with(program), loaded) == program == stages_of(loaded, 3)


def test_a_plan_whose_code_says_otherwise_is_refused_in_one_sentence() -> None:
    loaded: Any = SimpleNamespace(has_statistics=False)
    with pytest.raises(ConfigurationError, match=r"plan 4 \(p\) has stages other than its code"):
        program_of(plan_with(WITH), loaded)
    later = Program((*WITHOUT.stages, Stage("evaluation", "cross_evaluate", "gather", 1, 3)))
    with pytest.raises(ConfigurationError, match="such as this release of swarm does not know"):
        program_of(plan_with(later), loaded)
