"""Which notes about members become lines of the log.

Members say of themselves what notes are made of, and one that says something else every few
seconds must not fill the log. So a note is told when it is new, and a bounded number in an hour;
the status shows all that stand.
"""

from __future__ import annotations

from collections.abc import Collection

AN_HOUR_S = 3600.0
MOST_AN_HOUR = 60


class ToldNotes:
    """What was told, and when. Times in seconds, of any one clock."""

    def __init__(self) -> None:
        self._told: dict[str, float] = {}

    def fresh(self, notes: Collection[str], now_s: float) -> list[str]:
        """Those of the standing notes to tell now; they are taken as told."""
        recent = {note for note, at in self._told.items() if now_s < at + AN_HOUR_S}
        self._told = {n: at for n, at in self._told.items() if n in recent or n in notes}
        room = max(0, MOST_AN_HOUR - len(recent))
        found = [note for note in sorted(notes) if note not in self._told][:room]
        self._told.update(dict.fromkeys(found, now_s))
        return found
