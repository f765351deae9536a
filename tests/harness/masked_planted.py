"""Faults of masked rounds, planted on purpose: the simulated days are themselves tested.

Each is one rule of docs/decisions/0019-secure-rounds.md left out or bent, at the nodes or on the
chain, and what the referee says when it notices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.eavesdropper import Unknown
from harness.masked_days import MaskedDay, Parts
from harness.masked_hands import Envelope, Hands
from harness.names import name
from harness.simnet import Violation
from swarm.protocol import masked_table as t
from swarm.protocol.ledger import Ledger
from swarm.protocol.masked_rounds import MaskedRounds
from swarm.protocol.masking import Masking
from swarm.protocol.state import MemberSet, Plan, PlanStatus, Round, RoundStatus, members_in
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

# In the table.


def reveal_early(view: t.View) -> Iterator[t.Command]:
    """Reveal as soon as all have posted."""
    if view.masking.may_lock():
        yield _reveal_of(view)


def reveal_posted(view: t.View) -> Iterator[t.Command]:
    """Reveal once a sum is posted, and waits for votes."""
    if view.round.candidates:
        yield _reveal_of(view)


def reveal_all(view: t.View) -> Iterator[t.Command]:
    """Reveal for all who had submitted, also those who were left behind."""
    for command in t.reveal(view):
        if isinstance(command, t.FindReveal):
            command = replace(command, owners=view.masking.submitters)
        yield command


def vote_blindly(view: t.View) -> Iterator[t.Command]:
    """Vote on a sum whatever digest stands there for oneself."""
    own = view.held.masked.get((view.attempt, view.masking.epoch))
    posted = view.masking.posted.get(view.me)
    if own is not None and posted is not None:
        as_posted = replace(own, digest=posted)
        view.held.masked[view.attempt, view.masking.epoch] = as_posted
    yield from t.vote_on_sum(view)


def _reveal_of(view: t.View) -> t.Command:
    masking, round = view.masking, view.round
    owners, here = masking.contributors, view.attempt
    return t.FindReveal(here, masking.epoch, owners, round.base, view.slot, {})


def with_rule(status: RoundStatus, rule: t.Rule, instead: t.Rule | None = None) -> Any:
    """The table with a rule more, or instead of another."""
    rules = tuple(r for r in t.TABLE[status] if r is not instead)
    return {**t.TABLE, status: (*rules, rule)}


# At the nodes.


class OpensAnySet(Hands):
    """A node helps to open whatever is locked."""

    def may_open(self, plan: Plan, command: t.FindReveal) -> bool:
        return True


class OneSeed(Hands):
    """All epochs have one seed."""

    def make_seed(self, plan: Plan, round: Round, epoch: int) -> tuple[bytes, Unknown]:
        vault = self.vault(plan, round)
        seed = vault.setdefault("one seed", super().make_seed(plan, round, 0)[1])
        first = name("first", seed, epoch) + b"\2"
        self.world.secret_of[first] = seed
        return first, seed


class KeyForAllEpochs(Hands):
    """Keys of pairs are not bound to the epoch, nor to the set."""

    def name_pair(
        self, agreed: tuple[bytes, ...], occasion: tuple[object, ...], pair: tuple[int, int]
    ) -> Unknown:
        return super().name_pair(agreed, occasion[:3], pair)


class KeyForAllPairs(Hands):
    """All pairs have one key."""

    def name_pair(
        self, agreed: tuple[bytes, ...], occasion: tuple[object, ...], pair: tuple[int, int]
    ) -> Unknown:
        mask = ("pair", occasion)
        secrets = [self.world.secret_of[public] for public in agreed]
        self.world.ears.derive(mask, *secrets)
        return mask


class UnboundEnvelope(Hands):
    """An envelope opens for whoever shows it."""

    def is_bound(self, plan: Plan, round: Round, dealer: MemberId, envelope: Envelope) -> bool:
        return True


class ForgetsMasking(Hands):
    """What was masked, and how it was rounded, is in memory only."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept: set[tuple[object, str]] = set()

    def restore(self, here: tuple[PlanId, int, int]) -> None:
        vault = self.disk.vaults[here]
        for entry in ("masked", "rounding"):
            if (here, entry) not in self.kept:
                vault.pop(entry, None)
        super().restore(here)

    def mask(self, plan: Plan, round: Round, epoch: int, contributors: MemberSet) -> None:
        here = (plan.id, round.number, round.attempt)
        self.kept |= {(here, "masked"), (here, "rounding")}
        super().mask(plan, round, epoch, contributors)


