"""A plan whose program this release does not know ends no node: it says why, and goes on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from swarm.errors import LocalError, PlanError
from swarm.node import node as node_module
from swarm.node.node import Node
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Consent, Duty, Member, Plan, PlanStatus, Rules
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

ME = Member(MemberId(0), Address(b"\1" * 20), Address(b"\1" * 20), "basel")
CODE = Digest(b"\2" * 32)


def node_with(describe: Any, plan: Plan) -> Node:
    nothing: Any = SimpleNamespace()
    library: Any = SimpleNamespace(has=lambda digest: True, read=lambda digest: None)

    async def trainer_of(digest: Digest) -> Any:
        await trio.lowlevel.checkpoint()
        return SimpleNamespace(describe=describe)

    made = Node(
        nothing, nothing, ME.node, b"", nothing, nothing, nothing, nothing, nothing, library,
        SimpleNamespace(of=trainer_of), {},
    )  # type: ignore[arg-type]  # fmt: skip
    made.members, made.plans = {ME.id: ME}, {plan.id: plan}
    return made


def plan_with(program: Digest) -> Plan:
    consents = {ME.id: Consent(ME.id, Duty.TRAIN, 10, NO_DIGEST)}
    rules = Rules(3, 2)
    return Plan(
        PlanId(1), ME.id, "later", CODE, program, CODE, rules, PlanStatus.RUNNING, 1, consents
    )


def observe(node: Node, plan: Plan) -> None:
    """What a node does when it sees the plan: with a new block, or after a restart."""

    async def scenario() -> None:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                await node._observe_plan(plan, [], nursery)

    trio.run(scenario)


async def described() -> Any:
    await trio.lowlevel.checkpoint()
    return SimpleNamespace(has_statistics=False)


def test_a_node_takes_no_part_in_a_plan_whose_program_it_does_not_know_and_says_why() -> None:
    plan = plan_with(Digest(b"\7" * 32))
    node = node_with(described, plan)
    for _ in range(2):  # the second time, nothing is begun
        observe(node, plan)
        assert list(node.refused) == [plan.id]
        assert "such as this release of swarm does not know" in node.refused[plan.id]
    assert node.participations == {}
    assert node._joining == set()  # so that pruning goes on


def test_a_plan_whose_code_cannot_say_what_it_is_ends_no_node() -> None:
    async def broken() -> Any:
        await trio.lowlevel.checkpoint()
        raise PlanError("plan.py, line 3: no module named torchvision")

    plan = plan_with(federated_averaging(3).digest)
    node = node_with(broken, plan)
    observe(node, plan)
    assert node.refused == {plan.id: "plan.py, line 3: no module named torchvision"}


def test_what_this_machine_cannot_do_now_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "CODE_RETRY_S", 0.01)
    asked: list[int] = []

    async def describe() -> Any:
        asked.append(1)
        if len(asked) < 3:
            raise LocalError("the trainer cannot be started")
        return await described()

    program = federated_averaging(3)
    node = node_with(describe, plan_with(program.digest))
    assert trio.run(node._rebuild_program, plan_with(program.digest)) == program
    assert len(asked) == 3
