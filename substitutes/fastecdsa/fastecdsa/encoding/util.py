"""Integers as bytes."""

from __future__ import annotations


def int_bytelen(x: int) -> int:
    """How many bytes `x` needs; none for zero."""
    return (x.bit_length() + 7) // 8
