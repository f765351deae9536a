"""What the command line may ask of a running node, by name. Arguments and answers are JSON."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from swarm.chain.client import Receipt
from swarm.chain.genesis import read_card
from swarm.errors import ConfigurationError, ContractError
from swarm.learning import bundle
from swarm.learning.messages import Loaded
from swarm.node.control import Handler
from swarm.node.refusals import in_words
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.ledger import Kind, Proposal, votes_for, votes_needed
from swarm.protocol.state import Member, Plan, Rules, VerifyLevel, members_in
from swarm.protocol.workflow import FEDERATED_AVERAGING
from swarm.rounds.layouts import layout_of
from swarm.types import NO_ADDRESS, NO_DIGEST, Digest, PlanId, to_hex

if TYPE_CHECKING:
    from swarm.node.node import Node
    from swarm.rounds.driver import Driver

DEADLINE_S = 60.0
FULL_BELOW_BYTES = 16 * 2**20
"""Models up to this size are recomputed by everyone, unless the plan says otherwise."""

SLOT_BYTES_PER_S = 25 * 10**6
"""How much of a model a leader is expected to have merged in each second of its first slot."""


class Handlers:
    """Bound to one node; `by_name` is what the control socket serves."""

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "wait_for_head": self.wait_for_head,
            "contract_info": self.contract_info,
            "members": self.members,
            "propose_member": self.propose_member,
            "vote": self.vote,
            "leave": self.leave,
            "plans": self.plans,
            "show_plan": self.show_plan,
            "propose_plan": self.propose_plan,
            "consent": self.consent,
            "withdraw": self.withdraw,
            "stop_plan": self.stop_plan,
            "records": self.records,
            "models": self.models,
            "evaluate": self.evaluate,
            "export": self.export,
        }

    async def status(self) -> object:
        return self.node.status()

    async def wait_for_head(self, above: int) -> object:
        """The head's height as soon as it is greater, for those who would ask again and again."""
        return await self.node.chain.wait_for_head(above)

    # Members.

    async def contract_info(self) -> object:
        chain = self.node.chain
        members = await chain.members()
        names = {m.node: m.name for m in members.values()}
        validators = await chain.ask(chain.client.validators)
        height, timestamp = await chain.ask(chain.client.head)
        return {
            "contract": to_hex(chain.client.contract),
            "chain_id": chain.client.chain_id,
            "protocol_version": int(await chain.ask(chain.client.call, "protocolVersion")),
            "height": height,
            "timestamp": timestamp,
            "members": [m.name for m in members.values() if m.present],
            "validators": [names.get(v, to_hex(v)) for v in validators],
        }

    async def members(self) -> object:
        members = await self.node.chain.members()
        proposals = await self.node.chain.proposals()
        return {
            "members": [
                {
                    "id": m.id,
                    "name": m.name,
                    "account": to_hex(m.account),
                    "node": to_hex(m.node),
                    "present": m.present,
                    "validator": m.validator,
                }
                for m in members.values()
            ],
            "proposals": [_proposal(p, members) for p in proposals.values()],
        }

    async def propose_member(self, card: str | None, remove: str | None) -> object:
        if card is not None:
            founder = await trio.to_thread.run_sync(read_card, Path(card))
            arguments = (Kind.ADMIT, founder.account, founder.node, founder.name, 0, 0)
        else:
            member = self._member(str(remove), await self.node.chain.members())
            arguments = (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", member.id, 0)
        receipt = await self._transact("propose", *arguments)
        found = await self.node.chain.proposals()
        number = _number_in(receipt, "Proposed", "proposal")
        return _proposal(found[number], await self.node.chain.members())

    async def vote(self, proposal: int, support: bool) -> object:
        await self._transact("vote", proposal, support)
        found = (await self.node.chain.proposals())[proposal]
        return _proposal(found, await self.node.chain.members())

    async def leave(self) -> object:
        await self._transact("leave")
        return {}

    @staticmethod
    def _member(wanted: str, members: dict[Any, Member]) -> Member:
        for member in members.values():
            if member.present and wanted in (member.name, str(member.id), to_hex(member.account)):
                return member
        names = ", ".join(m.name for m in members.values() if m.present)
        raise ConfigurationError(f"no member is called {wanted!r}; there are: {names}")

    # Plans.

    async def plans(self) -> object:
        return [self._describe(plan) for plan in await self._all_plans()]

    async def show_plan(self, plan: int) -> object:
        found = await self._plan(plan)
        code = await trio.to_thread.run_sync(self.node.library.read, found.digest)
        files = {name: text.decode(errors="replace") for name, text in code.files.items()}
        return self._describe(found) | {"code": files}

    async def propose_plan(self, path: str, rounds: int | None) -> object:
        node = self.node
        code = await trio.to_thread.run_sync(bundle.read, Path(path))
        await trio.to_thread.run_sync(node.library.add, code)
        out = node.store.scratch(f"model0-{code.digest.hex()[:16]}")
        await trio.to_thread.run_sync(lambda: out.unlink(missing_ok=True))
        trainer = await node.trainer(code.digest)
        loaded = await trainer.describe()
        rules = chain_rules(loaded, rounds)
        await trainer.initialise(out)
        model0 = await trio.to_thread.run_sync(node.store.add, out)
        node.proposed.add(model0)
        workflow = FEDERATED_AVERAGING
        receipt = await self._transact(
            "proposePlan",
            loaded.name,
            code.digest,
            model0,
            workflow.id,
            workflow.version,
            workflow.merge_id,
            rules,
        )
        return self._describe(await self._plan(_number_in(receipt, "PlanProposed", "plan")))

    async def consent(self, plan: int, path: str | None) -> object:
        node = self.node
        found = await self._plan(plan)
        if path is not None:
            code = await trio.to_thread.run_sync(bundle.read, Path(path))
            if code.digest != found.digest:
                raise ConfigurationError(
                    f"the code in {path} has the digest {to_hex(code.digest)}, but plan {plan} is "
                    f"{to_hex(found.digest)}: read the plan with `swarm plan show {plan}`, and "
                    "consent to that, or ask the proposer"
                )
            await trio.to_thread.run_sync(node.library.add, code)
        await trio.to_thread.run_sync(node.library.read, found.digest)
        trainer = await node.trainer(found.digest)
        loaded = await trainer.describe()
        if loaded.has_statistics != found.rules.statistics_round:
            raise ConfigurationError(
                f"plan {plan} was proposed with other rules than its code has: do not join it"
            )
        samples = await trainer.count_samples()
        most = node.config.training.max_samples or samples.train
        commitment = commitment_to(secret_for(node.election_secret, found.id, *found.place))
        await self._transact("consent", found.id, found.digest, most, commitment)
        return {"digest": to_hex(found.digest), "max_samples": most}

    async def withdraw(self, plan: int) -> object:
        await self._transact("withdraw", plan)
        return {}

    async def stop_plan(self, plan: int) -> object:
        await self._transact("stop", plan)
        found = await self._plan(plan)
        return {"status": found.status.name.lower(), "votes": found.stop_votes.bit_count()}

    async def records(self, plan: int) -> object:
        return self._participant(plan).records()

    async def models(self, plan: int) -> object:
        participant = self._participant(plan)
        store = self.node.store
        statistics = NO_DIGEST if participant.plan is None else participant.plan.statistics
        return {
            "models": [
                {
                    "round": number,
                    "digest": to_hex(digest),
                    "path": str(store.path(digest)),
                    "bytes": store.manifest(digest).length_bytes,
                }
                for number, digest in participant.models.items()
            ],
            "statistics": str(store.path(statistics)) if store.has(statistics) else None,
        }

    async def export(self, plan: int, round: int, path: str) -> object:
        participant = self._participant(plan)
        await participant.work.export(self._model(participant, round), Path(path))
        return {}

    async def evaluate(self, plan: int, round: int) -> object:
        participant = self._participant(plan)
        model = self._model(participant, round)
        if participant.plan is None:
            raise ConfigurationError(f"plan {plan} is not known here yet")
        await participant.work.evaluate(round, model, participant.plan.statistics)
        return {"metrics": participant.work.records.at(round).metrics}

    @staticmethod
    def _model(participant: Driver, round: int) -> Digest:
        model = participant.models.get(round)
        if model is None:
            raise ConfigurationError(f"no model of round {round} is kept here")
        return model

    def _participant(self, plan: int) -> Driver:
        participant = self.node.participants.get(PlanId(plan))
        if participant is None:
            known = ", ".join(map(str, self.node.participants)) or "none"
            raise ConfigurationError(
                f"this node takes no part in plan {plan}; it takes part in: {known}"
            )
        return participant

    async def _all_plans(self) -> list[Plan]:
        count = await self.node.chain.plan_count()
        return [await self._plan(number) for number in range(1, count + 1)]

    async def _plan(self, number: int) -> Plan:
        try:
            return (await self.node.chain.snapshot(PlanId(number))).plan
        except ContractError as error:
            raise ConfigurationError(f"there is no plan {number}: see `swarm plan list`") from error

    def _describe(self, plan: Plan) -> dict[str, Any]:
        names = {m.id: m.name for m in self.node.members.values()}
        return {
            "id": plan.id,
            "name": plan.name,
            "digest": to_hex(plan.digest),
            "status": plan.status.name.lower(),
            "proposer": names.get(plan.proposer, str(plan.proposer)),
            "participants": [names.get(i, str(i)) for i in members_in(plan.participants)],
            "model0": to_hex(plan.model0),
            "model": to_hex(plan.model),
            "model_round": plan.model_round,
            "rules": asdict(plan.rules) | {"verify_level": plan.rules.verify_level.name.lower()},
        }

    async def _transact(self, function: str, *arguments: object) -> Receipt:
        try:
            return await self.node.chain.transact(function, *arguments, deadline_s=DEADLINE_S)
        except ContractError as error:
            raise in_words(error) from error


def _number_in(receipt: Receipt, event: str, argument: str) -> int:
    """The number that the contract gave to what a transaction made, from its own event."""
    [made] = [e for e in receipt.events if e.name == event]
    return int(str(made.arguments[argument]))


def chain_rules(loaded: Loaded, rounds: int | None) -> Rules:
    """The rules of a proposal: what the plan's code says, as the contract enforces it."""
    said = loaded.rules
    size = layout_of(loaded)
    levels = {
        "auto": VerifyLevel.FULL if size.file_bytes <= FULL_BELOW_BYTES else VerifyLevel.HELD,
        "held": VerifyLevel.HELD,
        "shared": VerifyLevel.SHARED,
        "full": VerifyLevel.FULL,
    }
    max_round_s = max(10, round(said.max_round_s))
    return Rules(
        rounds=rounds or said.rounds,
        statistics_round=loaded.has_statistics,
        min_peers=said.min_peers,
        verify_level=levels[said.verify],
        max_round_s=max_round_s,
        # A leader that is still pulling is not a dead one; recent merges widen the slots further.
        slot_s=min(max_round_s, Rules.slot_s + round(size.file_bytes / SLOT_BYTES_PER_S)),
    )


def _proposal(proposal: Proposal, members: dict[Any, Member]) -> dict[str, Any]:
    target = members.get(proposal.target)
    what = {
        Kind.ADMIT: f"admit {proposal.name} ({to_hex(proposal.account)})",
        Kind.REMOVE: f"remove {target.name if target else proposal.target}",
        Kind.UPGRADE: f"protocol version {proposal.target} from block {proposal.height}",
    }[proposal.kind]
    return {
        "id": proposal.id,
        "what": what,
        "status": proposal.status.name.lower(),
        "ayes": votes_for(proposal, members),
        "noes": proposal.noes.bit_count(),
        "needed": votes_needed(proposal, members),
    }
