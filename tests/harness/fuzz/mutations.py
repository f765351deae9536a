"""Mutations of valid bytes: of the bytes themselves, and of the values that they encode.

Changing bytes finds what a parser does with broken framing; changing one value of a decoded message
and encoding it again gets past the framing to the checks behind. All draws come from one seeded
generator, so a finding can be repeated.
"""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec
import rlp

from swarm.errors import UNREADABLE

Shape = Literal["bytes", "msgpack", "framed", "json", "rlp"]
"""What a sample encodes. "framed": msgpack with a 4-byte big-endian length before it."""

LARGEST_BYTES = 64 * 1024
NUMBERS = (0, 1, -1, 2**7, 2**8, 2**16, 2**31, 2**32 - 1, 2**53, 2**53 + 1, 2**63 - 1, 2**64 - 1)
TOKENS = (
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\xa1\xff",  # msgpack text that is not UTF-8
    b"\xed\xa0\x80",  # a lone surrogate
    b'"\xff"',
    b"\xdc\xff\xff",
    b"\xdd\xff\xff\xff\xff",  # a msgpack list of 2**32 - 1
    b"\xc6\xff\xff\xff\xff",
    b"\x91" * 2000,
    b"\xc1" * 50,
    b"\xfa\x00\xff\xff\xff\xff",
    b"[" * 3000,
    b'{"a":' * 1500,
    b"\r\n\r\n",
    b"-1",
    b"9" * 5000,
    b"1e999",
    b"\\u0000",
    b"/../../../etc/passwd",
    b"\r",
    b"\x1b[2J",
    "\u202e\u2066\u200b\ufeff".encode(),
    b"# coding: utf-7\n",
)


class Mutator:
    """An endless stream of inputs for one target. `samples` gives valid ones, anew each time."""

    def __init__(self, seed: int, samples: Callable[[], Sequence[bytes]], shape: Shape) -> None:
        self._dice = random.Random(seed)
        self._samples = samples
        self._shape = shape

    def next(self) -> bytes:
        dice, samples = self._dice, self._samples()
        sample = dice.choice(samples)
        kind = dice.random()
        if kind < 0.05:
            return dice.randbytes(dice.choice([0, 1, 2, 7, 64, 300, 4000]))
        if kind < 0.55 and self._shape != "bytes":
            sample = self._of_values(sample)
        if kind > 0.45 or self._shape == "bytes":
            for _ in range(dice.choice([1, 1, 1, 2, 5])):
                sample = self._of_bytes(sample, dice.choice(samples))
        return sample[:LARGEST_BYTES]

    # Bytes.

    def _of_bytes(self, sample: bytes, other: bytes) -> bytes:
        dice = self._dice
        at = dice.randint(0, len(sample))
        to = min(len(sample), at + dice.choice([1, 1, 2, 4, 8, 32]))
        match dice.randrange(7):
            case 0 if sample:
                at = dice.randrange(len(sample))
                flipped = sample[at] ^ (1 << dice.randrange(8))
                return sample[:at] + bytes([flipped]) + sample[at + 1 :]
            case 1:
                return sample[:at] + dice.randbytes(to - at) + sample[to:]
            case 2:
                return sample[:at]
            case 3:
                return sample[:at] + sample[to:]
            case 4:
                return sample[:at] + dice.choice(TOKENS) + sample[at:]
            case 5:
                return sample[:at] + other[dice.randint(0, len(other)) :]
            case _:
                return sample[:at] + dice.choice(TOKENS) + sample[to:]

    # Values.

    def _of_values(self, sample: bytes) -> bytes:
        try:
            match self._shape:
                case "msgpack":
                    return msgspec.msgpack.encode(self._worse(msgspec.msgpack.decode(sample)))
                case "framed":
                    body = msgspec.msgpack.encode(self._worse(msgspec.msgpack.decode(sample[4:])))
                    return len(body).to_bytes(4, "big") + body
                case "json":
                    return json.dumps(self._worse(json.loads(sample))).encode()
                case "rlp":
                    return bytes(rlp.encode(self._worse(rlp.decode(sample), rlp_only=True)))
        except (*UNREADABLE, rlp.exceptions.RLPException, ValueError, TypeError, OverflowError):
            pass  # a sample that is no such value, or a value that cannot be encoded
        return sample

    def _worse(self, value: Any, *, rlp_only: bool = False) -> Any:
        """The same value with one place in it changed."""
        dice = self._dice
        if isinstance(value, (list, tuple)) and value and dice.random() < 0.85:
            items = list(value)
            at = dice.randrange(len(items))
            match dice.randrange(8):
                case 0:
                    del items[at]
                case 1:
                    items.insert(at, items[at])
                case 2:
                    items = items * dice.choice([2, 20, 300])
                case _:
                    items[at] = self._worse(items[at], rlp_only=rlp_only)
            return items
        if isinstance(value, dict) and value and dice.random() < 0.85:
            changed = dict(value)
            key = dice.choice(list(changed))
            match dice.randrange(8):
                case 0:
                    del changed[key]
                case 1:
                    changed[self._text()] = changed[key]
                case _:
                    changed[key] = self._worse(changed[key])
            return changed
        return self._odd(value, rlp_only)

    def _odd(self, value: Any, rlp_only: bool) -> Any:
        dice = self._dice
        if isinstance(value, bytes) and dice.random() < 0.7:
            return self._of_bytes(value, value)
        if isinstance(value, str) and dice.random() < 0.4:
            return value[: dice.randint(0, len(value))] + self._text()
        if rlp_only:
            return dice.choice([b"", b"\x00", b"\xff" * 33, [], [b""], [[[]]], dice.randbytes(20)])
        if isinstance(value, int) and dice.random() < 0.7:
            return dice.choice([*NUMBERS, value + 1, value - 1, -value])
        odd: list[Any] = [
            None,
            True,
            0.5,
            float("nan"),
            [],
            {},
            "",
            b"",
            self._text(),
            dice.choice(NUMBERS),
        ]
        nested: Any = []
        for _ in range(dice.choice([1, 50, 900])):
            nested = [nested]
        return dice.choice([*odd, nested, {"a": nested}, [value] * 50])

    def _text(self) -> str:
        dice = self._dice
        odd = [
            "",
            "\0",
            "..",
            "x" * 5000,
            "é" * 40,
            "💥",
            "0x",
            "latest",
            "pending",
            "\u2028",
            "\u202e\u2066",
            "a\rb\x1b[2J",
            "[/]",
            "-0",
        ]
        plain = "".join(dice.choices(string.printable, k=dice.randint(1, 12)))
        return dice.choice([*odd, plain, hex(dice.choice(NUMBERS) % 2**64), "9" * 5000])
