"""The rules of a proposal, as they follow from the plan's code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from swarm.errors import ConfigurationError, PlanError
from swarm.learning.supervisor.trainer_messages import Loaded, Rules, Tensor
from swarm.node.plans.proposal_rules import chain_rules, check_rules
from swarm.node.plans.secrecy import secrecy_of
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import PLAIN, Plan, VerifyLevel
from swarm.types import NO_DIGEST, MemberId, PlanId

SAID = federated_averaging(20, statistics=True)


def loaded(parameters: int, verify: str = "auto", max_round_s: float = 3600.0) -> Loaded:
    rules = Rules(
        rounds=20,
        min_peers=3,
        verify=verify,  # type: ignore[arg-type]
        max_round_s=max_round_s,
        seed=0,
        epochs=1,
        batch_size=32,
        optimizer_state="reset",
        threads=1,
    )
    tensor = Tensor(name="w", dtype="F32", shape=(parameters,))
    return Loaded(
        name="P", digest=b"", rules=rules, program=SAID.blob, tensors=(tensor,), device="cpu"
    )


def rules_of(described: Loaded) -> Any:
    return chain_rules(described, SAID, 4)


def test_small_models_are_recomputed_by_everyone_and_large_ones_are_held():
    assert rules_of(loaded(1000)).verify_level is VerifyLevel.FULL
    assert rules_of(loaded(5_000_000)).verify_level is VerifyLevel.HELD
    assert rules_of(loaded(5_000_000, "full")).verify_level is VerifyLevel.FULL


@pytest.mark.parametrize(("parameters", "slot_s"), [(1000, 3), (25_000_000, 7), (100_000_000, 19)])
def test_a_leader_of_a_large_model_is_given_more_time_before_the_next_one(parameters, slot_s):
    assert rules_of(loaded(parameters)).slot_s == slot_s


def test_a_leader_slot_is_never_longer_than_the_longest_round():
    assert rules_of(loaded(100_000_000, max_round_s=12.0)).slot_s == 12


def test_the_proposer_may_ask_for_another_number_of_rounds():
    assert rules_of(loaded(10)).rounds == 1 + 20  # and one for the statistics
    assert chain_rules(loaded(10), SAID.with_rounds(5), 4).rounds == 1 + 5


def proposal(**changes: object) -> Plan:
    """A proposal of the plan, with its code's rules but for these."""
    rules = replace(rules_of(loaded(10)), **changes)  # type: ignore[arg-type]
    return Plan(PlanId(3), MemberId(0), "P", NO_DIGEST, NO_DIGEST, NO_DIGEST, rules)


def test_rules_as_strong_as_the_codes_or_stronger_may_be_joined() -> None:
    check_rules(proposal(), loaded(10))
    check_rules(proposal(min_peers=5, min_rows=50), loaded(10))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_peers": 2}, "min_peers 2 where its code asks for 3"),
        ({"min_rows": 4}, "min_rows 4 where its code asks for 5"),
        ({"verify_level": VerifyLevel.HELD}, "verify level held where its code asks for full"),
        ({"min_peers": 1, "min_rows": 0}, r"min_peers 1 .*; min_rows 0 "),
    ],
)
def test_weaker_rules_than_the_codes_are_refused_at_consent(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        check_rules(proposal(**changes), loaded(10))


# Secure plans.


def secure(dtype: str = "F32", **rules: Any) -> Loaded:
    described = loaded(10)
    said = msgspec.structs.replace(described.rules, **{"secure": True, "min_peers": 2, **rules})
    tensor = Tensor(name="w", dtype=dtype, shape=(10,))
    return msgspec.structs.replace(described, rules=said, tensors=(tensor,))


@pytest.mark.parametrize(("members", "colluders"), [(3, 1), (4, 1), (6, 1), (7, 2), (10, 3)])
def test_a_secure_plan_withstands_a_third_of_the_other_members(
    members: int, colluders: int
) -> None:
    rules = chain_rules(secure(), SAID, members)
    assert (rules.colluders, rules.min_peers) == (colluders, colluders + 2)
    assert chain_rules(secure(colluders=0), SAID, members).colluders == 0


@pytest.mark.parametrize(
    ("described", "members", "words"),
    [
        (secure(), 2, "needs 3 to 64 members, and 2 are invited"),
        (secure(), 65, "withstands 21 colluders needs 23 to 64 members, and 65 are invited"),
        (secure(colluders=3), 4, "needs 5 to 64 members"),
        (secure("I64"), 4, "masks float32 alone, and w is I64"),
    ],
)
def test_a_secure_plan_that_cannot_hold_is_refused(
    described: Loaded, members: int, words: str
) -> None:
    with pytest.raises(PlanError, match=words):
        chain_rules(described, SAID, members)


@pytest.mark.parametrize(
    ("colluders", "asked"), [(PLAIN, secure()), (1, loaded(10)), (2, secure())]
)
def test_a_plan_is_masked_as_its_code_says_or_not_joined(colluders: int, asked: Loaded) -> None:
    found = replace(proposal(colluders=colluders, min_peers=4), invited=0b1111)
    with pytest.raises(ConfigurationError, match="and its code asks for it"):
        check_rules(found, asked)


def test_people_are_told_what_a_plan_protects_against_and_what_not() -> None:
    (plain,) = secrecy_of(proposal())
    assert plain.startswith("NOT SECURE")
    told = " ".join(secrecy_of(replace(proposal(colluders=1), invited=0b1111)))
    assert "more than 1 of the members" in told
    assert "Of 4 members, 3 of them must be there" in told
    assert "Not hidden" in told
    three = secrecy_of(replace(proposal(colluders=1, reopens=True), invited=0b111))
    assert "all of them must be there" in " ".join(three)
    assert "the difference of the two" in three[-1]
