"""How the command line talks to its own running node: a Unix socket that only this user can open.

One request, one reply, as JSON with a length before it. The node holds the key and does the work;
the command line only asks. A failure comes back as the error's sentence and its exit status.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import trio

from swarm.errors import UNREADABLE, ConfigurationError, LocalError, SwarmError, system_fault
from swarm.visible import with_names

log = logging.getLogger("swarm.node")

MAX_CONNECTIONS = 64
"""At once; further ones are closed unread. The socket is for this node's own people alone."""
MAX_MESSAGE_BYTES = 16 * 2**20
MAX_BRACKETS = 2000
"""In one request. py-evm raises Python's recursion limit to a depth at which decoding nested JSON
overruns the stack and kills the process: nesting is bounded before anything is decoded."""
REQUEST_DEADLINE_S = 10.0
ANSWER_DEADLINE_S = 600.0
_LONGEST_SOCKET_PATH = 100

Handler = Callable[..., Awaitable[object]]


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """`method` of the node, with keyword arguments."""

    method: str
    arguments: dict[str, Any] = {}


class Reply(msgspec.Struct, omit_defaults=True):
    """`error` is empty for a success; `exit_status` is the command's."""

    result: Any = None
    error: str = ""
    exit_status: int = 0


class Running(msgspec.Struct):
    """What a running node writes to `running.json`, for those who want to find it."""

    pid: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    control: str
    rpc_url: str
    p2p: tuple[str, ...]


_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)
_running = msgspec.json.Decoder(Running)


def read_running(directory: Path) -> Running:
    """Find the node that runs in `directory`. Raises ConfigurationError if none does."""
    try:
        running = _running.decode((directory / "running.json").read_bytes())
        os.kill(running.pid, 0)
    except (FileNotFoundError, ProcessLookupError, NotADirectoryError):
        raise _nobody(directory) from None
    except OSError as error:
        raise ConfigurationError(f"cannot find the node: {system_fault(error)}") from None
    except UNREADABLE as error:
        raise ConfigurationError(
            f"{directory / 'running.json'} was not written by a node ({error}): start the node "
            f"again, with `swarm node start {directory}`"
        ) from None
    return running


def is_running(directory: Path) -> bool:
    """Whether a node runs in `directory` that can be asked."""
    try:
        read_running(directory)
    except ConfigurationError:
        return False
    return True


@contextmanager
def only_node_in(directory: Path) -> Iterator[None]:
    """Hold `directory` for this process. Raises ConfigurationError if another node runs in it:
    two that sign with one key would contradict each other."""
    with (directory / "lock").open("wb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"a node runs in {directory} already: see `swarm node status {directory}`"
            ) from None
        yield


def _nobody(directory: Path) -> ConfigurationError:
    return ConfigurationError(
        f"no node runs in {directory}: start it with `swarm node start {directory}`"
    )


def ask(
    directory: Path, method: str, deadline_s: float = ANSWER_DEADLINE_S, /, **arguments: object
) -> Any:
    """Ask the node that runs in `directory`. Raises its error as it raised it there, and LocalError
    where nothing comes for `deadline_s`."""
    running = read_running(directory)
    body = msgspec.json.encode(Request(method, arguments))
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(deadline_s)
            connection.connect(running.control)
            connection.sendall(len(body).to_bytes(4, "big") + body)
            connection.shutdown(socket.SHUT_WR)
            raw = b"".join(iter(partial(connection.recv, 65536), b""))
    except TimeoutError:
        raise LocalError(
            f"the node in {directory} has not answered for {deadline_s:.0f} s: see its log"
        ) from None
    except (FileNotFoundError, ConnectionRefusedError):
        # It was killed, and another process has its number now.
        raise _nobody(directory) from None
    except OSError as error:
        raise LocalError(
            f"the node in {directory} does not answer ({error.strerror}): see its log"
        ) from None
    if len(raw) < 4 or len(raw) < 4 + int.from_bytes(raw[:4], "big"):
        raise LocalError(f"the node in {directory} ended while it was asked: see its log")
    reply = _replies.decode(raw[4:])
    if reply.error:
        failure = ConfigurationError if reply.exit_status == 2 else LocalError
        raise failure(reply.error)
    return reply.result


