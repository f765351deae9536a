"""Rounds and consensus at once: every node is a real QBFT validator and a real round machine.

The blocks that the validators agree on hold transactions of the consortium contract; each is
carried out once, when the first honest node commits it, and a node sees the chain as of its own
head. The contract says who validates; a node that is a member and no validator activates itself,
and takes off those that are silent, by the rule of the shipped node. At the end all blocks are
replayed on a fresh ledger, which must come to the same state.

`JointWorld.run_through` lives through what `harness.mischief` makes happen, and returns how
long it took until all was well again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from random import Random
from typing import Protocol, cast

from harness.calls import OF_PLANS, Calls
from harness.consensus import ConsensusWorld, Day
from harness.evm import LedgerContract
from harness.folds import drawn_merge
from harness.liars import LyingValidator
from harness.rounds import (
    MOST_SAMPLES,
    PLAN,
    TRANSACTION_DEADLINE_S,
    Consortium,
    SimNode,
    Site,
    Vice,
    copy_of,
)
from harness.simnet import Port, SimNet, Violation
from harness.trouble import Trouble
from harness.validators import SimValidator, transactions_of
from swarm.chain.block import Block
from swarm.chain.messages import Certificate
from swarm.errors import ContractError
from swarm.node.members.standing import due
from swarm.protocol import machine as m
from swarm.protocol import state
from swarm.protocol.ledger import Ledger
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import (
    BEST_SLOT,
    DRAWN,
    GATHERED_SLOT,
    NO_ROLE,
    STATISTICS_SLOT,
    Duty,
    Member,
    Plan,
    PlanStatus,
    Rules,
    Terms,
    VerifyLevel,
    expired,
)
from swarm.types import NO_DIGEST, Address, Digest, MemberId, PlanId

RULES = Rules(rounds=6, min_peers=2, liveness_s=10, max_round_s=60)
LONGEST_INVITATION_S = 15
ROUND_BOUND_S = 2 * RULES.max_round_s
UPKEEP_EVERY_S = 5.0
DECLARED_BY_LIARS = (MOST_SAMPLES, MOST_SAMPLES, state.MOST_SAMPLES, state.MOST_SAMPLES, 2**62)
DISHONEST = (
    Vice.FORGES,
    Vice.OMITS,
    Vice.AGREES,
    Vice.SILENT,
    Vice.WITHHOLDS,
    Vice.GARBAGE,
    Vice.HOARDS,
    Vice.TWISTS,
    Vice.COPIES,
    Vice.BOASTS,
)


class Peer(SimValidator):
    """One life of one node: a validator, and a site beside it."""

    site: Site | None = None

    def __init__(self, port: Port, world: Validators) -> None:
        self.waiting: dict[int, Callable[[str | None], None]] = {}
        super().__init__(port, world)
        self.joint = world.joint
        self.site = self.joint.move_in(self, port)
        self._quiet_at = -1
        self._show()
        port.call_later(UPKEEP_EVERY_S, self._keep_up)

    def connected(self, peer: Address) -> None:
        """A link came up."""
        super().connected(peer)
        self._show()

    def _commit(self, block: Block, certificate: Certificate, *, imported: bool = False) -> None:
        height = self.head.height
        super()._commit(block, certificate, imported=imported)
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
            if self.site.node.honest:
                for plan in self.joint.foreign_at[self.head.height]:
                    self.joint.count("looks at plans of liars")
                    self.site.foreign.observe(plan, snapshot[1], self.port.clock_s)

    def _keep_up(self) -> None:
        """Once the chain has nothing more to send: what this node owes the consortium."""
        self.port.call_later(UPKEEP_EVERY_S, self._keep_up)
        height, now = self.head.height, int(self.port.clock_s)
        if height == self._quiet_at or self.head.timestamp >= now - 2 * UPKEEP_EVERY_S:
            members = self.joint.members_now()
            me = next((x for x in members.values() if x.node == self.port.name and x.present), None)
            if me is not None:
                for function, arguments in due(me, members, now):
                    self.submit(self.joint.number(me.id, self.port.name, function, arguments))
        self._quiet_at = height

    def transact(self, number: int, settled: Callable[[str | None], None]) -> None:
        """Send a transaction and wait for its block, for as long as a client does."""
        self.waiting[number] = settled
        self.port.call_later(TRANSACTION_DEADLINE_S, partial(self._give_up, number))
        self.submit(number)

    def _give_up(self, number: int) -> None:
        settled = self.waiting.pop(number, None)
        if settled is not None:
            settled("it was not carried out in time")


class LyingPeer(Peer, LyingValidator):
    """A node that lies to the other validators."""


class Validators(ConsensusWorld):
    """The consensus of a joint world: its blocks carry the contract's transactions."""

    joint: JointWorld
    peer_class: type[SimValidator] = Peer

    def _boot(self, kind: type[SimValidator], port: Port) -> SimValidator:
        return (LyingPeer if kind is LyingValidator else self.peer_class)(port, self)

    def enter(self, address: Address) -> None:
        """Make a place for a node with this key; it does not run yet."""
        self.addresses = [*self.addresses, address]
        skew_s = self.net.rng.uniform(-self.day.skew_s, self.day.skew_s)
        self.net.add(address, partial(self._boot, SimValidator), skew_s=skew_s, start=False)

    def sender_of(self, number: int) -> object:
        """The member whose transaction this is."""
        return self.joint.txs[number][0] if 0 <= number < len(self.joint.txs) else None

    @property
    def senders(self) -> Sequence[object]:
        """The members, by number."""
        return [node.id for node in self.joint.nodes] if hasattr(self.joint, "nodes") else []

    def invent(self, liar: SimValidator) -> int | None:
        """A call that nobody but its liar would make, a transaction that was sent before, or none
        that anyone sent."""
        rng, txs = self.net.rng, self.joint.txs
        if rng.random() < 0.3:
            i = liar.port.name[0] - 1
            return self.joint.number(i, liar.port.name, *self.joint.draw_call(self.joint.nodes[i]))
        return rng.randrange(len(txs)) if txs and rng.random() < 0.7 else rng.randrange(2**32)

    def has_honest_sender(self, number: int) -> bool:
        """Whether somebody waits for this transaction who may expect to be let in."""
        return self.joint.nodes[self.joint.txs[number][0]].honest

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


