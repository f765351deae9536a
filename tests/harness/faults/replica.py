"""One node's replica of the chain, read over its own JSON-RPC: run where that node's loopback is.

    python -m tests.campaigns faults.replica http://127.0.0.1:8545 [0x…contract]

Prints JSON: the hash of every block, and, if the contract is named, its events that tell of rounds.
One node's events are enough: equal blocks have equal events.
"""

from __future__ import annotations

import sys
import urllib.request

import msgspec

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
    told: list[Told] = []
    members: list[str] = []
    """Names, by number."""


class _Block(msgspec.Struct):
    hash: str
    timestamp: str


class _Answer(msgspec.Struct):
    id: int
    result: _Block | None


def read_replica(rpc_url: str, contract: str | None = None) -> Replica:
    """Read all of it."""
    blocks: list[_Block] = []
    while len(blocks) % BATCH == 0:
        more = _blocks(rpc_url, range(len(blocks), len(blocks) + BATCH))
        blocks += more
        if not more:
            break
    hashes = [block.hash for block in blocks]
    if contract is None:
        return Replica(hashes)
    from swarm.chain.client import ConsortiumClient  # a second of imports

    client = ConsortiumClient.connect(rpc_url, to_address(contract))
    told = [
        Told(
            event.name,
            int(str(event.arguments["round"])),
            int(str(event.arguments["attempt"])),
            int(blocks[event.height].timestamp, 16),
            by=int(str(event.arguments["leader"])) if "leader" in event.arguments else None,
            model=_hex(event.arguments.get("model", "")),
        )
        for event in client.events(0, len(blocks) - 1)
        if event.name in TOLD
    ]
    return Replica(hashes, told, [member.name for member in client.members().values()])


def _hex(value: object) -> str:
    return to_hex(value) if isinstance(value, bytes) else str(value)


def _blocks(rpc_url: str, heights: range) -> list[_Block]:
    """Those of these heights that there are."""
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
    found = [answer.result for answer in sorted(answers, key=lambda a: a.id)]
    return [block for block in found if block is not None]


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(read_replica(*sys.argv[1:])))
