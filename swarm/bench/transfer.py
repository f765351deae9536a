"""One blob from one node to another, beside a raw TLS 1.3 socket.

Two processes on loopback: this one receives, the child serves. In turn, so that both see the same
machine, each repetition moves the same bytes

    raw     over a bare TLS 1.3 socket, from memory to memory: the yardstick
    node    as a node does: manifest, tokens, chunks, each hashed and written to its file, the file
            closed and named (`Exchange.pull` over `swarm.network`)

and the medians are compared. The receiver's anonymous memory is watched: a node's must not grow
with the model. The processor time of both ends together tells what is left to gain: where it is the
number of processors times the seconds, nothing waits. A third figure tells what can be reached at
all on this machine: the processor time of hashing and writing as many bytes, from memory that is in
the cache, in one thread, which the raw socket does not do and a node must.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import trio

from swarm.bench.machine import file_system, read_process, require_room, watch
from swarm.blobs.store import BlobStore
from swarm.blobs.tree import leaf_hash
from swarm.errors import LocalError
from swarm.network import open_network
from swarm.network.identity import Identity
from swarm.network.tls import TlsIdentity
from swarm.rounds.exchange import Exchange
from swarm.tensors import Layout, TensorSpec, create_file
from swarm.types import to_digest

KEYS = [hashlib.sha256(b"benchmark %d" % number).digest() for number in range(2)]
BUFFER_BYTES = 1 << 20
PATIENCE_S = 60.0
START_S = 60.0
WARM_UP = 1
LEAST_CPU_S = 0.1  # it is told in hundredths of a second
SELF = "receiver"


def measure_transfer(size_bytes: int, repeat: int, directory: Path) -> dict[str, Any]:
    """Move a blob of this size `repeat` times, with both stores in `directory`.

    Raises LocalError if there is no room, or if the serving process cannot be started.
    """
    require_room(directory, 2 * size_bytes, 0)
    own = TlsIdentity(Identity(KEYS[1]))
    command = [sys.executable, "-P", "-m", "swarm.bench.transfer"]
    command += ["--trusted", own.der.hex()]
    command += ["--directory", str(directory), "--size", str(size_bytes)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            result = trio.run(_receive, child, own, size_bytes, repeat, directory)
        finally:
            child.terminate()
    return result | {"directory": file_system(directory)}


async def _receive(
    child: subprocess.Popen[str],
    own: TlsIdentity,
    size_bytes: int,
    repeat: int,
    directory: Path,
) -> dict[str, Any]:
    assert child.stdout is not None
    with trio.fail_after(START_S + size_bytes / 50e6):
        line = await trio.to_thread.run_sync(child.stdout.readline)
    if not line:
        raise LocalError("the process that serves the blob ended at its start")
    said = json.loads(line)
    root, peer = to_digest(said["root"]), Identity(KEYS[0]).address
    context = own.context(server_side=False, trusted=[bytes.fromhex(said["certificate"])])
    seconds: dict[str, list[float]] = {"raw": [], "node": []}
    cpu_s: dict[str, list[float | None]] = {"raw": [], "node": [], "hash_and_write": []}
    pids = (os.getpid(), child.pid)
    growth_bytes = 0
    raw = socket.create_connection(("127.0.0.1", said["raw_port"]), timeout=PATIENCE_S)
    with context.wrap_socket(raw) as secured:
        async with open_network(KEYS[1]) as network:
            network.set_members({peer: [said["address"]]})
            await network.wait_connected([peer], START_S)
            for _ in range(WARM_UP + repeat):
                used_s = _cpu_s(pids)
                seconds["raw"].append(await trio.to_thread.run_sync(_drain, secured, size_bytes))
                cpu_s["raw"].append(_since(used_s, _cpu_s(pids)))
                work = partial(_hash_and_write, directory / "work", size_bytes)
                cpu_s["hash_and_write"].append(await trio.to_thread.run_sync(work))
                store = BlobStore(directory / "received")
                exchange = Exchange(store, network, max_blob_bytes=2 * size_bytes + BUFFER_BYTES)
                before = read_process(os.getpid())
                with watch({SELF: os.getpid()}) as seen:
                    used_s, began = _cpu_s(pids), time.perf_counter()
                    await exchange.pull(root, [peer], patience_s=PATIENCE_S)
                    seconds["node"].append(time.perf_counter() - began)
                    cpu_s["node"].append(_since(used_s, _cpu_s(pids)))
                peak_bytes = seen.peak_bytes(SELF)
                if before is not None and peak_bytes is not None:
                    growth_bytes = max(growth_bytes, peak_bytes - before.anonymous_bytes)
                shutil.rmtree(store.directory)
        now = read_process(os.getpid())
    medians = {name: statistics.median(each[WARM_UP:]) for name, each in seconds.items()}
    cpu = {name: _median(each[WARM_UP:]) for name, each in cpu_s.items()}
    return {
        "size_bytes": size_bytes,
        "repeat": repeat,
        "raw_mb_per_s": round(size_bytes / medians["raw"] / 1e6, 1),
        "node_mb_per_s": round(size_bytes / medians["node"] / 1e6, 1),
        "ratio": round(medians["raw"] / medians["node"], 3),
        "best_ratio": best_ratio(medians["raw"], cpu["raw"], cpu["hash_and_write"]),
        "cpu_s": cpu,
        "receiver_growth_bytes": growth_bytes,
        "receiver_bytes": None if now is None else now.anonymous_bytes,
        "seconds": {name: [round(s, 4) for s in each[WARM_UP:]] for name, each in seconds.items()},
    }


def best_ratio(
    raw_s: float, raw_cpu_s: float | None, work_cpu_s: float | None, cores: int | None = None
) -> float | None:
    """The highest ratio to the raw socket that is possible with so many `cores` (all that this
    process may use, by default): if nothing ever waited, and nothing was done but what the raw
    socket does, hashing and writing. None where the system tells no processor times, or they are
    too short for its clock."""
    if raw_cpu_s is None or work_cpu_s is None or raw_cpu_s < LEAST_CPU_S:
        return None
    cores = cores or len(os.sched_getaffinity(0))
    return round(raw_s / max(raw_s, (raw_cpu_s + work_cpu_s) / cores), 3)


def _hash_and_write(path: Path, size_bytes: int) -> float:
    """Hash and write so many bytes, a chunk at a time. Returns the seconds of processor time."""
    buffer = memoryview(os.urandom(BUFFER_BYTES))
    began = time.thread_time()
    with path.open("wb", buffering=0) as file:
        for start in range(0, size_bytes, BUFFER_BYTES):
            chunk = buffer[: size_bytes - start]
            leaf_hash(chunk)
            file.write(chunk)
    took_s = time.thread_time() - began
    path.unlink()
    return took_s


def _cpu_s(pids: Sequence[int]) -> float | None:
    """What these processes have used of the processors; None where the system does not tell."""
    readings = [read_process(pid) for pid in pids]
    return sum(r.cpu_s for r in readings if r is not None) if all(readings) else None


def _since(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else now - before


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 3) if known else None


def _drain(secured: ssl.SSLSocket, size_bytes: int) -> float:
    """Ask for so many bytes over the raw socket, and read them. Returns the seconds."""
    buffer = memoryview(bytearray(BUFFER_BYTES))
    began = time.perf_counter()
    secured.sendall(b"g")
    received = 0
    while received < size_bytes:
        count = secured.recv_into(buffer[: size_bytes - received])
        if not count:
            raise LocalError("the process that serves the blob ended")
        received += count
    return time.perf_counter() - began


async def _serve(directory: Path, size_bytes: int, trusted: bytes) -> None:
    """The child: make the blob, say where it is, serve until ended."""
    store = BlobStore(directory / "served")
    elements = max(1, size_bytes // 4)
    layout = Layout.from_specs([TensorSpec("w", "F32", (elements,))])
    with create_file(store.scratch("blob"), layout) as file:
        file["w"][...] = np.random.default_rng(0).random(elements, np.float32)
    root = store.add(store.scratch("blob"))
    identity = TlsIdentity(Identity(KEYS[0]))
    async with open_network(KEYS[0]) as network:
        exchange = Exchange(store, network, max_blob_bytes=0)
        exchange.rules.append(lambda sender, blob: True)
        network.serve_blobs(exchange)
        network.set_members({Identity(KEYS[1]).address: ()})
        with socket.create_server(("127.0.0.1", 0)) as listener:
            said = {
                "address": network.addresses[0],
                "root": root.hex(),
                "raw_port": listener.getsockname()[1],
                "certificate": identity.der.hex(),
            }
            print(json.dumps(said), flush=True)
            await trio.to_thread.run_sync(_serve_raw, identity, listener, trusted, size_bytes)


def _serve_raw(
    identity: TlsIdentity, listener: socket.socket, trusted: bytes, size_bytes: int
) -> None:
    listener.settimeout(START_S)
    raw, _ = listener.accept()
    raw.settimeout(None)  # ended with the process
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    context = identity.context(server_side=True, trusted=[trusted])
    with context.wrap_socket(raw, server_side=True) as secured:
        buffer = memoryview(os.urandom(BUFFER_BYTES))
        while secured.recv(1):
            for start in range(0, size_bytes, BUFFER_BYTES):
                secured.sendall(buffer[: size_bytes - start])


def main() -> None:
    """Entry point of the serving process."""
    parser = argparse.ArgumentParser(description="the serving process of `swarm bench transfer`")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True, help="bytes")
    parser.add_argument("--trusted", required=True, help="the receiver's certificate, DER in hex")
    options = parser.parse_args()
    trio.run(_serve, options.directory, options.size, bytes.fromhex(options.trusted))


if __name__ == "__main__":
    main()
