"""QBFT, the consensus of the embedded chain, as a pure machine: events in, commands out.

    height h, round r        event                            what follows
    ---------------------    -----------------------------    ------------------------------------
    idle (r = 0)             transactions pending             proposer: build; all: timer 0
    proposer, no proposal    block built                      proposal, accepted
    any, no proposal         justified proposal, round ≥ r    r := its round; execute the block
    accepted                 block executed, valid            prepare
    accepted and valid       quorum of prepares in r          lock on the block; commit
    any                      quorum of commits, one round     commit block with its certificate
    any                      timer r expired                  r := r+1; round-change
    any                      f+1 round-changes above r        r := the highest f+1 reached; same
    idle (r = 0)             the proposer left out too long   r := 1; round-change
                             what waits here (`censorship`)
    r > 0                    quorum of round-changes ≥ r      timer r (1, 2, 4 … ≤ 30 s)
    r > 0, proposer          quorum of round-changes = r      highest prepared block, or build one
    any                      head advanced                    h := head+1, r := 0

Votes (proposal, prepare, commit, round-change) leave only after `VoteStored` has confirmed that
the record holding them is durable, and count here from then on too. The proposer of round 0 is
the parent block's, as long as it is alive: a dead validator then costs one time-out, not one in
N blocks. Every `ROTATION` heights the turn passes on; and from a proposer that leaves somebody's
transactions out, the others take it at the next height by a round-change that waits for no timer.
Its block is not refused for that: what is valid stays valid. The timer of a round above 0 waits for
a quorum to be in it: a validator that is cut off does not climb rounds alone. Meanwhile one's own
votes of the round are sent again every `RESEND_S`, and to whoever connects.

Not voting, but following and committing like the others: members that are no validators, and
validators whose votes may have been lost (`startup`).

Ignoring is not rejecting: what is late or repeated is ignored; what no honest validator sends
raises ProtocolViolation out of `handle` and changes nothing. After the EEA QBFT specification v1
and its formal model in Dafny.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import msgspec

from swarm.chain.block import Block
from swarm.chain.censorship import faulty
from swarm.chain.consensus_steps import (
    BlockBuilt,
    BlockExecuted,
    Broadcast,
    BuildBlock,
    CancelTimer,
    Command,
    CommitBlock,
    Event,
    ExecuteBlock,
    HeadAdvanced,
    KeyIsUnshared,
    MessageReceived,
    PeerConnected,
    Report,
    RequestBlocks,
    Send,
    SendBlocks,
    SetTimer,
    StoreVote,
    TimerExpired,
    TransactionsPending,
    VoteStored,
)
from swarm.chain.justification import Verifier, highest_prepared
from swarm.chain.messages import (
    COMMIT,
    MAX_BLOCK_BYTES,
    PREPARE,
    PROPOSAL,
    Certificate,
    Commit,
    GetStatus,
    Keys,
    Prepare,
    Proposal,
    RoundChange,
    Status,
    Vote,
    signing_digest,
    vote_digest,
)
from swarm.chain.startup import Lock, StartupCheck, VoteRecord
from swarm.errors import ProtocolViolation
from swarm.protocol.state import two_thirds
from swarm.types import NO_ADDRESS, Address, Digest

ROUND_S = 1.0
LONGEST_ROUND_S = 30.0
RESEND_S = 2.0
CLOCK_TOLERANCE_S = 2.0
ROTATION = 64
VOTES_PER_SENDER = 16
EARLY_VOTES_PER_SENDER = 16
EARLY_BYTES_PER_SENDER = 4 * MAX_BLOCK_BYTES
BLOCKS_PER_HEIGHT = 16


class QBFT:
    """One node's consensus. The first event must be HeadAdvanced, with the stored head.

    record: the stored VoteRecord, None if there is none. sealed_height: the highest height whose
    stored certificate bears this node's seal. genesis: what votes are signed over, until a
    HeadAdvanced says otherwise. `decode` turns a payload into a Block and
    raises ProtocolViolation.
    """

    def __init__(
        self,
        *,
        address: Address,
        genesis: Digest,
        keys: Keys,
        decode: Callable[[bytes], Block],
        record: VoteRecord | None,
        sealed_height: int = 0,
    ) -> None:
        self.address = address
        self.height = 0
        self.round = 0
        self.validators: tuple[Address, ...] = ()
        self._genesis = genesis
        self._keys = keys
        self._verify = Verifier(genesis, keys, decode, self._two_thirds)
        self._check = StartupCheck(address, record, sealed_height)
        self._record = record or VoteRecord()
        self._is_starting = True
        self._resume: int | None = None
        self._commands: list[Command] = []
        self._unstored: list[Vote] = []
        self._storing: dict[int, list[Vote]] = {}
        self._token = 0
        self._timers: dict[str, int] = {}
        self._early: dict[Address, deque[Vote]] = {}
        self._ahead: set[Address] = set()
        self._reported: set[tuple[Address, int, int, str]] = set()

    # What the outside may ask.

    @property
    def may_vote(self) -> bool:
        """Whether this node votes at this height."""
        return (
            self._resume is not None
            and self.address in self.validators
            and self.height >= max(self._resume, self._record.height)
            and not self._decided
        )

    @property
    def resume_height(self) -> int | None:
        """The first height at which this node may vote; None while the others have not answered."""
        return self._resume

    @property
    def is_held(self) -> bool:
        """Whether this node was restored from a backup and waits for KeyIsUnshared."""
        return self._check.is_held

    def proposer(self, round_number: int) -> Address:
        """Who proposes in this round of the current height."""
        if not self.validators:
            return NO_ADDRESS
        parent = self._parent.proposer
        first = self.validators.index(parent) if parent in self.validators else 0
        turn = first + round_number + (self.height % ROTATION == 0)
        return self.validators[turn % len(self.validators)]

    def waiting_for(self) -> tuple[Address, ...]:
        """The validators whose vote or answer is missing for the next step; none when idle."""
        others = [v for v in self.validators if v != self.address]
        if self._resume is None:
            return tuple(v for v in others if v not in self._check.heard_from())
        if self._decided or not self.is_busy():
            return ()
        return tuple(v for v in others if not self._is_in_round(v))

    def is_busy(self) -> bool:
        """Whether a decision is under way: a validator that falls silent now is missed."""
        return self.round > 0 or self._proposal is not None or "round" in self._timers

    def handle(self, event: Event, now_s: float) -> list[Command]:
        """Take one event at wall-clock time `now_s` (seconds since 1970); return what to do.

        Raises ProtocolViolation, with nothing changed, for a message no honest peer sends.
        """
        match event:
            case MessageReceived():
                self._receive(event.sender, event.message, now_s)
            case HeadAdvanced():
                self._advance(event, now_s)
            case TransactionsPending():
                self._pending = True
                self._begin_round_0(now_s)
            case BlockBuilt():
                self._built(event)
            case BlockExecuted():
                self._executed(event)
            case VoteStored():
                self._stored(event.token, now_s)
            case TimerExpired():
                if self._timers.get(event.name) == event.token:
                    del self._timers[event.name]
                    self._expired(event.name)
            case KeyIsUnshared():
                self._check.release()
                self._settle_startup()
                self._do(Broadcast(GetStatus()))
                self._propose_or_begin(now_s)
            case PeerConnected():
                self._do(Send(event.peer, GetStatus()))
                if event.peer in self.validators:
                    for message in self._own_messages():
                        self._do(Send(event.peer, message))
        self._store_votes()
        self._keep_resending()
        commands, self._commands = self._commands, []
        return commands

    # Heights.

    def _advance(self, event: HeadAdvanced, now_s: float) -> None:
        if event.head.height < self.height:
            return
        self.height = event.head.height + 1
        self.validators = event.validators
        if event.domain is not None:
            self._genesis = event.domain
            self._verify = replace(self._verify, genesis=event.domain)
        self._parent = event.head
        self._pending = event.pending
        self._decided = False
        self._blocks: dict[Digest, Block] = {}
        self._valid: set[Digest] = set()
        self._votes: dict[Address, dict[tuple[int, int], Prepare | Commit]] = {}
        self._tally: Counter[tuple[int, int, bytes]] = Counter()
        self._changes: dict[Address, RoundChange] = {}
        self._lock: Lock | None = None
        self._heard: dict[int, bytes | None] = {}  # by round: the proposed block, if it matters yet
        self._ahead.clear()
        self._reported.clear()
        self._enter_round(0)
        self._cancel("round")
        if self._record.height == self.height:
            self._restore()
        if self._is_starting:
            self._check.note_first_head(event.head.height)
            if not self._check.is_lost:
                self._store_record()
            self._is_starting = False
        if event.sealed:
            self._check.note_own_seal(event.head.height)
        self._settle_startup()
        self._pass_over(event.unfair)
        early, self._early = self._early, {}
        for sender, votes in early.items():
            for vote in votes:
                try:
                    self._receive(sender, vote, now_s)
                except ProtocolViolation as error:
                    self._report(sender, 0, str(error))
        self._begin_round_0(now_s)

    def _restore(self) -> None:
        """Go on from the stored record: same round, same lock, same votes."""
        record = self._record
        self.round = record.round
        self._lock = record.lock
        for vote in (record.prepare, record.commit, record.round_change):
            if vote is not None:
                self._count(self.address, vote)

    def _enter_round(self, round_number: int) -> None:
        self.round = round_number
        self._proposal: Block | None = None
        self._own_proposal: Proposal | None = None
        self._building = False
        self._heard = dict.fromkeys(self._heard)
        if round_number:
            self._cancel("round")

    def _begin_round_0(self, now_s: float) -> None:
        """Chain on demand: round 0 begins when a transaction waits."""
        if not (self._pending and self.may_vote and self.round == 0):
            self._propose_after_round_change(now_s)
            return
        self._start_round_timer()
        if self.proposer(0) == self.address and not self._has_proposed():
            self._build(now_s)

    # Messages.

    def _receive(self, sender: Address, message: Vote | GetStatus | Status, now_s: float) -> None:
        match message:
            case GetStatus():
                self._do(Send(sender, self._status_for(sender)))
            case Status():
                could_vote = self.may_vote
                self._answered(sender, message)
                if self.may_vote and not could_vote:
                    self._take_up()
                self._propose_or_begin(now_s)
            case _ if message.height < self.height:
                if isinstance(message, RoundChange):
                    self._do(SendBlocks(sender, message.height))
            case _ if message.height > self.height:
                self._came_early(sender, message)
            case _ if sender not in self.validators:
                raise ProtocolViolation(
                    f"0x{sender.hex()} is no validator at height {self.height}, but votes"
                )
            case _ if self._decided:
                pass
            case Proposal():
                self._proposed(sender, message, now_s)
            case Prepare() | Commit():
                self._voted(sender, message)
            case RoundChange():
                self._round_changed(sender, message, now_s)

    def _came_early(self, sender: Address, vote: Vote) -> None:
        """A vote for a later height: keep the next height's, and fetch what we missed.

        Who is one block ahead is asked for it only if ours does not come soon.
        """
        if vote.height > self.height + 1:
            self._do(RequestBlocks(sender, vote.height - 1))
            return
        self._ahead.add(sender)
        if sender in self.validators:
            kept = self._early.setdefault(sender, deque(maxlen=EARLY_VOTES_PER_SENDER))
            if vote not in kept:
                kept.append(vote)
            while sum(map(_size, kept)) > EARLY_BYTES_PER_SENDER:
                kept.popleft()

    def _proposed(self, sender: Address, proposal: Proposal, now_s: float) -> None:
        if sender != self.proposer(proposal.round):
            raise ProtocolViolation(
                f"0x{sender.hex()} proposes at height {self.height} in round {proposal.round}, "
                f"whose proposer is 0x{self.proposer(proposal.round).hex()}"
            )
        was_heard = proposal.round in self._heard
        if was_heard and self._heard[proposal.round] in (None, proposal.block):
            return
        block = self._verify.decode(proposal.block)
        digest = signing_digest(
            self._genesis, PROPOSAL, proposal.height, proposal.round, block.hash
        )
        if self._keys.recover(digest, proposal.signature) != sender:
            raise ProtocolViolation(f"a proposal is not signed by its sender 0x{sender.hex()}")
        if was_heard:
            self._report(sender, proposal.round, "proposed two blocks")
            self._heard[proposal.round] = None
            return
        if block.height != self.height or block.parent != self._parent.hash:
            raise ProtocolViolation(
                f"0x{sender.hex()} proposes at height {self.height} a block that is not on its head"
            )
        required = None
        if proposal.round > 0:
            required = self._verify.required_block(
                self.height,
                proposal.round,
                proposal.round_changes,
                proposal.prepares,
                self.validators,
            )
        if proposal.round < self.round:
            # Not voted on any more; but the others may decide it.
            self._heard[proposal.round] = None
            self._keep(block)
            self._check_decided()
            return
        if required is None:
            if not self._is_fresh(block, sender, now_s):
                return
        elif required != block.hash:
            raise ProtocolViolation(
                f"0x{sender.hex()} proposes block 0x{block.hash.hex()} where 0x{required.hex()} "
                "is prepared"
            )
        if proposal.round > self.round:
            self._enter_round(proposal.round)
        self._accept(block)

    def _is_fresh(self, block: Block, proposer: Address, now_s: float) -> bool:
        """The rules for a block that nobody has prepared yet."""
        if block.proposer != proposer:
            raise ProtocolViolation(
                f"0x{proposer.hex()} proposes a new block of 0x{block.proposer.hex()}"
            )
        if block.timestamp < self._parent.timestamp:
            raise ProtocolViolation(f"0x{proposer.hex()} proposes a block older than its parent")
        earliest = max(int(now_s) - CLOCK_TOLERANCE_S, 0)
        latest = max(now_s + CLOCK_TOLERANCE_S, self._parent.timestamp)
        if not earliest <= block.timestamp <= latest:
            self._report(
                proposer,
                self.round,
                f"proposed a block of time {block.timestamp}, but it is {now_s:.0f} here: "
                "it came late, or one of the two clocks is wrong",
            )
            return False
        return True

    def _accept(self, block: Block) -> None:
        """Take this block as the round's proposal."""
        self._proposal = block
        self._heard[self.round] = block.payload
        self._keep(block)
        self._start_round_timer()
        if self._check_decided():
            return
        if block.hash in self._valid:
            self._prepare()
        else:
            self._do(ExecuteBlock(block))

    def _keep(self, block: Block) -> None:
        """Remember a round's first proposal, which may be decided yet."""
        self._blocks[block.hash] = block
        if len(self._blocks) > BLOCKS_PER_HEIGHT:
            del self._blocks[next(iter(self._blocks))]

    def _executed(self, event: BlockExecuted) -> None:
        block = self._proposal
        if event.valid:
            self._valid.add(event.block_hash)
        if block is None or block.hash != event.block_hash or self._decided:
            return
        if event.valid:
            self._prepare()
        else:
            self._report(block.proposer, self.round, f"proposed 0x{block.hash.hex()}, not valid")

    def _prepare(self) -> None:
        block, record = self._proposal, self._own_record()
        if block is not None and self.may_vote and record.prepare is None:
            digest = signing_digest(self._genesis, PREPARE, self.height, self.round, block.hash)
            vote = Prepare(self.height, self.round, block.hash, self._keys.sign(digest))
            self._vote(vote, msgspec.structs.replace(record, prepare=vote))
        self._check_prepared()

    def _voted(self, sender: Address, vote: Prepare | Commit) -> None:
        kind = PREPARE if isinstance(vote, Prepare) else COMMIT
        known = self._votes.get(sender, {}).get((kind, vote.round))
        if known == vote:
            return
        self._verify.require_signed_by(sender, vote)
        if known is not None:
            if known.block_hash != vote.block_hash:
                self._report(sender, vote.round, f"sent two {type(vote).__name__} votes")
            return
        self._count(sender, vote)
        self._check_prepared()
        if isinstance(vote, Commit):
            self._check_decided(vote)

    def _count(self, sender: Address, vote: Prepare | Commit | RoundChange) -> None:
        """Remember a checked vote: a bounded number of each sender, the highest rounds."""
        if isinstance(vote, RoundChange):
            self._changes[sender] = vote
            return
        kind = PREPARE if isinstance(vote, Prepare) else COMMIT
        votes = self._votes.setdefault(sender, {})
        if (kind, vote.round) not in votes:
            self._tally[kind, vote.round, vote.block_hash] += 1
        votes[kind, vote.round] = vote
        if len(votes) > VOTES_PER_SENDER:
            oldest = min(votes, key=lambda place: place[1])
            self._tally[(*oldest, votes.pop(oldest).block_hash)] -= 1
            self._tally += Counter()

    def _of_round(self, kind: int, round_number: int, block_hash: bytes) -> list[Prepare | Commit]:
        """The validators' votes of one kind for this block in this round."""
        place, found = (kind, round_number), []
        for validator in self.validators:
            vote = self._votes.get(validator, {}).get(place)
            if vote is not None and vote.block_hash == block_hash:
                found.append(vote)
        return found

    def _check_prepared(self) -> None:
        """Lock on the proposal and vote to commit it, once a quorum prepared it in this round."""
        block = self._proposal
        if block is None or block.hash not in self._valid:
            return
        record = self._own_record()
        if record.commit is not None or not self.may_vote:
            return
        if self._tally[PREPARE, self.round, block.hash] < self._two_thirds(len(self.validators)):
            return
        prepares = self._of_round(PREPARE, self.round, block.hash)
        if len(prepares) < self._two_thirds(len(self.validators)):
            return
        self._lock = Lock(
            self.round, block.payload, tuple(p for p in prepares if isinstance(p, Prepare))
        )
        digest = signing_digest(self._genesis, COMMIT, self.height, self.round, block.hash)
        vote = Commit(self.height, self.round, block.hash, self._keys.sign(digest))
        self._vote(vote, msgspec.structs.replace(record, commit=vote, lock=self._lock))

    def _check_decided(self, last: Commit | None = None) -> bool:
        """Commit a block that a quorum sealed in one round, whichever round that was."""
        if self._decided:
            return True
        needed = self._two_thirds(len(self.validators))
        rounds = {last.round} if last else {r for v in self._votes.values() for _, r in v}
        hashes = [last.block_hash] if last else list(self._blocks)
        for round_number in sorted(rounds):
            for block_hash in hashes:
                if self._tally[COMMIT, round_number, block_hash] < needed:
                    continue
                seals = self._seals(round_number, block_hash)
                if len(seals) < needed:
                    continue
                block = self._blocks.get(Digest(block_hash))
                if block is None:
                    self._ahead |= self._votes.keys() - {self.address}
                    continue
                self._decided = True
                self._cancel("round")
                certificate = Certificate(self.height, round_number, block_hash, tuple(seals))
                self._do(CommitBlock(block, certificate))
                return True
        return False

    def _seals(self, round_number: int, block_hash: bytes) -> list[bytes]:
        return [vote.signature for vote in self._of_round(COMMIT, round_number, block_hash)]

    # Rounds.

    def _round_changed(self, sender: Address, change: RoundChange, now_s: float) -> None:
        known = self._changes.get(sender)
        if known is not None and known.round >= change.round:
            if known.round == change.round and known.bare() != change.bare():
                self._verify.require_signed_by(sender, change)
                self._report(sender, change.round, "sent two round-changes")
            return
        self._verify.require_signed_by(sender, change)
        self._verify.check_round_change(change, self.validators)
        self._count(sender, change)
        self._join_higher_round()
        self._propose_after_round_change(now_s)

    def _pass_over(self, unfair: frozenset[Address]) -> None:
        """Take the turn from a proposer that leaves out what waits here, before it proposes.

        It takes f+1 validators that see the same to move the others, so a liar cannot do it, and
        one whose transactions are late alone does no harm.
        """
        proposer = self.proposer(0)
        if self.round == 0 and self.may_vote and proposer in unfair and proposer != self.address:
            self._report(proposer, 0, "leaves out transactions that wait: its turn is over")
            self._change_round(1)

    def _join_higher_round(self) -> None:
        """Follow f+1 others: at least one of them is honest."""
        higher = sorted(
            (c.round for v, c in self._changes.items() if v != self.address), reverse=True
        )
        liars = faulty(len(self.validators))
        if len(higher) > liars and higher[liars] > self.round:
            self._change_round(higher[liars])

    def _change_round(self, round_number: int) -> None:
        """Give up the rounds below, telling the others which block we are locked on."""
        if not self.may_vote:
            return
        self._enter_round(round_number)
        lock = self._lock
        prepared_plus_1, prepared_hash = 0, bytes(32)
        if lock is not None:
            prepared_plus_1, prepared_hash = lock.round + 1, lock.prepares[0].block_hash
        change = RoundChange(
            self.height,
            round_number,
            prepared_plus_1,
            prepared_hash,
            bytes(65),
            lock.block if lock else b"",
            lock.prepares if lock else (),
        )
        change = msgspec.structs.replace(
            change, signature=self._keys.sign(vote_digest(self._genesis, change))
        )
        self._vote(change, msgspec.structs.replace(self._own_record(), round_change=change))

    def _propose_after_round_change(self, now_s: float) -> None:
        """Start the timer when a quorum is in this round; propose if it is this node's turn."""
        if self.round == 0 or not self.may_vote:
            return
        needed = self._two_thirds(len(self.validators))
        if self._is_round_timer_due(sum(map(self._is_in_round, self.validators))):
            self._start_round_timer()
        here = self._changes_to(self.round)
        if len(here) < needed or self.proposer(self.round) != self.address or self._has_proposed():
            return
        highest = highest_prepared(here)
        if highest is None:
            self._build(now_s)
        else:
            self._propose(self._verify.decode(highest.block))

    def _changes_to(self, round_number: int) -> list[RoundChange]:
        return [c for c in self._changes.values() if c.round == round_number]

    def _is_round_timer_due(self, arrived: int) -> bool:
        return arrived >= self._two_thirds(len(self.validators))

    def _has_proposed(self) -> bool:
        return self._proposal is not None or self._building or bool(self._own_record().proposed)

    def _build(self, now_s: float) -> None:
        self._building = True
        self._do(BuildBlock(self.height, self.round, max(int(now_s), self._parent.timestamp)))

    def _built(self, event: BlockBuilt) -> None:
        if (event.height, event.round) != (self.height, self.round) or not self._building:
            return
        self._building = False
        if event.block is None:
            self._pending = False
            self._cancel("round")
        elif self.may_vote:
            self._valid.add(event.block.hash)
            # A round-change that came while we built may oblige us to another block.
            highest = highest_prepared(self._changes_to(self.round)) if self.round > 0 else None
            self._propose(self._verify.decode(highest.block) if highest else event.block)

    def _propose(self, block: Block) -> None:
        changes = self._changes_to(self.round) if self.round > 0 else []
        highest = highest_prepared(changes)
        digest = signing_digest(self._genesis, PROPOSAL, self.height, self.round, block.hash)
        self._own_proposal = Proposal(
            self.height,
            self.round,
            block.payload,
            self._keys.sign(digest),
            tuple(c.bare() for c in changes),
            highest.prepares if highest else (),
        )
        record = msgspec.structs.replace(self._own_record(), proposed=block.hash)
        self._vote(self._own_proposal, record)
        self._accept(block)

    # Own votes: durable first.

    def _own_record(self) -> VoteRecord:
        """The record as far as it concerns this height and round."""
        record = self._record
        if (record.height, record.round) == (self.height, self.round):
            return record
        return VoteRecord(self.height, self.round, lock=self._lock, resume=record.resume)

    def _vote(self, vote: Vote, record: VoteRecord) -> None:
        self._record = msgspec.structs.replace(record, recovered=False)
        self._unstored.append(vote)

    def _store_votes(self) -> None:
        """Votes of one event are stored together; they are sent on VoteStored."""
        if self._unstored:
            self._storing[self._token + 1] = self._unstored
            self._unstored = []
            self._store_record()

    def _store_record(self) -> None:
        self._token += 1
        self._do(StoreVote(self._token, self._record))

    def _stored(self, token: int, now_s: float) -> None:
        for vote in self._storing.pop(token, ()):
            self._do(Broadcast(vote))
            if vote.height == self.height and not isinstance(vote, Proposal):
                self._count(self.address, vote)
                self._check_prepared()
                if isinstance(vote, Commit):
                    self._check_decided(vote)
        self._propose_after_round_change(now_s)

    def _own_messages(self) -> list[Vote]:
        """This node's durable votes of the current round, to be sent again."""
        if self._storing or self._unstored or self._decided:
            return []
        record = self._own_record()
        votes = (record.round_change, self._own_proposal, record.prepare, record.commit)
        return [vote for vote in votes if vote is not None]

    # Start-up and status.

    def latest_vote_of(self, peer: Address) -> Prepare | Commit | RoundChange | None:
        """The latest vote of this validator that is held here, to remind it of it."""
        known: list[Vote] = [*self._early.get(peer, ()), *self._votes.get(peer, {}).values()]
        if peer in self._changes:
            known.append(self._changes[peer])
        votes = [v for v in known if not isinstance(v, Proposal)]
        vote = max(votes, key=lambda v: (v.height, v.round, isinstance(v, Commit)), default=None)
        return vote.bare() if isinstance(vote, RoundChange) else vote

    def _status_for(self, peer: Address) -> Status:
        voted = self._record.height
        if self._check.is_lost:
            voted = max(voted, self.height, (self._resume or 0) - 1)
        return Status(self.height - 1, voted, self.latest_vote_of(peer))

    def _answered(self, sender: Address, status: Status) -> None:
        if status.head >= self.height:
            self._do(RequestBlocks(sender, status.head))
        if self._resume is None:
            vote = status.your_vote
            ours = vote is not None and self._verify.signer(vote) == self.address
            self._check.add(sender, status, vote_is_ours=ours)
            self._settle_startup()

    def _settle_startup(self) -> None:
        """Find out whether and from when this node may vote; see `startup`."""
        if self._resume is not None:
            return
        self._resume = self._check.resume_height(self.height - 1, self.validators)
        if self._resume is not None and self._resume > self._record.resume:
            self._record = msgspec.structs.replace(
                self._record, resume=self._resume, restored=False
            )
            self._store_record()
            self._report(
                self.address,
                0,
                f"this node's votes may have been lost: it votes again from height {self._resume} "
                "on, and follows until then",
            )

    def _take_up(self) -> None:
        """Vote on what came while this node could not vote yet: nobody sends it as news again."""
        if self._proposal is not None:
            self._start_round_timer()
            if self._proposal.hash in self._valid:
                self._prepare()
        self._join_higher_round()

    def _propose_or_begin(self, now_s: float) -> None:
        if not self._decided:
            self._begin_round_0(now_s)

    def _is_in_round(self, validator: Address) -> bool:
        """Whether this validator has been heard in the current round."""
        change = self._changes.get(validator)
        return (change is not None and change.round >= self.round) or any(
            r >= self.round for _, r in self._votes.get(validator, ())
        )

    # Timers.

    def _expired(self, name: str) -> None:
        if name == "round":
            self._change_round(self.round + 1)
            return
        for peer in sorted(self._ahead):
            self._do(RequestBlocks(peer, self.height))
        self._ahead.clear()
        if self._resume is None:
            self._do(Broadcast(GetStatus()))
        for message in self._own_messages():
            self._do(Broadcast(message))

    def _start_round_timer(self) -> None:
        if "round" not in self._timers and self.may_vote:
            self._set("round", min(ROUND_S * 2 ** min(self.round, 10), LONGEST_ROUND_S))

    def _keep_resending(self) -> None:
        if "resend" not in self._timers and (
            self._resume is None or self._ahead or (self.is_busy() and not self._decided)
        ):
            self._set("resend", RESEND_S)

    def _set(self, name: str, delay_s: float) -> None:
        self._token += 1
        self._timers[name] = self._token
        self._do(SetTimer(name, self._token, delay_s))

    def _cancel(self, name: str) -> None:
        if self._timers.pop(name, None) is not None:
            self._do(CancelTimer(name))

    # Small things.

    def _two_thirds(self, validator_count: int) -> int:
        return two_thirds(validator_count)

    def _do(self, command: Command) -> None:
        self._commands.append(command)

    def _report(self, subject: Address, round_number: int, text: str) -> None:
        """Report once per subject, round and text."""
        key = (subject, self.height, round_number, text)
        if key not in self._reported and len(self._reported) < 256:
            self._reported.add(key)
            self._do(Report(subject, text))


def _size(vote: Vote) -> int:
    """Bytes of the block in a vote; what else is in it is small."""
    return len(vote.block) if isinstance(vote, Proposal | RoundChange) else 0
