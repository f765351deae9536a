"""N validators and one day drawn from a seed: the consensus alone, without rounds.

`ConsensusWorld` runs them and checks, while they run, that no height ever gets two blocks, that
what a quorum sealed is never voted against, and that no honest validator contradicts itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from harness.liars import LyingValidator
from harness.simnet import Port, SimNet, Violation, Weather
from harness.validators import (
    MEMBER_DAY_BYTES,
    SimValidator,
    check_seals,
    read_block,
    sim_address,
    transactions_of,
)
from swarm.chain.block import Block
from swarm.chain.censorship import faulty
from swarm.chain.messages import (
    Certificate,
    Commit,
    GetStatus,
    Prepare,
    Proposal,
    RoundChange,
    Vote,
)
from swarm.errors import ProtocolViolation
from swarm.protocol.state import two_thirds
from swarm.types import Address, Digest

ROUGH = Weather(loss=0.05, duplication=0.05, reordering=0.1)
LAST = 10_000
"""The number of the transaction that ends the day."""
USUAL_BYTES = 1024
LARGEST_BYTES = 40 * 1024
SIZES_OF_LIARS = (USUAL_BYTES, 4 * 1024, 16 * 1024, LARGEST_BYTES)
CATCH_UP_S = 40.0
LOOK_EVERY_S = 5.0


@dataclass(frozen=True)
class Day:
    """What a seed makes happen. Times in virtual seconds; all trouble is over at `trouble_s`."""

    validators: int = 4
    trouble_s: float = 30.0
    patience_s: float = 150.0
    transactions: int = 20
    weather: Weather = ROUGH
    crashes: int = 4
    cuts: int = 2
    skew_s: float = 0.8
    lost_votes: int = 0
    """how often the last validator's vote store is deleted, or an old copy of it is restored"""
    liars: int = 0


class FairnessReferee:
    """No honest member's transaction is left out by more than f+1 proposers, one after another.

    Counted are blocks that began when all honest validators knew it, with all of them there, and
    connected, from the one block to the next. The first proposer may make f+1 such blocks until the
    others act, and each liar after it one; `SLACK` is for those that are fetching a block then.
    """

    SLACK = 1

    def __init__(self, world: ConsensusWorld) -> None:
        self._world = world
        self._waited: dict[int, list[Address]] = {}
        self._ports: list[Port] = []

    def note_block(self, block: Block) -> None:
        """A block was decided, and an honest validator is about to commit it as the first."""
        world, left_out = self._world, self._waited
        validators = world.validators(block.height)
        honest = [world.net.node(v) for v in validators if v not in world.liars]
        self._waited = {}
        if not all(n and not n.port.is_stopped for n in honest) or world.net.is_cut:
            return
        if not all(n.machine.resume_height is not None for n in honest):
            return
        ports, before = [n.port for n in honest], self._ports
        self._ports = ports
        waiting = set.intersection(*(n.pool for n in honest)) - set(transactions_of(block))
        for number in filter(world.has_honest_sender, waiting):
            known = number in left_out and ports == before
            makers = [*left_out[number], block.proposer] if known else []
            self._waited[number] = makers
            most = 2 * faulty(len(validators)) + 1 + self.SLACK
            world.counted["blocks that left somebody out"] += bool(makers)
            if len(makers) > most:
                names = " ".join(world.net.label(a) for a in makers)
                raise Violation(f"a transaction of an honest member is left out by {names}")


class BudgetReferee:
    """No member has more bytes in the blocks of one day of chain time than it may send."""

    def __init__(self, world: ConsensusWorld) -> None:
        self._world = world
        self._sent: Counter[tuple[int, object]] = Counter()

    def note_block(self, block: Block) -> None:
        """A block was decided, and an honest validator is about to commit it as the first."""
        world, day = self._world, block.timestamp // 86_400
        for number in transactions_of(block):
            sender = world.sender_of(number)
            sent = self._sent[day, sender] = self._sent[day, sender] + world.size_of(number)
            if sent > MEMBER_DAY_BYTES:
                raise Violation(f"{sent} bytes of member {sender} are in the blocks of one day")
            room = MEMBER_DAY_BYTES - sent
            world.counted["budgets that are nearly filled"] += room < LARGEST_BYTES


