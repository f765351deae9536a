"""Targets that are functions: whatever turns bytes from a peer, a file or a pipe into values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import rlp

from harness.chain import Member, found
from harness.fuzz.campaign import ACCEPTED, Session, Target
from harness.fuzz.mutations import Shape
from swarm.blobs.manifest import Manifest
from swarm.chain import codec, messages
from swarm.chain.engine import Engine
from swarm.chain.genesis import (
    CONTRACT_ADDRESS,
    consortium_genesis,
    read_card,
    read_genesis,
    write_card,
    write_genesis,
)
from swarm.chain.messages import Certificate, CertifiedBlock, Commit, GetBlocks, Prepare
from swarm.chain.override import Override, SignedOverride, read_override, write_override
from swarm.chain.rules import ChainRules
from swarm.chain.startup import Lock, VoteRecord, decode_record, encode_record
from swarm.errors import (
    UNREADABLE,
    BlobError,
    ChainError,
    ConfigurationError,
    LocalError,
    PeerUnreachable,
    PlanError,
    ProtocolViolation,
    SwarmError,
    TrainerError,
)
from swarm.learning.code import bundle
from swarm.learning.simulation.dealing import deal
from swarm.learning.supervisor import trainer_messages as trainer
from swarm.network import wire
from swarm.network.identity import Identity
from swarm.network.tls import TlsIdentity, address_in
from swarm.node.commands.control import Running, read_running
from swarm.node.home.config import load_config
from swarm.node.home.keys import RANDOM_PASSWORD_COST, create_key, load_key
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import NO_DIGEST
from swarm.visible import find_hidden

PASSWORD = "long enough"
Read = Callable[[bytes], object]


def targets() -> list[Target]:
    """All of them."""
    return [
        pure("control-frame", "framed", control_frames, _read_control_frame, ProtocolViolation),
        pure("blob-request", "msgpack", _blob_requests, _read_blob_request, ProtocolViolation),
        pure("certificate", "bytes", _certificates, address_in, ProtocolViolation),
        pure("consensus", "msgpack", consensus_messages, messages.decode, ProtocolViolation),
        pure("seals", "msgpack", _seals, messages.decode_certificate, ProtocolViolation),
        pure("vote-record", "msgpack", _vote_records, decode_record, LocalError),
        pure("transaction", "rlp", _transactions, _read_transaction, ChainError),
        pure("block", "rlp", _blocks, _read_block, ProtocolViolation),
        pure("manifest", "msgpack", _manifests, _read_manifest, BlobError),
        pure("tensor-header", "bytes", _tensor_headers, _read_tensor_header, BlobError),
        pure("plan-bundle", "msgpack", _bundles, _read_bundle, ProtocolViolation),
        pure("trainer-in", "msgpack", _trainer_requests, trainer.decode_request, TrainerError),
        pure("trainer-out", "msgpack", _trainer_replies, trainer.decode_reply, TrainerError),
        from_file("tensor-file", "bytes", _tensor_files, Layout.read, "x.safetensors", BlobError),
        from_file("key-file", "json", _key_files, _load_key, "key.json", ConfigurationError),
        from_file("node-toml", "bytes", _node_tomls, _load_config, "node.toml", ConfigurationError),
        from_file(
            "network-json", "json", _networks, read_genesis, "network.json", ConfigurationError
        ),
        from_file("join-card", "json", _cards, read_card, "card.json", ConfigurationError),
        from_file(
            "override", "json", _overrides, read_override, "override.json", ConfigurationError
        ),
        from_file(
            "running-json", "json", _runnings, _read_running, "running.json", ConfigurationError
        ),
        from_file("sites-toml", "bytes", _sites_tomls, _read_plan, "sites.toml", PlanError),
    ]


def pure(
    name: str,
    shape: Shape,
    samples: Callable[[Path], Sequence[bytes]],
    read: Read,
    *refusals: type[SwarmError],
) -> Target:
    @asynccontextmanager
    async def opened(directory: Path) -> AsyncIterator[Session]:
        valid = list(samples(directory))

        async def offer(data: bytes) -> str:
            try:
                read(data)
            except refusals as error:
                return type(error).__name__
            return ACCEPTED

        async def check() -> None:
            for each in valid:
                read(each)

        yield Session(lambda: valid, offer, check)

    return Target(name, shape, opened, is_pure=True)


def from_file(
    name: str,
    shape: Shape,
    samples: Callable[[Path], Sequence[bytes]],
    read: Callable[[Path], object],
    file: str,
    *refusals: type[SwarmError],
) -> Target:
    """The same for what is read from a file, which each input becomes in turn."""

    def opened(directory: Path) -> AbstractAsyncContextManager[Session]:
        def read_file(data: bytes) -> object:
            path = directory / file
            path.write_bytes(data)
            return read(path)

        return pure(name, shape, samples, read_file, *refusals).open(directory)

    return Target(name, shape, opened)


# Network.


class _Held:
    """A stream that holds one input and nothing after it."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    async def read(self, n: int) -> bytes:
        if n > len(self._left):
            raise PeerUnreachable("the stream ended")
        taken, self._left = self._left[:n], self._left[n:]
        return taken

    async def read_in_time(self, n: int, stall_s: float) -> bytes:
        return await self.read(n)


