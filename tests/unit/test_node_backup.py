"""A backup holds what only this institution has, and a restored node cannot vote twice."""

from __future__ import annotations

import io
import stat
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from swarm.chain.service import VOTE_KEY
from swarm.chain.startup import decode_record
from swarm.chain.store import VoteStore
from swarm.cli import main
from swarm.errors import ConfigurationError
from swarm.node.home import backup, setup
from swarm.node.home.backup import read_backup, write_backup
from swarm.node.home.config import load_config
from swarm.node.home.keys import read_password
from swarm.node.home.password import open_key
from swarm.node.home.setup import create_node

KEPT = {
    "records/plan-1.jsonl": '{"round":1}\n',
    "outgoing/00000001.jsonl": '{"n":1}\n',
    "kept/plan-1/current.safetensors": "numbers",
    "own/plan-1.safetensors": "numbers",
    "masked/opened/record": "whose sums",
    "overrides/override.json": "{}",
    "network.json": "{}",
    "privacy.jsonl": '{"epsilon":1}\n',
}
LEFT_OUT = {
    "chain/chain.db": "blocks",
    "chain/votes.db": "votes",
    "blobs/aa": "a model",
    "plans/code/plan.py": "code",
    "trainer/scratch": "",
    "masked/plan-1/attempt-1-1/secret": "sealed",
    "data/patients.csv": "age\n",
    "running.json": "{}",
    "node.log": "",
}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.setattr(setup, "RANDOM_PASSWORD_COST", 2)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "mary"
    create_node(made, "St. Mary", password=None)
    for name, text in (KEPT | LEFT_OUT).items():
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text(text)
    return made


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_restored_node_has_its_keys_its_configuration_and_what_only_it_has(
    home: Path, tmp_path: Path
) -> None:
    file, other = tmp_path / "mary.tar.gz", tmp_path / "again"
    assert write_backup(home, file) == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = read_backup(file, other)
    assert (restored.name, restored.password_file) == ("St. Mary", other / "password")
    expected = {"node.toml", "card.json", "key.json", *KEPT}
    assert files_in(other) - expected == {"chain/votes.db"}
    assert expected <= files_in(other)
    for name, text in KEPT.items():
        assert (other / name).read_text() == text
    password = read_password(home / "password")
    assert open_key(other, load_config(other), password) == open_key(home, load_config(home))
    assert stat.S_IMODE(other.stat().st_mode) == 0o700
    assert {stat.S_IMODE((other / name).stat().st_mode) for name in expected} == {0o600}


def test_no_password_is_in_a_backup(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mary.tar.gz"
    write_backup(home, file)
    password = read_password(home / "password").encode()
    with tarfile.open(file) as archive:
        for entry in archive:
            content = archive.extractfile(entry)
            assert content is not None
            assert password not in content.read()


def test_a_restored_node_knows_that_its_votes_are_not_known(home: Path, tmp_path: Path) -> None:
    write_backup(home, tmp_path / "file")
    read_backup(tmp_path / "file", tmp_path / "again")
    with closing(VoteStore(tmp_path / "again" / "chain" / "votes.db")) as votes:
        assert decode_record(votes.get(VOTE_KEY) or b"").restored


def test_a_backup_replaces_no_file_and_a_restore_no_node(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_backup(home, file)
    before = files_in(home)
    with pytest.raises(ConfigurationError, match="exists already: name a new file"):
        write_backup(home, file)
    with pytest.raises(ConfigurationError, match="is not empty: restore into a new directory"):
        read_backup(file, home)
    assert files_in(home) == before


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9])
def test_a_backup_that_was_cut_short_is_refused_whole(
    home: Path, tmp_path: Path, part: float
) -> None:
    file = tmp_path / "file"
    write_backup(home, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ConfigurationError, match=r"file (cannot be read as a backup|has no)"):
        read_backup(file, tmp_path / "again")
    assert not list(tmp_path.glob("again*"))


def forge(file: Path, name: str, content: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> None:
    """A backup with one more entry, before its manifest."""
    with tarfile.open(file) as archive:
        entries = [(e, (archive.extractfile(e) or io.BytesIO()).read()) for e in archive]
    with tarfile.open(file, "w:gz") as archive:
        extra = tarfile.TarInfo(name)
        extra.size, extra.type, extra.linkname = len(content), kind, "/etc/passwd"
        for entry, raw in [(extra, content), *entries]:
            archive.addfile(entry, io.BytesIO(raw))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "records/../../evil", "plans/evil.py"])
def test_nothing_is_written_where_no_backup_writes(home: Path, tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    write_backup(home, file)
    forge(file, name)
    with pytest.raises(ConfigurationError, match="belongs in no backup of a node"):
        read_backup(file, tmp_path / "again")
    assert not list(tmp_path.glob("again*"))
    assert not list(tmp_path.glob("**/evil*"))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_pipes_belong_in_no_backup(home: Path, tmp_path: Path, kind: bytes) -> None:
    file = tmp_path / "file"
    write_backup(home, file)
    forge(file, "records/link", b"", kind)
    with pytest.raises(ConfigurationError, match="belongs in no backup"):
        read_backup(file, tmp_path / "again")


def test_a_file_that_was_added_or_changed_is_named(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_backup(home, file)
    forge(file, "records/plan-9.jsonl")
    with pytest.raises(ConfigurationError, match=r"records/plan-9\.jsonl is not as it was backed"):
        read_backup(file, tmp_path / "again")


def test_a_list_that_grows_meanwhile_is_taken_as_long_as_it_was(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    growing = home / "outgoing" / "00000001.jsonl"
    entry_of = backup._entry

    def grow(name: str, size: int) -> tarfile.TarInfo:
        if name.startswith("outgoing"):
            with growing.open("a") as file:
                file.write('{"n":2}\n')
        return entry_of(name, size)

    monkeypatch.setattr(backup, "_entry", grow)
    write_backup(home, tmp_path / "file")
    read_backup(tmp_path / "file", tmp_path / "again")
    assert (tmp_path / "again" / "outgoing" / growing.name).read_text() == '{"n":1}\n'


def test_a_key_that_lies_elsewhere_is_named(home: Path, tmp_path: Path) -> None:
    outside = tmp_path / "safe" / "key.json"
    outside.parent.mkdir()
    (home / "key.json").rename(outside)
    text = (home / "node.toml").read_text().replace('"key.json"', f'"{outside}"')
    (home / "node.toml").write_text(text)
    assert write_backup(home, tmp_path / "file") == [outside]


def test_the_commands_say_what_to_do_next(home: Path, tmp_path: Path) -> None:
    file, again = tmp_path / "mary.tar.gz", tmp_path / "again"
    done = CliRunner().invoke(main, ["node", "backup", str(home), str(file)])
    assert done.exit_code == 0, done.output
    assert "keep the password apart" in done.output
    done = CliRunner().invoke(main, ["node", "restore", str(file), str(again)])
    assert done.exit_code == 0, done.output
    assert f"Put its password into {again}/password" in done.output
    assert "old machine is off" in done.output
    done = CliRunner().invoke(main, ["node", "restore", str(tmp_path / "none"), str(again) + "2"])
    assert done.exit_code == 2
    assert "No such file" in done.output
