"""What a clumsy operator has in front of her: a node's directory, the others' cards, her own files.

A desk is copied from a template, which is made once in a process. The words are those of the right
command, until a mistake changes them.
"""

from __future__ import annotations

import re
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from harness.live_consortium import LiveConsortium, run_nodes
from harness.plans import write_tiny_plan, write_tiny_rows
from swarm.chain.genesis import read_card
from swarm.node.commands.control import ask
from swarm.node.home.setup import create_node, found_network, install_network

FOUNDED = 1_790_000_000
NAMES = {"mary": "St. Mary", "kyoto": "Kyoto", "basel": "Basel"}
NEWCOMER = "Turin"
PASSWORD = "correct horse battery"


def free_port() -> int:
    """A port on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Desk:
    """One case's files and words. `folder` ends with the case; the live nodes are others'."""

    folder: Path
    live: LiveConsortium | None = None
    words: list[str] = field(default_factory=list)
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    """What happens while the command runs: Ctrl-C, say."""
    typed: str | None = None
    """What is typed where the command asks."""
    number: int = 0
    """The proposal or plan that the command is about."""
    said: str = ""
    """What the command has printed."""
    was_up: bool = False
    """Whether the command has brought a node up."""

    @property
    def home(self) -> Path:
        """The node that the operator looks after."""
        return self.folder / "mary"

    def at(self, name: str) -> Path:
        """The directory of a live node."""
        assert self.live is not None
        return next(home for home in self.live.homes if home.name == name)

    def ask(self, name: str, method: str, **arguments: object) -> Any:
        """Ask a live node, past the command line."""
        return ask(self.at(name), method, **arguments)

    def replace(self, old: str, new: str) -> None:
        """Type another word for a word of the command."""
        self.words[self.words.index(old)] = new

    def option(self, name: str, value: str) -> None:
        """Give another value to an option of the command."""
        self.words[self.words.index(name) + 1] = value


@cache
def template() -> Path:
    """Four institutions, of which three found a consortium, and what else lies about."""
    folder = Path(mkdtemp(prefix="clumsy-template-"))
    cards = []
    for home, name in (*NAMES.items(), ("turin", NEWCOMER)):
        cards.append(
            create_node(
                folder / home,
                name,
                password=None,
                listen=f"/ip4/127.0.0.1/tcp/{free_port()}",
                http="127.0.0.1:0",
            )
        )
    genesis = found_network(cards[:3], FOUNDED)
    for home in (*NAMES, "turin"):
        install_network(folder / home, genesis)
    write_tiny_rows(folder / "patients.csv")
    for home in NAMES:
        config = folder / home / "node.toml"
        text = config.read_text().replace('# path = "patients.csv"', 'path = "../patients.csv"')
        text = re.sub(r"/tcp/\d+", "/tcp/0", text)  # a case's node is not the live one's neighbour
        config.write_text(text.replace('device = "auto"', 'device = "cpu"\nsandbox = "off"'))
    write_tiny_plan(folder / "tiny", sites=1)
    (folder / "secret").write_text(PASSWORD + "\n")
    (folder / "secret").chmod(0o600)
    shutil.copytree(folder / "mary", folder / "ran")
    with run_nodes([folder / "ran"]):
        pass
    return folder


def drop_template() -> None:
    """Remove what `template` has made."""
    if template.cache_info().currsize:
        shutil.rmtree(template())
        template.cache_clear()


@contextmanager
def open_live() -> Iterator[LiveConsortium]:
    """The three founders' nodes, up and connected."""
    folder = Path(mkdtemp(prefix="clumsy-live-"))
    try:
        shutil.copytree(template(), folder, dirs_exist_ok=True)
        for home in NAMES:  # where the others dial it, as its card says
            config, card = folder / home / "node.toml", read_card(folder / home / "card.json")
            text = config.read_text().replace("/ip4/127.0.0.1/tcp/0", card.addresses[0])
            config.write_text(text)
        with run_nodes([folder / home for home in NAMES]) as live:
            live.wait_connected()
            yield live
    finally:
        shutil.rmtree(folder)


Tree = dict[str, tuple[int, bytes]]


def tree_of(folder: Path) -> Tree:
    """Every path below a folder with its kind and mode, and a file's bytes."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(folder))] = (status.st_mode, content)
    return found


def put_back(folder: Path, sound: Tree, spoiled: Tree) -> None:
    """Undo what turned one tree into the other; whatever came since stays."""
    for name in sorted(spoiled.keys() - sound.keys(), reverse=True):
        _remove(folder / name)
    for name, (mode, content) in sound.items():
        path = folder / name
        if spoiled.get(name) == (mode, content):
            continue
        if stat.S_ISDIR(mode):
            if not path.is_dir():
                _remove(path)
            path.mkdir(exist_ok=True)
        else:
            _remove(path)
            path.write_bytes(content)
        path.chmod(stat.S_IMODE(mode))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
