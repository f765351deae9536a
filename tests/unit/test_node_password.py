"""The password of a node's keys is changed whole, whenever the command is killed."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from swarm.cli import main
from swarm.errors import ConfigurationError
from swarm.node.home import password as passwords
from swarm.node.home import setup
from swarm.node.home.config import load_config
from swarm.node.home.keys import (
    WrongPassword,
    address_of,
    create_key,
    load_key,
    read_password,
    replace_secret,
)
from swarm.node.home.password import ACCOUNT_KEY, NEXT_KEY, change_password, open_key, open_with
from swarm.node.home.setup import create_node

OLD, NEW = "the old password", "the new password"
COST = 2
"""Nothing here is worth a guess."""
KEYS = ("key.json", NEXT_KEY, ACCOUNT_KEY)


class Killed(BaseException):
    """The command ends here, as by SIGKILL: nothing after it runs."""


@contextmanager
def killed_at(monkeypatch: pytest.MonkeyPatch, number: int, *, written: bool) -> Iterator[None]:
    """End the command at its file number `number`: before that is replaced, or after."""
    done = 0

    def replace(path: Path, content: bytes) -> None:
        nonlocal done
        done += 1
        if done < number or written:
            replace_secret(path, content)
        else:
            path.with_name(path.name + ".partial").write_bytes(content[:10])
        if done >= number:
            raise Killed

    with monkeypatch.context() as killing:
        killing.setattr(passwords, "replace_secret", replace)
        with suppress(Killed):
            yield
            pytest.fail(f"it wrote fewer than {number} files")


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(passwords, "SCRYPT_COST", COST)
    monkeypatch.setattr(passwords, "RANDOM_PASSWORD_COST", COST)
    monkeypatch.setattr(setup, "SCRYPT_COST", COST)
    monkeypatch.setattr(setup, "RANDOM_PASSWORD_COST", COST)


def make_node(home: Path, *, unattended: bool) -> list[bytes]:
    """A node with a key that waits for a rotation and an account's, and the secrets of all."""
    create_node(home, "St. Mary", password=None if unattended else OLD)
    password = read_password(home / "password") if unattended else OLD
    for name in KEYS[1:]:
        create_key(home / name, password, cost=COST)
    return [load_key(home / name, password) for name in KEYS]


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("number", range(1, 6))
def test_an_unattended_node_starts_whenever_a_change_of_its_password_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, written: bool
) -> None:
    home = tmp_path / "mary"
    secrets = make_node(home, unattended=True)
    config, before = load_config(home), read_password(home / "password")
    with killed_at(monkeypatch, number, written=written):
        change_password(home, config, None, None)
    assert open_key(home, config) == secrets[0]
    given = passwords.find_passwords(home, config, None)
    assert [open_with(home / name, given) for name in KEYS] == secrets
    change_password(home, config, None, None)
    after = read_password(home / "password")
    assert [load_key(home / name, after) for name in KEYS] == secrets
    with pytest.raises(WrongPassword):
        load_key(home / "key.json", before)
    assert (home / "password").read_text() == after + "\n"


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("number", range(1, 4))
def test_a_change_of_a_typed_password_that_was_killed_is_completed_by_giving_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, written: bool
) -> None:
    home = tmp_path / "mary"
    secrets = make_node(home, unattended=False)
    config = load_config(home)
    with killed_at(monkeypatch, number, written=written):
        change_password(home, config, OLD, NEW)
    change_password(home, config, OLD, NEW)
    assert [load_key(home / name, NEW) for name in KEYS] == secrets


def test_a_wrong_old_password_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    make_node(home, unattended=True)
    config, files = load_config(home), {p: p.read_bytes() for p in home.iterdir()}
    with pytest.raises(ConfigurationError, match=r"does not open .*key\.json"):
        change_password(home, config, "a wrong password", NEW)
    assert {p: p.read_bytes() for p in home.iterdir()} == files


def test_a_new_password_that_is_too_short_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    make_node(home, unattended=True)
    with pytest.raises(ConfigurationError, match="at least 8"):
        change_password(home, load_config(home), None, "short")


def test_the_command_changes_the_password_file_and_prints_no_password(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    [secret, *_] = make_node(home, unattended=True)
    before = read_password(home / "password")
    result = CliRunner().invoke(main, ["node", "password", str(home)])
    assert result.exit_code == 0, result.output
    after = read_password(home / "password")
    assert after != before
    assert address_of(load_key(home / "key.json", after)) == address_of(secret)
    assert before not in result.output
    assert after not in result.output
    modes = {stat.S_IMODE((home / name).stat().st_mode) for name in (*KEYS, "password")}
    assert modes == {0o600}
    assert not list(home.glob("*.partial"))


def test_a_new_password_may_come_from_a_file(tmp_path: Path) -> None:
    home, new = tmp_path / "mary", tmp_path / "new"
    make_node(home, unattended=True)
    new.write_text(NEW + "\n")
    new.chmod(0o600)
    arguments = ["node", "password", str(home), "--new-password-file", str(new)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert read_password(home / "password") == NEW
    load_key(home / "key.json", NEW)


def test_without_a_terminal_or_a_file_no_password_is_changed(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    create_node(home, "St. Mary", password=None)
    config = (home / "node.toml").read_text().replace('password_file = "password"', "")
    (home / "node.toml").write_text(config)
    result = CliRunner().invoke(main, ["node", "password", str(home)])
    assert result.exit_code == 2
    assert "--new-password-file" in result.output


def test_a_password_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"\xff\xfe")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="no text in UTF-8"):
        read_password(path)