class Disturber(Protocol):
    """What makes trouble in a joint world; `harness.mischief` does."""

    def decide(self) -> None: ...
    def schedule(self) -> None: ...
    def end(self) -> None: ...
    def strike(self, block: Block) -> None: ...
    def welcome(self, member: Member) -> None: ...
    def move(self, node: SimNode, key: Address) -> None: ...


class JointWorld(Consortium):
    """N nodes with real consensus and real rounds, and a seed's trouble."""

    def __init__(
        self,
        nodes: int,
        seed: int,
        disturber: Callable[[JointWorld], Disturber],
        trouble: Trouble | None = None,
        *,
        rules: Rules = RULES,
        peer_class: type[Peer] = Peer,
        machine_class: type[m.RoundMachine] = m.RoundMachine,
        ledger_class: type[Ledger] = Ledger,
        site_class: type[Site] = Site,
        evm: bool = False,
    ) -> None:
        self.trouble = trouble or Trouble()
        kind = type("Drawn", (Validators,), {"joint": self, "peer_class": peer_class})
        self.txs: list[tuple[int, Address, str, tuple[object, ...]]] = []
        self.outcomes: dict[int, str | None] = {}
        self._peers: dict[int, Peer] = {}
        self.at_height: dict[int, tuple[Plan, int]] = {}
        self._plan_count = 1
        self.validators_at: dict[int, tuple[Address, ...]] = {}
        self._members: dict[MemberId, Member] | None = None
        day = Day(
            nodes,
            weather=self.trouble.weather,
            skew_s=self.trouble.skew_s,
            liars=self.trouble.liars,
        )
        self.consensus: Validators = kind(seed, day)
        net: SimNet = self.consensus.net
        net.label = _label
        merge, drawn = drawn_merge(seed, nodes, _drawn_rules(rules, net))
        super().__init__(
            nodes,
            drawn,
            program=drawn_program(seed, rules.rounds, merge),
            invitation_s=net.rng.choice([2, 5, LONGEST_INVITATION_S]),
            net=net,
            merge_s=net.rng.choice([0.1, 0.5, 2.0]),
            machine_class=machine_class,
            ledger_class=ledger_class,
            site_class=site_class,
            evm=evm,
            proposer=nodes - 1,  # who is honest: a proposer may stop its plan
            # Long ago, so that all founders are dormant until they act; but where some lie, others
            # retire who acts late, and too many of those that are left would be liars.
            founded=int(net.epoch_s) if self.trouble.liars else 0,
        )
        self.counted = self.consensus.counted
        self.fetch_loss = self.trouble.fetch_loss if net.rng.random() < 0.5 else 0.0
        for node in self.nodes:
            node.train_s = net.rng.uniform(0.5, self.trouble.longest_training_s)
        for node in self.nodes[: self.trouble.liars]:
            vice = net.rng.choice(DISHONEST)
            node.vices = frozenset({vice, Vice.MEDDLES})
            net.log(f"n{node.id} {vice}, and is two-faced")
            self.count(f"liar: {vice}")
        self._founding = nodes
        self._contributors: set[int] = set()
        self._gone: set[MemberId] = set()
        self._calls: dict[MemberId, Calls] = {}
        self._touched: set[PlanId] = set()
        self.foreign_at: dict[int, list[Plan]] = {}
        """By height, the plans of liars that its block changed, as they were then."""
        self._disturber = disturber(self)
        self.dated, self.carried = self.trouble.dated, self.trouble.carried
        self._disturber.decide()
        self._remember(0)

    # The chain.

    def move_in(self, peer: Peer, port: Port) -> Site:
        """The site of a node that starts."""
        node = self.nodes[port.name[0] - 1]
        self._peers[node.id] = peer
        node.site = site = self.site_class(port, self, node)
        return site

    def transact(
        self,
        site: Site,
        function: str,
        arguments: tuple[object, ...],
        settled: Callable[[str | None], None],
    ) -> None:
        """Send a transaction over the simulated chain."""
        number = self.number(site.node.id, site.port.name, function, arguments)
        self._peers[site.node.id].transact(number, settled)

    def number(self, i: int, key: Address, function: str, arguments: tuple[object, ...]) -> int:
        """Sign a transaction of member `i` with this node key; its number."""
        self.txs.append((i, key, function, arguments))
        return len(self.txs) - 1

    def order(self, i: int, function: str, *arguments: object) -> None:
        """Have the people at node `i` send a transaction, if it runs."""
        peer = self.net.node(self.nodes[i].address)
        if peer is not None:
            peer.submit(self.number(i, peer.port.name, function, arguments))

    # What liars make up.

    def draw_call(self, liar: SimNode) -> tuple[str, tuple[object, ...]]:
        """Any call of the contract."""
        calls = self._calls.setdefault(liar.id, Calls(self.net.rng, liar.id, self))
        self.count("made-up calls")
        return calls.draw()

    def consent_of(self, i: int, until: int = 0) -> tuple[object, ...]:
        """Liars declare as many samples as they may, or more."""
        plan, code, terms = super().consent_of(i, until)
        if not self.nodes[i].honest and isinstance(terms, Terms) and terms.max_samples:
            terms = replace(terms, max_samples=self.net.rng.choice(DECLARED_BY_LIARS))
        return plan, code, terms

    def plan_numbers(self) -> list[PlanId]:
        """All plans that there are."""
        return [PlanId(n) for n in range(1, self._plan_count + 1)]

    def known_digests(self) -> list[Digest]:
        """Of the plan's code, its models, and the updates of its round."""
        plan = self.plan
        sent = {} if plan.round is None else plan.round.submissions
        updates = [sent[i].update for i in sorted(sent)]
        return [plan.digest, plan.base, plan.model, plan.program, *updates]

    def known_signatures(self) -> list[bytes]:
        """Of others, for anything; the newest."""
        return list(self.referee.signed)[-8:]

    def _hear_of(self, i: int, function: str, arguments: tuple[object, ...]) -> None:
        """A plan of a liar's has changed, or is new: then some honest people join it."""
        if function == "proposePlan":
            self._plan_count += 1
            number = PlanId(self._plan_count)
            self.count("plans of liars")
            for node in self.nodes:
                if node.honest and self.net.rng.random() < 0.5:
                    terms = Terms(Duty.TRAIN, MOST_SAMPLES)
                    self.order(node.id, "consent", number, self.book.plan(number).digest, terms)
        elif function in OF_PLANS and arguments[0] != PLAN:
            self._touched.add(cast(PlanId, arguments[0]))

    def carry_out(self, block: Block) -> None:
        """Execute a decided block."""
        self.book.height = block.height
        for number in transactions_of(block):
            i, key, function, arguments = self.txs[number]
            now = block.timestamp
            self.outcomes[number] = self.execute(self.nodes[i], now, function, arguments, key)
            if self.outcomes[number] is None:
                if function == "until":
                    function, arguments = str(arguments[1]), arguments[2:]
                self._hear_of(i, function, arguments)
                self._follow_up(i, function)
        self._remember(block.height)
        self._disturber.strike(block)

    def changed(self) -> None:
        """Nodes see a block when they commit it."""

    def members_now(self) -> dict[MemberId, Member]:
        """All members there ever were, as the newest block has them."""
        if self._members is None:
            self._members = self.book.members()
        return self._members

    def may_join(self, i: int) -> bool:
        """Whether member `i` could still consent to the plan."""
        plan = self.plan
        standing = plan.participants & ~expired(plan, int(self.now))
        return not self.is_over() and bool(self.members & ~standing & 1 << i)

    def is_over(self) -> bool:
        """Whether the plan has ended."""
        return self.plan.status in (PlanStatus.COMPLETED, PlanStatus.STOPPED)

    def _follow_up(self, i: int, function: str) -> None:
        """What a decision of the people, carried out, means for their machines."""
        self._members = None
        if function == "setNode":
            key = self.members_now()[MemberId(i)].node
            self.at(self.net.rng.uniform(0, 3), partial(self._disturber.move, self.nodes[i], key))
        elif function in ("propose", "vote"):
            members = list(self.members_now().values())
            for member in members[len(self.nodes) :]:
                self._disturber.welcome(member)
            gone = {m.id for m in members if not m.present}
            self.counted["members removed"] += len(gone - self._gone)
            self._gone = gone
        elif function == "submit" and i >= self._founding and i not in self._contributors:
            self._contributors.add(i)
            self.count("late joiners that contributed")
        elif function == "retire":
            self.count("dormant validators retired")

    def _remember(self, height: int) -> None:
        self._members = None
        self.at_height[height] = self.snapshot()
        self.foreign_at[height] = [copy_of(self.book.plan(n)) for n in sorted(self._touched)]
        self._touched.clear()
        self.validators_at[height] = now = tuple(self.book.validators())
        before = self.validators_at.get(height - 1, now)
        if now != before:
            self.count("changes of validators")
            self.counted["validators activated"] += len(set(now) - set(before))
            self._note("validators: " + " ".join(map(self.net.label, now)))

    # The day.

    def story(self) -> list[str]:
        """What happened, for people: who is who first, then one line an event."""
        rules = self.referee.rules
        minds = "attest what they hold" if rules.verify_level is VerifyLevel.HELD else "recompute"
        head = [
            f"{self._founding} members found a consortium to train {rules.rounds} rounds; they "
            f"{minds}; a merge takes {self.merge_s:g} s, a training "
            + ", ".join(f"{node.train_s:.1f}" for node in self.nodes[: self._founding])
            + f" s; {self.trouble.liars} of them lie; the trouble ends after "
            f"{self.trouble.until_s:g} s",
        ]
        return head + [_HASH.sub(_shortened, line) for line in self.trace]

    def run_through(self) -> float:
        """Live through the trouble, then wait until all is done; seconds since the world healed.

        Raises Violation if a promise is broken, or the plan does not end in time.
        """
        trouble = self.trouble
        self._disturber.schedule()
        self.net.run(trouble.until_s)
        self._disturber.end()
        began_s = self.net.now_s
        if not self._run_until_done(began_s + trouble.patience_s):
            raise Violation(f"{self._undone()} {trouble.patience_s:g} s after the heal")
        self._check_pace(self.net.epoch_s + began_s)
        self._replay()
        return self.net.now_s - began_s

    def _run_until_done(self, until_s: float) -> bool:
        while not self.is_done() and self.net.now_s < until_s:
            self.net.run(min(self.net.now_s + 0.5, until_s))
        return self.is_done()

    def _check_pace(self, healed_at: float) -> None:
        """After the heal no round takes longer than a slow one and a voided one may."""
        later = sorted(at for at in self.referee.finals_at.values() if at > healed_at)
        for before, after in pairwise([healed_at, *later]):
            if after - before > ROUND_BOUND_S:
                raise Violation(f"a round took {after - before:.0f} s though nothing was wrong")

    def is_done(self) -> bool:
        """Whether the plan is complete, all honest members hold its model, and all founders that
        are still members validate."""
        return self._undone() is None

    def _undone(self) -> str | None:
        height = max(self.at_height)
        plan, members = self.at_height[height]
        if plan.status is not PlanStatus.COMPLETED:
            return "the plan has not ended"
        there = [n for n in self.nodes if members >> n.id & 1]
        for node in there:
            if node.honest and plan.model not in node.disk:
                return f"n{node.id} does not hold the last model"
            if node.honest and set(plan.outputs) - {NO_DIGEST} - node.disk:
                return f"n{node.id} does not hold all that the plan has made"
            if node.honest and node.evaluated.get(plan.model_round) != plan.model:
                return f"n{node.id} has not scored the last model"
            founded = node.id < self._founding and node.honest
            if founded and node.address not in self.validators_at[height]:
                return f"n{node.id} does not validate"
        return None

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


