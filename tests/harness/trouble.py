"""What may happen to a joint world, and how often at most. `harness.mischief` makes it happen."""

from __future__ import annotations

from dataclasses import dataclass

from harness.simnet import Weather

ROUGH = Weather(loss=0.02, duplication=0.02, reordering=0.05)


@dataclass(frozen=True)
class Trouble:
    """What may happen until `until_s`; at most so often. Times in virtual seconds."""

    until_s: float = 40.0
    patience_s: float = 400.0
    crashes: int = 3
    absences: int = 1
    leader_deaths: int = 2
    proposer_deaths: int = 1
    lost_votes: int = 2
    forgets: float = 0.5
    """Chance that votes get lost at all, which leaves no room for members to leave."""
    stops: int = 1
    sleeps: int = 1
    cuts: int = 2
    withdrawals: int = 1
    late_answers: int = 1
    """Invited members that do not consent at once: they decline first, or say nothing."""
    expiries: int = 1
    """Consents that end in mid-plan."""
    testers: int = 1
    """Members that do not train."""
    cancellations: int = 1
    contacts: int = 2
    dated: float = 0.1
    carried: float = 0.1
    removals: int = 1
    admissions: int = 1
    new_keys: int = 1
    liars: int = 0
    skew_s: float = 0.9
    weather: Weather = ROUGH
    longest_training_s: float = 12.0
    fetch_loss: float = 0.1
