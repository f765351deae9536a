"""A copy of a node's chain to work on: an audit never opens, and so never changes, the original."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from swarm.chain.engine import CHAIN_FILE
from swarm.errors import ConfigurationError
from swarm.node.commands.control import ask, is_running


@contextmanager
def copied_chain(directory: Path) -> Iterator[Path]:
    """A folder with a copy of the chain of the node in `directory`; `replay` in it is free.

    A node that runs makes the copy itself, at one block. Raises ConfigurationError if there is no
    chain.
    """
    with TemporaryDirectory(prefix="swarm-audit-") as name:
        work = Path(name)
        if is_running(directory):
            ask(directory, "copy_chain", path=str(work / CHAIN_FILE))
        else:
            _copy_files(directory / "chain", work)
        yield work


def _copy_files(chain: Path, work: Path) -> None:
    """The file, and the journal that a kill may have left beside it."""
    if not (chain / CHAIN_FILE).exists():
        raise ConfigurationError(
            f"{chain / CHAIN_FILE} does not exist: only a node that keeps the consortium's own "
            "chain, and has run, can be audited"
        )
    for file in chain.glob(f"{CHAIN_FILE}*"):
        if not file.name.endswith("-shm"):  # rebuilt from the journal
            shutil.copyfile(file, work / file.name)
