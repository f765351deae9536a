// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";

/// @title What is trained, by whom, under which rules.
/// @notice A plan is code and rules, known by a digest. Nobody takes part without having named that
/// digest in a consent of its own, and nothing about a plan can be changed afterwards.
abstract contract Plans is Membership {
    using MemberSets for uint256;
    using MemberSets for uint8;

    enum PlanStatus {
        NONE,
        PROPOSED,
        RUNNING,
        COMPLETED,
        STOPPED
    }

    /// @dev What a member has checked when it attests: that it holds the model (1, the least), the
    /// chunks assigned to it (2), or every chunk (3, the most).
    uint8 internal constant LEVEL_HELD = 1;
    uint8 internal constant LEVEL_FULL = 3;

    /// @dev Of one proposer. Every node keeps the code of every plan, so nobody may propose without end.
    uint256 internal constant MAX_OPEN_PLANS = 16;
    uint32 internal constant MAX_ROUNDS = 100_000;
    uint32 internal constant MAX_SECONDS = 30 days;

    /// @dev One word of storage. Counts and whole seconds.
    struct Rules {
        /// Number of the last round; training rounds are 1..rounds.
        uint32 rounds;
        /// Whether a round 0 comes first, in which statistics are merged by sum.
        bool statisticsRound;
        /// Submissions without which nothing is merged.
        uint16 minPeers;
        /// What a member must have checked to attest.
        uint8 verifyLevel;
        /// How long after the minPeers-th consent the first round still waits for other members.
        uint32 consentS;
        /// Nobody but the completing submit may close before this much of the round has run.
        uint32 windowS;
        /// How long after the minPeers-th submission the others are still let in.
        uint32 graceS;
        /// A participant counts as live for this long after its last transaction.
        uint32 livenessS;
        /// A live participant is waited for until then, and no longer.
        uint32 maxRoundS;
        /// The shortest time that a leader is given.
        uint32 slotS;
    }

    struct Consent {
        uint64 maxSamples;
        uint64 seenAt;
        /// Where `commitment` was made (0, 0: before the first round).
        uint32 committedRound;
        uint32 committedAttempt;
        bytes32 commitment;
    }

    struct Plan {
        uint8 proposer;
        PlanStatus status;
        uint32 workflowVersion;
        uint32 modelRound;
        /// Recent seconds from close to the round's end, smoothed: what leader slots are cut from.
        uint32 mergeS;
        /// The current round and attempt; no round yet if the attempt is 0.
        uint32 round;
        uint32 attempt;
        uint64 minConsentsAt;
        Rules rules;
        uint256 participants;
        /// Everybody who ever consented.
        uint256 consented;
        uint256 stopVotes;
        bytes32 digest;
        bytes32 model0;
        bytes32 workflow;
        bytes32 merge;
        bytes32 statistics;
        /// The newest final model; `model0` before the first.
        bytes32 model;
        bytes32 seed;
        string name;
        mapping(uint8 member => Consent) consents;
    }

    /// @dev Plan number n is at index n - 1.
    Plan[] internal _plans;
    /// @dev Proposed and neither completed nor stopped.
    mapping(uint8 proposer => uint256) private _openPlans;

    error PlanBadName(uint256 size);
    error PlanBadDigest();
    error PlanBadRules();
    error PlanTooMany(uint8 member);
    error PlanUnknown(uint256 plan);
    error PlanEnded(PlanStatus status);
    error PlanDigestMismatch(bytes32 expected, bytes32 given);
    error PlanAlreadyConsented(uint8 member);
    error PlanNotParticipant(uint8 member);
    error RoundBadSamples(uint64 given, uint64 most);

    event PlanProposed(uint256 indexed plan, uint8 indexed proposer, bytes32 digest, bytes32 model0, string name);
    event PlanConsented(
        uint256 indexed plan, uint8 indexed member, bytes32 digest, uint64 maxSamples, bytes32 commitment
    );
    event PlanWithdrawn(uint256 indexed plan, uint8 indexed member);
    event PlanStopVoted(uint256 indexed plan, uint8 indexed member);
    event PlanStopped(uint256 indexed plan);
    event PlanCompleted(uint256 indexed plan, bytes32 model);

    /// @notice Put a plan up for consent. Proposing is not consenting.
    /// @param digest Names the code and the rules that members read before they consent.
    /// @param model0 Names the blob with the initial parameters.
    /// @param workflow What phases a round has, with `workflowVersion`; opaque to this contract.
    /// @param merge How updates become one model; opaque to this contract.
    /// @return plan The plan's number, counted from 1.
    function proposePlan(
        string calldata name,
        bytes32 digest,
        bytes32 model0,
        bytes32 workflow,
        uint32 workflowVersion,
        bytes32 merge,
        Rules calldata rules
    ) external returns (uint256 plan) {
        uint8 member = _either();
        uint256 size = bytes(name).length;
        if (size == 0 || size > MAX_NAME_BYTES) revert PlanBadName(size);
        if (digest == 0 || model0 == 0) revert PlanBadDigest();
        if (!_sane(rules)) revert PlanBadRules();
        if (_openPlans[member] >= MAX_OPEN_PLANS) revert PlanTooMany(member);
        ++_openPlans[member];
        Plan storage record = _plans.push();
        plan = _plans.length;
        record.proposer = member;
        record.status = PlanStatus.PROPOSED;
        record.workflowVersion = workflowVersion;
        record.rules = rules;
        record.digest = digest;
        record.model0 = model0;
        record.workflow = workflow;
        record.merge = merge;
        record.model = model0;
        record.name = name;
        _sawMember(member);
        emit PlanProposed(plan, member, digest, model0, name);
    }

    /// @notice Join a plan. The consent that makes every member a participant opens the first round.
    /// @dev WARNING: name only a digest whose code has been read: the trainer will run it on the
    /// site's own data. `maxSamples` bounds every later claim, and so the site's weight in a merge.
    /// @param commitment keccak256 of the secret that the first submission will reveal.
    function consent(uint256 plan, bytes32 digest, uint64 maxSamples, bytes32 commitment) external {
        uint8 member = _either();
        Plan storage record = _running(plan);
        if (digest != record.digest) revert PlanDigestMismatch(record.digest, digest);
        uint256 bit = member.bit();
        if (record.participants & bit != 0) revert PlanAlreadyConsented(member);
        if (maxSamples == 0) revert RoundBadSamples(0, 0);
        record.participants |= bit;
        if (record.consented & bit == 0) record.consented |= bit;
        record.consents[member] = Consent(
            maxSamples, uint64(block.timestamp), record.round, record.attempt, commitment
        );
        _sawMember(member);
        emit PlanConsented(plan, member, digest, maxSamples, commitment);
        uint256 willing = (record.participants & presentMembers).count();
        if (record.minConsentsAt == 0 && willing >= record.rules.minPeers) {
            record.minConsentsAt = uint64(block.timestamp);
        }
        if (record.status == PlanStatus.PROPOSED && _mayOpen(plan, record)) _open(plan, record);
    }

    /// @notice Leave a plan, at once and out of the running round's count as well.
    /// @dev An update that a posted merge already contains stays in it.
    function withdraw(uint256 plan) external {
        uint8 member = _either();
        Plan storage record = _running(plan);
        _requireParticipant(record, member);
        record.participants &= ~member.bit();
        emit PlanWithdrawn(plan, member);
        if (record.attempt != 0) _leaveRound(plan, record, member);
    }

    /// @notice End a plan: its proposer alone, or more than half of its participants.
    /// @dev WARNING: a stopped plan does not run again; its last final model stays on record.
    function stop(uint256 plan) external {
        uint8 member = _either();
        Plan storage record = _running(plan);
        if (member != record.proposer) {
            _requireParticipant(record, member);
            record.stopVotes |= member.bit();
            emit PlanStopVoted(plan, member);
            uint256 voters = record.participants & presentMembers;
            if ((record.stopVotes & voters).count() < voters.count().majority()) return;
        }
        _end(record, PlanStatus.STOPPED);
        emit PlanStopped(plan);
        if (record.attempt != 0) _abandonRound(plan, record);
    }

    function planCount() external view returns (uint256) {
        return _plans.length;
    }

    // Steps shared with the contracts that build on this one.

    /// @dev Start the next attempt or round. The caller has checked `_mayOpen`.
    function _open(uint256 plan, Plan storage record) internal virtual;

    /// @dev Take a withdrawn member out of the current round.
    function _leaveRound(uint256 plan, Plan storage record, uint8 member) internal virtual;

    /// @dev Void the current round of a stopped plan, if it still runs.
    function _abandonRound(uint256 plan, Plan storage record) internal virtual;

    /// @dev Whether an attempt of the current round is under way.
    function _underWay(uint256 plan, Plan storage record) internal view virtual returns (bool);

    function _end(Plan storage record, PlanStatus status) internal {
        record.status = status;
        --_openPlans[record.proposer];
    }

    function _plan(uint256 plan) internal view returns (Plan storage) {
        if (plan == 0 || plan > _plans.length) revert PlanUnknown(plan);
        return _plans[plan - 1];
    }

    function _running(uint256 plan) internal view returns (Plan storage record) {
        record = _plan(plan);
        PlanStatus status = record.status;
        if (status != PlanStatus.PROPOSED && status != PlanStatus.RUNNING) revert PlanEnded(status);
    }

    function _requireParticipant(Plan storage record, uint8 member) internal view {
        if (record.participants & member.bit() == 0) revert PlanNotParticipant(member);
    }

    /// @dev The first round waits until every member has consented, or for `consentS` after the
    /// minPeers-th consent; later ones only for enough participants.
    function _mayOpen(uint256 plan, Plan storage record) internal view returns (bool) {
        PlanStatus status = record.status;
        if (status != PlanStatus.PROPOSED && status != PlanStatus.RUNNING) return false;
        if (_underWay(plan, record)) return false;
        uint256 willing = record.participants & presentMembers;
        if (willing.count() < record.rules.minPeers) return false;
        if (status == PlanStatus.RUNNING || willing == presentMembers) return true;
        return block.timestamp >= record.minConsentsAt + record.rules.consentS;
    }

    function _sane(Rules calldata rules) private pure returns (bool) {
        return rules.rounds >= 1 && rules.rounds <= MAX_ROUNDS && rules.minPeers >= 1
            && rules.minPeers <= MAX_MEMBERS && rules.verifyLevel >= LEVEL_HELD
            && rules.verifyLevel <= LEVEL_FULL && rules.slotS >= 1 && rules.slotS <= rules.maxRoundS
            && rules.maxRoundS <= MAX_SECONDS && rules.livenessS >= 1
            && rules.livenessS <= MAX_SECONDS && rules.consentS <= MAX_SECONDS
            && rules.windowS <= rules.maxRoundS && rules.graceS <= rules.maxRoundS;
    }
}
