"""Rounds and consensus at once: every node is a real QBFT validator and a real round machine.

The blocks that the validators agree on hold transactions of the consortium contract; each is
carried out once, when the first honest node commits it, and a node sees the chain as of its own
head. At the end all blocks are replayed on a fresh ledger, which must come to the same state.

`Trouble` is what a seed makes happen to both layers: nodes die and come back, leaders die between
close and merge, proposers die, links are cut in one direction or both, members withdraw, come back
and are removed, and some lie. `JointWorld.run` lives through it and returns how long it took.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from swarm.chain.block import Block
from swarm.chain.messages import Certificate
from swarm.errors import ContractError
from swarm.protocol import machine as m
from swarm.protocol.ledger import Kind, Ledger
from swarm.protocol.state import Plan, PlanStatus, RoundStatus, Rules, VerifyLevel
from swarm.testing.consensus import (
    ConsensusWorld,
    Day,
    SimValidator,
    TwoFacedValidator,
    transactions_of,
)
from swarm.testing.evm import LedgerContract
from swarm.testing.rounds import PLAN, TRANSACTION_DEADLINE_S, Consortium, Site, Vice
from swarm.testing.simnet import Port, SimNet, Violation, Weather
from swarm.types import NO_ADDRESS, Address

RULES = Rules(
    rounds=5, statistics_round=True, min_peers=2, liveness_s=10, max_round_s=60, consent_s=5
)
ROUND_BOUND_S = 2 * RULES.max_round_s
ROUGH = Weather(loss=0.02, duplication=0.02, reordering=0.05)
DISHONEST = (
    Vice.FORGES,
    Vice.OMITS,
    Vice.AGREES,
    Vice.SILENT,
    Vice.WITHHOLDS,
    Vice.GARBAGE,
    Vice.HOARDS,
)


@dataclass(frozen=True)
class Trouble:
    """What may happen until `until_s`; at most so often. Times in virtual seconds."""

    until_s: float = 40.0
    patience_s: float = 400.0
    crashes: int = 3
    leader_deaths: int = 2
    proposer_deaths: int = 1
    cuts: int = 2
    withdrawals: int = 1
    removals: int = 1
    liars: int = 0
    skew_s: float = 0.9
    weather: Weather = ROUGH
    longest_training_s: float = 12.0
    fetch_loss: float = 0.1


class Peer(SimValidator):
    """One life of one node: a validator, and a site beside it."""

    site: Site | None = None

    def __init__(self, port: Port, world: Validators) -> None:
        self.waiting: dict[int, Callable[[str | None], None]] = {}
        super().__init__(port, world)
        self.joint = world.joint
        self.site = self.joint.move_in(self, port)
        self._show()

    def connected(self, peer: Address) -> None:
        """A link came up."""
        super().connected(peer)
        self._show()

    def _commit(self, block: Block, certificate: bytes) -> None:
        height = self.head.height
        super()._commit(block, certificate)
        if self.head.height > height and self.site is not None:
            for number in transactions_of(block):
                settled = self.waiting.pop(number, None)
                if settled is not None:
                    settled(self.joint.outcomes.get(number))
            self._show()

    def _show(self) -> None:
        snapshot = self.joint.at_height.get(self.head.height)
        if self.site is not None and snapshot is not None:
            self.site.event(m.ChainObserved(*snapshot))

    def transact(self, number: int, settled: Callable[[str | None], None]) -> None:
        """Send a transaction and wait for its block, for as long as a client does."""
        self.waiting[number] = settled
        self.port.call_later(TRANSACTION_DEADLINE_S, partial(self._give_up, number))
        self.submit(number)

    def _give_up(self, number: int) -> None:
        settled = self.waiting.pop(number, None)
        if settled is not None:
            settled("it was not carried out in time")


class TwoFacedPeer(Peer, TwoFacedValidator):
    """A node that lies to the other validators."""


class Validators(ConsensusWorld):
    """The consensus of a joint world: its blocks carry the contract's transactions."""

    joint: JointWorld
    peer_class: type[SimValidator] = Peer

    def _boot(self, kind: type[SimValidator], port: Port) -> SimValidator:
        return (TwoFacedPeer if kind is TwoFacedValidator else self.peer_class)(port, self)

    def validators(self, height: int) -> tuple[Address, ...]:
        """Who validates this height: what the contract says at its parent."""
        known = self.joint.validators_at
        return known.get(height - 1) or known[max(known)]

    def note_commit(self, node: SimValidator, block: Block, certificate: Certificate) -> None:
        """The first honest commit of a height carries the block out."""
        new = block.height not in self.decided
        super().note_commit(node, block, certificate)
        if new and block.height in self.decided:
            self.joint.carry_out(block)