class CatchUpReferee:
    """An honest node that runs and is connected does not stay behind."""

    def __init__(self, world: ConsensusWorld) -> None:
        self._world = world
        self._marks: dict[Address, tuple[Port, float, int]] = {}

    def look(self) -> None:
        """Compare with where the chain was a while ago."""
        world, net = self._world, self._world.net
        net.at(net.now_s + LOOK_EVERY_S, self.look)
        newest, marks = max(world.decided, default=0), self._marks
        self._marks = {}
        for address in world.addresses:
            node = net.node(address)
            if address in world.liars or node is None or node.port.is_stopped or net.is_cut:
                continue
            port, since_s, height = marks.get(address, (None, 0.0, 0))
            if port is not node.port or node.head.height >= height:
                self._marks[address] = node.port, net.now_s, newest
            elif net.now_s < since_s + CATCH_UP_S:
                self._marks[address] = port, since_s, height
            else:
                raise Violation(
                    f"{net.label(address)} is at height {node.head.height} and does not catch up: "
                    f"the others had {height} {CATCH_UP_S:g} s ago"
                )


class ConsensusWorld:
    """N validators, one day. `run` raises Violation, or returns whether all agreed in the end.

    At every instant: no height has two blocks; every certificate holds; no honest validator votes
    twice in one round, forgets a block that it voted to commit, prepares another block than the one
    that a quorum may have sealed before, or gives up a round before a quorum has reached it.

    One exception: a validator on an older copy of its vote store asks the others how it voted, and
    cannot learn what too few of them have heard (`swarm.chain.startup`). Contradicting such a vote
    is counted, not refused: with four validators or more, it is one fault among those tolerated.
    """

    def __init__(
        self, seed: int, day: Day, validator_class: type[SimValidator] = SimValidator
    ) -> None:
        self.net = SimNet(seed, day.weather, label=lambda name: f"v{name[0] - 1}")
        self.day = day
        self.addresses: Sequence[Address] = [sim_address(i) for i in range(day.validators)]
        self.liars = frozenset(self.addresses[: day.liars])
        self.decided: dict[int, Digest] = {}
        self.rounds: Counter[int] = Counter()
        self.counted: Counter[str] = Counter()
        self.rivals: dict[tuple[int, int], tuple[Digest, Digest]] = {}
        self._votes: dict[tuple[Address, type, int, int], bytes] = {}
        self._reached: dict[int, dict[Address, int]] = {}
        self._sealed: dict[tuple[Address, int], int] = {}
        self._sealers: dict[tuple[int, int, bytes], set[Address]] = {}
        self._may_be_decided: dict[int, tuple[int, bytes]] = {}
        self._old_record: bytes | None = None
        self._fairness = FairnessReferee(self)
        self._budget = BudgetReferee(self)
        self.submitted: set[int] = set()
        self.rolled_back: set[Address] = set()
        """Validators that run, or ran, on an older copy of their vote store."""
        self.net.at(LOOK_EVERY_S, CatchUpReferee(self).look)
        for address in self.addresses:
            kind = LyingValidator if address in self.liars else validator_class
            skew_s = self.net.rng.uniform(-day.skew_s, day.skew_s)
            self.net.add(address, partial(self._boot, kind), skew_s=skew_s)

    def _boot(self, kind: type[SimValidator], port: Port) -> SimValidator:
        return kind(port, self)

    def validators(self, height: int) -> tuple[Address, ...]:
        """Who validates this height."""
        return tuple(self.addresses)

    @property
    def senders(self) -> Sequence[object]:
        """Who sends transactions."""
        return [i for i, a in enumerate(self.addresses) if a not in self.liars]

    def sender_of(self, number: int) -> object:
        """Transactions belong to the nodes in turns."""
        return number % len(self.addresses) if number in self.submitted else None

    def has_honest_sender(self, number: int) -> bool:
        """Whether somebody waits for this transaction who may expect to be let in."""
        return self.sender_of(number) in self.senders

    def size_of(self, number: int) -> int:
        """Liars' are large, by their numbers; an honest member's has a KiB."""
        honest = not self.liars or self.has_honest_sender(number)
        return USUAL_BYTES if honest else SIZES_OF_LIARS[number % len(SIZES_OF_LIARS)]

    def invent(self, liar: SimValidator) -> int | None:
        """A number that is no transaction, or one that was decided or still waits."""
        rng = self.net.rng
        known = sorted(self.submitted)
        return rng.choice(known) if known and rng.random() < 0.7 else rng.randrange(2**32)

    def count(self, what: str) -> None:
        """Note for the coverage table that something happened."""
        self.counted[what] += 1

    def note_vote(self, node: SimValidator, vote: Any) -> None:
        """Every message an honest validator sends to all comes by here."""
        if isinstance(vote, GetStatus):
            return
        name, height, round_number = node.port.name, vote.height, vote.round
        reached = self._reached.setdefault(height, {})
        reached[name] = max(round_number, reached.get(name, 0))
        if isinstance(vote, RoundChange):
            self._check_round_change(name, vote)
            return
        what = read_block(vote.block).hash if isinstance(vote, Proposal) else vote.block_hash
        if self._votes.setdefault(
            (name, type(vote), height, round_number), what
        ) != what and not self._could_not_know(name, vote):
            raise Violation(
                f"{self._name(name)} sent two {type(vote).__name__} votes at height {height}, "
                f"round {round_number}"
            )
        if isinstance(vote, Commit):
            self._note_seal(name, vote)
        elif isinstance(vote, Prepare):
            sealed_round, sealed = self._may_be_decided.get(height, (round_number, what))
            if (
                sealed_round < round_number
                and sealed != what
                and not self._could_not_know(name, vote)
            ):
                raise Violation(
                    f"{self._name(name)} prepares {what.hex()[:8]} at height {height}, where a "
                    f"quorum may have decided {sealed.hex()[:8]} in round {sealed_round}"
                )

    def _check_round_change(self, name: Address, change: RoundChange) -> None:
        sealed = self._sealed.get((name, change.height), -1)
        if change.prepared_plus_1 <= sealed < change.round and not self._could_not_know(
            name, change
        ):
            raise Violation(f"{self._name(name)} forgot the block it voted to commit")
        if change.round > 1:
            reached, validators = self._reached[change.height], self.validators(change.height)
            there = sum(r >= change.round - 1 for v, r in reached.items() if v != name)
            there += 1 + self._lying(validators)
            if there < two_thirds(len(validators)):
                raise Violation(
                    f"{self._name(name)} climbs to round {change.round} without a quorum"
                )

    def _could_not_know(self, name: Address, vote: Vote) -> bool:
        """Whether the vote that this one contradicts was lost with a copy of the vote store, and
        so few others hold it, or a later block, that those who answer may not include one."""
        if name not in self.rolled_back:
            return False
        validators = self.validators(vote.height)
        n, q = len(validators), two_thirds(len(validators))
        machines = [node.machine for v in validators if v != name and (node := self.net.node(v))]
        aware = sum(
            machine.height > vote.height or machine.latest_vote_of(name) is not None
            for machine in machines
        )
        answers = max(1, min(n - q + 1, q - 1))
        if n < 4 or aware >= n - answers:
            return False
        self.count("votes contradicted that too few had heard")
        return True

    def _note_seal(self, name: Address, vote: Commit) -> None:
        before = self._sealed.get((name, vote.height), -1)
        self._sealed[name, vote.height] = max(vote.round, before)
        sealers = self._sealers.setdefault((vote.height, vote.round, vote.block_hash), set())
        sealers.add(name)
        validators = self.validators(vote.height)
        if len(sealers) + self._lying(validators) >= two_thirds(len(validators)):
            self._may_be_decided.setdefault(vote.height, (vote.round, vote.block_hash))

    def _lying(self, validators: Sequence[Address]) -> int:
        return sum(v in self.liars for v in validators)

    def _name(self, name: Address) -> str:
        return self.net.label(name)

    def note_commit(self, node: SimValidator, block: Block, certificate: Certificate) -> None:
        """Every block an honest node takes as final comes by here."""
        if node.port.name in self.liars:
            return
        new = block.height not in self.decided
        if self.decided.setdefault(block.height, block.hash) != block.hash:
            raise Violation(f"two blocks at height {block.height}")
        validators = self.validators(block.height)
        try:
            check_seals(certificate, validators)
        except ProtocolViolation as error:
            name = self._name(node.port.name)
            raise Violation(f"{name} committed without a proof: {error}") from None
        self.rounds[certificate.round] += 1
        if new:
            self._budget.note_block(block)
            self._fairness.note_block(block)

    def submit(self, number: int) -> None:
        """A transaction enters at a node that runs."""
        running = [a for a in self.net.running if a not in self.liars]
        if running:
            self.submitted.add(number)
            self.net.node(self.net.rng.choice(running)).submit(number)

    def schedule(self) -> None:
        """Draw the day's events."""
        net, day, rng = self.net, self.day, self.net.rng
        for number in range(day.transactions):
            net.at(rng.uniform(1, day.trouble_s), partial(self.submit, number))
        for _ in range(day.crashes):
            victim, start_s = rng.choice(self.addresses), rng.uniform(1, day.trouble_s)
            lose = rng.random() < 0.7
            net.at(start_s, partial(self._crash, victim, lose))
            net.at(start_s + rng.expovariate(0.3), partial(net.start, victim))
        for _ in range(day.lost_votes):
            start_s = rng.uniform(1, day.trouble_s)
            net.at(start_s - rng.uniform(0, 5), self._copy_votes)
            net.at(start_s, self._lose_votes)
            net.at(start_s + rng.uniform(0.1, 3), partial(net.start, self.addresses[-1]))
        for _ in range(day.cuts):
            shuffled = rng.sample(self.addresses, len(self.addresses))
            size, both = rng.randrange(1, max(2, len(shuffled))), rng.random() < 0.7
            start_s = rng.uniform(1, day.trouble_s)
            net.at(start_s, partial(net.cut, shuffled[:size], shuffled[size:], both=both))
            net.at(start_s, partial(self.count, "cuts"))
            net.at(start_s + rng.uniform(1, 12), net.heal)
        net.at(day.trouble_s, self._end_trouble)

    def _crash(self, victim: Address, lose: bool) -> None:
        if self.net.node(victim) is not None:
            self.count("crashes")
            self.net.crash(victim, lose_unsynced=lose)

    def _copy_votes(self) -> None:
        self._old_record = self.net.disk(self.addresses[-1]).get("vote")

    def _lose_votes(self) -> None:
        """Kill the last validator, and delete its votes or restore the older copy."""
        self._crash(self.addresses[-1], lose=True)
        disk = self.net.disk(self.addresses[-1])
        old = self._old_record if self.net.rng.random() < 0.5 else None
        if disk.get("vote") is not None and disk.get("vote") != old:
            self.count("lost votes")
            disk.put("vote", old)
            disk.sync()
            if old is not None:
                self.rolled_back.add(self.addresses[-1])

    def _end_trouble(self) -> None:
        self.net.weather = Weather()
        for address in self.addresses:
            self.net.start(address)
        self.net.heal()
        self.net.at(self.net.now_s + 1, lambda: self.submit(LAST))

    def has_settled(self) -> bool:
        """Whether all honest nodes have the last transaction and one head."""
        nodes = [self.net.node(a) for a in self.addresses if a not in self.liars]
        return all(
            n is not None and LAST in n.included and n.head.hash == nodes[0].head.hash
            for n in nodes
        )

    def run(self) -> bool:
        """Live through the day; then wait, at most `patience_s`, for all to agree."""
        self.schedule()
        self.net.run(self.day.trouble_s + 1.5)
        return self.net.run(self.day.trouble_s + self.day.patience_s, self._stop)

    def _stop(self) -> bool:
        return self.has_settled()