@asynccontextmanager
async def open_control(directory: Path, handlers: Mapping[str, Handler]) -> AsyncIterator[str]:
    """Serve `handlers` on a socket in `directory` (or in a private temporary directory where the
    path would be too long for a socket). Yields the socket's path."""
    path = directory / "control.sock"
    private: str | None = None
    if len(os.fsencode(path)) > _LONGEST_SOCKET_PATH:
        private = tempfile.mkdtemp(prefix="swarm-")
        path = Path(private) / "control.sock"
    path.unlink(missing_ok=True)
    bound = socket.socket(socket.AF_UNIX)
    # At once: whatever else this process made meanwhile would have that mode, too.
    before = os.umask(0o177)
    try:
        bound.bind(str(path))
    finally:
        os.umask(before)
    listener = trio.socket.from_stdlib_socket(bound)
    listener.listen(16)
    try:
        async with trio.open_nursery() as nursery:
            serve = partial(
                _answer, handlers=handlers, places=trio.CapacityLimiter(MAX_CONNECTIONS)
            )
            nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(listener)])
            yield str(path)
            nursery.cancel_scope.cancel()
    finally:
        path.unlink(missing_ok=True)
        if private is not None:
            os.rmdir(private)


async def _answer(
    stream: trio.SocketStream, handlers: Mapping[str, Handler], places: trio.CapacityLimiter
) -> None:
    async with stream:
        if places.available_tokens < 1:
            return
        async with places:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                body = await _read(stream)
                if body is not None:
                    answer = _written(await _perform(body, handlers))
                    with trio.move_on_after(REQUEST_DEADLINE_S):
                        await stream.send_all(len(answer).to_bytes(4, "big") + answer)


def _written(reply: Reply) -> bytes:
    """The reply as JSON; where it holds what JSON cannot, that is a fault inside the request."""
    try:
        return msgspec.json.encode(reply, enc_hook=_encode)
    except Exception:
        log.exception("an answer cannot be written")
        fault = Reply(error="the answer cannot be written: see the node's log", exit_status=1)
        return msgspec.json.encode(fault)


async def _read(stream: trio.SocketStream) -> bytes | None:
    data = bytearray()
    with trio.move_on_after(REQUEST_DEADLINE_S):
        while len(data) < 4 or len(data) < 4 + int.from_bytes(data[:4], "big"):
            piece = await stream.receive_some(65536)
            data += piece
            if not piece or len(data) > MAX_MESSAGE_BYTES:
                break
    whole = len(data) >= 4 and len(data) == 4 + int.from_bytes(data[:4], "big")
    return bytes(data[4:]) if whole else None


async def _perform(body: bytes, handlers: Mapping[str, Handler]) -> Reply:
    if body.count(b"[") + body.count(b"{") > MAX_BRACKETS:
        return Reply(error="the request is nested too deeply", exit_status=2)
    try:
        request = _requests.decode(body)
        handler = handlers[request.method]
    except (*UNREADABLE, KeyError) as error:
        return Reply(
            error=f"the node does not know this request ({error}): is it of another release?",
            exit_status=2,
        )
    try:
        with trio.fail_after(ANSWER_DEADLINE_S):
            return Reply(result=await handler(**request.arguments))
    except SwarmError as error:
        return Reply(error=with_names(str(error)), exit_status=error.exit_status)
    except TypeError as error:
        return Reply(error=f"{request.method}: {error}", exit_status=2)
    except trio.TooSlowError:
        return Reply(error=f"{request.method} took too long", exit_status=1)
    except Exception:
        # One request's trouble stays in that request: this is the last place before the node.
        log.exception("%s failed", request.method)
        return Reply(error=f"{request.method} failed inside the node: see its log", exit_status=1)


def _encode(value: object) -> object:
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise NotImplementedError(f"{type(value)} in a reply")
