"""What people may ask about plans: read, consent, decline, withdraw, stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from msgspec import to_builtins

from swarm.chain.contract import UnreadableAnswer
from swarm.errors import ConfigurationError, PeerUnreachable, PlanError
from swarm.learning.code import bundle
from swarm.learning.code.bundle import Bundle
from swarm.learning.code.import_reader import Import, read_imports
from swarm.learning.code.privacy_reader import read_privacy
from swarm.learning.plans.stages import check_known
from swarm.node.chain.link import ChainLink
from swarm.node.commands.common import transact
from swarm.node.commands.control import Handler
from swarm.node.commands.described import describe_plan, read_plan
from swarm.node.consent.admission import Admission
from swarm.node.consent.dry_run import try_plan
from swarm.node.plans.library import Library
from swarm.node.plans.programs import Programs, check_program
from swarm.node.plans.proposal_rules import check_rules
from swarm.node.plans.trainers import Trainers
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.program import Program, parse
from swarm.protocol.state import Duty, Member, Plan, Terms
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId, to_hex


@dataclass(frozen=True)
class PlanCommands:
    chain: ChainLink
    library: Library
    programs: Programs
    trainers: Trainers
    election_secret: bytes
    secrets: MaskedSecrets
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
            "try_plan": self.try_plan,
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
        with suppress(PeerUnreachable):  # then its digest is shown
            await self.bring_program(found)
        refusals = self.admission.against_proposal(found, await self.chain.members())
        imports: list[Import] = []
        try:
            imports = await trio.to_thread.run_sync(read_imports, code)
        except PlanError as error:
            refusals.append(str(error))
        return await self._told(found) | {
            "code": _texts(code),
            "begins": self._origin(found),
            "before": await self._read_before(found),
            "imports": to_builtins(imports),
            "policy": refusals + self.admission.against_imports(imports),
            "privacy": read_privacy(code),
        }

    async def consent(self, plan: int, path: str | None) -> object:
        found = await self._plan(plan)
        members = await self.chain.members()
        self.admission.require_proposal(found, members)
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
        trainer.read_data_anew()  # they may have grown since an earlier consent
        loaded = await trainer.describe()
        said = parse(loaded.program)
        check_program(found, program or said, said)
        await trio.to_thread.run_sync(self.programs.add, program or said)
        check_rules(found, loaded)
        self.admission.require_description(loaded)
        samples = await trainer.count_samples()
        self.admission.require_rows(samples.train)
        most = self.max_samples or samples.train if samples.train else 0
        require_privacy = self.admission.require_privacy
        await trio.to_thread.run_sync(require_privacy, loaded, program or said, most)
        commitment = commitment_to(secret_for(self.election_secret, found.id, *found.place))
        # A site without training rows tests what the others have trained.
        duties = Duty.TRAIN if most else Duty.TEST
        if loaded.role and (most or not loaded.role_needs_rows):
            duties |= Duty.HOLD
        key = NO_DIGEST
        if found.is_masked:
            key = Digest(await self.secrets.in_turn(self.secrets.new_receiving_key, found.id))
        terms = Terms(duties, most, commitment=commitment, receiving_key=key)
        await transact(self.chain, "consent", found.id, found.digest, terms)
        return {"digest": to_hex(found.digest), "max_samples": most}

    async def try_plan(self, plan: int, within_s: float) -> object:
        """A dry run of a plan on this site's data, in the box; nothing leaves."""
        found = await self._plan(plan)
        await self.bring_code(found)
        return await try_plan(await self.trainers.dry_run_of(found.digest), within_s)

    async def _read_before(self, plan: Plan) -> dict[str, Any] | None:
        """The newest earlier plan that this member consented to and whose code is here, those of
        the same name first."""
        me = self.admission.member_of(await self.chain.members())
        joined = [
            p
            for p in self.known_plans.values()
            if me is not None and p.id < plan.id and me.id in p.consents
        ]
        joined.sort(key=lambda p: (p.name == plan.name, p.id), reverse=True)
        for before in joined:
            if self.library.has(before.digest):
                code = await trio.to_thread.run_sync(self.library.read, before.digest)
                return {"id": before.id, "name": before.name, "code": _texts(code)}
        return None

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


def _texts(code: Bundle) -> dict[str, str]:
    return {name: text.decode(errors="replace") for name, text in code.files.items()}
