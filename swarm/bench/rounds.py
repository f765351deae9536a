"""A round without training: what it costs beyond the training, for a model of a given size.

A testnet of real nodes runs a plan whose training only touches the model: every 1024th value is
changed, differently at each site, so that no chunk of one update equals another's, at hardly any
cost. What is left of a round is the program's own: the trainer's files, transfers, merge, checks,
transactions.

A round is measured from one final merge to the next, as the first node saw them; its bytes from one
closing of submission to the next, because those who were not needed for the quorum pull the model
after it is final. The first rounds do not count.

A secure plan is the same plan with `secure = True`, and is measured beside the plain one.
"""

from __future__ import annotations

import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from swarm.bench.machine import Watch, file_system, require_room, summary, watch
from swarm.chain.client import ConsortiumClient
from swarm.chain.endpoint import Endpoint
from swarm.chain.engine import CHAIN_FILE
from swarm.chain.store import ChainStore
from swarm.errors import LocalError
from swarm.node.commands.control import ask
from swarm.testnet.processes import stop_nodes
from swarm.testnet.run import Testnet, begin_plan, bring_up, follow
from swarm.types import to_address

WARM_UP_ROUNDS = 2
POLL_S = 1.0
"""Asking a node how it is costs it time, too."""
TENSORS = 8
NODE_BYTES = 400 * 10**6
"""Memory of a node's two processes, beside the model."""
RPC_TIMEOUT_S = 30.0

PLAN = '''\
"""A model of {size_bytes} bytes that is not trained: for measuring everything else."""

import numpy as np
import torch
from torch import nn

import swarm

TENSORS = {tensors}


class Idle(swarm.Plan):
    rounds = 1_000_000
    min_peers = {peers}
    min_rows = 1
    verify = "{verify}"
    wire_dtype = "{wire}"
    tensors = {{"*": {place}}}
    secure = {secure}
    max_round_s = 1800.0

    def model(self):
        model = nn.Module()
        model.layers = nn.ParameterList(torch.rand(size) for size in TENSORS)
        return model

    def data(self, site):
        return swarm.Data(train=(np.array([[float(site.path.read_text())]]),))

    def loss(self, model, batch):
        return model.layers[0][0]

    def train(self, model, data, round):
        with torch.no_grad():
            for tensor in model.layers:
                tensor[::1024] += 1e-3 * data.train[0].item()
'''

PLACES = {
    "mean": "swarm.shared()",
    "median": "swarm.shared(swarm.median())",
    "trimmed": "swarm.shared(swarm.trimmed(0.1))",
    "krum": "swarm.shared(swarm.krum(1))",
    "multi_krum": "swarm.shared(swarm.multi_krum(1, 2))",
    "geometric_median": "swarm.shared(swarm.geometric_median())",
    "momentum": "swarm.shared(step=swarm.momentum())",
    "nesterov": "swarm.shared(step=swarm.nesterov())",
    "adam": "swarm.shared(step=swarm.adam())",
    "yogi": "swarm.shared(step=swarm.yogi())",
}
"""What the plan writes for each fold."""


@dataclass(frozen=True)
class RoundOptions:
    """What to measure."""

    peers: int
    size_bytes: int
    verify: str = "held"
    rounds: int = 7
    wire: str = "fp32"
    fold: str = "mean"
    secure: bool = False


