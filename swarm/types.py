"""The nouns that every part of swarm shares: identifiers, and how they are written.

Nothing here does anything. Identifiers are plain bytes or strings under a name of their own, so
that a type checker tells an account from a digest while the wire and the disk see bytes.
"""

from __future__ import annotations

from typing import NewType

Address = NewType("Address", bytes)
"""20 bytes: the account of a member, or the address of its node key."""

Digest = NewType("Digest", bytes)
"""32 bytes: the name of a blob, a block, a plan or a transaction."""

MemberId = NewType("MemberId", int)
"""The contract's number for a member, 0..255. It gives the member order, and is never reused."""

PlanId = NewType("PlanId", int)
"""The contract's number for a training plan, counted from 1."""

NO_DIGEST = Digest(bytes(32))
NO_ADDRESS = Address(bytes(20))


def to_hex(value: bytes) -> str:
    """`0x`-prefixed lower-case hexadecimal."""
    return "0x" + value.hex()


def to_address(value: str | bytes) -> Address:
    """Read 20 bytes from hexadecimal text, with or without `0x`, or from bytes.

    Raises ValueError if it is anything else.
    """
    return Address(_sized(value, 20, "address"))


def to_digest(value: str | bytes) -> Digest:
    """Read 32 bytes from hexadecimal text, with or without `0x`, or from bytes.

    Raises ValueError if it is anything else.
    """
    return Digest(_sized(value, 32, "digest"))


def _sized(value: str | bytes, size: int, what: str) -> bytes:
    if isinstance(value, str):
        try:
            raw = bytes.fromhex(value.removeprefix("0x"))
        except ValueError:
            raise ValueError(
                f"{value!r} is not {2 * size} hexadecimal digits, as an {what} must be"
            ) from None
    else:
        raw = bytes(value)
    if len(raw) != size:
        raise ValueError(f"an {what} has {size} bytes, but {value!r} has {len(raw)}")
    return raw
