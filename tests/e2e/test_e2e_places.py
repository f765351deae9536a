"""Local parts, a step and gathered rows on real nodes, whose trainers and one of whom are killed.

What a run without a network gives, these must reach to the bit: the model with its step's state,
and what each site keeps for itself.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from harness.plans import slow, write_tiny_plan

from swarm.blobs.store import BlobStore
from swarm.learning.parameters.named_tensors import read_state
from swarm.learning.simulation.whole_run import run_federated
from swarm.node.commands.control import ask
from swarm.testnet.processes import start_node, stop_nodes
from swarm.testnet.run import Testnet, begin_plan, bring_up, follow, plan_of

TENSORS = """\
    rounds = 4
    tensors = {
        "3.*": swarm.local(),
        "1.running*": swarm.shared(),
        "figure": swarm.gathered(),
        "*": swarm.shared(swarm.trimmed(0.1), step=swarm.nesterov(lr=0.9, momentum=0.5)),
    }
    min_peers = 3

    def state(self, model):
        self.seen = {"batches": torch.zeros(1)}
        return self.seen
"""
CHANGES = (
    ("    rounds = 3\n", TENSORS),
    ("return nn.Sequential(", "model = nn.Sequential("),
    ("nn.Linear(4, 1))\n", "nn.Linear(4, 1))\n"
     '        model.register_buffer("figure", torch.zeros(1))\n        return model\n'),
    ("        x, y = batch\n", "        x, y = batch\n"
     "        self.seen['batches'] += model.training\n"
     "        model.figure[0] = y.sum() + self.seen['batches'][0]\n"),
)  # fmt: skip


class Killer:
    """Kills the trainer of each node once in each round, and the second node once altogether."""

    def __init__(self, testnet: Testnet) -> None:
        self.testnet = testnet
        self.killed: set[tuple[str, int]] = set()
        self.nodes_killed = 0

    def look(self, words: str, statuses: list[dict[str, Any]]) -> None:
        for node, status in zip(self.testnet.file.nodes, statuses, strict=True):
            plan = plan_of(status, self.testnet.file.plan_id)
            if plan is None or not plan["training"] or (plan["round"] or 0) < 2:
                continue
            place = (node.name, plan["round"])
            if place not in self.killed and status.get("trainer_pid"):
                with suppress(ProcessLookupError):
                    os.kill(status["trainer_pid"], signal.SIGKILL)
                self.killed.add(place)
        if not self.nodes_killed and any(number == 3 for _, number in self.killed):
            victim = self.testnet.file.nodes[1]
            process = self.testnet.processes[victim.name]
            process.kill()
            process.wait(timeout=10)
            self.testnet.processes[victim.name] = start_node(victim)
            self.nodes_killed += 1


def test_killed_trainers_and_nodes_change_nothing_of_what_is_shared_or_kept(
    tmp_path: Path,
) -> None:
    plan = write_tiny_plan(tmp_path / "plan", *CHANGES, *slow(1.0), sites=3)
    expected = run_federated(plan)
    testnet = bring_up(tmp_path / "nodes", plan, None, seed=0)
    killer = Killer(testnet)
    try:
        begin_plan(testnet, None)
        follow(testnet, killer.look, poll_s=0.1)
        models = ask(testnet.home(), "models", plan=testnet.file.plan_id)["models"]
        records = testnet.records()
    finally:
        stop_nodes(testnet.file, testnet.processes)
    assert len(killer.killed) >= 9
    assert killer.nodes_killed == 1
    found = Path(models[-1]["path"]).read_bytes()
    assert found == expected.file.raw.tobytes()
    for number, node in enumerate(testnet.file.nodes):
        folder = Path(node.directory) / "kept" / "plan-1"
        assert [path.name for path in folder.iterdir()] == ["current.safetensors"]
        kept, wanted = read_state(folder / "current.safetensors"), expected.kept[-1][number]
        assert wanted is not None
        assert kept.keys() == wanted.keys() == {"3.weight", "3.bias", "~state/batches"}
        for name, value in kept.items():
            assert value.equal(wanted[name]), (node.name, name)
        score = expected.site_scores()[node.name]["auc"]
        assert records[node.name][-1]["metrics"]["test"]["auc"] == pytest.approx(score, abs=1e-6)
    _refuse_traces(testnet, [each for each in expected.kept[-1] if each])


def _refuse_traces(testnet: Testnet, kept: list[Any]) -> None:
    """No blob of any node holds the bytes of what a site keeps."""
    heads = [each["3.weight"].numpy().tobytes() for each in kept]
    for node in testnet.file.nodes:
        store = BlobStore(Path(node.directory) / "blobs")
        for root in store.roots():
            content = store.path(root).read_bytes()
            assert not any(head in content for head in heads)
