"""A consortium in virtual time: real round machines over the executable specification.

The chain is the `Ledger` behind a delay: a transaction comes into a block after `chain_s` if its
sender can reach a quorum of nodes, and every node that can reach a quorum sees the block
`chain_s` later. Blobs are names; who holds which is kept per node, and a fetch succeeds if a node
that is up, reachable and willing holds it. Training and merging are durations and hashes, so equal
inputs give equal digests, as in life. One seed, one trace.
"""

from __future__ import annotations

import copy
import hashlib
import heapq
import itertools
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from swarm.errors import ContractError
from swarm.protocol import machine as m
from swarm.protocol.election import commitment_to, secret_for
from swarm.protocol.ledger import Founder, Ledger
from swarm.protocol.state import (
    Omission,
    Plan,
    RoundStatus,
    Rules,
    VerifyLevel,
    members_in,
)
from swarm.protocol.workflow import FEDERATED_AVERAGING
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

PLAN = PlanId(1)
MODEL0 = Digest(b"\x01" * 32)
PLAN_DIGEST = Digest(b"\x02" * 32)
START_S = 1_000_000


def name(*parts: object) -> Digest:
    """A digest that stands for content made of these parts."""
    return Digest(hashlib.sha256(repr(parts).encode()).digest())


@dataclass
class SimNode:
    """One node: what survives a crash (`disk`), and what does not (everything else)."""

    id: MemberId
    address: Address
    secret: bytes
    train_s: float = 2.0
    disk: set[Digest] = field(default_factory=lambda: {MODEL0})
    up: bool = True
    life: int = 0
    """Counts restarts: what an earlier life began never reports to a later one."""
    machine: m.RoundMachine | None = None
    wrong_merge: bool = False
    """A Byzantine leader: posts a model that is not the merge."""
    reports: list[str] = field(default_factory=list)


