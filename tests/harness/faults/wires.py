"""A network of one's own for each node: namespaces, veth pairs and a bridge, made by iproute2.

        node's namespace              the runner's
    ┌───────────────────────┐
    │ lo   eth0 10.77.0.1   ├── veth ──┐
    └───────────────────────┘          │
    ┌───────────────────────┐        bridge      (no address: nothing leads out)
    │ lo   eth0 10.77.0.2   ├── veth ──┘
    └───────────────────────┘

To cut a link is to write a hardware address that nobody has into the neighbour tables of both
ends: what they send is lost on the bridge, silently, as behind a firewall that drops; no reset,
no error, no carrier lost. It needs no kernel module beyond bridge and veth, works on connections
that stand, and on each pair of nodes alone.

A firewall is a routing rule that drops what comes in for the node's port: who is behind it can dial
out, and nobody can dial it. It needs no packet filter of the kernel either.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from swarm.errors import ConfigurationError, LocalError

COMMAND_S = 20.0
PORT = 4001
NOWHERE = "02:00:de:ad:00:00"


def why_not() -> str | None:
    """Why this process cannot make namespaces; None if it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip`: install the package iproute2"
    return None


class Wires:
    """The wires of one run; made by `open_wires`. Nodes are known by number, from 0."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._tag = f"sw{os.getpid()}"
        self._ips = [_ip(index) for index in range(count)]

    def within(self, index: int) -> tuple[str, ...]:
        """The command that runs another one in the namespace of this node."""
        return ("ip", "netns", "exec", self._namespace(index))

    def listen(self, index: int) -> str:
        """The multiaddr of this node."""
        return f"/ip4/{self._ips[index]}/tcp/{PORT}"

    def move(self, index: int) -> str:
        """Give this node's machine another address in the place of its own; its multiaddr there."""
        self._ips[index] = f"10.77.0.{index + 101}"
        lines = ["addr flush dev eth0", f"addr add {self._ips[index]}/24 dev eth0"]
        _batch(lines, self._namespace(index))
        return self.listen(index)

    def cut(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Drop from now on what these pairs send to each other."""
        self._lead(pairs, lambda index: NOWHERE)

    def heal(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Undo `cut`."""
        self._lead(pairs, _mac)

    def firewall(self, index: int) -> None:
        """From now on nobody reaches this node's port, silently; what it dials itself works."""
        rules = [
            "rule add pref 100 lookup local",
            "rule del pref 0",
            f"rule add pref 10 iif eth0 ipproto tcp dport {PORT} blackhole",
        ]
        _batch(rules, self._namespace(index))

    def unwall(self, index: int) -> None:
        """Undo `firewall`."""
        _batch(["rule del pref 10"], self._namespace(index))

    def _lead(self, pairs: Sequence[tuple[int, int]], mac: Callable[[int], str]) -> None:
        by_source: dict[int, list[int]] = {}
        for one, other in pairs:
            by_source.setdefault(one, []).append(other)
            by_source.setdefault(other, []).append(one)
        for source, targets in by_source.items():
            lines = [
                f"neigh replace {_ip(t)} lladdr {mac(t)} dev eth0 nud permanent" for t in targets
            ]
            _batch(lines, self._namespace(source))

    def _namespace(self, index: int) -> str:
        return f"{self._tag}n{index}"

    def _make(self) -> None:
        _batch([f"link add {self._tag} type bridge", f"link set {self._tag} up"])
        for index in range(self.count):
            space, outer, mac = self._namespace(index), f"{self._tag}v{index}", _mac(index)
            _batch([f"netns add {space}"])
            _batch([f"link add {outer} type veth peer name eth0 address {mac} netns {space}"])
            _batch([f"link set {outer} master {self._tag} up"])
            _batch(
                [f"addr add {_ip(index)}/24 dev eth0", "link set lo up", "link set eth0 up"], space
            )
        self.heal([(a, b) for a in range(self.count) for b in range(a)])

    def _remove(self) -> None:
        """Whatever there is of it; the veth pairs go with their namespaces."""
        for index in range(self.count):
            _run(["ip", "netns", "delete", self._namespace(index)], check=False)
            _run(["ip", "link", "delete", f"{self._tag}v{index}"], check=False)
        _run(["ip", "link", "delete", self._tag], check=False)


@contextmanager
def open_wires(count: int) -> Iterator[Wires]:
    """Wires for so many nodes, for as long as the block runs.

    Raises ConfigurationError where this process may not make them.
    """
    reason = why_not()
    if reason is not None:
        raise ConfigurationError(f"{reason}; or choose a plan without cuts")
    wires = Wires(count)
    try:
        wires._make()
        yield wires
    finally:
        wires._remove()


def _ip(index: int) -> str:
    return f"10.77.0.{index + 1}"


def _mac(index: int) -> str:
    return f"02:00:00:77:00:{index + 1:02x}"


def _batch(lines: Sequence[str], space: str | None = None) -> None:
    within = [] if space is None else ["-n", space]
    _run(["ip", *within, "-batch", "-"], "".join(f"{line}\n" for line in lines))


def _run(command: Sequence[str], text: str = "", check: bool = True) -> None:
    done = subprocess.run(
        command, input=text, text=True, capture_output=True, timeout=COMMAND_S, check=False
    )
    if check and done.returncode != 0:
        raise LocalError(f"{' '.join(command)}: {done.stderr.strip()} (given: {text.strip()!r})")
