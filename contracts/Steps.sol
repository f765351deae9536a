// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Election} from "./Election.sol";
import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";
import {Signatures} from "./Signatures.sol";
import {
    Candidate,
    DRAWN,
    FIRST_NAMED,
    LEVEL_FULL,
    MODEL_SLOT,
    Masking,
    NO_ROLE,
    Outcome,
    PLAIN,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    SLOTS,
    roundKey,
    stored
} from "./State.sol";

/// @title What plans, plain rounds and masked rounds have in common.
/// @notice Internal functions, part of whoever calls them: the contract, and the library of masked
/// rounds. None of them is reachable from outside.
library Steps {
    using MemberSets for uint256;
    using MemberSets for uint8;

    error PlanUnknown(uint256 plan);
    error PlanEnded(PlanStatus status);
    error PlanNotParticipant(uint8 member);
    error RoundNotCurrent(uint32 round, uint32 attempt);
    error RoundNotInRoster(uint8 member);
    error RoundWrongStatus(RoundStatus status);
    error RoundNotLeader(uint8 member);
    error RoundAlreadyMerged(uint8 member);
    error RoundBadKeys(uint256 size);
    error RoundBadDigest();
    error RoundBadOmission(uint256 omitted);
    error RoundBadOutcome(uint8 slot, uint8 next);
    error RoundUnknownCandidate(bytes32 model, uint256 omitted, uint8 slot, uint8 next);
    error RoundNotSubmitter(uint8 member);
    error RoundBadLevel(uint8 given, uint8 needed);
    error RoundAlreadyAttested(uint8 member);
    error RoundNoneCounted(uint32 round, uint32 attempt);

    event PlanStopped(uint256 indexed plan);
    event PlanCompleted(uint256 indexed plan, bytes32 model);
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

    /// @dev Have a library do what is called, under the name that it has there, and be done.
    function passOn(address place, bytes4 theirs) internal {
        assembly ("memory-safe") {
            let data := mload(64)
            calldatacopy(data, 0, calldatasize())
            mstore(data, or(theirs, shr(32, shl(32, mload(data)))))
            let done := delegatecall(gas(), place, data, calldatasize(), 0, 0)
            returndatacopy(data, 0, returndatasize())
            if done { return(data, returndatasize()) }
            revert(data, returndatasize())
        }
    }

    // Finding.

    function running(uint256 plan) internal view returns (Plan storage record) {
        if (plan == 0 || plan > stored().plans.length) revert PlanUnknown(plan);
        record = stored().plans[plan - 1];
        PlanStatus status = record.status;
        if (status != PlanStatus.PROPOSED && status != PlanStatus.RUNNING) revert PlanEnded(status);
    }

    function requireParticipant(Plan storage record, uint8 member) internal view {
        if (record.participants & member.bit() == 0) revert PlanNotParticipant(member);
    }

    function current(uint256 plan, Plan storage record) internal view returns (Round storage) {
        return stored().rounds[plan][roundKey(record.round, record.attempt)];
    }

    function currentIn(uint256 plan, Plan storage record, uint32 round, uint32 attempt)
        internal
        view
        returns (Round storage)
    {
        if (attempt == 0 || record.round != round || record.attempt != attempt) {
            revert RoundNotCurrent(round, attempt);
        }
        return current(plan, record);
    }

    /// @dev A participant and its round; `rosterOnly`: one that is in the roster still.
    function inRound(uint256 plan, uint32 round, uint32 attempt, bool rosterOnly)
        internal
        view
        returns (uint8 member, Plan storage record, Round storage found)
    {
        member = Membership.operator();
        record = running(plan);
        requireParticipant(record, member);
        found = currentIn(plan, record, round, attempt);
        if (rosterOnly && presentIn(found) & member.bit() == 0) revert RoundNotInRoster(member);
    }

    function require_(Round storage round, RoundStatus status) internal view {
        if (round.status != status) revert RoundWrongStatus(round.status);
    }

    /// @dev Those of the roster who neither withdrew from the plan nor ceased to be members.
    function presentIn(Round storage round) internal view returns (uint256) {
        return round.roster & ~round.left & stored().presentMembers;
    }

    /// @dev The submitters that count now; once closed, the frozen ones that remain.
    function submitters(Round storage round) internal view returns (uint256) {
        return round.submitted & presentIn(round);
    }

    function hasEnded(uint64 until) internal view returns (bool) {
        return until != 0 && block.timestamp > until;
    }

    function saw(Plan storage record, uint8 member) internal {
        record.consents[member].seenAt = uint64(block.timestamp);
        Membership.saw(member);
    }

    // Voting.

    function checkOutcome(Round storage round, Outcome calldata outcome) internal view {
        if (outcome.slot >= SLOTS || (outcome.next != 0 && outcome.next < round.stage)) {
            revert RoundBadOutcome(outcome.slot, outcome.next);
        }
    }

    /// @dev Whoever leads now, or has led since the close, may post one candidate of its own.
    function checkLeader(Round storage round, uint8 member) internal view {
        uint256 eligible = Election.eligibleIn(round);
        if (
            eligible & member.bit() == 0
                || Election.slotAt(round, uint64(block.timestamp))
                    < Election.firstSlotOf(eligible, round.seed, member)
        ) revert RoundNotLeader(member);
        for (uint256 i = round.masking.first; i < round.candidates.length; ++i) {
            if (round.candidates[i].leader == member) revert RoundAlreadyMerged(member);
        }
    }

    /// @dev The candidate with this outcome, posted now if there is none, with its poster's vote.
    function post(
        uint256 plan,
        Plan storage record,
        Round storage round,
        uint8 member,
        Outcome calldata outcome,
        bytes calldata reasons
    ) internal returns (Candidate storage candidate) {
        bytes32 place = _placeOf(round, outcome);
        if (round.places[place] == 0) {
            Candidate storage posted = round.candidates.push();
            round.places[place] = round.candidates.length;
            posted.leader = member;
            posted.slot = outcome.slot;
            posted.next = outcome.next;
            posted.postedAt = uint64(block.timestamp);
            posted.model = outcome.model;
            posted.omitted = outcome.omitted;
            posted.reasons = reasons;
        }
        candidate = candidateOf(round, outcome);
        candidate.attesters |= member.bit();
        saw(record, member);
        emit Merged(
            plan,
            record.round,
            record.attempt,
            member,
            outcome.model,
            outcome.omitted,
            outcome.slot,
            outcome.next,
            reasons
        );
    }

    function candidateOf(Round storage round, Outcome calldata outcome)
        internal
        view
        returns (Candidate storage)
    {
        uint256 place = round.places[_placeOf(round, outcome)];
        if (place == 0) {
            revert RoundUnknownCandidate(
                outcome.model, outcome.omitted, outcome.slot, outcome.next
            );
        }
        return round.candidates[place - 1];
    }

    function checkLevel(Plan storage record, uint8 level) internal view {
        uint8 needed = record.rules.verifyLevel;
        if (level < needed || level > LEVEL_FULL) revert RoundBadLevel(level, needed);
    }

    /// @dev One member's own attestation; `voters` are those whose votes count.
    function attest(
        uint256 plan,
        Plan storage record,
        Round storage round,
        uint256 voters,
        uint8 member,
        Outcome calldata outcome,
        uint8 level,
        bytes32 meta
    ) internal returns (Candidate storage candidate) {
        if (voters & member.bit() == 0) revert RoundNotSubmitter(member);
        checkLevel(record, level);
        candidate = candidateOf(round, outcome);
        if (candidate.attesters & member.bit() != 0) revert RoundAlreadyAttested(member);
        _attest(plan, record, candidate, member, level, meta);
    }

    /// @dev Others' attestations, signed with their node keys. Those that are no attestation of one of
    /// the voters, or a second one, are skipped.
    function carry(
        uint256 plan,
        Plan storage record,
        Round storage round,
        uint256 voters,
        Outcome calldata outcome,
        uint8 level,
        bytes32[] calldata metas,
        bytes[] calldata signatures
    ) internal returns (Candidate storage candidate) {
        checkLevel(record, level);
        candidate = candidateOf(round, outcome);
        bool counted = false;
        for (uint256 i = 0; metas.length == signatures.length && i < metas.length; ++i) {
            bytes32 signed = _digest(plan, record, round, candidate, level, metas[i]);
            uint256 index = stored().byNode[Signatures.signer(signed, signatures[i])];
            if (index == 0) continue;
            uint8 member = uint8(index - 1);
            if (voters & ~candidate.attesters & member.bit() == 0) continue;
            _attest(plan, record, candidate, member, level, metas[i]);
            counted = true;
        }
        if (!counted) revert RoundNoneCounted(record.round, record.attempt);
    }

    // Ending.

    /// @dev From the beginning of slot `first`, of the leader whose merge it is: the slots of leaders
    /// that died before it say nothing about merges, and would widen the next ones with each death.
    /// Half of the newest, half of the past: one slow merge widens the slots, none for ever. A void
    /// counts too, or merges that need longer than two cycles would never fit; and never more than a
    /// slot, which doubles the next one: an outage of hours does not make slots of hours.
    function noteMergeTime(Plan storage record, Round storage round, uint256 first) internal {
        uint256 tookS = block.timestamp - round.closedAt - first * round.slotS;
        tookS = (record.mergeS + tookS + 1) / 2;
        record.mergeS = tookS < round.slotS ? uint32(tookS) : round.slotS;
    }

    /// @dev Whether two leader cycles have passed, the second with slots of twice the length.
    function isOverdue(Round storage round) internal view returns (bool) {
        return block.timestamp
            >= round.closedAt + 3 * uint256(round.slotS) * Election.eligibleIn(round).count();
    }

    /// @dev Whether a masked sum may be voted on: all have posted, and all have dealt well.
    function mayLock(Round storage round) internal view returns (bool) {
        uint256 contributors = round.masking.contributors;
        return round.masking.posted == contributors && contributors & ~round.masking.wellDealt == 0;
    }

    /// @dev Make a candidate final. `voters` are the submitters that are still there.
    function conclude(
        uint256 plan,
        Plan storage record,
        Round storage round,
        Candidate storage candidate,
        uint256 attesters,
        uint256 voters
    ) internal {
        uint32 number = record.round;
        bytes32 model = candidate.model;
        (uint8 slot, uint8 next) = (candidate.slot, candidate.next);
        round.status = RoundStatus.FINAL;
        emit RoundFinal(
            plan, number, record.attempt, model, candidate.omitted, attesters, slot, next
        );
        record.outputs[slot] = model;
        record.outputRounds[slot] = number;
        if (next != 0) record.stage = next;
        record.seed = round.seed;
        if (voters.count() >= stored().presentMembers.count().twoThirds()) stored().rotation = round.seed;
        uint256 first = Election.firstSlotOf(Election.eligibleIn(round), round.seed, candidate.leader);
        noteMergeTime(record, round, first);
        if (next == 0 || number >= record.rules.rounds) {
            _end(record, PlanStatus.COMPLETED);
            emit PlanCompleted(plan, record.outputs[MODEL_SLOT]);
        } else {
            openIfWilling(plan, record);
        }
    }

    /// @dev End an attempt, and open the next if enough are willing.
    function voidAttempt(uint256 plan, Plan storage record, Round storage round) internal {
        round.status = RoundStatus.VOID;
        emit RoundVoided(plan, record.round, record.attempt);
        openIfWilling(plan, record);
    }

    /// @dev End a plan for good, and the attempt that is under way.
    function stop(uint256 plan, Plan storage record, Round storage round) internal {
        _end(record, PlanStatus.STOPPED);
        emit PlanStopped(plan);
        if (!_isUnderWay(round)) return;
        round.status = RoundStatus.VOID;
        emit RoundVoided(plan, record.round, record.attempt);
    }

    // Opening.

    /// @dev Open the next attempt or round, if enough are willing; whether it was opened. Every opening
    /// needs enough willing trainers, and somebody to hold the role if there is one; after a spoiled
    /// attempt, all whose sum it was. The first waits until nobody invited is undecided, or the
    /// invitation has ended.
    function openIfWilling(uint256 plan, Plan storage record) internal returns (bool) {
        PlanStatus status = record.status;
        if (status != PlanStatus.PROPOSED && status != PlanStatus.RUNNING) return false;
        if (_isUnderWay(current(plan, record))) return false;
        (uint256 ended, uint64 soonest) = _ended(record);
        uint256 willing = record.participants & stored().presentMembers & ~ended;
        uint256 trainers = record.trainers & willing;
        if (trainers.count() < record.rules.minPeers) return false;
        uint256 spoiled = record.rules.colluders == PLAIN ? 0 : record.spoiled;
        if (spoiled & ~trainers != 0) return false;
        if (spoiled != 0) trainers = spoiled;
        uint16 holder = record.rules.holder;
        uint256 holders = 0;
        if (holder != NO_ROLE) {
            holders = record.holders & willing;
            if (holder != DRAWN) holders &= 1 << (holder - FIRST_NAMED);
            if (holders == 0) return false;
        }
        if (
            status == PlanStatus.PROPOSED && block.timestamp < record.until
                && record.invited & stored().presentMembers & ~(record.participants | record.declined) != 0
        ) return false;
        // A consent that has ended is withdrawn now.
        if (ended != 0) record.participants &= ~ended;
        if (soonest != record.soonest) record.soonest = soonest;
        _open(plan, record, trainers, holders);
        return true;
    }

    /// @dev Start the next attempt or round with these, once those whose consents have ended are out.
    function _open(uint256 plan, Plan storage record, uint256 trainers, uint256 holders) private {
        uint32 round = record.round;
        uint32 attempt = record.attempt;
        // Without a round before, this reads a round that there is not: all zero.
        Round storage previous = current(plan, record);
        uint48 creditFrom = previous.openedAt;
        bool isMasked = record.rules.colluders != PLAIN;
        uint8 stage = record.stage;
        if (attempt == 0) {
            (round, attempt) = (1, 1);
        } else if (previous.status == RoundStatus.VOID) {
            (attempt, stage) = (attempt + 1, previous.stage);
            if (isMasked && record.spoiled == 0) {
                uint256 punctual = trainers & ~previous.masking.behind;
                if (punctual.count() >= record.rules.minPeers) trainers = punctual;
            }
        } else {
            (round, attempt) = (round + 1, 1);
        }
        uint16 holder = Election.holderOf(holders, record.seed, round, attempt);
        uint256 roster = record.participants & stored().presentMembers;
        bytes32 base = record.outputs[MODEL_SLOT];
        record.round = round;
        record.attempt = attempt;
        record.status = PlanStatus.RUNNING;
        Round storage next = current(plan, record);
        next.status = RoundStatus.OPEN;
        next.openedAt = uint48(block.timestamp);
        next.creditFrom = creditFrom;
        next.stage = stage;
        next.holder = holder;
        next.base = base;
        next.roster = roster;
        next.trainers = trainers;
        if (isMasked) {
            next.masking.since = uint64(block.number);
            // A key to which shares of a masked attempt were sealed counts never again.
            Masking storage before = previous.masking;
            next.masking.keyed = before.renewed | (before.contributors == 0 ? before.keyed : 0);
        }
        emit RoundOpened(plan, round, attempt, stage, base, roster, trainers, holder);
    }

    /// @dev The participants whose consents have ended, and when the next of the others ends. Nobody's
    /// is looked at before the first can have ended, or an opening would cost more with each of them.
    function _ended(Plan storage record) private view returns (uint256 ended, uint64 soonest) {
        soonest = record.soonest;
        if (!hasEnded(soonest)) return (0, soonest);
        soonest = 0;
        for (uint256 left = record.participants; left != 0; left = left.dropLowest()) {
            uint8 member = left.lowest();
            uint64 until = record.consents[member].until;
            if (hasEnded(until)) ended |= member.bit();
            else if (until != 0 && (soonest == 0 || until < soonest)) soonest = until;
        }
    }

    function _end(Plan storage record, PlanStatus status) private {
        record.status = status;
        --stored().openPlans[record.proposer];
    }

    function _isUnderWay(Round storage round) private view returns (bool) {
        RoundStatus status = round.status;
        return status != RoundStatus.NONE && status != RoundStatus.FINAL && status != RoundStatus.VOID;
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
        saw(record, member);
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
        Round storage round,
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
                round.epoch,
                round.status,
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

    /// @dev Among the candidates that are voted on now: an earlier epoch's count no more.
    function _placeOf(Round storage round, Outcome calldata outcome) private view returns (bytes32) {
        return keccak256(
            abi.encode(
                outcome.model, outcome.omitted, outcome.slot, outcome.next, round.masking.first
            )
        );
    }
}
