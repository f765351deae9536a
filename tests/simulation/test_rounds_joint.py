"""Rounds and consensus failing together; and planted faults, each of which must be found."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from swarm.chain.qbft import QBFT
from swarm.errors import SwarmError
from swarm.protocol import machine as m
from swarm.protocol.election import commitment_to
from swarm.protocol.ledger import Ledger
from swarm.protocol.state import RoundStatus, Submission
from swarm.testing.joint import RULES, JointWorld, Peer, Trouble
from swarm.testing.simnet import Violation
from swarm.testing.simulate import Job, live, main

SHORT = Trouble(until_s=10, liars=1)


@pytest.mark.parametrize(("nodes", "liars", "seeds"), [(3, 0, 5), (4, 0, 5), (4, 1, 5), (7, 2, 1)])
def test_rounds_and_consensus_fail_together_and_no_promise_is_broken(nodes, liars, seeds):
    counted = Counter[str]()
    for seed in range(seeds):
        outcome = live(Job(seed, nodes, liars))
        assert outcome.fault is None, "\n".join([*outcome.story[-60:], str(outcome.fault)])
        counted += outcome.counted
    assert counted["view changes"] > 0
    assert counted["restarts"] > 0
    assert counted["rounds final"] == 6 * seeds


def test_the_contract_on_an_evm_takes_the_place_of_its_specification():
    worlds = [
        JointWorld(4, 5, SHORT, rules=replace(RULES, rounds=1), evm=evm) for evm in (False, True)
    ]
    for world in worlds:
        world.run_through()
    assert worlds[0].trace == worlds[1].trace
    assert worlds[0].counted["rounds final"] == 2


def test_the_same_seed_gives_the_same_story():
    stories = []
    for seed in (5, 5, 6):
        world = JointWorld(4, seed, SHORT)
        world.run_through()
        stories.append(world.trace)
    assert stories[0] == stories[1] != stories[2]


def test_the_command_prints_what_was_covered(capsys):
    assert main(["--seeds", "2", "--nodes", "3"]) == 0
    printed = capsys.readouterr().out
    assert "rounds final" in printed
    assert "seeds/s" in printed
    assert main(["--seed", "1", "--nodes", "3", "--story"]) == 0
    assert "submit" in capsys.readouterr().out


# Planted faults: the simulator is itself tested. The first half lie in the rules of the rounds, on
# the chain or at a node; the second in the consensus.


class HalfIsEnough(Ledger):
    """Quorum minus one."""

    def _finalise_if_quorum(self, plan, round, candidate, now):
        voters = round.submitted & round.roster & ~round.left & self.member_mask
        missing = voters & ~candidate.attesters
        if candidate.attesters.bit_count() + 1 > voters.bit_count() // 2:
            saved, candidate.attesters = candidate.attesters, candidate.attesters | missing
            super()._finalise_if_quorum(plan, round, candidate, now)
            candidate.attesters = saved


class SelfQuorum(Ledger):
    """A leader's own merge is final at once."""

    def merge(self, sender, now, plan_id, number, attempt, model, omitted, reasons):
        super().merge(sender, now, plan_id, number, attempt, model, omitted, reasons)
        plan = self.plans[plan_id]
        candidate = plan.round.candidate(model, omitted)
        if candidate is not None and plan.round.number == number:
            saved, candidate.attesters = candidate.attesters, plan.round.submitted
            self._finalise_if_quorum(plan, plan.round, candidate, now)
            candidate.attesters = saved


class LateSubmit(Ledger):
    """A submission after the close is let in."""

    def submit(self, sender, now, plan_id, number, attempt, update, samples, *rest):
        round = self.plans[plan_id].round
        member = self._operator(sender)
        late = round is not None and round.status is RoundStatus.CLOSED
        if late and (round.number, round.attempt) == (number, attempt) and samples <= 1000:
            submission = Submission(member.id, update, samples, rest[2], False)
            round.submissions[member.id] = submission
            round.submitted |= 1 << member.id
            return
        super().submit(sender, now, plan_id, number, attempt, update, samples, *rest)


class StaleCommitment(Ledger):
    """A reveal is taken, whatever it was committed to."""

    def submit(self, sender, now, plan_id, number, attempt, update, samples, reveal, *rest):
        consent = self.plans[plan_id].consents.get(self._operator(sender).id)
        if consent is not None and reveal != bytes(32):
            consent.commitment = commitment_to(reveal)
        super().submit(sender, now, plan_id, number, attempt, update, samples, reveal, *rest)


