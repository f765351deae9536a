"""Tensors from one trainer to another through both nodes, beside `bench transfer` and a raw socket.

Four processes on loopback: this one is a node, the child is the other, and each has a trainer of
its own, with torch. The stream is that of a round: frames with their book at all four, TLS between
the nodes. In the same run, `measure_transfer` moves a blob of the large size between two nodes, and
over a bare TLS 1.3 socket.
"""

from __future__ import annotations

import argparse
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from swarm.bench.transfer import KEYS, measure_transfer
from swarm.box import frames
from swarm.errors import LocalError
from swarm.network import open_network
from swarm.network.identity import Identity
from swarm.protocol.streams import Conversation
from swarm.types import Address

PROBE = "swarm.learning.training.stream_probe"
START_S = 120.0
MEASURE_S = 300.0


@dataclass(frozen=True)
class End:
    """A node's end of the stream (`network.stream_relay.StreamEnd`)."""

    near: socket.socket
    book: Conversation
    asks: bool
    leaving: Callable[[int], None]


def measure_stream(
    small_bytes: int, large_bytes: int, trips: int, count: int, directory: Path
) -> dict[str, Any]:
    """`trips` round trips of the small size and `count` tensors of the large one; then a transfer.

    Raises LocalError if a process cannot be started or ends.
    """
    command = [sys.executable, "-P", "-m", "swarm.bench.stream", "--large", str(large_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        try:
            found = trio.run(_ask, child, small_bytes, large_bytes, trips, count)
        finally:
            child.terminate()
    transfer = measure_transfer(large_bytes, count, directory)
    return {
        "small_bytes": small_bytes,
        "large_bytes": large_bytes,
        **found,
        "transfer_mb_per_s": transfer["node_mb_per_s"],
        "raw_mb_per_s": transfer["raw_mb_per_s"],
        "ratio_to_transfer": round(found["mb_per_s"] / transfer["node_mb_per_s"], 3),
    }


async def _ask(
    child: subprocess.Popen[bytes], small_bytes: int, large_bytes: int, trips: int, count: int
) -> dict[str, Any]:
    assert child.stdout is not None
    with trio.fail_after(START_S):
        line = await trio.to_thread.run_sync(child.stdout.readline)
    if not line:
        raise LocalError("the process that holds the role ended at its start")
    peer = Identity(KEYS[0]).address
    ours, theirs = socket.socketpair()
    sizes = [f"--small={small_bytes}", f"--large={large_bytes}"]
    probe = [sys.executable, "-P", "-m", PROBE, f"--stream={theirs.fileno()}", *sizes]
    probe += [f"--trips={trips}", f"--count={count}"]
    with ours, theirs:
        async with open_network(KEYS[1]) as network:
            network.set_members({peer: [json.loads(line)["address"]]})
            await network.wait_connected([peer], START_S)
            end = End(ours, Conversation(), True, lambda size_bytes: None)
            async with trio.open_nursery() as nursery:
                with trio.fail_after(MEASURE_S):

                    async def carry() -> None:
                        await network.carry_stream(peer, b"probe", end, deadline_s=START_S)

                    nursery.start_soon(carry)
                    done = await trio.run_process(
                        probe, capture_stdout=True, pass_fds=[theirs.fileno()]
                    )
                nursery.cancel_scope.cancel()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class _Host:
    """The other node: hands each stream to its trainer."""

    def __init__(self, door: socket.socket) -> None:
        self._door = door

    def admit(self, sender: Address, name: bytes) -> None:
        """Whoever asks."""

    def join(self, sender: Address, name: bytes) -> End:
        ours, theirs = socket.socketpair()
        with theirs:
            frames.send(self._door, b"stream", [theirs.fileno()])
        return End(ours, Conversation(), False, lambda size_bytes: None)


async def _hold(door: socket.socket) -> None:
    """The other node: say where it is, and let streams in until ended."""
    async with open_network(KEYS[0]) as network:
        network.serve_streams(_Host(door))
        network.set_members({Identity(KEYS[1]).address: ()})
        print(json.dumps({"address": network.addresses[0]}), flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)  # ends with the benchmark


def main() -> None:
    """Entry point of the other node."""
    parser = argparse.ArgumentParser(description="the holding process of `swarm bench stream`")
    parser.add_argument("--large", type=int, required=True)
    large_bytes = parser.parse_args().large
    door, theirs = socket.socketpair()
    probe = [sys.executable, "-P", "-m", PROBE, f"--door={theirs.fileno()}"]
    with subprocess.Popen([*probe, f"--large={large_bytes}"], pass_fds=[theirs.fileno()]):
        theirs.close()
        with door:
            trio.run(_hold, door)


if __name__ == "__main__":
    main()
