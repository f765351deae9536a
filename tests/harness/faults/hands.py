"""What a lying member asks of the others beside consensus, and what it answers them.

Everything is drawn: transactions from the contract's interface, as liars of simulated days draw
them; requests, frames and tokens as mutations of valid ones, as the fuzzer makes them. It has what
a member has: an authenticated connection to everybody, the chain, and the ports that listen.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio
from eth_account import Account
from eth_utils.address import to_checksum_address

from harness.calls import Calls
from harness.evm import calldata
from harness.fuzz import rpc_grammar
from harness.fuzz.decoders import control_frames
from harness.fuzz.mutations import Mutator, Shape
from harness.fuzz.told import greetings, tallies
from harness.fuzz.wires import strangers_samples
from swarm.chain.client import ConsortiumClient
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.chain.rpc import Method
from swarm.errors import ChainError, RemoteError, SwarmError
from swarm.network.blob_exchange import MANIFEST_METHOD
from swarm.network.bulk import GRANT_METHOD
from swarm.network.bulk_connections import CALL_METHOD
from swarm.network.network import Network
from swarm.network.tcp import dial, parse_endpoint
from swarm.network.wire import BLOB, BulkCall, BulkWanted, ChunksWanted, encode_frame
from swarm.node.commands.control import Request, read_running
from swarm.node.members.greetings import METHOD
from swarm.node.node import Node
from swarm.node.plans import library, programs
from swarm.node.zoo.zoo import LIST, SIGN
from swarm.protocol.attestation import domain_of, node_key_digest, sign
from swarm.protocol.state import Member, Plan
from swarm.rounds import joint_scores
from swarm.types import Address, Digest, MemberId, PlanId, to_hex

JSON = {"Content-Type": "application/json"}
ANSWER_S = 5.0
HOLDS_S = 20.0
LARGEST_CALLDATA = 33 * 1024
STAYS = frozenset(("leave", "setNode", "setStandby"))
"""What it never asks for: it would not be heard any more."""
READING = ("status", "plans", "members", "blocks", "records", "models", "show_plan", "watch")
"""Of the command line's requests, those that change nothing even where they are in order."""
Lie = Callable[[], Any]


@dataclass(frozen=True)
class Surroundings:
    """What `Calls` are drawn from, as the liar's own node knows it."""

    node: Node
    key: bytes
    number: PlanId

    @property
    def plan(self) -> Plan:
        return self.node.seen.plans[self.number]

    @property
    def now(self) -> float:
        return time.time()

    def members_now(self) -> dict[MemberId, Member]:
        return dict(self.node.seen.members)

    def plan_numbers(self) -> list[PlanId]:
        return list(self.node.seen.plans)

    def known_digests(self) -> list[Digest]:
        plan = self.plan
        sent = {} if plan.round is None else plan.round.submissions
        return [
            plan.digest,
            plan.base,
            plan.model,
            plan.program,
            *(s.update for s in sent.values()),
        ]

    def known_signatures(self) -> list[bytes]:
        return [bytes(65)]

    def prove(self, member: MemberId, key: Address) -> bytes:
        client = self.node.chain.client
        return sign(self.key, node_key_digest(domain_of(client.chain_id, client.contract), member))


