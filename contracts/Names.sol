// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

/// @title Which names the contract takes: nobody may be shown something else than what is there.
/// @notice Well-formed UTF-8 without control characters, and without what changes the direction of
/// text or cannot be seen.
library Names {
    error ConsortiumBadCharacter(uint256 at);

    /// @notice Refuse a name with a character that none may contain, at its first byte.
    function check(bytes memory name) internal pure {
        uint256 size = name.length;
        uint256 at = 0;
        while (at < size) {
            (uint256 point, uint256 length) = _decode(name, at, size);
            if (length == 0 || _isForbidden(point)) revert ConsortiumBadCharacter(at);
            at += length;
        }
    }

    /// @dev The code point that begins at `at`, and in how many bytes; no bytes if none does.
    function _decode(bytes memory name, uint256 at, uint256 size)
        private
        pure
        returns (uint256 point, uint256 length)
    {
        uint256 first = uint8(name[at]);
        if (first < 0x80) return (first, 1);
        uint256 least = 0;
        if (first < 0xC2) return (0, 0);
        if (first < 0xE0) (point, length, least) = (first & 0x1F, 2, 0x80);
        else if (first < 0xF0) (point, length, least) = (first & 0x0F, 3, 0x800);
        else if (first < 0xF5) (point, length, least) = (first & 0x07, 4, 0x10000);
        if (length == 0 || at + length > size) return (0, 0);
        for (uint256 i = 1; i < length; ++i) {
            uint256 next = uint8(name[at + i]);
            if (next & 0xC0 != 0x80) return (0, 0);
            point = (point << 6) | (next & 0x3F);
        }
        bool isSurrogate = point >= 0xD800 && point <= 0xDFFF;
        if (point < least || point > 0x10FFFF || isSurrogate) return (0, 0);
    }

    function _isForbidden(uint256 point) private pure returns (bool) {
        if (point < 0x20 || (point >= 0x7F && point <= 0x9F)) return true;
        if (point == 0xAD || point == 0x61C || point == 0x180E || point == 0xFEFF) return true;
        if (point >= 0x200B && point <= 0x206F) {
            return point <= 0x200F || (point >= 0x2028 && point <= 0x202E) || point >= 0x2060;
        }
        return (point >= 0xFFF9 && point <= 0xFFFB) || (point >= 0xE0000 && point <= 0xE0FFF);
    }
}
