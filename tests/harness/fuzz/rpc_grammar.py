"""A grammar of JSON values for the parameters of JSON-RPC methods: types, signs, sizes, nesting.

For each way in which a method reads a parameter there is one valid value; `worse` gives, in a fixed
order, what may stand in its place, inside an object's fields too.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from swarm.chain import rpc_parameters as read
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.chain.rpc import Method
from swarm.types import to_hex

CONTRACT = to_hex(CONTRACT_ADDRESS)
HASH = "0x" + "11" * 32
VALID: dict[read.Reader, object] = {
    read.read_address: CONTRACT,
    read.read_call: {"to": CONTRACT},
    read.read_count: "0x1",
    read.read_index: "0x0",
    read.read_data: "0x",
    read.read_digest: HASH,
    read.read_filter_name: "0x1",
    read.read_flag: False,
    read.read_height: "latest",
    read.read_log_query: {},
    read.read_overrides: {},
    read.read_percentiles: [50],
    read.read_place: "latest",
    read.read_slot: "0x0",
    read.read_slots: ["0x0"],
}
FIELDS: dict[read.Reader, tuple[str, ...]] = {
    read.read_call: ("to", "from", "data", "input", "gas", "value", "nonce"),
    read.read_log_query: ("address", "topics", "fromBlock", "toBlock", "blockHash"),
    read.read_place: ("blockNumber", "blockHash", "requireCanonical"),
}
SIGNED = [
    sign * size for sign in (1, -1) for size in (0, 1, 0.5, 2**31, 2**53, 2**63, 2**64, 2**70)
]
WORDS = [
    *("", " ", "x", "0x", "0X1", "0x0", "0x00", "0x1", "0x01", "0x-1", "-0x1", "0x1.5", "0x_1"),
    *("0xg", "1", "0x 1", "0x1\n", "latest", "pending", "earliest", "safe", "finalized"),
    *("LATEST", "newest", "latest\n", "\0", "\x1b[2J", "\u202e", "é" * 70, "\U0001d7d8x1"),
    *("0x" + digit * count for digit in "0f" for count in (8, 16, 17, 40, 63, 64, 65, 4096)),
    *(HASH, CONTRACT, "x" * 300_000, "0x" + "ab" * 140_000),
]
VALUES: list[object] = [
    *(None, True, False, {}, [], [[]], [{}], [None], {"": None}, 1e308, 2**300),
    *SIGNED,
    *WORDS,
    *(["0x1"] * count for count in (1, 4, 5, 64, 65, 1000)),
    *([HASH] * count for count in (1, 4, 5)),
    *([[CONTRACT] * count] for count in (64, 65)),
    *({key: "0x1"} for key in ("blockNumber", "blockHash", "to", "topics", "address")),
]


def worse(reader: read.Reader) -> Iterator[object]:
    """All values that are tried in a parameter's place."""
    yield from VALUES
    yield from _nested()
    base = VALID[reader]
    for field, value in itertools.product(FIELDS.get(reader, ()), VALUES):
        yield (base if isinstance(base, dict) else {}) | {field: value}


def calls(methods: Mapping[str, Method]) -> Iterator[tuple[str, int, list[object]]]:
    """For every method and position, a call for each value: method, position, parameters."""
    for name, method in sorted(methods.items()):
        valid = [VALID[parameter.read] for parameter in method.parameters]
        for position, parameter in enumerate(method.parameters):
            for value in worse(parameter.read):
                yield name, position, [*valid[:position], value, *valid[position + 1 :]]
        yield name, len(valid), [*valid, "0x1"]  # one too many


def drawn(methods: Mapping[str, Method], dice: random.Random) -> tuple[str, list[object]]:
    """A call of which every parameter may be wrong."""
    name = dice.choice(sorted(methods))
    return name, [_drawn(parameter.read, dice) for parameter in methods[name].parameters]


def _drawn(reader: read.Reader, dice: random.Random) -> object:
    fields = FIELDS.get(reader, ())
    if dice.random() < 0.4:
        return VALID[reader]
    if not fields or dice.random() < 0.4:
        return dice.choice(VALUES)
    some = dice.sample(fields, dice.randint(1, len(fields)))
    base: Any = VALID[reader]
    return (base if isinstance(base, dict) else {}) | {f: dice.choice(VALUES) for f in some}


def _nested() -> Iterator[object]:
    for depth in (2, 300):
        inside: object = "0x1"
        for _ in range(depth):
            inside = [inside]
        yield inside
        yield {"to": inside, "topics": inside, "fromBlock": inside, "blockHash": inside}
