"""Keeping connections over real sockets: settling, restarts, deadlines, limits, shutdown."""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import pytest
import trio

from swarm.errors import AskedTooEarly, ConfigurationError, PeerUnreachable, RemoteError
from swarm.network import Network, NetworkLimits, open_network
from swarm.network.identity import Identity
from swarm.types import Address, Digest

KEYS = [hashlib.sha256(bytes([i])).digest() for i in range(8)]
ADDRESSES = [Identity(key).address for key in KEYS]
ROOT = Digest(b"r" * 32)
EAGER = NetworkLimits(second_dialler_s=0.0)
"""Never waits for the other to dial first."""


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(30):
            await scenario()

    trio.run(bounded)


async def until(condition: Callable[[], bool], within_s: float = 10) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def introduce(*networks: Network) -> None:
    members: Mapping[Address, Sequence[str]] = {n.address: n.addresses for n in networks}
    for network in networks:
        network.set_members(members)
    for network in networks:
        await network.wait_connected(members, 5)


async def echo(sender: Address, payload: bytes) -> bytes:
    return payload


def ignore(_: object) -> None:
    pass


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_port_in_use_is_named_with_a_remedy() -> None:
    async def scenario() -> None:
        async with open_network(KEYS[0]) as a:
            taken = a.addresses[0].split("/p2p/")[0]
            with pytest.raises(ConfigurationError, match="choose another") as caught:
                async with open_network(KEYS[1], [taken]):
                    pass
            assert taken in str(caught.value)

    run(scenario)


def test_simultaneous_dials_settle_on_one_connection_without_flapping() -> None:
    async def scenario() -> None:
        for _ in range(5):
            async with (
                open_network(KEYS[0], limits=EAGER) as a,
                open_network(KEYS[1], limits=EAGER) as b,
            ):
                ups: list[Address] = []
                a.on_connect(ups.append)
                b.on_connect(ups.append)
                b.handle("echo", echo)
                await introduce(a, b)
                await trio.sleep(0.1)
                settled = len(ups)
                assert settled <= 4
                for i in range(20):
                    assert await a.request(b.address, "echo", bytes([i]), deadline_s=5)
                    await trio.sleep(0.005)
                assert len(ups) == settled

    run(scenario)


def test_members_find_each_other_when_only_one_knows_an_address() -> None:
    async def scenario() -> None:
        low, high = sorted(KEYS[:2], key=lambda key: Identity(key).address)
        for knows in (low, high):
            async with open_network(low) as a, open_network(high) as b:
                a.set_members({b.address: b.addresses if knows is low else ()})
                b.set_members({a.address: a.addresses if knows is high else ()})
                await a.wait_connected([b.address], 5)

    run(scenario)


def test_every_address_of_a_member_is_tried_and_bad_ones_are_skipped() -> None:
    async def scenario() -> None:
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as b:
            others = [f"/ip4/127.0.0.1/tcp/{free_port()}", "nonsense", a.addresses[0]]
            a.set_members({b.address: [*others, b.addresses[0].split("/p2p/")[0]]})
            b.set_members({a.address: ()})
            await a.wait_connected([b.address], 5)

    run(scenario)


def test_whoever_answers_at_a_members_address_must_hold_its_key() -> None:
    async def scenario() -> None:
        async with open_network(KEYS[0]) as a, open_network(KEYS[2]) as impostor:
            impostor.set_members({a.address: ()})
            a.set_members({ADDRESSES[1]: [impostor.addresses[0].split("/p2p/")[0]]})
            with pytest.raises(PeerUnreachable):
                await a.wait_connected([ADDRESSES[1]], 0.5)
            assert not a.connected
            assert not impostor.connected

    run(scenario)


def test_a_restart_on_the_same_port_is_noticed_without_being_told() -> None:
    async def scenario() -> None:
        port = f"/ip4/127.0.0.1/tcp/{free_port()}"
        async with open_network(KEYS[0]) as a:
            for _ in range(2):
                async with open_network(KEYS[1], [port]) as b:
                    a.set_members({b.address: [port]})
                    b.set_members({a.address: ()})  # only a dials
                    await a.wait_connected([b.address], 5)
                await until(lambda: not a.connected)

    run(scenario)


