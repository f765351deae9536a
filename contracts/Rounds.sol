// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Election} from "./Election.sol";
import {MemberSets} from "./MemberSets.sol";
import {Plans} from "./Plans.sol";

/// @title One cycle of a plan: open, submit, close, merge, attest, final.
/// @notice Everything is keyed (plan, round, attempt). Only digests are on the chain; who checks what
/// before it attests is the members' own affair, and more than half of the frozen submitters must
/// have attested the same merge before it is final.
abstract contract Rounds is Plans {
    using MemberSets for uint256;
    using MemberSets for uint8;

    enum RoundStatus {
        NONE,
        OPEN,
        CLOSED,
        FINAL,
        VOID
    }

    /// @dev Why an update was left out: unreachable, wrong digest, wrong schema, not finite, withdrawn.
    uint8 internal constant FIRST_OMISSION = 1;
    uint8 internal constant LAST_OMISSION = 5;

    struct Submission {
        bytes32 update;
        bytes32 meta;
        uint64 samples;
    }

    struct Candidate {
        uint8 leader;
        uint64 postedAt;
        bytes32 model;
        uint256 omitted;
        uint256 attesters;
        bytes reasons;
    }

    struct Round {
        // One word of storage, hence the narrow times.
        RoundStatus status;
        uint48 openedAt;
        /// Participants seen since then (when the attempt before was opened) count as live at the
        /// opening, however long ago that was; those silent throughout it are not waited for.
        uint48 creditFrom;
        /// When the minPeers-th submission came; 0 before.
        uint48 minPeersAt;
        uint48 closedAt;
        uint32 slotS;
        bytes32 base;
        uint256 roster;
        /// Roster members that withdrew while the round ran.
        uint256 left;
        /// Who submitted; from the close on, the frozen submitters.
        uint256 submitted;
        uint256 revealed;
        uint256 revealsXor;
        bytes32 seed;
        Candidate[] candidates;
        mapping(uint8 member => Submission) submissions;
    }

    mapping(uint256 plan => mapping(uint256 key => Round)) private _rounds;

    error RoundNotCurrent(uint32 round, uint32 attempt);
    error RoundNotInRoster(uint8 member);
    error RoundWrongStatus(RoundStatus status);
    error RoundNotOpenable(uint256 plan);
    error RoundBadProgress(uint16 permille);
    error RoundAlreadySubmitted(uint8 member);
    error RoundBadDigest();
    error RoundBadReveal(uint8 member);
    error RoundNotClosable(uint32 round, uint32 attempt);
    error RoundNotLeader(uint8 member);
    error RoundAlreadyMerged(uint8 member);
    error RoundBadOmission(uint256 omitted);
    error RoundTooFewContributors(uint16 needed);
    error RoundUnknownCandidate(bytes32 model, uint256 omitted);
    error RoundNotSubmitter(uint8 member);
    error RoundBadLevel(uint8 given, uint8 needed);
    error RoundAlreadyAttested(uint8 member);
    error RoundNoMajority(uint32 round, uint32 attempt);
    error RoundNotVoidable(uint32 round, uint32 attempt);

    event RoundOpened(uint256 indexed plan, uint32 round, uint32 attempt, bytes32 base, uint256 roster);
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
        bytes32 meta
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
        bytes reasons
    );
    event Attested(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        bytes32 model,
        uint256 omitted,
        uint8 level,
        bytes32 meta
    );
    event RoundFinal(
        uint256 indexed plan, uint32 round, uint32 attempt, bytes32 model, uint256 omitted, uint256 attesters
    );
    event RoundVoided(uint256 indexed plan, uint32 round, uint32 attempt);
    event Posted(uint256 indexed plan, uint32 round, uint32 phase, uint8 indexed member, bytes32 digest);

    /// @notice Open the next attempt where none runs and enough are willing. Any participant may.
    function open(uint256 plan) external {
        uint8 member = _operator();
        Plan storage record = _running(plan);
        _requireParticipant(record, member);
        if (!_mayOpen(plan, record)) revert RoundNotOpenable(plan);
        _open(plan, record);
    }

    /// @notice Say that one still trains, to be waited for.
    function checkIn(uint256 plan, uint32 round, uint32 attempt, uint16 permille) external {
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.OPEN);
        if (permille > 1000) revert RoundBadProgress(permille);
        _saw(record, member);
        emit CheckedIn(plan, round, attempt, member, permille);
    }

    /// @notice Submit one update, once per attempt. The submission that completes the live roster
    /// closes the round.
    /// @dev WARNING: `samples` weighs the update in the merge and cannot be corrected afterwards.
    /// @param update Names the blob with the parameters.
    /// @param reveal Opens the sender's previous commitment; 0: not revealed, hence not eligible.
    /// @param commitment keccak256 of the secret for the sender's next submission.
    /// @param meta Names a small record of the training; opaque to this contract.
    function submit(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        bytes32 update,
        uint64 samples,
        bytes32 reveal,
        bytes32 commitment,
        bytes32 meta
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.OPEN);
        uint256 bit = member.bit();
        if (current.submitted & bit != 0) revert RoundAlreadySubmitted(member);
        Consent storage own = record.consents[member];
        if (samples == 0 || samples > own.maxSamples) revert RoundBadSamples(samples, own.maxSamples);
        if (update == 0) revert RoundBadDigest();
        if (reveal != 0) {
            if (Election.commitment(reveal) != own.commitment) revert RoundBadReveal(member);
            current.revealed |= bit;
            current.revealsXor ^= Election.term(_members[member].account, reveal);
        }
        current.submissions[member] = Submission(update, meta, samples);
        current.submitted |= bit;
        own.commitment = commitment;
        own.committedRound = round;
        own.committedAttempt = attempt;
        _saw(record, member);
        emit Submitted(plan, round, attempt, member, update, samples, reveal, commitment, meta);
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
    /// @param omitted The frozen submitters left out; those gone since the close must be among them.
    /// @param reasons One byte for each of them, in member order.
    function merge(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        bytes32 model,
        uint256 omitted,
        bytes calldata reasons
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.CLOSED);
        _checkLeader(current, member);
        (bool known, uint256 index) = _find(current, model, omitted, member);
        if (model == 0) revert RoundBadDigest();
        _checkOmissions(current, omitted, reasons);
        if ((current.submitted & ~omitted).count() < record.rules.minPeers) {
            revert RoundTooFewContributors(record.rules.minPeers);
        }
        if (!known) {
            current.candidates.push(
                Candidate(member, uint64(block.timestamp), model, omitted, 0, reasons)
            );
        }
        Candidate storage candidate = current.candidates[index];
        candidate.attesters |= member.bit();
        _saw(record, member);
        emit Merged(plan, round, attempt, member, model, omitted, reasons);
        _finaliseIfMajority(plan, record, current, candidate);
    }

    /// @notice State that one holds this merge and has checked it to `level`.
    /// @dev WARNING: an attestation cannot be taken back. Several candidates may be attested; the
    /// first with a majority is final.
    function attest(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        bytes32 model,
        uint256 omitted,
        uint8 level,
        bytes32 meta
    ) external {
        (uint8 member, Plan storage record, Round storage current) = _inRound(plan, round, attempt, true);
        _require(current, RoundStatus.CLOSED);
        if (current.submitted & member.bit() == 0) revert RoundNotSubmitter(member);
        uint8 needed = record.rules.verifyLevel;
        if (level < needed || level > LEVEL_FULL) revert RoundBadLevel(level, needed);
        Candidate storage candidate = _candidate(current, model, omitted);
        if (candidate.attesters & member.bit() != 0) revert RoundAlreadyAttested(member);
        candidate.attesters |= member.bit();
        _saw(record, member);
        emit Attested(plan, round, attempt, member, model, omitted, level, meta);
        _finaliseIfMajority(plan, record, current, candidate);
    }

    /// @notice Count again after somebody withdrew or was removed. Any participant may.
    function finalise(uint256 plan, uint32 round, uint32 attempt, bytes32 model, uint256 omitted) external {
        (, Plan storage record, Round storage current) = _inRound(plan, round, attempt, false);
        _require(current, RoundStatus.CLOSED);
        Candidate storage candidate = _candidate(current, model, omitted);
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
        if (_mayOpen(plan, record)) _open(plan, record);
    }

    /// @notice Put a digest on record for a workflow with further phases (keys, shares).
    function post(uint256 plan, uint32 round, uint32 phase, bytes32 digest) external {
        uint8 member = _operator();
        Plan storage record = _running(plan);
        _requireParticipant(record, member);
        if (digest == 0) revert RoundBadDigest();
        _saw(record, member);
        emit Posted(plan, round, phase, member, digest);
    }

    /// @notice The leader at chain time `time`. It takes the time because the head may be old: a dead
    /// leader is replaced without any transaction.
    function leaderAt(uint256 plan, uint32 round, uint32 attempt, uint64 time) external view returns (uint8) {
        Round storage record = _rounds[plan][_key(round, attempt)];
        if (record.slotS == 0) revert RoundWrongStatus(record.status);
        return Election.leaderOf(_eligible(record), record.seed, _slotAt(record, time));
    }

    // Steps. None of them is reachable from outside.

    function _open(uint256 plan, Plan storage record) internal override {
        uint32 round = record.round;
        uint32 attempt = record.attempt;
        // Without a round before, this reads a round that there is not: all zero.
        Round storage previous = _current(plan, record);
        uint48 creditFrom = previous.openedAt;
        if (attempt == 0) {
            round = record.rules.statisticsRound ? 0 : 1;
            attempt = 1;
        } else if (previous.status == RoundStatus.VOID) {
            ++attempt;
        } else {
            ++round;
            attempt = 1;
        }
        record.round = round;
        record.attempt = attempt;
        record.status = PlanStatus.RUNNING;
        Round storage next = _current(plan, record);
        next.status = RoundStatus.OPEN;
        next.openedAt = uint48(block.timestamp);
        next.creditFrom = creditFrom;
        next.base = record.model;
        next.roster = record.participants & presentMembers;
        emit RoundOpened(plan, round, attempt, next.base, next.roster);
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
        current.slotS = uint32(slotS);
        emit RoundClosed(
            plan, record.round, record.attempt, seed, frozen, _eligible(current), uint32(slotS)
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
        uint32 round = record.round;
        bytes32 model = candidate.model;
        current.status = RoundStatus.FINAL;
        emit RoundFinal(
            plan, round, record.attempt, model, candidate.omitted, candidate.attesters & voters
        );
        if (round == 0) {
            record.statistics = model;
        } else {
            record.model = model;
            record.modelRound = round;
        }
        record.seed = current.seed;
        if (voters.count() >= presentMembers.count().twoThirds()) _rotation = current.seed;
        uint256 first = Election.firstSlotOf(_eligible(current), current.seed, candidate.leader);
        _noteMergeTime(record, current, first);
        if (round >= record.rules.rounds) {
            _end(record, PlanStatus.COMPLETED);
            emit PlanCompleted(plan, record.model);
        } else if (_mayOpen(plan, record)) {
            _open(plan, record);
        }
        return true;
    }

    function _saw(Plan storage record, uint8 member) private {
        record.consents[member].seenAt = uint64(block.timestamp);
        _sawMember(member);
    }

    function _inRound(uint256 plan, uint32 round, uint32 attempt, bool rosterOnly)
        private
        view
        returns (uint8 member, Plan storage record, Round storage current)
    {
        member = _operator();
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
        return current.roster & ~current.left & presentMembers;
    }

    /// @dev The submitters that count now; once closed, the frozen ones that remain.
    function _submitters(Round storage current) private view returns (uint256) {
        return current.submitted & _presentIn(current);
    }

    /// @dev Those who revealed; everybody if nobody did.
    function _eligible(Round storage current) internal view returns (uint256) {
        uint256 submitted = current.submitted;
        uint256 both = submitted & current.revealed;
        return both != 0 ? both : submitted;
    }

    /// @dev Whether a live roster member has not submitted yet.
    function _awaited(Plan storage record, Round storage current) private view returns (bool) {
        uint256 livenessS = record.rules.livenessS;
        (uint256 openedAt, uint256 creditFrom) = (current.openedAt, current.creditFrom);
        uint256 missing = _presentIn(current) & ~current.submitted;
        for (; missing != 0; missing = missing.dropLowest()) {
            uint256 seenAt = record.consents[missing.lowest()].seenAt;
            if (seenAt >= creditFrom && seenAt < openedAt) seenAt = openedAt;
            if (block.timestamp <= seenAt + livenessS) return true;
        }
        return false;
    }

    function _mayClose(Plan storage record, Round storage current) private view returns (bool) {
        Rules memory rules = record.rules;
        if (_submitters(current).count() < rules.minPeers) return false;
        if (block.timestamp < current.openedAt + uint256(rules.windowS)) return false;
        if (block.timestamp < current.minPeersAt + uint256(rules.graceS)) return false;
        return !_awaited(record, current)
            || block.timestamp >= current.openedAt + uint256(rules.maxRoundS);
    }

    function _mayVoid(Plan storage record, Round storage current) private view returns (bool) {
        bool tooFew = _submitters(current).count() < record.rules.minPeers;
        if (current.status == RoundStatus.OPEN) {
            if (_presentIn(current).count() < record.rules.minPeers) return true;
            return tooFew && block.timestamp >= current.openedAt + uint256(record.rules.maxRoundS);
        }
        if (tooFew && current.candidates.length == 0) return true;
        // Two leader cycles, the second with slots of twice the length.
        return block.timestamp
            >= current.closedAt + 3 * uint256(current.slotS) * _eligible(current).count();
    }

    function _checkLeader(Round storage current, uint8 member) private view {
        uint256 eligible = _eligible(current);
        if (
            eligible & member.bit() == 0
                || _slotAt(current, uint64(block.timestamp))
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

    /// @dev Where the candidate stands, or would; refuses a leader that has posted one already.
    function _find(Round storage current, bytes32 model, uint256 omitted, uint8 leader)
        private
        view
        returns (bool known, uint256 index)
    {
        uint256 total = current.candidates.length;
        index = total;
        for (uint256 i = 0; i < total; ++i) {
            Candidate storage candidate = current.candidates[i];
            if (candidate.leader == leader) revert RoundAlreadyMerged(leader);
            if (candidate.model == model && candidate.omitted == omitted) (known, index) = (true, i);
        }
    }

    function _candidate(Round storage current, bytes32 model, uint256 omitted)
        private
        view
        returns (Candidate storage)
    {
        uint256 total = current.candidates.length;
        for (uint256 i = 0; i < total; ++i) {
            Candidate storage candidate = current.candidates[i];
            if (candidate.model == model && candidate.omitted == omitted) return candidate;
        }
        revert RoundUnknownCandidate(model, omitted);
    }

    function _slotAt(Round storage current, uint64 time) private view returns (uint256) {
        uint256 elapsedS = time > current.closedAt ? time - current.closedAt : 0;
        return Election.slotsElapsed(elapsedS, current.slotS, _eligible(current).count());
    }

    function _underWay(uint256 plan, Plan storage record) internal view override returns (bool) {
        RoundStatus status = _current(plan, record).status;
        return status == RoundStatus.OPEN || status == RoundStatus.CLOSED;
    }

    function _roundAt(uint256 plan, uint32 round, uint32 attempt) internal view returns (Round storage) {
        return _rounds[plan][_key(round, attempt)];
    }

    function _current(uint256 plan, Plan storage record) private view returns (Round storage) {
        return _rounds[plan][_key(record.round, record.attempt)];
    }

    function _key(uint32 round, uint32 attempt) private pure returns (uint256) {
        return (uint256(round) << 32) | attempt;
    }
}
