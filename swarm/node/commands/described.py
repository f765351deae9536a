"""A plan in words and numbers, for people and programs to read."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import trio
from msgspec import structs

from swarm.errors import ConfigurationError, ContractError, PlanError
from swarm.node.chain.link import ChainLink
from swarm.node.plans.programs import Programs
from swarm.node.plans.secrecy import secrecy_of
from swarm.protocol.program import Program
from swarm.protocol.state import Member, Plan, member_set, members_in, undecided
from swarm.types import MemberId, PlanId, to_hex


async def read_plan(chain: ChainLink, number: int) -> Plan:
    """A plan as the chain has it now. Raises ConfigurationError if there is none."""
    try:
        return (await chain.snapshot(PlanId(number))).plan
    except ContractError as error:
        raise ConfigurationError(f"there is no plan {number}: see `swarm plan list`") from error


async def describe_plan(
    plan: Plan, members: Mapping[MemberId, Member], programs: Programs
) -> dict[str, Any]:
    """What there is to say of a plan; its stages if their text is here."""
    program: Program | None = None
    with suppress(PlanError):  # of a later release
        program = await trio.to_thread.run_sync(programs.find, plan.program)
    return _describe(plan, members, program)


def _describe(
    plan: Plan, members: Mapping[MemberId, Member], program: Program | None
) -> dict[str, Any]:
    names = {i: member.name for i, member in members.items()}
    present = member_set(i for i, member in members.items() if member.present)
    return {
        "id": plan.id,
        "name": plan.name,
        "digest": to_hex(plan.digest),
        "status": plan.status.name.lower(),
        "proposer": names.get(plan.proposer, str(plan.proposer)),
        "participants": [names.get(i, str(i)) for i in members_in(plan.participants)],
        "program": to_hex(plan.program),
        "stages": None if program is None else [structs.asdict(stage) for stage in program.stages],
        "base": to_hex(plan.base),
        "undecided": [names.get(i, str(i)) for i in members_in(undecided(plan, present))],
        "invited": [names.get(i, str(i)) for i in members_in(plan.invited)],
        "declined": [names.get(i, str(i)) for i in members_in(plan.declined)],
        "until": plan.until,
        "model": to_hex(plan.model),
        "rounds": plan.rules.rounds if program is None else program.training_rounds,
        "model_round": plan.model_round
        if program is None
        else program.number_of(plan.model_round) or 0,
        "secrecy": secrecy_of(plan),
        "rules": asdict(plan.rules) | {"verify_level": plan.rules.verify_level.name.lower()},
    }
