"""Targets whose inputs come from a grammar: mutations of valid bytes seldom reach what they attack.

A grammar knows which values a place may hold and puts others there: parameters of every JSON-RPC
method, and the texts in what the contract answers.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from harness.fuzz import rpc_grammar
from harness.fuzz.campaign import ACCEPTED, Session, Target
from harness.fuzz.services import consortium, questions, verdict
from swarm.chain import contract
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.chain.rpc import RpcMethods
from swarm.errors import ChainError


def targets() -> list[Target]:
    """All of them."""
    return [
        Target("json-rpc-parameters", "bytes", _open_rpc_parameters, deadline_s=10.0),
        Target("contract-answers", "bytes", _open_answers),
    ]


# JSON-RPC.


@asynccontextmanager
async def _open_rpc_parameters(directory: Path) -> AsyncIterator[Session]:
    """Every method, with parameters of a grammar instead of mutated ones."""
    dice = random.Random(0)
    with consortium(directory) as (engine, rpc, members):

        def samples() -> list[bytes]:
            return [_drawn_question(rpc, dice) for _ in range(4)]

        async def offer(data: bytes) -> str:
            answer = rpc.handle_bytes(data)
            assert b"-32603" not in answer, answer
            return verdict(answer)

        async def check() -> None:
            assert verdict(rpc.handle_bytes(questions(engine, members)[0])) == ACCEPTED

        yield Session(samples, offer, check)


def _drawn_question(rpc: RpcMethods, dice: random.Random) -> bytes:
    method, params = rpc_grammar.drawn(rpc.methods, dice)
    call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return json.dumps(call).encode()


# The contract.


TEXTS = (
    *(b"\xff" * 64, b"\xed\xa0\x80" * 20, b"\xc0\xaf" * 30, b"\0" * 64, b"\n" * 64),
    *("\u202e" * 20, "\u200b" * 20, "[/]" * 20, "\x1b[2J" * 20, "\r\n" * 30, "\U000e0041" * 20),
)
"""Put into the place of names, as many bytes as those have."""
READERS: dict[str, tuple[tuple[object, ...], Callable[[Any], object]]] = {
    "getMembers": ((0, 8), contract.members),
    "getProposals": ((1, 8), partial(contract.proposals, first=1)),
    "getSnapshot": ((1,), contract.snapshot),
}
"""What the client asks, and how it reads the answer."""


@asynccontextmanager
async def _open_answers(directory: Path) -> AsyncIterator[Session]:
    """The strings of the contract, which is asked at an endpoint that may lie, or holds what a
    member wrote into it by a transaction of its own making."""
    dice = random.Random(0)
    with consortium(directory) as (engine, _, _):
        honest = {
            function: engine.call(CONTRACT_ADDRESS, contract.call_data(function, *arguments))
            for function, (arguments, _) in READERS.items()
        }

        def samples() -> list[bytes]:
            return [b"%d" % i + _renamed(honest[name], dice) for i, name in enumerate(READERS)]

        def read(data: bytes) -> None:
            name = list(READERS)[data[0] % len(READERS) if data else 0]
            READERS[name][1](contract.result(name, data[1:]))

        async def offer(data: bytes) -> str:
            try:
                read(data)
            except ChainError as error:
                return type(error).__name__
            return ACCEPTED

        async def check() -> None:
            for number, answer in enumerate(honest.values()):
                read(b"%d" % number + answer)

        yield Session(samples, offer, check)


def _renamed(answer: bytes, dice: random.Random) -> bytes:
    """With other bytes in the place of some of its texts."""
    for name in (b"site 000", b"site 001", b"site 002", b"plan", b"newcomer"):
        if dice.random() < 0.5:
            text = dice.choice(TEXTS)
            raw = text.encode() if isinstance(text, str) else text
            answer = answer.replace(name, raw[: len(name)])
    return answer
