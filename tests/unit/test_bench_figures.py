"""The benchmarks' own arithmetic: sizes, readings of processes, what is counted for whom."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from swarm.bench import machine
from swarm.bench.chain import Heads
from swarm.bench.machine import (
    Reading,
    Watch,
    describe_machine,
    file_system,
    parse_size,
    read_process,
    require_room,
    summary,
    tell_size,
    watch,
    working_directory,
)
from swarm.bench.mask import measure_mask
from swarm.bench.merge import FOLDS, measure_merge
from swarm.bench.rounds import (
    PLACES,
    RoundOptions,
    chain_bytes,
    count_traffic,
    room,
    write_plan,
)
from swarm.bench.transfer import best_ratio
from swarm.chain.block import Block
from swarm.chain.evm import Outcome
from swarm.chain.store import ChainStore
from swarm.cli.bench import FOLDS_OF_ROUNDS, counts, sizes
from swarm.cli.bench import command as bench_command
from swarm.errors import LocalError
from swarm.learning.folds import Fold
from swarm.learning.folds.reduce import REDUCES, SUM
from swarm.learning.folds.step import STEPS
from swarm.learning.plans.loading import load_plan
from swarm.learning.simulation.dealing import deal
from swarm.learning.simulation.whole_run import open_sites
from swarm.types import Address, Digest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("text", "size"), [("4MB", 4_000_000), ("1.5GB", 1_500_000_000)])
def test_sizes_are_decimal_and_told_as_they_are_given(text: str, size: int) -> None:
    assert parse_size(text) == size
    assert tell_size(size) == text


@pytest.mark.parametrize("text", ["4", "4 MB", "MB", "-1MB", "4MiB", "4mb"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write it like 256MB"):
        parse_size(text)


def test_several_sizes_and_counts_are_separated_by_commas() -> None:
    context, option = click.Context(click.Command("x")), click.Option(["--size"])
    assert sizes(context, option, "1KB, 2KB") == [1000, 2000]
    assert counts(context, option, "2,16") == [2, 16]
    for wrong in ("1", "65", "two", ""):
        with pytest.raises(click.BadParameter):
            counts(context, option, wrong)


def test_the_machine_is_named_without_its_name() -> None:
    named = describe_machine()
    assert named["cpus"] >= 1
    assert named["memory_gib"] >= 1
    assert os.uname().nodename not in json.dumps(named)


def test_a_summary_has_the_median_and_the_extremes() -> None:
    assert summary([3.0, 1.0, 2.0]) == {"median": 2.0, "least": 1.0, "most": 3.0}


def test_memory_is_a_tmpfs_and_the_working_directory_is_cleared_away(tmp_path: Path) -> None:
    assert file_system(Path("/proc")) == "proc"
    with working_directory(tmp_path / "new") as directory:
        (directory / "file").write_text("x")
        assert directory.parent == tmp_path / "new"
    assert not directory.exists()


def test_what_does_not_fit_is_refused_before_it_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "available_bytes", lambda: 20 * 10**9)
    require_room(tmp_path, 10**6, 18 * 10**9)
    with pytest.raises(LocalError, match="20GB of memory and leaves 1GB to others, and 20GB are"):
        require_room(tmp_path, 10**6, 20 * 10**9)
    monkeypatch.setattr(machine, "file_system", lambda path: "tmpfs")
    with pytest.raises(LocalError, match="a place on disk with --dir"):  # files are memory there
        require_room(tmp_path, 2 * 10**9, 18 * 10**9)
    with pytest.raises(LocalError, match=r"needs 1e.*GB for files"):
        require_room(tmp_path, 10**18, 0)


def test_what_a_transfer_can_reach_at_best_follows_from_the_work_and_the_cores() -> None:
    assert best_ratio(0.125, 0.25, 0.115, 2) == 0.685
    assert best_ratio(0.125, 0.25, 0.115, 16) == 1.0  # more cores than work
    assert best_ratio(0.125, None, 0.115, 2) is None
    assert best_ratio(0.01, 0.02, 0.01, 2) is None


def test_a_round_of_full_checks_takes_the_room_of_all_updates_at_all_nodes() -> None:
    held, memory = room(RoundOptions(4, 10**9))
    assert (held, memory) == (23 * 10**9, 4 * 1_733_333_333)
    assert room(RoundOptions(4, 10**9, verify="full"))[0] == 32 * 10**9
    assert room(RoundOptions(4, 10**9, secure=True))[0] == 40 * 10**9


def test_processor_time_is_taken_between_two_moments() -> None:
    seen = Watch({"main": [Reading(float(t), t / 2, 100 + t) for t in range(10)]})
    assert seen.cpu_between("main", 2.0, 6.0) == 2.0
    assert seen.cpu_between("main", 20.0, 30.0) is None
    assert seen.cpu_between("trainer", 0.0, 1.0) is None
    assert seen.peak_bytes("main") == 109
    assert seen.peak_bytes("main", since=50) is None


def test_memory_of_a_process_is_its_own_and_not_that_of_mapped_files(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"x" * 30_000_000)
    code = (
        "import mmap, sys\n"
        f"file = open({str(file)!r}, 'rb')\n"
        "mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "total = sum(mapped[i] for i in range(0, len(mapped), 4096))\n"
        "own = bytearray(b'y' * 10_000_000)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with watch({"it": process.pid}) as seen:
            deadline = time.monotonic() + 10
            while not seen.readings["it"] and time.monotonic() < deadline:
                time.sleep(0.01)
        peak_bytes = seen.peak_bytes("it")
    finally:
        process.communicate()
    assert peak_bytes is not None
    assert 10_000_000 <= peak_bytes < 30_000_000
    assert read_process(process.pid) is None


def record(leader: str, sent: int | None, received: int | None) -> dict[str, Any]:
    return {
        "leader": leader,
        "sent_by_close_bytes": sent,
        "received_by_close_bytes": received,
    }


def test_bytes_are_counted_from_one_closing_to_the_next() -> None:
    records = {
        "a": {3: record("a", 100, 1000), 4: record("b", 300, 1200), 5: record("b", 400, 1300)},
        "b": {3: record("a", 10, 0), 4: record("b", 110, 100), 5: record("b", None, None)},
    }
    moved = count_traffic(records, ["a", "b"], 100, range(3, 5))
    assert moved["leader_sent"] == 2.0
    assert moved["leader_received"] == 2.0
    assert moved["other_sent"] == 1.0
    assert moved["other_received"] == 1.0


def test_the_plan_of_a_round_trains_nothing_and_no_two_chunks_agree(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "idle", RoundOptions(3, 100_000, "shared", wire="bf16"))
    plan = load_plan(folder)
    assert (plan.verify, plan.wire_dtype, plan.min_peers) == ("shared", "bf16", 3)
    assert len(deal(folder)) == 3
    sites = open_sites(plan, folder, seed=0)
    updates = [site.train(1, site.initial).state for site in sites]
    assert sum(tensor.numel() for tensor in updates[0].values()) == 25_000
    for name, tensor in updates[0].items():
        changed = (updates[1][name] != tensor).nonzero().flatten().tolist()
        assert changed == list(range(0, len(tensor), 1024))


def test_the_plan_of_a_secure_round_is_the_same_but_for_that(tmp_path: Path) -> None:
    plain, masked = (
        write_plan(tmp_path / str(secure), RoundOptions(3, 100_000, secure=secure))
        for secure in (False, True)
    )
    assert load_plan(masked).secure
    told = (masked / "plan.py").read_text().replace("secure = True", "secure = False")
    assert told == (plain / "plan.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--fold", "krum"], "leave --fold and --wire out"), (["--peers", "2"], "--peers 3 or more")],
)
def test_rounds_that_cannot_be_secure_are_refused(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(bench_command, ["round", "--secure", *arguments])
    assert result.exit_code == 2
    assert said in result.output


def test_bytes_of_the_chain_are_those_of_blocks_and_certificates(tmp_path: Path) -> None:
    block = Block(7, Digest(b"b" * 32), Digest(b"a" * 32), 1, Address(b"p" * 20), b"p" * 100)
    with closing(ChainStore(tmp_path / "chain.db")) as store:
        outcome = Outcome(block, b"", b"r" * 50, (), {b"key": b"state"}, bytes(32), {}, False)
        store.append(outcome, [], b"c" * 9)
    assert chain_bytes(tmp_path / "chain.db", range(7, 8)) == 109
    with pytest.raises(LocalError, match="lacks blocks"):
        chain_bytes(tmp_path / "chain.db", range(7, 9))


def test_a_merge_is_measured_beside_a_copy_and_must_be_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (result,) = measure_merge(100_000, [2], repeat=5)
    assert (result["threads"], result["updates"]) == (2, 4)
    assert result["ratio"] > 0
    monkeypatch.setitem(FOLDS, "mean", Fold(SUM))  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="did not give the weighted mean"):
        measure_merge(100_000, [1], repeat=5)


def test_every_fold_is_measured_beside_the_mean() -> None:
    assert list(FOLDS) == [kind.name for kind in (*REDUCES, *STEPS)]
    results = measure_merge(40_000, [2], repeat=5, folds=list(FOLDS))
    assert [r["fold"] for r in results] == list(FOLDS)
    assert {r["updates"] for r in results} == {5}
    assert results[0]["of_mean"] == 1
    assert all(r["of_mean"] > 0 for r in results)


def test_a_fold_that_there_is_not_is_refused_by_name() -> None:
    result = CliRunner().invoke(bench_command, ["merge", "--fold", "mean,bulyan"])
    assert result.exit_code == 2
    assert "'bulyan' is none of: mean, sum, maximum, median" in result.output


class Blocks:
    """An endpoint whose blocks hold one transaction each, named after their height."""

    def ask(self, method: str, height: str, full: bool) -> dict[str, list[str]]:
        return {"transactions": [f"tx{int(height, 16)}"]}


def test_a_transaction_is_final_when_the_last_node_has_its_block() -> None:
    heads = Heads(Blocks(), {"a": [], "b": []})  # type: ignore[arg-type]
    heads.note("a", 2)
    heads.note("b", 1)
    early = time.monotonic()
    heads.note("b", 3)
    heads.note("a", 3)
    assert heads.wait_for("tx1") < early < heads.wait_for("tx2") <= heads.wait_for("tx3")
    assert heads.wait_for_more({"tx1", "tx3", "tx9"}, 1) == 2


def test_the_plot_draws_what_the_benchmark_writes(tmp_path: Path) -> None:
    def result(peers: int, size_bytes: int) -> dict[str, Any]:
        return {
            "peers": peers,
            "size_bytes": size_bytes,
            "seconds": {"median": size_bytes / 1e7, "least": 0.1, "most": size_bytes / 5e6},
            "models_moved": {"leader_sent": 1.0 + peers, "other_sent": 1.0},
        }

    shown = [result(4, 10**6), result(4, 10**7), result(2, 10**6)]
    (tmp_path / "rounds.json").write_text(json.dumps({"results": shown}))
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "plot.py", tmp_path / "rounds.json"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "rounds.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 10_000


def test_every_step_of_masking_takes_some_time() -> None:
    result = measure_mask(100_000, members=3, repeat=1)
    assert all(seconds > 0 for seconds in result["seconds"].values())
    assert {"copy", "quantise", "all masks", "check shares"} <= result["seconds"].keys()


def test_rounds_are_measured_with_every_fold_that_the_command_offers() -> None:
    assert tuple(PLACES) == FOLDS_OF_ROUNDS
