"""Watches a simulated consortium and stops it at the first accepted transaction that breaks a
promise.

The referee keeps its own books from the arguments of accepted transactions (who committed to what,
who attested what), and counts for itself: it must also notice a ledger that counts wrongly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from harness.simnet import Violation
from swarm.protocol.election import commitment_to, reveal_term, round_seed
from swarm.protocol.machine import FrozenUpdate
from swarm.protocol.state import Plan, Round, RoundStatus, Rules, VerifyLevel, members_in
from swarm.types import NO_DIGEST, Address, Digest, MemberId

NO_REVEAL = bytes(32)


def name(*parts: object) -> Digest:
    """A digest that stands for content made of these parts."""
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


def true_model(base: Digest, updates: Iterable[FrozenUpdate]) -> Digest:
    """What merging these updates must give."""
    return name("model", base, [(u.update, u.samples) for u in updates])


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

    def __init__(self, nodes: Sequence[Watched], rules: Rules) -> None:
        self.nodes = nodes
        self.rules = rules
        self.finals: dict[int, set[Digest]] = {}
        self.finals_at: dict[int, int] = {}
        """Chain time at which each round became final."""
        self._commitments: dict[MemberId, bytes] = {}
        self._declared: dict[MemberId, int] = {}
        self._used: set[tuple[MemberId, bytes]] = set()
        self._seed = NO_DIGEST
        self._here = (-1, 0)
        self._reveals: dict[MemberId, int] = {}
        self._frozen: tuple[int, Digest, int] | None = None
        self._attested: dict[tuple[Digest, int], set[MemberId]] = {}

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
            self._enter(before, plan)
        if function == "consent":
            self._commitments[node.id] = arguments[3]
            self._declared[node.id] = arguments[2]
        elif function == "submit":
            self._submitted(node, *arguments[3:])
        elif function == "merge":
            assert before is not None
            self._merged(node, now, before, *arguments[3:])
        elif function == "attest":
            self._attests(node, before, arguments[3], arguments[4])
        if before is not None:
            self._check_frozen(before)
            if before.status is RoundStatus.FINAL:
                self._check_final(before, now, plan, members)
        if plan.round is not None:
            self._enter(plan.round, plan)

    def _check_settled(self, plan: Plan) -> None:
        """What is final stays."""
        newest = {0: plan.statistics}
        if plan.model_round > 0:
            newest[plan.model_round] = plan.model
        for number, model in newest.items():
            if self.finals.get(number, {model}) != {model}:
                raise Violation(f"two final models for round {number}")

    def _enter(self, round: Round, plan: Plan) -> None:
        here = (round.number, round.attempt)
        if here == self._here:
            return
        number, attempt = self._here
        if number >= 0 and here not in ((number, attempt + 1), (number + 1, 1)):
            raise Violation(f"round {here} follows round {self._here}")
        if here[0] > number >= 0 and number not in self.finals:
            raise Violation(f"round {here[0]} opened before round {number} was final")
        self._here = here
        self._reveals, self._attested, self._frozen = {}, {}, None

    def _submitted(
        self,
        node: Watched,
        update: Digest,
        samples: int,
        reveal: bytes,
        commitment: Digest,
        meta: Digest,
    ) -> None:
        if self._frozen is not None:
            raise Violation(f"n{node.id} submitted after the close")
        if node.id in self._reveals:
            raise Violation(f"n{node.id} submitted twice")
        if not 1 <= samples <= self._declared[node.id]:
            raise Violation(f"n{node.id} submitted {samples} samples, which it had not declared")
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
        self, node: Watched, now: int, round: Round, model: Digest, omitted: int, reasons: bytes
    ) -> None:
        first = round.first_slot_of(node.id)
        if first is None or round.slot_at(now) < first:
            raise Violation(f"n{node.id} merged before its slot")
        kept = (round.submitted & ~omitted).bit_count()
        if kept < self.rules.min_peers:
            raise Violation(f"a merge of {kept} updates was accepted")
        self._attests(node, round, model, omitted)

    def _attests(self, node: Watched, round: Round | None, model: Digest, omitted: int) -> None:
        assert round is not None
        self._attested.setdefault((model, omitted), set()).add(node.id)
        if not node.honest:
            return
        if model not in node.disk:
            raise Violation(f"n{node.id} attests a model that it does not hold")
        if self.rules.verify_level is VerifyLevel.HELD:
            return
        if model != self._truth(round, omitted):
            raise Violation(f"n{node.id}, who is honest, attests a wrong merge")
        if omitted >> node.id & 1:
            raise Violation(f"n{node.id} attests a merge that leaves out its own good update")

    @staticmethod
    def _truth(round: Round, omitted: int) -> Digest:
        chosen = [round.submissions[i] for i in members_in(round.submitted & ~omitted)]
        return true_model(round.base, [FrozenUpdate(s.member, s.update, s.samples) for s in chosen])

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
        model = plan.statistics if round.number == 0 else plan.model
        if round.number in self.finals:
            return
        voters = set(members_in(round.submitted & round.roster & ~round.left & members))
        winners = [
            omitted
            for (attested, omitted), who in self._attested.items()
            if attested == model and 2 * len(who & voters) > len(voters)
        ]
        if not winners:
            raise Violation(f"round {round.number} is final without more than half of {voters}")
        who = self._attested[model, winners[0]]
        honest = [self.nodes[i] for i in voters if self.nodes[i].honest]
        holders = [n for n in honest if model in n.disk]
        if len(honest) == len(voters) and 2 * len(holders) <= len(voters):
            raise Violation(f"the final model of round {round.number} lies with {holders} only")
        if any(self.nodes[i].honest and model not in self.nodes[i].disk for i in who):
            raise Violation(f"an attester of round {round.number} does not hold its model")
        self.finals[round.number] = {model}
        self.finals_at[round.number] = now
        self._seed = round.seed
