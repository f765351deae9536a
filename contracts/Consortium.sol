// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MemberSets} from "./MemberSets.sol";
import {Membership} from "./Membership.sol";
import {Rounds} from "./Rounds.sol";

/// @title A consortium that trains models together: its members, plans and rounds.
/// @notice This contract adds only the views that let a node read everything in one call; the rules
/// are in the contracts it is made of. It holds no coins, calls no other contract and has no owner.
contract Consortium is Rounds {
    using MemberSets for uint256;

    struct ConsentView {
        uint8 member;
        uint64 maxSamples;
        bytes32 commitment;
        uint32 committedRound;
        uint32 committedAttempt;
        uint64 seenAt;
    }

    struct PlanView {
        uint256 id;
        uint8 proposer;
        string name;
        bytes32 digest;
        bytes32 model0;
        bytes32 workflow;
        uint32 workflowVersion;
        bytes32 merge;
        Rules rules;
        PlanStatus status;
        uint256 participants;
        ConsentView[] consents;
        uint64 minConsentsAt;
        uint256 stopVotes;
        bytes32 statistics;
        bytes32 model;
        uint32 modelRound;
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

    struct RoundView {
        uint32 number;
        uint32 attempt;
        RoundStatus status;
        uint64 openedAt;
        uint64 creditFrom;
        bytes32 base;
        uint256 roster;
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
        Candidate[] candidates;
    }

    constructor(Founder[] memory founders) Membership(founders) {}

    /// @notice A plan with every consent that was ever given to it; `participants` says which stand.
    function getPlan(uint256 plan) public view returns (PlanView memory answer) {
        Plan storage record = _plan(plan);
        answer.id = plan;
        answer.proposer = record.proposer;
        answer.name = record.name;
        answer.digest = record.digest;
        answer.model0 = record.model0;
        answer.workflow = record.workflow;
        answer.workflowVersion = record.workflowVersion;
        answer.merge = record.merge;
        answer.rules = record.rules;
        answer.status = record.status;
        answer.participants = record.participants;
        answer.minConsentsAt = record.minConsentsAt;
        answer.stopVotes = record.stopVotes;
        answer.statistics = record.statistics;
        answer.model = record.model;
        answer.modelRound = record.modelRound;
        answer.seed = record.seed;
        answer.mergeS = record.mergeS;
        uint256 left = record.consented;
        answer.consents = new ConsentView[](left.count());
        for (uint256 i = 0; left != 0; left = left.dropLowest()) {
            uint8 member = left.lowest();
            Consent storage own = record.consents[member];
            answer.consents[i++] = ConsentView(
                member,
                own.maxSamples,
                own.commitment,
                own.committedRound,
                own.committedAttempt,
                own.seenAt
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
        Round storage record = _roundAt(plan, round, attempt);
        answer.number = round;
        answer.attempt = attempt;
        answer.status = record.status;
        answer.openedAt = record.openedAt;
        answer.creditFrom = record.creditFrom;
        answer.base = record.base;
        answer.roster = record.roster;
        answer.left = record.left;
        answer.submitted = record.submitted;
        answer.revealed = record.revealed;
        answer.revealsXor = record.revealsXor;
        answer.minPeersAt = record.minPeersAt;
        answer.closedAt = record.closedAt;
        answer.seed = record.seed;
        answer.slotS = record.slotS;
        if (record.slotS != 0) answer.eligible = _eligible(record);
        answer.candidates = record.candidates;
        // Withdrawn before the close, a submitter is not among the frozen, but what it sent stays.
        uint256 sent = 0;
        for (uint256 left = record.roster; left != 0; left = left.dropLowest()) {
            uint8 member = left.lowest();
            if (record.submissions[member].update != 0) sent |= 1 << member;
        }
        answer.submissions = new SubmissionView[](sent.count());
        for (uint256 i = 0; sent != 0; sent = sent.dropLowest()) {
            uint8 member = sent.lowest();
            Submission storage own = record.submissions[member];
            answer.submissions[i++] = SubmissionView(
                member, own.update, own.samples, own.meta, record.revealed & (1 << member) != 0
            );
        }
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
        return (block.number, block.timestamp, presentMembers, getPlan(plan), getRound(plan));
    }
}
