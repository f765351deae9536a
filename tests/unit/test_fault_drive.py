"""When the fault runner does what: with nodes that only note what is done to them."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
from harness.faults.drive import Drive
from harness.faults.growth import Growth, Holding
from harness.faults.plan import Fault, FaultPlan, When
from harness.faults.release import NEWER
from harness.faults.watch import Place

NAMES = ["ada", "ben", "cy", "di"]


class Nodes:
    """Four nodes on paper."""

    def __init__(self) -> None:
        self.names = NAMES
        self.down: set[str] = set()
        self.stopped: set[str] = set()
        self.liars: set[str] = set()
        self.upgraded: set[str] = set()
        self.cuts: list[list[tuple[int, int]]] = []
        self.wires = self

    @property
    def running(self) -> list[str]:
        return [name for name in self.names if name not in self.down | self.stopped]

    @property
    def answering(self) -> list[str]:
        return [name for name in self.running if name not in self.liars]

    def number(self, name: str) -> int:
        return self.names.index(name)

    def kill(self, name: str) -> None:
        self.down.add(name)

    def start(self, name: str) -> None:
        self.down.discard(name)

    def end(self, name: str) -> int:
        self.down.add(name)
        return 0

    def upgrade(self, name: str) -> None:
        self.upgraded.add(name)
        self.start(name)

    def stop(self, name: str) -> None:
        self.stopped.add(name)

    def heal(self, pairs: list[tuple[int, int]]) -> None:
        self.cuts.remove(pairs)

    def cut(self, pairs: list[tuple[int, int]]) -> None:
        self.cuts.append(pairs)


class Watch:
    """What the nodes would say."""

    def __init__(self, *, leader: str | None = None) -> None:
        self.now = Place()
        self.opened_at: dict[int, float] = {}
        self.final_at: dict[int, float] = {}
        self.eager = False
        self.highest = 7
        self.led_by = leader

    def at(self, number: int, phase: str) -> None:
        self.now = Place(number, 1, phase)
        for earlier in range(number + 1):
            self.opened_at.setdefault(earlier, time.monotonic())

    def place(self) -> Place:
        return self.now

    def leader(self) -> str | None:
        return self.led_by if self.now.phase == "closed" else None

    def proposer(self) -> str | None:
        return "ada"

    def forget(self, name: str) -> None: ...

    def fresh(self) -> dict[str, Any]:
        """All take ben for a newer release, whether or not he has it."""
        peers = [{"name": name, "release": NEWER if name == "ben" else "0.1.0"} for name in NAMES]
        return {"ada": SimpleNamespace(status={"peers": peers})}


def drive(watch: Watch, *faults: Fault, at_most_down: int = 4) -> tuple[Drive, Nodes]:
    nodes: Any = Nodes()
    seen: Any = watch
    plan = FaultPlan(
        about="", plan="", rounds=9, namespaces=True, fault=faults, at_most_down=at_most_down
    )
    return Drive(plan, nodes, seen, 0, []), nodes


def kill(*who: Any, number: int = 2, phase: Any = None, for_s: float | None = None) -> Fault:
    return Fault(do="kill", who=who, when=When(round=number, phase=phase), for_s=for_s)


def test_a_fault_waits_for_its_round_and_phase_and_comes_once() -> None:
    watch = Watch(leader="cy")
    driven, nodes = drive(watch, kill("leader", phase="closed"))
    for number, phase, dead in ((1, "closed", set()), (2, "open", set()), (2, "closed", {"cy"})):
        watch.at(number, phase)
        driven._begin_due(time.monotonic())
        assert nodes.down == dead
    nodes.start("cy")
    watch.at(3, "closed")
    driven._begin_due(time.monotonic())
    assert nodes.down == set()
    assert [(k.name, k.leader, k.proposer) for k in driven.kills] == [("cy", True, False)]


def test_a_liar_dies_when_it_is_meant_and_nobody_waits_for_its_return() -> None:
    watch = Watch()
    driven, nodes = drive(watch, kill("anyone"), kill("liar", for_s=0))
    nodes.liars = set(NAMES[1:])
    watch.at(2, "open")
    driven._begin_due(time.monotonic())
    assert NAMES[0] in nodes.down
    assert len(nodes.down & nodes.liars) == 1
    driven._restart(driven.kills[1])
    assert not driven.awaited


def test_a_phase_that_was_missed_is_waited_for_in_the_next_round() -> None:
    watch = Watch(leader="ben")
    driven, nodes = drive(watch, kill("leader", phase="closed"))
    for number, phase in ((2, "open"), (3, "open"), (4, "closed")):
        watch.at(number, phase)
        driven._begin_due(time.monotonic())
    assert nodes.down == {"ben"}


def test_no_more_die_at_once_than_the_plan_allows_and_the_rest_die_later() -> None:
    watch = Watch()
    driven, nodes = drive(watch, kill(0), kill(1), kill(2), at_most_down=2)
    watch.at(2, "open")
    driven._begin_due(time.monotonic())
    assert nodes.down == {"ada", "ben"}
    nodes.start("ada")
    driven._begin_due(time.monotonic())
    assert nodes.down == {"ben", "cy"}


def test_who_is_dead_already_or_leads_nothing_cannot_be_killed_now() -> None:
    watch = Watch()
    driven, nodes = drive(watch, kill(0), kill(0), kill("leader"))
    watch.at(2, "open")
    driven._begin_due(time.monotonic())
    assert nodes.down == {"ada"}
    assert len(driven.pending) == 2


def test_nodes_are_upgraded_one_after_the_other_and_what_others_take_them_for_is_judged() -> None:
    watch = Watch()
    upgrades = (
        Fault(do="upgrade", who=(who,), when=When(round=number), for_s=0)
        for who, number in ((1, 2), (2, 4))
    )
    driven, nodes = drive(watch, *upgrades)
    for number, down in ((1, set()), (2, {"ben"})):
        watch.at(number, "open")
        driven._begin_due(time.monotonic())
        assert nodes.down == down
    driven._undo.pop()[1]()
    assert (nodes.down, nodes.upgraded) == (set(), {"ben"})
    watch.final_at = dict.fromkeys(range(3), 0.0)
    watch.at(4, "open")
    driven._begin_due(time.monotonic())
    driven._undo.pop()[1]()
    assert driven.counts == {"upgrades": 2, "mixed_rounds": 3}
    assert driven.wrong_releases == []  # as they were before the second upgrade
    assert driven.mistaken_releases() == ["ada takes cy for 0.1.0"]


@pytest.mark.parametrize(
    ("groups", "pairs"),
    [
        (((0, 1), (2, 3)), [(0, 2), (0, 3), (1, 2), (1, 3)]),
        (((0,), (3,)), [(0, 3)]),
        (((0,), (1,), (2,)), [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_a_cut_parts_its_groups_and_nobody_else(
    groups: tuple[tuple[int, ...], ...], pairs: list[tuple[int, int]]
) -> None:
    watch = Watch()
    driven, nodes = drive(watch, Fault(do="cut", groups=groups, when=When(round=1)))
    watch.at(1, "open")
    driven._begin_due(time.monotonic())
    assert sorted(nodes.cuts[0]) == pairs


def test_a_cut_that_nobody_noticed_before_it_healed_is_not_waited_for() -> None:
    watch = Watch()
    driven, nodes = drive(watch, Fault(do="cut", groups=((0,), (1,)), for_s=0.0))
    watch.at(0, "open")
    driven._begin_due(time.monotonic())
    assert [a.measure for a in driven.awaited] == ["noticed_s"]
    for _, heal in driven._undo:
        heal()
    assert nodes.cuts == []
    assert sorted(a.measure for a in driven.awaited) == ["caught_up_s", "moved_s"]


def test_growth_compares_what_was_settled_with_the_end() -> None:
    growth = Growth(nodes=None)  # type: ignore[arg-type]
    for number in range(1, 201):
        leak = max(0, number - 100)
        growth.seen["a"][number] = Holding(
            main_bytes=1_000_000 + (5_000_000 if number < 10 else 0) + 1000 * leak,
            trainer_bytes=2_000_000,
            handles=20 + number % 3 + (5 if number in (60, 160) else 0),
            threads=9,
            tasks=30 + leak // 50 + (number % 7) * (2 if number > 100 else 1),
            blobs=8,
            chain_bytes=10_000 * number,
        )
    measures = growth.measures()
    assert measures["memory_growth"] == [pytest.approx(0.075, abs=0.001)]
    assert measures["trainer_growth"] == [0.0]
    assert (measures["handles_growth"], measures["tasks_growth"]) == ([0], [1])
    assert measures["chain_kb_a_round"] == [10.0]


def test_growth_of_a_short_run_is_not_told() -> None:
    growth = Growth(nodes=None)  # type: ignore[arg-type]
    growth.seen["a"] = {n: Holding(1, 1, 1, 1, 1, 1, n) for n in range(1, 120)}
    assert growth.measures() == {}
