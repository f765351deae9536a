"""One plan's privacy at one node: what its rounds are charged, and what is told of that."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio

from swarm.blobs.store import BlobStore
from swarm.learning.supervisor.trainer_messages import Rules
from swarm.privacy.accountant import epsilon_of, mechanism_for
from swarm.privacy.charges import Charged, Made
from swarm.privacy.guarantee import Guarantee, Mechanism
from swarm.protocol.program import Program
from swarm.protocol.state import Plan, Round
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.types import Digest, MemberId, PlanId, to_digest, to_hex


class PastRounds(Protocol):
    """What is needed of the chain here."""

    async def past_round(self, plan: PlanId, number: int, attempt: int) -> Round | None: ...


@dataclass(frozen=True)
class DataSet:
    """The rows that are charged: their name in node.toml, and a digest of their bytes."""

    name: str
    digest: Callable[[], str]
    """Blocks; hex, or empty where there are no files."""


@dataclass(frozen=True)
class PrivateUpdate:
    """An update that was made before, and its meta: it is given again, not trained again."""

    update: Digest
    meta: Digest


def round_mechanism(rules: Rules, program: Program, rows: int) -> Mechanism | None:
    """What each round of training takes at a site that declares so many rows; None without privacy.
    Raises PlanError if no noise is enough."""
    if rules.privacy is None:
        return None
    return mechanism_for(
        rules.privacy,
        rows=rows,
        batch_size=rules.batch_size,
        epochs=rules.epochs,
        rounds=program.training_rounds,
    )


@dataclass
class PrivateRounds:
    """Methods but `recount` block, and run one at a time."""

    plan: PlanId
    me: MemberId
    program: Program
    store: BlobStore
    chain: PastRounds
    list_of_charges: PrivacyLedger
    charged_rows: DataSet
    observed: Callable[[], Plan | None]
    """The plan as the chain has it."""
    guarantee: Guarantee | None = None
    """What the plan promises, once it was counted what it has spent."""
    _one: threading.Lock = field(default_factory=threading.Lock)

    def declared_rows(self) -> int:
        """What this site declared when it consented: public, and what its update weighs."""
        plan = self.observed()
        return 1 if plan is None else _declared(plan, self.me)

    def made_before(self, number: int, base: Digest) -> PrivateUpdate | None:
        """The update of a round that was made before, if it is still here."""
        newest = self.list_of_charges.newest(self.plan, number, to_hex(base))
        if not isinstance(newest, Made) or not self.store.has(to_digest(newest.update)):
            return None
        return PrivateUpdate(to_digest(newest.update), to_digest(newest.meta))

    def charge(self, number: int, base: Digest, rules: Rules) -> Mechanism:
        """Charge a round, durably; the noise that it takes. Raises PlanError if the budget of the
        data set does not allow it."""
        with self._one:
            mechanism = round_mechanism(rules, self.program, self.declared_rows())
            assert mechanism is not None
            self.list_of_charges.charge(self._charged(number, to_hex(base), mechanism))
            return mechanism

    def made(self, number: int, base: Digest, update: Digest, meta: Digest) -> None:
        """Note an update, durably, before anybody is told of it."""
        self.list_of_charges.add(
            Made(
                plan=self.plan,
                round=number,
                base=to_hex(base),
                update=to_hex(update),
                meta=to_hex(meta),
            )
        )

    def spent(self, guarantee: Guarantee) -> float:
        """ε of this plan's rounds here so far, at the δ that it promises."""
        charges = self.list_of_charges.charges_of(self.plan)
        return epsilon_of([charge.mechanism for charge in charges], guarantee.delta)

    async def recount(self, plan: Plan | None, rules: Rules) -> None:
        """Charge what the chain shows of this site's updates and the list does not: it may come
        from an older copy. Once; does nothing for a plan without privacy. Raises ChainError."""
        if self.guarantee is not None or plan is None:
            return
        mechanism = round_mechanism(rules, self.program, _declared(plan, self.me))
        if mechanism is None:
            return
        newest = 0 if plan.round is None else plan.round.number
        for number in range(1, newest + 1):
            sent: dict[str, str] = {}
            attempt = 1
            while (past := await self._attempt(plan, number, attempt)) is not None:
                if self.me in past.submissions:
                    sent[to_hex(past.submissions[self.me].update)] = to_hex(past.base)
                attempt += 1
            await trio.to_thread.run_sync(self._charge_unknown, number, sent, mechanism)
        self.guarantee = rules.privacy

    async def _attempt(self, plan: Plan, number: int, attempt: int) -> Round | None:
        now = plan.round
        if now is not None and (now.number, now.attempt) == (number, attempt):
            return now
        return await self.chain.past_round(self.plan, number, attempt)

    def _charge_unknown(self, number: int, sent: dict[str, str], mechanism: Mechanism) -> None:
        with self._one:
            known = [c for c in self.list_of_charges.charges_of(self.plan) if c.round == number]
            for base in list(sent.values())[len(known) :]:
                self.list_of_charges.add(self._charged(number, base, mechanism, from_chain=True))

    def _charged(
        self, number: int, base: str, mechanism: Mechanism, from_chain: bool = False
    ) -> Charged:
        return Charged(
            plan=self.plan,
            round=number,
            base=base,
            data_set=self.charged_rows.name,
            data=self.charged_rows.digest(),
            mechanism=mechanism,
            from_chain=from_chain,
        )


def _declared(plan: Plan, me: MemberId) -> int:
    consent = plan.consents.get(me)
    return 1 if consent is None else max(1, consent.max_samples)