class Hands:
    """One life of a liar. `run` it once its node takes part in a plan."""

    def __init__(
        self,
        node: Node,
        key: bytes,
        methods: Mapping[str, Method],
        rng: Random,
        told: Counter[str],
    ) -> None:
        self.node = node
        self._methods = methods
        self._rng = rng
        self._told = told
        self._key = key
        (number, *_) = node.joined.parts
        around = Surroundings(node, key, number)
        me = node.seen.me
        assert me is not None
        self._around = around
        self._calls = Calls(rng, me.id, around)
        self._lies: Sequence[tuple[str, Lie]] = (
            *(("calls", self._call),) * 3,
            *(("raw transactions", self._send_raw),),
            *(("requests", self._request),) * 3,
            *(("request floods", self._flood),),
            *(("control frames", self._break_control),),
            *(("blob streams", self._open_blob),) * 2,
            *(("bulk fetches", self._fetch),) * 2,
            *(("strangers", self._knock),) * 2,
            *(("json-rpc", self._ask_rpc),) * 2,
            *(("control sockets", self._ask_control),) * 1,
        )
        self._requests = {
            method: Mutator(rng.randrange(2**32), partial(list, samples), shape)
            for method, (samples, shape) in self._samples().items()
        }

    async def run(self) -> None:
        """Lie for as long as the node runs, a few times a second."""
        rng = self._rng
        pause_s = rng.choice((0.05, 0.2, 0.5))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sit)
            while True:
                await trio.sleep(rng.expovariate(1 / pause_s))
                if len(nursery.child_tasks) < 64:
                    nursery.start_soon(self._do, *rng.choice(self._lies))

    async def _sit(self) -> None:
        await trio.sleep_forever()

    async def _do(self, name: str, lie: Lie) -> None:
        try:
            with trio.move_on_after(HOLDS_S):
                await lie()
            self._told[name] += 1
        except Exception as error:  # noqa: BLE001 (whatever the others make of it, it goes on)
            self._told[f"{name}, then {type(error).__name__}"] += 1

    # The chain.

    def invent(self) -> bytes:
        """A transaction: of its own key or nobody's, in order or not, large or small."""
        rng, client = self._rng, self.node.chain.client
        secret = self._key if rng.random() < 0.8 else rng.randbytes(31).rjust(32, b"\1")
        transaction = {
            "chainId": rng.choice((client.chain_id,) * 5 + (1,)),
            "nonce": rng.choice((0, 1, rng.randrange(200), rng.randrange(2**32))),
            "to": to_checksum_address(
                CONTRACT_ADDRESS if rng.random() < 0.9 else rng.randbytes(20)
            ),
            "value": rng.choice((0, 0, 0, 1)),
            "gas": rng.choice((21_000, 900_000, 1_000_000, 5_000_000, 2**40)),
            "gasPrice": rng.choice((0, 0, 0, 1, 2**60)),
            "data": self._calldata(),
        }
        return bytes(Account.sign_transaction(transaction, secret).raw_transaction)

    def _calldata(self) -> bytes:
        rng = self._rng
        if rng.random() < 0.2:
            return rng.randbytes(rng.choice((0, 3, 4, 100, LARGEST_CALLDATA)))
        while True:
            function, arguments = self._calls.draw()
            named = (function, *arguments[1:2]) if function == "until" else (function,)
            if not STAYS.intersection(map(str, (*named, *arguments[2:3]))):
                return calldata(function, *arguments)

    async def _call(self) -> None:
        client: ConsortiumClient = self.node.chain.client
        data = self._calldata()
        await trio.to_thread.run_sync(client._submit, data)

    async def _send_raw(self) -> None:
        raw = self.invent()
        if self._rng.random() < 0.3:
            raw = Mutator(self._rng.randrange(2**32), lambda: [raw], "rlp").next()
        client = self.node.chain.client
        ask = partial(client._endpoint.ask, "eth_sendRawTransaction", to_hex(raw))
        with suppress(ChainError):
            await trio.to_thread.run_sync(ask)

    # Requests over the control stream.

    def _samples(self) -> dict[str, tuple[list[bytes], Shape]]:
        """Valid requests, by method."""
        plan, here = self._around.plan, self.node.directory
        roots = self._around.known_digests()
        wanted = [BulkWanted(root, [0, 1, 2**31], b"") for root in roots]
        encode = msgspec.msgpack.encode
        return {
            library.METHOD: ([plan.digest], "bytes"),
            programs.METHOD: ([plan.program], "bytes"),
            joint_scores.METHOD: (tallies(here), "json"),
            METHOD: (greetings(here), "msgpack"),
            SIGN: ([encode({"plan": plan.id, "chain_round": 2})], "msgpack"),
            LIST: ([b"x"], "bytes"),
            MANIFEST_METHOD: (list(roots), "bytes"),
            GRANT_METHOD: (list(map(encode, wanted)), "msgpack"),
            CALL_METHOD: ([encode(BulkCall(bytes(32), [4001]))], "msgpack"),
            "no.such": ([b""], "bytes"),
        }

    def _peer(self) -> Address:
        connected = sorted(self._network.connected)
        if not connected:
            raise RemoteError("nobody is here")
        return self._rng.choice(connected)

    @property
    def _network(self) -> Network:
        return self.node.network

    async def _request(self) -> None:
        method = self._rng.choice(sorted(self._requests))
        payload = self._requests[method].next()
        await self._network.request(self._peer(), method, payload, deadline_s=ANSWER_S)

    async def _flood(self) -> None:
        """More at once than are handled."""
        peer, method = self._peer(), self._rng.choice(sorted(self._requests))
        async with trio.open_nursery() as nursery:
            for _ in range(self._rng.choice((17, 40))):
                nursery.start_soon(self._ask_in_vain, peer, method)

    async def _ask_in_vain(self, peer: Address, method: str) -> None:
        with suppress(SwarmError):
            payload = self._requests[method].next()
            await self._network.request(peer, method, payload, deadline_s=ANSWER_S)

    async def _break_control(self) -> None:
        """A frame that is none; it costs the connection, so it is seldom."""
        if self._rng.random() > 0.1:
            return
        here = self.node.directory
        connection = await self._network._connection_to(self._peer())
        frame = Mutator(self._rng.randrange(2**32), partial(control_frames, here), "framed").next()
        connection._queue_frame(frame)

    # Blobs.

    async def _open_blob(self) -> None:
        """Chunks that are wanted over libp2p: asked for oddly, read slowly, or not at all."""
        rng = self._rng
        connection = await self._network._connection_to(self._peer())
        stream = await connection.open_stream(BLOB)
        roots = [*self._around.known_digests(), Digest(bytes(32))]
        indices = rng.choice(([0], [0] * 5000, [2**31], list(range(2000))))
        frame = encode_frame(ChunksWanted(rng.choice(roots), indices))
        if rng.random() < 0.5:
            frame = Mutator(rng.randrange(2**32), lambda: [frame], "framed").next()
        try:
            await stream.write(frame)
            for _ in range(rng.choice((0, 1, 20))):
                with trio.move_on_after(1.0):
                    await stream.read(8)
                await trio.sleep(rng.choice((0.0, 0.5)))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await stream.reset()

    async def _fetch(self) -> None:
        """The same over the bulk channel; it takes what comes, and now and then no more."""
        rng = self._rng
        most = rng.choice((1, 2, 100))

        def take(chunks: Any) -> None:
            nonlocal most
            most -= 1
            if most < 0:
                raise RemoteError("enough")

        roots = [*self._around.known_digests(), Digest(rng.randbytes(32))]
        indices = rng.choice(([0], [0, 0, 0], [2**30], list(range(50))))
        await self._network.fetch_chunks(
            self._peer(), rng.choice(roots), indices, take, stall_s=ANSWER_S
        )

    # Somebody else's port.

    async def _knock(self) -> None:
        """A connection that proves nothing, held or filled with what strangers send."""
        rng = self._rng
        me = self.node.seen.own
        places = [
            text for a, texts in self.node.known_addresses.items() if a != me for text in texts
        ]
        stream = await dial(parse_endpoint(rng.choice(places)))
        try:
            if rng.random() < 0.7:
                sample = Mutator(rng.randrange(2**32), strangers_samples, "bytes").next()
                await stream.write(sample or b"\0")
            with trio.move_on_after(rng.choice((0.1, 1.0, HOLDS_S / 2))):
                await stream.read(1)
        finally:
            await stream.close()

    # A program on the machine of another, without a password.

    def _neighbour(self) -> Path:
        homes = [h for h in self.node.directory.parent.iterdir() if (h / "running.json").exists()]
        return self._rng.choice(sorted(home for home in homes if home != self.node.directory))

    async def _ask_rpc(self) -> None:
        method, params = rpc_grammar.drawn(self._methods, self._rng)
        call = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        url = read_running(self._neighbour()).rpc_url
        request = urllib.request.Request(url, json.dumps(call).encode(), JSON)
        answer = partial(urllib.request.urlopen, request, timeout=HOLDS_S)
        (await trio.to_thread.run_sync(answer, abandon_on_cancel=True)).close()  # type: ignore[call-arg]

    async def _ask_control(self) -> None:
        rng = self._rng
        asked = [msgspec.json.encode(Request(method, {"plan": 1})) for method in READING]
        data = Mutator(rng.randrange(2**32), lambda: asked, "json").next()
        place = read_running(self._neighbour()).control
        async with await trio.open_unix_socket(place) as stream:
            await stream.send_all(rng.choice((len(data), 2**31)).to_bytes(4, "big") + data)
            await stream.receive_some(65536)
