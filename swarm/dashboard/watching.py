"""One question to the node for all browsers, asked again as soon as the answer has changed."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from swarm.errors import SwarmError
from swarm.node.commands.control import ask

PATIENCE_S = 30.0
AGAIN_S = 1.0


@dataclass
class Seen:
    """The node's status as it was last heard; `fault` says why nothing was heard since."""

    status: dict[str, Any] | None = None
    fault: str = "the node is asked for the first time"
    at: float = field(default_factory=time.time)


@dataclass
class Watch:
    """What the node in `directory` says of itself, kept fresh by `run`."""

    directory: Path
    seen: Seen = field(default_factory=Seen)
    _changed: trio.Event = field(default_factory=trio.Event)
    _answers: dict[str, Any] = field(default_factory=dict)

    async def run(self) -> None:
        """Ask for ever. A node that does not answer is asked again, and said to be silent."""
        version = ""
        while True:
            try:
                answer = await self.ask("watch", seen=version)
                version = answer["version"]
                self._take(Seen(answer["status"], ""))
            except SwarmError as error:
                version = ""
                if self.seen.fault != str(error):
                    self._take(Seen(self.seen.status, str(error)))
                await trio.sleep(AGAIN_S)

    async def change(self, patience_s: float = math.inf) -> None:
        """Wait until `seen` is another, but no longer than `patience_s`."""
        with trio.move_on_after(patience_s):
            await self._changed.wait()

    async def ask(self, method: str, /, **arguments: object) -> Any:
        """Ask the node. Raises its error as it raised it, and LocalError if it is silent."""

        def work() -> Any:
            return ask(self.directory, method, PATIENCE_S, **arguments)

        return await trio.to_thread.run_sync(work, abandon_on_cancel=True)  # type: ignore[call-arg]

    async def fresh(self, method: str, /, **arguments: object) -> Any:
        """As `ask`, but once for each status: all browsers share the answer."""
        key = f"{method} {sorted(arguments.items())}"
        answers = self._answers
        if key not in answers:
            answers[key] = await self.ask(method, **arguments)
        return answers[key]

    def forget(self) -> None:
        """Something was done: let all pages ask anew."""
        self._take(self.seen)

    def _take(self, seen: Seen) -> None:
        self.seen, self._answers = seen, {}
        changed, self._changed = self._changed, trio.Event()
        changed.set()