class SubmitsTwice(Ledger):
    """Who submitted may submit again."""

    def submit(self, sender, now, plan_id, number, attempt, *rest):
        round = self.plans[plan_id].round
        member = self._operator(sender)
        if round is not None:
            round.submitted &= ~(1 << member.id)
        super().submit(sender, now, plan_id, number, attempt, *rest)


class ForgetsWithdrawals(Ledger):
    """Whoever withdrew in mid-round still counts."""

    def withdraw(self, sender, now, plan_id):
        super().withdraw(sender, now, plan_id)
        round = self.plans[plan_id].round
        if round is not None:
            round.left = 0


class EmptySeed(Ledger):
    """The draw forgets what was revealed."""

    def _close(self, plan, round, now):
        round.reveals_xor = 0
        super()._close(plan, round, now)


class AttestsUnseen(m.RoundMachine):
    """A node attests whatever is posted."""

    def _verify(self, plan, round, candidate, now):
        self._verdicts[round.number, round.attempt, candidate.model, candidate.omitted] = True


class NeverFetches(m.RoundMachine):
    """A node that missed a model does not pull it."""

    def _fetch_newest(self, plan, now):
        pass


class TrainsTwice(m.RoundMachine):
    """A node does not wait for the end of a training that it stopped."""

    def _drop_training(self, wanted):
        super()._drop_training(wanted)
        if self._stopping:
            self._asked.pop(("train", *self._training), None)
            self._training, self._stopping = None, False


class SmallerQuorum(QBFT):
    def _quorum(self, validator_count):
        return super()._quorum(validator_count) - 1


class NoLock(QBFT):
    def _change_round(self, round_number):
        self._lock = None
        super()._change_round(round_number)


class UngatedTimer(QBFT):
    def _is_round_timer_due(self, arrived):
        return True


class SendsBeforeStoring(Peer):
    stores_before_sending = False


def found_within(seeds: int, liars: int, trouble: Trouble, **planted: type) -> str:
    """What the first seed that notices the planted fault says."""
    for seed in range(seeds):
        world = JointWorld(4, seed, replace(trouble, liars=liars), **planted)
        try:
            world.run_through()
        except (Violation, SwarmError) as fault:
            return str(fault)
    return pytest.fail(f"{planted} was not found within {seeds} seeds")


def driven_by(machine: type[QBFT]) -> type[Peer]:
    return type(machine.__name__, (Peer,), {"machine_class": machine})


QUICK = Trouble(until_s=20, patience_s=250)
ROUGH = Trouble(until_s=20, patience_s=250, crashes=8, proposer_deaths=4)


@pytest.mark.parametrize(
    ("planted", "liars", "trouble", "said"),
    [
        ({"ledger_class": HalfIsEnough}, 0, QUICK, "without more than half"),
        ({"ledger_class": SelfQuorum}, 0, QUICK, "without more than half"),
        ({"ledger_class": LateSubmit}, 1, QUICK, "after the close"),
        ({"ledger_class": StaleCommitment}, 1, QUICK, "had not committed to"),
        ({"ledger_class": SubmitsTwice}, 1, QUICK, "submitted twice"),
        ({"ledger_class": ForgetsWithdrawals}, 0, replace(QUICK, withdrawals=3), ""),
        ({"ledger_class": EmptySeed}, 0, QUICK, "not drawn from its reveals"),
        ({"machine_class": AttestsUnseen}, 1, QUICK, "attests a"),
        ({"machine_class": NeverFetches}, 0, QUICK, "has not ended"),
        ({"machine_class": TrainsTwice}, 0, QUICK, "two trainings at once"),
        ({"peer_class": driven_by(SmallerQuorum)}, 0, ROUGH, "without a proof"),
        ({"peer_class": driven_by(NoLock)}, 0, ROUGH, "forgot the block"),
        ({"peer_class": driven_by(UngatedTimer)}, 0, ROUGH, "without a quorum"),
        ({"peer_class": SendsBeforeStoring}, 0, ROUGH, ""),
    ],
    ids=lambda value: next(iter(value.values())).__name__ if isinstance(value, dict) else "",
)
def test_a_planted_fault_is_found(planted, liars, trouble, said):
    assert said in found_within(60, liars, trouble, **planted)
