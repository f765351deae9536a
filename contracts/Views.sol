// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Election} from "./Election.sol";
import {MemberSets} from "./MemberSets.sol";
import {
    Candidate,
    Consent,
    Masking,
    Member,
    Outcome,
    Plan,
    PlanStatus,
    Proposal,
    Round,
    RoundStatus,
    Rules,
    State,
    Submission,
    roundKey,
    stored
} from "./State.sol";
import {Steps} from "./Steps.sol";

/// @title What a node reads of the contract, as much as it needs in one call.
/// @notice Its functions run on the contract's storage, which begins at slot 0 with `State`.
library Views {
    using MemberSets for uint256;

    struct MemberView {
        uint8 id;
        address account;
        address node;
        string name;
        bool present;
        bool endorsed;
        bool validator;
        uint64 seenAt;
        address standby;
        bytes contact;
        uint64 contactAt;
    }

    struct ConsentView {
        uint8 member;
        uint8 duties;
        uint64 maxSamples;
        bytes32 commitment;
        uint32 committedRound;
        uint32 committedAttempt;
        uint64 seenAt;
        uint64 until;
        bytes32 permit;
        bytes32 receivingKey;
        bytes32 nextReceivingKey;
        bytes32 meta;
    }

    struct PlanView {
        uint256 id;
        uint8 proposer;
        string name;
        bytes32 code;
        bytes32 program;
        bytes32 base;
        Rules rules;
        PlanStatus status;
        uint256 participants;
        ConsentView[] consents;
        uint256 invited;
        bool invitedOnly;
        uint256 declined;
        uint64 until;
        uint256 stopVotes;
        uint256 spoiled;
        bytes32[4] outputs;
        uint32[4] outputRounds;
        uint8 stage;
        bytes32 seed;
        uint32 mergeS;
    }

    struct SubmissionView {
        uint8 member;
        bytes32 update;
        uint64 samples;
        bytes32 meta;
        bool revealed;
    }

    struct CandidateView {
        uint8 leader;
        Outcome outcome;
        uint256 attesters;
        uint64 postedAt;
        bytes reasons;
    }

    struct MaskingView {
        uint8 colluders;
        uint64 since;
        uint64 beganAt;
        uint256 contributors;
        uint256 behind;
        bytes32 sum;
    }

    struct RoundView {
        uint32 number;
        uint32 attempt;
        RoundStatus status;
        uint64 openedAt;
        uint64 creditFrom;
        bytes32 base;
        uint256 roster;
        uint8 stage;
        uint256 trainers;
        uint16 holder;
        uint8 epoch;
        uint256 left;
        uint256 submitted;
        uint256 revealed;
        uint256 revealsXor;
        uint64 minPeersAt;
        uint64 closedAt;
        bytes32 seed;
        uint32 slotS;
        uint256 eligible;
        SubmissionView[] submissions;
        CandidateView[] candidates;
        MaskingView masking;
    }

    /// @notice The version that was scheduled last, and the block from which it holds.
    function nextVersion() external view returns (uint64 version, uint64 height) {
        State storage state = stored();
        return (state.nextVersion, state.nextHeight);
    }

    /// @notice How many members there ever were.
    function memberCount() external view returns (uint256) {
        return stored().members.length;
    }

    /// @notice Up to `count` of all members there ever were, the first with number `from` (counted from
    /// 0), in member order; `present` says who still is one.
    function getMembers(uint256 from, uint256 count) external view returns (MemberView[] memory page) {
        State storage state = stored();
        uint256 total = state.members.length;
        if (from >= total) return page;
        if (count > total - from) count = total - from;
        page = new MemberView[](count);
        for (uint256 i = 0; i < count; ++i) {
            Member storage member = state.members[from + i];
            uint256 bit = 1 << (from + i);
            page[i] = MemberView(
                uint8(from + i),
                member.account,
                member.node,
                member.name,
                state.presentMembers & bit != 0,
                state.endorsed & bit != 0,
                state.validators & bit != 0,
                member.seenAt,
                member.standby,
                member.contact,
                member.contactAt
            );
        }
    }

    function proposalCount() external view returns (uint256) {
        return stored().proposals.length;
    }

    /// @notice Up to `count` proposals, the first with number `from` (counted from 1).
    function getProposals(uint256 from, uint256 count) external view returns (Proposal[] memory page) {
        Proposal[] storage proposals = stored().proposals;
        uint256 total = proposals.length;
        if (from == 0 || from > total) return page;
        if (count > total + 1 - from) count = total + 1 - from;
        page = new Proposal[](count);
        for (uint256 i = 0; i < count; ++i) {
            page[i] = proposals[from - 1 + i];
        }
    }

    /// @notice A plan with every consent that was ever given to it; `participants` says which stand.
    function getPlan(uint256 plan) public view returns (PlanView memory answer) {
        Plan storage record = _plan(plan);
        answer.id = plan;
        answer.proposer = record.proposer;
        answer.name = record.name;
        answer.code = record.code;
        answer.program = record.program;
        answer.base = record.base;
        answer.rules = record.rules;
        answer.status = record.status;
        answer.participants = record.participants;
        answer.invited = record.invited;
        answer.invitedOnly = record.invitedOnly;
        answer.declined = record.declined;
        answer.until = record.until;
        answer.stopVotes = record.stopVotes;
        answer.spoiled = record.spoiled;
        answer.outputs = record.outputs;
        answer.outputRounds = record.outputRounds;
        answer.stage = record.stage;
        answer.seed = record.seed;
        answer.mergeS = record.mergeS;
        Masking storage masking = Steps.current(plan, record).masking;
        uint256 left = record.consented;
        answer.consents = new ConsentView[](left.count());
        for (uint256 i = 0; left != 0; left = left.dropLowest()) {
            uint8 member = left.lowest();
            Consent storage own = record.consents[member];
            (bytes32 receivingKey, bytes32 next) = (own.receivingKey, own.nextReceivingKey);
            if (masking.renewed & (1 << member) == 0) {
                if (next != 0) (receivingKey, next) = (next, 0);
            }
            if (masking.keyed & (1 << member) == 0) receivingKey = 0;
            answer.consents[i++] = ConsentView(
                member,
                own.duties,
                own.maxSamples,
                own.commitment,
                own.committedRound,
                own.committedAttempt,
                own.seenAt,
                own.until,
                own.permit,
                receivingKey,
                next,
                own.meta
            );
        }
    }

    /// @notice The current attempt of a plan's current round; all zero before the first.
    function getRound(uint256 plan) public view returns (RoundView memory) {
        Plan storage record = _plan(plan);
        return getRoundAt(plan, record.round, record.attempt);
    }

    /// @notice Any attempt of any round; status NONE if there was none.
    function getRoundAt(uint256 plan, uint32 round, uint32 attempt)
        public
        view
        returns (RoundView memory answer)
    {
        Round storage record = stored().rounds[plan][roundKey(round, attempt)];
        answer.number = round;
        answer.attempt = attempt;
        answer.status = record.status;
        answer.openedAt = record.openedAt;
        answer.creditFrom = record.creditFrom;
        answer.base = record.base;
        answer.roster = record.roster;
        answer.stage = record.stage;
        answer.trainers = record.trainers;
        answer.holder = record.holder;
        answer.epoch = record.epoch;
        answer.left = record.left;
        answer.submitted = record.submitted;
        answer.revealed = record.revealed;
        answer.revealsXor = record.revealsXor;
        answer.minPeersAt = record.minPeersAt;
        answer.closedAt = record.closedAt;
        answer.seed = record.seed;
        answer.slotS = record.slotS;
        if (record.slotS != 0) answer.eligible = Election.eligibleIn(record);
        // Withdrawn before the close, a submitter is not among the frozen, but what it sent stays.
        uint256 sent = 0;
        for (uint256 left = record.roster; left != 0; left = left.dropLowest()) {
            uint8 member = left.lowest();
            if (record.submissions[member].samples != 0) sent |= 1 << member;
        }
        answer.submissions = new SubmissionView[](sent.count());
        for (uint256 i = 0; sent != 0; sent = sent.dropLowest()) {
            uint8 member = sent.lowest();
            Submission storage own = record.submissions[member];
            answer.submissions[i++] = SubmissionView(
                member,
                own.update,
                own.samples,
                own.meta,
                record.revealed & (1 << member) != 0
            );
        }
        // Of a masked round, those that are voted on now.
        Masking storage masking = record.masking;
        answer.candidates = new CandidateView[](record.candidates.length - masking.first);
        for (uint256 i = 0; i < answer.candidates.length; ++i) {
            Candidate storage posted = record.candidates[masking.first + i];
            answer.candidates[i] = CandidateView(
                posted.leader,
                Outcome(posted.model, posted.omitted, posted.slot, posted.next),
                posted.attesters,
                posted.postedAt,
                posted.reasons
            );
        }
        answer.masking = MaskingView(
            _plan(plan).rules.colluders,
            masking.since,
            masking.beganAt,
            masking.contributors,
            masking.behind,
            masking.sum
        );
    }

    /// @notice All that a node needs to decide what to do next, as of one block.
    function getSnapshot(uint256 plan)
        external
        view
        returns (
            uint256 height,
            uint256 time,
            uint256 members,
            PlanView memory planView,
            RoundView memory roundView
        )
    {
        return (
            block.number, block.timestamp, stored().presentMembers, getPlan(plan), getRound(plan)
        );
    }

    /// @notice The leader at chain time `time`. It takes the time because the head may be old: a dead
    /// leader is replaced without any transaction.
    function leaderAt(uint256 plan, uint32 round, uint32 attempt, uint64 time) external view returns (uint8) {
        Round storage record = stored().rounds[plan][roundKey(round, attempt)];
        if (record.slotS == 0) revert Steps.RoundWrongStatus(record.status);
        return Election.leaderOf(
            Election.eligibleIn(record), record.seed, Election.slotAt(record, time)
        );
    }

    /// @notice The digest of the one set whose masked sum over a base and task may be opened; 0: none.
    function lockOf(bytes32 base, bytes32 task) external view returns (bytes32) {
        return stored().locks[base][task];
    }

    function _plan(uint256 plan) private view returns (Plan storage) {
        Plan[] storage plans = stored().plans;
        if (plan == 0 || plan > plans.length) revert Steps.PlanUnknown(plan);
        return plans[plan - 1];
    }
}
