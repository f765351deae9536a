"""A small consortium of real nodes in one thread of this process, for tests of commands.

Each node is what `swarm node start` opens: its own directory, chain, network and control socket,
all on loopback. Only the process is shared, so that it is up within a second.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import outcome
import trio

from swarm.learning.code import bundle
from swarm.node.commands.common import number_in, transact
from swarm.node.node import Node
from swarm.node.plans.library import Library
from swarm.node.plans.programs import Programs
from swarm.node.wiring import open_node
from swarm.protocol.program import federated_averaging
from swarm.protocol.state import Rules
from swarm.types import Digest

UP_S = 60.0
T = TypeVar("T")


class LiveConsortium:
    """Nodes that run until the block of `run_nodes` ends; in the order of their directories."""

    def __init__(self, homes: Sequence[Path]) -> None:
        self.homes = list(homes)
        self.proposed = 0
        """Proposals of all kinds that were made here; the contract has a budget for each day."""
        self._nodes: list[Node] = []
        self._up = threading.Event()
        self._scope = trio.CancelScope()
        self._token: trio.lowlevel.TrioToken | None = None
        self._ended: outcome.Value[None] | outcome.Error = outcome.Value(None)
        self._thread = threading.Thread(target=self._live, name="consortium")

    def wait_connected(self) -> None:
        """Return when every node has a connection to every other."""
        for number in range(len(self.homes)):
            self._call(self._wait_connected, number)

    def propose(self, by: str, plan: Path) -> int:
        """Propose the plan in this folder, without a trainer; returns its number.

        Its model 0 exists nowhere, so that it can be read, answered and stopped, but never runs.
        """
        self.proposed += 1
        return self._call(self._propose, by, plan)

    async def _propose(self, by: str, plan: Path) -> int:
        node = next(n for n in self._nodes if n.directory.name == by)
        code, program = bundle.read(plan), federated_averaging(3, statistics=True)
        Library(node.directory / "plans").add(code)
        Programs(node.directory / "programs").add(program)
        rules = Rules(rounds=program.rounds, min_peers=2)
        what = ("Tiny", code.digest, program.digest, Digest(b"\x01" * 32), rules, 0, 0)
        receipt = await transact(node.chain, "proposePlan", *what)
        return number_in(receipt, "PlanProposed", "plan")

    async def _wait_connected(self, number: int) -> None:
        node, others = self._nodes[number], len(self.homes) - 1
        with trio.fail_after(UP_S):
            while len(node.network.connected) < others:  # noqa: ASYNC110
                await trio.sleep(0.01)

    def _call(self, function: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run an asynchronous function where the nodes live; its answer."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def _live(self) -> None:
        self._ended = outcome.capture(trio.run, self._run)
        self._up.set()

    async def _run(self) -> None:
        with self._scope:
            async with AsyncExitStack() as stack:
                for home in self.homes:
                    self._nodes.append(await stack.enter_async_context(open_node(home)))
                self._token = trio.lowlevel.current_trio_token()
                async with trio.open_nursery() as nursery:
                    for node in self._nodes:
                        nursery.start_soon(node.run)
                    self._up.set()

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
