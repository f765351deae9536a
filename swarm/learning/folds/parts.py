"""What the parts of a fold have in common: checked numbers, one way to write them, words.

A fold is agreed on by its bytes: they are part of a plan's program, whose digest stands on the
chain. So there is exactly one way to write a part: its name (a byte of length, then ASCII), the
length of the rest (a byte), and its numbers in order, each in 8 bytes, big-endian: whole numbers as
such, others as the bits of a float64. Who does not know a name can still say which it was.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, NamedTuple, Self, get_args, get_type_hints

from swarm.errors import BlobError, PlanError


class Within(NamedTuple):
    """The smallest and the largest value that a number of a fold may have."""

    low: float
    high: float


Count = Annotated[int, Within(1, 126)]
"""Of contributors: a plan has at most 256 members."""
Rate = Annotated[float, Within(1e-9, 1e3)]
Decay = Annotated[float, Within(0.0, 0.999999)]
"""How much of a moving average stays at each step."""


@dataclass(frozen=True)
class Part:
    """A reduce or a step. Raises PlanError if a number is not within its bounds."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for name, (kind, within) in numbers_of(type(self)).items():
            checked = _check(f"{self.name}: {name}", getattr(self, name), kind, within)
            object.__setattr__(self, name, checked)

    def encode(self) -> bytes:
        """The one way to write it."""
        values = [(getattr(self, name), kind) for name, (kind, _) in numbers_of(type(self)).items()]
        body = b"".join(struct.pack(">q" if kind is int else ">d", v) for v, kind in values)
        return bytes([len(self.name)]) + self.name.encode("ascii") + bytes([len(body)]) + body

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """From the numbers as `encode` writes them. Raises BlobError for others, PlanError for
        numbers that are not within their bounds."""
        kinds = [kind for kind, _ in numbers_of(cls).values()]
        if len(body) != 8 * len(kinds):
            raise BlobError(
                f"{cls.name} has {len(kinds)} numbers of 8 bytes, not {len(body)} bytes"
            )
        return cls(*struct.unpack(">" + "".join("q" if k is int else "d" for k in kinds), body))


def numbers_of(part: type[Part]) -> Mapping[str, tuple[type, Within]]:
    """The numbers of a part by name, in order: their types and bounds."""
    hints = get_type_hints(part, include_extras=True)
    return {field.name: get_args(hints[field.name]) for field in fields(part)}


def _check(what: str, value: Any, kind: type, within: Within) -> int | float:
    allowed = int if kind is int else (int, float)
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise PlanError(f"{what} is {value!r}, but must be {_told(kind)}")
    if not within.low <= value <= within.high:
        raise PlanError(f"{what} is {value}, but must be from {within.low} to {within.high}")
    return int(value) if kind is int else float(value) + 0.0  # so that no zero is negative


def _told(kind: type) -> str:
    return "a whole number" if kind is int else "a number"


def read_part(raw: bytes) -> tuple[str, bytes, bytes]:
    """The name and the numbers of the part that begins `raw`, and what follows it. Raises
    BlobError if it is cut off."""
    name, rest = _cut(raw)
    body, rest = _cut(rest)
    try:
        return name.decode("ascii"), body, rest
    except UnicodeDecodeError:
        raise BlobError(f"the name of a fold is not ASCII: {name!r}") from None


def _cut(raw: bytes) -> tuple[bytes, bytes]:
    if not raw or len(raw) <= raw[0]:
        raise BlobError("a fold is cut off")
    return raw[1 : 1 + raw[0]], raw[1 + raw[0] :]
