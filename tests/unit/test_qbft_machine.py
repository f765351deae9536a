"""The QBFT machine, one rule at a time: four validators, and we are the second or the first."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
from harness.validators import (
    GENESIS,
    GENESIS_HASH,
    SimKeys,
    make_block,
    read_block,
    sim_address,
)

from swarm.chain import consensus_steps as steps
from swarm.chain import qbft
from swarm.chain.block import Block
from swarm.chain.messages import (
    MAX_BLOCK_BYTES,
    PROPOSAL,
    Certificate,
    Commit,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    check_certificate,
    signing_digest,
    vote_digest,
)
from swarm.chain.startup import VoteRecord, decode_record, encode_record, recovered_record
from swarm.errors import ProtocolViolation
from swarm.types import NO_DIGEST

FOUR = tuple(sim_address(i) for i in range(4))
A, B, C, D = FOUR
NOW_S = 1_800_000_000.0


def signed(signer, vote):
    signature = SimKeys(signer).sign(vote_digest(GENESIS_HASH, vote))
    return msgspec.structs.replace(vote, signature=signature)


def prepare(signer, block, round_number=0):
    return signed(signer, Prepare(block.height, round_number, block.hash, bytes(65)))


def commit(signer, block, round_number=0):
    return signed(signer, Commit(block.height, round_number, block.hash, bytes(65)))


def round_change(signer, round_number, height=1, locked=None, prepares=()):
    hash_, payload = (locked.hash, locked.payload) if locked else (bytes(32), b"")
    prepared = prepares[0].round + 1 if prepares else 0
    return signed(
        signer,
        RoundChange(height, round_number, prepared, hash_, bytes(65), payload, tuple(prepares)),
    )


def proposal(signer, block, round_number=0, changes=(), prepares=()):
    digest = signing_digest(GENESIS_HASH, PROPOSAL, block.height, round_number, block.hash)
    bare = tuple(change.bare() for change in changes)
    return Proposal(
        block.height,
        round_number,
        block.payload,
        SimKeys(signer).sign(digest),
        bare,
        tuple(prepares),
    )


def block_of(proposer, *transactions, parent=GENESIS, timestamp=int(NOW_S)) -> Block:
    return make_block(parent, timestamp, proposer, transactions)


class Node:
    """A machine whose disk and engine answer at once, unless told to wait."""

    def __init__(self, address=B, validators=FOUR, record=None, head=GENESIS, answers=True):
        self.address, self.validators = address, validators
        self.machine = qbft.QBFT(
            address=address,
            genesis=GENESIS_HASH,
            keys=SimKeys(address),
            decode=read_block,
            record=record,
        )
        self.done: list[steps.Command] = []
        self.disk_works = True
        self.valid = True
        self.step(steps.HeadAdvanced(head, validators, False))
        if answers:
            for peer in validators:
                if peer != address:
                    self.hear(peer, Status(head.height, head.height))

    def step(self, event, now_s=NOW_S):
        for command in self.machine.handle(event, now_s):
            self.done.append(command)
            match command:
                case steps.StoreVote(token) if self.disk_works:
                    self.step(steps.VoteStored(token), now_s)
                case steps.ExecuteBlock(block):
                    self.step(steps.BlockExecuted(block.hash, self.valid), now_s)

    def hear(self, sender, message, now_s=NOW_S):
        self.step(steps.MessageReceived(sender, message), now_s)

    def said(self, kind):
        return [
            c.message
            for c in self.done
            if isinstance(c, steps.Broadcast) and isinstance(c.message, kind)
        ]

    def did(self, kind):
        return [c for c in self.done if isinstance(c, kind)]

    def expire(self, name="round"):
        timer = [t for t in self.did(steps.SetTimer) if t.name == name][-1]
        self.step(steps.TimerExpired(name, timer.token))

    @property
    def record(self) -> VoteRecord:
        return self.did(steps.StoreVote)[-1].record


def test_a_lone_validator_builds_at_the_first_transaction_and_decides():
    node = Node(A, (A,))
    node.step(steps.TransactionsPending())
    (build,) = node.did(steps.BuildBlock)
    block = block_of(A, 1)
    node.step(steps.BlockBuilt(build.height, build.round, block))
    (done,) = node.did(steps.CommitBlock)
    assert done.block == block
    assert check_certificate(done.certificate, GENESIS_HASH, (A,), SimKeys(A)) == {A}


def test_an_idle_machine_sets_no_timer_and_builds_nothing():
    node = Node(A)
    assert not node.did(steps.BuildBlock)
    assert all(t.name != "round" for t in node.did(steps.SetTimer))
    assert node.machine.waiting_for() == ()


def test_a_block_is_executed_before_it_is_prepared():
    node = Node()
    node.valid = False
    node.hear(A, proposal(A, block_of(A, 1)))
    assert node.did(steps.ExecuteBlock)
    assert not node.said(Prepare)


def test_a_vote_is_sent_only_once_it_is_stored():
    node = Node()
    node.disk_works = False
    node.hear(A, proposal(A, block_of(A, 1)))
    assert not node.said(Prepare)
    (stored,) = [c for c in node.did(steps.StoreVote) if c.record.prepare is not None]
    node.step(steps.VoteStored(stored.token))
    assert len(node.said(Prepare)) == 1


def test_a_quorum_of_prepares_locks_and_a_quorum_of_commits_decides():
    node, block = Node(), block_of(A, 1)
    node.hear(A, proposal(A, block))
    node.hear(A, prepare(A, block))
    assert not node.said(Commit)
    node.hear(C, prepare(C, block))
    assert len(node.said(Commit)) == 1
    assert node.record.lock is not None
    node.hear(A, commit(A, block))
    assert not node.did(steps.CommitBlock)
    node.hear(D, commit(D, block))
    (done,) = node.did(steps.CommitBlock)
    signers = check_certificate(done.certificate, GENESIS_HASH, FOUR, SimKeys(B))
    assert signers == {A, B, D}


def test_seals_of_two_rounds_do_not_add_up():
    node, block = Node(), block_of(A, 1)
    node.hear(A, proposal(A, block))
    for voter, round_number in ((A, 0), (C, 1), (D, 2)):
        node.hear(voter, commit(voter, block, round_number))
    assert not node.did(steps.CommitBlock)


def test_the_second_of_two_proposals_is_reported_and_ignored():
    node = Node()
    node.hear(A, proposal(A, block_of(A, 1)))
    node.hear(A, proposal(A, block_of(A, 2)))
    assert [r.subject for r in node.did(steps.Report)] == [A]
    assert len({vote.block_hash for vote in node.said(Prepare)}) == 1


def test_two_votes_of_one_round_are_reported_and_the_first_counts():
    node, one, two = Node(), block_of(A, 1), block_of(A, 2)
    node.hear(A, proposal(A, one))
    node.hear(C, prepare(C, one))
    node.hear(C, prepare(C, two))
    assert [r.subject for r in node.did(steps.Report)] == [C]
    node.hear(A, prepare(A, one))
    assert len(node.said(Commit)) == 1


BLOCK = block_of(A, 1)
STRANGER = sim_address(9)


@pytest.mark.parametrize(
    ("sender", "message"),
    [
        pytest.param(C, proposal(C, BLOCK), id="not the proposer"),
        pytest.param(A, proposal(C, BLOCK), id="a forged proposal"),
        pytest.param(C, prepare(D, BLOCK), id="a forged prepare"),
        pytest.param(STRANGER, prepare(STRANGER, BLOCK), id="a stranger votes"),
        pytest.param(A, proposal(A, block_of(C, 1)), id="another's new block"),
        pytest.param(
            A,
            proposal(A, block_of(A, 1, parent=replace(GENESIS, hash=NO_DIGEST))),
            id="on another head",
        ),
        pytest.param(
            B, proposal(B, block_of(B, 1), 1, [round_change(C, 1)]), id="too few round-changes"
        ),
        pytest.param(
            C, round_change(C, 1, locked=BLOCK, prepares=[prepare(A, BLOCK)]), id="too few prepares"
        ),
        pytest.param(
            C,
            round_change(C, 1, locked=BLOCK, prepares=[prepare(v, BLOCK, 1) for v in (A, C, D)]),
            id="prepared in no earlier round",
        ),
    ],
)
def test_what_no_honest_validator_sends_is_refused_and_changes_nothing(sender, message):
    node = Node(D)
    before = (node.machine.round, len(node.done), node.machine.is_busy())
    with pytest.raises(ProtocolViolation):
        node.hear(sender, message)
    assert (node.machine.round, len(node.done), node.machine.is_busy()) == before


@pytest.mark.parametrize("wrong_s", [-6, 6])
def test_a_fresh_block_of_another_time_is_not_prepared(wrong_s):
    node = Node()
    node.hear(A, proposal(A, block_of(A, 1, timestamp=int(NOW_S) + wrong_s)))
    assert not node.said(Prepare)
    assert node.did(steps.Report)


def test_a_prepared_block_is_proposed_again_however_old_it_is():
    old = block_of(A, 1, timestamp=int(NOW_S) - 600)
    prepares = [prepare(v, old) for v in (A, C, D)]
    changes = [round_change(C, 1, locked=old, prepares=prepares)] + [
        round_change(v, 1) for v in (A, D)
    ]
    node = Node(B)
    for change, sender in zip(changes, (C, A, D), strict=True):
        node.hear(sender, change)
    (sent,) = node.said(Proposal)
    assert read_block(sent.block) == old
    assert not node.did(steps.BuildBlock)
    follower = Node(D)
    follower.hear(B, sent)
    assert follower.machine.round == 1
    assert follower.said(Prepare)[0].block_hash == old.hash


def test_a_proposal_that_passes_over_a_prepared_block_is_refused():
    locked, other = block_of(A, 1), block_of(B, 2)
    prepares = [prepare(v, locked) for v in (A, C, D)]
    changes = [round_change(C, 1, locked=locked, prepares=prepares)] + [
        round_change(v, 1) for v in (A, B)
    ]
    with pytest.raises(ProtocolViolation, match="is prepared"):
        Node(D).hear(B, proposal(B, other, 1, changes, prepares))


def test_the_timer_of_a_later_round_waits_for_a_quorum_in_it():
    node = Node()
    node.step(steps.TransactionsPending())
    node.expire()
    assert node.machine.round == 1
    timers = len([t for t in node.did(steps.SetTimer) if t.name == "round"])
    node.hear(C, round_change(C, 1))
    assert len([t for t in node.did(steps.SetTimer) if t.name == "round"]) == timers
    node.hear(D, round_change(D, 1))
    last = [t for t in node.did(steps.SetTimer) if t.name == "round"][-1]
    assert last.delay_s == 2.0
    assert node.machine.waiting_for() == (A,)


def test_round_times_double_up_to_a_bound():
    node = Node(D)
    delays = []
    for round_number in range(1, 9):
        for voter in (A, B, C):
            node.hear(voter, round_change(voter, round_number))
        delays.append([t for t in node.did(steps.SetTimer) if t.name == "round"][-1].delay_s)
    assert delays == [2, 4, 8, 16, 30, 30, 30, 30]


def test_one_round_change_moves_nobody_and_two_of_four_move_the_others():
    node = Node()
    node.hear(C, round_change(C, 5))
    assert node.machine.round == 0
    node.hear(D, round_change(D, 3))
    assert node.machine.round == 3
    assert node.said(RoundChange)[-1].round == 3


def test_a_late_round_change_obliges_the_proposer_that_builds_already():
    locked = block_of(A, 1)
    node = Node(B)
    for voter in (A, D):
        node.hear(voter, round_change(voter, 1))
    (build,) = node.did(steps.BuildBlock)
    proof = [prepare(v, locked) for v in (A, C, D)]
    node.hear(C, round_change(C, 1, locked=locked, prepares=proof))
    node.step(steps.BlockBuilt(1, build.round, block_of(B, 2)))
    assert read_block(node.said(Proposal)[0].block) == locked


def test_the_parents_proposer_goes_first_and_the_turn_passes_now_and_then():
    parent = block_of(C, 1)
    node = Node(head=parent)
    assert [node.machine.proposer(r) for r in range(5)] == [C, D, A, B, C]
    late = Block(63, parent.hash, GENESIS_HASH, 0, C, parent.payload)
    node = Node(head=late, record=VoteRecord(63))
    assert node.machine.proposer(0) == D


def after_two_blocks_of(proposer, unfair, address=B):
    """A node at height 3; whoever is `unfair` has left out for too long what waits here."""
    first = block_of(proposer, 1)
    node = Node(address, head=first, record=VoteRecord(1))
    second = block_of(proposer, 2, parent=first)
    node.step(steps.HeadAdvanced(second, FOUR, True, unfair=frozenset(unfair)))
    return node, second


def test_a_proposer_that_leaves_somebody_out_loses_the_turn_before_it_proposes():
    node, parent = after_two_blocks_of(A, {A})
    assert [(c.height, c.round) for c in node.said(RoundChange)] == [(3, 1)]
    node.hear(A, proposal(A, block_of(A, 3, parent=parent)))
    assert not node.said(Prepare)
    for voter in (C, D):
        node.hear(voter, round_change(voter, 1, height=3))
    build = node.did(steps.BuildBlock)[-1]
    assert (build.height, build.round, node.machine.proposer(1)) == (3, 1, B)


def test_the_turn_does_not_fall_back_to_who_lost_it():
    node, parent = after_two_blocks_of(A, {A})
    third = block_of(B, 3, parent=parent)
    node.step(steps.HeadAdvanced(third, FOUR, True))
    assert node.machine.proposer(0) == B
    node.step(steps.HeadAdvanced(block_of(B, 4, parent=third), FOUR, True, unfair=frozenset({A})))
    assert node.machine.round == 0, "who is not to propose now is not passed over"


def test_nobody_passes_itself_over_nor_anyone_while_it_may_not_vote():
    node, _ = after_two_blocks_of(A, {A}, address=A)
    assert node.machine.round == 0
    follower, _ = after_two_blocks_of(A, {A}, address=sim_address(7))
    assert not follower.said(RoundChange)


def test_no_block_is_refused_for_what_it_leaves_out():
    node, parent = after_two_blocks_of(A, {A})
    block = block_of(A, 3, parent=parent)
    prepares = [prepare(v, block) for v in (A, C, D)]
    changes = [
        round_change(A, 1, height=3),
        round_change(C, 1, height=3, locked=block, prepares=prepares),
        round_change(D, 1, height=3),
    ]
    node.hear(C, changes[1])
    node.hear(D, changes[2])
    assert read_block(node.said(Proposal)[-1].block) == block, "the others had prepared it"
    assert node.said(Prepare)[-1].block_hash == block.hash


def test_who_complains_alone_still_takes_the_block_that_the_others_decide():
    node, parent = after_two_blocks_of(A, {A})
    block = block_of(A, 3, parent=parent)
    node.hear(A, proposal(A, block))
    for voter in (A, C, D):
        node.hear(voter, commit(voter, block))
    assert [c.block for c in node.did(steps.CommitBlock)] == [block]


def test_of_each_round_one_proposal_is_read_and_its_rival_once():
    node, one = Node(), block_of(A, 1)
    node.hear(A, proposal(A, one))
    decoded = []
    verifier = node.machine._verify
    node.machine._verify = replace(verifier, decode=lambda p: decoded.append(p) or read_block(p))
    for _ in range(5):
        node.hear(A, proposal(A, one))
    assert not decoded
    for number in range(2, 20):
        node.hear(A, proposal(A, block_of(A, number)))
    assert len(decoded) == 1
    assert [r.text for r in node.did(steps.Report)] == ["proposed two blocks"]


def test_more_signatures_than_validators_are_refused_unread():
    node, block = Node(), block_of(A, 1)
    proof = [prepare(C, block)] * 5
    recovered = []
    keys = SimpleNamespace(recover=lambda d, s: recovered.append(s) or SimKeys(B).recover(d, s))
    node.machine._verify = replace(node.machine._verify, keys=keys)
    with pytest.raises(ProtocolViolation, match="5 prepares of 4 validators"):
        node.hear(C, round_change(C, 1, locked=block, prepares=proof))
    assert len(recovered) == 1
    seals = tuple(commit(v, block).signature for v in (A, B, C, D, A))
    with pytest.raises(ProtocolViolation, match="5 seals of 4 validators"):
        check_certificate(Certificate(1, 0, block.hash, seals), GENESIS_HASH, FOUR, SimKeys(B))


def test_own_votes_are_sent_again_to_whoever_connects_and_every_two_seconds():
    node, block = Node(), block_of(A, 1)
    node.hear(A, proposal(A, block))
    node.step(steps.PeerConnected(C))
    sent = [c.message for c in node.did(steps.Send) if c.to == C]
    assert node.said(Prepare)[0] in sent
    node.expire("resend")
    assert len(node.said(Prepare)) == 2


def test_a_restarted_machine_keeps_its_round_its_lock_and_its_votes():
    node, block = Node(), block_of(A, 1)
    node.hear(A, proposal(A, block))
    node.hear(A, prepare(A, block))
    node.hear(C, prepare(C, block))
    node.expire()
    record = decode_record(encode_record(node.record))
    again = Node(record=record)
    assert again.machine.round == 1
    again.hear(A, round_change(A, 1))
    again.hear(C, round_change(C, 1))
    (sent,) = again.said(Proposal)
    assert read_block(sent.block) == block


def test_a_restarted_machine_does_not_prepare_another_block_in_the_same_round():
    node, one, two = Node(), block_of(A, 1), block_of(A, 2)
    node.hear(A, proposal(A, one))
    again = Node(record=node.record)
    again.hear(A, proposal(A, two))
    assert not again.said(Prepare)


def test_a_peer_that_is_behind_gets_blocks_and_one_that_is_ahead_is_asked():
    node = Node(head=block_of(A, 1), record=VoteRecord(1))
    node.hear(C, round_change(C, 1, height=1))
    assert node.did(steps.SendBlocks) == [steps.SendBlocks(C, 1)]
    node.hear(D, Status(9, 9))
    assert node.did(steps.RequestBlocks) == [steps.RequestBlocks(D, 9)]


def test_who_is_one_block_ahead_is_asked_for_it_only_if_ours_does_not_come_soon():
    node, first = Node(), block_of(A, 1)
    node.hear(C, round_change(C, 1, height=2))
    assert not node.did(steps.RequestBlocks)
    node.expire("resend")
    assert node.did(steps.RequestBlocks) == [steps.RequestBlocks(C, 1)]
    node.step(steps.HeadAdvanced(first, FOUR, False))
    assert not node.machine._ahead


def test_votes_for_the_next_height_are_kept_and_counted_when_it_comes():
    node, first = Node(), block_of(A, 1)
    second = block_of(A, 2, parent=first)
    node.hear(A, proposal(A, second))
    node.step(steps.HeadAdvanced(first, FOUR, False))
    assert node.said(Prepare)[0].block_hash == second.hash


def test_early_votes_of_a_flooding_validator_are_bounded():
    node = Node()
    for round_number in range(1, 1000):
        node.hear(C, round_change(C, round_number, height=2))
    assert len(node.machine._early[C]) <= qbft.EARLY_VOTES_PER_SENDER
    for round_number in range(1000):
        node.hear(D, prepare(D, block_of(A, round_number), round_number))
    assert len(node.machine._votes[D]) <= qbft.VOTES_PER_SENDER


def test_large_early_votes_are_bounded_by_their_bytes():
    node = Node()
    block = bytes(MAX_BLOCK_BYTES)
    for round_number in range(1, 10):
        vote = RoundChange(2, round_number, round_number, bytes(32), bytes(65), block)
        node.hear(C, vote)
        node.hear(D, vote)
    kept = node.machine._early[C]
    assert sum(len(vote.block) for vote in kept) <= qbft.EARLY_BYTES_PER_SENDER
    assert kept[-1].round == 9


def test_members_that_are_no_validators_follow_without_voting():
    node, block = Node(sim_address(7)), block_of(A, 1)
    node.hear(A, proposal(A, block))
    for voter in (A, B, C):
        node.hear(voter, commit(voter, block))
    assert len(node.did(steps.CommitBlock)) == 1
    assert not node.said(Prepare) + node.said(Commit) + node.said(RoundChange)


def test_a_change_of_validators_counts_from_the_next_height():
    first = block_of(A, 1)
    node = Node()
    node.step(steps.HeadAdvanced(first, (A, B), False))
    second = block_of(A, 2, parent=first)
    with pytest.raises(ProtocolViolation):
        node.hear(C, prepare(C, second))
    node.hear(A, proposal(A, second))
    node.hear(A, prepare(A, second))
    assert len(node.said(Commit)) == 1


# Votes that may have been lost.


def test_nobody_votes_before_enough_others_have_answered():
    node = Node(answers=False)
    node.hear(A, proposal(A, block_of(A, 1)))
    assert not node.said(Prepare)
    assert set(node.machine.waiting_for()) == {A, C, D}
    node.hear(A, Status(0, 0))
    assert node.machine.resume_height is None
    node.hear(C, Status(0, 1))
    assert node.machine.resume_height == 0


def test_what_came_before_the_answers_is_voted_on_once_they_are_there():
    node, block = Node(answers=False), block_of(A, 1)
    node.hear(A, proposal(A, block))
    for peer in (A, C):
        node.hear(peer, Status(0, 0))
    assert [vote.block_hash for vote in node.said(Prepare)] == [block.hash]
    assert "round" in {timer.name for timer in node.did(steps.SetTimer)}


def test_a_round_that_the_others_left_before_the_answers_is_left_once_they_are_there():
    node = Node(answers=False)
    for peer in (A, C):
        node.hear(peer, round_change(peer, 2))
    assert node.machine.round == 0
    for peer in (A, C):
        node.hear(peer, Status(0, 0))
    assert [change.round for change in node.said(RoundChange)] == [2]


def test_a_missing_record_on_a_running_chain_means_two_heights_of_silence():
    head = block_of(A, 1)
    node = Node(head=head, answers=False)
    node.hear(A, Status(1, 2))
    node.hear(C, Status(1, 1))
    assert node.machine.resume_height == 4
    assert not node.machine.may_vote


def test_an_own_vote_that_the_record_lacks_proves_the_loss():
    record, block = VoteRecord(0), block_of(A, 1)
    node = Node(record=record, answers=False)
    node.hear(A, Status(0, 1, commit(B, block)))
    node.hear(C, Status(0, 0))
    assert node.machine.resume_height == 3


def test_a_forged_proof_of_a_lost_vote_is_ignored():
    node = Node(record=VoteRecord(0), answers=False)
    node.hear(A, Status(0, 1, commit(C, block_of(A, 1))))
    node.hear(C, Status(0, 0))
    assert node.machine.resume_height == 0


def test_an_own_seal_above_the_record_proves_the_loss():
    node = Node(record=VoteRecord(0), answers=False)
    node.step(steps.HeadAdvanced(block_of(A, 1), FOUR, False, sealed=True))
    for peer in (A, C):
        node.hear(peer, Status(1, 1))
    assert node.machine.resume_height == 3


def test_an_invented_height_holds_nobody_back():
    node = Node(record=VoteRecord(0), answers=False)
    node.hear(A, Status(10**6, 10**6))
    node.hear(C, Status(0, 0))
    node.hear(D, Status(0, 0))
    assert node.machine.resume_height == 0


def test_a_validator_that_was_merely_away_votes_at_once():
    head = Block(90, GENESIS_HASH, GENESIS_HASH, 0, A, b"")
    node = Node(record=VoteRecord(10), head=head, answers=False)
    for peer in (A, C):
        node.hear(peer, Status(90, 91))
    assert node.machine.may_vote


def test_an_operators_word_replaces_the_others_answers():
    head = block_of(A, 1)
    node = Node(record=recovered_record(1), head=head, answers=False)
    assert node.machine.may_vote


def test_a_restored_node_votes_once_no_other_machine_has_its_key_and_the_others_answered_since():
    head = block_of(A, 1)
    node = Node(record=VoteRecord(restored=True), head=head, answers=False)
    for peer in (A, C, D):
        node.hear(peer, Status(1, 2))
    assert node.machine.resume_height is None
    assert node.machine.is_held
    node.step(steps.KeyIsUnshared())
    assert node.machine.resume_height is None  # the other machine may have voted meanwhile
    for peer in (A, C):
        node.hear(peer, Status(1, 2))
    assert node.machine.resume_height == 4
    [stored] = node.did(steps.StoreVote)[-1:]
    assert (stored.record.resume, stored.record.restored) == (4, False)


def test_a_node_that_was_killed_while_it_was_held_is_held_again():
    node = Node(record=VoteRecord(restored=True), answers=False)
    assert not node.did(steps.StoreVote)  # the record on the disk still says that it was restored


def test_a_record_never_lets_a_machine_vote_below_it():
    node = Node(record=VoteRecord(5))
    node.hear(A, proposal(A, block_of(A, 1)))
    assert not node.said(Prepare)
