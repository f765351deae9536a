"""The nodes of one run, as processes and directories: begun, killed, stopped, and begun again.

A thin layer over the testnet. What it adds is that it knows which deaths were its own doing, and
that nothing of it is left when its block ends, whichever way that is.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from harness.faults.plan import Disk, FaultPlan
from harness.faults.release import write_release
from harness.faults.wires import Wires
from swarm.errors import LocalError, SwarmError
from swarm.learning.simulation.dealing import SiteFiles
from swarm.node.commands.control import ask
from swarm.node.home.setup import create_node
from swarm.testnet.layout import ALL_MODELS, TestnetNode, create_testnet
from swarm.testnet.processes import NodeProcess, start_node, stop_nodes, wait_ready
from swarm.testnet.run import Testnet
from swarm.types import to_hex

DEATH_S = 10.0
ASK_S = 60.0
RETRY_S = 0.25
NEWCOMER_S = 180.0
SAVED = "votes.saved"


class Nodes:
    """The nodes of one run, by name in the order of their numbers; made by `open_nodes`."""

    def __init__(
        self,
        testnet: Testnet,
        wires: Wires | None,
        environment: Mapping[str, str],
        liars: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self.testnet = testnet
        self.wires = wires
        self.liars = liars or {}
        """Those that lie: by which module, and its argument."""
        self._environment = environment
        self._newer: Mapping[str, str] = {}
        self.upgraded: set[str] = set()
        """Those that have the newer release, as soon as they are started."""
        self.down: set[str] = set()
        """Killed by us, and not started again."""
        self.stopped: set[str] = set()
        self.ending = threading.Event()
        """Set when the run ends: nobody starts a node any more."""

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.testnet.file.nodes]

    @property
    def running(self) -> list[str]:
        """Those that run as far as we know."""
        return [name for name in self.names if name not in self.down | self.stopped]

    @property
    def answering(self) -> list[str]:
        """Those of them whose word counts: not the liars."""
        return [name for name in self.running if name not in self.liars]

    def home(self, name: str) -> Path:
        return Path(self._node(name).directory)

    def number(self, name: str) -> int:
        return self.names.index(name)

    def within(self, name: str) -> tuple[str, ...]:
        """What a command must be run by to reach this node's loopback."""
        return self._within(self.number(name))

    # Faults.

    def start(self, name: str) -> None:
        self.testnet.processes[name] = self._start(self._node(name), self.number(name))
        self.down.discard(name)

    def kill(self, name: str) -> None:
        """SIGKILL. Returns when the process is gone."""
        self.down.add(name)
        process = self.testnet.processes[name]
        process.kill()
        process.wait(DEATH_S)

    def end(self, name: str) -> int:
        """SIGTERM, as a supervisor does it. Returns the exit status when the process is gone."""
        self.down.add(name)
        process = self.testnet.processes[name]
        process.terminate()
        return process.wait(DEATH_S)

    def upgrade(self, name: str) -> None:
        """Start a node that is down with the newer release."""
        if not self._newer:
            self._newer = write_release(self.testnet.directory.parent / "newer-release")
        self.upgraded.add(name)
        self.start(name)

    def stop(self, name: str) -> None:
        self.stopped.add(name)
        self.testnet.processes[name].send_signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        self.testnet.processes[name].send_signal(signal.SIGCONT)
        self.stopped.discard(name)

    def freeze(self) -> None:
        """Stop every process of all nodes, trainers included; none counts as `stopped` by it."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._signal_all(signal.SIGCONT)

    def spoil(self, name: str, disk: Disk) -> None:
        """Do something to the files of a node that is down."""
        chain, vaults = (self.home(name) / folder for folder in ("chain", "masked"))
        saved, vaults_saved = self.home(name) / SAVED, self.home(name) / f"{SAVED}-masked"
        match disk:
            case "chain deleted":
                shutil.rmtree(chain)
            case "votes deleted":
                for file in _votes(chain):
                    file.unlink()
            case "votes saved":
                saved.mkdir()
                for file in _votes(chain):
                    shutil.copy2(file, saved)
            case "vaults deleted":
                shutil.rmtree(vaults)
            case "vaults saved":
                shutil.copytree(vaults, vaults_saved)
            case "vaults rolled back":
                shutil.rmtree(vaults)
                shutil.copytree(vaults_saved, vaults)
            case "votes rolled back":
                for file in _votes(chain):
                    file.unlink()
                for file in _votes(saved):
                    shutil.copy2(file, chain)

    def dead_by_themselves(self) -> list[str]:
        """Nodes whose process has ended without our doing."""
        running = (n for n in self.names if n not in self.down)
        return [n for n in running if self.testnet.processes[n].poll() is not None]

    # A newcomer, as docs/operations.md says it.

    def admit(self, site: SiteFiles, admitted: Callable[[], None]) -> str:
        """Make a node for another site and start it; have it admitted; let it consent.

        `admitted` is called when the members have carried it out. Blocks until the newcomer has
        consented; returns its name. Raises LocalError if it takes too long.
        """
        file = self.testnet.file
        index = len(file.nodes)
        home = self.testnet.directory / site.name
        listen = "/ip4/127.0.0.1/tcp/0" if self.wires is None else self.wires.listen(index)
        card = create_node(
            home, site.name, password=None, listen=listen, http="127.0.0.1:0",
            data=site.place_in(Path("data")), seed=file.seed, keep_models=ALL_MODELS,
        )  # fmt: skip
        data = str(site.copy_to(home / "data"))
        first, *others = (self.home(name) for name in self.answering)
        shutil.copy(first / "network.json", home)
        if self.ending.is_set():
            raise LocalError(f"the run ended before {site.name} was started")
        node = TestnetNode(site.name, str(home), data, to_hex(card.account))
        self.testnet.processes[site.name] = self._start(node, index)
        file.nodes.append(node)
        proposal = ask(first, "propose_member", ASK_S, card=str(home / "card.json"), remove=None)
        with ThreadPoolExecutor(len(others)) as pool:
            list(pool.map(partial(_vote, proposal["id"]), others))
        admitted()
        until = time.monotonic() + NEWCOMER_S
        while True:
            try:
                ask(home, "consent", ASK_S, plan=file.plan_id, path=None)
                return site.name
            except SwarmError as error:
                # It is still starting, or copying the chain and the plan's code.
                if time.monotonic() > until or self.ending.is_set():
                    raise LocalError(f"the newcomer {site.name} could not join: {error}") from None
            self.ending.wait(RETRY_S)

    def _signal_all(self, number: signal.Signals) -> None:
        asleep = {self.testnet.processes[name].pid for name in self.stopped}
        for pid in processes_in(self.testnet.directory):
            if pid not in asleep:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def _start(self, node: TestnetNode, index: int) -> NodeProcess:
        within = [*self._within(index)]
        if node.name in self.liars:
            within += [sys.executable, "-m", *self.liars[node.name]]
        environment = self._environment
        if node.name in self.upgraded:
            # Not a fork of a process that has imported this release: executed in its place.
            within, environment = [*within, "env"], {**environment, **self._newer}
        return start_node(node, within, environment)

    def _within(self, index: int) -> tuple[str, ...]:
        return () if self.wires is None else self.wires.within(index)

    def _node(self, name: str) -> TestnetNode:
        return self.testnet.file.nodes[self.number(name)]


@contextmanager
def open_nodes(
    directory: Path,
    plan: Path,
    sites: list[SiteFiles],
    seed: int,
    wires: Wires | None,
    faults: FaultPlan,
    lies_seed: int = 0,
) -> Iterator[Nodes]:
    """Start one node for each site; when the block ends, so do they, stopped ones included."""
    listen = None if wires is None else [wires.listen(i) for i in range(len(sites))]
    keep = ALL_MODELS if faults.keep_models is None else faults.keep_models
    testnet = Testnet(directory, create_testnet(directory, plan, sites, seed, listen, keep))
    lying = [node.name for node in testnet.file.nodes][len(sites) - faults.liars :]
    how = {
        name: ("harness.faults.liar", f"seed {lies_seed} liar {number}")
        if faults.opposite is None
        else ("harness.faults.opposite", str(faults.opposite))
        for number, name in enumerate(lying)
    }
    nodes = Nodes(testnet, wires, faults.environment, how)
    try:
        for name in nodes.names:
            nodes.start(name)
        wait_ready(testnet.file, testnet.processes)
        yield nodes
    finally:
        nodes.thaw()
        for name in sorted(nodes.stopped):
            nodes.resume(name)
        stop_nodes(testnet.file, testnet.processes)


def processes_in(directory: Path) -> list[int]:
    """The pids of the processes whose command line names this directory, which must be resolved
    (nodes), or whose output goes to a file in it (trainers), our own excepted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        names = b""
        with suppress(OSError):  # it has ended
            names += (entry / "cmdline").read_bytes()
        with suppress(OSError):  # it has no output, or is not ours to look at
            names += b"\0" + os.fsencode((entry / "fd" / "1").readlink())
        if os.fsencode(directory) in names:
            found.append(int(entry.name))
    return found


def run_in(within: Sequence[str], command: Sequence[str], deadline_s: float) -> str:
    """Run a command where a node is; return what it prints. Raises LocalError."""
    try:
        done = subprocess.run(
            [*within, *command], capture_output=True, text=True, timeout=deadline_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise LocalError(f"{' '.join(command)} took more than {deadline_s:.0f} s") from None
    if done.returncode != 0:
        raise LocalError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _vote(proposal: int, home: Path) -> None:
    # Some votes come when the others have carried it out already: they endorse the validator.
    with suppress(SwarmError):
        ask(home, "vote", ASK_S, proposal=proposal, support=True)


def _votes(folder: Path) -> list[Path]:
    return sorted(folder.glob("votes.db*"))