CHILD = """
import sys, trio
from swarm.network import open_network

async def main():
    key, port, parent = bytes.fromhex(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3])
    async def hang(sender, payload):
        print("asked", flush=True)
        await trio.sleep_forever()
    class Endless:
        def manifest(self, sender, root): return b""
        def read_chunk(self, sender, root, index): return bytes(1 << 20)
    async with open_network(key, [port]) as network:
        network.handle("hang", hang)
        network.serve_blobs(Endless())
        network.set_members({parent: ()})
        print("up", flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


class ChildNode:
    """A node in a process of its own, which a test may kill or stop."""

    def __init__(self) -> None:
        self.listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
        arguments = [KEYS[1].hex(), self.listen, ADDRESSES[0].hex()]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments], stdout=subprocess.PIPE, text=True
        )

    async def read_line(self) -> str:
        assert self.process.stdout is not None
        return await trio.to_thread.run_sync(self.process.stdout.readline)

    def __enter__(self) -> ChildNode:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def test_a_killed_peer_ends_requests_and_fetches_at_once() -> None:
    async def scenario() -> None:
        with ChildNode() as child:
            assert await child.read_line() == "up\n"
            async with open_network(KEYS[0]) as a:
                a.set_members({ADDRESSES[1]: [child.listen]})
                await a.wait_connected([ADDRESSES[1]], 5)
                ended: list[str] = []
                chunks = 0

                def count(some: Sequence[object]) -> None:
                    nonlocal chunks
                    chunks += len(some)

                async def ask() -> None:
                    with pytest.raises(PeerUnreachable):
                        await a.request(ADDRESSES[1], "hang", b"", deadline_s=20)
                    ended.append("request")

                async def fetch() -> None:
                    with pytest.raises(PeerUnreachable):
                        await a.fetch_chunks(ADDRESSES[1], ROOT, range(50_000), count, stall_s=20)
                    ended.append("fetch")

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask)
                    nursery.start_soon(fetch)
                    assert await child.read_line() == "asked\n"
                    await until(lambda: chunks > 3)
                    os.kill(child.process.pid, signal.SIGKILL)
                    await until(lambda: len(ended) == 2, within_s=5)
                await until(lambda: not a.connected, within_s=5)

    run(scenario)


def test_a_stopped_peer_costs_no_more_than_the_deadline_or_the_stall() -> None:
    async def scenario() -> None:
        with ChildNode() as child:
            assert await child.read_line() == "up\n"
            async with open_network(KEYS[0]) as a:
                a.set_members({ADDRESSES[1]: [child.listen]})
                await a.wait_connected([ADDRESSES[1]], 5)
                os.kill(child.process.pid, signal.SIGSTOP)
                start = trio.current_time()
                with pytest.raises(PeerUnreachable):
                    await a.request(ADDRESSES[1], "hang", bytes(2**21), deadline_s=0.3)
                with pytest.raises(PeerUnreachable):
                    await a.fetch_chunks(ADDRESSES[1], ROOT, [0], ignore, stall_s=0.3)
                for _ in range(3000):
                    a.send(ADDRESSES[1], "news", bytes(1000))
                assert trio.current_time() - start < 2
                (peer,) = a.status()["peers"].values()  # type: ignore[attr-defined]
                assert peer["dropped_messages"] > 0

    run(scenario)


def test_a_cancelled_fetch_leaves_the_connection_whole() -> None:
    class Endless:
        def manifest(self, sender: Address, root: Digest) -> bytes:
            return b""

        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            return bytes([index % 256]) * 2**20

    async def scenario() -> None:
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as b:
            await introduce(a, b)
            b.handle("echo", echo)
            b.serve_blobs(Endless())
            ups: list[Address] = []
            a.on_connect(ups.append)
            for _ in range(30):
                with trio.move_on_after(0.02):
                    await a.fetch_chunks(b.address, ROOT, range(500), ignore, stall_s=5)
                assert await a.request(b.address, "echo", bytes(99), deadline_s=5) == bytes(99)
            got: list[bytes] = []
            await a.fetch_chunks(
                b.address,
                ROOT,
                [7],
                lambda chunks: got.extend(bytes(c) for _, c in chunks),
                stall_s=5,
            )
            assert got == [b"\x07" * 2**20]
            assert ups == []

            def streams(network: Network) -> int:
                (peer,) = network._peers.values()
                assert peer.connection is not None
                muxer = peer.connection._muxer
                return max(len(muxer.streams), len(muxer.stream_events), len(muxer.stream_buffers))

            await until(lambda: streams(a) == 1 and streams(b) == 1)  # the control stream

    run(scenario)


def test_one_that_asks_too_early_gets_its_answer_with_the_next_news() -> None:
    news = trio.Event()
    looks: list[bool] = []

    class Behind:
        def manifest(self, sender: Address, root: Digest) -> bytes:
            looks.append(news.is_set())
            if not news.is_set():
                raise AskedTooEarly("not yet", news.wait)
            return b"manifest"

        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            return b""

    async def scenario() -> None:
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as b:
            await introduce(a, b)
            b.serve_blobs(Behind())
            with pytest.raises(RemoteError, match="not yet"):
                await a.fetch_manifest(b.address, ROOT, deadline_s=5)
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def ask() -> None:
                    assert await a.fetch_manifest(b.address, ROOT, deadline_s=5) == b"manifest"

                await until(lambda: len(looks) == 2)
                news.set()

    run(scenario)
    assert looks == [False, False, True]


def test_a_provider_that_hangs_is_given_up_after_the_stall() -> None:
    release = threading.Event()

    class Stuck:
        def manifest(self, sender: Address, root: Digest) -> bytes:
            return b""

        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            if index:
                release.wait(10)
            return b"chunk" * 300_000

    async def scenario() -> None:
        limits = NetworkLimits(max_chunk_bytes=2 * 2**20)
        async with open_network(KEYS[0], limits=limits) as a, open_network(KEYS[1]) as b:
            await introduce(a, b)
            b.serve_blobs(Stuck())
            got: list[int] = []
            with pytest.raises(PeerUnreachable, match=r"nothing for 0\.3 s"):
                await a.fetch_chunks(
                    b.address,
                    ROOT,
                    [0, 1],
                    lambda chunks: got.extend(i for i, _ in chunks),
                    stall_s=0.3,
                )
            assert got == [0]
            release.set()

    run(scenario)


def test_a_local_fault_of_the_server_is_refused_without_telling_paths() -> None:
    class Broken:
        def manifest(self, sender: Address, root: Digest) -> bytes:
            raise OSError(5, "Input/output error", "/var/lib/swarm/blobs/secret")

        def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes:
            raise OSError(5, "Input/output error", "/var/lib/swarm/blobs/secret")

    async def scenario() -> None:
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as b:
            await introduce(a, b)
            b.serve_blobs(Broken())
            for attempt in (
                a.fetch_manifest(b.address, ROOT, deadline_s=5),
                a.fetch_chunks(b.address, ROOT, [0], ignore, stall_s=5),
            ):
                with pytest.raises(RemoteError, match="cannot be read here") as caught:
                    await attempt
                assert "secret" not in str(caught.value)

    run(scenario)


def test_more_requests_than_a_peer_may_have_are_refused_not_queued() -> None:
    async def scenario() -> None:
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as b:
            await introduce(a, b)
            release = trio.Event()

            async def wait(sender: Address, payload: bytes) -> bytes:
                await release.wait()
                return b""

            b.handle("wait", wait)
            answered, refused = 0, 0

            async def ask() -> None:
                nonlocal answered, refused
                try:
                    await a.request(b.address, "wait", b"", deadline_s=10)
                    answered += 1
                except RemoteError as error:
                    refused += "too many requests" in str(error)

            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(ask)
                await until(lambda: refused == 4)
                release.set()
            assert (answered, refused) == (16, 4)

    run(scenario)


def test_connections_come_and_go_without_leaving_tasks_or_sockets() -> None:
    async def scenario() -> None:
        async with open_network(KEYS[0]) as a:

            def burden() -> tuple[int, int]:
                return trio.lowlevel.current_statistics().tasks_living, len(
                    os.listdir("/proc/self/fd")
                )

            async def visit(times: int) -> None:
                for _ in range(times):
                    async with open_network(KEYS[1], limits=EAGER) as b:
                        a.set_members({b.address: ()})
                        b.set_members({a.address: a.addresses})
                        await b.wait_connected([a.address], 5)
                    await until(lambda: not a.connected)

            await visit(3)
            await trio.sleep(0.2)
            gc.collect()
            before = burden()
            await visit(20)
            await trio.sleep(0.2)
            gc.collect()
            assert burden() == before

    run(scenario)


def test_shutdown_is_quick_and_silent(capfd: pytest.CaptureFixture[str]) -> None:
    async def scenario() -> None:
        start = 0.0
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as b:
            await introduce(a, b)

            async def hang(sender: Address, payload: bytes) -> bytes:
                await trio.sleep_forever()
                return b""

            b.handle("hang", hang)
            with pytest.raises(PeerUnreachable):
                await a.request(b.address, "hang", b"", deadline_s=0.05)
            start = time.perf_counter()
        assert time.perf_counter() - start < 1

    run(scenario)
    assert capfd.readouterr() == ("", "")


def test_an_error_inside_the_block_comes_out_as_itself() -> None:
    async def scenario() -> None:
        with pytest.raises(BaseExceptionGroup) as caught:
            async with open_network(KEYS[0]):
                raise ConfigurationError("stop")
        assert caught.group_contains(ConfigurationError, match="stop")

    run(scenario)


def test_a_standby_is_answered_what_is_meant_for_it_and_nothing_else() -> None:
    async def scenario() -> None:
        heard: list[bytes] = []
        async with open_network(KEYS[0]) as a, open_network(KEYS[1]) as standby:
            a.handle("greeting", echo)
            a.handle("code", echo)
            a.on_message("chain", lambda sender, payload: heard.append(payload))
            a.on_message("gossip", lambda sender, payload: heard.append(payload))
            a.serve_observers("greeting", "chain")
            a.set_members({standby.address: ()}, observers=[standby.address])
            standby.set_members({a.address: a.addresses})
            await standby.wait_connected([a.address], 5)
            assert await standby.request(a.address, "greeting", b"a", deadline_s=5)
            with pytest.raises(RemoteError, match="a standby may not use 'code'"):
                await standby.request(a.address, "code", b"", deadline_s=5)
            with pytest.raises((PeerUnreachable, RemoteError)):
                await standby.fetch_chunks(a.address, ROOT, [0], lambda chunks: None, stall_s=1)
            standby.send(a.address, "gossip", b"no")
            standby.send(a.address, "chain", b"yes")
            await until(lambda: b"yes" in heard)
            assert heard == [b"yes"]
            a.set_members({standby.address: ()})  # it has taken over
            assert await standby.request(a.address, "code", b"a", deadline_s=5)

    run(scenario)
