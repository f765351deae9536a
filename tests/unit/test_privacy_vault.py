"""The vault: what survives a kill, what never changes, and what nobody opens after its end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from swarm.errors import LocalError
from swarm.privacy import vault as module
from swarm.privacy.vault import PIECE_BYTES, Vault

NODE, OTHER_NODE = b"n" * 32, b"o" * 32
SECRET = b"the secret of this attempt, which nobody must find"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "vault" / "1-2-1"


def opened(place: Path, node: bytes = NODE) -> Vault:
    return Vault(place, node, os.urandom)


def bytes_on_disk(place: Path) -> bytes:
    return b"".join(file.read_bytes() for file in sorted(place.rglob("*")) if file.is_file())


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_what_is_put_is_there_after_a_restart(place: Path, size: int) -> None:
    content = os.urandom(size)
    opened(place).put("update", content)
    assert opened(place).get("update") == content


@pytest.mark.parametrize("size", [0, 5, PIECE_BYTES - 40, PIECE_BYTES, 2 * PIECE_BYTES + 7])
def test_a_file_is_kept_as_its_bytes_would_be_and_is_read_in_parts(
    place: Path, tmp_path: Path, size: int
) -> None:
    about, content = b"a" * 40, os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    opened(place).put_file("update", about, tmp_path / "x")
    opened(place).put_file("update", about, tmp_path / "x")
    opened(place).put("update", about + content)
    assert opened(place).get("update") == about + content
    entry = opened(place).open("update")
    assert entry is not None
    assert entry.size == 40 + size
    for start, stop in ((0, 40), (30, min(50, 40 + size)), (40 + size // 2, 40 + size)):
        assert entry.read(start, stop) == (about + content)[start:stop]
    (tmp_path / "x").write_bytes(content + b"!")
    with pytest.raises(LocalError, match="never replaced"):
        opened(place).put_file("update", about, tmp_path / "x")


def test_an_entry_that_was_never_put_is_none(place: Path) -> None:
    assert opened(place).get("keys") is None
    opened(place).put("keys", SECRET)
    assert opened(place).get("shares") is None


def test_secrets_are_never_replaced(place: Path) -> None:
    opened(place).put("keys", SECRET)
    opened(place).put("keys", SECRET)
    with pytest.raises(LocalError, match="never replaced"):
        opened(place).put("keys", b"new keys after a restart")
    assert opened(place).get("keys") == SECRET


def test_nothing_on_the_disk_is_readable(place: Path) -> None:
    opened(place).put("keys", SECRET)
    assert SECRET not in bytes_on_disk(place)
    with pytest.raises(LocalError, match="with this node key"):
        opened(place, OTHER_NODE).get("keys")


def test_an_erased_vault_opens_for_nobody_who_has_the_node_key(place: Path, tmp_path: Path) -> None:
    """Whoever copied the sealed entries, and steals the node key later, lacks the random key."""
    vault = opened(place)
    vault.put("keys", SECRET)
    entry = (place / "keys").read_bytes()
    vault.erase()
    assert not place.exists()
    place.mkdir(parents=True)
    (place / "keys").write_bytes(entry)
    assert opened(place).get("keys") is None
    opened(place).put("other", b"a new key is made")
    with pytest.raises(LocalError, match="was changed"):
        opened(place).get("keys")


def test_erasing_overwrites_the_key_before_it_is_unlinked(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = opened(place)
    vault.put("keys", SECRET)
    sealed = (place / "key").read_bytes()
    (place.parent / "link").hardlink_to(place / "key")
    vault.erase()
    assert (place.parent / "link").read_bytes() != sealed
    vault.erase()  # a second time does nothing


def test_two_attempts_have_keys_of_their_own(tmp_path: Path) -> None:
    one, two = opened(tmp_path / "1-1-1"), opened(tmp_path / "1-1-2")
    one.put("keys", SECRET)
    two.put("keys", SECRET)
    (tmp_path / "1-1-2" / "keys").write_bytes((tmp_path / "1-1-1" / "keys").read_bytes())
    with pytest.raises(LocalError, match="was changed"):
        opened(tmp_path / "1-1-2").get("keys")


def test_a_key_moved_to_another_attempt_opens_nothing(tmp_path: Path) -> None:
    opened(tmp_path / "1-1-1").put("keys", SECRET)
    shutil.copytree(tmp_path / "1-1-1", tmp_path / "1-1-2")
    with pytest.raises(LocalError, match="cannot be opened"):
        opened(tmp_path / "1-1-2").get("keys")


@pytest.mark.parametrize("damage", ["flip", "cut", "swap"])
def test_a_damaged_entry_is_refused(place: Path, damage: str) -> None:
    content = os.urandom(2 * PIECE_BYTES)
    opened(place).put("update", content)
    file, size = place / "update", PIECE_BYTES + 16
    raw = file.read_bytes()
    damaged = {
        "flip": raw[:100] + bytes([raw[100] ^ 1]) + raw[101:],
        "cut": raw[:size],
        "swap": raw[size:] + raw[:size],
    }[damage]
    file.write_bytes(damaged)
    with pytest.raises(LocalError, match="sits the attempt out"):
        opened(place).get("update")


def test_a_kill_while_an_entry_is_written_leaves_none(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = opened(place)
    vault.put("keys", SECRET)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            vault.put("update", b"half of it")
    assert opened(place).get("update") is None
    opened(place).put("update", b"all of it")
    assert opened(place).get("update") == b"all of it"


def test_an_entry_is_synced_before_it_has_its_name_and_its_folder_after(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = opened(place)
    vault.put("keys", SECRET)
    done: list[str] = []
    sync, rename = os.fsync, Path.rename
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), sync(fd)))
    monkeypatch.setattr(
        Path, "rename", lambda self, to: (done.append("rename"), rename(self, to))[1]
    )
    vault.put("shares", b"shares")
    assert done == ["sync", "rename", "sync"]


def test_files_are_for_this_user_only(place: Path) -> None:
    opened(place).put("keys", SECRET)
    assert {file.stat().st_mode & 0o077 for file in place.iterdir()} == {0}
    assert module.PIECE_BYTES == PIECE_BYTES


def test_a_vault_is_handed_over_to_another_node_key_with_all_that_is_in_it(place: Path) -> None:
    opened(place).put("keys", SECRET)
    opened(place).hand_over(OTHER_NODE)
    assert opened(place, OTHER_NODE).get("keys") == SECRET
    with pytest.raises(LocalError, match="cannot be opened with this node key"):
        opened(place).get("keys")
    opened(place).hand_over(OTHER_NODE)  # after a kill, say
    with pytest.raises(LocalError, match="holds another secret"):
        opened(place, OTHER_NODE).put("keys", b"another")
    with pytest.raises(LocalError, match="cannot be opened"):
        opened(place, b"x" * 32).hand_over(b"y" * 32)


def test_what_was_never_there_is_not_made_by_handing_it_over(place: Path) -> None:
    opened(place).hand_over(OTHER_NODE)
    assert not place.exists()


@pytest.mark.parametrize("killed_at", ["_overwrite_key", "rename"])
def test_a_kill_while_a_vault_is_handed_over_loses_nothing(
    place: Path, killed_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(place).put("keys", SECRET)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killing:
        if killed_at == "rename":
            real = Path.rename
            killing.setattr(
                Path, "rename", lambda a, b: killed() if a.suffix == ".next" else real(a, b)
            )
        else:
            killing.setattr(Vault, killed_at, killed)
        with pytest.raises(KeyboardInterrupt):
            opened(place).hand_over(OTHER_NODE)
    opened(place).hand_over(OTHER_NODE)
    assert opened(place, OTHER_NODE).get("keys") == SECRET
    assert [file.name for file in sorted(place.iterdir())] == ["key", "keys"]


def test_the_former_node_key_opens_nothing_that_was_on_the_disk_before(place: Path) -> None:
    opened(place).put("keys", SECRET)
    before = (place / "key").read_bytes()
    with (place / "key").open("rb") as held:  # the same blocks, whatever their name is
        opened(place).hand_over(OTHER_NODE)
        assert held.read() != before