class SecretsInMemory(Hands):
    """The vault is in memory, and so are receiving keys."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        if self.disk.vaults:
            self.disk.vaults.clear()
            self.disk.receiving.clear()


class DerivedSecrets(Hands):
    """Secrets follow from the node key."""

    def make_key(self, kind: str, plan: Plan, round: Round) -> tuple[bytes, Unknown]:
        public, secret = super().make_key(kind, plan, round)
        self.disk.derivable.append(secret)
        return public, secret


class KeepsReceivingKeys(Hands):
    """Receiving keys are never erased."""

    def forget_receiving(self, plan: Plan, wanted: set[bytes]) -> None:
        pass


class KeepsSpentKeys(Hands):
    """Who brings no other receiving key keeps the one that it has."""

    def is_spent(self, plan: Plan) -> bool:
        return False


class TrustsDealers(Hands):
    """Shares are taken for good."""

    def is_good(self, shares: tuple[bytes, ...], right: tuple[bytes, ...]) -> bool:
        return True


class TrustsRevealers(Hands):
    """Revealed shares are taken for good."""

    def is_right_reveal(
        self, round: Round, owner: MemberId, epoch: int, member: MemberId, share: bytes
    ) -> bool:
        return True


class UncheckedSums(Hands):
    """Zero words are not looked at."""

    def conclude(self, round: Round, updates: list[Unknown], clean: bool) -> Digest:
        return name("model", round.base, updates)


class SticksToSpoiled(Hands):
    """Nobody says that a sum is spoiled."""

    def obey(self, command: t.Command, plan: Plan, round: Round) -> None:
        super().obey(command, plan, round)
        models = self.held.models
        self.held.models = {here: model for here, model in models.items() if any(model)}


class SmallThreshold(Hands):
    """Dealers share for half of the roster."""

    def needed(self, plan: Plan, round: Round) -> int:
        return round.roster.bit_count() // 2


# On the chain.


class HalfMasking(Masking):
    """Half of the roster is enough."""

    @property
    def needed(self) -> int:
        return self.roster.bit_count() // 2


class EvictingMasking(Masking):
    """Who is complained about is out."""

    @property
    def well_dealt(self) -> int:
        accused = 0
        for said in self.complaints.values():
            accused |= said
        return super().well_dealt & ~accused


class MaskedVariant(MaskedRounds):
    """Masked rounds with something else in them."""

    kind: type[Masking] = Masking

    def begin(self, plan: Plan, round: Round, now: int) -> None:
        super().begin(plan, round, now)
        assert round.masking is not None
        round.masking.__class__ = self.kind


class AnyLock(MaskedRounds):
    """Any set may be locked over any base."""

    def lock(self, plan: Plan, round: Round, slot: int, total: Digest, now: int) -> bool:
        self.locks.clear()
        return super().lock(plan, round, slot, total, now)


class LeaderChooses(MaskedRounds):
    """The leader leaves one of those who posted out of what is locked."""

    def lock(self, plan: Plan, round: Round, slot: int, total: Digest, now: int) -> bool:
        assert round.masking is not None
        round.masking.contributors &= round.masking.contributors - 1
        return super().lock(plan, round, slot, total, now)


class ForeignDigests(MaskedRounds):
    """One member posts for all."""

    def masked(self, sender: Address, now: int, plan_id: PlanId, *rest: Any) -> None:
        super().masked(sender, now, plan_id, *rest)
        plan = self.rounds.plans[plan_id]  # type: ignore[attr-defined]
        masking = plan.round.masking
        for member in members_in(masking.contributors):
            masking.posted.setdefault(member, rest[3])
            masking.codes.setdefault(member, rest[4])


def ledger_with(parts: type[MaskedRounds], kind: type[Masking] = Masking) -> type[Ledger]:
    """A ledger with other masked rounds."""

    class Planted(Ledger):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made = type("Drawn", (parts,), {"kind": kind})
            self.masked_rounds = made(self)

    return Planted


class StopsLocked(Ledger):
    """A proposer stops its plan whenever it likes."""

    def stop(self, sender: Address, now: int, plan_id: PlanId) -> None:
        super().stop(sender, now, plan_id)
        plan = self.plans[plan_id]
        if plan.round is not None and self._either(sender).id == plan.proposer:
            plan.status, plan.round.status = PlanStatus.STOPPED, RoundStatus.VOID


class ShrinksLocked(Ledger):
    """Who withdraws after the lock is left out of the sum."""

    def withdraw(self, sender: Address, now: int, plan_id: PlanId) -> None:
        super().withdraw(sender, now, plan_id)
        round = self.plans[plan_id].round
        if round is not None and round.masking is not None:
            round.masking.contributors &= ~round.left


class VoidsLocked(Ledger):
    """A locked round is void once somebody has left."""

    def withdraw(self, sender: Address, now: int, plan_id: PlanId) -> None:
        super().withdraw(sender, now, plan_id)
        plan = self.plans[plan_id]
        if plan.round is not None and plan.round.status is RoundStatus.LOCKED:
            self.void_attempt(plan, plan.round, now)


class SpentKeysCount(Ledger):
    """Who brings no other receiving key gets shares by the one that it has."""

    def _open(self, plan: Plan, now: int) -> None:
        before = {i: consent.receiving_key for i, consent in plan.consents.items()}
        super()._open(plan, now)
        for member, consent in plan.consents.items():
            if consent.receiving_key == NO_DIGEST:
                consent.receiving_key = before[member]


class FewContributors(Ledger):
    """Colluders are not thought of where contributors are counted."""

    def propose_plan(self, sender: Address, now: int, *rest: Any) -> PlanId:
        number = super().propose_plan(sender, now, *rest)
        plan = self.plans[number]
        plan.rules = replace(plan.rules, min_peers=2)
        self.masked_rounds.__class__ = _Few
        return number


class _Few(MaskedRounds):
    def begin(self, plan: Plan, round: Round, now: int) -> None:
        super().begin(plan, round, now)
        assert round.masking is not None
        round.masking.colluders = 0


# The list.

OFTEN: Mapping[str, int] = {"withdraw": 3}
FORKED: Mapping[str, int] = {"fork": 1, "withdraw": 1, "switch": 12, "stop": 0}
CRASHY: Mapping[str, int] = {"crash": 40}
SHAKEN: Mapping[str, int] = {"crash": 8, "lose vault": 0}
STOPPED: Mapping[str, int] = {"stop": 1}


@dataclass(frozen=True)
class MaskedFault:
    """One planted fault, and words of what the referee says, with | between alternatives."""

    name: str
    said: str
    parts: Parts = field(default_factory=Parts)
    nodes: int = 0
    """How many members it takes; 0: any number."""
    first: int = 0
    """The seed to begin with, where few days find it."""


def _fault(name: str, said: str, *, nodes: int = 0, first: int = 0, **parts: Any) -> MaskedFault:
    return MaskedFault(name, said, Parts(**parts), nodes, first)


def without_rule(rule: t.Rule) -> t.Table:
    """The table without a rule."""
    return {status: tuple(r for r in rules if r is not rule) for status, rules in t.TABLE.items()}


MASKING = RoundStatus.MASKING
REVEALS_ALL = with_rule(RoundStatus.LOCKED, reveal_all, t.reveal)
VOTES_BLINDLY = with_rule(MASKING, vote_blindly, t.vote_on_sum)
LEAK = "no locked sum"
MASKED_FAULTS: Sequence[MaskedFault] = (
    _fault("RevealsBeforeTheLock", "nothing is locked", table=with_rule(MASKING, reveal_early)),
    _fault("RevealsOnAnnouncement", "nothing is locked", table=with_rule(MASKING, reveal_posted)),
    _fault("RevealsThoseLeftBehind", "not of the locked set", table=REVEALS_ALL),
    _fault("RevealsForTwoSets", LEAK, hands=OpensAnySet, trouble=FORKED),
    _fault("OneSeedForAllEpochs", LEAK, hands=OneSeed, trouble=FORKED),
    _fault("SameKeyInEveryEpoch", "with the key", hands=KeyForAllEpochs),
    _fault("SameKeyForEveryPair", LEAK, hands=KeyForAllPairs),
    _fault("UnboundEnvelope", "secret as n", hands=UnboundEnvelope, vices=("copies keys",)),
    _fault("NewRoundingAfterARestart", "with the key", hands=ForgetsMasking, trouble=CRASHY),
    _fault("SecretsInMemory", "stays locked", hands=SecretsInMemory, trouble=SHAKEN),
    _fault("DerivedFromTheNodeKey", LEAK, hands=DerivedSecrets),
    _fault("ReceivingKeyKept", LEAK, hands=KeepsReceivingKeys),
    _fault(
        "JudgesKeepTheirKeys",
        LEAK,
        hands=KeepsSpentKeys,
        ledger=SpentKeysCount,
        table=without_rule(t.renew_key),
        nodes=7,
        first=225,
    ),
    _fault(
        "NobodyRenewsAKey",
        "no other receiving key",
        table=without_rule(t.renew_key),
        vices=("never reveals",),
        testers=(0,),
        nodes=5,
    ),
    _fault(
        "DealerTrusted", "stays locked", hands=TrustsDealers, vices=("deals badly", "never reveals")
    ),
    _fault("RevealerTrusted", "called spoiled", hands=TrustsRevealers, vices=("reveals badly",)),
    _fault("ZeroWordsUnchecked", "became a model", hands=UncheckedSums, vices=("posts noise",)),
    _fault("SpoiledRoundSticks", "stays locked", hands=SticksToSpoiled, vices=("posts noise",)),
    _fault(
        "ThresholdOfHalf",
        LEAK,
        hands=SmallThreshold,
        ledger=ledger_with(MaskedVariant, HalfMasking),
        trouble=FORKED,
    ),
    _fault(
        "ComplaintEvicts",
        "is left behind, though",
        ledger=ledger_with(MaskedVariant, EvictingMasking),
        vices=("complains",),
    ),
    _fault("AnyLockOverOneBase", "another set is locked", ledger=ledger_with(AnyLock)),
    _fault(
        "LeaderChoosesTheSet",
        "not those who posted|is left behind, though",
        ledger=ledger_with(LeaderChooses),
    ),
    _fault(
        "ForeignDigest", "has not masked", ledger=ledger_with(ForeignDigests), table=VOTES_BLINDLY
    ),
    _fault("ProposerStopsALock", "voided nevertheless", ledger=StopsLocked, trouble=STOPPED),
    _fault("OmitsWhoWithdrew", "the locked set has changed", ledger=ShrinksLocked, trouble=OFTEN),
    _fault("VoidsAfterALock", "voided nevertheless", ledger=VoidsLocked, trouble=OFTEN),
    _fault("FewContributors", "knows too much", ledger=FewContributors, vices=("never posts",)),
)


def find_masked(
    fault: MaskedFault, within: int, nodes: int = 4, told: Callable[[int], None] = lambda seed: None
) -> tuple[int, str] | None:
    """The first seed from the fault's own on that notices, and what it says; None if none of
    `within` seeds does."""
    for seed in range(fault.first, fault.first + within):
        told(seed)
        try:
            MaskedDay(fault.nodes or nodes, seed, fault.parts).run()
        except Violation as noticed:
            if any(words in str(noticed) for words in fault.said.split("|")):
                return seed, str(noticed)
    return None
