// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Kind} from "./State.sol";

/// @title The transactions that libraries carry out for the contract, as its callers see them.
/// @notice The compiler leaves them out of a library's interface. `contracts/build.py` checks that the
/// libraries have exactly these.
interface Transactions {
    // Membership.

    function propose(
        Kind kind,
        address account,
        address node,
        string calldata name,
        uint64 target,
        uint64 height
    ) external returns (uint256 number);

    function vote(uint256 number, bool support) external;

    function cancel(uint256 number) external;

    function leave() external;

    function setNode(address node, bytes calldata proof) external;

    function setStandby(address standby) external;

    function setContact(bytes calldata contact) external;

    function activate() external;

    function retire(uint8 target) external;

    // Masked rounds.

    function renewKey(uint256 plan, uint32 round, uint32 attempt, bytes32 key) external;

    function masked(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint8 epoch,
        bytes32 digest,
        bytes calldata macs
    ) external;

    function good(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint256 dealers,
        uint256 complaints
    ) external;

    function answer(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint8 epoch,
        uint8 complainant,
        bytes calldata share
    ) external;

    function nextEpoch(uint256 plan, uint32 round, uint32 attempt) external;

    function unmask(
        uint256 plan,
        uint32 round,
        uint32 attempt,
        uint256 owners,
        bytes calldata shares
    ) external;

    function abandon(uint256 plan, uint32 round, uint32 attempt) external;
}
