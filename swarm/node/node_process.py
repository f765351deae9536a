"""The process of a node, from `swarm node start` to what ends it."""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from swarm.chain.service import forget_votes
from swarm.chain.store import VoteStore
from swarm.errors import MACHINE_FAULTS, SwarmError
from swarm.node.home.config import NodeConfig, load_config
from swarm.node.home.password import NEXT_KEY, find_passwords, open_with
from swarm.node.home.rotation import next_address, take_next_key
from swarm.node.log_output import open_log
from swarm.node.wiring import MASKED, open_node
from swarm.rounds.masked_secrets import MaskedSecrets

log = logging.getLogger("swarm.node")

M_ARENA_MAX = -8  # as <malloc.h> has it


async def run_node(directory: Path, password: str | None = None) -> None:
    """Run a node until SIGINT or SIGTERM. Raises what ends it otherwise."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for number in signals:
                    log.info("%s: ending", signal.Signals(number).name)
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)
            await keep_running(directory, password)


async def keep_running(directory: Path, password: str | None = None) -> None:
    """Run a node, with one key after the other, until cancelled. Raises what ends it."""
    while True:
        async with open_node(directory, password) as node:
            await node.run()
        await trio.to_thread.run_sync(change_key, directory, node.config, password, node.governs)
        log.info("the node goes on with its new key")


def change_key(directory: Path, config: NodeConfig, password: str | None, governs: bool) -> None:
    """Put the next key of a node that does not run into place, without the votes of the old one,
    but with the secrets of its masked rounds. After a kill, give it again.

    Raises ConfigurationError, and changes nothing, unless both keys are there and open.
    """
    passwords = find_passwords(directory, config, password)
    key = open_with(directory / config.key.file, passwords)
    if next_address(directory) is not None:
        next_key = open_with(directory / NEXT_KEY, passwords)
        MaskedSecrets(directory / MASKED, key).hand_over(next_key)
    if config.chain.rpc_url is None:
        with closing(VoteStore(directory / "chain" / "votes.db")) as votes:
            forget_votes(votes)
    take_next_key(directory, config, governs=governs)


def start_node(directory: Path, password: str | None = None, **log_settings: str) -> None:
    """Blocks; the entry of `swarm node start`. `log_settings` come before those of node.toml.

    Raises SwarmError or OSError (a full disk, say) for what a person can mend.
    """
    settings = msgspec.structs.replace(load_config(directory).log, **log_settings)
    path = open_log(directory, settings)
    if path is not None:
        print(f"the log is in {path}", file=sys.stderr)
    # Training competes for the processor: let threads take turns faster than every 5 ms.
    sys.setswitchinterval(1e-3)
    _share_memory()
    try:
        trio.run(run_node, directory.resolve(), password)
    except BaseExceptionGroup as group:
        expected, rest = group.split(_can_be_mended)
        if expected is None or rest is not None:
            raise
        raise _first(expected) from None


def _share_memory() -> None:
    """Let all threads draw from two pools of glibc's. By default each has one of its own and keeps
    what it ever needed, and work here moves from thread to thread: a node would grow for hours."""
    with suppress(AttributeError, OSError):  # another libc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, 2)


def _can_be_mended(error: BaseException) -> bool:
    """By a person: of the system's errors those of the machine, and those about a file."""
    return isinstance(error, SwarmError) or (
        isinstance(error, OSError) and (error.errno in MACHINE_FAULTS or error.filename is not None)
    )


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
