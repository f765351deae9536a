// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.26;

import {Plans} from "./Plans.sol";

/// @title Masked rounds: decided (docs/decisions/0013), and not built yet.
/// @notice Its functions run on the contract's storage. They and their events have their signatures,
/// so that what calls them need not change when they do something; until then no plan can be proposed
/// that would have such rounds.
library MaskedRounds {
    event Masked(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        uint8 epoch,
        bytes32 masked,
        bytes macs
    );
    event SharesJudged(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        uint256 dealers,
        uint256 complaints
    );
    event ShareAnswered(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed dealer,
        uint8 epoch,
        uint8 complainant,
        bytes share
    );
    event EpochBegan(
        uint256 indexed plan, uint32 round, uint32 attempt, uint8 epoch, uint256 contributors
    );
    event RoundLocked(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 epoch,
        bytes32 sum,
        uint256 contributors
    );
    event Unmasked(
        uint256 indexed plan,
        uint32 round,
        uint32 attempt,
        uint8 indexed member,
        uint256 owners,
        bytes shares
    );
    event AbandonVoted(
        uint256 indexed plan, uint32 round, uint32 attempt, uint8 indexed member
    );

    /// @notice Post the digest of one's masked update; `macs` has one short code for each pair.
    function masked(uint256, uint32, uint32, uint8, bytes32, bytes calldata) external {
        revert Plans.MaskedUnavailable();
    }

    /// @notice Say whose shares for oneself are right, and whose are not.
    function good(uint256, uint32, uint32, uint256, uint256) external {
        revert Plans.MaskedUnavailable();
    }

    /// @notice Publish a share that was complained about.
    function answer(uint256, uint32, uint32, uint8, uint8, bytes calldata) external {
        revert Plans.MaskedUnavailable();
    }

    /// @notice Mask afresh among those who posted in time.
    function nextEpoch(uint256, uint32, uint32) external {
        revert Plans.MaskedUnavailable();
    }

    /// @notice Reveal one's shares of the self masks of the locked sum's contributors.
    function unmask(uint256, uint32, uint32, uint256, bytes calldata) external {
        revert Plans.MaskedUnavailable();
    }

    /// @notice Vote for giving a locked round up.
    function abandon(uint256, uint32, uint32) external {
        revert Plans.MaskedUnavailable();
    }
}
