// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @title Sets of members as the bits of one word: bit i is member number i.
/// @notice A removal or withdrawal takes effect everywhere with one AND, and counting votes needs no
/// loop over storage. 256 members are the most that one consortium ever numbers.
library MemberSets {
    /// @notice The set that holds one member.
    function bit(uint8 member) internal pure returns (uint256) {
        return 1 << member;
    }

    /// @notice How many members a set holds.
    function count(uint256 members) internal pure returns (uint256) {
        // Sums of neighbouring bits, pairs, nibbles; then of all bytes by one multiplication, whose
        // top byte cannot hold 256.
        if (members == type(uint256).max) return 256;
        unchecked {
            members -= (members >> 1) & 0x5555555555555555555555555555555555555555555555555555555555555555;
            members = (members & 0x3333333333333333333333333333333333333333333333333333333333333333)
                + ((members >> 2) & 0x3333333333333333333333333333333333333333333333333333333333333333);
            members = (members + (members >> 4)) & 0x0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f;
            return (members * 0x0101010101010101010101010101010101010101010101010101010101010101) >> 248;
        }
    }

    /// @notice The member with the smallest number. The set must not be empty.
    function lowest(uint256 members) internal pure returns (uint8) {
        unchecked {
            return uint8(count((members & (~members + 1)) - 1));
        }
    }

    /// @notice The set without its smallest member, to walk it in member order.
    function dropLowest(uint256 members) internal pure returns (uint256) {
        unchecked {
            return members & (members - 1);
        }
    }

    /// @notice The member at a place of the member order, counted from 0. The set must be larger.
    function nth(uint256 members, uint256 place) internal pure returns (uint8) {
        for (; place > 0; --place) members = dropLowest(members);
        return lowest(members);
    }

    /// @notice More than half of so many voters.
    function majority(uint256 voters) internal pure returns (uint256) {
        return voters / 2 + 1;
    }

    /// @notice Two thirds of so many voters, rounded up.
    function twoThirds(uint256 voters) internal pure returns (uint256) {
        return (2 * voters + 2) / 3;
    }
}
