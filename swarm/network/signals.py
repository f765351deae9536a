"""Waking tasks that wait for something to change."""

from __future__ import annotations

import trio


class Signal:
    """Wakes all who wait, each time; unlike trio.Event it can be set again."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def notify(self) -> None:
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()
