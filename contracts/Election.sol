// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MemberSets} from "./MemberSets.sol";
import {NO_HOLDER, Round} from "./State.sol";

/// @title Who merges: a draw that nobody can steer towards themselves, and that time alone moves on.
/// @notice The seed folds the secrets that submitters committed to one submission earlier. Who
/// withholds its secret is not eligible; it can favour an accomplice by one bit, never itself.
library Election {
    using MemberSets for uint256;

    bytes32 internal constant SEED_DOMAIN = keccak256("swarm/round-seed/1");
    bytes32 internal constant HOLDER_DOMAIN = keccak256("swarm/holder/1");
    uint256 internal constant MAX_DOUBLINGS = 16;

    /// @notice What was committed to a secret.
    function commitment(bytes32 secret) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(secret));
    }

    /// @notice One submitter's share of the draw; XORed, so that the order does not matter.
    function term(address account, bytes32 secret) internal pure returns (uint256) {
        return uint256(keccak256(abi.encodePacked(account, secret)));
    }

    function seed(bytes32 previous, uint256 reveals) internal pure returns (bytes32) {
        return keccak256(abi.encodePacked(previous, SEED_DOMAIN, reveals));
    }

    /// @notice How many leader slots have passed after `elapsedS` seconds. A cycle gives each of the
    /// `eligible` one slot; each further cycle doubles the length, at most 2**16-fold.
    function slotsElapsed(uint256 elapsedS, uint256 slotS, uint256 eligible)
        internal
        pure
        returns (uint256 passed)
    {
        for (uint256 i = 0; i < MAX_DOUBLINGS; ++i) {
            uint256 cycleS = slotS * eligible;
            if (elapsedS < cycleS) break;
            elapsedS -= cycleS;
            passed += eligible;
            slotS *= 2;
        }
        passed += elapsedS / slotS;
    }

    /// @notice The leader of a slot: the eligible, in member order, from a place that the seed gives.
    function leaderOf(uint256 eligible, bytes32 seed_, uint256 slot) internal pure returns (uint8) {
        return eligible.nth(addmod(uint256(seed_), slot, eligible.count()));
    }

    /// @notice The first slot in which an eligible member leads.
    function firstSlotOf(uint256 eligible, bytes32 seed_, uint8 member) internal pure returns (uint256) {
        uint256 total = eligible.count();
        uint256 place = (eligible & ((1 << member) - 1)).count();
        return (place + total - uint256(seed_) % total) % total;
    }

    /// @notice Who of the candidates holds the plan's role in an attempt: whose hash with the plan's
    /// seed, which nobody chose, is the smallest. So nobody moves the draw among the others by coming
    /// or going. NO_HOLDER if there are none.
    function holderOf(uint256 candidates, bytes32 seed_, uint32 round, uint32 attempt)
        internal
        pure
        returns (uint16 holder)
    {
        holder = NO_HOLDER;
        bytes32 place = keccak256(abi.encodePacked(seed_, HOLDER_DOMAIN, round, attempt));
        bytes32 least = bytes32(type(uint256).max);
        for (uint16 member = 0; candidates >> member != 0; ++member) {
            if (candidates >> member & 1 == 0) continue;
            bytes32 drawn = keccak256(abi.encodePacked(place, uint8(member)));
            if (drawn <= least) (least, holder) = (drawn, member);
        }
    }

    /// @notice Who may lead a closed round: those who revealed; everybody if nobody did. While a round
    /// is masked, of its contributors; once its sum is locked, the whole roster.
    function eligibleIn(Round storage round) internal view returns (uint256) {
        if (round.masking.sum != 0) return round.roster;
        uint256 voters = round.masking.contributors;
        if (voters == 0) voters = round.submitted;
        uint256 both = voters & round.revealed;
        return both != 0 ? both : voters;
    }

    /// @notice The number of a closed round's slot at this time; slot 0 begins at the close.
    function slotAt(Round storage round, uint64 time) internal view returns (uint256) {
        uint256 elapsedS = time > round.closedAt ? time - round.closedAt : 0;
        return slotsElapsed(elapsedS, round.slotS, eligibleIn(round).count());
    }
}
