"""Faults planted on purpose: the simulator is itself tested.

Each `Fault` is one rule of the protocol left out or bent, in a subclass of what is shipped, and
what the simulator says when it notices. `find` runs seeds until one does. A world may be drawn
rougher than usual, so that the occasion on which the rule matters comes soon.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness.foreign import ForeignPlans
from harness.joint import Peer
from harness.mischief import joint_world
from harness.rounds import Site
from harness.simnet import Violation
from harness.trouble import Trouble
from swarm.chain.block import Block
from swarm.chain.budget import DayBudget
from swarm.chain.justification import Verifier
from swarm.chain.messages import COMMIT, Certificate, Commit
from swarm.chain.qbft import QBFT
from swarm.chain.sync_sources import FIRST_PATIENCE_S, Sources
from swarm.errors import ContractError, SwarmError
from swarm.protocol import machine as m
from swarm.protocol.election import commitment_to
from swarm.protocol.ledger import Ledger
from swarm.protocol.program import Program, federated_averaging
from swarm.protocol.state import (
    GATHERED_SLOT,
    MOST_SAMPLES,
    Candidate,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    Submission,
    Terms,
    has_majority,
    submitters,
)
from swarm.types import Address, Digest, PlanId

# In the consensus.


class SmallerQuorum(QBFT):
    """One validator less than two thirds is a quorum."""

    def _two_thirds(self, validator_count: int) -> int:
        return super()._two_thirds(validator_count) - 1


class NoLock(QBFT):
    """A change of round forgets the block that was prepared."""

    def _change_round(self, round_number: int) -> None:
        self._lock = None
        super()._change_round(round_number)


class MixedSeals(QBFT):
    """Commits of any rounds make a certificate together."""

    def _count(self, sender: Address, vote: Any) -> None:
        super()._count(sender, vote)
        if isinstance(vote, Commit):
            self._tally[COMMIT, vote.round, vote.block_hash] = len(self.validators)

    def _seals(self, round_number: int, block_hash: bytes) -> list[bytes]:
        seals: dict[Address, bytes] = {}
        for validator, votes in self._votes.items():
            for vote in votes.values():
                if isinstance(vote, Commit) and vote.block_hash == block_hash:
                    seals[validator] = vote.signature
        return list(seals.values())


class UngatedTimer(QBFT):
    """The timer of a round runs though nobody else is in it."""

    def _is_round_timer_due(self, arrived: int) -> bool:
        return True


class NoStartupCheck(QBFT):
    """A node votes at once, whatever became of its vote store."""

    def _settle_startup(self) -> None:
        self._resume = 0


class TrustingVerifier(Verifier):
    """A proposal in a later round needs no reasons."""

    def required_block(self, *_: object) -> Digest | None:
        return None


class UncheckedJustification(QBFT):
    """Whatever the proposer of a later round proposes is accepted, round-changes or none."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        known = self._verify
        self._verify = TrustingVerifier(known.genesis, known.keys, known.decode, known.two_thirds)


class SendsBeforeStoring(Peer):
    """A vote leaves before it is on disk."""

    stores_before_sending = False


class TrustsPeers(Peer):
    """Blocks that a peer hands over are believed without their certificates."""

    def check_imported(self, block: Block, certificate: Certificate) -> None:
        """Believe."""


class KeepsTheCensor(QBFT):
    """Whoever leaves out what waits keeps the turn."""

    def _pass_over(self, unfair: frozenset[Address]) -> None:
        pass


class NoBudget(Peer):
    """A member may send as much as it likes."""

    def takes(self, budget: DayBudget, number: int) -> bool:
        return True


class AsksOneForEver(Sources):
    """The first of those that say they are ahead is asked, whether or not it ever answers."""

    def next(self, head: int, connected: Collection[Address], now_s: float) -> Address | None:
        """Ask it again and again."""
        able = self._ahead_of(head)
        if not able or now_s < self._until_s:
            return None
        self._until_s = now_s + FIRST_PATIENCE_S
        return able[0]

    def due_s(self, head: int, connected: Collection[Address]) -> float:
        """When its time is over."""
        return self._until_s if self._ahead_of(head) else float("inf")

    def _ahead_of(self, head: int) -> list[Address]:
        return sorted(p for p, source in self._known.items() if source.height > head)


