// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {MaskedRounds} from "./MaskedRounds.sol";
import {Membership} from "./Membership.sol";
import {Rounds} from "./Rounds.sol";
import {Founder, stored} from "./State.sol";
import {Steps} from "./Steps.sol";
import {Transactions} from "./Transactions.sol";
import {Views} from "./Views.sol";

/// @title A consortium that trains models together: its members, plans and rounds.
/// @notice One address to call, and three libraries that run on its storage, as there is more code
/// than one contract may have: members, masked rounds, and the larger views. It holds no coins, calls
/// no other contract and has no owner.
contract Consortium is Rounds {
    error UntilNested();

    constructor(Founder[] memory founders) {
        Membership.found(founders);
    }

    /// @notice Run `call` on this contract, unless `time` has passed: then nothing happens at all.
    /// @dev The sender and the events are those of `call`, and so is what it reverts with.
    function until(uint64 time, bytes calldata call) external returns (bytes memory answer) {
        if (block.timestamp > time) revert Expired(time, uint64(block.timestamp));
        if (bytes4(call) == this.until.selector) revert UntilNested();
        bool done;
        (done, answer) = address(this).delegatecall(call);
        if (!done) {
            assembly ("memory-safe") {
                revert(add(answer, 32), mload(answer))
            }
        }
    }

    // Views that every block asks for: what goes through another contract is not remembered from
    // block to block (`swarm/chain/evm.py`).

    /// @notice The members of this moment.
    function presentMembers() external view returns (uint256) {
        return stored().presentMembers;
    }

    /// @notice The nodes that finalise the next block: all active ones, or 21 of them, counted in a
    /// ring from a place that the newest well-attended round's seed gives.
    function getValidators() external view returns (address[] memory nodes) {
        return Membership.validators();
    }

    /// @notice Whether this key, as account or as node, may send transactions at all.
    function isMember(address key) external view returns (bool) {
        return stored().byAccount[key] != 0 || stored().byNode[key] != 0;
    }

    /// @notice The number of the member whose account or node this key is, counted from 1; 0: nobody's.
    function memberOf(address key) external view returns (uint256) {
        uint256 member = stored().byAccount[key];
        return member != 0 ? member : stored().byNode[key];
    }

    /// @notice The protocol version in force at this block.
    function protocolVersion() external view returns (uint64) {
        return Membership.version();
    }

    /// @notice What is not above is one of the libraries', if anybody's.
    fallback() external {
        Steps.passOn(_library(msg.sig), msg.sig);
    }

    function _library(bytes4 called) private pure returns (address) {
        if (
            called == Transactions.propose.selector || called == Transactions.vote.selector
                || called == Transactions.cancel.selector || called == Transactions.leave.selector
                || called == Transactions.setNode.selector || called == Transactions.setStandby.selector
                || called == Transactions.setContact.selector
                || called == Transactions.activate.selector || called == Transactions.retire.selector
        ) return address(Membership);
        if (
            called == Transactions.renewKey.selector || called == Transactions.masked.selector
                || called == Transactions.good.selector
                || called == Transactions.answer.selector
                || called == Transactions.nextEpoch.selector
                || called == Transactions.unmask.selector
                || called == Transactions.abandon.selector
        ) return address(MaskedRounds);
        return address(Views);
    }
}
