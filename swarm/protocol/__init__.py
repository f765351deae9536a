"""What all members must agree on, without a clock, a socket or a file.

`state` holds what the chain says, `election` the leader's draw, `ledger` the contract's rules as an
executable specification (the Solidity contract is tested against it, call by call), and `machine`
what one node does about it: events in, commands out.
"""