class TrustsClaims(Peer):
    """A height is believed of whoever says it."""

    sources_class = AsksOneForEver


# In the contract.


class HalfIsEnough(Ledger):
    """One attestation less than a majority makes a model final."""

    def _finalise_if_majority(
        self, plan: Plan, round: Round, candidate: Candidate, now: int
    ) -> None:
        voters = submitters(round, self.present_members)
        enough = candidate.attesters.bit_count() + 1 > voters.bit_count() // 2
        with_all = voters if enough else candidate.attesters
        saved, candidate.attesters = candidate.attesters, with_all
        super()._finalise_if_majority(plan, round, candidate, now)
        candidate.attesters = saved


class SelfQuorum(Ledger):
    """A lone leader's own merge is final at once."""

    def merge(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int, *rest: Any
    ) -> None:
        """Merge, and count as if all had attested."""
        super().merge(sender, now, plan_id, number, attempt, *rest)
        plan = self.plans[plan_id]
        round = plan.round
        candidate = round and round.candidate(rest[0])
        if round and candidate and round.number == number:
            saved, candidate.attesters = candidate.attesters, round.submitted
            self._finalise_if_majority(plan, round, candidate, now)
            candidate.attesters = saved


class LateSubmit(Ledger):
    """A submission after the close is let in."""

    def submit(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        update: Digest,
        samples: int,
        *rest: Any,
    ) -> None:
        """Submit, at any time."""
        round = self.plans[plan_id].round
        member = self._operator(sender)
        late = round is not None and round.status is RoundStatus.CLOSED
        if round and late and (round.number, round.attempt) == (number, attempt):
            submission = Submission(member.id, update, samples, rest[2], False)
            round.submissions[member.id] = submission
            round.submitted |= 1 << member.id
            return
        super().submit(sender, now, plan_id, number, attempt, update, samples, *rest)


class StaleCommitment(Ledger):
    """A reveal is taken, whatever it was committed to."""

    def submit(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        update: Digest,
        samples: int,
        reveal: bytes,
        *rest: Any,
    ) -> None:
        """Submit, and pretend that the reveal was committed to."""
        plan = self.plans.get(plan_id)  # a liar may name one that there is not
        consent = None if plan is None else plan.consents.get(self._operator(sender).id)
        if consent is not None and reveal != bytes(32):
            consent.commitment = commitment_to(reveal)
        super().submit(sender, now, plan_id, number, attempt, update, samples, reveal, *rest)


class SubmitsTwice(Ledger):
    """Who submitted may submit again."""

    def submit(
        self, sender: Address, now: int, plan_id: PlanId, number: int, attempt: int, *rest: Any
    ) -> None:
        """Submit, and forget that it was done before."""
        round = self.plans[plan_id].round
        member = self._operator(sender)
        if round is not None:
            round.submitted &= ~(1 << member.id)
        super().submit(sender, now, plan_id, number, attempt, *rest)


class ForgetsWithdrawals(Ledger):
    """Whoever withdrew in mid-round still counts."""

    def withdraw(self, sender: Address, now: int, plan_id: PlanId) -> None:
        """Withdraw from later rounds only."""
        super().withdraw(sender, now, plan_id)
        round = self.plans[plan_id].round
        if round is not None:
            round.left = 0


class EmptySeed(Ledger):
    """The draw forgets what was revealed."""

    def _close(self, plan: Plan, round: Round, now: int) -> None:
        round.reveals_xor = 0
        super()._close(plan, round, now)


class WrongDigest(Ledger):
    """An attestation counts for the first posted merge, whichever it names."""

    def _candidate(self, round: Round, outcome: Outcome) -> Candidate:
        super()._candidate(round, outcome)
        return round.candidates[0]