class Consortium:
    """N nodes, one plan, one clock. Drive it with `run`; look at `ledger` and `finals`."""

    def __init__(
        self,
        nodes: int,
        rules: Rules,
        *,
        seed: int = 0,
        chain_s: float = 0.2,
        fetch_s: float = 0.1,
        merge_s: float = 0.2,
        secrets: Callable[[int], bytes] = lambda i: bytes([i]) * 32,
    ) -> None:
        self.rng = random.Random(seed)
        self.now = float(START_S)
        self.chain_s, self.fetch_s, self.merge_s = chain_s, fetch_s, merge_s
        self.nodes = [
            SimNode(MemberId(i), Address(bytes([i + 1]) * 20), secrets(i)) for i in range(nodes)
        ]
        self.ledger = Ledger([Founder(n.address, n.address, f"n{n.id}") for n in self.nodes])
        self.groups: list[set[int]] | None = None
        self.blocked: set[tuple[int, int]] = set()
        """(puller, holder) pairs between which no blob travels."""
        self.trace: list[str] = []
        self.finals: dict[int, set[Digest]] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._wakes: dict[int, float] = {}
        self._snapshot: tuple[Plan, int] | None = None
        self.ledger.propose_plan(
            self.nodes[0].address,
            int(self.now),
            "plan",
            PLAN_DIGEST,
            MODEL0,
            FEDERATED_AVERAGING.id,
            1,
            FEDERATED_AVERAGING.merge_id,
            rules,
        )

    @property
    def plan(self) -> Plan:
        return self.ledger.plans[PLAN]

    # Controls for tests.

    def consent(self, nodes: Iterable[int] | None = None) -> None:
        """Let these nodes (all of them by default) consent now, and start them."""
        for i in range(len(self.nodes)) if nodes is None else nodes:
            node = self.nodes[i]
            commitment = commitment_to(secret_for(node.secret, PLAN, 0, 0))
            self._apply(node, "consent", PLAN, PLAN_DIGEST, 1000, commitment)
        for node in self.nodes:
            if node.machine is None and node.up:
                self._boot(node)

    def kill(self, i: int) -> None:
        """SIGKILL: memory is gone, the disk stays, requests on the wire still arrive."""
        node = self.nodes[i]
        node.up, node.machine = False, None
        node.life += 1
        self._note(f"n{i} dies")

    def restart(self, i: int) -> None:
        self.nodes[i].up = True
        self._note(f"n{i} is back")
        self._boot(self.nodes[i])

    def partition(self, *groups: Iterable[int]) -> None:
        self.groups = [set(g) for g in groups]
        self._note(f"partition {self.groups}")

    def heal(self) -> None:
        self.groups = None
        self._note("healed")
        for node in self.nodes:
            if node.machine is not None:
                self._later(self.chain_s, partial(self._observe, node, node.life))

    def at(self, delay_s: float, action: Callable[[], None]) -> None:
        """Have `action` happen `delay_s` from now."""
        self._later(delay_s, action)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let `seconds` of virtual time pass, or less if `until` holds earlier; whether it held."""
        end = self.now + seconds
        while self._queue and self._queue[0][0] <= end:
            if until():
                return True
            self.now, _, action = heapq.heappop(self._queue)
            action()
        self.now = max(self.now, end) if not until() else self.now
        return until()

    def run_rounds(self, last: int, seconds: float) -> bool:
        """Run until round `last` is final."""
        return self.run(seconds, lambda: self.final_round() >= last)

    def final_round(self) -> int:
        """Number of the newest final training round."""
        return self.plan.model_round

    # The world.

    def reachable(self, a: int, b: int) -> bool:
        if not (self.nodes[a].up and self.nodes[b].up):
            return False
        return self.groups is None or any(a in g and b in g for g in self.groups)

    def _has_chain(self, i: int) -> bool:
        """Whether node `i` is with a quorum of the validators, two thirds rounded up."""
        needed = -(-2 * len(self.nodes) // 3)
        return sum(self.reachable(i, j) for j in range(len(self.nodes))) >= needed

    def _boot(self, node: SimNode) -> None:
        node.machine = m.RoundMachine(PLAN, node.id, node.secret, node.disk.__contains__)
        self._wakes.pop(node.id, None)
        self._later(self.chain_s, partial(self._observe, node, node.life))

    def _observe(self, node: SimNode, life: int) -> None:
        if node.life != life or not self._has_chain(node.id):
            return
        if self._snapshot is None:
            self._snapshot = (copy.deepcopy(self.plan), self.ledger.member_mask)
        self._event(node, life, m.ChainObserved(*self._snapshot))

    def _event(self, node: SimNode, life: int, event: m.Event) -> None:
        if node.life != life or node.machine is None:
            return
        for command in node.machine.handle(event, self.now):
            self._do(node, command)
        wake = node.machine.wake_at
        if wake < float("inf") and self._wakes.get(node.id) != wake:
            self._wakes[node.id] = wake
            self._later(max(0.01, wake - self.now), partial(self._wake, node, life, wake))

    def _wake(self, node: SimNode, life: int, wake: float) -> None:
        if self._wakes.get(node.id) == wake:
            del self._wakes[node.id]
            self._event(node, life, m.TimePassed())

    def _do(self, node: SimNode, command: m.Command) -> None:
        life = node.life
        match command:
            case m.Train(number, _, _, base):
                self._later(node.train_s, partial(self._trained, node, life, number, base))
            case m.Fetch(digest):
                self._later(self.fetch_s, partial(self._fetched, node, life, digest))
            case m.Merge():
                self._later(self.merge_s, partial(self._merged, node, life, command, 0))
            case m.Verify():
                self._later(self.merge_s, partial(self._verified, node, life, command))
            case m.Transact():
                self._later(self.chain_s, partial(self._transact, node, life, command))
            case m.Report(text):
                node.reports.append(text)

    def _trained(self, node: SimNode, life: int, number: int, base: Digest) -> None:
        if node.life != life:
            return
        update = name("update", node.id, number, base)
        node.disk.add(update)
        done = m.TrainingFinished(number, base, update, 100 + node.id, NO_DIGEST)
        self._event(node, life, done)

    def _pull(self, node: SimNode, digest: Digest) -> bool:
        holders = (
            other
            for other in self.nodes
            if digest in other.disk
            and self.reachable(node.id, other.id)
            and (node.id, other.id) not in self.blocked
        )
        if digest in node.disk or any(True for _ in holders):
            node.disk.add(digest)
            return True
        return False

    def _fetched(self, node: SimNode, life: int, digest: Digest) -> None:
        if node.life != life:
            return
        found = self._pull(node, digest)
        event = m.BlobHeld(digest) if found else m.FetchFailed(digest, "nobody has it")
        self._event(node, life, event)

    def _merge_of(
        self, node: SimNode, base: Digest, updates: tuple[m.FrozenUpdate, ...], gone: int
    ) -> tuple[Digest, dict[MemberId, Omission]]:
        omitted = dict.fromkeys(members_in(gone), Omission.WITHDRAWN)
        for frozen in updates:
            if frozen.member not in omitted and not self._pull(node, frozen.update):
                omitted[frozen.member] = Omission.UNREACHABLE
        merged = [(u.update, u.samples) for u in updates if u.member not in omitted]
        return name("model", base, merged), omitted

    def _merged(self, node: SimNode, life: int, command: m.Merge, waited: float) -> None:
        if node.life != life:
            return
        model, omitted = self._merge_of(node, command.base, command.updates, command.gone)
        if Omission.UNREACHABLE in omitted.values() and waited < command.patience_s:
            again = partial(self._merged, node, life, command, waited + 0.5)
            self._later(0.5, again)
            return
        here = (command.number, command.attempt)
        if len(command.updates) - len(omitted) < command.min_peers:
            self._event(node, life, m.MergeFailed(*here, "too few updates"))
            return
        if node.wrong_merge:
            model = name("forged", node.id, here)
        node.disk.add(model)
        self._event(node, life, m.Merged(*here, model, *m.omission_reasons(omitted)))

    def _verified(self, node: SimNode, life: int, command: m.Verify) -> None:
        if node.life != life:
            return
        candidate = command.candidate
        place = (command.number, command.attempt, candidate.model, candidate.omitted)
        if not self._pull(node, candidate.model):
            self._event(node, life, m.CandidateRefused(*place, "cannot be fetched", False))
            return
        if command.level is VerifyLevel.FULL:
            left_out = [u for u in command.updates if candidate.omitted >> u.member & 1]
            if any(self._pull(node, u.update) for u in left_out):
                self._event(node, life, m.CandidateRefused(*place, "omits a good update", True))
                return
            model, omitted = self._merge_of(node, command.base, command.updates, candidate.omitted)
            if m.omission_reasons(omitted)[0] != candidate.omitted:
                refusal = m.CandidateRefused(*place, "an update is missing here", False)
                self._event(node, life, refusal)
                return
            if model != candidate.model:
                self._event(node, life, m.CandidateRefused(*place, "not the merge", True))
                return
        self._event(node, life, m.CandidateVerified(*place))

    def _transact(self, node: SimNode, life: int, command: m.Transact) -> None:
        if not self._has_chain(node.id):
            # Pooled until the sender is with a quorum again; gone with its process.
            if node.life == life:
                self._later(1.0, partial(self._transact, node, life, command))
            return
        error = self._apply(node, command.function, PLAN, *self._place(command), *command.arguments)
        settled = m.TransactionSettled(command.function, command.number, command.attempt, error)
        self._later(self.chain_s, partial(self._event, node, life, settled))

    @staticmethod
    def _place(command: m.Transact) -> tuple[int, ...]:
        return () if command.function == "open" else (command.number, command.attempt)

    def _apply(self, node: SimNode, function: str, *arguments: object) -> str | None:
        """Execute one transaction in a block of its own; the contract's error name, if refused."""
        method = getattr(self.ledger, {"checkIn": "check_in"}.get(function, function))
        before = self.plan.round
        try:
            method(node.address, int(self.now), *arguments)
        except ContractError as error:
            self._note(f"n{node.id} {function} refused: {error.name}")
            return error.name
        self._note(f"n{node.id} {function} {_brief(arguments)}")
        if before is not None and before.status is RoundStatus.FINAL and function != "post":
            winners = {c.model for c in before.candidates if self._won(before, c)}
            self.finals.setdefault(before.number, set()).update(winners)
        self._snapshot = None
        for other in self.nodes:
            delay = self.chain_s * (0.5 + self.rng.random())
            self._later(delay, partial(self._observe, other, other.life))
        return None

    def _won(self, round: object, candidate: object) -> bool:
        output = self.plan.statistics if round.number == 0 else self.plan.model  # type: ignore[attr-defined]
        return bool(candidate.model == output)  # type: ignore[attr-defined]

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), action))

    def _note(self, text: str) -> None:
        self.trace.append(f"{self.now - START_S:9.2f}  {text}")


def _brief(arguments: tuple[object, ...]) -> str:
    return " ".join(a.hex()[:8] if isinstance(a, bytes) else str(a) for a in arguments[1:])
