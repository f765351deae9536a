// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Election} from "./Election.sol";
import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";
import {Plans} from "./Plans.sol";
import {Signatures} from "./Signatures.sol";
import {
    Candidate,
    Consent,
    LEVEL_FULL,
    MODEL_SLOT,
    NO_HOLDER,
    Outcome,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    SLOTS,
    Submission,
    roundKey,
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

    error RoundNotCurrent(uint32 round, uint32 attempt);
    error RoundNotInRoster(uint8 member);
    error RoundWrongStatus(RoundStatus status);
    error RoundNotOpenable(uint256 plan);
    error RoundBadProgress(uint16 permille);
    error RoundNotTrainer(uint8 member);
    error RoundAlreadySubmitted(uint8 member);
    error RoundBadKeys(uint256 size);
    error RoundBadDigest();
    error RoundBadReveal(uint8 member);
    error RoundNotClosable(uint32 round, uint32 attempt);
    error RoundNotLeader(uint8 member);
    error RoundAlreadyMerged(uint8 member);
    error RoundBadOutcome(uint8 slot, uint8 next);
    error RoundBadOmission(uint256 omitted);
    error RoundTooFewContributors(uint16 needed);
    error RoundUnknownCandidate(bytes32 model, uint256 omitted, uint8 slot, uint8 next);
    error RoundNotSubmitter(uint8 member);
    error RoundBadLevel(uint8 given, uint8 needed);
    error RoundAlreadyAttested(uint8 member);
    error RoundNoneCounted(uint32 round, uint32 attempt);
    error RoundNoMajority(uint32 round, uint32 attempt);
    error RoundNotVoidable(uint32 round, uint32 attempt);

    event RoundOpened(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 stage,
        bytes32 base,
        uint256 roster,
        uint256 trainers,
        uint16 holder
    );
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
    event Merged(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed leader,
        bytes32 model,
        uint256 omitted,
        uint8 slot,
        uint8 next,
        bytes reasons
    );
    event Attested(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        bytes32 model,
        uint256 omitted,
        uint8 slot,
        uint8 next,
        uint8 level,
        bytes32 meta
    );
    event RoundFinal(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        bytes32 model,
        uint256 omitted,
        uint256 attesters,
        uint8 slot,
        uint8 next
    );
    event RoundVoided(uint256 indexed plan, uint32 round, uint32 attempt);

    /// @dev EIP-712: what a node key signs to have its attestation carried by somebody else.
    bytes32 private constant ATTESTATION_TYPE = keccak256(
        "Attestation(uint256 plan,uint32 round,uint32 attempt,uint8 epoch,uint8 status,bytes32 model,uint256 omitted,uint8 slot,uint8 next,uint8 level,bytes32 meta)"
    );

    /// @notice Open the next attempt where none runs and enough are willing. Any participant may.
    function open(uint256 plan) external {
        uint8 member = Membership.operator();
        Plan storage record = _running(plan);
        _requireParticipant(record, member);
        if (!_openIfWilling(plan, record)) revert RoundNotOpenable(plan);
    }

    /// @notice Say that one still trains, or holds the role, to be waited for.
    function checkIn(uint256 plan, uint32 round, uint32 attempt, uint16 permille) external {
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.OPEN);
        if (permille > 1000) revert RoundBadProgress(permille);
        _saw(record, member);
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
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.OPEN);
        uint256 bit = member.bit();
        if (current.trainers & bit == 0) revert RoundNotTrainer(member);
        if (current.submitted & bit != 0) revert RoundAlreadySubmitted(member);
        Consent storage own = record.consents[member];
        if (samples == 0 || samples > own.maxSamples) revert RoundBadSamples(samples, own.maxSamples);
        if (update == 0) revert RoundBadDigest();
        if (keys.length != 0) revert RoundBadKeys(keys.length);
        if (reveal != 0) {
            if (Election.commitment(reveal) != own.commitment) revert RoundBadReveal(member);
            current.revealed |= bit;
            current.revealsXor ^= Election.term(stored().members[member].account, reveal);
        }
        current.submissions[member] = Submission(update, meta, samples, false);
        current.submitted |= bit;
        own.commitment = commitment;
        own.committedRound = round;
        own.committedAttempt = attempt;
        _saw(record, member);
        emit Submitted(plan, round, attempt, member, update, samples, reveal, commitment, meta, keys);
        if (current.minPeersAt == 0 && _submitters(current).count() >= record.rules.minPeers) {
            current.minPeersAt = uint48(block.timestamp);
        }
        _closeIfComplete(plan, record, current);
    }

    /// @notice Close submission once nobody live is missing, or patience has ended.
    /// @dev Freezes submitters, seed and the order of leaders; later submissions are refused.
    function close(uint256 plan, uint32 round, uint32 attempt) external {
        (, Plan storage record, Round storage current) = _inRound(plan, round, attempt, false);
        _require(current, RoundStatus.OPEN);
        if (!_mayClose(record, current)) revert RoundNotClosable(round, attempt);
        _close(plan, record, current);
    }

    /// @notice Post the merge of all frozen updates but the omitted ones. Posting attests.
    /// @dev Whoever leads now or has led since the close may, once. WARNING: others can fetch what was
    /// omitted and check the reason; an omission without cause costs their attestations.
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
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.CLOSED);
        _checkLeader(current, member);
        if (current.submissions[member].merged) revert RoundAlreadyMerged(member);
        current.submissions[member].merged = true;
        if (outcome.model == 0) revert RoundBadDigest();
        if (outcome.slot >= SLOTS || (outcome.next != 0 && outcome.next < current.stage)) {
            revert RoundBadOutcome(outcome.slot, outcome.next);
        }
        _checkOmissions(current, outcome.omitted, reasons);
        if ((current.submitted & ~outcome.omitted).count() < record.rules.minPeers) {
            revert RoundTooFewContributors(record.rules.minPeers);
        }
        bytes32 digest = _digestOf(outcome);
        if (current.places[digest] == 0) {
            Candidate storage posted = current.candidates.push();
            current.places[digest] = current.candidates.length;
            posted.leader = member;
            posted.slot = outcome.slot;
            posted.next = outcome.next;
            posted.postedAt = uint64(block.timestamp);
            posted.model = outcome.model;
            posted.omitted = outcome.omitted;
            posted.reasons = reasons;
        }
        Candidate storage candidate = _candidate(current, outcome);
        candidate.attesters |= member.bit();
        _saw(record, member);
        emit Merged(
            plan,
            round,
            attempt,
            member,
            outcome.model,
            outcome.omitted,
            outcome.slot,
            outcome.next,
            reasons
        );
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
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.CLOSED);
        if (current.submitted & member.bit() == 0) revert RoundNotSubmitter(member);
        _checkLevel(record, level);
        Candidate storage candidate = _candidate(current, outcome);
        if (candidate.attesters & member.bit() != 0) revert RoundAlreadyAttested(member);
        _attest(plan, record, candidate, member, level, meta);
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
        (, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.CLOSED);
        _checkLevel(record, level);
        Candidate storage candidate = _candidate(current, outcome);
        bool counted = false;
        for (uint256 i = 0; metas.length == signatures.length && i < metas.length; ++i) {
            bytes32 signed = _digest(plan, record, current, candidate, level, metas[i]);
            uint256 index = stored().byNode[Signatures.signer(signed, signatures[i])];
            if (index == 0) continue;
            uint8 member = uint8(index - 1);
            if (_submitters(current) & ~candidate.attesters & member.bit() == 0) continue;
            _attest(plan, record, candidate, member, level, metas[i]);
            counted = true;
        }
        if (!counted) revert RoundNoneCounted(round, attempt);
        _finaliseIfMajority(plan, record, current, candidate);
    }

    /// @notice Count again after somebody withdrew or was removed. Any participant may.
    function finalise(uint256 plan, uint32 round, uint32 attempt, Outcome calldata outcome) external {
        (, Plan storage record, Round storage current) = _inRound(plan, round, attempt, false);
        _require(current, RoundStatus.CLOSED);
        Candidate storage candidate = _candidate(current, outcome);
        if (!_finaliseIfMajority(plan, record, current, candidate)) revert RoundNoMajority(round, attempt);
    }

    /// @notice Give an attempt up that cannot become final: same round and base, next attempt.
    /// @dev WARNING: its updates and candidates are lost to the plan; everybody trains again.
    function void(uint256 plan, uint32 round, uint32 attempt) external {
        (, Plan storage record, Round storage current) = _inRound(plan, round, attempt, false);
        RoundStatus status = current.status;
        if (status != RoundStatus.OPEN && status != RoundStatus.CLOSED) revert RoundWrongStatus(status);
        if (!_mayVoid(record, current)) revert RoundNotVoidable(round, attempt);
        if (status == RoundStatus.CLOSED) _noteMergeTime(record, current, 0);
        current.status = RoundStatus.VOID;
        emit RoundVoided(plan, round, attempt);
        _openIfWilling(plan, record);
    }

    // Steps. None of them is reachable from outside.

    function _open(uint256 plan, Plan storage record, uint256 trainers, uint256 holders)
        internal
        override
    {
        uint32 round = record.round;
        uint32 attempt = record.attempt;
        // Without a round before, this reads a round that there is not: all zero.
        Round storage previous = _current(plan, record);
        uint48 creditFrom = previous.openedAt;
        uint8 stage = record.stage;
        if (attempt == 0) (round, attempt) = (1, 1);
        else if (previous.status == RoundStatus.VOID) (attempt, stage) = (attempt + 1, previous.stage);
        else (round, attempt) = (round + 1, 1);
        uint16 holder = Election.holderOf(holders, record.seed, round, attempt);
        uint256 roster = record.participants & stored().presentMembers;
        bytes32 base = record.outputs[MODEL_SLOT];
        record.round = round;
        record.attempt = attempt;
        record.status = PlanStatus.RUNNING;
        Round storage next = _current(plan, record);
        next.status = RoundStatus.OPEN;
        next.openedAt = uint48(block.timestamp);
        next.creditFrom = creditFrom;
        next.stage = stage;
        next.holder = holder;
        next.base = base;
        next.roster = roster;
        next.trainers = trainers;
        emit RoundOpened(plan, round, attempt, stage, base, roster, trainers, holder);
    }

    function _leaveRound(uint256 plan, Plan storage record, uint8 member) internal override {
        Round storage current = _current(plan, record);
        uint256 bit = current.roster & member.bit();
        if (bit != 0) current.left |= bit;
        _closeIfComplete(plan, record, current);
    }

    function _abandonRound(uint256 plan, Plan storage record) internal override {
        if (!_underWay(plan, record)) return;
        _current(plan, record).status = RoundStatus.VOID;
        emit RoundVoided(plan, record.round, record.attempt);
    }

    function _closeIfComplete(uint256 plan, Plan storage record, Round storage current) private {
        if (current.status != RoundStatus.OPEN) return;
        if (_submitters(current).count() < record.rules.minPeers) return;
        if (!_awaited(record, current)) _close(plan, record, current);
    }

    function _close(uint256 plan, Plan storage record, Round storage current) private {
        uint256 frozen = _submitters(current);
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
    }

    /// @dev From the beginning of slot `first`, of the leader whose merge it is: the slots of leaders
    /// that died before it say nothing about merges, and would widen the next ones with each death.
    /// Half of the newest, half of the past: one slow merge widens the slots, none for ever. A void
    /// counts too, or merges that need longer than two cycles would never fit; and never more than a
    /// slot, which doubles the next one: an outage of hours does not make slots of hours.
    function _noteMergeTime(Plan storage record, Round storage current, uint256 first) private {
        uint256 tookS = block.timestamp - current.closedAt - first * current.slotS;
        tookS = (record.mergeS + tookS + 1) / 2;
        record.mergeS = tookS < current.slotS ? uint32(tookS) : current.slotS;
    }

    function _finaliseIfMajority(
        uint256 plan,
        Plan storage record,
        Round storage current,
        Candidate storage candidate
    ) private returns (bool) {
        uint256 voters = _submitters(current);
        if ((candidate.attesters & voters).count() < voters.count().majority()) return false;
        _conclude(plan, record, current, candidate, voters);
        return true;
    }

    /// @dev Make a candidate with a majority of the voters final.
    function _conclude(
        uint256 plan,
        Plan storage record,
        Round storage current,
        Candidate storage candidate,
        uint256 voters
    ) private {
        uint32 round = record.round;
        bytes32 model = candidate.model;
        (uint8 slot, uint8 next) = (candidate.slot, candidate.next);
        current.status = RoundStatus.FINAL;
        emit RoundFinal(
            plan,
            round,
            record.attempt,
            model,
            candidate.omitted,
            candidate.attesters & voters,
            slot,
            next
        );
        record.outputs[slot] = model;
        record.outputRounds[slot] = round;
        if (next != 0) record.stage = next;
        record.seed = current.seed;
        if (voters.count() >= stored().presentMembers.count().twoThirds()) stored().rotation = current.seed;
        uint256 first =
            Election.firstSlotOf(Election.eligibleIn(current), current.seed, candidate.leader);
        _noteMergeTime(record, current, first);
        if (next == 0 || round >= record.rules.rounds) {
            _end(record, PlanStatus.COMPLETED);
            emit PlanCompleted(plan, record.outputs[MODEL_SLOT]);
        } else {
            _openIfWilling(plan, record);
        }
    }

    function _attest(
        uint256 plan,
        Plan storage record,
        Candidate storage candidate,
        uint8 member,
        uint8 level,
        bytes32 meta
    ) private {
        candidate.attesters |= member.bit();
        _saw(record, member);
        emit Attested(
            plan,
            record.round,
            record.attempt,
            member,
            candidate.model,
            candidate.omitted,
            candidate.slot,
            candidate.next,
            level,
            meta
        );
    }

    /// @dev What a node key signs to attest the candidate.
    function _digest(
        uint256 plan,
        Plan storage record,
        Round storage current,
        Candidate storage candidate,
        uint8 level,
        bytes32 meta
    ) private view returns (bytes32) {
        bytes32 content = keccak256(
            abi.encode(
                ATTESTATION_TYPE,
                plan,
                record.round,
                record.attempt,
                current.epoch,
                current.status,
                candidate.model,
                candidate.omitted,
                candidate.slot,
                candidate.next,
                level,
                meta
            )
        );
        return Signatures.digest(content);
    }

    function _checkLevel(Plan storage record, uint8 level) private view {
        uint8 needed = record.rules.verifyLevel;
        if (level < needed || level > LEVEL_FULL) revert RoundBadLevel(level, needed);
    }

    function _saw(Plan storage record, uint8 member) private {
        record.consents[member].seenAt = uint64(block.timestamp);
        Membership.saw(member);
    }

    function _inRound(uint256 plan, uint32 round, uint32 attempt, bool rosterOnly)
        private
        view
        returns (uint8 member, Plan storage record, Round storage current)
    {
        member = Membership.operator();
        record = _running(plan);
        _requireParticipant(record, member);
        if (attempt == 0 || record.round != round || record.attempt != attempt) {
            revert RoundNotCurrent(round, attempt);
        }
        current = _current(plan, record);
        if (rosterOnly && _presentIn(current) & member.bit() == 0) revert RoundNotInRoster(member);
    }

    function _require(Round storage current, RoundStatus status) private view {
        if (current.status != status) revert RoundWrongStatus(current.status);
    }

    /// @dev Those of the roster who neither withdrew from the plan nor ceased to be members.
    function _presentIn(Round storage current) private view returns (uint256) {
        return current.roster & ~current.left & stored().presentMembers;
    }

    /// @dev The submitters that count now; once closed, the frozen ones that remain.
    function _submitters(Round storage current) private view returns (uint256) {
        return current.submitted & _presentIn(current);
    }

    /// @dev Whether a live trainer has not submitted yet.
    function _awaited(Plan storage record, Round storage current) private view returns (bool) {
        uint256 missing = _presentIn(current) & current.trainers & ~current.submitted;
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
        if (_submitters(current).count() < rules.minPeers) return false;
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
        if (_presentIn(current) & holder.bit() == 0) return true;
        uint256 since = record.consents[holder].seenAt;
        if (since < current.openedAt) since = current.openedAt;
        return block.timestamp > since + record.rules.livenessS;
    }

    function _trainers(uint256 plan, Plan storage record) internal view override returns (uint256) {
        return _current(plan, record).trainers;
    }

    function _mayVoid(Plan storage record, Round storage current) private view returns (bool) {
        bool tooFew = _submitters(current).count() < record.rules.minPeers;
        if (current.status == RoundStatus.OPEN) {
            uint256 present = _presentIn(current);
            if ((present & current.trainers).count() < record.rules.minPeers) return true;
            if (_isHolderSilent(record, current)) return true;
            return tooFew && block.timestamp >= current.openedAt + uint256(record.rules.maxRoundS);
        }
        if (tooFew && current.candidates.length == 0) return true;
        // Two leader cycles, the second with slots of twice the length.
        return block.timestamp
            >= current.closedAt + 3 * uint256(current.slotS) * Election.eligibleIn(current).count();
    }

    function _checkLeader(Round storage current, uint8 member) private view {
        uint256 eligible = Election.eligibleIn(current);
        if (
            eligible & member.bit() == 0
                || Election.slotAt(current, uint64(block.timestamp))
                    < Election.firstSlotOf(eligible, current.seed, member)
        ) revert RoundNotLeader(member);
    }

    function _checkOmissions(Round storage current, uint256 omitted, bytes calldata reasons) private view {
        uint256 submitted = current.submitted;
        uint256 gone = submitted & ~_submitters(current);
        bool bad = omitted & ~submitted != 0 || gone & ~omitted != 0 || reasons.length != omitted.count();
        for (uint256 i = 0; !bad && i < reasons.length; ++i) {
            bad = uint8(reasons[i]) < FIRST_OMISSION || uint8(reasons[i]) > LAST_OMISSION;
        }
        if (bad) revert RoundBadOmission(omitted);
    }

    function _digestOf(Outcome calldata outcome) private pure returns (bytes32) {
        return keccak256(abi.encode(outcome.model, outcome.omitted, outcome.slot, outcome.next));
    }

    function _candidate(Round storage current, Outcome calldata outcome)
        private
        view
        returns (Candidate storage)
    {
        uint256 place = current.places[_digestOf(outcome)];
        if (place == 0) {
            revert RoundUnknownCandidate(
                outcome.model, outcome.omitted, outcome.slot, outcome.next
            );
        }
        return current.candidates[place - 1];
    }

    function _underWay(uint256 plan, Plan storage record) internal view override returns (bool) {
        RoundStatus status = _current(plan, record).status;
        return status != RoundStatus.NONE && status != RoundStatus.FINAL && status != RoundStatus.VOID;
    }

    function _isLocked(uint256 plan, Plan storage record) internal view override returns (bool) {
        return _current(plan, record).status == RoundStatus.LOCKED;
    }

    function _current(uint256 plan, Plan storage record) private view returns (Round storage) {
        return stored().rounds[plan][roundKey(record.round, record.attempt)];
    }
}
