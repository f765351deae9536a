"""The control socket: a command's question, the node's answer, and what may go wrong between."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from swarm.errors import ConfigurationError, LocalError, SwarmError
from swarm.node.commands.control import (
    MAX_CONNECTIONS,
    MAX_MESSAGE_BYTES,
    Running,
    ask,
    only_node_in,
    open_control,
)


async def add(a: int, b: int) -> int:
    return a + b


async def refuse() -> None:
    raise ConfigurationError("there is no such thing: look again")


async def fail() -> None:
    raise LocalError("the disk is full")


async def break_down() -> None:
    raise KeyError("peers")


UNWRITABLE: dict[str, object] = {"torn": "\udcff", "odd": object()}


async def tell(which: str) -> object:
    return UNWRITABLE[which]


HANDLERS = {"add": add, "tell": tell, "refuse": refuse, "fail": fail, "break_down": break_down}


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[str]:
    async with open_control(directory, HANDLERS) as path:
        running = Running(os.getpid(), path, "", ())
        (directory / "running.json").write_bytes(msgspec.json.encode(running))
        yield path


async def asked(directory: Path, method: str, **arguments: object) -> Any:
    with trio.fail_after(10):
        return await trio.to_thread.run_sync(lambda: ask(directory, method, **arguments))


def run(directory: Path, method: str, **arguments: object) -> Any:
    """The answer; raises what `ask` raises, out of its exception groups."""

    async def main() -> Any:
        async with serving(directory):
            try:
                return await asked(directory, method, **arguments)
            except SwarmError as error:
                return error

    answer = trio.run(main)
    if isinstance(answer, SwarmError):
        raise answer
    return answer


def test_an_answer_comes_back(tmp_path: Path) -> None:
    assert run(tmp_path, "add", a=2, b=3) == 5


def test_an_error_comes_back_with_its_sentence_and_its_exit_status(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^there is no such thing: look again$"):
        run(tmp_path, "refuse")
    with pytest.raises(LocalError, match=r"^the disk is full$"):
        run(tmp_path, "fail")


def test_a_fault_inside_a_request_ends_the_request_and_not_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(LocalError, match="break_down failed inside the node: see its log"):
        run(tmp_path, "break_down")
    assert "KeyError: 'peers'" in caplog.text


def test_an_answer_that_cannot_be_written_ends_the_request_and_not_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> int:
        async with serving(tmp_path):
            for which in UNWRITABLE:
                with pytest.raises(LocalError, match="cannot be written"):
                    await asked(tmp_path, "tell", which=which)
            return int(await asked(tmp_path, "add", a=1, b=1))

    assert trio.run(main) == 2
    assert "an answer cannot be written" in caplog.text


def test_connections_beyond_the_bound_are_closed_unread_until_others_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as path, AsyncExitStack() as stack:
            for _ in range(MAX_CONNECTIONS):
                await stack.enter_async_context(await trio.open_unix_socket(path))
            with pytest.raises(LocalError):
                await asked(tmp_path, "add", a=1, b=1)
            await stack.aclose()
            with trio.fail_after(10):
                while True:
                    with suppress(LocalError):
                        assert await asked(tmp_path, "add", a=1, b=1) == 2
                        return
                    await trio.sleep(0.05)

    trio.run(main)


def test_what_a_node_does_not_know_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not know this request"):
        run(tmp_path, "dance")
    with pytest.raises(ConfigurationError, match="add"):
        run(tmp_path, "add", c=1)


def test_the_socket_is_for_this_user_alone_and_goes_with_the_node(tmp_path: Path) -> None:
    async def main() -> Path:
        async with serving(tmp_path) as path:
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        return Path(path)

    assert not trio.run(main).exists()


def test_a_directory_with_a_long_name_has_its_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    deep.mkdir(parents=True)

    async def main() -> tuple[Any, Path]:
        async with serving(deep) as path:
            assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700
            return await asked(deep, "add", a=1, b=1), Path(path)

    answer, path = trio.run(main)
    assert answer == 2
    assert not path.parent.exists()


@pytest.mark.parametrize(
    "sent",
    [b"", b"\0\0", b"\0\0\0\5ab", b"\0\0\0\3abc", b"\xff\xff\xff\xff" + b"x" * 1000, b"\0\0\0\0"],
)
def test_garbage_on_the_socket_costs_the_node_nothing(tmp_path: Path, sent: bytes) -> None:
    def send(path: str) -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(path)
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1000)

    async def main() -> Any:
        async with serving(tmp_path) as path:
            await trio.to_thread.run_sync(send, path)
            return await asked(tmp_path, "add", a=1, b=2)

    assert trio.run(main) == 3
    assert MAX_MESSAGE_BYTES < 2**32


def test_a_directory_holds_one_node(tmp_path: Path) -> None:
    with only_node_in(tmp_path):
        with pytest.raises(ConfigurationError, match=r"runs in .* already"):
            with only_node_in(tmp_path):
                pass
    with only_node_in(tmp_path):
        pass
