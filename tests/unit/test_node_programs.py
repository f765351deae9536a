"""A plan whose program this release does not know ends no node: it says why, and goes on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from harness.joined import joined_plans

from swarm.errors import LocalError, PeerUnreachable, PlanError, RemoteError
from swarm.node.chain.seen import Seen
from swarm.node.plans import sources
from swarm.node.plans.joined import JoinedPlans
from swarm.node.plans.programs import Programs
from swarm.protocol.program import Program, Stage, federated_averaging
from swarm.protocol.state import Consent, Duty, Member, Plan, PlanStatus, Rules
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

ME = Member(MemberId(0), Address(b"\1" * 20), Address(b"\1" * 20), "basel")
CODE = Digest(b"\2" * 32)


def plans_with(describe: Any, plan: Plan, programs: Programs) -> JoinedPlans:
    async def trainer_of(digest: Digest) -> Any:
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(describe=describe)

    seen = Seen(ME.node, {ME.id: ME}, {plan.id: plan})
    return joined_plans(seen, trainer_of, programs=programs)


def plan_with(program: Digest) -> Plan:
    consents = {ME.id: Consent(ME.id, Duty.TRAIN, 10, NO_DIGEST)}
    rules = Rules(3, 2)
    return Plan(
        PlanId(1), ME.id, "later", CODE, program, CODE, rules, PlanStatus.RUNNING, 1, consents
    )


def observe(joined: JoinedPlans, plan: Plan) -> None:
    """What a node does when it sees the plan: with a new block, or after a restart."""

    async def scenario() -> None:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                assert await joined.observe(plan, [], nursery)

    trio.run(scenario)


async def described() -> Any:
    await trio.lowlevel.checkpoint()
    return SimpleNamespace(program=federated_averaging(3).blob)


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    return Programs(tmp_path / "programs")


def test_a_node_takes_no_part_in_a_plan_whose_program_it_does_not_know_and_says_why(
    programs: Programs,
) -> None:
    plan = plan_with(Digest(b"\7" * 32))
    joined = plans_with(described, plan, programs)
    for _ in range(2):  # the second time, nothing is begun
        observe(joined, plan)
        assert list(joined.refused) == [plan.id]
        assert "such as this release of swarm does not know" in joined.refused[plan.id]
    assert joined.parts == {}
    assert joined._joining == set()  # so that pruning goes on


def test_a_plan_whose_code_cannot_say_what_it_is_ends_no_node(programs: Programs) -> None:
    async def broken() -> Any:
        await trio.lowlevel.checkpoint()
        raise PlanError("plan.py, line 3: no module named torchvision")

    plan = plan_with(federated_averaging(3).digest)
    joined = plans_with(broken, plan, programs)
    observe(joined, plan)
    assert joined.refused == {plan.id: "plan.py, line 3: no module named torchvision"}


def test_what_this_machine_cannot_do_now_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, programs: Programs
) -> None:
    monkeypatch.setattr(sources, "RETRY_S", 0.01)
    asked: list[int] = []

    async def describe() -> Any:
        asked.append(1)
        if len(asked) < 3:
            raise LocalError("the trainer cannot be started")
        return await described()

    program = federated_averaging(3)
    joined = plans_with(describe, plan_with(program.digest), programs)
    assert trio.run(joined.sources.await_program, plan_with(program.digest)) == program
    assert len(asked) == 3
    # From then on the blob says it, after a restart too, and no trainer is asked.
    again = plans_with(describe, plan_with(program.digest), Programs(programs.directory))
    assert trio.run(again.sources.await_program, plan_with(program.digest)) == program
    assert len(asked) == 3


def test_a_program_comes_from_whoever_has_it_and_lies_are_passed_over(tmp_path: Path) -> None:
    mine, theirs = Programs(tmp_path / "mine"), Programs(tmp_path / "theirs")
    program = federated_averaging(3).with_rounds(2)
    theirs.add(program)
    liar, mute, honest = (Address(bytes([i]) * 20) for i in range(3))

    class Network:
        async def request(
            self, peer: Address, method: str, payload: bytes, *, deadline_s: float
        ) -> bytes:
            if peer == mute:
                raise RemoteError("it does not answer")
            return b"another" if peer == liar else await theirs.serve(ME.node, payload)

    async def scenario() -> None:
        with pytest.raises(PeerUnreachable, match="sent another program; it does not answer"):
            await mine.bring(program.digest, [liar, mute], Network())
        assert await mine.bring(program.digest, [liar, honest], Network()) == program
        with pytest.raises(RemoteError, match="not here"):
            await theirs.serve(ME.node, b"short")

    trio.run(scenario)
    assert mine.find(program.digest) == program
    (mine.directory / program.digest.hex()).write_bytes(b"spoilt")
    assert mine.find(program.digest) is None


def test_a_task_of_a_later_release_is_named_before_any_code_runs(programs: Programs) -> None:
    async def never() -> Any:
        raise AssertionError("the code is not asked")

    stages = (*federated_averaging(3).stages, Stage("forecasts", "forecast", "sum", 1, 3))
    program = Program(stages)
    programs.add(program)
    plan = plan_with(program.digest)
    joined = plans_with(never, plan, programs)
    observe(joined, plan)
    assert "does not know the task 'forecast'" in joined.refused[plan.id]