class JointWorld(Consortium):
    """N nodes with real consensus and real rounds, and a seed's trouble."""

    def __init__(
        self,
        nodes: int,
        seed: int,
        trouble: Trouble | None = None,
        *,
        rules: Rules = RULES,
        peer_class: type[Peer] = Peer,
        machine_class: type[m.RoundMachine] = m.RoundMachine,
        ledger_class: type[Ledger] = Ledger,
        evm: bool = False,
    ) -> None:
        self.trouble = trouble or Trouble()
        kind = type("Drawn", (Validators,), {"joint": self, "peer_class": peer_class})
        self.txs: dict[int, tuple[int, str, tuple[object, ...]]] = {}
        self.outcomes: dict[int, str | None] = {}
        self._peers: dict[int, Peer] = {}
        self.at_height: dict[int, tuple[Plan, int]] = {}
        self.validators_at: dict[int, tuple[Address, ...]] = {}
        day = Day(
            nodes,
            weather=self.trouble.weather,
            skew_s=self.trouble.skew_s,
            two_faced=self.trouble.liars,
        )
        self.consensus: Validators = kind(seed, day)
        net: SimNet = self.consensus.net
        net.label = lambda name: f"n{name[0] - 1}"
        super().__init__(
            nodes,
            _drawn_rules(rules, net),
            net=net,
            merge_s=net.rng.choice([0.1, 0.5, 2.0]),
            machine_class=machine_class,
            ledger_class=ledger_class,
            evm=evm,
        )
        self.fetch_loss = self.trouble.fetch_loss if net.rng.random() < 0.5 else 0.0
        for node in self.nodes:
            node.train_s = net.rng.uniform(0.5, self.trouble.longest_training_s)
        for node in self.nodes[: self.trouble.liars]:
            vice = net.rng.choice(DISHONEST)
            node.vices = frozenset({vice, Vice.MEDDLES})
            net.log(f"n{node.id} {vice}, and is two-faced")
        self._removed: set[int] = set()
        for i in range(nodes):
            self.send(i, "consent", *self.consent_of(i))
        self._remember(0)

    # The chain.

    def move_in(self, peer: Peer, port: Port) -> Site:
        """The site of a node that starts."""
        node = self.nodes[port.name[0] - 1]
        self._peers[node.id] = peer
        node.site = site = Site(port, self, node)
        return site

    def transact(
        self,
        site: Site,
        function: str,
        arguments: tuple[object, ...],
        settled: Callable[[str | None], None],
    ) -> None:
        """Send a transaction over the simulated chain."""
        number = self._number(site.node.id, function, arguments)
        self._peers[site.node.id].transact(number, settled)

    def _number(self, i: int, function: str, arguments: tuple[object, ...]) -> int:
        number = len(self.txs)
        self.txs[number] = (i, function, arguments)
        return number

    def _order(self, i: int, function: str, *arguments: object) -> None:
        """Have the people at node `i` send a transaction, if it runs."""
        peer = self.net.node(self.nodes[i].address)
        if peer is not None:
            peer.submit(self._number(i, function, arguments))

    def carry_out(self, block: Block) -> None:
        """Execute a decided block."""
        self.book.height = block.height
        for number in transactions_of(block):
            i, function, arguments = self.txs[number]
            now = block.timestamp
            self.outcomes[number] = self.execute(self.nodes[i], now, function, arguments)
        self._remember(block.height)
        self._strike(block)

    def changed(self) -> None:
        """Nodes see a block when they commit it."""

    def _remember(self, height: int) -> None:
        self.at_height[height] = self.snapshot()
        self.validators_at[height] = tuple(self.book.validators())

    # Trouble.

    def run_through(self) -> float:
        """Live through the trouble, then wait until all is done; seconds since the world healed.

        Raises Violation if a promise is broken, or the plan does not end in time.
        """
        trouble, rng = self.trouble, self.net.rng
        self._leaders_to_kill = rng.randint(0, trouble.leader_deaths)
        self._proposers_to_kill = rng.randint(0, trouble.proposer_deaths)
        for _ in range(rng.randint(0, trouble.crashes)):
            i, at_s = rng.randrange(len(self.nodes)), rng.uniform(1, trouble.until_s)
            self.net.at(at_s, partial(self._die, i, "deaths"))
        for _ in range(rng.randint(0, trouble.cuts)):
            at_s = rng.uniform(1, trouble.until_s)
            self.net.at(at_s, self._cut)
        for _ in range(rng.randint(0, trouble.withdrawals)):
            self.net.at(rng.uniform(1, trouble.until_s), self._withdraw)
        for _ in range(rng.randint(0, trouble.removals)):
            self.net.at(rng.uniform(1, trouble.until_s), self._remove)
        self.net.run(trouble.until_s)
        self._end_trouble()
        began_s = self.net.now_s
        self.net.run(began_s + trouble.patience_s, self.is_done)
        if not self.is_done():
            raise Violation(f"the plan has not ended {trouble.patience_s:g} s after the heal")
        self._check_pace(self.net.epoch_s + began_s)
        self._replay()
        return self.net.now_s - began_s

    def _check_pace(self, healed_at: float) -> None:
        """After the heal no round takes longer than a slow one and a voided one may."""
        later = sorted(at for at in self.referee.finals_at.values() if at > healed_at)
        for before, after in pairwise([healed_at, *later]):
            if after - before > ROUND_BOUND_S:
                raise Violation(f"a round took {after - before:.0f} s though nothing was wrong")

    def is_done(self) -> bool:
        """Whether the plan is complete, and all honest members hold its model."""
        snapshot = self.at_height[max(self.at_height)]
        plan, members = snapshot
        if plan.status is not PlanStatus.COMPLETED:
            return False
        there = [n for n in self.nodes if n.honest and members >> n.id & 1]
        return all(plan.model in n.disk for n in there)

    def _die(self, i: int, what: str, down_s: float | None = None) -> None:
        address = self.nodes[i].address
        if self.net.node(address) is None or self.net.now_s >= self.trouble.until_s:
            return
        rng = self.net.rng
        self.count(what)
        self.net.crash(address, lose_unsynced=rng.random() < 0.7)
        self.at(down_s or rng.uniform(0.2, 20), partial(self._restart, i))

    def _restart(self, i: int) -> None:
        if self.net.node(self.nodes[i].address) is None:
            self.count("restarts")
            self.net.start(self.nodes[i].address)

    def _strike(self, block: Block) -> None:
        """Kill the leader of a round that has just closed, or the proposer of this block."""
        rng, round = self.net.rng, self.at_height[block.height][0].round
        if (
            self._leaders_to_kill
            and round is not None
            and round.status is RoundStatus.CLOSED
            and not round.candidates
            and rng.random() < 0.5
        ):
            self._leaders_to_kill -= 1
            leader = round.leader_at(block.timestamp)
            soon_s = rng.uniform(0, 1.5 * self.merge_s)
            self.at(soon_s, partial(self._die, leader, "leader deaths"))
        elif self._proposers_to_kill and rng.random() < 0.1:
            self._proposers_to_kill -= 1
            self.at(
                rng.uniform(0, 0.1), partial(self._die, block.proposer[0] - 1, "proposer deaths")
            )

    def _cut(self) -> None:
        rng = self.net.rng
        everyone = rng.sample([n.address for n in self.nodes], len(self.nodes))
        size, both = rng.randrange(1, len(everyone)), rng.random() < 0.7
        self.net.cut(everyone[:size], everyone[size:], both=both)
        self.count("partitions" if both else "one-sided partitions")
        self.at(rng.uniform(1, 15), self.net.heal)

    def _withdraw(self) -> None:
        i = self.net.rng.randrange(len(self.nodes))
        self._order(i, "withdraw", PLAN)
        self.count("withdrawals")
        self.at(self.net.rng.uniform(0.5, 15), partial(self._rejoin, i))

    def _rejoin(self, i: int) -> None:
        self.count("rejoins")
        self._order(i, "consent", *self.consent_of(i))

    def _remove(self) -> None:
        """The others vote one member out, as far as a quorum of validators is left without it."""
        if len(self.nodes) < 4 or self._removed:
            return
        liars = self.trouble.liars
        few = len(self.nodes) - 1 < 3 * liars + 1
        target = self.net.rng.choice(self.nodes[:liars] if few else self.nodes)
        self._removed.add(target.id)
        self.count("removals")
        arguments = (Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", target.id, 0)
        voters = [n.id for n in self.nodes if n is not target]
        self._order(voters[0], "propose", *arguments)
        for i in voters[1:]:
            self.at(self.net.rng.uniform(1, 6), partial(self._order, i, "vote", 1, True))

    def _end_trouble(self) -> None:
        self.net.weather = Weather()
        self.fetch_loss = 0.0
        self._leaders_to_kill = self._proposers_to_kill = 0
        for node in self.nodes:
            self.net.start(node.address)
        self.net.heal()
        for i in range(len(self.nodes)):
            # Whoever withdrew and whose consent got lost with a crash.
            self.at(1.0, partial(self._order, i, "consent", *self.consent_of(i)))

    def _replay(self) -> None:
        """All blocks again, on a fresh ledger: a replica that has only the blocks agrees."""
        if not isinstance(self.book, LedgerContract):
            return
        fresh = self.new_book()
        for height, sender, now, function, arguments, outcome in self.executed:
            fresh.height = height
            error = None
            try:
                fresh.send(sender, now, function, *arguments)
            except ContractError as refusal:
                error = refusal.name
            if error != outcome:
                raise Violation(f"replaying {function} at height {height} gives {error}")
        if fresh.plan(PLAN) != self.plan:
            raise Violation("replaying all blocks gives another state")


def _drawn_rules(rules: Rules, net: SimNet) -> Rules:
    held = net.rng.random() < 0.25
    return replace(rules, verify_level=VerifyLevel.HELD if held else rules.verify_level)
