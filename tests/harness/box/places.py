"""Tries the ways out of a box, from where a node may run: as root, as an ordinary user, in a
container without capabilities.

    python -m harness.box.places FOLDER PLACE [WALL ...]    (the walls to leave out)

Prints the report of the box and what each way got, as JSON. The stand-in for the node holds a
secret in its environment and its memory, and serves it on sockets; its folder holds it in files.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from harness.box import ways_out
from swarm.box import contents, limits, namespaces, process, seccomp, system
from swarm.box.description import Box, Limits

SECRET = "correct-horse-battery-staple"
ORDINARY_USER = 54321
DEADLINE_S = 90
LIMITS = Limits(
    processes=301,
    memory_bytes=2**30,
    file_bytes=2**26,
    scratch_bytes=2**24,
)
FILES = {
    "key.json": 0o600,
    "password": 0o600,
    "plans/other/plan.py": 0o644,
    "trainer/other/round.checkpoint": 0o644,
    "blobs/0123": 0o600,
}
NODE = """
import ctypes, os, sys
buffer = ctypes.create_string_buffer(os.environ["SWARM_PASSWORD"].encode())
print(ctypes.addressof(buffer), flush=True)
sys.stdin.read()  # until the test ends
"""


def enter(place: str) -> None:
    """Become what a node is there. As root only; for good."""
    if place == "user":
        _show_libraries_of_root()
        os.setgroups([])
        os.setgid(ORDINARY_USER)
        os.setuid(ORDINARY_USER)
        system.prctl(system.PR_SET_DUMPABLE, 1)
    elif place == "container":
        # What an engine without a profile of ours does: no capability, no new namespaces.
        limits.drop_capabilities()
        seccomp.restrict((seccomp.UNIX, *seccomp.OF_NETWORK, 40))


def _show_libraries_of_root() -> None:
    """Root's home is closed to others, and this Python may lie in it."""
    prefixes = {p for p in (sys.prefix, sys.base_prefix) if p.startswith("/root/")}
    namespaces.enter_mount()
    kept = {p: os.open(p, os.O_PATH) for p in prefixes}
    if kept:
        system.mount("tmpfs", "/root", "tmpfs", 0, "mode=755")
    for prefix, descriptor in kept.items():
        Path(prefix).mkdir(parents=True)
        system.mount(f"/proc/self/fd/{descriptor}", prefix, None, 0x1000 | 0x4000)
        os.close(descriptor)


@contextmanager
def standing_in(folder: Path) -> Iterator[dict[str, Any]]:
    """A node's folder, process and sockets; what is needed to look for them."""
    node = folder / "node"
    for name, mode in FILES.items():
        file = node / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SECRET)
        file.chmod(mode)
    shared = Path("/dev/shm", f"box-test-{os.getpid()}")
    shared.write_text(SECRET)
    with ExitStack() as stack:
        stack.callback(shared.unlink)
        running = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", NODE, str(node)],
                env={"SWARM_PASSWORD": SECRET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        stack.callback(running.kill)
        assert running.stdout is not None
        abstract = f"box-test-{os.getpid()}"
        control, datagrams = str(folder / "control"), str(folder / "datagrams")
        port = _serve(stack, socket.AF_INET, ("127.0.0.1", 0))
        _serve(stack, socket.AF_UNIX, control)
        _serve(stack, socket.AF_UNIX, "\0" + abstract)
        bound = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        bound.bind(datagrams)
        yield {
            "secret": SECRET,
            "node": str(node),
            "pid": running.pid,
            "address": int(running.stdout.readline()),
            "shared_memory": shared.name,
            "abstract": abstract,
            "control": control,
            "datagrams": datagrams,
            "port": port[1],
            "name_service": _serve_datagrams(stack),
            "library": str(Path(sys.prefix, "lib")),
            **msgspec.structs.asdict(LIMITS),
        }


def _serve(stack: ExitStack, family: int, address: Any) -> Any:
    listener = stack.enter_context(socket.socket(family))
    listener.bind(address)
    listener.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(SECRET.encode())

    threading.Thread(target=answer, daemon=True).start()
    stack.callback(listener.shutdown, socket.SHUT_RDWR)
    return listener.getsockname()


def _serve_datagrams(stack: ExitStack) -> int:
    bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    bound.bind(("127.0.0.1", 0))

    def answer() -> None:
        _, sender = bound.recvfrom(100)
        bound.sendto(SECRET.encode(), sender)

    threading.Thread(target=answer, daemon=True).start()
    return int(bound.getsockname()[1])


async def try_ways(folder: Path, without: tuple[Any, ...]) -> dict[str, Any]:
    """Run `ways_out` in a box; its report and what each way got."""
    inside, log = folder / "inside", folder / "log"
    inside.mkdir()
    base = folder / "base"
    base.write_text("a model")
    with standing_in(folder) as target, trio.fail_after(DEADLINE_S):
        # A file is handed over as a node does it: opened through the view of an empty box.
        view = await process.start(
            Box(command=(), folder=str(inside), readable=("/usr",), without=without)
        )
        handed = view.open(base)
        target["descriptors"] = [handed]
        (inside / "target.json").write_text(json.dumps(target))
        started = await process.start(
            Box(
                command=(sys.executable, ways_out.__file__),
                folder=str(inside),
                readable=(*contents.libraries(), str(Path(ways_out.__file__))),
                environment=contents.environment(inside),
                descriptors=(handed,),
                limits=LIMITS,
                log=str(log),
                without=without,
            )
        )
        await started.wait()
        status = started.exit_status
        await started.end()
        await view.end()
        os.close(handed)
    text = log.read_text()
    if status != 0:
        raise SystemExit(f"ways_out ended with {status}: {text[-2000:]}")
    return {
        "report": msgspec.to_builtins(started.report),
        "ways": json.loads(text),
        "base": base.read_text(),
        "base_mode": oct(base.stat().st_mode & 0o777),
    }


def main() -> None:
    folder, place, *without = sys.argv[1:]
    enter(place)
    own = Path(folder)
    own.mkdir()
    print(json.dumps(trio.run(try_ways, own, tuple(without))))


if __name__ == "__main__":
    main()