def write_plan(folder: Path, options: RoundOptions) -> Path:
    """Write the plan that does nothing, with a number for each site as its data."""
    elements = max(TENSORS, options.size_bytes // 4)
    sizes = [elements // TENSORS] * TENSORS
    sizes[0] += elements % TENSORS
    (folder / "data").mkdir(parents=True)
    code = PLAN.format(
        size_bytes=4 * elements,
        tensors=sizes,
        peers=options.peers,
        verify=options.verify,
        wire=options.wire,
        place=PLACES[options.fold],
        secure=options.secure,
    )
    (folder / "plan.py").write_text(code)
    for site in range(options.peers):
        (folder / "data" / f"node{site:02d}.txt").write_text(
            str(1.1**site)
        )  # their mean is nobody's
    return folder


def measure_rounds(options: RoundOptions, directory: Path) -> dict[str, Any]:
    """Run the rounds with the nodes' directories in `directory`; return the figures.

    Raises LocalError if there is no room for them, or if they do not come to an end. All processes
    have ended when it returns.
    """
    require_room(directory, *room(options))
    plan = write_plan(directory / "plan", options)
    testnet = bring_up(directory / "nodes", plan, options.peers, seed=0, keep_models=1)
    try:
        began = time.time()
        begin_plan(testnet, WARM_UP_ROUNDS + options.rounds)
        with watch(_pids(testnet)) as seen:
            follow(testnet, lambda doing, statuses: None, poll_s=POLL_S)
        figures, blocks = _figures(options, testnet, seen, began)
    finally:
        stop_nodes(testnet.file, testnet.processes)
    chain = chain_bytes(testnet.home() / "chain" / CHAIN_FILE, blocks)
    figures["chain_bytes"] = round(chain / options.rounds)
    return figures | {"directory": file_system(directory)}


def chain_bytes(file: Path, blocks: range) -> int:
    """Bytes of these blocks with their certificates, in the chain of a node that is not running.

    Raises LocalError if it lacks one."""
    with closing(ChainStore(file)) as store:
        found = [store.block(height) for height in blocks]
    whole = [block for block in found if block is not None]
    if len(whole) < len(found):
        raise LocalError(f"{file} lacks blocks of {blocks}: run the benchmark again")
    return sum(len(block.payload) + len(block.certificate) for block in whole)


def room(options: RoundOptions) -> tuple[int, int]:
    """(bytes of files, bytes of memory) that the nodes take when they take the most: each the first
    model, its base, its update and the next model, and the one before while others still read it;
    whoever merges the others' updates; each trainer its model, and a third for its transfers. In
    secure rounds all add up all, and each has its update in a vault, and masked.
    """
    merging = options.peers if options.verify == "full" or options.secure else 1
    own = 7 if options.secure else 5
    models = own * options.peers + merging * (options.peers - 1)
    memory = options.peers * (options.size_bytes * 4 // 3 + NODE_BYTES)
    return models * options.size_bytes, memory


def _pids(testnet: Testnet) -> dict[str, int]:
    """Main process and trainer of each node."""
    found = {}
    for status in testnet.statuses():
        found[f"main {status['name']}"] = status["pid"]
        if status["trainer_pid"] is not None:
            found[f"trainer {status['name']}"] = status["trainer_pid"]
    return found


def _figures(
    options: RoundOptions, testnet: Testnet, seen: Watch, began: float
) -> tuple[dict[str, Any], range]:
    """What was measured, and the blocks of the rounds that count."""
    names = [node.name for node in testnet.file.nodes]
    records = {
        node: {record["round"]: record for record in told}
        for node, told in testnet.records().items()
    }
    for name in names:
        if name not in records:
            raise LocalError(f"the node {name} tells nothing of the plan: see its log")
    models = ask(testnet.home(), "models", plan=testnet.file.plan_id)["models"]
    model_bytes = models[-1]["bytes"]
    first, last = WARM_UP_ROUNDS, WARM_UP_ROUNDS + options.rounds
    final_at = [records[names[0]][number]["final_at"] for number in range(first, last + 1)]
    start, stop = final_at[0], final_at[-1]
    cpu = {
        kind: [seen.cpu_between(f"{kind} {name}", start, stop) for name in names]
        for kind in ("main", "trainer")
    }
    blocks, transactions = _chain_use(testnet, first, last)
    figures = {
        "peers": options.peers,
        "size_bytes": options.size_bytes,
        "wire": options.wire,
        "fold": options.fold,
        "secure": options.secure,
        "model_bytes": model_bytes,
        "verify": options.verify,
        "rounds": options.rounds,
        "seconds": summary([b - a for a, b in pairwise(final_at)]),
        "phases_s": {
            key: round(
                statistics.median(
                    max(records[name][n][key] for name in names) for n in range(first + 1, last + 1)
                ),
                4,
            )
            for key in ("train_s", "exchange_s", "merge_s", "chain_s")
        },
        "models_moved": count_traffic(records, names, model_bytes, range(first, last)),
        "main_peak_bytes": _worst(seen.peak_bytes(f"main {n}", began) for n in names),
        "trainer_peak_bytes": _worst(seen.peak_bytes(f"trainer {n}", began) for n in names),
        "main_cpu_s": _mean(cpu["main"], options.rounds),
        "trainer_cpu_s": _mean(cpu["trainer"], options.rounds),
        "blocks": round(len(blocks) / options.rounds, 2),
        "transactions": round(transactions / options.rounds, 2),
    }
    return figures, blocks


def count_traffic(
    records: dict[str, dict[int, dict[str, Any]]],
    names: list[str],
    model_bytes: int,
    rounds: range,
) -> dict[str, float]:
    """Bytes in multiples of the model: medians over rounds (and over the nodes that do not lead).

    Rounds in which a node missed the moment of closing are left out."""
    found: dict[str, list[float]] = {}
    for number in rounds:
        for name in names:
            here, after = records[name].get(number), records[name].get(number + 1)
            for way in ("sent", "received"):
                before, then = ((r or {}).get(f"{way}_by_close_bytes") for r in (here, after))
                if here is None or before is None or then is None:
                    continue
                role = "leader" if here["leader"] == name else "other"
                found.setdefault(f"{role}_{way}", []).append((then - before) / model_bytes)
    medians = {key: round(statistics.median(values), 3) for key, values in found.items()}
    sent = [v for key in ("leader_sent", "other_sent") for v in found.get(key, [])]
    return medians | {"all_sent": round(sum(sent) * len(names) / max(1, len(sent)), 3)}


def _chain_use(testnet: Testnet, first: int, last: int) -> tuple[range, int]:
    """The blocks from one final merge to another, and how many transactions are in them."""
    status = testnet.statuses()[0]
    contract = to_address(status["contract"])
    client = ConsortiumClient.connect(status["rpc_url"], contract, timeout_s=RPC_TIMEOUT_S)
    endpoint = Endpoint.at(status["rpc_url"], RPC_TIMEOUT_S)
    height = {
        int(str(event.arguments["round"])): event.height
        for event in client.events(1, client.head()[0])
        if event.name == "RoundFinal"
    }
    blocks = range(height[first] + 1, height[last] + 1)
    counts = [
        len(endpoint.ask("eth_getBlockByNumber", hex(b), False)["transactions"]) for b in blocks
    ]
    return blocks, sum(counts)


def _worst(values: Any) -> int | None:
    return max((v for v in values if v is not None), default=None)


def _mean(values: list[float | None], rounds: int) -> float | None:
    """Mean over nodes, per round."""
    known = [value for value in values if value is not None]
    return round(sum(known) / len(known) / rounds, 4) if known else None
