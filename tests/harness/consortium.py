"""A consortium of whole nodes in this process, over loopback: for what operators do.

Nodes start and end as a supervisor would have them; commands run in threads, as they would in
processes of their own, and are the shipped ones.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from click.testing import CliRunner

from swarm.chain.genesis import Founder
from swarm.cli import main
from swarm.errors import SwarmError
from swarm.node.commands.control import ask
from swarm.node.home.setup import create_node, found_network, install_network
from swarm.node.node_process import keep_running

PATIENCE_S = 30.0
LOOK_EVERY_S = 0.1


@dataclass
class Consortium:
    """Nodes by the name of their directory."""

    folder: Path
    nursery: trio.Nursery
    cards: dict[str, Founder] = field(default_factory=dict)
    running: dict[str, tuple[trio.CancelScope, trio.Event]] = field(default_factory=dict)

    def make(self, directory: str, name: str | None = None, **settings: Any) -> Path:
        """A new node's directory; its name is the directory's by default."""
        home = self.folder / directory
        listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
        settings = {"password": None, "listen": listen, "http": "127.0.0.1:0"} | settings
        self.cards[directory] = create_node(home, name or directory, **settings)
        return home

    def found(self, directories: Sequence[str]) -> None:
        """Found a consortium, and give every node there is its network file."""
        genesis = found_network([self.cards[name] for name in directories], int(time.time()))
        for directory in self.cards:
            install_network(self.folder / directory, genesis)

    def start(self, directory: str) -> None:
        """Start a node; `end` ends it, and whatever ends it by itself fails the test."""
        scope, over = trio.CancelScope(), trio.Event()
        self.running[directory] = scope, over

        async def run() -> None:
            try:
                with scope:
                    await keep_running(self.folder / directory)
            finally:
                over.set()

        self.nursery.start_soon(run)

    async def end(self, directory: str) -> None:
        scope, over = self.running.pop(directory)
        scope.cancel()
        await over.wait()

    async def command(self, *arguments: object, status: int = 0) -> str:
        """What a command prints; fails the test unless it ends with `status`."""
        invoke = partial(CliRunner().invoke, main, [str(a) for a in arguments])
        done = await trio.to_thread.run_sync(invoke)
        assert done.exit_code == status, f"swarm {arguments}: {done.output}\n{done.exception!r}"
        return done.output

    async def status(self, directory: str) -> dict[str, Any]:
        """What a node says of itself; empty while it does not answer."""
        try:
            found: dict[str, Any] = await trio.to_thread.run_sync(
                ask, self.folder / directory, "status"
            )
        except SwarmError:
            return {}
        return found

    async def until(
        self, what: str, holds: Callable[[], Awaitable[object]], within_s: float = PATIENCE_S
    ) -> None:
        """Wait until something holds; fails the test if it does not in time."""
        with trio.move_on_after(within_s):
            while not await holds():  # noqa: ASYNC110
                await trio.sleep(LOOK_EVERY_S)
            return
        raise AssertionError(f"{what}: not within {within_s:g} s")

    async def connected(self, *directories: str) -> None:
        """Wait until each of these nodes is connected to all other members."""

        async def all_are() -> bool:
            found = [await self.status(name) for name in directories]
            return all(s and len(s["connected"]) == len(s["members"]) - 1 for s in found)

        await self.until(f"{directories} are connected", all_are)

    async def says(self, directory: str, text: str, within_s: float = PATIENCE_S) -> None:
        """Wait until a node's status says this in a note of its own or of a peer, with its name."""

        async def said() -> bool:
            status = await self.status(directory)
            peers = [f"{p['name']}: {note}" for p in status.get("peers", []) for note in p["notes"]]
            return any(text in note for note in [*status.get("notes", []), *peers])

        await self.until(f"{directory} says {text!r}", said, within_s)


def free_port() -> int:
    """A port of loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def open_consortium(
    folder: Path, *founders: str, data: Mapping[str, Path] | None = None
) -> AsyncIterator[Consortium]:
    """A consortium of these founders, whose nodes run and are connected; each with its `data`."""
    async with trio.open_nursery() as nursery:
        made = Consortium(folder, nursery)
        for name in founders:
            made.make(name, data=(data or {}).get(name))
        made.found(founders)
        for name in founders:
            made.start(name)
        await made.connected(*founders)
        yield made
        for name in list(made.running):
            await made.end(name)
