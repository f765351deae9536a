"""A new node's directory and its key: encrypted, private, and never overwritten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from click.testing import CliRunner
from eth_account import Account

from swarm.chain.genesis import read_card
from swarm.cli import main
from swarm.errors import ConfigurationError
from swarm.node.home.keys import (
    RANDOM_PASSWORD_COST,
    address_in,
    address_of,
    create_key,
    load_key,
    read_password,
    write_secret,
)
from swarm.node.home.setup import create_node

PASSWORD = "long enough to guess"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key.json"
    create_key(path, PASSWORD, cost=RANDOM_PASSWORD_COST)
    return path


def test_a_key_opens_with_its_password_alone(key_file: Path) -> None:
    secret = load_key(key_file, PASSWORD)
    assert len(secret) == 32
    assert secret.hex() not in key_file.read_text()
    with pytest.raises(ConfigurationError, match=r"the password does not open .*key\.json"):
        load_key(key_file, PASSWORD + "!")


def test_a_key_file_is_a_keystore_that_other_programs_read(key_file: Path) -> None:
    secret = bytes(Account.decrypt(key_file.read_text(), PASSWORD))
    assert address_of(secret) == address_of(load_key(key_file, PASSWORD))


def test_a_key_file_is_private_and_never_overwritten(key_file: Path) -> None:
    assert mode(key_file) == 0o600
    before = key_file.read_bytes()
    with pytest.raises(ConfigurationError, match="not overwritten"):
        create_key(key_file, PASSWORD, cost=RANDOM_PASSWORD_COST)
    assert key_file.read_bytes() == before


def test_a_short_password_makes_no_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="at least 8"):
        create_key(tmp_path / "key.json", "short", cost=RANDOM_PASSWORD_COST)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"3", b"\xff", b'{"crypto": 3}'])
def test_what_is_no_keystore_is_refused_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"key\.json"):
        load_key(path, PASSWORD)


def test_a_missing_key_file_asks_for_the_backup(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="backup"):
        load_key(tmp_path / "key.json", PASSWORD)


def test_a_password_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    write_secret(path, b"secret words\n")
    assert read_password(path) == "secret words"
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_password(path)
    with pytest.raises(ConfigurationError, match=r"cannot read the password file .*put it there"):
        read_password(tmp_path / "none")


def test_a_new_node_holds_nothing_that_others_may_read_or_that_is_secret(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    card = create_node(home, "St. Mary", password=None)
    assert mode(home) == 0o700
    assert {p.name for p in home.iterdir()} == {"card.json", "key.json", "node.toml", "password"}
    assert mode(home / "key.json") == mode(home / "password") == 0o600
    secret = load_key(home / "key.json", read_password(home / "password"))
    assert address_of(secret) == card.node == card.account
    assert read_password(home / "password") not in (home / "node.toml").read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": " St. Mary"},
        {"name": "x" * 65},
        {"password": "short"},
        {"listen": "localhost"},
        {"announce": ["localhost"]},
        {"http": "8545"},
    ],
)
def test_what_cannot_be_made_leaves_nothing_behind(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    arguments: dict[str, object] = {"name": "mary", "password": PASSWORD} | wrong
    with pytest.raises(ConfigurationError):
        create_node(tmp_path / "mary", **arguments)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(ConfigurationError, match="not empty"):
        create_node(tmp_path, "mary", password=None)
    assert [p.name for p in tmp_path.iterdir()] == ["letter.txt"]


def test_an_account_apart_governs_from_the_beginning(tmp_path: Path) -> None:
    account = "0x" + "ab" * 20
    arguments = ["init", str(tmp_path / "mary"), "--name", "St. Mary", "--unattended"]
    assert CliRunner().invoke(main, [*arguments, "--account", account]).exit_code == 0
    card = read_card(tmp_path / "mary" / "card.json")
    assert card.account.hex() == "ab" * 20
    assert card.node == address_in(tmp_path / "mary" / "key.json") != card.account
    wrong = CliRunner().invoke(main, [*arguments, "--account", "0xab"])
    assert wrong.exit_code == 2
    assert "--account" in wrong.output
