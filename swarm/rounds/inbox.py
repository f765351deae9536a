"""What has happened and waits for the round machine to hear of it, in order."""

from __future__ import annotations

from contextlib import suppress

import trio

from swarm.protocol.machine import Event

EVENTS_WAITING = 256


class Inbox:
    """The events of one plan."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](EVENTS_WAITING)

    async def put(self, event: Event) -> None:
        """Waits while too many others wait."""
        await self._send.send(event)

    def offer(self, event: Event) -> None:
        """For what does no harm if it is lost, as it is when too many others wait."""
        with suppress(trio.WouldBlock):
            self._send.send_nowait(event)

    async def take(self, within_s: float) -> Event | None:
        """The next event; None if none comes in time."""
        event: Event | None = None
        with trio.move_on_after(within_s):
            event = await self._receive.receive()
        return event