class SecondFinal(Ledger):
    """A second leader's merge makes a round final that was final already."""

    def __init__(self, *founders: Any) -> None:
        self.past: dict[PlanId, Round] = {}
        super().__init__(*founders)

    def _finalise_if_majority(
        self, plan: Plan, round: Round, candidate: Candidate, now: int
    ) -> None:
        if has_majority(round, candidate, self.present_members):
            self.past[plan.id] = round
        super()._finalise_if_majority(plan, round, candidate, now)

    def merge(
        self,
        sender: Address,
        now: int,
        plan_id: PlanId,
        number: int,
        attempt: int,
        outcome: Outcome,
        *rest: Any,
    ) -> None:
        """Merge; also when the round is over, as long as it is the last one."""
        past = self.past.get(plan_id)
        if past is None or (past.number, past.attempt) != (number, attempt):
            super().merge(sender, now, plan_id, number, attempt, outcome, *rest)
        elif past.first_slot_of(self._operator(sender).id) is None:
            raise ContractError("RoundNotLeader")
        else:
            self.plans[plan_id].take_output(number, outcome)


class CarriesOutLate(Ledger):
    """What has a time is carried out after it as well."""

    def until(
        self, sender: Address, now: int, time: int, function: str, arguments: tuple[Any, ...]
    ) -> Any:
        """Carry out, whatever the time is."""
        return super().until(sender, now, max(now, time), function, arguments)


class ForgetsTheInvited(Ledger):
    """The first round begins as soon as enough have consented."""

    def _open_if_decided(self, plan: Plan, now: int) -> None:
        saved, plan.until = plan.until, now
        super()._open_if_decided(plan, now)
        plan.until = saved


class EndlessConsents(Ledger):
    """A consent that has ended counts on."""

    def _open(self, plan: Plan, now: int) -> None:
        ends = {i: consent.until for i, consent in plan.consents.items()}
        for consent in plan.consents.values():
            consent.until = 0
        super()._open(plan, now)
        for i, consent in plan.consents.items():
            consent.until = ends[i]


class EverybodyTrains(Ledger):
    """A member that only tests or holds is waited for, like those who train."""

    def _open(self, plan: Plan, now: int) -> None:
        super()._open(plan, now)
        if plan.round is not None:
            plan.round.trainers = plan.round.roster


class TakesAnyName(Ledger):
    """A name may be whatever bytes somebody sends, UTF-8 or none."""

    def propose_plan(self, sender: Address, now: int, name: str, *rest: Any) -> PlanId:
        """Propose it under another name, and give it this one."""
        number = super().propose_plan(sender, now, "plan", *rest)
        self.plans[number].name = name
        return number


class AnySamples(Ledger):
    """A member may declare more samples than a merge can weigh."""

    def consent(
        self, sender: Address, now: int, plan_id: PlanId, code: Digest, terms: Terms
    ) -> None:
        """Consent with fewer, and note them all."""
        allowed = replace(terms, max_samples=min(terms.max_samples, MOST_SAMPLES))
        super().consent(sender, now, plan_id, code, allowed)
        consents = self.plans[plan_id].consents
        consents[self._either(sender).id].max_samples = terms.max_samples


class CarriesAnything(Ledger):
    """A carried attestation counts for anybody, whoever has signed it."""

    def attest_many(self, *arguments: Any) -> None:
        """Count one more vote than there are signatures, of a member that has not voted."""
        plan = self.plans[arguments[2]]
        round = plan.round
        if round is not None and round.candidates:
            round.candidates[0].attesters |= round.submitted
        super().attest_many(*arguments)


# At the nodes.


class AnyNextStage(m.RoundMachine):
    """A node attests a right merge for whatever output and next stage its leader names."""

    def _outcome(self, round: Round, model: Digest, omitted: int) -> Outcome:
        same = (c.outcome for c in round.candidates if (c.model, c.omitted) == (model, omitted))
        twisted = [
            o for o in same if o != super(AnyNextStage, self)._outcome(round, model, omitted)
        ]
        return twisted[0] if twisted else super()._outcome(round, model, omitted)


