"""What this site holds a plan to while it runs, whatever the plan's own rules are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SiteLimits:
    """`train_s` and `round_bytes` are of one round; None: no limit. `min_rows` and `min_count` are
    numbers of rows; 0: no minimum."""

    train_s: float | None = None
    round_bytes: int | None = None
    min_rows: int = 0
    min_count: int = 0
    shares_scores: bool = True
    """Whether it tells others the scores of its own model, where a plan asks for them."""


NO_LIMITS = SiteLimits()
