"""Blobs go as soon as nobody needs them, and never before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
from harness.joined import joined_plans

from swarm.node.chain.seen import Seen
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Member, Plan, PlanStatus, Round, RoundStatus, Rules
from swarm.rounds.retention import PRUNE_EVERY_S, PlanBlobs, Pruning, Retention
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

Made = dict[int, set[Digest]]

NOTHING = frozenset[Digest]()
MODEL, UPDATE, OTHER = (Digest(bytes([number]) * 32) for number in range(1, 4))


def test_what_is_needed_stays_however_often_one_looks() -> None:
    pruning = Pruning()
    for _ in range(3):
        assert pruning.look({MODEL, UPDATE}, {MODEL, UPDATE}, NOTHING) == set()


def test_what_was_needed_goes_at_the_first_look_that_finds_it_is_not() -> None:
    pruning = Pruning()
    pruning.look({MODEL, UPDATE}, {MODEL, UPDATE}, NOTHING)
    assert pruning.look({MODEL, UPDATE}, {MODEL}, NOTHING) == {UPDATE}


def test_what_was_needed_goes_even_if_it_came_after_the_last_look() -> None:
    pruning = Pruning()
    pruning.look({MODEL}, {MODEL, UPDATE}, NOTHING)
    assert pruning.look({MODEL, UPDATE}, {MODEL}, NOTHING) == {UPDATE}


def test_what_came_and_served_between_two_looks_goes_at_once() -> None:
    pruning = Pruning()
    pruning.look({MODEL}, {MODEL}, NOTHING)
    assert pruning.look({MODEL, UPDATE}, {MODEL}, {UPDATE}) == {UPDATE}


def test_what_is_spent_in_one_plan_stays_if_another_needs_it() -> None:
    assert Pruning().look({MODEL}, {MODEL}, {MODEL}) == set()


def test_what_nobody_claims_goes_at_the_second_look_and_not_at_the_first() -> None:
    pruning = Pruning()
    pruning.look({MODEL}, {MODEL}, NOTHING)
    assert pruning.look({MODEL, OTHER}, {MODEL}, NOTHING) == set()
    assert pruning.look({MODEL, OTHER}, {MODEL}, NOTHING) == {OTHER}


def test_what_is_claimed_at_the_second_look_stays() -> None:
    pruning = Pruning()
    pruning.look({MODEL, UPDATE}, {MODEL}, NOTHING)
    assert pruning.look({MODEL, UPDATE}, {MODEL, UPDATE}, NOTHING) == set()


def test_what_was_deleted_and_is_made_again_is_new() -> None:
    pruning = Pruning()
    pruning.look({UPDATE}, {UPDATE}, NOTHING)
    assert pruning.look({UPDATE}, NOTHING, NOTHING) == {UPDATE}
    assert pruning.look({UPDATE}, NOTHING, NOTHING) == set()


def blobs_in(status: RoundStatus, plan_status: PlanStatus, made: Made) -> PlanBlobs:
    """Of a plan whose round 4 stands so, with these made or pulled for rounds."""
    round = Round(4, 1, status, opened_at=50, roster=7)
    plan = Plan(
        PlanId(1), MemberId(0), "p", MODEL, MODEL, MODEL, Rules(9, 2), plan_status, 7, {},
        round=round,
    )  # fmt: skip
    nothing: Any = SimpleNamespace()
    records: Any = SimpleNamespace(models=dict, metas=set, counted=set)
    blobs = PlanBlobs(nothing, records, federated_averaging(20), keep_models=3)
    for number, digests in made.items():
        blobs.note(number, *digests)
    blobs.observe(plan)
    return blobs


def test_the_best_model_is_kept_beside_the_newest_and_is_what_people_are_to_have() -> None:
    made = {number: Digest(bytes([number]) * 32) for number in range(1, 7)}
    held: Any = SimpleNamespace(has=lambda digest: True)
    records: Any = SimpleNamespace(models=lambda: made, metas=set)

    def kept(best: Digest, chosen_in: int) -> tuple[list[int], int | None]:
        blobs = PlanBlobs(held, records, federated_averaging(20), keep_models=2)
        plan = Plan(PlanId(1), MemberId(0), "p", MODEL, MODEL, MODEL, Rules(9, 2))
        plan.outputs, plan.output_rounds = (made[6], MODEL, best, MODEL), (6, 0, chosen_in, 0)
        blobs.observe(plan)
        return list(blobs.models()), blobs.chosen()

    assert kept(NO_DIGEST, 0) == ([5, 6], 6)
    assert kept(made[5], 7) == ([5, 6], 5)
    assert kept(made[2], 7) == ([2, 5, 6], 2)
    unknown = Digest(bytes([9]) * 32)
    assert kept(unknown, 7) == ([5, 6, 7], 7), "a node that joined later knows no earlier round"


@pytest.mark.parametrize("status", [RoundStatus.OPEN, RoundStatus.CLOSED])
def test_the_blobs_of_a_round_are_needed_while_it_runs(status: RoundStatus) -> None:
    one = blobs_in(status, PlanStatus.RUNNING, {3: {OTHER}, 4: {UPDATE}})
    assert one.needed() == {MODEL, UPDATE}
    assert one.take_spent() == {OTHER}


@pytest.mark.parametrize(
    ("status", "plan_status"),
    [(RoundStatus.FINAL, PlanStatus.RUNNING), (RoundStatus.CLOSED, PlanStatus.STOPPED)],
)
def test_they_are_spent_when_it_is_final_or_its_plan_stopped(
    status: RoundStatus, plan_status: PlanStatus
) -> None:
    one = blobs_in(status, plan_status, {4: {UPDATE}})
    assert one.needed() == {MODEL}
    assert one.take_spent() == {UPDATE}
    assert one.take_spent() == set()


def test_counts_from_which_a_choice_follows_are_needed_as_long_as_the_plan() -> None:
    one = blobs_in(RoundStatus.FINAL, PlanStatus.COMPLETED, {4: {UPDATE}})
    assert one.take_spent() == {UPDATE}
    kept: Any = one.records
    kept.counted = lambda: {UPDATE}
    assert one.needed() == {MODEL, UPDATE}


def test_what_comes_after_its_round_is_spent_too() -> None:
    one = blobs_in(RoundStatus.FINAL, PlanStatus.RUNNING, {})
    assert one.take_spent() == set()
    one.note(4, UPDATE)
    assert one.take_spent() == {UPDATE}


def test_what_is_made_for_a_round_that_is_not_known_yet_is_kept() -> None:
    one = blobs_in(RoundStatus.FINAL, PlanStatus.RUNNING, {5: {UPDATE}})
    assert one.needed() == {MODEL, UPDATE}
    assert one.take_spent() == set()


def test_a_node_deletes_nothing_before_it_knows_what_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a start: the chain cannot be read, it is no member yet, its trainer does not start."""

    async def run_sync(function: Any, *arguments: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", run_sync)
    dropped: list[set[Digest]] = []
    store: Any = SimpleNamespace(
        roots=lambda: frozenset({MODEL, OTHER}), unfinished=dict, discard=dropped.append
    )
    seen = Seen(Address(b"\1" * 20))
    joined = joined_plans(seen)
    retention = Retention(store, joined.know_needs, lambda: (joined.needed(), joined.take_spent()))

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(retention.run)
            await trio.sleep(10 * PRUNE_EVERY_S)
            assert not dropped  # nothing of the chain is known
            seen.height = 5
            await trio.sleep(10 * PRUNE_EVERY_S)
            assert not dropped  # it is no member
            me = Member(MemberId(0), seen.own, seen.own, "me")
            seen.members = {me.id: me}
            joined._joining.add(PlanId(1))
            await trio.sleep(10 * PRUNE_EVERY_S)
            assert not dropped  # its part in the plan is still being put together
            joined.parts[PlanId(1)] = ready
            await trio.sleep(10 * PRUNE_EVERY_S)
            nursery.cancel_scope.cancel()

    blobs = blobs_in(RoundStatus.OPEN, PlanStatus.RUNNING, {})
    ready: Any = SimpleNamespace(
        knows_needs=blobs.are_known, needed=blobs.needed, take_spent=blobs.take_spent
    )
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))
    assert {OTHER} in dropped
    assert all(MODEL not in each for each in dropped)