_HASH = re.compile("0x([0-9a-f]{64}|[0-9a-f]{40})(?![0-9a-f])")


def _shortened(found: re.Match[str]) -> str:
    """A key as the node's name, a hash as its beginning."""
    whole = bytes.fromhex(found[1])
    return _label(Address(whole)) if len(whole) == 20 else found[1][:8]


def _label(key: Address) -> str:
    """n2, or n2' and so on after its key was changed."""
    return f"n{key[0] - 1}" + "'" * ((key[-1] - key[0]) % 256)


def drawn_program(seed: int, rounds: int, merge: str = "mean") -> Program:
    """A program of so many rounds: perhaps statistics, and training with figures in its middle or
    at its end, with choices of the best model, at which it may end, or without; perhaps a
    cross-evaluation at the end. From a source of its own, so that the day stays what it was."""
    if Random(f"cross-evaluation of {seed}").random() < 0.3 and rounds >= 6:
        copies = Stage("copies", "send copy", "gather", 1, GATHERED_SLOT)
        crossed = Stage("crossed", "cross-evaluate", "gather", 1, GATHERED_SLOT, reads_rows=True)
        return Program((*_drawn_stages(seed, rounds - 2, merge, ends=False), copies, crossed))
    return Program(_drawn_stages(seed, rounds, merge))


