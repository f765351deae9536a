"""What all sites together know of a model: told, heard, checked and added up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import trio
import trio.testing

from swarm import metrics
from swarm.errors import BlobError, PeerUnreachable, RemoteError
from swarm.learning.metrics.counts import Counts
from swarm.learning.metrics.wire import MAX_BYTES, SentCounts, Told, pack
from swarm.protocol.state import Member
from swarm.rounds.address_book import AddressBook
from swarm.rounds.joint_scores import KEPT_MODELS, METHOD, JointScores
from swarm.rounds.records import Records
from swarm.types import Address, MemberId, PlanId

MODEL, OTHER_MODEL = ("0x" + digit * 64 for digit in "78")
NODES = [Address(bytes([number + 1]) * 20) for number in range(4)]
MEMBERS = {
    MemberId(i): Member(MemberId(i), node, node, f"site {i}") for i, node in enumerate(NODES)
}
JOINED = 0b0111  # the fourth member has not


class Wires:
    """Joins the nodes of a test; those named in `away` do not answer."""

    def __init__(self) -> None:
        self.nodes: dict[Address, JointScores] = {}
        self.away: set[Address] = set()
        self.asked = 0

    def of(self, sender: Address) -> Any:
        wires = self

        class Network:
            async def request(
                self, peer: Address, method: str, payload: bytes, *, deadline_s: float
            ) -> bytes:
                assert method == METHOD
                wires.asked += 1
                await trio.lowlevel.checkpoint()
                if peer in wires.away or peer not in wires.nodes:
                    raise PeerUnreachable("nobody answers")
                return wires.nodes[peer].hear(sender, payload)

        return Network()


def site(directory: Path, number: int, wires: Wires) -> JointScores:
    records = Records(directory / f"{number}.jsonl")
    records.at(4).model = MODEL
    book = AddressBook(MemberId(number), MEMBERS)
    joint = JointScores(PlanId(1), book, records, wires.of(NODES[number]), JOINED)
    wires.nodes[NODES[number]] = joint
    return joint


def counts_of(number: int, rows: int = 40) -> Counts:
    r = np.random.default_rng(number)
    y = r.integers(0, 2, rows)
    return metrics.roc(y, r.normal(0, 1, rows) + y)


def parts_of(number: int) -> dict[str, dict[str, SentCounts]]:
    return {"validation": {"auc": pack(counts_of(number))}, "test": {}}


def raw_of(number: int, model: str = MODEL, round: int = 4) -> bytes:
    parts = {k: v for k, v in parts_of(number).items() if v}
    return msgspec.json.encode(Told(1, round, model, parts))


def told_to_all(joint: JointScores, number: int) -> Callable[[], Any]:
    async def tell() -> None:
        await joint.tell(4, MODEL, parts_of(number))

    return tell


def virtual(scenario: Callable[[], Any]) -> None:
    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


def test_every_site_comes_to_know_the_score_of_all_rows_and_of_each_site(tmp_path: Path) -> None:
    wires = Wires()
    sites = [site(tmp_path, n, wires) for n in range(3)]

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            for n, joint in enumerate(sites):
                nursery.start_soon(told_to_all(joint, n))

    virtual(scenario)
    merged = metrics.merge([counts_of(n) for n in range(3)])
    for joint in sites:
        (record,) = joint.records.as_list(joint.book.names())
        score = record["joint"]["validation"]["auc"]
        assert score["figures"]["auc"]["value"] == pytest.approx(float(merged))
        assert score["figures"]["auc"]["low"] == pytest.approx(merged.figure.low)
        assert score["figures"]["auc"]["rows"] == 120
        assert next(iter(score["figures"])) == "auc"
        assert list(score["sites"]) == ["site 0", "site 1", "site 2"]
        assert score["sites"]["site 1"]["value"] == pytest.approx(float(counts_of(1)))
    again = Records(tmp_path / "0.jsonl")
    assert again.rounds[4].joint == sites[0].records.rounds[4].joint


def test_a_node_that_was_away_asks_and_tells_in_one(tmp_path: Path) -> None:
    wires = Wires()
    first, second = site(tmp_path, 0, wires), site(tmp_path, 1, wires)
    first.joined = second.joined = 0b11
    wires.away = {NODES[1]}

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(told_to_all(first, 0))
            await trio.sleep(100)
            asked = wires.asked
            assert asked > 3
            await second.tell(4, MODEL, parts_of(1))  # its own word reaches the first: both know
            assert len(second.records.rounds[4].joint["validation"]["auc"].sites) == 2
            assert len(first.records.rounds[4].joint["validation"]["auc"].sites) == 2
            wires.away = set()

    virtual(scenario)


def test_a_newer_model_ends_the_telling_of_an_older_one(tmp_path: Path) -> None:
    wires = Wires()
    joint = site(tmp_path, 0, wires)
    ended = []

    async def old() -> None:
        await joint.tell(4, MODEL, parts_of(0))
        ended.append(trio.current_time())

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(old)
            await trio.sleep(30)
            nursery.start_soon(joint.tell, 5, OTHER_MODEL, parts_of(0))
            await trio.sleep(1)
            assert ended
            nursery.cancel_scope.cancel()

    virtual(scenario)


def test_a_site_without_counts_tells_nothing_and_hears_all(tmp_path: Path) -> None:
    wires = Wires()
    silent, other = site(tmp_path, 0, wires), site(tmp_path, 1, wires)
    virtual(lambda: silent.tell(4, MODEL, {"validation": {}, "test": {}}))
    assert wires.asked == 0
    assert silent.hear(NODES[1], raw_of(1)) == b""
    assert list(silent.records.rounds[4].joint["validation"]["auc"].sites) == [1]
    assert other.records.rounds[4].joint == {}


def test_counts_of_another_model_are_kept_apart(tmp_path: Path) -> None:
    joint = site(tmp_path, 0, Wires())
    joint.hear(NODES[1], raw_of(1, OTHER_MODEL))
    assert joint.records.rounds[4].joint == {}
    joint.hear(NODES[1], raw_of(1, MODEL))
    assert joint.records.rounds[4].joint["validation"]["auc"].figures["auc"].rows == 40


def test_what_comes_before_the_model_is_known_here_waits_for_it(tmp_path: Path) -> None:
    joint = site(tmp_path, 0, Wires())
    joint.hear(NODES[1], raw_of(1, OTHER_MODEL, round=5))
    assert 5 not in joint.records.rounds
    joint.records.at(5).model = OTHER_MODEL
    virtual(lambda: joint.tell(5, OTHER_MODEL, {}))  # it is scored here, to nothing that adds up
    assert list(joint.records.rounds[5].joint["validation"]["auc"].sites) == [1]
    joint.hear(NODES[2], raw_of(2, OTHER_MODEL, round=5))
    assert list(joint.records.rounds[5].joint["validation"]["auc"].sites) == [1, 2]


def test_a_later_word_replaces_the_earlier_one(tmp_path: Path) -> None:
    joint = site(tmp_path, 0, Wires())
    for _ in range(3):
        joint.hear(NODES[1], raw_of(1))
    assert joint.records.rounds[4].joint["validation"]["auc"].figures["auc"].rows == 40


def test_strangers_and_those_who_have_not_joined_are_refused(tmp_path: Path) -> None:
    joint = site(tmp_path, 0, Wires())
    for sender in (NODES[3], Address(b"\x99" * 20)):
        with pytest.raises(RemoteError, match="only those who joined plan 1"):
            joint.hear(sender, raw_of(1))


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"\xff", "no scores"),
        (b"{}", "no scores"),
        (b" " * (MAX_BYTES + 1), "more than"),
        (raw_of(1).replace(b'"validation"', b'"secrets"'), "no scores"),
        (raw_of(1).replace(b'"values":[', b'"values":[-5,'), "not in order"),
        (raw_of(1).replace(b'"round":4', b'"round":-1'), "no scores"),
    ],
)
def test_what_is_no_word_of_scores_is_refused_whole(tmp_path: Path, raw: bytes, why: str) -> None:
    joint = site(tmp_path, 0, Wires())
    with pytest.raises(BlobError, match=why):
        joint.hear(NODES[1], raw)
    assert joint.records.rounds[4].joint == {}


def test_so_many_counts_as_would_fill_the_memory_are_refused(tmp_path: Path) -> None:
    joint = site(tmp_path, 0, Wires())
    wide = SentCounts(metrics.confusion([], [], 256).measure, [], [])  # type: ignore[arg-type]
    raw = msgspec.json.encode(Told(1, 4, MODEL, {"test": {f"m{n}": wide for n in range(5)}}))
    with pytest.raises(BlobError, match="are more than"):
        joint.hear(NODES[1], raw)


def test_of_each_member_only_the_newest_words_are_kept(tmp_path: Path) -> None:
    joint = site(tmp_path, 0, Wires())
    for number in range(100):
        joint.hear(NODES[1], raw_of(1, OTHER_MODEL, round=number))
    assert sorted(joint._words[MemberId(1)]) == list(range(100 - KEPT_MODELS, 100))


def test_a_liar_with_a_measure_of_its_own_does_not_displace_the_others(tmp_path: Path) -> None:
    joint = site(tmp_path, 2, Wires())
    odd = {"auc": pack(metrics.roc([0, 1], [0.0, 1.0], bits=1)), "junk": pack(counts_of(9))}
    joint.hear(NODES[0], msgspec.json.encode(Told(1, 4, MODEL, {"validation": odd})))
    for n in (1, 2):
        joint.hear(NODES[n], raw_of(n))
    found = joint.records.rounds[4].joint["validation"]
    assert list(found) == ["auc"]
    assert list(found["auc"].sites) == [1, 2]
