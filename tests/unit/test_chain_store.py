from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness.chain import GENESIS_TIME_S, calldata, found

from swarm.chain.engine import CHAIN_FILE, Engine
from swarm.chain.store import VoteStore
from swarm.errors import ConfigurationError, LocalError

GENESIS, MEMBERS = found(2)

WRITER = """
import sys
from pathlib import Path
from swarm.chain.engine import Engine
from swarm.chain.store import VoteStore
from harness.chain import found

genesis, members = found(2)
path = Path(sys.argv[1])
engine, votes = Engine.open(path, genesis), VoteStore(path / "votes.db")
while True:
    height = engine.head.height + 1
    votes.put(b"height", b"%d" % height)
    print(height, flush=True)
    raws = [m.sign(engine.chain_id, nonce=engine.nonce(m.address)) for m in members]
    block = engine.build(raws, height, members[0].address)
    engine.commit(block, b"certificate %d" % height)
"""


def run_until_killed(path: Path, blocks: int, seconds: float) -> int:
    """Run the writer and kill it `seconds` after it announced a number of blocks.

    Returns the last height that it announced.
    """
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        announced = [writer.stdout.readline() for _ in range(blocks)]
        time.sleep(seconds)
        os.kill(writer.pid, signal.SIGKILL)
        announced += writer.stdout.readlines()
    return int([line for line in announced if line.endswith(b"\n")][-1])


def test_a_chain_killed_at_any_moment_ends_with_a_whole_block_and_no_vote_is_lost(tmp_path):
    chance = random.Random(3)
    for _ in range(4):
        announced = run_until_killed(tmp_path, 3, chance.uniform(0.0, 0.02))
        votes = VoteStore(tmp_path / "votes.db")
        assert int(votes.get(b"height") or b"0") >= announced
        votes.close()
        with Engine.open(tmp_path, GENESIS) as engine:
            height = engine.head.height
            assert height in (announced - 1, announced, announced + 1)
            assert engine.certificate(height) == (b"certificate %d" % height if height else b"")
            count = engine.call(engine.contract, calldata("count()"))
            assert int.from_bytes(count, "big") == 2 * height
            for number in range(height, 0, -1):
                assert engine.block(number).parent == engine.block(number - 1).hash
    assert height >= 4 * 2


def test_block_and_certificate_are_stored_together_or_not_at_all(tmp_path, monkeypatch):
    with Engine.open(tmp_path, GENESIS) as engine:
        block = engine.build([MEMBERS[0].sign(engine.chain_id, nonce=0)], 1, MEMBERS[0].address)
        with pytest.raises(LocalError, match=r"cannot write to .*chain\.db"):
            engine.commit(block, None)  # type: ignore[arg-type]  # sqlite refuses it half-way
        assert engine.head.height == 0
        assert engine.find_transaction(engine.transactions(block)[0]) is None
        engine.commit(block, b"certificate")
        assert engine.find_transaction(engine.transactions(block)[0]) == (1, 0)


def test_a_second_node_on_the_same_directory_is_refused(tmp_path):
    with Engine.open(tmp_path, GENESIS) as engine:
        with pytest.raises(ConfigurationError, match="another node process"):
            Engine.open(tmp_path, GENESIS)
        engine.build([], 1, MEMBERS[0].address)
    Engine.open(tmp_path, GENESIS).close()


def test_a_file_that_is_no_chain_is_named(tmp_path):
    (tmp_path / CHAIN_FILE).write_bytes(b"not sqlite at all" * 100)
    with pytest.raises(ConfigurationError, match=r"chain\.db is not a chain file"):
        Engine.open(tmp_path, GENESIS)


def test_a_file_of_another_layout_is_refused(tmp_path):
    Engine.open(tmp_path, GENESIS).close()
    connection = sqlite3.connect(tmp_path / CHAIN_FILE)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(ConfigurationError, match="layout 99"):
        Engine.open(tmp_path, GENESIS)


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot open"):
        Engine.open(tmp_path / "file" / "chain", GENESIS)


def test_votes_are_kept_replaced_and_deleted(tmp_path):
    votes = VoteStore(tmp_path / "votes.db")
    votes.put(b"b", b"2")
    votes.put(b"a", b"1")
    votes.put(b"b", b"3")
    votes.close()
    votes = VoteStore(tmp_path / "votes.db")
    assert votes.items() == [(b"a", b"1"), (b"b", b"3")]
    votes.delete(b"b")
    assert votes.get(b"b") is None
    votes.close()


def test_votes_are_synced_at_every_write(tmp_path):
    """2 is sqlite's FULL, which in WAL mode syncs the log at each commit; 1 is NORMAL."""
    votes = VoteStore(tmp_path / "votes.db")
    assert votes._database.row("PRAGMA synchronous", ()) == (2,)
    votes.close()
    with Engine.open(tmp_path, GENESIS) as engine:
        assert engine._store._database.row("PRAGMA synchronous", ()) == (1,)
        assert engine._store._database.row("PRAGMA journal_mode", ()) == ("wal",)
        assert engine.head.timestamp == GENESIS_TIME_S