def _drawn_stages(seed: int, rounds: int, merge: str, ends: bool = True) -> tuple[Stage, ...]:
    rng = Random(f"program of {seed}")
    first = [Stage("statistics", "statistics", "sum", 1, STATISTICS_SLOT)]
    before = first if rng.random() < 0.7 else []
    left = rounds - len(before)
    figures = [Stage("personal", "personalise", "sum", 1, GATHERED_SLOT)]
    kind = rng.randrange(4)
    if kind == 0 or left < 3:  # a day of few rounds has room for nothing else
        return (*before, _training(left, merge))
    if kind == 1:
        return (*before, _training(left - 1, merge), *figures)
    early = rng.randrange(1, left - 1)
    if kind == 2 and left >= 5:  # the second choice is the first that may end the plan
        rule, may_end = f"highest score{rng.randrange(100)}", rng.random() < 0.7
        choice = Stage("select", "select", rule, 1, BEST_SLOT, ends=may_end and ends)
        one, rest = _training(1, merge), _training(left - 4, merge)
        return (*before, one, choice, one, choice, rest)
    return (*before, _training(early, merge), *figures, _training(left - 1 - early, merge))


def _training(rounds: int, merge: str) -> Stage:
    return Stage("training", "train", merge, rounds)


def _drawn_rules(rules: Rules, net: SimNet) -> Rules:
    held, role = net.rng.random() < 0.25, net.rng.random() < 0.25
    level = VerifyLevel.HELD if held else rules.verify_level
    return replace(rules, verify_level=level, holder=DRAWN if role else NO_ROLE)
