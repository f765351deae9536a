"""What an institution's account decides where the node does not have its key.

The key stays with whoever governs: it signs in the process of the command, and the running node's
JSON-RPC carries what it signed, as it would for any wallet. A new node key, and a standby's taking
over, are such decisions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from swarm.chain.client import ConsortiumClient
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.errors import ChainError, ConfigurationError, LocalError
from swarm.node.chain.link import ChainLink, polling
from swarm.node.commands.control import ask, read_running
from swarm.node.commands.members import MemberCommands
from swarm.node.home.config import external_contract, load_config
from swarm.node.home.keys import address_of
from swarm.node.home.password import open_key
from swarm.node.home.rotation import make_next_key, next_address
from swarm.protocol.attestation import domain_of, node_key_digest, sign
from swarm.protocol.state import Member, two_thirds
from swarm.types import NO_ADDRESS, Address, to_hex

RESTART_S = 60.0
LOOK_EVERY_S = 0.2


def ask_as(directory: Path, key: bytes, method: str, /, **arguments: object) -> Any:
    """One of `MemberCommands`, for the account with this key, over the chain that the node which
    runs in `directory` follows. Raises as they do."""
    commands = MemberCommands(_link_to(directory, key))
    return trio.run(partial(commands.by_name[method], **arguments))


def rotate_key(directory: Path, password: str | None, account: bytes | None) -> Address:
    """Make a new key the node's, and wait until the node that runs in `directory` has it.

    `account` is the governing account's key; by default the node's own, which the first rotation
    keeps as the account's. May be given again if it was interrupted. Returns the new address.
    Raises ConfigurationError, ChainError, LocalError.
    """
    config = load_config(directory)
    read_running(directory)
    now = open_key(directory, config, password)
    governor = now if account is None else account
    me = trio.run(_governed, _link_to(directory, governor))
    require_own(directory, me, me.node, (address_of(now), next_address(directory)))
    secret = make_next_key(directory, config, password)
    fault: ChainError | None = None
    try:
        name_node(directory, governor, secret)
    except ChainError as error:
        # The node ends as soon as its chain has the new key, and may do so before it tells.
        fault = error
    until = time.monotonic() + RESTART_S
    while time.monotonic() < until:
        if _address_of_node(directory) == address_of(secret):
            return address_of(secret)
        time.sleep(LOOK_EVERY_S)
    raise fault or LocalError(
        f"the chain has the new key, and the node in {directory} has not taken it within "
        f"{RESTART_S:.0f} s: see its log, and start it again"
    )


def take_over(directory: Path, password: str | None, account: bytes) -> str:
    """Make the standby that runs in `directory` its member's node; that member's name.

    Raises ConfigurationError, ChainError.
    """
    key = open_key(directory, load_config(directory), password)
    me = trio.run(_governed, _link_to(directory, account))
    if me.node != address_of(key):
        require_own(directory, me, me.standby, (address_of(key),))
    return name_node(directory, account, key)


def name_node(directory: Path, account: bytes, node: bytes) -> str:
    """Have the account say that its node has the key `node` from now on, which signs that it
    agrees; nothing if that is so already. The member's name."""
    link = _link_to(directory, account)
    me = trio.run(_governed, link)
    if me.node != address_of(node):
        _require_quorum(directory, me.name)
        digest = node_key_digest(domain_of(link.client.chain_id, link.client.contract), me.id)
        proof = "0x" + sign(node, digest).hex()
        trio.run(MemberCommands(link).set_node, to_hex(address_of(node)), proof)
    return me.name


def require_own(
    directory: Path, me: Member, named: Address, keys: Sequence[Address | None]
) -> None:
    """Raise ConfigurationError unless the key that this member has named is one of those in
    `directory`: its account must not make another institution's key its own."""
    if named not in keys:
        named_text = "no standby" if named == NO_ADDRESS else to_hex(named)
        raise ConfigurationError(
            f"the account {to_hex(me.account)} is that of {me.name}, which has named {named_text}, "
            f"and not the key of the node in {directory}: give the file of that node's own account "
            "with --account, or name a standby first with `swarm contract standby`"
        )


def _require_quorum(directory: Path, name: str) -> None:
    """Raise ConfigurationError if the chain would stand still without this member, whose new key
    validates only after a block that the others make."""
    status = ask(directory, "status")
    others = [v for v in status["chain"].get("validators", ()) if v != name]
    away = [v for v in others if v not in status["connected"]]
    if len(others) - len(away) < two_thirds(len(others)):
        raise ConfigurationError(
            f"{', '.join(away)} {'is' if len(away) == 1 else 'are'} not connected to this node: a "
            f"new key of {name} takes a block that two thirds of the other validators make. Wait "
            "until they are back"
        )


async def _governed(link: ChainLink) -> Member:
    account = link.client.account
    for member in (await link.members()).values():
        if member.present and member.account == account:
            return member
    raise ConfigurationError(
        f"{'nobody' if account is None else to_hex(account)} is no member's account: give the file "
        "of the account's key with --account; `swarm contract members` lists the accounts"
    )


def _link_to(directory: Path, key: bytes) -> ChainLink:
    config, running = load_config(directory), read_running(directory)
    contract = external_contract(config)
    if contract is None:
        client = ConsortiumClient.connect(running.rpc_url, CONTRACT_ADDRESS, key)
    else:
        assert config.chain.rpc_url is not None
        client = ConsortiumClient.connect(config.chain.rpc_url, contract, key)
    return ChainLink(client, polling(client))


def _address_of_node(directory: Path) -> Address | None:
    """The key of the node that runs there; None while none answers."""
    try:
        return Address(bytes.fromhex(ask(directory, "status")["account"].removeprefix("0x")))
    except (ConfigurationError, LocalError):
        return None
