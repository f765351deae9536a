"""What the command line may ask of a running node, and what all commands have in common.

Arguments and answers are JSON. `member_commands`, `plan_commands` and `model_commands` hold most of
them, by what they are about; the node serves them by name on its control socket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio
from blake3 import blake3

from swarm.chain.client import Receipt
from swarm.errors import ChainError, ConfigurationError, ContractError
from swarm.node.chain.link import ChainLink
from swarm.node.commands.control import Handler
from swarm.node.commands.refusals import in_words
from swarm.node.status import NodeStatus
from swarm.protocol.state import Member
from swarm.types import MemberId, to_hex

DEADLINE_S = 60.0
WATCH_S = 20.0
WATCH_STEP_S = 0.5
VERSION_BYTES = 8


@dataclass(frozen=True)
class NodeCommands:
    """What a node is asked about itself."""

    chain: ChainLink
    read_status: Callable[[], NodeStatus]
    copy_to: Callable[[Path], None] | None = None
    """Writes the chain to a new file, where it is kept here."""
    describe_blocks: Callable[[int], list[dict[str, Any]]] | None = None
    try_alert: Callable[[], Awaitable[None]] | None = None
    """Posts a message for trial, where node.toml names a webhook."""

    @property
    def by_name(self) -> dict[str, Handler]:
        return {
            "status": self.status,
            "wait_for_head": self.wait_for_head,
            "watch": self.watch,
            "copy_chain": self.copy_chain,
            "blocks": self.blocks,
            "try_alert": self.alert,
        }

    async def blocks(self, newest: int) -> object:
        """So many of the newest blocks, in words."""
        if self.describe_blocks is None:
            raise ConfigurationError("this node keeps no chain: its consortium's is external")
        return await trio.to_thread.run_sync(self.describe_blocks, newest)

    async def copy_chain(self, path: str) -> object:
        """Write the chain, as of this moment, to the new file `path`."""
        if self.copy_to is None:
            raise ConfigurationError("this node keeps no chain: its consortium's is external")
        await trio.to_thread.run_sync(self.copy_to, Path(path))
        return {}

    async def alert(self) -> object:
        """Post a message for trial to this node's webhook."""
        if self.try_alert is None:
            raise ConfigurationError(
                "no webhook is named: write `webhook` under `[alerts]` in node.toml, and restart "
                "the node"
            )
        await self.try_alert()
        return {}

    async def status(self) -> object:
        return self.read_status()

    async def watch(self, seen: str = "") -> object:
        """The status as soon as it is another than the one of the version `seen`, or once WATCH_S
        have passed: {"version": …, "status": …}."""
        answer = self._versioned()
        for _ in range(round(WATCH_S / WATCH_STEP_S)):
            if answer["version"] != seen:
                break
            await trio.sleep(WATCH_STEP_S)
            answer = self._versioned()
        return answer

    def _versioned(self) -> dict[str, object]:
        status = self.read_status()
        version = blake3(msgspec.json.encode(status, enc_hook=list)).hexdigest(VERSION_BYTES)
        return {"version": version, "status": status}

    async def wait_for_head(self, above: int) -> object:
        """The head's height as soon as it is greater, for those who would ask again and again."""
        return await self.chain.wait_for_head(above)


async def transact(chain: ChainLink, function: str, *arguments: object) -> Receipt:
    """Send what a person asked for, and wait for its block. Raises ConfigurationError with the
    contract's refusal, and ChainError if it was not carried out in time; then it never will be."""
    try:
        return await chain.transact(function, *arguments, deadline_s=DEADLINE_S, expires=True)
    except ContractError as error:
        raise in_words(error) from error
    except ChainError as error:
        missing = ", ".join(map(to_hex, chain.missing()))
        waits = f"The chain waits for {missing}. " if missing else ""
        raise ChainError(
            f"{error}. It has expired: no block from now on will carry it out. {waits}Ask again "
            "once the chain goes on; `swarm node status` says whom it waits for"
        ) from error


def find_member(wanted: str, members: Mapping[MemberId, Member]) -> Member:
    """The present member with this name, number or account. Raises ConfigurationError, also where
    one member's name is the number of another."""
    found = [
        member
        for member in members.values()
        if member.present and wanted in (member.name, str(member.id), to_hex(member.account))
    ]
    if len(found) == 1:
        return found[0]
    if found:
        accounts = " and ".join(f"{m.name} ({to_hex(m.account)})" for m in found)
        raise ConfigurationError(f"{wanted!r} may be {accounts}: give the account")
    names = ", ".join(m.name for m in members.values() if m.present)
    raise ConfigurationError(f"no member is called {wanted!r}; there are: {names}")


def number_in(receipt: Receipt, event: str, argument: str) -> int:
    """The number that the contract gave to what a transaction made, from its own event."""
    [made] = [e for e in receipt.events if e.name == event]
    return int(str(made.arguments[argument]))
