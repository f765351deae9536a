"""No wait in the program is without a deadline: whatever may wait is found and accounted for.

A call counts as bounded inside `trio.fail_after`, `move_on_after` or `move_on_at` of the same
function, or with a timeout of its own. All others are listed here with the reason why they may wait
for ever, or with who bounds them: a new one fails this test until somebody has thought about it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import swarm

PACKAGE = Path(swarm.__file__).parent
BOUNDS = {"fail_after", "move_on_after", "move_on_at"}
WAITS = {
    *("wait", "receive", "receive_some", "send_all", "send_eof", "accept", "sleep_forever", "recv"),
    *(
        "recv_into",
        "sendall",
        "join",
        "acquire",
        "wait_readable",
        "wait_writable",
        "serve_listeners",
    ),
    *("communicate", "wait_for_head", "heads", "jobs", "flock", "create_connection", "select"),
    *("open_tcp_stream", "get", "connect", "run_process", "request", "make_request", "read_frame"),
}
IDLE = "idle: it waits for the next thing to happen, and is cancelled with its nursery"
CALLER = "its caller sets the deadline, as its docstring says"
STALL = "a write that stalls for `write_stall_s` ends the connection, which wakes it"
SOCKET = "the socket has a timeout, set just before"
OTHER = "the other thread of the fetch always ends with a value for it, and has a socket timeout"
CHILD = "in the trainer process, which ends with the socket that its node holds"
POSITIONAL = "its deadline is an argument without a name"
ENDED = "in the benchmark's own process, which is ended with the benchmark"
STOPPED = "for a chunk, or until whoever asked for the merge stops it"
TURNS = "as long as other sites of the same run train, in the same process"
POLLED = "the socket does not block: `poll` before it has the deadline"
HELD = "its socket ends with the round, or with the node"
LAUNCHER = "in the launcher, which ends the box with its node; the node sets the deadline"
ACCOUNTED = {
    "box.frames:_exactly:recv": LAUNCHER,
    "box.frames:send:sendall": LAUNCHER,
    "box.launcher:_become_first:wait": "the first process of a box lives as long as the box",
    "box.launcher:_report:receive": LAUNCHER,
    "box.launcher:end:wait": "for processes that it has just killed",
    "box.launcher:launch:receive": LAUNCHER,
    "box.process:_introduce:receive": "the socket has a timeout, set by `start`",
    "box.process:wait:wait": CALLER,
    "bench.machine:look:wait": "a moment at a time",
    "bench.machine:watch:join": "the thread was told to end, and looks every moment",
    "bench.transfer:_drain:recv_into": SOCKET,
    "bench.transfer:_drain:sendall": SOCKET,
    "bench.transfer:_serve_raw:accept": SOCKET,
    "bench.transfer:_serve_raw:recv": ENDED,
    "bench.transfer:_serve_raw:sendall": ENDED,
    "chain.client:_create:wait": POSITIONAL,
    "chain.client:transact:wait": "with the deadline of the transaction",
    "chain.endpoint:ask:make_request": "the provider has a timeout, or is in this process",
    "chain.external:make_request:make_request": "made with a timeout, which its caller gives",
    "dashboard.access:bounded:receive": "the server has a deadline for reading",
    "dashboard.serving:serve:serve_listeners": IDLE,
    "node.http_door:_next_event:receive_some": "`read_head` and `read_body` set the deadline",
    "node.http_door:_write:send_all": "`send` and `read_body` set the deadline",
    "node.http_door:linger:send_eof": "shutdown(2), which does not wait",
    "chain.service:_run_lane:async for": IDLE,
    "chain.service:heads:wait": IDLE,
    "learning.supervisor.trainer_process:_piece:recv": "`_exactly` sets the deadline",
    "learning.parameters.next_file:_elements:wait": STOPPED,
    "learning.plans.stages:train_and_select:select": "the stage of that name, which does nothing",
    "learning.scripts.script_run:_wait:get": "the plan's code runs meanwhile: its node ends it",
    "learning.scripts.script_run:next_round:get": CHILD,
    "learning.scripts.session:current:get": "of a context variable, which waits for nobody",
    "learning.simulation.turns:hand_on:acquire": TURNS,
    "learning.simulation.turns:run:wait": TURNS,
    "learning.simulation.turns:work:acquire": TURNS,
    "learning.simulation.worker:main:read_frame": "in a worker, which ends with its input",
    "learning.training.asking:_read:recv_into": POLLED,
    "learning.training.holding:_exactly:recv_into": HELD,
    "learning.training.holding:run:join": "its stream was shut down just before",
    "learning.training.holding:run:receive": HELD,
    "network.stream_relay:_read:recv_into": POLLED,
    "network.stream_relay:_send_out:wait": "for as long as the pace asks, as an argument",
    "network.bulk:carry:connect": "its patience, as an argument",
    "rounds.streams:_carry:wait_readable": "until the training ends, which cancels it",
    "rounds.streams:_carry_to:wait": "`_carry` sets the deadline",
    "rounds.holding:hold:wait": "until the round machine says that the attempt is over",
    "learning.supervisor.supervisor:_final_reply:receive": "its argument is the longest silence",
    "learning.training.trainer:alive:join": "the thread looks every second whether it is over",
    "learning.training.trainer:beat:wait": "a second at a time",
    "learning.training.ranks:_listen:receive": CHILD,
    "learning.training.ranks:collect:get": "a rank silent for SILENCE_S silences the trainer",
    "learning.training.trainer:_read:receive": CHILD,
    "learning.training.trainer:receive:get": CHILD,
    "learning.training.trainer:send:sendall": CHILD,
    "learning.training.trainer:serve:receive": CHILD,
    "network.blob_exchange:serve:async for": "reads of the disk, and writes that stall are ended",
    "network.bulk:_fetch:connect": "its patience, as an argument",
    "network.bulk:run:sleep_forever": "as long as the network is open",
    "network.bulk:stop_when_cancelled:sleep_forever": "cancelled when the thread beside it ends",
    "network.bulk_connections:_call:request": CALLER,
    "network.bulk_connections:_call:wait": CALLER,
    "network.bulk_connections:_is_quiet:recv": "the socket does not block",
    "network.bulk_transfer:_await:wait": "each of a bounded number of pauses, as an argument",
    "network.bulk_transfer:_next_buffer:get": OTHER,
    "network.bulk_transfer:_write:wait": "for as long as the pace asks, as an argument",
    "network.bulk_transfer:hand_over:get": OTHER,
    "network.bulk_transfer:receive:sendall": SOCKET,
    "network.connection:_accept_streams:accept": IDLE,
    "network.connection:_deliver_messages:wait": IDLE,
    "network.connection:_handle_request:wait": STALL,
    "network.connection:_open_control:wait": "set as soon as the multiplexer runs; its end cancels",
    "network.connection:_read_control:read_frame": IDLE + "; a frame that began has a deadline",
    "network.connection:_refuse:wait": STALL,
    "network.connection:_write_control:wait": IDLE,
    "network.connection:request:wait": CALLER,
    "network.muxer:__aenter__:acquire": "what holds it waits for room to write at most: " + STALL,
    "network.muxer:_write_frame:wait": STALL,
    "network.muxer:_write_frames:wait": IDLE,
    "network.network:_keep_connected:wait": IDLE,
    "network.signals:wait:wait": CALLER,
    "network.tcp:dial:open_tcp_stream": CALLER,
    "network.tcp:handle:accept": "`Network._accept`, which gives a stranger `handshake_s`",
    "network.tcp:peek:recv": "after `wait_readable`, and within the handshake's deadline",
    "network.tcp:peek:wait_readable": "within the handshake's deadline",
    "network.tcp:read:receive_some": "within the handshake's deadline, then idle; see keepalive",
    "network.tcp:serve:serve_listeners": IDLE,
    "network.tcp:write:send_all": "within the handshake's deadline, then `write_stall_s`",
    "network.tls:when_ready:wait_readable": CALLER,
    "network.tls:when_ready:wait_writable": CALLER,
    "node.commands.control:ask:connect": SOCKET,
    "node.commands.control:ask:sendall": SOCKET,
    "node.commands.control:only_node_in:flock": "LOCK_NB: it does not wait",
    "node.commands.account:_link_to:connect": "the provider has a timeout",
    "node.home.password:_only_change_in:flock": "LOCK_NB: it does not wait",
    "node.chain.source:_next_head:wait_for_head": IDLE,
    "node.commands.common:wait_for_head:wait_for_head": "`control` gives every answer a deadline",
    "node.alerts.alerting:_send:wait": IDLE,
    "node.node:run:wait_for_head": IDLE,
    "node.node_process:stop_on_signal:async for": IDLE,
    "rounds.collection:use:wait": "set by a pull, which has one; its failure cancels",
    "rounds.chunk_merge:_merged_pieces:wait": STOPPED,
    "testnet.processes:stop_nodes:wait": POSITIONAL,
    "testnet.warm:_look:select": POSITIONAL,
    "testnet.warm:_answer:receive": "in the process that is forked from, which ends with its asker",
    "testnet.warm:serve:select": "in the process that is forked from, which ends with its asker",
    "testnet.warm:fork:receive": SOCKET,
    "testnet.warm:start_node:connect": "it sends a socket, and waits for nothing",
    "testnet.workers:ask:read_frame": "as long as a client trains; whoever asked can end it",
}
TIMEOUTS = {"timeout", "timeout_s", "deadline_s", "within_s", "timeout_seconds"}


def waits(path: Path) -> Iterator[str]:
    """`module:function:call` for each wait in a file that nothing in its function bounds."""
    module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    yield from _in(ast.parse(path.read_text()), module, "", False)


def _in(node: ast.AST, module: str, function: str, bounded: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        inside, bound = function, bounded
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            inside, bound = child.name, False
        if isinstance(child, ast.With | ast.AsyncWith):
            bound = bounded or any(_name(item.context_expr) in BOUNDS for item in child.items)
        if isinstance(child, ast.Call) and not bounded and _may_wait(child):
            yield f"{module}:{function}:{_name(child)}"
        if isinstance(child, ast.AsyncFor) and not bounded:
            yield f"{module}:{function}:async for"
        yield from _in(child, module, inside, bound)


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Call):
        node = node.func
    return node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")


def _may_wait(call: ast.Call) -> bool:
    name = _name(call)
    if name == "get":  # of a queue: a dictionary's takes a key
        return not call.args and not call.keywords
    if name not in WAITS or any(keyword.arg in TIMEOUTS for keyword in call.keywords):
        return False
    is_text = name == "join" and bool(call.args)
    return not is_text


def test_every_wait_has_a_deadline_or_a_reason() -> None:
    found = {wait for path in sorted(PACKAGE.rglob("*.py")) for wait in waits(path)}
    assert sorted(found - ACCOUNTED.keys()) == []
    assert sorted(ACCOUNTED.keys() - found) == [], "these do not exist any more"


def test_the_scan_finds_a_wait_without_a_deadline() -> None:
    bare, bounded = "await event.wait()", "with trio.move_on_after(1): await event.wait()"
    text = f"async def one():\n    {bare}\nasync def two():\n    {bounded}\n"
    assert list(_in(ast.parse(text), "invented", "", False)) == ["invented:one:wait"]
