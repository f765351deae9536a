"""Watches a simulated consortium and stops it at the first accepted transaction that breaks a
promise.

The referee keeps its own books from the arguments of accepted transactions (who committed to what,
who attested what), and counts for itself: it must also notice a ledger that counts wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from harness.folds import Folds
from harness.names import name
from harness.simnet import Violation
from swarm.protocol.election import commitment_to, reveal_term, round_seed
from swarm.protocol.machine import FrozenUpdate
from swarm.protocol.names import MAX_NAME_BYTES, bytes_of, find_bad_character
from swarm.protocol.program import Program
from swarm.protocol.state import (
    BEST_SLOT,
    Duty,
    Outcome,
    Plan,
    Round,
    RoundStatus,
    Rules,
    Terms,
    VerifyLevel,
    members_in,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId

NO_REVEAL = bytes(32)
NOWHERE = (-1, 0)


def true_choice(
    program: Program, base: Digest, best: Digest, updates: Iterable[FrozenUpdate]
) -> Digest:
    """Which of two models these updates choose: the newest, or the best until now, if any."""
    told = name("choice", program.digest, base, best, [u.update for u in updates])
    return best if best != NO_DIGEST and told[0] % 2 else base


class Watched(Protocol):
    """What the referee looks at of a node."""

    @property
    def id(self) -> MemberId: ...
    @property
    def account(self) -> Address: ...
    @property
    def disk(self) -> set[Digest]: ...
    @property
    def honest(self) -> bool: ...


class Referee:
    """Told of every accepted transaction; raises Violation."""

    def __init__(
        self, nodes: Sequence[Watched], rules: Rules, program: Program, folds: Folds
    ) -> None:
        self.nodes = nodes
        self.folds = folds
        self.rules = rules
        self.program = program
        self.signed: dict[bytes, tuple[Digest, MemberId, Address]] = {}
        """Every signature that was made: of what, by whom, and with which key."""
        self.finals: dict[int, set[Digest]] = {}
        self.finals_at: dict[int, int] = {}
        """Chain time at which each round became final."""
        self._commitments: dict[MemberId, bytes] = {}
        self._declared: dict[MemberId, int] = {}
        self._until: dict[MemberId, int] = {}
        self._trains: dict[MemberId, bool] = {}
        self._sent: dict[MemberId, Digest] = {}
        """The updates of this attempt, in the order in which they came."""
        self._decided: set[MemberId] = set()
        """Who has ever consented or declined."""
        self._used: set[tuple[MemberId, bytes]] = set()
        self._seed = NO_DIGEST
        self._best = NO_DIGEST
        """The best model until now, where the plan chooses one."""
        self._here = NOWHERE
        self._reveals: dict[MemberId, int] = {}
        self._frozen: tuple[int, Digest, int] | None = None
        self._attested: dict[Outcome, set[MemberId]] = {}

    def accepted(
        self,
        node: Watched,
        now: int,
        function: str,
        arguments: tuple[Any, ...],
        before: Round | None,
        plan: Plan,
        members: int,
    ) -> None:
        """`before` is the round that the transaction met, as the transaction left it."""
        self._check_settled(plan)
        if before is not None:
            self._enter(before, plan, now, members)
        if function == "consent":
            terms: Terms = arguments[2]
            self._commitments[node.id] = terms.commitment
            self._declared[node.id] = terms.max_samples
            self._until[node.id] = terms.until
            self._trains[node.id] = bool(terms.duties & Duty.TRAIN)
            self._decided.add(node.id)
        elif function == "decline":
            self._decided.add(node.id)
        elif function == "submit":
            self._submitted(node, *arguments[3:])
        elif function in ("propose", "proposePlan"):
            self._check_name(node, arguments[3 if function == "propose" else 0])
        elif function == "merge":
            assert before is not None
            self._merged(node, now, before, *arguments[3:])
        elif function == "attest":
            self._attests(node, before, arguments[3])
        elif function == "attestMany":
            for signature in arguments[6]:
                signer = self.signed.get(signature)
                if signer is not None:
                    self._attests(self.nodes[signer[1]], before, arguments[3])
        if before is not None:
            self._check_frozen(before)
            if before.status is RoundStatus.FINAL:
                self._check_final(before, now, plan, members)
        if plan.round is not None:
            self._enter(plan.round, plan, now, members)

    @staticmethod
    def _check_name(node: Watched, name: str) -> None:
        """Whoever reads a name must see it as it is."""
        if len(bytes_of(name)) > MAX_NAME_BYTES or find_bad_character(bytes_of(name)) is not None:
            raise Violation(f"n{node.id} proposed {name!a}, a name that cannot be shown")

    def _check_settled(self, plan: Plan) -> None:
        """What is final stays."""
        for number, model in zip(plan.output_rounds, plan.outputs, strict=True):
            if number > 0 and self.finals.get(number, {model}) != {model}:
                raise Violation(f"two final models for round {number}")

    def _check_opening(self, round: Round, plan: Plan, now: int, members: int) -> None:
        """Nobody takes part whose consent has ended, and nothing begins before all have decided."""
        for i in members_in(round.roster):
            if self._until[i] and now > self._until[i]:
                raise Violation(f"round {round.number} counts on n{i}, whose consent has ended")
        trains = {i for i in members_in(round.roster) if self._trains[i]}
        if set(members_in(round.trainers)) != trains or len(trains) < self.rules.min_peers:
            raise Violation(f"the wrong members train in round {round.number}")
        waited_for = set(members_in(plan.invited & members)) - self._decided
        if self._here == NOWHERE and waited_for and now < plan.until:
            raise Violation(f"the first round did not wait for {waited_for}, who were invited")
        place = self.program.place(round.number)
        if place is None or place.index != round.stage:
            raise Violation(f"round {round.number} runs in stage {round.stage}")

    def _enter(self, round: Round, plan: Plan, now: int, members: int) -> None:
        here = (round.number, round.attempt)
        if here == self._here:
            return
        self._check_opening(round, plan, now, members)
        number, attempt = self._here
        if number >= 0 and here not in ((number, attempt + 1), (number + 1, 1)):
            raise Violation(f"round {here} follows round {self._here}")
        if here[0] > number >= 0 and number not in self.finals:
            raise Violation(f"round {here[0]} opened before round {number} was final")
        self._here = here
        self._reveals, self._attested, self._frozen, self._sent = {}, {}, None, {}

    def _submitted(
        self,
        node: Watched,
        update: Digest,
        samples: int,
        reveal: bytes,
        commitment: Digest,
        meta: Digest,
        keys: bytes,
    ) -> None:
        if self._frozen is not None:
            raise Violation(f"n{node.id} submitted after the close")
        if keys or not self._trains[node.id]:
            raise Violation(f"n{node.id} submitted keys, or what it does not train")
        if node.id in self._reveals:
            raise Violation(f"n{node.id} submitted twice")
        if not 1 <= samples <= self._declared[node.id]:
            raise Violation(f"n{node.id} submitted {samples} samples, which it had not declared")
        self._sent[node.id] = update
        self._reveals[node.id] = 0
        if reveal != NO_REVEAL:
            if commitment_to(reveal) != self._commitments[node.id]:
                raise Violation(f"n{node.id} revealed what it had not committed to last")
            if (node.id, reveal) in self._used and node.honest:
                raise Violation(f"n{node.id} revealed a secret that everybody knows already")
            self._used.add((node.id, reveal))
            self._reveals[node.id] = reveal_term(node.account, reveal)
        self._commitments[node.id] = commitment

    def _merged(
        self, node: Watched, now: int, round: Round, outcome: Outcome, reasons: bytes
    ) -> None:
        first = round.first_slot_of(node.id)
        if first is None or round.slot_at(now) < first:
            raise Violation(f"n{node.id} merged before its slot")
        kept = (round.submitted & ~outcome.omitted).bit_count()
        if kept < self.rules.min_peers:
            raise Violation(f"a merge of {kept} updates was accepted")
        if len(reasons) != outcome.omitted.bit_count():
            raise Violation("a merge was accepted that does not say why it leaves updates out")
        self._attests(node, round, outcome)

    def _attests(self, node: Watched, round: Round | None, outcome: Outcome) -> None:
        assert round is not None
        model, omitted = outcome.model, outcome.omitted
        self._attested.setdefault(outcome, set()).add(node.id)
        if not node.honest:
            return
        if model not in node.disk:
            raise Violation(f"n{node.id} attests a model that it does not hold")
        if self.rules.verify_level is VerifyLevel.HELD:
            return
        if model != self._truth(round, omitted):
            raise Violation(f"n{node.id}, who is honest, attests a wrong merge")
        place = self.program.place(round.number)
        following = self.program.next_after(round.number, is_better=model != self._best)
        right = None if place is None else (place.stage.slot, following)
        if (outcome.slot, outcome.next) != right:
            raise Violation(f"n{node.id}, who is honest, attests {outcome}, against the program")
        kept = [u for i, u in self._sent.items() if round.submitted & ~omitted & 1 << i]
        if len(set(kept)) < len(kept):
            raise Violation(f"n{node.id}, who is honest, attests a merge of one update twice")
        if omitted >> node.id & 1:
            raise Violation(f"n{node.id} attests a merge that leaves out its own good update")

    def _truth(self, round: Round, omitted: int) -> Digest:
        chosen = [round.submissions[i] for i in members_in(round.submitted & ~omitted)]
        updates = [FrozenUpdate(s.member, s.update, s.samples) for s in chosen]
        if self._chooses(round.number):
            return true_choice(self.program, round.base, self._best, updates)
        return self.folds.merged(self._merge_of(round.number), round.base, updates)

    def _merge_of(self, number: int) -> str:
        place = self.program.place(number)
        assert place is not None
        return place.stage.merge

    def _chooses(self, number: int) -> bool:
        place = self.program.place(number)
        return place is not None and place.stage.slot == BEST_SLOT

    def _check_frozen(self, round: Round) -> None:
        if round.status is RoundStatus.OPEN or not round.closed_at:
            return
        frozen = (round.submitted, round.seed, round.closed_at)
        if self._frozen is None:
            self._frozen = frozen
            self._check_draw(round)
        if self._frozen != frozen:
            raise Violation("what the close froze has changed")

    def _check_draw(self, round: Round) -> None:
        folded = 0
        for term in self._reveals.values():
            folded ^= term
        if round.seed != round_seed(self._seed, folded):
            raise Violation(f"the seed of round {round.number} is not drawn from its reveals")
        frozen = set(members_in(round.submitted))
        revealed = {i for i in frozen if self._reveals.get(i)}
        if set(round.eligible) != (revealed or frozen):
            raise Violation(f"the wrong members may lead round {round.number}")

    def _check_final(self, round: Round, now: int, plan: Plan, members: int) -> None:
        if round.number in self.finals:
            return
        model = next(
            (m for n, m in zip(plan.output_rounds, plan.outputs, strict=True) if n == round.number),
            NO_DIGEST,
        )
        voters = set(members_in(round.submitted & round.roster & ~round.left & members))
        winners = [
            outcome
            for outcome, who in self._attested.items()
            if outcome.model == model and 2 * len(who & voters) > len(voters)
        ]
        if not winners:
            raise Violation(f"round {round.number} is final without more than half of {voters}")
        who = self._attested[winners[0]]
        honest = [self.nodes[i] for i in voters if self.nodes[i].honest]
        holders = [n for n in honest if model in n.disk]
        if len(honest) == len(voters) and 2 * len(holders) <= len(voters):
            raise Violation(f"the final model of round {round.number} lies with {holders} only")
        if any(self.nodes[i].honest and model not in self.nodes[i].disk for i in who):
            raise Violation(f"an attester of round {round.number} does not hold its model")
        self.finals[round.number] = {model}
        self.finals_at[round.number] = now
        self._seed = round.seed
        if self._chooses(round.number):
            self._best = model
