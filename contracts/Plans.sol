// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MaskedRounds} from "./MaskedRounds.sol";
import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";
import {Names} from "./Names.sol";
import {Steps} from "./Steps.sol";
import {
    Budget,
    Consent,
    FIRST_NAMED,
    HOLD,
    LEVEL_FULL,
    LEVEL_HELD,
    MAX_MEMBERS,
    MAX_NAME_BYTES,
    MODEL_SLOT,
    PLAIN,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    Rules,
    TEST,
    TRAIN,
    Terms,
    stored
} from "./State.sol";

/// @title What is trained, by whom, under which rules.
/// @notice A plan is code, a program of stages and rules, known by digests. Nobody takes part without
/// having named the code in a consent of its own, and nothing about a plan can be changed afterwards.
abstract contract Plans {
    using MemberSets for uint256;
    using MemberSets for uint8;

    /// @dev Of one proposer. Every node keeps the code of every plan, so nobody may propose without end.
    uint256 internal constant MAX_OPEN_PLANS = 16;
    uint32 internal constant MAX_ROUNDS = 100_000;
    uint24 internal constant MAX_SECONDS = 30 days;
    uint256 internal constant DEFAULT_INVITATION_S = 7 days;
    uint256 internal constant LONGEST_INVITATION_S = 90 days;
    /// @dev The sum over all members stays far below what a merge can weigh exactly.
    uint64 internal constant MOST_SAMPLES = 2 ** 45 - 1;

    error PlanBadName(uint256 size);
    error PlanBadDigest();
    error PlanBadRules();
    error PlanBadInvitation(uint256 invited, uint64 until);
    error PlanTooMany(uint8 member);
    error PlanDigestMismatch(bytes32 expected, bytes32 given);
    error PlanAlreadyConsented(uint8 member);
    error PlanAlreadyDeclined(uint8 member);
    error PlanNotInvited(uint8 member);
    error PlanNotProposer(uint8 member);
    error PlanBadDuties(uint8 duties);
    error RoundBadSamples(uint64 given, uint64 most);
    error Expired(uint64 time, uint64 now);

    event PlanProposed(
        uint256 indexed plan,
        uint8 indexed proposer,
        bytes32 code,
        bytes32 program,
        bytes32 base,
        uint256 invited,
        uint64 until,
        string name
    );
    event PlanConsented(uint256 indexed plan, uint8 indexed member, bytes32 code, Terms terms);
    event PlanDeclined(uint256 indexed plan, uint8 indexed member);
    event PlanWithdrawn(uint256 indexed plan, uint8 indexed member);
    event PlanStopVoted(uint256 indexed plan, uint8 indexed member);

    /// @notice Put a plan up for consent. Proposing is not consenting.
    /// @param code Names the code that members read before they consent.
    /// @param program Names the stages and folds; opaque to this contract.
    /// @param base Names the blob with the model that training starts from.
    /// @param invited Whose answers the first round waits for, and who may take part at all; 0: all
    /// members of this moment, and later ones may join.
    /// @param until For how long; 0: seven days.
    /// @return plan The plan's number, counted from 1.
    function proposePlan(
        string calldata name,
        bytes32 code,
        bytes32 program,
        bytes32 base,
        Rules calldata rules,
        uint256 invited,
        uint64 until
    ) external returns (uint256 plan) {
        uint8 member = Membership.either();
        uint256 size = bytes(name).length;
        if (size == 0 || size > MAX_NAME_BYTES) revert PlanBadName(size);
        Names.check(bytes(name));
        if (code == 0 || program == 0 || base == 0) revert PlanBadDigest();
        if (!_sane(rules)) revert PlanBadRules();
        uint256 present = stored().presentMembers;
        uint256 endsAt = until == 0 ? block.timestamp + DEFAULT_INVITATION_S : until;
        if (
            invited & ~present != 0 || (invited != 0 && invited.count() < rules.minPeers)
                || endsAt < block.timestamp || endsAt > block.timestamp + LONGEST_INVITATION_S
        ) revert PlanBadInvitation(invited, until);
        bool invitedOnly = invited != 0;
        if (!invitedOnly) invited = present;
        if (stored().openPlans[member] >= MAX_OPEN_PLANS) revert PlanTooMany(member);
        Budget storage budget = Membership.budgetOf(member);
        if (budget.plans >= Membership.MAX_A_DAY) Membership.refuseBudget(member, budget);
        ++budget.plans;
        ++stored().openPlans[member];
        Plan storage record = stored().plans.push();
        plan = stored().plans.length;
        record.proposer = member;
        record.status = PlanStatus.PROPOSED;
        record.stage = 1;
        record.until = uint64(endsAt);
        record.rules = rules;
        record.invited = invited;
        record.invitedOnly = invitedOnly;
        record.code = code;
        record.program = program;
        record.base = base;
        record.outputs[MODEL_SLOT] = base;
        record.name = name;
        Membership.saw(member);
        emit PlanProposed(plan, member, code, program, base, invited, uint64(endsAt), name);
    }

    /// @notice Join a plan. Where the last undecided consents, the first round opens. A consent that
    /// has ended may be given anew, which withdraws the old one.
    /// @dev WARNING: name only a digest whose code has been read: the trainer will run it on the
    /// site's own data. `maxSamples` bounds every later claim, and so the site's weight in a merge.
    function consent(uint256 plan, bytes32 code, Terms calldata terms) external {
        uint8 member = Membership.either();
        Plan storage record = Steps.running(plan);
        if (code != record.code) revert PlanDigestMismatch(record.code, code);
        uint256 bit = member.bit();
        if (record.invitedOnly && record.invited & bit == 0) revert PlanNotInvited(member);
        bool renews = record.participants & bit != 0;
        if (renews && !Steps.hasEnded(record.consents[member].until)) revert PlanAlreadyConsented(member);
        _checkTerms(record, terms);
        if (renews) {
            if (record.attempt != 0) _leaveRound(plan, record, member);
        } else {
            record.participants |= bit;
        }
        if (record.declined & bit != 0) record.declined &= ~bit;
        if (record.consented & bit == 0) record.consented |= bit;
        record.trainers = _with(record.trainers, bit, terms.duties & TRAIN != 0);
        record.holders = _with(record.holders, bit, terms.duties & HOLD != 0);
        if (terms.until != 0 && (record.soonest == 0 || terms.until < record.soonest)) {
            record.soonest = terms.until;
        }
        Consent storage own = record.consents[member];
        record.consents[member] = Consent(
            terms.duties,
            uint48(terms.maxSamples),
            terms.until,
            uint64(block.timestamp),
            record.round,
            record.attempt,
            terms.commitment,
            terms.permit,
            own.receivingKey,
            own.nextReceivingKey,
            terms.meta
        );
        if (record.rules.colluders != PLAIN) {
            MaskedRounds.takeReceivingKey(own, Steps.current(plan, record), member, terms.receivingKey);
        }
        Membership.saw(member);
        emit PlanConsented(plan, member, code, terms);
        _openIfDecided(plan, record);
    }

    /// @notice Take no part, so that nobody waits for one's answer. A later consent takes it back.
    function decline(uint256 plan) external {
        uint8 member = Membership.either();
        Plan storage record = Steps.running(plan);
        uint256 bit = member.bit();
        if (record.invited & bit == 0) revert PlanNotInvited(member);
        if (record.participants & bit != 0) revert PlanAlreadyConsented(member);
        if (record.declined & bit != 0) revert PlanAlreadyDeclined(member);
        record.declined |= bit;
        Membership.saw(member);
        emit PlanDeclined(plan, member);
        _openIfDecided(plan, record);
    }

    /// @notice Leave a plan, at once and out of the running round's count as well. Nobody waits for
    /// another answer.
    /// @dev An update that a posted merge already contains stays in it.
    function withdraw(uint256 plan) external {
        uint8 member = Membership.either();
        Plan storage record = Steps.running(plan);
        Steps.requireParticipant(record, member);
        record.participants &= ~member.bit();
        record.stopVotes &= ~member.bit();
        uint256 invited = record.invited & member.bit();
        if (invited != 0) record.declined |= invited;
        emit PlanWithdrawn(plan, member);
        if (record.attempt != 0) _leaveRound(plan, record, member);
    }

    /// @notice End a plan: its proposer alone, or more than half of those who train in it; once a
    /// round is LOCKED, only they.
    /// @dev Before the first round only the proposer may: the first to consent would be a majority of
    /// one. WARNING: a stopped plan does not run again; its last final model stays on record.
    function stop(uint256 plan) external {
        uint8 member = Membership.either();
        Plan storage record = Steps.running(plan);
        Round storage current = Steps.current(plan, record);
        if (member != record.proposer || current.status == RoundStatus.LOCKED) {
            Steps.requireParticipant(record, member);
            if (record.attempt == 0) revert PlanNotProposer(member);
            record.stopVotes |= member.bit();
            emit PlanStopVoted(plan, member);
            uint256 voters = record.participants & stored().presentMembers & current.trainers;
            if ((record.stopVotes & voters).count() < voters.count().majority()) return;
        }
        Steps.stop(plan, record, current);
    }

    function planCount() external view returns (uint256) {
        return stored().plans.length;
    }

    // Steps.

    /// @dev Take a withdrawn member out of the current round.
    function _leaveRound(uint256 plan, Plan storage record, uint8 member) internal virtual;

    function _openIfDecided(uint256 plan, Plan storage record) private {
        if (record.status == PlanStatus.PROPOSED) Steps.openIfWilling(plan, record);
    }

    function _with(uint256 members, uint256 bit, bool isIn) private pure returns (uint256) {
        return isIn ? members | bit : members & ~bit;
    }

    function _checkTerms(Plan storage record, Terms calldata terms) private view {
        uint8 duties = terms.duties;
        if (duties == 0 || duties > TRAIN | HOLD | TEST) revert PlanBadDuties(duties);
        (uint64 least, uint64 most) = (0, 0);
        if (duties & TRAIN != 0) {
            (least, most) = (record.rules.minRows, MOST_SAMPLES);
            if (least == 0) least = 1;
        }
        if (terms.maxSamples < least || terms.maxSamples > most) {
            revert RoundBadSamples(terms.maxSamples, most);
        }
        if (Steps.hasEnded(terms.until)) revert Expired(terms.until, uint64(block.timestamp));
    }

    function _sane(Rules calldata rules) private view returns (bool) {
        uint16 holder = rules.holder;
        if (holder >= FIRST_NAMED) {
            uint256 named = holder - FIRST_NAMED;
            if (named >= MAX_MEMBERS || stored().presentMembers >> named & 1 == 0) return false;
        }
        return rules.rounds >= 1 && rules.rounds <= MAX_ROUNDS && rules.minPeers >= 1
            && rules.minPeers <= MAX_MEMBERS && rules.verifyLevel >= LEVEL_HELD
            && rules.verifyLevel <= LEVEL_FULL && rules.slotS >= 1 && rules.slotS <= rules.maxRoundS
            && rules.maxRoundS <= MAX_SECONDS && rules.livenessS >= 1
            && rules.livenessS <= MAX_SECONDS && rules.windowS <= rules.maxRoundS
            && rules.graceS <= rules.maxRoundS
            && (rules.colluders == PLAIN || rules.minPeers >= uint256(rules.colluders) + 2);
    }
}
