"""One consortium under one fault plan: its nodes started, what the plan says done, all judged."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.faults.drive import Drive
from harness.faults.nodes import Nodes, open_nodes
from harness.faults.plan import FaultPlan
from harness.faults.verdict import Outcome, judge, read_replicas, score
from harness.faults.watch import open_watch
from harness.faults.wires import open_wires
from swarm.errors import ConfigurationError
from swarm.learning.simulation.dealing import SiteFiles, deal
from swarm.testnet.run import begin_plan

SITES_SEED = 0
"""Of the testnet itself: initial model and split. The seed of a run draws its faults alone."""


@dataclass
class Run:
    """One run, whose nodes are up and whose plan has begun; made by `open_run`."""

    name: str
    plan: FaultPlan
    nodes: Nodes
    drive: Drive
    sites: list[SiteFiles]
    began: float

    def finish(self) -> Outcome:
        """Do what the plan says until all rounds are final, or it has failed; judge it.

        Raises LocalError if it was ended from outside.
        """
        failure = self.drive.run()
        replicas = read_replicas(self.nodes, self.drive)
        scored = failure is None and self.plan.undisturbed_nodes is not None
        auc = score(self.nodes, self.sites, self.plan.rounds) if scored else None
        wall_s = time.monotonic() - self.began
        return judge(self.name, self.plan, self.drive, failure, replicas, auc, wall_s)

    # As one of two that take turns.

    @property
    def final_at(self) -> Mapping[int, float]:
        return self.drive.watch.final_at

    def freeze(self) -> None:
        self.nodes.freeze()

    def thaw(self) -> None:
        self.nodes.thaw()

    def is_settled(self) -> bool:
        """Whether all faults have come to pass, and no round pays for them any more."""
        return self.drive.is_settled()

    def is_over(self) -> bool:
        return self.plan.rounds in self.drive.watch.trained or self.nodes.ending.is_set()


@contextmanager
def open_run(directory: Path, name: str, plan: FaultPlan, base: Path, seed: int) -> Iterator[Run]:
    """Start the nodes of one run in `directory`, and the training plan that lies at `base`.

    When the block ends, so do they. Raises ConfigurationError for a plan that needs more peers than
    its sites are dealt to, and LocalError if a node cannot be started.
    """
    began = time.monotonic()
    newcomers = sum(fault.do == "admit" for fault in plan.fault)
    dealt = deal(base, plan.peers)
    count = len(dealt) - newcomers if plan.nodes is None else plan.nodes
    if count + newcomers > len(dealt):
        raise ConfigurationError(
            f"{name}: {base} is dealt to {len(dealt)} peers, but the plan needs "
            f"{count + newcomers}: raise peers, or lower nodes"
        )
    sites, more = dealt[:count], dealt[count : count + newcomers]
    with ExitStack() as stack:
        wires = stack.enter_context(open_wires(count + newcomers)) if plan.namespaces else None
        for index in plan.firewalled:
            assert wires is not None  # as the plan was read
            wires.firewall(index)
        opened = open_nodes(directory, base, sites, SITES_SEED, wires, plan, lies_seed=seed)
        nodes = stack.enter_context(opened)
        watch = stack.enter_context(open_watch(nodes))
        begin_plan(nodes.testnet, plan.rounds)
        drive = Drive(plan, nodes, watch, seed, more)
        yield Run(name, plan, nodes, drive, sites + more, began)
