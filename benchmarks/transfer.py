"""One blob from one node to another, beside a raw TLS 1.3 socket: python benchmarks/transfer.py

Two processes on loopback: this one receives, the child serves. In turn, so that both see the same
machine, each repetition moves the same bytes

    raw     over a bare TLS 1.3 socket, from memory to memory: the yardstick
    node    as a node does: manifest, tokens, chunks, each hashed and written to its file, the file
            closed and named (`swarm.blobs.fetch` over `swarm.network`)

and the medians are compared. The stores lie in memory (/dev/shm) unless --directory says otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import trio

from swarm.blobs.fetch import fetch
from swarm.blobs.store import BlobStore
from swarm.network import open_network
from swarm.network.identity import Identity
from swarm.network.tls import TlsIdentity
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import Address, Digest, to_digest

KEYS = [hashlib.sha256(b"benchmark %d" % i).digest() for i in range(2)]
BUFFER_BYTES = 1 << 20
WAIT_S = 600


class Shelf:
    def __init__(self, store: BlobStore) -> None:
        self.store = store

    def manifest(self, sender: Address, root: Digest) -> bytes:
        return self.store.manifest(root).encode()

    def read_chunk(self, sender: Address, root: Digest, index: int) -> bytes | memoryview:
        return self.store.view_chunk(root, index)


def serve_raw(identity: TlsIdentity, listener: socket.socket, trusted: bytes, size: int) -> None:
    raw, _ = listener.accept()
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = identity.context(server_side=True, trusted=[trusted])
    with context.wrap_socket(raw, server_side=True) as secured:
        buffer = memoryview(os.urandom(BUFFER_BYTES))
        while secured.recv(1):
            for start in range(0, size, BUFFER_BYTES):
                secured.sendall(buffer[: size - start])


async def serve(directory: Path, size: int, trusted: bytes) -> None:
    """The child: makes the blob, says where it is, serves until it is ended."""
    store = BlobStore(directory / "served")
    layout = Layout.from_specs([TensorSpec("w", "F32", (size // 4,))])
    with create_file(store.scratch("blob"), layout) as file:
        file["w"][...] = np.random.default_rng(0).random(size // 4, np.float32)
    root = store.add(store.scratch("blob"))
    identity = TlsIdentity(Identity(KEYS[0]))
    async with open_network(KEYS[0]) as network:
        network.serve_blobs(Shelf(store))
        network.set_members({Identity(KEYS[1]).address: ()})
        with socket.create_server(("127.0.0.1", 0)) as listener:
            said = {
                "address": network.addresses[0],
                "root": root.hex(),
                "raw_port": listener.getsockname()[1],
                "certificate": identity.der.hex(),
            }
            print(json.dumps(said), flush=True)
            await trio.to_thread.run_sync(serve_raw, identity, listener, trusted, size)


def receive_raw(secured: socket.socket, size: int) -> float:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    start = time.perf_counter()
    secured.sendall(b"g")
    received = 0
    while received < size:
        count = secured.recv_into(buffer[: size - received])
        if not count:
            raise ConnectionError("the child ended")
        received += count
    return time.perf_counter() - start


async def measure(
    child: subprocess.Popen[str], own: TlsIdentity, options: argparse.Namespace
) -> dict[str, object]:
    assert child.stdout is not None
    said = json.loads(await trio.to_thread.run_sync(child.stdout.readline))
    root, size = to_digest(said["root"]), options.size
    peer = Identity(KEYS[0]).address
    context = own.context(server_side=False, trusted=[bytes.fromhex(said["certificate"])])
    raw = socket.create_connection(("127.0.0.1", said["raw_port"]))
    seconds: dict[str, list[float]] = {"raw": [], "node": []}
    memory_bytes = 0
    with context.wrap_socket(raw) as secured:
        async with open_network(KEYS[1]) as network:
            network.set_members({peer: [said["address"]]})
            await network.wait_connected([peer], 10)
            for _ in range(options.repeat):
                seconds["raw"].append(await trio.to_thread.run_sync(receive_raw, secured, size))
                store = BlobStore(options.directory / "received")
                before = anonymous_bytes()
                start = time.perf_counter()
                async with trio.open_nursery() as nursery:
                    peak = [before]
                    nursery.start_soon(watch_memory, peak)
                    await fetch(store, root, [peer], network, max_bytes=2 * size, deadline_s=WAIT_S)
                    seconds["node"].append(time.perf_counter() - start)
                    nursery.cancel_scope.cancel()
                memory_bytes = max(memory_bytes, peak[0] - before)
                shutil.rmtree(store.directory)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "size_bytes": size,
        "repeat": options.repeat,
        "raw_mb_per_s": round(size / medians["raw"] / 1e6, 1),
        "node_mb_per_s": round(size / medians["node"] / 1e6, 1),
        "ratio": round(medians["raw"] / medians["node"], 3),
        "receiver_growth_mb": round(memory_bytes / 1e6, 1),
        "receiver_anonymous_mb": round(anonymous_bytes() / 1e6, 1),
        "seconds": {name: [round(s, 4) for s in values] for name, values in seconds.items()},
        "cpus": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
    }


async def watch_memory(peak: list[int]) -> None:
    while True:
        peak[0] = max(peak[0], anonymous_bytes())
        await trio.sleep(0.02)


def anonymous_bytes() -> int:
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 if found else 0


def size_in_bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)(KB|MB|GB)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it like 256MB")
    return int(found[1]) * {"KB": 1000, "MB": 1_000_000, "GB": 1_000_000_000}[found[2]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", type=size_in_bytes, default="256MB")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--directory", type=Path, help="where the stores lie; in memory by default")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        trio.run(serve, options.directory, options.size, bytes.fromhex(options.serve))
        return
    memory = Path("/dev/shm")
    within = options.directory or (memory if memory.is_dir() else None)
    with tempfile.TemporaryDirectory(dir=within, prefix="swarm-bench-") as directory:
        options.directory = Path(directory)
        own = TlsIdentity(Identity(KEYS[1]))
        command = [sys.executable, __file__, "--serve", own.der.hex(), "--directory", directory]
        command += ["--size", f"{options.size // 1000}KB"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            try:
                result = trio.run(measure, child, own, options)
            finally:
                child.terminate()
    if options.json:
        print(json.dumps(result, indent=2))
        return
    print(f"{options.size / 1e6:g} MB, median of {options.repeat}, {result['cpus']} CPUs")
    print(f"raw TLS 1.3 socket  {result['raw_mb_per_s']:8} MB/s")
    print(f"between two nodes   {result['node_mb_per_s']:8} MB/s   ratio {result['ratio']}")
    print(f"receiver's anonymous memory grew by {result['receiver_growth_mb']} MB at most")


if __name__ == "__main__":
    main()
