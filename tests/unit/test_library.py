"""The folder of the plans' code."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import trio
from harness.joined import joined_plans

from swarm.errors import ConfigurationError
from swarm.learning.code.bundle import MAX_BUNDLE_BYTES, Bundle
from swarm.network import open_network
from swarm.node.chain.seen import Seen
from swarm.node.plans.library import METHOD, Library
from swarm.protocol.state import Consent, Duty, Member, Plan, Rules
from swarm.types import NO_DIGEST, Address, MemberId, PlanId


@pytest.fixture
def code() -> Bundle:
    return Bundle(dict.fromkeys(("plan.py", "model.py", "data.py"), b"x = 1\n" * 1000))


def test_code_that_comes_from_two_sides_at_once_is_kept_once(tmp_path, code):
    library = Library(tmp_path / "plans")
    together = Barrier(8)

    def add(_: int) -> object:
        together.wait(10)
        return library.add(code)

    with ThreadPoolExecutor(8) as threads:
        kept = set(threads.map(add, range(8)))
    assert kept == {library.path(code.digest)}
    assert library.read(code.digest) == code
    assert [entry.name for entry in library.directory.iterdir()] == [code.digest.hex()]


def test_what_a_killed_node_left_half_written_is_cleared_away(tmp_path, code):
    library = Library(tmp_path / "plans")
    (library.directory / ".abc.partial").mkdir()
    assert not Library(tmp_path / "plans").has(code.digest)
    assert list(library.directory.iterdir()) == []


def test_code_that_was_changed_is_refused(tmp_path, code):
    library = Library(tmp_path / "plans")
    (library.add(code) / "plan.py").write_text("x = 2\n")
    with pytest.raises(ConfigurationError, match="was changed"):
        library.read(code.digest)


LARGEST = Bundle({"plan.py": b"x = 1\n", "table.json": b"0" * (MAX_BUNDLE_BYTES - 100)})


def test_the_largest_bundle_that_may_be_proposed_travels(tmp_path):
    assert MAX_BUNDLE_BYTES - 100 < len(LARGEST.pack()) <= MAX_BUNDLE_BYTES
    ours, theirs = Library(tmp_path / "ours"), Library(tmp_path / "theirs")
    theirs.add(LARGEST)

    async def scenario() -> None:
        async with open_network(b"\1" * 32) as near, open_network(b"\2" * 32) as far:
            far.handle(METHOD, theirs.serve)
            far.set_members({near.address: ()})
            near.set_members({far.address: far.addresses})
            await near.wait_connected([far.address], 10)
            await ours.fetch(LARGEST.digest, [far.address], near)

    trio.run(scenario)
    assert ours.read(LARGEST.digest) == LARGEST


def test_a_plans_code_is_fetched_where_it_is_asked_for_from_its_proposer_first(tmp_path, code):
    """Whoever proposes fills no disk but its own."""
    library = Library(tmp_path / "plans")
    asked: list[bytes] = []

    class Others:
        async def request(self, peer, method, payload, *, deadline_s):
            asked.append(peer)
            return code.pack()

    def member(i: int) -> Member:
        return Member(MemberId(i), Address(bytes(20)), Address(bytes([i]) * 20), f"m{i}")

    members = {MemberId(i): member(i) for i in range(5)}
    plan = Plan(
        PlanId(1), MemberId(3), "p", code.digest, NO_DIGEST, NO_DIGEST, Rules(9, 2),
        consents={MemberId(2): Consent(MemberId(2), Duty.TRAIN, 1, NO_DIGEST)},
    )  # fmt: skip
    seen = Seen(members[MemberId(0)].node, members, {plan.id: plan})
    joined = joined_plans(seen, library=library, network=Others())
    assert not trio.run(joined.observe, plan, [], None)  # without a nursery, nothing begins
    assert not library.has(code.digest)
    for _ in range(2):
        trio.run(joined.sources.bring_code, plan)
    assert asked == [members[MemberId(3)].node]
    assert library.read(code.digest) == code
