"""P-256, the only curve that libp2p asks for."""

from __future__ import annotations

from dataclasses import dataclass

COORDINATE_BYTES = 32


@dataclass(frozen=True)
class Curve:
    """A curve's name, and the order of its base point."""

    name: str
    q: int


P256 = Curve("P256", 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551)
