"""When an alert is posted: once it has stood for a few seconds, and then once.

What was posted is kept in a file, so that a restart does not repeat it. An alert may come again
when its cause was gone for ten minutes: a member that comes and goes is one alert, not a hundred.
While the receiver does not answer, what is to be posted waits, a bounded number of it; the node
waits for nothing of this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import trio

from swarm.errors import UNREADABLE, SwarmError, system_fault
from swarm.node.alerts.causes import Alert
from swarm.node.home.keys import replace_secret
from swarm.visible import visible

log = logging.getLogger("swarm.node")

FILE = "alerts.json"
START_S = 10.0
"""After a start, before the first look: until then members are still being dialled."""
LOOK_EVERY_S = 4.0
FORGET_S = 600.0
FIRST_PAUSE_S, LAST_PAUSE_S = 1.0, 60.0
"""Between attempts to post, doubling."""
MAX_WAITING = 64
"""What else stands meanwhile waits for room."""
MAX_TOLD = 1024


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON that a webhook is sent. `id` is the same when the same alert is sent again."""

    id: str
    node: str
    """The institution whose node says so."""
    alert: str
    """What it is about: the same each time that this cause comes back."""
    cause: str
    command: str
    since: str
    """When this node saw it first: ISO 8601, UTC."""
    text: str
    """The same for people, in one line: chat programs show it."""


_told = msgspec.json.Decoder(dict[str, str])


@dataclass
class Standing:
    """Which alerts stand, were posted, and are due. Times in seconds of one clock that never goes
    back, but for `unix_s`."""

    node: str
    told: dict[str, str] = field(default_factory=dict)
    """What was posted and has not been over for long: the id of the message, by key."""
    waiting: dict[str, Message] = field(default_factory=dict)
    _since: dict[str, tuple[str, float, float]] = field(default_factory=dict)
    """By key: the detail, when it was seen first, and that in Unix seconds."""
    _over: dict[str, float] = field(default_factory=dict)
    """Since when a told alert does not stand."""

    def look(self, alerts: Sequence[Alert], now_s: float, unix_s: float) -> None:
        """Take in what stands now; what is due waits to be posted from now on."""
        standing = {alert.key: alert for alert in alerts}
        self._since = {key: at for key, at in self._since.items() if key in standing}
        for key, alert in standing.items():
            if self._since.get(key, ("",))[0] != alert.detail or key not in self._since:
                self._since[key] = alert.detail, now_s, unix_s
            _, began_s, began_unix_s = self._since[key]
            is_new = key not in self.told and key not in self.waiting
            if is_new and now_s - began_s >= alert.settle_s and self._has_room():
                self.waiting[key] = message_of(self.node, alert, began_unix_s)
        self._over = {k: self._over.get(k, now_s) for k in self.told if k not in standing}
        for key, at in self._over.items():
            if now_s - at >= FORGET_S:
                del self.told[key]

    def _has_room(self) -> bool:
        return len(self.waiting) < MAX_WAITING and len(self.told) < MAX_TOLD

    def posted(self, key: str) -> None:
        """The message that waited under this key has arrived."""
        self.told[key] = self.waiting.pop(key).id


def message_of(node: str, alert: Alert, unix_s: float) -> Message:
    """What is posted of an alert that stands since `unix_s`."""
    return Message(
        id=f"{node}: {alert.key}, {unix_s:.3f}",
        node=node,
        alert=alert.key,
        cause=visible(alert.cause),
        command=visible(alert.command),
        since=datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds"),
        text=visible(f"{node}: {alert.cause}. Next: {alert.command}"),
    )


@dataclass
class Alerting:
    """`find` gives what stands now, `post` sends one message or raises SwarmError; both return in
    bounded time."""

    node: str
    path: Path
    """The file of what was posted."""
    find: Callable[[], Awaitable[Sequence[Alert]]]
    post: Callable[[Message], Awaitable[None]]
    fault: str = ""
    """Why the last attempt to post did not succeed."""
    _news: trio.Event = field(default_factory=trio.Event)
    _keeping: trio.Lock = field(default_factory=trio.Lock)

    async def run(self) -> None:
        """Look and post for as long as the node runs."""
        standing = Standing(self.node, self._read())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, standing)
            await trio.sleep(START_S)
            while True:
                before = set(standing.told)
                standing.look(await self.find(), trio.current_time(), time.time())
                if set(standing.told) != before:
                    await self._keep(standing)
                if standing.waiting:
                    self._news.set()
                await trio.sleep(LOOK_EVERY_S)

    async def try_out(self) -> None:
        """Post a message that is no alert. Raises SwarmError if it cannot be."""
        trial = Alert(key="trial", cause="somebody tries whether alerts arrive", command="nothing")
        await self.post(message_of(self.node, trial, time.time()))

    async def _send(self, standing: Standing) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            if not standing.waiting:
                self._news = trio.Event()
                await self._news.wait()
            key, message = next(iter(standing.waiting.items()))
            try:
                await self.post(message)
            except SwarmError as error:
                if self.fault != str(error):
                    log.warning("an alert is not delivered, and is tried again: %s", error)
                self.fault = str(error)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
                continue
            self.fault, pause_s = "", FIRST_PAUSE_S
            standing.posted(key)
            await self._keep(standing)

    def _read(self) -> dict[str, str]:
        try:
            return _told.decode(self.path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, *UNREADABLE) as error:
            log.warning(
                "%s cannot be read (%s): alerts that stand are sent again", self.path, error
            )
            return {}

    async def _keep(self, standing: Standing) -> None:
        text = msgspec.json.format(msgspec.json.encode(standing.told), indent=2)
        try:
            async with self._keeping:
                await trio.to_thread.run_sync(replace_secret, self.path, text)
        except OSError as error:
            log.warning("after a restart alerts are sent again: %s", system_fault(error))
