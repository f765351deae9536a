"""What people may ask for that is no plan yet: to propose one, or to continue one that ended."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from swarm.blobs.store import BlobStore
from swarm.errors import ConfigurationError
from swarm.learning.code import bundle
from swarm.learning.code.bundle import Bundle
from swarm.node.chain.link import ChainLink
from swarm.node.commands.common import find_member, number_in, transact
from swarm.node.commands.control import Handler
from swarm.node.commands.described import describe_plan, read_plan
from swarm.node.plans.library import Library
from swarm.node.plans.programs import Programs
from swarm.node.plans.proposal_rules import chain_rules
from swarm.node.plans.trainers import Trainers
from swarm.protocol.program import Program, parse
from swarm.protocol.state import BEST_SLOT, Plan, PlanStatus, member_set
from swarm.types import NO_DIGEST, Digest, PlanId

DEFAULT_INVITATION = 0
"""Time until which the invited may decide: the contract's own."""
OF_PLAN = re.compile(r"plan (\d{1,9})")


@dataclass(frozen=True)
class Invitation:
    """Whose answer is waited for, and how long: all of them and the contract's own time where
    nothing is said."""

    names: Sequence[str]
    within_s: int | None


@dataclass(frozen=True)
class ProposeCommands:
    """`on_proposed` hears of the initial model of each plan that is proposed here."""

    chain: ChainLink
    library: Library
    programs: Programs
    trainers: Trainers
    store: BlobStore
    on_proposed: Callable[[Digest], None]
    bring_code: Callable[[Plan], Awaitable[None]]
    """Gets a plan's code from others, unless it is here."""
    export_model: Callable[[PlanId, Path], Awaitable[None]]
    """Writes the model of a plan in which this node takes part, whole, to a new file: the best
    where the plan has chosen one, or the newest."""

    @property
    def by_name(self) -> dict[str, Handler]:
        return {"propose_plan": self.propose_plan, "continue_plan": self.continue_plan}

    async def propose_plan(
        self,
        path: str,
        rounds: int | None,
        invite: list[str],
        within_s: int | None,
        base: str | None = None,
    ) -> object:
        """`base`: what training begins from, "plan 3" or a file of weights; by default a new model
        from the plan's seed."""
        code = await trio.to_thread.run_sync(bundle.read, Path(path))
        await trio.to_thread.run_sync(self.library.add, code)
        program = await self._program(code)
        if rounds is not None:
            program = program.with_rounds(rounds)
        return await self._propose(code, program, base, Invitation(invite, within_s))

    async def continue_plan(
        self, plan: int, rounds: int, invite: list[str], within_s: int | None
    ) -> object:
        """Propose so many more rounds of a plan that has ended, from its best model, if it has
        chosen one, or its newest. Rounds are numbered on from the newest in either case: seeds and
        schedules must not repeat what was trained already."""
        ended = await read_plan(self.chain, plan)
        if ended.status not in (PlanStatus.COMPLETED, PlanStatus.STOPPED):
            raise ConfigurationError(
                f"plan {plan} is {ended.status.name.lower()}: it can be continued when it has ended"
            )
        if not ended.model_round:
            raise ConfigurationError(f"plan {plan} has made no model: propose it again instead")
        await self.bring_code(ended)
        code = await trio.to_thread.run_sync(self.library.read, ended.digest)
        before = (await self._program_of(ended)).number_of(ended.model_round) or 0
        program = (await self._program(code)).with_rounds(rounds, before)
        return await self._propose(code, program, f"plan {plan}", Invitation(invite, within_s))

    async def _propose(
        self, code: Bundle, program: Program, base: str | None, invitation: Invitation
    ) -> object:
        members = await self.chain.members()
        invited = member_set(find_member(name, members).id for name in invitation.names)
        within_s = invitation.within_s
        until = DEFAULT_INVITATION if within_s is None else int(time.time()) + within_s
        loaded = await (await self.trainers.of(code.digest)).describe()
        present = sum(member.present for member in members.values())
        rules = chain_rules(loaded, program, invited.bit_count() or present)
        await trio.to_thread.run_sync(self.programs.add, program)
        model0 = await self._make_initial(code.digest, base)
        self.on_proposed(model0)
        what = (loaded.name, code.digest, program.digest, model0, rules, invited, until)
        receipt = await transact(self.chain, "proposePlan", *what)
        proposed = await read_plan(self.chain, number_in(receipt, "PlanProposed", "plan"))
        told = await describe_plan(proposed, members, self.programs)
        return told | {"began_with": await self._words_of(base)}

    async def _words_of(self, base: str | None) -> str | None:
        """Which model of an earlier plan a plan begins with; None if it begins otherwise."""
        of_plan = OF_PLAN.fullmatch(base or "")
        if of_plan is None:
            return None
        earlier = await read_plan(self.chain, int(of_plan[1]))
        if earlier.outputs[BEST_SLOT] != NO_DIGEST:
            return f"the best model of plan {earlier.id}, as its sites have chosen it"
        return f"the newest model of plan {earlier.id}"

    async def _make_initial(self, code: Digest, base: str | None) -> Digest:
        """Model 0: from the plan's seed, or with the values of `base`."""
        out = await self._scratch(f"model0-{code.hex()[:16]}")
        trainer = await self.trainers.of(code)
        of_plan = OF_PLAN.fullmatch(base or "")
        if of_plan is not None:
            weights = await self._scratch(f"base-{code.hex()[:16]}")
            try:
                await self.export_model(PlanId(int(of_plan[1])), weights)
                await trainer.initialise(out, weights)
            finally:
                await trio.to_thread.run_sync(lambda: weights.unlink(missing_ok=True))
        else:
            await trainer.initialise(out, None if base is None else Path(base))
        return await trio.to_thread.run_sync(self.store.add, out)

    async def _scratch(self, name: str) -> Path:
        path = self.store.scratch(name)
        await trio.to_thread.run_sync(lambda: path.unlink(missing_ok=True))
        return path

    async def _program(self, code: Bundle) -> Program:
        """What this code says."""
        return parse((await (await self.trainers.of(code.digest)).describe()).program)

    async def _program_of(self, plan: Plan) -> Program:
        found = await trio.to_thread.run_sync(self.programs.find, plan.program)
        if found is None:
            raise ConfigurationError(
                f"the program of plan {plan.id} is not here: this node took no part in it; propose "
                "it from a node that did"
            )
        return found
