"""What people may ask about plans: read, propose, consent, decline, withdraw, stop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import trio
from msgspec import structs

from swarm.blobs.store import BlobStore
from swarm.chain.contract import UnreadableAnswer
from swarm.errors import ConfigurationError, ContractError, PeerUnreachable, PlanError
from swarm.learning import bundle
from swarm.learning.stages import check_known
from swarm.node.admission import Admission
from swarm.node.chain_link import ChainLink
from swarm.node.commands import find_member, number_in, transact
from swarm.node.control import Handler
from swarm.node.library import Library
from swarm.node.programs import Programs, check_program
from swarm.node.proposal import chain_rules, check_rules
from swarm.node.trainers import Trainers
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.program import Program, parse
from swarm.protocol.state import Duty, Member, Plan, Terms, member_set, members_in, undecided
from swarm.types import Digest, MemberId, PlanId, to_hex

DEFAULT_INVITATION = 0
"""Time until which the invited may decide: the contract's own."""


@dataclass(frozen=True)
class PlanCommands:
    """`on_proposed` hears of the initial model of each plan that is proposed here."""

    chain: ChainLink
    library: Library
    programs: Programs
    trainers: Trainers
    store: BlobStore
    election_secret: bytes
    max_samples: int | None
    """What this site declares, if not all that it has."""
    on_proposed: Callable[[Digest], None]
    bring_code: Callable[[Plan], Awaitable[None]]
    """Gets a plan's code from others, unless it is here."""
    bring_program: Callable[[Plan], Awaitable[Program]]
    """A plan's program: from here, or from others. Raises PeerUnreachable if nobody has it."""
    admission: Admission

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "plans": self.plans,
            "show_plan": self.show_plan,
            "propose_plan": self.propose_plan,
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
            return await self._describe(await self._plan(number), members)
        except UnreadableAnswer as error:
            return {"id": number, "unreadable": str(error)}

    async def show_plan(self, plan: int) -> object:
        found = await self._plan(plan)
        await self.bring_code(found)
        code = await trio.to_thread.run_sync(self.library.read, found.digest)
        files = {name: text.decode(errors="replace") for name, text in code.files.items()}
        with suppress(PeerUnreachable):  # then its digest is shown
            await self.bring_program(found)
        return await self._describe(found, await self.chain.members()) | {"code": files}

    async def propose_plan(
        self, path: str, rounds: int | None, invite: list[str], within_s: int | None
    ) -> object:
        """`invite`: names of the members whose answer is waited for, `within_s` seconds at most;
        all of them and the contract's own time by default."""
        members = await self.chain.members()
        invited = member_set(find_member(name, members).id for name in invite)
        until = DEFAULT_INVITATION if within_s is None else int(time.time()) + within_s
        code = await trio.to_thread.run_sync(bundle.read, Path(path))
        await trio.to_thread.run_sync(self.library.add, code)
        out = self.store.scratch(f"model0-{code.digest.hex()[:16]}")
        await trio.to_thread.run_sync(lambda: out.unlink(missing_ok=True))
        trainer = await self.trainers.of(code.digest)
        loaded = await trainer.describe()
        program = parse(loaded.program)
        if rounds is not None:
            program = program.with_rounds(rounds)
        rules = chain_rules(loaded, program)
        await trio.to_thread.run_sync(self.programs.add, program)
        await trainer.initialise(out)
        model0 = await trio.to_thread.run_sync(self.store.add, out)
        self.on_proposed(model0)
        receipt = await transact(
            self.chain,
            "proposePlan",
            loaded.name,
            code.digest,
            program.digest,
            model0,
            rules,
            invited,
            until,
        )
        proposed = await self._plan(number_in(receipt, "PlanProposed", "plan"))
        return await self._describe(proposed, await self.chain.members())

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
        return await self._describe(await self._plan(plan), await self.chain.members())

    async def withdraw(self, plan: int) -> object:
        await transact(self.chain, "withdraw", plan)
        return {}

    async def stop_plan(self, plan: int) -> object:
        await transact(self.chain, "stop", plan)
        found = await self._plan(plan)
        return {"status": found.status.name.lower(), "votes": found.stop_votes.bit_count()}

    async def _plan(self, number: int) -> Plan:
        try:
            return (await self.chain.snapshot(PlanId(number))).plan
        except ContractError as error:
            raise ConfigurationError(f"there is no plan {number}: see `swarm plan list`") from error

    async def _describe(self, plan: Plan, members: Mapping[MemberId, Member]) -> dict[str, Any]:
        program: Program | None = None
        with suppress(PlanError):  # of a later release
            program = await trio.to_thread.run_sync(self.programs.find, plan.program)
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
        "rules": asdict(plan.rules) | {"verify_level": plan.rules.verify_level.name.lower()},
    }
