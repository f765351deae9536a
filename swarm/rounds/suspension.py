"""Whether this process was stopped for a while: by SIGSTOP, or a machine that had no time for it.

What runs out while a process is stopped runs out at the moment it goes on, before any of what came
meanwhile is looked at. Who judges others by the time they take must know that. (While a whole
machine sleeps, its monotonic clock does as well: nothing runs out then.)
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from swarm.errors import PeerUnreachable, SwarmError

log = logging.getLogger("swarm.node")

BEAT_S = 0.25
OVERSLEPT_S = 1.0
"""A beat that comes so late was slept through; a busy machine is later than that as well."""


async def once_more_if_overslept(function: Callable[[], Awaitable[None]]) -> None:
    """Call `function`; if it gives a peer up and this process was stopped meanwhile, once more.

    Raises what the last call raises.
    """
    failure: SwarmError | None = None
    overslept = False
    async with trio.open_nursery() as nursery:
        beats = _Beats()
        nursery.start_soon(beats.go_on)
        try:
            await function()
        except SwarmError as error:  # the nursery would wrap it
            # Without its traceback: that would keep what `function` held, its files too.
            failure = error.with_traceback(None)
        overslept = beats.overslept()
        nursery.cancel_scope.cancel()
    if failure is None:
        return
    if not (overslept and isinstance(failure, PeerUnreachable)):
        try:
            raise failure
        finally:
            del failure  # or it and this frame would keep each other
    log.info("this process was stopped for a while; asking again: %s", failure)
    await function()


class _Beats:
    """Notices when the time between two of its beats is far too long."""

    def __init__(self) -> None:
        self._last = trio.current_time()
        self._longest_s = 0.0

    async def go_on(self) -> None:
        while True:
            await trio.sleep(BEAT_S)
            self._note()

    def overslept(self) -> bool:
        self._note()  # whoever runs out first at the waking may ask before the next beat
        return self._longest_s > BEAT_S + OVERSLEPT_S

    def _note(self) -> None:
        now = trio.current_time()
        self._longest_s = max(self._longest_s, now - self._last)
        self._last = now
