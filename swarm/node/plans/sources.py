"""Where a plan's code and stages come from: this node's folders, or another member's node."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass

import trio

from swarm.errors import ConfigurationError, PlanError, RemoteError, SwarmError
from swarm.learning.plans.stages import check_known
from swarm.learning.supervisor.trainer_messages import Loaded
from swarm.node.chain.seen import Seen
from swarm.node.plans.library import Library, Requests
from swarm.node.plans.programs import Programs, check_program
from swarm.node.plans.trainers import Trainers
from swarm.protocol.program import Program, parse
from swarm.protocol.state import Plan

log = logging.getLogger("swarm.node")

RETRY_S = 1.0


@dataclass(frozen=True)
class PlanSources:
    """Others may propose as many plans as they like, and fill no disk but their own: a plan is
    fetched only where somebody here wants to read it, or this node takes part."""

    library: Library
    programs: Programs
    trainers: Trainers
    network: Requests
    seen: Seen

    async def bring_code(self, plan: Plan) -> None:
        """Get a plan's code unless it is here, from its proposer or from another who has it.

        Raises PeerUnreachable.
        """
        if not self.library.has(plan.digest):
            await self.library.fetch(plan.digest, self.seen.who_know(plan), self.network)

    async def bring_program(self, plan: Plan) -> Program:
        """A plan's program: from here, or from another who has it, as `bring_code`.

        Raises PeerUnreachable, or PlanError if it is of a later release.
        """
        return await self.programs.bring(plan.program, self.seen.who_know(plan), self.network)

    async def await_code(self, plan: Plan) -> None:
        """The code of a plan that this node takes part in; tried until somebody has it.

        Raises ConfigurationError if it was changed here: that is for a person to mend.
        """
        while not self.library.has(plan.digest):
            try:
                await self.bring_code(plan)
            except SwarmError as error:
                log.info("%s", error)
                await trio.sleep(RETRY_S)
        self.library.read(plan.digest)

    async def await_program(self, plan: Plan) -> Program:
        """What the plan's rounds are for: the blob that was written when this member consented, or
        another's; or else what its code says. Tried until this machine can.

        Raises ConfigurationError, PlanError if the plan is not one that this release can run.
        """
        program: Program | None = None
        with suppress(RemoteError):
            program = await self.bring_program(plan)
        while program is None:
            try:
                said = parse((await self.describe(plan)).program)
                check_program(plan, said, said)
                await trio.to_thread.run_sync(self.programs.add, said)
                program = said
            except (ConfigurationError, PlanError):
                raise
            except SwarmError as error:
                log.warning("the code of plan %d cannot be asked yet: %s", plan.id, error)
                await trio.sleep(RETRY_S)
        check_known(program)
        return program

    async def describe(self, plan: Plan) -> Loaded:
        """What the plan's code, which is here, says of itself. Raises SwarmError."""
        trainer = await self.trainers.of(plan.digest)
        return await trainer.describe()