class SkipsStages(m.RoundMachine):
    """A node goes on with the stage after the next one."""

    def _outcome(self, round: Round, model: Digest, omitted: int) -> Outcome:
        right = super()._outcome(round, model, omitted)
        return right if right.next in (0, round.stage) else replace(right, next=right.next + 1)


class ForgetsFigures(m.RoundMachine):
    """A node that missed the figures of a round does not pull them."""

    def _fetch_newest(self, plan: Plan, now: float) -> None:
        super()._fetch_newest(replace(plan, outputs=plan.outputs[:GATHERED_SLOT]), now)


class ScoresOtherCopies(m.RoundMachine):
    """A cross-evaluation begins from the statistics."""

    def _given_beside(self, plan: Plan, round: Round) -> tuple[Digest | None, Digest | None]:
        best, rows = super()._given_beside(plan, round)
        return best, rows and plan.statistics


class CountsCopies(Site):
    """An update counts for everybody who has submitted it."""

    def _is_its_own(self, frozen: m.FrozenUpdate) -> bool:
        return True


class KnowsEveryProgram(ForeignPlans):
    """A plan's program is looked up among those that there are, and is there."""

    def program_of(self, plan: Plan) -> Program:
        """Look it up."""
        known = (federated_averaging(rounds, True) for rounds in range(1, 10))
        return {program.digest: program for program in known}[plan.program]


class JoinsAnything(Site):
    """A node joins a plan without asking whether it knows what its rounds are for."""

    foreign_class = KnowsEveryProgram


class AttestsUnseen(m.RoundMachine):
    """A node attests whatever is posted."""

    def _verify(self, plan: Plan, round: Round, candidate: Candidate, now: float) -> None:
        self._verdicts[round.number, round.attempt, candidate.model, candidate.omitted] = True


class NeverFetches(m.RoundMachine):
    """A node that missed a model does not pull it."""

    def _fetch_newest(self, plan: Plan, now: float) -> None:
        pass


class NeverScores(m.RoundMachine):
    """A node does not score what became final."""

    def _consider_evaluating(self, plan: Plan) -> None:
        pass


class KeepsDrafts(m.RoundMachine):
    """A node does not drop the drafts of attempts that are over."""

    def handle(self, event: m.Event, now: float) -> list[m.Command]:
        """Leave that command out."""
        commands = super().handle(event, now)
        return [command for command in commands if not isinstance(command, m.DropDrafts)]


class TrainsTwice(m.RoundMachine):
    """A node does not wait for the end of a training that it stopped."""

    def _drop_training(self, wanted: tuple[int, Digest] | None) -> None:
        super()._drop_training(wanted)
        if self._stopping and self._training is not None:
            self._asked.pop(("train", *self._training), None)
            self._training, self._stopping = None, False


class AnyOmission(Site):
    """A merge may leave out what it likes."""

    def _omits_good_update(self, command: m.Verify) -> bool:
        return False


# The list.

NODES = 4
QUICK = Trouble(until_s=20, patience_s=250)
BRIEF = Trouble(until_s=20, patience_s=120)
CRASHY = Trouble(until_s=20, patience_s=250, crashes=8, proposer_deaths=4)
WINDY = replace(CRASHY, cuts=6)
FORGETFUL = Trouble(until_s=30, patience_s=250, lost_votes=8, forgets=1, proposer_deaths=4)
ASKED = replace(QUICK, late_answers=2, expiries=3, testers=2)
CARRYING = replace(QUICK, carried=0.8)
LEAVING = replace(QUICK, withdrawals=3)
SPLIT = Trouble(until_s=40, patience_s=250, cuts=6, leader_deaths=4, fetch_loss=0.6)


