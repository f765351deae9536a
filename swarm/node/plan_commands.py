"""What people may ask about plans: read, consent, decline, withdraw, stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.chain.contract import UnreadableAnswer
from swarm.errors import ConfigurationError, PeerUnreachable
from swarm.learning import bundle
from swarm.learning.stages import check_known
from swarm.node.admission import Admission
from swarm.node.chain_link import ChainLink
from swarm.node.commands import transact
from swarm.node.control import Handler
from swarm.node.described import describe_plan, read_plan
from swarm.node.library import Library
from swarm.node.programs import Programs, check_program
from swarm.node.proposal import check_rules
from swarm.node.trainers import Trainers
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.program import Program, parse
from swarm.protocol.state import Duty, Member, Plan, Terms
from swarm.types import MemberId, PlanId, to_hex


@dataclass(frozen=True)
class PlanCommands:
    chain: ChainLink
    library: Library
    programs: Programs
    trainers: Trainers
    election_secret: bytes
    max_samples: int | None
    """What this site declares, if not all that it has."""
    bring_code: Callable[[Plan], Awaitable[None]]
    """Gets a plan's code from others, unless it is here."""
    bring_program: Callable[[Plan], Awaitable[Program]]
    """A plan's program: from here, or from others. Raises PeerUnreachable if nobody has it."""
    admission: Admission
    known_plans: Mapping[PlanId, Plan]
    """As this node has seen them."""

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "plans": self.plans,
            "show_plan": self.show_plan,
            "consent": self.consent,
            "decline": self.decline,
            "withdraw": self.withdraw,
            "stop_plan": self.stop_plan,
            "plan_sentence": self.plan_sentence,
            "confirm_plan": self.confirm_plan,
        }

    async def plans(self) -> object:
        members, count = await self.chain.members(), await self.chain.plan_count()
        return [await self._listed(number, members) for number in range(1, count + 1)]

    async def _listed(self, number: int, members: Mapping[MemberId, Member]) -> dict[str, Any]:
        try:
            return await describe_plan(await self._plan(number), members, self.programs)
        except UnreadableAnswer as error:
            return {"id": number, "unreadable": str(error)}

    async def show_plan(self, plan: int) -> object:
        found = await self._plan(plan)
        await self.bring_code(found)
        code = await trio.to_thread.run_sync(self.library.read, found.digest)
        files = {name: text.decode(errors="replace") for name, text in code.files.items()}
        with suppress(PeerUnreachable):  # then its digest is shown
            await self.bring_program(found)
        return await self._told(found) | {"code": files, "begins": self._origin(found)}

    async def consent(self, plan: int, path: str | None) -> object:
        found = await self._plan(plan)
        self.admission.require_proposal(found, await self.chain.members())
        if path is not None:
            code = await trio.to_thread.run_sync(bundle.read, Path(path))
            if code.digest != found.digest:
                raise ConfigurationError(
                    f"the code in {path} has the digest {to_hex(code.digest)}, but plan {plan} is "
                    f"{to_hex(found.digest)}: read the plan with `swarm plan show {plan}`, and "
                    "consent to that, or ask the proposer"
                )
            await trio.to_thread.run_sync(self.library.add, code)
        await self.bring_code(found)
        await trio.to_thread.run_sync(self.library.read, found.digest)
        program: Program | None = None
        with suppress(PeerUnreachable):  # then it must be just what the code says
            program = await self.bring_program(found)
            check_known(program)
        trainer = await self.trainers.of(found.digest)
        loaded = await trainer.describe()
        said = parse(loaded.program)
        check_program(found, program or said, said)
        await trio.to_thread.run_sync(self.programs.add, program or said)
        check_rules(found, loaded)
        self.admission.require_description(loaded)
        samples = await trainer.count_samples()
        self.admission.require_rows(samples.train)
        most = self.max_samples or samples.train if samples.train else 0
        commitment = commitment_to(secret_for(self.election_secret, found.id, *found.place))
        # A site without training rows tests what the others have trained.
        duties = Duty.TRAIN if most else Duty.TEST
        terms = Terms(duties, most, commitment=commitment)
        await transact(self.chain, "consent", found.id, found.digest, terms)
        return {"digest": to_hex(found.digest), "max_samples": most}

    async def plan_sentence(self, plan: int) -> object:
        """What a second person signs to confirm a plan, and who may."""
        sentence = self.admission.confirmations.sentence(await self._plan(plan))
        return {"sentence": sentence, "confirmers": self.admission.confirmations.confirmers}

    async def confirm_plan(self, plan: int, signature: str) -> object:
        found = await self._plan(plan)
        add = self.admission.confirmations.add
        return {"confirmer": to_hex(await trio.to_thread.run_sync(add, found, signature))}

    async def decline(self, plan: int) -> object:
        await transact(self.chain, "decline", plan)
        return await self._told(await self._plan(plan))

    async def withdraw(self, plan: int) -> object:
        await transact(self.chain, "withdraw", plan)
        return {}

    async def stop_plan(self, plan: int) -> object:
        await transact(self.chain, "stop", plan)
        found = await self._plan(plan)
        return {"status": found.status.name.lower(), "votes": found.stop_votes.bit_count()}

    async def _told(self, plan: Plan) -> dict[str, Any]:
        return await describe_plan(plan, await self.chain.members(), self.programs)

    def _origin(self, plan: Plan) -> str | None:
        """The earlier plan whose model this one begins from, if it is one's."""
        others = (p for p in self.known_plans.values() if p.id < plan.id)
        found = next((p for p in others if plan.base in p.outputs), None)
        return None if found is None else f"the model of plan {found.id} ({found.name})"

    async def _plan(self, number: int) -> Plan:
        return await read_plan(self.chain, number)
