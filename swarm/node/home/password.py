"""The password of a node's keys: where it comes from, and how it is changed.

All keys in a node's directory have one password. Where it stands in a file, file and keys change
one after the other: meanwhile the file holds the new password and, in its second line, the old one,
and whatever opens a key tries both. So the keys open whenever a change is interrupted, and giving
the change again completes it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from swarm.errors import ConfigurationError
from swarm.node.home.config import NodeConfig
from swarm.node.home.keys import (
    RANDOM_PASSWORD_COST,
    SCRYPT_COST,
    WrongPassword,
    check_password,
    encrypt_key,
    generate_password,
    load_key,
    read_passwords,
    replace_secret,
)

PASSWORD_VARIABLE = "SWARM_PASSWORD"
ACCOUNT_KEY = "account.json"
"""The key of the governing account, where it is another than the node's and lies here."""
NEXT_KEY = "next-key.json"
"""The key that a rotation is about to make this node's."""


def open_key(directory: Path, config: NodeConfig, password: str | None = None) -> bytes:
    """The node's 32-byte secret. Raises ConfigurationError."""
    passwords = find_passwords(directory, config, password)
    return open_with(directory / config.key.file, passwords)


def find_passwords(directory: Path, config: NodeConfig, password: str | None) -> tuple[str, ...]:
    """What opens the keys: given, from the configured file, or from SWARM_PASSWORD."""
    if password is not None:
        return (password,)
    if config.key.password_file is not None:
        return read_passwords(directory / config.key.password_file)
    if PASSWORD_VARIABLE in os.environ:
        return (os.environ[PASSWORD_VARIABLE],)
    raise ConfigurationError(
        f"no password for {directory / config.key.file}: set `key.password_file` in node.toml, or "
        f"{PASSWORD_VARIABLE}, or start the node in a terminal"
    )


def open_with(path: Path, passwords: Sequence[str]) -> bytes:
    """The secret in `path`, by the first of these passwords that opens it."""
    *others, last = passwords
    for password in others:
        try:
            return load_key(path, password)
        except WrongPassword:
            continue
    return load_key(path, last)


def change_password(
    directory: Path, config: NodeConfig, password: str | None, new: str | None
) -> list[Path]:
    """Encrypt every key of the node anew, under `new` or a random password that is kept in the
    configured file; `password` is the one that opens them now. Returns the files that were changed.

    May be interrupted at any moment, and be given again. Raises ConfigurationError, and then has
    changed nothing.
    """
    file = config.key.password_file
    if new is not None:
        check_password(new)
    elif file is None:
        raise ConfigurationError(
            "there is no new password: give one, or name a file for a random one as "
            "`key.password_file` in node.toml"
        )
    with _only_change_in(directory):
        passwords = find_passwords(directory, config, password)
        if file is not None and len(passwords) > 1:
            _encrypt_keys(directory, config, passwords, passwords[0], SCRYPT_COST)
            _write_passwords(directory / file, passwords[0])
            passwords = passwords[:1]
        cost = SCRYPT_COST if new is not None else RANDOM_PASSWORD_COST
        new = new or generate_password()
        if file is None:
            # Without a file the first try may have changed some of the keys.
            return _encrypt_keys(directory, config, (*passwords, new), new, cost)
        open_with(directory / config.key.file, passwords)
        _write_passwords(directory / file, new, passwords[0])
        changed = _encrypt_keys(directory, config, (new, *passwords), new, cost)
        _write_passwords(directory / file, new)
    return changed


def _encrypt_keys(
    directory: Path, config: NodeConfig, passwords: Sequence[str], new: str, cost: int
) -> list[Path]:
    names = (config.key.file, NEXT_KEY, ACCOUNT_KEY)
    paths = [directory / name for name in names if (directory / name).exists()]
    opened = {path: open_with(path, passwords) for path in paths}
    for path, secret in opened.items():
        replace_secret(path, encrypt_key(secret, new, cost))
    return paths


def _write_passwords(path: Path, *passwords: str) -> None:
    replace_secret(path, "".join(f"{password}\n" for password in passwords).encode())


@contextmanager
def _only_change_in(directory: Path) -> Iterator[None]:
    """Two changes at once could leave keys and file with different passwords."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ConfigurationError(
            f"another command changes the password in {directory}: wait until it has ended"
        ) from None
    finally:
        os.close(descriptor)
