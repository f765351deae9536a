"""A lying member of the storm: what it makes up is written as the real chain writes it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import trio
from harness.chain import found
from harness.faults.mouth import EngineChain, Mouth

from swarm.chain.engine import Engine
from swarm.chain.messages import GetStatus, decode, encode
from swarm.chain.signer import NodeKeys
from swarm.types import Address


class Wire:
    """Keeps what is sent."""

    def __init__(self, *peers: Address) -> None:
        self.connected = set(peers)
        self.sent: list[bytes] = []

    def send(self, peer: Address, payload: bytes) -> None:
        self.sent.append(payload)


def test_a_made_up_block_reads_as_one_with_any_header(tmp_path: Path) -> None:
    genesis, (ann, ben) = found(2)
    with Engine.open(tmp_path, genesis) as engine:
        raws = [
            ann.sign(genesis.chain_id, nonce=0),
            ben.sign(genesis.chain_id, gasPrice=0, nonce=0),
        ]
        chain, head = EngineChain(engine), engine.head
        block = chain.make_block(head, 2**40, ben.address, raws)
        read = engine.decode(block.payload)
        assert read == block
        assert (read.height, read.timestamp, read.proposer) == (1, 2**40, ben.address)
        assert engine.transactions(read)


def lied(tmp_path: Path, seed: int) -> list[Any]:
    """What two seconds of lies come to."""
    genesis, members = found(4)
    wire = Wire(*(member.address for member in members[:3]))
    with Engine.open(tmp_path / str(seed), genesis) as engine:
        keys = NodeKeys(members[3].secret)
        mouth = Mouth(wire, engine, keys, Random(seed), Counter())
        mouth.send(members[0].address, encode(GetStatus()))
        assert wire.sent == [encode(GetStatus())]  # it has not begun

        async def speak() -> None:
            with trio.move_on_after(2):
                await mouth.chatter()

        trio.run(speak)
    return [decode(payload) for payload in wire.sent[1:]]


def test_whatever_it_says_is_a_message_that_the_others_can_read(tmp_path: Path) -> None:
    said = [message for seed in range(4) for message in lied(tmp_path, seed)]
    assert len({type(message) for message in said}) > 2