def control_frames(_: Path) -> list[bytes]:
    return [
        wire.encode_frame(wire.Message("chain", b"payload")),
        wire.encode_frame(wire.Request(7, "plan.bundle", bytes(32))),
        wire.encode_frame(wire.Response(7, b"answer")),
        wire.encode_frame(wire.Response(7, None, "no such plan")),
    ]


def _read_control_frame(data: bytes) -> None:
    """As `read_frame` does, which waits for nothing here."""
    reading = wire.read_frame(_Held(data), wire.control_decoder, 4 * 2**20, 1.0)  # type: ignore[arg-type]
    try:
        reading.send(None)
    except StopIteration:
        return
    except PeerUnreachable as error:
        raise ProtocolViolation(str(error)) from None
    reading.close()
    raise AssertionError("the frame's reader waits for something else than bytes")


def _blob_requests(_: Path) -> list[bytes]:
    certificate = TlsIdentity(Identity(b"\7" * 32)).der
    return [
        msgspec.msgpack.encode(wire.ChunksWanted(bytes(32), [0, 5, 6])),
        msgspec.msgpack.encode(wire.BulkWanted(bytes(32), [0, 5, 6], certificate)),
        msgspec.msgpack.encode(wire.BulkGrant(bytes(32), certificate, [4001])),
    ]


def _read_blob_request(data: bytes) -> None:
    faults = 0
    decoders: Sequence[msgspec.msgpack.Decoder[Any]] = (
        wire.wanted_decoder,
        wire.want_decoder,
        wire.grant_decoder,
    )
    for decoder in decoders:
        try:
            decoder.decode(data)
        except msgspec.MsgspecError:  # none of the three holds text
            faults += 1
    if faults == len(decoders):
        raise ProtocolViolation("not one of the three")


def _certificates(_: Path) -> list[bytes]:
    return [TlsIdentity(Identity(bytes([n]) * 32)).der for n in (1, 2)]


# Chain.


def consensus_messages(_: Path) -> list[bytes]:
    """One of each kind."""
    seal, name = b"\1" * 65, b"\2" * 32
    prepare, commit = Prepare(3, 1, name, seal), Commit(3, 1, name, seal)
    change = messages.RoundChange(3, 2, 2, name, seal, b"block", (prepare, prepare))
    certified = CertifiedBlock(b"block", messages.encode(Certificate(3, 1, name, (seal, seal))))
    proposal = messages.Proposal(3, 2, b"block", seal, (change.bare(),), (prepare,))
    return [
        messages.encode(message)
        for message in (
            *(prepare, commit, change, proposal),
            *(messages.GetStatus(), messages.Status(3, 4, commit), GetBlocks(3)),
            *(messages.Blocks(9, (certified, certified)), messages.Transactions((b"raw", b"raw"))),
        )
    ]