@dataclass(frozen=True)
class Fault:
    """One planted fault: what is put in place of what is shipped, and what is said about it."""

    planted: type
    said: str
    """Words of the violation that name what the fault breaks, with | between alternatives; another
    finding does not count."""
    liars: int = 0
    trouble: Trouble = QUICK

    @property
    def name(self) -> str:
        """What the command calls it."""
        return self.planted.__name__

    def names(self, violation: str) -> bool:
        """Whether this violation is what the fault breaks."""
        return any(words in violation for words in self.said.split("|"))

    def parts(self) -> dict[str, Any]:
        """The parts of a JointWorld that carry the fault."""
        if issubclass(self.planted, QBFT):
            peer = type(self.name, (Peer,), {"machine_class": self.planted})
            return {"peer_class": peer}
        for base, part in (
            (Peer, "peer_class"),
            (Ledger, "ledger_class"),
            (m.RoundMachine, "machine_class"),
            (Site, "site_class"),
        ):
            if issubclass(self.planted, base):
                return {part: self.planted}
        raise TypeError(f"{self.name} is no part of a world")


FAULTS: Sequence[Fault] = (
    Fault(SmallerQuorum, "without a proof", trouble=CRASHY),
    Fault(NoLock, "forgot the block", trouble=CRASHY),
    Fault(SendsBeforeStoring, "sent two", trouble=CRASHY),
    Fault(MixedSeals, "without a proof", trouble=WINDY),
    Fault(UngatedTimer, "without a quorum", trouble=CRASHY),
    Fault(NoStartupCheck, "sent two|forgot the block", trouble=FORGETFUL),
    Fault(UncheckedJustification, "a quorum may have decided", 1, WINDY),
    Fault(TrustsPeers, "two blocks at height", 1),
    Fault(TrustsClaims, "does not catch up|after the heal", 1, CRASHY),
    Fault(KeepsTheCensor, "is left out by", 1),
    Fault(NoBudget, "in the blocks of one day", 1),
    Fault(HalfIsEnough, "without more than half"),
    Fault(SelfQuorum, "without more than half"),
    Fault(LateSubmit, "after the close", 1),
    Fault(StaleCommitment, "had not committed to", 1),
    Fault(SubmitsTwice, "submitted twice", 1),
    Fault(ForgetsWithdrawals, "everybody knows already", trouble=LEAVING),
    Fault(EmptySeed, "not drawn from its reveals"),
    Fault(WrongDigest, "without more than half", 1),
    Fault(SecondFinal, "two final models", 1, SPLIT),
    Fault(AttestsUnseen, "attests a", 1),
    Fault(NeverFetches, "has not ended", trouble=BRIEF),
    Fault(NeverScores, "has not scored", trouble=BRIEF),
    Fault(KeepsDrafts, "keeps drafts"),
    Fault(TrainsTwice, "two trainings at once"),
    Fault(AnyOmission, "leaves out its own good update", 1),
    Fault(CarriesOutLate, "after its time"),
    Fault(ForgetsTheInvited, "did not wait for", trouble=ASKED),
    Fault(EndlessConsents, "whose consent has ended", trouble=ASKED),
    Fault(EverybodyTrains, "the wrong members train", trouble=ASKED),
    Fault(CarriesAnything, "without more than half", trouble=CARRYING),
    Fault(AnyNextStage, "against the program", 1, SPLIT),
    Fault(SkipsStages, "against the program"),
    Fault(ForgetsFigures, "does not hold all", trouble=CRASHY),
    Fault(ScoresOtherCopies, "other copies than those gathered"),
    Fault(TakesAnyName, "a name that cannot be shown", 1),
    Fault(AnySamples, "ends: ValueError: sample counts", 1),
    Fault(CountsCopies, "a merge of one update twice", 1),
    Fault(JoinsAnything, "ends: KeyError", 1),
)


def find(fault: Fault, within: int) -> tuple[int, str] | None:
    """The first seed that notices, and what it says; None if no seed below `within` does.

    A seed that notices something else is passed over: it may be the fault, but proves less.
    """
    for seed in range(within):
        trouble = replace(fault.trouble, liars=fault.liars)
        try:
            joint_world(NODES, seed, trouble, **fault.parts()).run_through()
        except (Violation, SwarmError) as noticed:
            if fault.names(str(noticed)):
                return seed, str(noticed)
    return None
