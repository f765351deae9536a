"""The node key at rest: an encrypted keystore v3 file (Web3 Secret Storage), and its password.

The key is one secp256k1 secret of 32 bytes: the account, the validator and the libp2p identity.
It is never written unencrypted, logged, or given to the trainer process.
"""

from __future__ import annotations

import os
import secrets
from math import prod
from pathlib import Path
from typing import Any

import msgspec
from eth_account import Account

from swarm.errors import UNREADABLE, ConfigurationError, system_fault
from swarm.types import Address, to_address

MIN_PASSWORD_CHARACTERS = 8
SCRYPT_COST = 2**17
"""Memory-hard work to try one password that a person chose: about half a second."""
RANDOM_PASSWORD_COST = 2**12
"""Enough for a generated password of 256 bits, which no work factor makes harder to guess."""
SCRYPT_BLOCK_BYTES = 128
MAX_SCRYPT_BYTES = 2**30
MAX_PBKDF2_ROUNDS = 10**7
MAX_KEY_FILE_BYTES = 64 * 1024
MAX_PASSWORD_FILE_CHARACTERS = 4096
MAX_BRACKETS = 64
"""A keystore has four. py-evm raises Python's recursion limit so far that decoding nested JSON
overruns the stack and kills the process: nesting is bounded before anything is decoded."""


class WrongPassword(ConfigurationError):
    """A password does not open a key file."""


def generate_password() -> str:
    """A password of 256 random bits, for nodes that start unattended."""
    return secrets.token_urlsafe(32)


def check_password(password: str) -> None:
    """Raise ConfigurationError for a password that is too short."""
    if len(password) < MIN_PASSWORD_CHARACTERS:
        raise ConfigurationError(
            f"the password has {len(password)} characters: choose at least "
            f"{MIN_PASSWORD_CHARACTERS}"
        )


def create_key(path: Path, password: str, *, cost: int = SCRYPT_COST) -> Address:
    """Make a new key and write it to `path`, encrypted, mode 600. Returns its address.

    Raises ConfigurationError if the file exists (a key is never overwritten) or the password is
    too short.
    """
    check_password(password)
    account = Account.create()
    write_secret(path, encrypt_key(bytes(account.key), password, cost))
    return to_address(account.address)


def encrypt_key(secret: bytes, password: str, cost: int) -> bytes:
    """A keystore file of this 32-byte secret."""
    keystore = Account.encrypt(secret, password, kdf="scrypt", iterations=cost)
    return msgspec.json.encode(keystore)


def load_key(path: Path, password: str) -> bytes:
    """The 32-byte secret in `path`. Raises ConfigurationError: no file, no keystore, or wrong
    password."""
    document = _read_keystore(path)
    _require_bounded(path, document)
    try:
        return bytes(Account.decrypt(document, password))
    except ValueError as error:
        if "MAC mismatch" in str(error):
            raise WrongPassword(
                f"the password does not open {path}: check the password file, SWARM_PASSWORD, or "
                "what you typed"
            ) from None
        raise _no_keystore(path, str(error)) from None
    except KeyError as error:
        raise _no_keystore(path, f"it has no {error}") from None
    except (TypeError, AttributeError, NotImplementedError, OverflowError) as error:
        raise _no_keystore(path, str(error)) from None


def _no_keystore(path: Path, why: str) -> ConfigurationError:
    return ConfigurationError(f"{path} is no keystore v3 file: {why}; restore it from a backup")


def address_in(path: Path) -> Address:
    """The address that a keystore names, which needs no password. Raises ConfigurationError."""
    try:
        return to_address(_lower(_read_keystore(path))["address"].removeprefix("0x"))
    except (KeyError, AttributeError, ValueError):
        raise ConfigurationError(f"{path} names no address, as a keystore v3 file does") from None


def _read_keystore(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_KEY_FILE_BYTES)
        if content.count(b"[") + content.count(b"{") > MAX_BRACKETS:
            raise _no_keystore(path, "it is nested too deeply")
        return msgspec.json.decode(content)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} does not exist: restore it from a backup, or make a new node with `swarm init`"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read the key file {system_fault(error)}") from None
    except UNREADABLE as error:
        raise _no_keystore(path, str(error)) from None


def _require_bounded(path: Path, document: object) -> None:
    """Refuse a file that asks for more memory or time than any password is worth.

    Names differ in case between the programs that write such files.
    """
    params: object = document
    for name in ("crypto", "kdfparams"):
        params = _lower(params).get(name)
    found = _lower(params)
    memory = [found.get("n", 1), found.get("r", 1), found.get("p", 1)]
    numbers = [*memory, found.get("c", 1), found.get("dklen", 1)]
    if not all(type(number) is int and number > 0 for number in numbers):
        raise _no_keystore(path, "its kdfparams are no numbers")
    work = prod(memory) * SCRYPT_BLOCK_BYTES
    if work > MAX_SCRYPT_BYTES or max(numbers[3:]) > MAX_PBKDF2_ROUNDS:
        raise ConfigurationError(
            f"{path} asks for {work} bytes and {max(numbers[3:])} rounds of work for one try of a "
            "password, which no keystore needs: it was damaged, or made to hang this node"
        )


def _lower(document: object) -> dict[str, Any]:
    if not isinstance(document, dict):
        return {}
    return {name.lower(): value for name, value in document.items() if isinstance(name, str)}


def address_of(secret: bytes) -> Address:
    """The address of a 32-byte secret."""
    return to_address(Account.from_key(secret).address)


def read_password(path: Path) -> str:
    """The first line of a password file. Raises ConfigurationError if others may read it."""
    return read_passwords(path)[0]


def read_passwords(path: Path) -> tuple[str, ...]:
    """The lines of a password file: the password, and after a change that was interrupted the one
    before it. Raises ConfigurationError if others may read it."""
    try:
        mode = path.stat().st_mode & 0o777
        text = path.read_text()[:MAX_PASSWORD_FILE_CHARACTERS]
    except OSError as error:
        raise ConfigurationError(f"cannot read the password file {system_fault(error)}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"the password file {path} is no text in UTF-8: write the password into its first line"
        ) from None
    if mode & 0o077:
        raise ConfigurationError(
            f"the password file {path} has mode {mode:o}, so others may read it: `chmod 600 {path}`"
        )
    first, *rest = text.split("\n")
    return (first, *(line for line in rest[:1] if line))


def write_secret(path: Path, content: bytes) -> None:
    """Write a new file of mode 600, durably. Raises ConfigurationError if it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigurationError(f"{path} exists already and is not overwritten") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {system_fault(error)}") from None
    _write_durably(descriptor, content)


def replace_secret(path: Path, content: bytes) -> None:
    """Write a file of mode 600 in the place of the one there is: whoever reads it, be it after a
    power failure, finds the old content or the new. Raises OSError."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    _write_durably(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), content)
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk keep what was made, renamed or removed in `folder`."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_durably(descriptor: int, content: bytes) -> None:
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