def _seals(_: Path) -> list[bytes]:
    return [messages.encode(Certificate(3, 1, b"\2" * 32, (b"\1" * 65,) * 3))]


def _vote_records(_: Path) -> list[bytes]:
    prepare = Prepare(3, 1, b"\2" * 32, b"\1" * 65)
    record = VoteRecord(3, 1, b"\2" * 32, prepare, lock=Lock(1, b"block", (prepare,)), resume=2)
    return [encode_record(VoteRecord()), encode_record(record)]


def _transactions(_: Path) -> list[bytes]:
    member = Member(0)
    pairs = [(CONTRACT_ADDRESS, [1, 2])]
    return [
        member.sign(7, gasPrice=0, nonce=0),
        member.sign(7, nonce=1),
        member.sign(7, nonce=2, accessList=[{"address": a, "storageKeys": k} for a, k in pairs]),
        member.sign(7, gasPrice=0, type=1, nonce=3, accessList=[]),
    ]


def _read_transaction(data: bytes) -> None:
    codec.read_transaction(data, 7, CONTRACT_ADDRESS, ChainRules())


def _blocks(directory: Path) -> list[bytes]:
    genesis, (member,) = found(1)
    with Engine.open(directory / "chain", genesis) as engine:
        raws = [member.sign(genesis.chain_id) for _ in range(3)]
        return [
            engine.build(some, genesis.timestamp + 1, member.address).payload
            for some in (raws[:0], raws[:1], raws)
        ]


def _read_block(data: bytes) -> None:
    block, body = codec.decode_block(data, ChainRules())
    if rlp.decode(block.payload) is None or len(body.transactions) > 256:
        raise AssertionError("a block beyond its bounds was taken")


# Blobs and plans.


def _manifests(_: Path) -> list[bytes]:
    layout = Layout.from_specs([TensorSpec("w", "F32", (300, 20))])
    return [
        Manifest.of_bytes(b"x" * 10_000).encode(),
        Manifest.of_tensors(layout, bytes(32 * layout.chunks)).encode(),
    ]


def _read_manifest(data: bytes) -> None:
    """Whoever makes a blob chooses its name: so it is the name that these bytes have, if any."""
    root = NO_DIGEST
    with suppress(*UNREADABLE, IndexError):  # then it has none
        root = msgspec.msgpack.decode(data, type=Manifest).root
    manifest = Manifest.decode(data, root)
    start, stop = manifest.chunk_range(manifest.chunks - 1)
    assert 0 <= start <= stop <= manifest.length_bytes
    manifest.require(max_bytes=2**20)


def _tensor_files(directory: Path) -> list[bytes]:
    path = directory / "sample.safetensors"
    layout = Layout.from_specs([TensorSpec("w", "F32", (30, 20)), TensorSpec("n", "I64", ())])
    with create_file(path, layout) as file:
        file["w"][:] = 1
    return [path.read_bytes()]


def _tensor_headers(directory: Path) -> list[bytes]:
    specs = [TensorSpec("w", "F32", (300, 20)), TensorSpec("n", "I64", ())]
    return [Layout.from_specs(specs).header]


def _read_tensor_header(data: bytes) -> None:
    layout = Layout.parse(data, len(data) + 24_008)
    for chunk in range(layout.chunks):
        layout.segments(chunk)


def _bundles(_: Path) -> list[bytes]:
    files = {"plan.py": b"x = 1\n", "lib/model.py": b"y = 2\n", "rules.toml": b""}
    return [bundle.Bundle(files).pack()]


