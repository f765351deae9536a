"""A node's next key: made beside the one in use, and put into its place once the chain has it.

At each moment `key.json` is there, and it is the old key or the new one. A node that was killed
meanwhile looks at its start which of the two its member has (`Node.run`).
"""

from __future__ import annotations

import os
from pathlib import Path

from swarm.errors import ConfigurationError
from swarm.node.home.config import NodeConfig
from swarm.node.home.keys import (
    RANDOM_PASSWORD_COST,
    SCRYPT_COST,
    address_in,
    create_key,
    sync_folder,
)
from swarm.node.home.password import ACCOUNT_KEY, NEXT_KEY, find_passwords, open_with
from swarm.types import Address


def make_next_key(directory: Path, config: NodeConfig, password: str | None) -> bytes:
    """The secret of the node's next key, which is made unless an earlier command has made it.

    Raises ConfigurationError, also if the password does not open the key in use.
    """
    passwords = find_passwords(directory, config, password)
    open_with(directory / config.key.file, passwords)
    path = directory / NEXT_KEY
    if not path.exists():
        is_random = config.key.password_file is not None
        create_key(path, passwords[0], cost=RANDOM_PASSWORD_COST if is_random else SCRYPT_COST)
    return open_with(path, passwords)


def next_address(directory: Path) -> Address | None:
    """The address of the key that waits to be this node's, if one does."""
    path = directory / NEXT_KEY
    return address_in(path) if path.exists() else None


def take_next_key(directory: Path, config: NodeConfig, *, governs: bool) -> None:
    """Put the next key into the place of the one in use, which is kept as the account's if it
    `governs`, and deleted otherwise. Raises ConfigurationError if no key waits."""
    next_key, key = directory / NEXT_KEY, directory / config.key.file
    if not next_key.exists():
        raise ConfigurationError(
            f"{next_key} does not exist: no other key waits; `swarm node rotate` makes one"
        )
    if governs and not (directory / ACCOUNT_KEY).exists():
        os.link(key, directory / ACCOUNT_KEY)
        sync_folder(directory)
    next_key.replace(key)
    sync_folder(directory)
