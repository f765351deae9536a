"""The rules of the chain beyond the EVM's own: what a block may hold, and a member may send."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ChainRules:
    """What makes a block valid beyond the EVM's own rules.

    The limits bound what one member can cost all the others: py-evm needs about a second for four
    million gas. Every node must use the same values, so a change is a new genesis version.
    """

    block_gas: int = 5_000_000
    transaction_gas: int = 1_000_000
    calldata_bytes: int = 32 * 1024
    transaction_bytes: int = 40 * 1024
    block_bytes: int = 1024 * 1024
    block_transactions: int = 256
    sender_transactions: int = 16
    """of one sender in one block"""
    member_day_bytes: int = 128 * 1024 * 1024
    """of one member's transactions on one day of chain time, counted from 1970. A round needs about
    1 KiB of each member, so a round every second, all day long, is 90 MiB."""
    view_gas: int = 5_000_000
    """for a call that reads, such as `memberOf` and `getValidators`"""
    max_validators: int = 256
