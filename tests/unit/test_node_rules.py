"""The rules of a proposal, as they follow from the plan's code."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from swarm.errors import ConfigurationError
from swarm.learning.supervisor.trainer_messages import Loaded, Rules, Tensor
from swarm.node.plans.proposal_rules import chain_rules, check_rules
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Plan, VerifyLevel
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
    return chain_rules(described, SAID)


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
    assert chain_rules(loaded(10), SAID.with_rounds(5)).rounds == 1 + 5


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
