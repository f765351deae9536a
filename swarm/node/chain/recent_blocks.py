"""The newest blocks in words: who proposed them, and who asked the contract for what."""

from __future__ import annotations

from typing import Any

from swarm.chain import contract
from swarm.chain.codec import decode_transaction
from swarm.chain.engine import Engine
from swarm.chain.messages import decode_certificate
from swarm.types import Address, to_hex

MOST_BLOCKS = 500


def describe_blocks(engine: Engine, newest: int) -> list[dict[str, Any]]:
    """The newest blocks, `newest` of them and at most MOST_BLOCKS, the latest first."""
    names: dict[Address, str] = {}
    for member in engine.members().values():
        names[member.account] = names[member.node] = member.name
    head = engine.head.height
    heights = range(head, max(head - min(newest, MOST_BLOCKS), -1), -1)
    return [_describe(engine, height, names) for height in heights]


def _describe(engine: Engine, height: int, names: dict[Address, str]) -> dict[str, Any]:
    block = engine.block(height)
    calls, seals = [], 0
    if height:
        seals = len(decode_certificate(engine.certificate(height)).seals)
        for transaction in engine.content(block)[0]:
            _, call = contract.look_through(decode_transaction(transaction.raw).data)
            sender = names.get(transaction.sender, to_hex(transaction.sender))
            calls.append({"sender": sender, "function": contract.function_of(call) or "unknown"})
    return {
        "height": height,
        "hash": to_hex(block.hash),
        "timestamp": block.timestamp,
        "proposer": names.get(block.proposer, "") if height else "",
        "seals": seals,
        "calls": calls,
    }
