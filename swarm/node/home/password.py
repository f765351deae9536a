"""Where the password of a node's key comes from."""

from __future__ import annotations

import os
from pathlib import Path

from swarm.errors import ConfigurationError
from swarm.node.home.config import NodeConfig
from swarm.node.home.keys import read_password

PASSWORD_VARIABLE = "SWARM_PASSWORD"


def find_password(directory: Path, config: NodeConfig, password: str | None) -> str:
    """What opens the key: given, from the configured file, or from SWARM_PASSWORD."""
    if password is not None:
        return password
    if config.key.password_file is not None:
        return read_password(directory / config.key.password_file)
    if PASSWORD_VARIABLE in os.environ:
        return os.environ[PASSWORD_VARIABLE]
    raise ConfigurationError(
        f"no password for {directory / config.key.file}: set `key.password_file` in node.toml, or "
        f"{PASSWORD_VARIABLE}, or start the node in a terminal"
    )
