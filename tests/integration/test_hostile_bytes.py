"""Everything that reads bytes is offered mutations of valid ones: see `harness.fuzz`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
from harness.fuzz import all_targets
from harness.fuzz.campaign import Session, Target, TooSlow, attack
from harness.fuzz.mutations import Mutator

SEED = 20_260
DEFAULT_INPUTS = 300
INPUTS = {
    # What costs a file, a scrypt, an EVM call or a connection each.
    **dict.fromkeys(
        ("tensor-file", "node-toml", "sites-toml", "join-card", "running-json", "override"), 80
    ),
    **{
        "network-json": 50,
        "key-file": 40,
        "calldata": 100,
        "json-rpc": 200,
        "http": 120,
        "endpoint": 120,
    },
    **{"outgoing-list": 25, "vault-entry": 60, "vault-key": 60, "round-records": 60},
    **{"blob-folder": 40, "audited-block": 30, "dashboard": 25},
    **{"stranger": 60, "yamux": 30, "control": 25, "blob": 15, "bulk": 15},
}
MAX_GROWTH_BYTES = 64 * 2**20
TARGETS = {target.name: target for target in all_targets()}


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("name", TARGETS)
def test_hostile_bytes_are_refused_in_time_and_leave_nothing_behind(
    name: str, tmp_path: Path
) -> None:
    inputs = INPUTS.get(name, DEFAULT_INPUTS)

    async def campaign() -> None:
        tally = await attack(TARGETS[name], tmp_path, SEED, inputs=inputs)
        assert tally.tried == inputs
        assert sum(tally.refused.values()) > inputs / 10
        assert (max(0, tally.handles_left), max(0, tally.tasks_left)) == (0, 0)
        assert tally.grown_bytes < MAX_GROWTH_BYTES

    trio.run(campaign)


def test_the_same_seed_gives_the_same_inputs() -> None:
    def some(seed: int) -> list[bytes]:
        mutator = Mutator(seed, lambda: [b"\x93\x01\xa1a\xc4\x01b"], "msgpack")
        return [mutator.next() for _ in range(200)]

    assert some(1) == some(1)
    assert some(1) != some(2)


class Planted(Exception):
    """A bug in a decoder that is nobody's."""


@pytest.mark.parametrize("bug", ["raises", "hangs", "leaks", "stops answering"])
def test_a_planted_bug_is_found(bug: str, tmp_path: Path) -> None:
    seen = [0]
    held: list[object] = []

    @asynccontextmanager
    async def opened(directory: Path) -> AsyncIterator[Session]:
        async def offer(data: bytes) -> str:
            if data[:1] == b"\x93":
                return "accepted"
            seen[0] += 1
            if bug == "raises":
                raise Planted
            if bug == "hangs":
                await trio.sleep_forever()
            if bug == "leaks" and seen[0] > 120 and len(held) < 5:
                held.append((tmp_path / f"{len(held)}").open("wb"))
            return "refused"

        async def check() -> None:
            if bug == "stops answering" and seen[0]:
                raise Planted

        yield Session(lambda: [b"\x93\x01\x02\x03"], offer, check)

    target = Target("planted", "msgpack", opened, deadline_s=0.1)

    async def campaign() -> int:
        with suppress(Planted, TooSlow):
            tally = await attack(target, tmp_path, 1, inputs=400, settle_s=0.1)
            return tally.handles_left
        return -1

    found = trio.run(campaign)
    assert found == (-1 if bug != "leaks" else 5)
    for file in held:
        file.close()  # type: ignore[attr-defined]
