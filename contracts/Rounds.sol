// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Election} from "./Election.sol";
import {MaskedRounds} from "./MaskedRounds.sol";
import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";
import {Plans} from "./Plans.sol";
import {Steps} from "./Steps.sol";
import {
    Candidate,
    Consent,
    NO_HOLDER,
    Outcome,
    PLAIN,
    Plan,
    Round,
    RoundStatus,
    Rules,
    Submission,
    stored
} from "./State.sol";

/// @title One cycle of a plan: open, submit, close, merge, attest, final.
/// @notice Everything is keyed (plan, round, attempt). Only digests are on the chain; who checks what
/// before it attests is the members' own affair, and more than half of the frozen submitters must
/// have attested the same merge before it is final.
abstract contract Rounds is Plans {
    using MemberSets for uint256;
    using MemberSets for uint8;

    /// @dev Why an update was left out: unreachable, wrong digest, wrong schema, not finite, withdrawn,
    /// not its own.
    uint8 internal constant FIRST_OMISSION = 1;
    uint8 internal constant LAST_OMISSION = 6;

    error RoundNotOpenable(uint256 plan);
    error RoundBadProgress(uint16 permille);
    error RoundNotTrainer(uint8 member);
    error RoundAlreadySubmitted(uint8 member);
    error RoundBadReveal(uint8 member);
    error RoundNotClosable(uint32 round, uint32 attempt);
    error RoundTooFewContributors(uint16 needed);
    error RoundNoMajority(uint32 round, uint32 attempt);
    error RoundNotVoidable(uint32 round, uint32 attempt);

    event CheckedIn(uint256 indexed plan, uint32 round, uint32 attempt, uint8 indexed member, uint16 permille);
    event Submitted(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        bytes32 update,
        uint64 samples,
        bytes32 reveal,
        bytes32 commitment,
        bytes32 meta,
        bytes keys
    );
    event RoundClosed(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        bytes32 seed,
        uint256 frozen,
        uint256 eligible,
        uint32 slotS
    );

    /// @notice Open the next attempt where none runs and enough are willing. Any participant may.
    function open(uint256 plan) external {
        uint8 member = Membership.operator();
        Plan storage record = Steps.running(plan);
        Steps.requireParticipant(record, member);
        if (!Steps.openIfWilling(plan, record)) revert RoundNotOpenable(plan);
    }

    /// @notice Say that one still trains, or holds the role, to be waited for.
    function checkIn(uint256 plan, uint32 round, uint32 attempt, uint16 permille) external {
        (uint8 member, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, true);
        Steps.require_(current, RoundStatus.OPEN);
        if (permille > 1000) revert RoundBadProgress(permille);
        Steps.saw(record, member);
        emit CheckedIn(plan, round, attempt, member, permille);
    }

    /// @notice Submit one update, once per attempt. The submission that completes the live trainers
    /// closes the round.
    /// @dev WARNING: `samples` weighs the update in the merge and cannot be corrected afterwards.
    /// @param update Names the blob with the parameters.
    /// @param reveal Opens the sender's previous commitment; 0: not revealed, hence not eligible.
    /// @param commitment keccak256 of the secret for the sender's next submission.
    /// @param meta Names a small record of the training; opaque to this contract.
    /// @param keys Of masked rounds; empty in plain ones.
    function submit(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        bytes32 update,
        uint64 samples,
        bytes32 reveal,
        bytes32 commitment,
        bytes32 meta,
        bytes calldata keys
    ) external {
        (uint8 member, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, true);
        Steps.require_(current, RoundStatus.OPEN);
        uint256 bit = member.bit();
        if (current.trainers & bit == 0) revert RoundNotTrainer(member);
        if (current.submitted & bit != 0) revert RoundAlreadySubmitted(member);
        Consent storage own = record.consents[member];
        if (samples == 0 || samples > own.maxSamples) revert RoundBadSamples(samples, own.maxSamples);
        bool isMasked = record.rules.colluders != PLAIN;
        // Training is repeatable: a digest of an update would let everybody test guesses of it.
        if ((update == 0) != isMasked) revert Steps.RoundBadDigest();
        if (keys.length != 0 && !isMasked) revert Steps.RoundBadKeys(keys.length);
        if (reveal != 0) {
            if (Election.commitment(reveal) != own.commitment) revert RoundBadReveal(member);
            current.revealed |= bit;
            current.revealsXor ^= Election.term(stored().members[member].account, reveal);
        }
        if (isMasked) MaskedRounds.takeKeys(own, current, member, keys);
        current.submissions[member] = Submission(update, meta, samples);
        current.submitted |= bit;
        own.commitment = commitment;
        own.committedRound = round;
        own.committedAttempt = attempt;
        Steps.saw(record, member);
        emit Submitted(plan, round, attempt, member, update, samples, reveal, commitment, meta, keys);
        if (current.minPeersAt == 0 && Steps.submitters(current).count() >= record.rules.minPeers) {
            current.minPeersAt = uint48(block.timestamp);
        }
        _closeIfComplete(plan, record, current);
    }

    /// @notice Close submission once nobody live is missing, or patience has ended.
    /// @dev Freezes submitters, seed and the order of leaders; later submissions are refused.
    function close(uint256 plan, uint32 round, uint32 attempt) external {
        (, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, false);
        Steps.require_(current, RoundStatus.OPEN);
        if (!_mayClose(record, current)) revert RoundNotClosable(round, attempt);
        _close(plan, record, current);
    }

    /// @notice Post the merge of all frozen updates but the omitted ones. Posting attests.
    /// @dev Whoever leads now or has led since the close may, and may vote for candidates of others
    /// so, but posts one of its own. WARNING: others can fetch what was omitted and check the reason;
    /// an omission without cause costs their attestations.
    /// @param outcome Its `omitted` are the frozen submitters left out; those gone since the close must
    /// be among them.
    /// @param reasons One byte for each of them, in member order.
    function merge(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        Outcome calldata outcome,
        bytes calldata reasons
    ) external {
        if (_isMasked(plan)) Steps.passOn(address(MaskedRounds), MaskedRounds.merge.selector);
        (uint8 member, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, true);
        Steps.require_(current, RoundStatus.CLOSED);
        Steps.checkLeader(current, member);
        if (outcome.model == 0) revert Steps.RoundBadDigest();
        Steps.checkOutcome(current, outcome);
        _checkOmissions(current, outcome.omitted, reasons);
        if ((current.submitted & ~outcome.omitted).count() < record.rules.minPeers) {
            revert RoundTooFewContributors(record.rules.minPeers);
        }
        Candidate storage candidate = Steps.post(plan, record, current, member, outcome, reasons);
        _finaliseIfMajority(plan, record, current, candidate);
    }

    /// @notice State that one holds this merge and has checked it to `level`.
    /// @dev WARNING: an attestation cannot be taken back. Several candidates may be attested; the
    /// first with a majority is final.
    function attest(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        Outcome calldata outcome,
        uint8 level,
        bytes32 meta
    ) external {
        if (_isMasked(plan)) Steps.passOn(address(MaskedRounds), MaskedRounds.attest.selector);
        (uint8 member, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, true);
        Steps.require_(current, RoundStatus.CLOSED);
        Candidate storage candidate = Steps.attest(
            plan, record, current, current.submitted, member, outcome, level, meta
        );
        _finaliseIfMajority(plan, record, current, candidate);
    }

    /// @notice Carry others' attestations, signed with their node keys (EIP-712). Those that are no
    /// attestation of a frozen submitter, or a second one, are skipped.
    /// @param metas One for each signature.
    /// @param signatures Of 65 bytes: r, s, v.
    function attestMany(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        Outcome calldata outcome,
        uint8 level,
        bytes32[] calldata metas,
        bytes[] calldata signatures
    ) external {
        if (_isMasked(plan)) Steps.passOn(address(MaskedRounds), MaskedRounds.attestMany.selector);
        (, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, true);
        Steps.require_(current, RoundStatus.CLOSED);
        uint256 voters = Steps.submitters(current);
        Candidate storage candidate =
            Steps.carry(plan, record, current, voters, outcome, level, metas, signatures);
        _finaliseIfMajority(plan, record, current, candidate);
    }

    /// @notice Count again after somebody withdrew or was removed. Any participant may.
    function finalise(uint256 plan, uint32 round, uint32 attempt, Outcome calldata outcome) external {
        (, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, false);
        Steps.require_(current, RoundStatus.CLOSED);
        Candidate storage candidate = Steps.candidateOf(current, outcome);
        if (!_finaliseIfMajority(plan, record, current, candidate)) revert RoundNoMajority(round, attempt);
    }

    /// @notice Give an attempt up that cannot become final: same round and base, next attempt.
    /// @dev WARNING: its updates and candidates are lost to the plan; everybody trains again.
    function void(uint256 plan, uint32 round, uint32 attempt) external {
        (, Plan storage record, Round storage current) = Steps.inRound(plan, round, attempt, false);
        RoundStatus status = current.status;
        if (
            status != RoundStatus.OPEN && status != RoundStatus.CLOSED
                && status != RoundStatus.MASKING
        ) revert Steps.RoundWrongStatus(status);
        if (!_mayVoid(record, current)) revert RoundNotVoidable(round, attempt);
        if (status != RoundStatus.OPEN) Steps.noteMergeTime(record, current, 0);
        Steps.voidAttempt(plan, record, current);
    }

    // Steps. None of them is reachable from outside.

    function _leaveRound(uint256 plan, Plan storage record, uint8 member) internal override {
        Round storage current = Steps.current(plan, record);
        uint256 bit = current.roster & member.bit();
        if (bit != 0) current.left |= bit;
        _closeIfComplete(plan, record, current);
    }

    function _closeIfComplete(uint256 plan, Plan storage record, Round storage current) private {
        if (current.status != RoundStatus.OPEN) return;
        if (Steps.submitters(current).count() < record.rules.minPeers) return;
        if (!_awaited(record, current)) _close(plan, record, current);
    }

    function _close(uint256 plan, Plan storage record, Round storage current) private {
        uint256 frozen = Steps.submitters(current);
        bytes32 seed = Election.seed(record.seed, current.revealsXor);
        Rules storage rules = record.rules;
        // At least the plan's slot, twice what merges lately took, and never more than a round.
        uint256 slotS = 2 * uint256(record.mergeS) + 1;
        if (slotS < rules.slotS) slotS = rules.slotS;
        if (slotS > rules.maxRoundS) slotS = rules.maxRoundS;
        current.status = RoundStatus.CLOSED;
        current.submitted = frozen;
        current.closedAt = uint48(block.timestamp);
        current.seed = seed;
        current.slotS = uint24(slotS);
        emit RoundClosed(
            plan, record.round, record.attempt, seed, frozen, Election.eligibleIn(current), uint32(slotS)
        );
        if (rules.colluders != PLAIN) MaskedRounds.begin(current);
    }

    function _finaliseIfMajority(
        uint256 plan,
        Plan storage record,
        Round storage current,
        Candidate storage candidate
    ) private returns (bool) {
        uint256 voters = Steps.submitters(current);
        uint256 attesters = candidate.attesters & voters;
        if (attesters.count() < voters.count().majority()) return false;
        Steps.conclude(plan, record, current, candidate, attesters, voters);
        return true;
    }

    function _isMasked(uint256 plan) private view returns (bool) {
        Plan[] storage plans = stored().plans;
        return plan != 0 && plan <= plans.length && plans[plan - 1].rules.colluders != PLAIN;
    }

    /// @dev Whether a live trainer has not submitted yet.
    function _awaited(Plan storage record, Round storage current) private view returns (bool) {
        uint256 missing = Steps.presentIn(current) & current.trainers & ~current.submitted;
        for (; missing != 0; missing = missing.dropLowest()) {
            if (_isLive(record, current, missing.lowest())) return true;
        }
        return false;
    }

    /// @dev Whether a member has sent something within the liveness interval; one that was seen in the
    /// attempt before has it from the opening on.
    function _isLive(Plan storage record, Round storage current, uint8 member)
        private
        view
        returns (bool)
    {
        uint256 seenAt = record.consents[member].seenAt;
        if (seenAt >= current.creditFrom && seenAt < current.openedAt) seenAt = current.openedAt;
        return block.timestamp <= seenAt + record.rules.livenessS;
    }

    function _mayClose(Plan storage record, Round storage current) private view returns (bool) {
        Rules memory rules = record.rules;
        if (Steps.submitters(current).count() < rules.minPeers) return false;
        if (block.timestamp < current.openedAt + uint256(rules.windowS)) return false;
        if (block.timestamp < current.minPeersAt + uint256(rules.graceS)) return false;
        return !_awaited(record, current)
            || block.timestamp >= current.openedAt + uint256(rules.maxRoundS);
    }

    /// @dev Whether the role's holder has gone, or has sent nothing for the liveness interval since it
    /// became the holder: nobody is held to have been silent before.
    function _isHolderSilent(Plan storage record, Round storage current) private view returns (bool) {
        if (current.holder == NO_HOLDER) return false;
        uint8 holder = uint8(current.holder);
        if (Steps.presentIn(current) & holder.bit() == 0) return true;
        uint256 since = record.consents[holder].seenAt;
        if (since < current.openedAt) since = current.openedAt;
        return block.timestamp > since + record.rules.livenessS;
    }

    function _mayVoid(Plan storage record, Round storage current) private view returns (bool) {
        bool tooFew = Steps.submitters(current).count() < record.rules.minPeers;
        if (current.status == RoundStatus.OPEN) {
            uint256 present = Steps.presentIn(current);
            if ((present & current.trainers).count() < record.rules.minPeers) return true;
            if (_isHolderSilent(record, current)) return true;
            return tooFew && block.timestamp >= current.openedAt + uint256(record.rules.maxRoundS);
        }
        if (current.status == RoundStatus.MASKING) {
            return Steps.mayLock(current) && Steps.isOverdue(current);
        }
        if (tooFew && current.candidates.length == 0) return true;
        return Steps.isOverdue(current);
    }

    function _checkOmissions(Round storage current, uint256 omitted, bytes calldata reasons) private view {
        uint256 submitted = current.submitted;
        uint256 gone = submitted & ~Steps.submitters(current);
        bool bad = omitted & ~submitted != 0 || gone & ~omitted != 0 || reasons.length != omitted.count();
        for (uint256 i = 0; !bad && i < reasons.length; ++i) {
            bad = uint8(reasons[i]) < FIRST_OMISSION || uint8(reasons[i]) > LAST_OMISSION;
        }
        if (bad) revert Steps.RoundBadOmission(omitted);
    }
}
