"""The lines of the list of what rows have spent of their privacy (`rounds.privacy_ledger`)."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from swarm.privacy.guarantee import Mechanism


class Charged(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """A round's steps on this data set. Digests are hex; `from_chain` where this node knew of it by
    the chain alone, after its own list was restored from an older copy."""

    plan: int
    round: int
    base: str
    data_set: str
    data: str
    mechanism: Mechanism
    from_chain: bool = False


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, kw_only=True):
    """The update that a charged round gave, and its meta."""

    plan: int
    round: int
    base: str
    update: str
    meta: str


Entry = Charged | Made


@dataclass(frozen=True)
class Budget:
    """The most that a data set may spend: `[privacy]` of node.toml. `epsilon` None: no limit."""

    epsilon: float | None = None
    delta: float = 1e-5


NO_BUDGET = Budget()
