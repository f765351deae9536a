"""One node's replica of the chain, read over its own JSON-RPC: run where that node's loopback is.

    python -m swarm.testing.faults.replica http://127.0.0.1:8545 0x…contract

Prints JSON: the hash of every block, and the contract's events that tell of rounds.
"""

from __future__ import annotations

import sys
import urllib.request

import msgspec

from swarm.chain.client import ConsortiumClient
from swarm.types import to_address, to_hex

BATCH = 100
DEADLINE_S = 30.0
TOLD = ("RoundOpened", "RoundClosed", "Merged", "RoundFinal", "RoundVoided")


class Told(msgspec.Struct, frozen=True):
    """An event of a round. `by` is a member's number, `at` the block's time in Unix seconds."""

    name: str
    round: int
    attempt: int
    at: int
    by: int | None = None
    model: str = ""


class Replica(msgspec.Struct, frozen=True):
    """`hashes` by height, from 0."""

    hashes: list[str]
    told: list[Told]
    members: list[str]
    """Names, by number."""


class _Block(msgspec.Struct):
    hash: str
    timestamp: str


class _Answer(msgspec.Struct):
    id: int
    result: _Block


def read_replica(rpc_url: str, contract: str) -> Replica:
    """Read all of it."""
    client = ConsortiumClient.connect(rpc_url, to_address(contract))
    head, _ = client.head()
    blocks: list[_Block] = []
    for first in range(0, head + 1, BATCH):
        blocks += _blocks(rpc_url, range(first, min(first + BATCH, head + 1)))
    told = [
        Told(
            event.name,
            int(str(event.arguments["round"])),
            int(str(event.arguments["attempt"])),
            int(blocks[event.height].timestamp, 16),
            by=int(str(event.arguments["leader"])) if "leader" in event.arguments else None,
            model=_hex(event.arguments.get("model", "")),
        )
        for event in client.events(0, head)
        if event.name in TOLD
    ]
    members = client.members()
    return Replica([b.hash for b in blocks], told, [m.name for m in members.values()])


def _hex(value: object) -> str:
    return to_hex(value) if isinstance(value, bytes) else str(value)


def _blocks(rpc_url: str, heights: range) -> list[_Block]:
    calls = [
        {"jsonrpc": "2.0", "id": h, "method": "eth_getBlockByNumber", "params": [hex(h), False]}
        for h in heights
    ]
    request = urllib.request.Request(
        rpc_url, msgspec.json.encode(calls), {"content-type": "application/json"}
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=DEADLINE_S) as response:
        answers = msgspec.json.decode(response.read(), type=list[_Answer])
    return [answer.result for answer in sorted(answers, key=lambda a: a.id)]


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(read_replica(*sys.argv[1:])))
