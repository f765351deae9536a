"""A testnet on disk: one directory per node, and `testnet.json` that says what was started."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from swarm.chain.genesis import Founder
from swarm.errors import UNREADABLE, ConfigurationError
from swarm.learning.simulation.dealing import SiteFiles
from swarm.node.home.setup import create_node, found_network, install_network
from swarm.types import to_hex

FILE = "testnet.json"
LOOPBACK = "127.0.0.1"


class TestnetNode(msgspec.Struct):
    """One node: its name and directory; `pid` of the process that was started for it last."""

    __test__ = False

    name: str
    directory: str
    data: str
    account: str
    pid: int | None = None


class TestnetFile(msgspec.Struct):
    """`testnet.json`."""

    __test__ = False

    plan: str
    seed: int
    nodes: list[TestnetNode]
    chain_id: int
    plan_id: int | None = None


_decoder = msgspec.json.Decoder(TestnetFile)


ALL_MODELS = 1_000_000


def create_testnet(
    directory: Path,
    plan: Path,
    sites: list[SiteFiles],
    seed: int,
    listen: Sequence[str] | None = None,
    keep_models: int = ALL_MODELS,
) -> TestnetFile:
    """Write the directories of one node for each site, and the genesis that they share.

    Each node gets its own copy of its own site's data, and nothing of the others'. `listen` has a
    multiaddr for each node; by default they take free ports on loopback.
    """
    if (directory / FILE).exists():
        raise ConfigurationError(
            f"{directory} holds a testnet already: end and delete it with `swarm testnet down "
            f"--delete --dir {directory}`, or choose another directory"
        )
    for site in sites:
        if (directory / site.name).exists():
            raise ConfigurationError(
                f"{directory / site.name} exists already: choose another directory"
            )
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    nodes: list[TestnetNode] = []
    try:
        return _fill(
            directory, plan, sites, seed, listen or _loopback(len(sites)), keep_models, nodes
        )
    except BaseException:
        delete_nodes(directory, nodes)
        raise


def _fill(
    directory: Path,
    plan: Path,
    sites: list[SiteFiles],
    seed: int,
    listen: Sequence[str],
    keep_models: int,
    nodes: list[TestnetNode],
) -> TestnetFile:
    cards: list[Founder] = []
    for site, address in zip(sites, listen, strict=True):
        home = directory / site.name
        card = create_node(
            home,
            site.name,
            password=None,
            listen=address,
            http=f"{LOOPBACK}:0",
            data=site.place_in(Path("data")),
            seed=seed,
            keep_models=keep_models,
        )
        node = TestnetNode(site.name, str(home), str(home / "data"), to_hex(card.account))
        nodes.append(node)
        node.data = str(site.copy_to(home / "data"))
        cards.append(card)
    genesis = found_network(cards, int(time.time()))
    for node in nodes:
        install_network(Path(node.directory), genesis)
    testnet = TestnetFile(str(plan.resolve()), seed, nodes, genesis.chain_id)
    write_testnet(directory, testnet)
    return testnet


def delete_nodes(directory: Path, nodes: Iterable[TestnetNode]) -> None:
    """Delete what `create_testnet` made, and nothing else that may lie in `directory`."""
    for node in nodes:
        shutil.rmtree(node.directory, ignore_errors=True)
    (directory / FILE).unlink(missing_ok=True)
    if not any(directory.iterdir()):
        directory.rmdir()


def read_testnet(directory: Path) -> TestnetFile:
    """Raises ConfigurationError if there is no testnet in `directory`."""
    path = directory / FILE
    try:
        return _decoder.decode(path.read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(
            f"no testnet in {directory}: start one with `swarm testnet up PLAN`, or name its "
            "directory with --dir"
        ) from None
    except (OSError, *UNREADABLE) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from None


def write_testnet(directory: Path, testnet: TestnetFile) -> None:
    temporary = directory / (FILE + ".partial")
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(testnet), indent=2))
    os.replace(temporary, directory / FILE)


def _loopback(count: int) -> list[str]:
    """Addresses on ports that nobody listens on now; all are held until the last is found."""
    held = []
    for _ in range(count):
        probe = socket.socket()
        probe.bind((LOOPBACK, 0))
        held.append(probe)
    ports = [int(probe.getsockname()[1]) for probe in held]
    for probe in held:
        probe.close()
    return [f"/ip4/{LOOPBACK}/tcp/{port}" for port in ports]
