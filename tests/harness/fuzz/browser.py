"""Target: the dashboard, which a browser asks, and whatever else reaches a port on loopback.

Its node is a control socket that answers as a node does. Requests hold the cookie of somebody who
has come in, so that what is behind the door is reached, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import trio

from harness.fuzz.campaign import ACCEPTED, Session, Target
from harness.fuzz.services import status
from swarm.dashboard.pages import PAGES
from swarm.dashboard.serving import serve
from swarm.errors import ConfigurationError
from swarm.node.commands.control import Running, open_control
from swarm.node.status import NodeStatus, PrivacyStatus, SandboxStatus

MOMENT_S = 0.2
ANSWER_S = 10.0


def targets() -> list[Target]:
    """All of them."""
    return [Target("dashboard", "bytes", _open_dashboard, deadline_s=8.0)]


async def _nothing(**arguments: object) -> object:
    raise ConfigurationError("there is no such plan")


async def _watched(seen: str) -> object:
    if seen:
        await trio.sleep_forever()
    status = NodeStatus(
        name="Basel", pid=1, trainer_pid=None, tasks=1, account="0x", peer_id="", p2p=[],
        rpc_url="", dir="", contract="0x", chain_id=7, height=1, round=None, chain={},
        members=["Basel"], connected=[], peers=[], notes=[], bytes_sent=0, bytes_received=0,
        sandbox=SandboxStatus(stand={}, missing={}, reach=[]), plans=[], refused_plans={},
        privacy=PrivacyStatus(spent=0.0, epsilon=None, delta=1e-5),
    )  # fmt: skip
    return {"version": "1", "status": msgspec.to_builtins(status)}


async def _members() -> object:
    return {"members": [], "proposals": []}


async def _none(**arguments: object) -> object:
    return []


HANDLERS: dict[str, Any] = {
    "watch": _watched,
    "members": _members,
    **dict.fromkeys(("plans", "blocks"), _none),
    **dict.fromkeys(("show_plan", "consent", "decline", "withdraw", "vote"), _nothing),
}


@asynccontextmanager
async def _open_dashboard(directory: Path) -> AsyncIterator[Session]:
    async with open_control(directory, HANDLERS) as path, trio.open_nursery() as nursery:
        running = Running(os.getpid(), str(path), "http://127.0.0.1:1", ())
        (directory / "running.json").write_bytes(msgspec.json.encode(running))
        send, receive = trio.open_memory_channel[str](1)
        nursery.start_soon(serve, directory, "127.0.0.1:0", send.send_nowait)
        link = await receive.receive()
        port = int(re.findall(r":(\d+)/", link)[0])
        opened = await _exchange(port, _request(port, "GET", link.partition(str(port))[2]))
        cookie = re.findall(rb"set-cookie: ([^;]+)", opened)[0].decode()
        valid = [
            *(_request(port, "GET", page.path, cookie=cookie) for page in PAGES),
            _request(port, "GET", "/consent/1", cookie=cookie),
            _request(port, "GET", "/static/style.css", cookie=cookie),
            _request(port, "GET", "/enter?token=guessed"),
            _request(port, "POST", "/consent/1/withdraw", cookie=cookie, body=b"a=b"),
            _request(port, "POST", "/vote/1/yes", cookie=cookie, body=b"a=b"),
        ]

        async def offer(data: bytes) -> str:
            answer = status(await _exchange(port, data))
            assert answer != "HTTP 500", "a request failed inside of the dashboard"
            return answer

        async def check() -> None:
            for page in valid[: len(PAGES)]:
                answer = await _exchange(port, page, ANSWER_S)
                assert status(answer) == ACCEPTED, answer

        yield Session(lambda: valid, offer, check)
        nursery.cancel_scope.cancel()


async def _exchange(port: int, data: bytes, patience_s: float = MOMENT_S) -> bytes:
    """Send it all and read to the end, or for a moment where the rest of a request is awaited. To
    a server of pages, whoever ends its side has gone."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    answer = b""
    async with stream:
        with suppress(trio.BrokenResourceError), trio.move_on_after(patience_s):
            await stream.send_all(data or b"\0")
            while piece := await stream.receive_some(65536):
                answer += piece
    return answer


def _request(port: int, method: str, target: str, *, cookie: str = "", body: bytes = b"") -> bytes:
    host = f"127.0.0.1:{port}"
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", "Connection: close"]
    lines += [f"Cookie: {cookie}"] if cookie else []
    lines += [f"Origin: http://{host}", f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body
