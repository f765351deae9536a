"""The trainer in its box, as a node starts it: what a plan's code can reach, and what it leaves."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest
import trio
from harness.plans import write_tiny_plan

from swarm.box.description import Report
from swarm.errors import ConfigurationError, PlanError
from swarm.learning.supervisor import trainer_process as process
from swarm.learning.supervisor.supervisor import TrainerConfig, open_trainer
from swarm.tensors import open_file

DEADLINE_S = 120
HEAD = "import torch\n"
BEFORE_DATA = "        table = "


def config(home: Path, *changes: tuple[str, str], **settings: object) -> TrainerConfig:
    """A trainer as a node has it: all of its own in one folder, the plan and the rows beside."""
    home.mkdir()
    plan = write_tiny_plan(home.parent / "plan", *changes)
    values: dict[str, object] = {
        "plan": plan,
        "site": "site0",
        "workspace": home / "trainer" / "digest",
        "data": plan / "data" / "site0.csv",
        "log": home / "trainer.log",
        **settings,
    }
    return TrainerConfig(**values)  # type: ignore[arg-type]


def count(settings: TrainerConfig) -> int:
    async def main() -> int:
        with trio.fail_after(DEADLINE_S):
            async with open_trainer(settings) as trainer:
                return (await trainer.count_samples()).train

    return trio.run(main)


def test_the_plan_that_stole_a_key_finds_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "node"
    looking = f"""
        import json, os, pathlib
        home = pathlib.Path({str(home)!r})
        found = [str(p) for p in (home / "key.json", home / "password", home / "running.json",
                                  home / "blobs", home / "trainer" / "other") if p.exists()]
        found += [e for e in os.environ if "PASSWORD" in e]
        for entry in pathlib.Path("/proc").glob("[0-9]*/environ"):
            try:
                found += ["environ"] if b"PASSWORD" in entry.read_bytes() else []
            except OSError:
                pass
        print("found", json.dumps(found), flush=True)
"""
    monkeypatch.setenv("SWARM_PASSWORD", "correct-horse")
    settings = config(home, (BEFORE_DATA, looking + BEFORE_DATA))
    for name in ("key.json", "password", "running.json"):
        (home / name).write_text("secret")
    for name in ("blobs", "trainer/other"):
        (home / name).mkdir(parents=True)
    assert count(settings) == 30
    assert "found []" in (home / "trainer.log").read_text()


def test_what_a_site_names_besides_its_data_can_be_read_and_nothing_beside_it(
    tmp_path: Path,
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "named").write_text("pretrained")
    (weights / "other").write_text("not named")
    named = f"""
        from pathlib import Path
        assert Path({str(weights / "named")!r}).read_text() == "pretrained"
        assert not Path({str(weights / "other")!r}).exists()
"""
    changed = (BEFORE_DATA, named + BEFORE_DATA)
    assert count(config(tmp_path / "node", changed, read=(weights / "named",))) == 30


def test_a_required_box_that_cannot_be_built_trains_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(tmp_path / "node", sandbox="required")
    monkeypatch.setattr(process, "left_out", lambda sandbox: ("landlock", "mount"))
    with pytest.raises(ConfigurationError, match=r"`training.sandbox` is .required., but .*key"):
        count(settings)
    assert Report(stand={"seccomp": ""}).gaps[0].startswith("the node's files")


KEEPER = """
import fcntl, os, stat, threading, time

def keep_and_cut():
    kept = {}
    while not os.path.exists("go"):
        for name in os.listdir("/proc/self/fd"):
            try:
                found = os.fstat(int(name))
                writable = fcntl.fcntl(int(name), fcntl.F_GETFL) & os.O_RDWR
                if stat.S_ISREG(found.st_mode) and writable and found.st_ino not in kept:
                    kept[found.st_ino] = os.dup(int(name))
            except OSError:
                pass
        time.sleep(0.001)
    for file in kept.values():
        os.ftruncate(file, 0)
    print("cut", len(kept), flush=True)

threading.Thread(target=keep_and_cut, daemon=True).start()
"""


def test_a_result_is_out_of_reach_once_it_is_told_and_no_larger_than_its_model(
    tmp_path: Path,
) -> None:
    slow = ("        x, y = batch\n", "        time.sleep(0.02)\n        x, y = batch\n")
    settings = config(tmp_path / "node", (HEAD, HEAD + KEEPER), slow)
    base, sums, update = tmp_path / "m0", tmp_path / "sums", tmp_path / "update"
    log = tmp_path / "node" / "trainer.log"

    def wait_for_cut() -> None:
        deadline = time.monotonic() + 30
        while b"cut" not in log.read_bytes():
            assert time.monotonic() < deadline, "the plan's thread has not run"
            time.sleep(0.05)

    async def main() -> None:
        with trio.fail_after(DEADLINE_S):
            async with open_trainer(settings) as trainer:
                await trainer.initialise(base)
                await trainer.compute_statistics(sums)
                await trainer.train(1, base, update, statistics=sums)
                before = [file.read_bytes() for file in (base, sums, update)]
                (settings.workspace / "go").touch()
                await trio.to_thread.run_sync(wait_for_cut)
                assert int(log.read_bytes().split()[1]) >= 1
                assert [file.read_bytes() for file in (base, sums, update)] == before
                assert set(open_file(update)) == set(open_file(base))

                trainer._most_bytes = lambda: 100  # type: ignore[method-assign]
                with pytest.raises(PlanError, match=r"a file of \d+ bytes, where 100 are the most"):
                    await trainer.initialise(tmp_path / "large")
                assert not [n for n in os.listdir(tmp_path) if "large" in n or ".tmp" in n]

    trio.run(main)


def test_a_request_takes_a_millisecond_or_so(tmp_path: Path) -> None:
    async def main() -> list[float]:
        with trio.fail_after(DEADLINE_S):
            async with open_trainer(config(tmp_path / "node")) as trainer:
                await trainer.count_samples()
                took = []
                for _ in range(50):
                    began = time.perf_counter()
                    await trainer.count_samples()
                    took.append(time.perf_counter() - began)
                return took

    took = trio.run(main)
    print(f"a round trip: {1e3 * statistics.median(took):.2f} ms, at best {1e3 * min(took):.2f} ms")
    assert min(took) < 0.005
