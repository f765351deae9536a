"""Making a node's directory: key, configuration, join card. Nothing is ever overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from swarm.chain.genesis import (
    Founder,
    Genesis,
    consortium_genesis,
    read_card,
    write_card,
    write_genesis,
)
from swarm.errors import ConfigurationError, system_fault
from swarm.node.home.config import check_host_port, check_multiaddr
from swarm.node.home.keys import (
    RANDOM_PASSWORD_COST,
    SCRYPT_COST,
    create_key,
    generate_password,
    write_secret,
)
from swarm.types import Address

CARD = "card.json"
NETWORK = "network.json"
DEFAULT_LISTEN = "/ip4/127.0.0.1/tcp/4001"


def create_node(
    directory: Path,
    name: str,
    *,
    password: str | None,
    listen: str = DEFAULT_LISTEN,
    announce: Sequence[str] = (),
    http: str = "127.0.0.1:8545",
    data: Path | None = None,
    seed: int | None = None,
    keep_models: int = 3,
    account: Address | None = None,
) -> Founder:
    """Make `directory` with a new key, `node.toml` and the join card; return the card.

    Without `password`, a random one is made and kept in the file `password`. `announce` are the
    addresses under which others can reach this node, `listen` by default. `account` governs, and
    its key lies elsewhere; the node's own by default.
    Raises ConfigurationError, and then leaves nothing behind.
    """
    check_multiaddr(listen, "`--listen`")
    for address in announce:
        check_multiaddr(address, "`--announce`")
    check_host_port(http, "`--http`")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigurationError(
            f"{directory} is not empty: choose a new directory, or start the node that is there"
        )
    existed = directory.exists()
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.chmod(0o700)
    except OSError as error:
        raise ConfigurationError(f"cannot make {system_fault(error)}") from None
    try:
        cost = SCRYPT_COST
        if password is None:
            password, cost = generate_password(), RANDOM_PASSWORD_COST
            write_secret(directory / "password", password.encode() + b"\n")
        key = create_key(directory / "key.json", password, cost=cost)
        card = Founder(name, account or key, key, tuple(announce or [listen]))
        write_card(directory / CARD, card)
        unattended = (directory / "password").exists()
        text = _config(name, listen, announce, http, data, seed, keep_models, unattended)
        (directory / "node.toml").write_text(text)
    except BaseException:
        for made in directory.iterdir():
            made.unlink()
        if not existed:
            directory.rmdir()
        raise
    return card


def found_network(cards: Iterable[Founder], timestamp: int) -> Genesis:
    """The genesis of these founders, with the contract that ships with this release."""
    return consortium_genesis(cards, timestamp)


def read_cards(paths: Iterable[Path]) -> list[Founder]:
    """The founders' join cards. Raises ConfigurationError, also for addresses that no node can
    dial: once they stand in network.json, every founder would have to be asked again."""
    cards = []
    for path in paths:
        card = read_card(path)
        for address in card.addresses:
            check_multiaddr(address, f"{path}: `addresses`")
        cards.append(card)
    return cards


def install_network(directory: Path, genesis: Genesis) -> None:
    """Put `network.json` into a node's directory."""
    write_genesis(directory / NETWORK, genesis)


def _config(
    name: str,
    listen: str,
    announce: Sequence[str],
    http: str,
    data: Path | None,
    seed: int | None,
    keep_models: int,
    unattended: bool,
) -> str:
    def quoted(value: object) -> str:
        return json.dumps(str(value), ensure_ascii=False)  # TOML reads JSON's strings

    lines = [
        "# One institution's node. `swarm node start` reads it; docs/operations.md explains it.",
        f"name = {quoted(name)}",
        "",
        "[key]",
        'file = "key.json"',
        *(['password_file = "password"'] if unattended else []),
        "",
        "[chain]",
        f"network = {quoted(NETWORK)}",
        "",
        "[network]",
        f"listen = [{quoted(listen)}]",
        *([f"announce = [{', '.join(map(quoted, announce))}]"] if announce else []),
        "",
        "[http]",
        "# JSON-RPC and status, for programs on this machine only.",
        f"listen = {quoted(http)}",
        "",
        "[data]",
        f"path = {quoted(data)}" if data else '# path = "patients.csv"   # this site\'s own data',
        "",
        "[training]",
        'device = "auto"     # takes the GPU where there is one',
        *([f"seed = {seed}"] if seed is not None else []),
        "",
        "[storage]",
        f"keep_models = {keep_models}",
        "",
    ]
    return "\n".join(lines)
