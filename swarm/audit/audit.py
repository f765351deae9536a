"""One audit of one node's directory."""

from __future__ import annotations

from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from swarm.audit.choices import check_choices
from swarm.audit.evidence import copied_chain
from swarm.audit.holdings import check_blobs, check_records
from swarm.audit.ledger import Ledger
from swarm.audit.replay import Replay
from swarm.audit.report import Fault, Holdings, Report
from swarm.chain.engine import CHAIN_FILE
from swarm.chain.override import read_applied
from swarm.chain.store import ChainStore
from swarm.errors import ChainError, ConfigurationError
from swarm.node.chain.source import read_network
from swarm.node.home.config import load_config


def audit(directory: Path, until: int | None = None) -> Report:
    """Check everything that the node in `directory` keeps, up to the block `until` or the newest.

    Raises ConfigurationError if there is nothing that could be audited.
    """
    config = load_config(directory)
    genesis = read_network(directory, config)
    if genesis is None:
        raise ConfigurationError(
            f"{directory} uses an external chain: audit it where that chain is kept"
        )
    ledger, here = Ledger(genesis), Holdings()
    with copied_chain(directory) as work:
        with closing(ChainStore(work / CHAIN_FILE)) as store:
            replay = Replay(store, genesis, read_applied(directory), work / "replay")
            try:
                for block in replay.blocks(until):
                    ledger.add(block)
                    here.blocks += 1
            except (ChainError, ConfigurationError) as error:
                replay.faults.append(Fault("chain.db", str(error)))
            here.seals = ledger.seals
            here.state_values = replay.check_state()
            faults = replay.faults
    here.blobs, here.blob_bytes = check_blobs(directory / "blobs", faults)
    here.records = check_records(directory / "records", ledger.history, faults)
    here.choices = check_choices(directory, ledger.history, faults)
    history = ledger.history
    return Report(config.name, version("swarm"), history, history.digest, here, faults)
