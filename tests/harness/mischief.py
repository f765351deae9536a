"""What a seed makes happen to a joint world, to both layers at once.

`Mischief` draws times and victims of what a `Trouble` allows and does it, until it is told to end
all. Nodes are killed, stopped and cut off, leaders die between close
and merge and proposers after a block, vote stores are deleted or rolled back, machines sleep;
people withdraw from the plan and come back, vote members in and out, and change their node's key.

What the protocol does not promise to survive is not done: liars stay below a third of the active
validators, whoever leaves; and only one member loses its votes, where nobody lies and four or more
validate (`swarm.chain.startup`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from harness.joint import JointWorld
from harness.rounds import PLAN, SimNode
from harness.simnet import Weather
from harness.trouble import Trouble
from swarm.chain.block import Block
from swarm.protocol.membership import DORMANT_S, Kind, ProposalStatus
from swarm.protocol.state import Duty, Member, RoundStatus
from swarm.types import NO_ADDRESS, Address, MemberId


class Mischief:
    """Draws and does all that goes wrong in one joint world."""

    def __init__(self, world: JointWorld) -> None:
        self.world = world
        self.trouble = trouble = world.trouble
        self.rng = world.net.rng
        self._leaders_to_kill = self.rng.randint(0, trouble.leader_deaths)
        self._proposers_to_kill = self.rng.randint(0, trouble.proposer_deaths)
        self._forgetful = self.rng.choice(world.nodes)
        self._old_record: bytes | None = None
        self._leaving: set[MemberId] = set()
        forgets = self.rng.random() < trouble.forgets and not trouble.liars and len(world.nodes) > 3
        self._lost_votes = self.rng.randint(1, max(1, trouble.lost_votes)) if forgets else 0
        self._testers = 0 if trouble.liars else self.rng.randint(0, trouble.testers)
        needed = max(2, 3 * (trouble.liars or bool(self._lost_votes)) + 1) + self._testers
        self._spare = max(0, len(world.nodes) - needed)
        """How many validators may still be taken off, for good or for a while."""
        self._ended = False

    def decide(self) -> None:
        """What every member answers to the plan before anything runs."""
        world, rng, trouble = self.world, self.rng, self.trouble
        everyone = Duty.TRAIN | Duty.HOLD
        for node in world.nodes:
            node.duties = everyone
        for node in rng.sample(world.nodes, self._testers):
            node.duties = rng.choice([Duty.TEST, Duty.TEST | Duty.HOLD])
            world.count("members that do not train")
        trainers = [n for n in world.nodes if n.duties & Duty.TRAIN]
        spare = max(0, len(trainers) - 2 - 2 * trouble.liars)
        late = rng.sample(trainers, min(spare, rng.randint(0, trouble.late_answers)))
        honest = [n for n in trainers if n not in late]
        expiring = rng.sample(honest, min(len(honest), rng.randint(0, trouble.expiries)))
        for node in world.nodes:
            if node in late:
                if rng.random() < 0.5:
                    world.count("declines")
                    world.send(node.id, "decline", PLAN)
                else:
                    world.count("late answers")
                world.at(rng.uniform(1, trouble.until_s), partial(self._rejoin, node))
                continue
            until = int(world.now) + rng.randint(5, 30) if node in expiring else 0
            if until:
                world.count("consents that end")
                again_s = until - world.now + rng.uniform(0.5, 15)
                world.at(again_s, partial(self._rejoin, node))
            world.send(node.id, "consent", *world.consent_of(node.id, until))

    def schedule(self) -> None:
        """Draw the times of everything that does not wait for an occasion."""
        trouble, rng = self.trouble, self.rng
        for most, happen in (
            (trouble.crashes, self._crash),
            (trouble.absences, self._absence),
            (trouble.stops, self._stop),
            (trouble.sleeps, self._sleep),
            (trouble.cuts, self._cut),
            (trouble.withdrawals, self._withdraw),
            (trouble.removals, self._remove),
            (trouble.admissions, self._admit),
            (trouble.new_keys, self._change_key),
            (trouble.cancellations, self._cancel),
            (trouble.contacts, self._state_contact),
        ):
            for _ in range(rng.randint(0, most)):
                self._sometime(happen)
        for _ in range(self._lost_votes):
            self._sometime(self._lose_votes)

    def end(self) -> None:
        """Everything works again, and everybody is there."""
        world = self.world
        self._ended = True
        self._leaders_to_kill = self._proposers_to_kill = 0
        world.net.weather = Weather()
        world.fetch_loss = 0.0
        for node in world.nodes:
            world.net.start(node.address)
        world.net.heal()
        for node in list(world.nodes):
            self.consent_until_done(node)

    def strike(self, block: Block) -> None:
        """Kill the leader of a round that has just closed, or the proposer of this block."""
        rng, round = self.rng, self.world.at_height[block.height][0].round
        if (
            self._leaders_to_kill
            and round is not None
            and round.status is RoundStatus.CLOSED
            and not round.candidates
            and rng.random() < 0.5
        ):
            self._leaders_to_kill -= 1
            leader = round.leader_at(block.timestamp)
            soon_s = rng.uniform(0, 1.5 * self.world.merge_s)
            self.world.at(soon_s, partial(self._kill, leader, "leader deaths"))
        elif self._proposers_to_kill and rng.random() < 0.1:
            self._proposers_to_kill -= 1
            proposer = block.proposer[0] - 1
            self.world.at(rng.uniform(0, 0.1), partial(self._kill, proposer, "proposer deaths"))

    # Machines and links.

    def _sometime(self, happen: Callable[[], None]) -> None:
        self.world.net.at(self.rng.uniform(1, self.trouble.until_s), happen)

    def _left_s(self) -> float:
        return self.trouble.until_s - self.world.net.now_s

    def _kill(self, i: int, what: str, down_s: float | None = None) -> bool:
        """Kill node `i`, and start it again `down_s` later; whether it ran."""
        world, rng = self.world, self.rng
        address = world.nodes[i].address
        if world.net.node(address) is None or self._ended:
            return False
        world.count(what)
        world.net.crash(address, lose_unsynced=rng.random() < 0.7)
        world.at(down_s or rng.uniform(0.2, 20), partial(self._restart, i))
        return True

    def _restart(self, i: int) -> None:
        address = self.world.nodes[i].address
        if self.world.net.node(address) is None:
            self.world.count("restarts")
            self.world.net.start(address)

    def _crash(self) -> None:
        self._kill(self.rng.randrange(len(self.world.nodes)), "deaths")

    def _absence(self) -> None:
        away_s = self.rng.uniform(20, 40)
        self._kill(self.rng.randrange(len(self.world.nodes)), "long absences", away_s)

    def _stop(self) -> None:
        node = self.rng.choice(self.world.nodes)
        if self.world.net.node(node.address) is not None:
            self.world.count("processes stopped for a while")
            self.world.net.stop(node.address, min(self.rng.uniform(2, 20), self._left_s()))

    def _sleep(self) -> None:
        """All machines sleep for minutes; or for a week, in which one of them died."""
        net, rng = self.world.net, self.rng
        if self.trouble.liars or not self._spare or rng.random() < 0.5:
            self.world.count("sleeps of all machines")
            net.sleep(rng.uniform(20, 120))
        elif self._kill(rng.randrange(len(self.world.nodes)), "deaths", rng.uniform(10, 30)):
            self.world.count("weeks of silence")
            self._spare -= 1
            net.sleep(DORMANT_S + rng.uniform(1, 3600))

    def _cut(self) -> None:
        net, rng = self.world.net, self.rng
        everyone = rng.sample([n.address for n in self.world.nodes], len(self.world.nodes))
        size, both = rng.randrange(1, len(everyone)), rng.random() < 0.7
        net.cut(everyone[:size], everyone[size:], both=both)
        self.world.count("partitions" if both else "one-sided partitions")
        self.world.at(rng.uniform(1, 15), net.heal)

    def _lose_votes(self) -> None:
        """Delete the vote store of the forgetful node, or put an older copy of it back."""
        net, node = self.world.net, self._forgetful
        disk, rng = net.disk(node.address), self.rng
        old = self._old_record
        self._old_record = disk.get("vote")
        if rng.random() < 0.5:
            self.world.at(rng.uniform(0.5, 5), self._roll_back)
        elif self._old_record is not None and self._kill(
            node.id, "deleted vote stores", rng.uniform(0.05, 2)
        ):
            disk.put("vote", None)
            disk.sync()
            self._old_record = old

    def _roll_back(self) -> None:
        disk, old = self.world.net.disk(self._forgetful.address), self._old_record
        if old is None or disk.get("vote") in (None, old):
            return
        if self._kill(self._forgetful.id, "vote stores rolled back", self.rng.uniform(0.05, 2)):
            disk.put("vote", old)
            disk.sync()
            self.world.consensus.rolled_back.add(self._forgetful.address)

    # People.

    def _withdraw(self) -> None:
        node = self.rng.choice(self.world.nodes)
        self.world.order(node.id, "withdraw", PLAN)
        self.world.count("withdrawals")
        self.world.at(self.rng.uniform(0.5, 15), partial(self._rejoin, node))

    def _rejoin(self, node: SimNode) -> None:
        self.world.count("rejoins")
        self.world.order(node.id, "consent", *self.world.consent_of(node.id))

    def _remove(self) -> None:
        """The others vote one member out."""
        liars = [n for n in self.world.nodes if n.id < self.trouble.liars]
        choice = self.world.nodes if self._spare else liars
        if len(self.world.nodes) < 4 or not choice:
            return
        target = self.rng.choice(choice)
        if target.id not in self._leaving:
            self._spare -= target not in liars
            self._leaving.add(target.id)
            self.world.count("removals asked for")
            self._campaign(Kind.REMOVE, NO_ADDRESS, NO_ADDRESS, "", target.id, 0)

    def _admit(self) -> None:
        """The members vote a newcomer in."""
        number = len(self.world.nodes)
        account = Address(bytes([number + 1]) * 20)
        self.world.count("admissions asked for")
        self._campaign(Kind.ADMIT, account, account, f"n{number}", 0, 0)

    def _campaign(self, kind: Kind, *arguments: object) -> None:
        """All members but the target vote for this, each twice, as transactions may get lost."""
        for node in self.world.nodes:
            if kind is Kind.REMOVE and node.id == arguments[3]:
                continue
            for least_s, most_s in ((0, 6), (9, 15)):
                support = partial(self._support, node, kind, arguments)
                self.world.at(self.rng.uniform(least_s, most_s), support)

    def _support(self, node: SimNode, kind: Kind, arguments: tuple[object, ...]) -> None:
        wanted = (kind, arguments[0], arguments[3])
        proposals = self.world.book.proposals().values()
        same = [p for p in proposals if (p.kind, p.account, p.target) == wanted]
        bit = 1 << node.id
        if not same:
            self.world.order(node.id, "propose", kind, *arguments)
        elif not same[0].ayes & bit and (
            kind is Kind.ADMIT or same[0].status is ProposalStatus.OPEN
        ):
            self.world.order(node.id, "vote", same[0].id, True)

    def _change_key(self) -> None:
        """An honest member's people name another node key."""
        node = self.rng.choice(self.world.nodes[self.trouble.liars :])
        if not self._spare or node.id in self._leaving:
            return
        self._spare -= 1
        self._leaving.add(node.id)
        key = Address(node.address[:-1] + bytes([(node.address[-1] + 1) % 256]))
        if self.rng.random() < 0.5:
            self.world.count("standbys named")
            self.world.order(node.id, "setStandby", key)
            self.world.at(self.rng.uniform(1, 5), partial(self._take_over, node, key))
        else:
            self.world.order(node.id, "setNode", key, self.world.prove(node.id, key))

    def _take_over(self, node: SimNode, key: Address) -> None:
        self.world.order(node.id, "setNode", key, self.world.prove(node.id, key))

    def _cancel(self) -> None:
        """Whoever has an open proposal takes it back."""
        proposals = self.world.book.proposals().values()
        for proposal in [p for p in proposals if p.status is ProposalStatus.OPEN][:1]:
            self.world.count("cancellations asked for")
            self.world.order(proposal.proposer, "cancel", proposal.id)

    def _state_contact(self) -> None:
        node = self.rng.choice(self.world.nodes)
        self.world.count("contacts stated")
        self.world.order(node.id, "setContact", self.rng.randbytes(self.rng.choice([0, 40, 513])))

    # What follows from what people decided.

    def welcome(self, member: Member) -> None:
        """A newcomer starts its node, with nothing on its disk, and joins the plan once synced."""
        world, rng = self.world, self.rng
        node = SimNode(member.id, member.account, member.node, bytes([member.id]) * 32)
        node.train_s = rng.uniform(0.5, self.trouble.longest_training_s)
        world.nodes.append(node)
        world.consensus.enter(node.address)
        world.count("members admitted")
        world.at(rng.uniform(0.2, 3), partial(world.net.start, node.address))
        world.at(4.0, partial(self.consent_until_done, node))

    def consent_until_done(self, node: SimNode) -> None:
        """The people at this node consent until the chain shows it, or nothing is left to join."""
        world = self.world
        if world.is_over():
            return
        if world.may_join(node.id):
            world.order(node.id, "consent", *world.consent_of(node.id))
        world.at(3.0, partial(self.consent_until_done, node))

    def move(self, node: SimNode, key: Address) -> None:
        """Stop the node whose key is no longer the member's; start one with the new key, on nothing
        or on a copy of the blocks. That has no votes where there should be some, so it observes."""
        world, old = self.world, node.address
        world.count("node keys changed")
        world.net.crash(old)
        node.address = key
        world.consensus.enter(key)
        others = len(world.validators_at[max(world.validators_at)])
        if not self._lost_votes and others > 2 and self.rng.random() < 0.5:
            world.net.disk(key).synced |= {
                name: block
                for name, block in world.net.disk(old).synced.items()
                if name.startswith("block")
            }
        world.at(self.rng.uniform(0.2, 3), partial(world.net.start, key))


def joint_world(nodes: int, seed: int, trouble: Trouble | None = None, **parts: Any) -> JointWorld:
    """A joint world in which a seed's trouble happens; `parts` are JointWorld's own."""
    return JointWorld(nodes, seed, Mischief, trouble, **parts)
