"""What makes a proposal or a round-change believable: the evidence that it carries. Pure.

A block may be proposed in a round above 0 only with round-changes to that round from a quorum. If
any of them names a prepared block, the proposal must repeat the one prepared in the highest round,
and show the quorum of prepares for it: a block that somebody may have decided was prepared by a
quorum, at least one honest member of which is among any quorum of round-changes, so it survives.

After `isValidRoundChange` and `isProposalJustification` of the QBFT formal specification (EEA
QBFT v1, appendix in Dafny). One thing is simpler here: the block's hash does not contain the round,
so a block that is proposed again is the same block.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from swarm.chain.block import Block
from swarm.chain.messages import Commit, Keys, Prepare, RoundChange, vote_digest
from swarm.errors import ProtocolViolation
from swarm.protocol.state import two_thirds
from swarm.types import Address, Digest


@dataclass(frozen=True)
class Verifier:
    """Checks signatures and evidence of one consortium. `decode` reads a block's payload."""

    genesis: Digest
    keys: Keys
    decode: Callable[[bytes], Block]
    two_thirds: Callable[[int], int] = two_thirds

    def require_signed_by(self, signer: Address, vote: Prepare | Commit | RoundChange) -> None:
        """Raise ProtocolViolation unless `signer` signed this vote."""
        if self.signer(vote) != signer:
            raise ProtocolViolation(
                f"a {type(vote).__name__} for height {vote.height} is not signed by its sender "
                f"0x{signer.hex()}"
            )

    def signer(self, vote: Prepare | Commit | RoundChange) -> Address | None:
        """Who signed this vote."""
        return self.keys.recover(vote_digest(self.genesis, vote), vote.signature)

    def require_prepared(
        self,
        prepares: Sequence[Prepare],
        height: int,
        round_number: int,
        block_hash: bytes,
        validators: Sequence[Address],
    ) -> None:
        """Raise ProtocolViolation unless a quorum prepared this block in this round."""
        _require_no_more("prepares", prepares, validators)
        if any(
            (p.height, p.round, p.block_hash) != (height, round_number, block_hash)
            for p in prepares
        ):
            raise ProtocolViolation(
                f"a prepared certificate for height {height}, round {round_number} holds prepares "
                "of another height, round or block"
            )
        signers = {self.signer(p) for p in prepares}.intersection(validators)
        needed = self.two_thirds(len(validators))
        if len(signers) < needed:
            raise ProtocolViolation(
                f"a prepared certificate for height {height}, round {round_number} holds prepares "
                f"of {len(signers)} validators, but {needed} are needed"
            )

    def check_round_change(
        self, change: RoundChange, validators: Sequence[Address]
    ) -> Block | None:
        """The prepared block that a signed round-change proves, or None if it names none.

        Raises ProtocolViolation if the evidence is missing or wrong.
        """
        if change.round == 0 or change.prepared_plus_1 > change.round:
            raise ProtocolViolation(
                f"a round-change to round {change.round} names prepared round "
                f"{change.prepared_plus_1 - 1}, which is not below it"
            )
        if change.prepared_plus_1 == 0:
            return None
        block = self.decode(change.block)
        if block.hash != change.prepared_hash or block.height != change.height:
            raise ProtocolViolation(
                f"a round-change at height {change.height} carries another block than it names"
            )
        self.require_prepared(
            change.prepares,
            change.height,
            change.prepared_plus_1 - 1,
            change.prepared_hash,
            validators,
        )
        return block

    def required_block(
        self,
        height: int,
        round_number: int,
        round_changes: Sequence[RoundChange],
        prepares: Sequence[Prepare],
        validators: Sequence[Address],
    ) -> Digest | None:
        """Which block these round-changes oblige the proposer of `round_number` to propose.

        None: any. Raises ProtocolViolation if they justify no proposal at all.
        """
        if any((c.height, c.round) != (height, round_number) for c in round_changes):
            raise ProtocolViolation(
                f"a proposal for height {height}, round {round_number} is justified by "
                "round-changes to another"
            )
        _require_no_more("round-changes", round_changes, validators)
        signers = {self.signer(c) for c in round_changes}.intersection(validators)
        needed = self.two_thirds(len(validators))
        if len(signers) < needed or len(round_changes) > len(signers):
            raise ProtocolViolation(
                f"a proposal for height {height}, round {round_number} is justified by "
                f"round-changes of {len(signers)} validators, but {needed} are needed"
            )
        highest = highest_prepared(round_changes)
        if highest is None:
            return None
        self.require_prepared(
            prepares, height, highest.prepared_plus_1 - 1, highest.prepared_hash, validators
        )
        return Digest(highest.prepared_hash)


def _require_no_more(what: str, votes: Sequence[object], validators: Sequence[Address]) -> None:
    """Each signature costs a fraction of a millisecond: no more than an honest peer would send."""
    if len(votes) > len(validators):
        raise ProtocolViolation(f"{len(votes)} {what} of {len(validators)} validators")


def highest_prepared(round_changes: Sequence[RoundChange]) -> RoundChange | None:
    """The round-change that names the block prepared in the highest round, if any names one."""
    prepared = [c for c in round_changes if c.prepared_plus_1 > 0]
    return max(prepared, key=lambda c: c.prepared_plus_1, default=None)
