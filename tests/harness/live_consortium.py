"""A small consortium of real nodes in one thread of this process, for tests of commands.

Each node is what `swarm node start` opens: its own directory, chain, network and control socket,
all on loopback. Only the process is shared, so that it is up within a second.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import outcome
import trio

from swarm.learning.code import bundle
from swarm.node.commands.common import number_in, transact
from swarm.node.node import Node
from swarm.node.node_process import change_key
from swarm.node.plans.library import Library
from swarm.node.plans.programs import Programs
from swarm.node.wiring import open_node
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Rules
from swarm.types import Address, Digest

UP_S = 60.0
LOOK_EVERY_S = 0.02
T = TypeVar("T")
_follow = Node.run
"""As it is, whatever a test makes of it for a node that its command starts."""


class LiveConsortium:
    """Nodes that run until the block of `run_nodes` ends; in the order of their directories."""

    def __init__(self, homes: Sequence[Path]) -> None:
        self.homes = list(homes)
        self.proposed = 0
        """Proposals of all kinds that were made here; the contract has a budget for each day."""
        self.spent = False
        """Whether keys have changed here, so that tasks which know the first ones cannot go on."""
        self._nodes: dict[str, Node] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        self._nursery: trio.Nursery | None = None
        self._up = threading.Event()
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._ended: outcome.Value[None] | outcome.Error = outcome.Value(None)
        self._thread = threading.Thread(target=self._live, name="consortium")

    def wait_connected(self) -> None:
        """Return when every node has a connection to every other."""
        for home in self.homes:
            self._call(self._wait_connected, home.name, len(self.homes) - 1)

    def start_standby(self, home: Path, of: str) -> None:
        """Run the standby of this node in one more directory; return when it is up, synchronised,
        and connected to all nodes but its member's own, which it does not stay connected to."""
        others = {node.network.address for name, node in self._nodes.items() if name != of}
        height = max(node.seen.height for node in self._nodes.values())
        self._call(self._start, home)
        self.homes.append(home)
        self._call(self._wait_for, home.name, others)
        self._call(self._wait_height, home.name, height)

    def stop(self, name: str) -> None:
        """End a node; return when no other is connected to it."""
        gone, others = self._nodes[name].network.address, [n for n in self._nodes if n != name]
        trio.from_thread.run_sync(self._scopes[name].cancel, trio_token=self._token)
        for other in others:
            self._call(self._wait_gone, other, gone)

    def propose(self, by: str, plan: Path) -> int:
        """Propose the plan in this folder, without a trainer; returns its number.

        Its model 0 exists nowhere, so that it can be read, answered and stopped, but never runs.
        """
        self.proposed += 1
        return self._call(self._propose, by, plan)

    async def _propose(self, by: str, plan: Path) -> int:
        node = self._nodes[by]
        code, program = bundle.read(plan), federated_averaging(3, statistics=True)
        Library(node.directory / "plans").add(code)
        Programs(node.directory / "programs").add(program)
        rules = Rules(rounds=program.rounds, min_peers=2)
        what = ("Tiny", code.digest, program.digest, Digest(b"\x01" * 32), rules, 0, 0)
        receipt = await transact(node.chain, "proposePlan", *what)
        return number_in(receipt, "PlanProposed", "plan")

    async def _wait_connected(self, name: str, others: int) -> None:
        await self._until(lambda: len(self._nodes[name].network.connected) >= others)

    async def _wait_for(self, name: str, others: set[Address]) -> None:
        await self._until(lambda: others <= self._nodes[name].network.connected)

    async def _wait_height(self, name: str, height: int) -> None:
        await self._until(lambda: self._nodes[name].seen.height >= height)

    async def _wait_gone(self, name: str, address: Address) -> None:
        await self._until(lambda: address not in self._nodes[name].network.connected)

    async def _until(self, holds: Callable[[], bool]) -> None:
        with trio.fail_after(UP_S):
            while not holds():  # noqa: ASYNC110
                await trio.sleep(LOOK_EVERY_S)

    def _call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run an asynchronous function where the nodes live; its answer."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def _live(self) -> None:
        self._ended = outcome.capture(trio.run, self._run)
        self._up.set()

    async def _run(self) -> None:
        with self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for home in self.homes:
                    await self._start(home)
                self._token = trio.lowlevel.current_trio_token()
                self._up.set()

    async def _start(self, home: Path) -> None:
        assert self._nursery is not None
        up = trio.Event()
        self._nursery.start_soon(self._keep, home, up)
        await up.wait()

    async def _keep(self, home: Path, up: trio.Event) -> None:
        """Run a node with one key after the other, as its process does."""
        with trio.CancelScope() as self._scopes[home.name]:
            while True:
                async with open_node(home) as node:
                    self._nodes[home.name] = node
                    up.set()
                    await _follow(node)
                await trio.to_thread.run_sync(change_key, home, node.config, None, node.governs)

    def _begin(self) -> None:
        self._thread.start()
        self._up.wait(UP_S)
        self._ended.unwrap()

    def _end(self) -> None:
        if self._thread.is_alive() and self._token is not None:
            trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(UP_S)
        self._ended.unwrap()


@contextmanager
def run_nodes(homes: Sequence[Path]) -> Iterator[LiveConsortium]:
    """Run the nodes in these directories. Raises what ends one of them by itself."""
    consortium = LiveConsortium(homes)
    consortium._begin()
    try:
        yield consortium
    finally:
        consortium._end()