def _read_bundle(data: bytes) -> None:
    code = bundle.unpack(data)
    folder = Path("/plans/one")
    assert all((folder / name).resolve().is_relative_to(folder) for name in code.files)
    assert len(code.digest) == 32
    for content in code.files.values():
        for line in content.decode().replace("\r\n", "\n").split("\n"):
            assert find_hidden(line.replace("\t", "")) is None


def _trainer_requests(_: Path) -> list[bytes]:
    requests: list[trainer.Request] = [
        trainer.Load(
            plan="p",
            digest=bytes(32),
            site="s",
            data=None,
            options={"a": 1},
            device="cpu",
            seed=1,
            workspace="w",
        ),
        trainer.Train(round=1, base="b", base_digest=bytes(32), statistics=None, out="o"),
    ]
    return [trainer.frame(each)[trainer.LENGTH_BYTES :] for each in requests]


def _trainer_replies(_: Path) -> list[bytes]:
    metrics = {"auc": 0.5}
    replies: list[trainer.Reply] = [
        trainer.Alive(),
        trainer.Progress(fraction=0.5, epoch=1, loss=0.1),
        trainer.Failed(kind="plan", message="no"),
        trainer.Trained(
            samples=1, steps=2, loss=0.3, metrics=metrics, train_s=1.0, resumed_epochs=0
        ),
    ]
    return [trainer.frame(each)[trainer.LENGTH_BYTES :] for each in replies]


# Files that a person, or another member, gives to a node.


def _key_files(directory: Path) -> list[bytes]:
    path = directory / "made.json"
    create_key(path, PASSWORD, cost=RANDOM_PASSWORD_COST)
    return [path.read_bytes()]


def _load_key(path: Path) -> None:
    assert len(load_key(path, PASSWORD)) == 32


NODE_TOML = """\
name = "Charité"
[key]
password_file = "password"
[network]
listen = ["/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/4001"]
max_upload_mbit = 10.5
[network.peers]
"St. Mary" = ["/dns4/swarm.stmary.example/tcp/4001"]
[http]
listen = "127.0.0.1:8545"
[data]
path = "/dev/null"
options = {column = "age", fraction = 0.5}
[training]
seed = 7
max_samples = 1000
[storage]
keep_models = 3
"""
EXTERNAL_TOML = """\
name = "Kyoto"
[chain]
rpc_url = "http://[::1]:8545"
contract = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
finality = "finalized"
"""


def _node_tomls(_: Path) -> list[bytes]:
    return [NODE_TOML.encode(), EXTERNAL_TOML.encode()]


def _load_config(path: Path) -> None:
    load_config(path.parent)


def _cards(directory: Path) -> list[bytes]:
    path = directory / "made.json"
    write_card(path, Member(0).card)
    return [path.read_bytes()]


def _networks(directory: Path) -> list[bytes]:
    path = directory / "made.json"
    cards = [Member(number).card for number in range(3)]
    write_genesis(path, consortium_genesis(cards, 1_700_000_000))
    return [path.read_bytes()]


def _overrides(directory: Path) -> list[bytes]:
    path = directory / "made.json"
    override = Override(NO_DIGEST, 7, NO_DIGEST, (Member(0).address, Member(1).address))
    write_override(path, SignedOverride(override, (b"\1" * 65, b"\2" * 65)))
    return [path.read_bytes()]


def _runnings(_: Path) -> list[bytes]:
    running = Running(1, "/tmp/control.sock", "http://127.0.0.1:1", ("/ip4/127.0.0.1/tcp/1",))
    return [msgspec.json.encode(running)]


def _read_running(path: Path) -> None:
    read_running(path.parent)


SITES_TOML = """\
peers = 2
[[site]]
name = "one"
path = "sites.toml"
[[site]]
name = "two"
path = "made"
"""


def _sites_tomls(directory: Path) -> list[bytes]:
    (directory / "made").mkdir(exist_ok=True)
    return [SITES_TOML.encode()]


def _read_plan(path: Path) -> None:
    try:
        deal(path.parent)
    except ConfigurationError as error:
        raise PlanError(str(error)) from None
