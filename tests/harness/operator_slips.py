"""The mistakes of a clumsy operator: what is wrong about a right command, and what must come of it.

Two outcomes are right: what was asked for is done all the same (`SAME`), or one sentence in which
each of some patterns is found: the value, the place, what to do. They are written with ` & `
between them. A mistake whose outcome begins with `EITHER` may end both ways, as Ctrl-C does; after
one that begins with `FINAL` the right command cannot work either, as when a vote comes too late.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.interruption import ctrl_c_at, full_disk_from, not_ours
from harness.operator_desk import Desk
from harness.operator_tasks import propose_plan, propose_removal
from swarm.chain.genesis import write_genesis
from swarm.node.commands.account import rotate_key, take_over
from swarm.node.commands.control import only_node_in
from swarm.node.home.config import load_config
from swarm.node.home.password import open_key
from swarm.node.home.setup import found_network, read_cards

SAME = "what was asked for"
EITHER = "either that, or "
FINAL = "for good, "
MOMENTS = 16
"""More than any command has that ends by itself: Ctrl-C at the last ones changes nothing."""

Make = Callable[[Desk, random.Random], object]
Change = Callable[[Path, random.Random], object]


@dataclass(frozen=True)
class Slip:
    """One kind of mistake: at which tasks, where it is made (two in one place exclude each other),
    and how."""

    name: str
    tasks: tuple[str, ...]
    place: str
    make: Make
    outcome: str

    @property
    def patterns(self) -> list[str]:
        """What the sentence must say; empty where there is to be none."""
        if self.outcome == SAME:
            return []
        return self.outcome.removeprefix(EITHER).removeprefix(FINAL).split(" & ")


# What is done to files.


def _file(name: str, change: Change) -> Make:
    return lambda desk, chance: change(desk.folder / name, chance)


def _card(change: Change) -> Make:
    """To the card that the command is given: a founder's, or the newcomer's."""

    def make(desk: Desk, chance: random.Random) -> None:
        whose = "turin" if {"--admit", "standby"} & set(desk.words) else "kyoto"
        change(desk.folder / whose / "card.json", chance)

    return make


def _lose(path: Path, chance: random.Random) -> None:
    path.unlink()


def _half(path: Path, chance: random.Random) -> None:
    """As a copy that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(1, len(content) - 1)])


def _garbage(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"\xff" + chance.randbytes(chance.choice((1, 100, 5000))))


def _be_folder(path: Path, chance: random.Random) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(mode=0o700)


def _be_file(path: Path, chance: random.Random) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.write_text("")


def _write(text: str) -> Change:
    return lambda path, chance: path.write_text(text)


def _mode(mode: int) -> Change:
    return lambda path, chance: path.chmod(mode)


def _edit(old: str, new: str) -> Change:
    def change(path: Path, chance: random.Random) -> None:
        text = path.read_text()
        if old not in text:
            raise ValueError(f"{path} has no {old!r}")
        path.write_text(text.replace(old, new))

    return change


def _add(text: str) -> Change:
    return lambda path, chance: path.write_text(path.read_text() + text)


def _replace_by(other: str) -> Change:
    """Another file, whose path begins at the one's folder."""
    return lambda path, chance: shutil.copy(path.parent / other, path)


def _short_password(desk: Desk, chance: random.Random) -> None:
    (desk.folder / "secret").write_text("1234567\n")
    desk.words += ["--new-password-file", str(desk.folder / "secret")]


def _shorten_key(path: Path, chance: random.Random) -> None:
    text = path.read_text()
    at = text.index("0x") + chance.randrange(2, 40)
    path.write_text(text[:at] + text[at + 1 :])


def _with_notes(path: Path, chance: random.Random) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("")


def _without_brackets(path: Path, chance: random.Random) -> None:
    text = path.read_text().replace("listen = [", "listen = ")
    path.write_text(text.replace("]\n\n[http]", "\n\n[http]"))


def _other_network(folder: str) -> Make:
    """Put the file of another consortium there."""

    def make(desk: Desk, chance: random.Random) -> None:
        network = found_network(read_cards([desk.home / "card.json"]), 1)
        write_genesis(desk.folder / folder / "network.json", network)

    return make


def _lose_all(pattern: str) -> Make:
    def make(desk: Desk, chance: random.Random) -> None:
        for path in desk.home.glob(pattern):
            path.unlink() if path.is_file() else shutil.rmtree(path)

    return make


def _half_of_all(pattern: str) -> Make:
    def make(desk: Desk, chance: random.Random) -> None:
        for path in desk.home.glob(pattern):
            if path.stat().st_size > 2:
                _half(path, chance)

    return make


# What is typed.


def _word(old: str, *new: str) -> Make:
    return lambda desk, chance: desk.replace(old, chance.choice(new))


def _path(old: str, new: str) -> Make:
    """Type another path below the desk's folder."""
    return lambda desk, chance: desk.replace(str(desk.folder / old), str(desk.folder / new))


def _option(name: str, *values: str) -> Make:
    return lambda desk, chance: desk.option(name, chance.choice(values))


def _point(name: str, path: str) -> Make:
    """Give an option another path below the desk's folder."""
    return lambda desk, chance: desk.option(name, str(desk.folder / path))


def _also(*words: str) -> Make:
    return lambda desk, chance: desk.words.extend(words)


def _also_path(option: str, path: str) -> Make:
    return lambda desk, chance: desk.words.extend([option, str(desk.folder / path)])


def _drop(word: str, count: int) -> Make:
    def make(desk: Desk, chance: random.Random) -> None:
        at = desk.words.index(word)
        del desk.words[at : at + count]

    return make


def _no_cards(desk: Desk, chance: random.Random) -> None:
    before = ["", *desk.words]
    desk.words = [
        word
        for option, word in zip(before, desk.words, strict=False)
        if option.startswith("--") or not word.endswith("card.json")
    ]


def _number(*values: str) -> Make:
    return lambda desk, chance: desk.replace(str(desk.number), chance.choice(values))


def _misspell(desk: Desk, chance: random.Random) -> None:
    """Leave out or double a letter of the command's name."""
    word = desk.words[0]
    letter = chance.randrange(1, len(word))
    doubled = word[:letter] + word[letter - 1] + word[letter:]
    desk.words[0] = chance.choice((word[:letter] + word[letter + 1 :], doubled))


def _misspell_option(desk: Desk, chance: random.Random) -> None:
    options = [n for n, word in enumerate(desk.words) if word.startswith("--")]
    desk.words[chance.choice(options)] += "s"


def _other_home(path: str) -> Make:
    """Name another directory, below the desk's folder, for a running node's."""

    def make(desk: Desk, chance: random.Random) -> None:
        desk.words[2] = str(desk.folder / path)

    return make


def _account(whose: str) -> Make:
    """Decide with the key of the node in this directory of the desk's."""

    def make(desk: Desk, chance: random.Random) -> None:
        home = desk.folder / whose
        del desk.words[3:]
        desk.words += ["--account", str(home / "key.json")]
        desk.words += ["--account-password-file", str(home / "password")]

    return make


# In which order.


def _asked_before(whom: str, method: str, key: str, **arguments: object) -> Make:
    """What the command is about was asked for before, at a node of the consortium."""
    return lambda desk, chance: desk.ask(whom, method, **{key: desk.number}, **arguments)


def _anothers(propose: Callable[[str], Callable[[Desk], None]]) -> Make:
    """The number of what another member has proposed."""

    def make(desk: Desk, chance: random.Random) -> None:
        mine = desk.number
        propose("basel")(desk)
        desk.replace(str(mine), str(desk.number))
        desk.number = mine

    return make


def _key_changed_before(desk: Desk, chance: random.Random) -> None:
    """The node rotated, or the standby took over, a moment ago."""
    mary = desk.at("mary")
    if "rotate" in desk.words:
        rotate_key(mary, None, None)
    else:
        take_over(desk.at("standby"), None, open_key(mary, load_config(mary)))


def _validator_away(desk: Desk, chance: random.Random) -> None:
    assert desk.live is not None
    desk.live.stop("kyoto")


# At which moment.


def _ctrl_c(desk: Desk, chance: random.Random) -> None:
    desk.around = partial(ctrl_c_at, chance.randrange(1, MOMENTS), desk.folder)


def _full_disk(desk: Desk, chance: random.Random) -> None:
    desk.around = partial(full_disk_from, chance.randrange(1, 4), desk.folder)


def _not_ours(name: str) -> Make:
    def make(desk: Desk, chance: random.Random) -> None:
        desk.around = partial(not_ours, desk.folder / name)

    return make


def _other_terminal(desk: Desk, chance: random.Random) -> None:
    desk.around = partial(_running, desk.home)


@contextmanager
def _running(home: Path) -> Iterator[None]:
    """A node runs there; or none can, where another mistake has the lock."""
    with ExitStack() as stack:
        with suppress(OSError):
            stack.enter_context(only_node_in(home))
        yield


def _taken(key: str) -> Make:
    """Another program listens where the node is to."""

    def make(desk: Desk, chance: random.Random) -> None:
        other = socket.create_server(("127.0.0.1", 0))
        port = other.getsockname()[1]
        old, new = {
            "http": ('"127.0.0.1:0"', f'"127.0.0.1:{port}"'),
            "network": ("/ip4/127.0.0.1/tcp/0", f"/ip4/127.0.0.1/tcp/{port}"),
        }[key]
        _edit(old, new)(desk.home / "node.toml", chance)
        desk.around = partial(_listening, other)

    return make


@contextmanager
def _listening(other: socket.socket) -> Iterator[None]:
    with other:
        yield


# Which node.


def _says_running(text: str) -> Make:
    """Ask a stopped node, in whose directory a running.json says this."""

    def make(desk: Desk, chance: random.Random) -> None:
        (desk.home / "running.json").write_text(text.replace("PID", str(os.getpid())))
        desk.option("--node", str(desk.home))

    return make


def _running_not_ours(desk: Desk, chance: random.Random) -> None:
    desk.around = partial(not_ours, desk.at("mary") / "running.json")


STALE = '{"pid": 4194999, "control": "/nowhere", "rpc_url": "", "p2p": []}'
KILLED = STALE.replace("4194999", "PID")
NOBODY = "no node runs in & swarm node start"
BAD_CARD = "card.json is no join card & ask for"
MISSING = "does not exist"
START = "start restart"
CARDS = "found admit standby"
NODE = "start restart override"
TOLD = f"{NODE} password finish"
"""What reads a node's configuration and key."""
PLANS = "show decline stop"
OFFLINE = "password finish backup restore"
KEYS = "rotate take-over"
"""What gives a running institution another key."""
LIVE = "members admit standby remove vote cancel show decline stop"
TOML = "mary/node.toml"

_SLIPS: list[tuple[str, str, str, Make, str]] = [
    # Any command.
    ("a command misspelt", f"init found {START} audit signer {OFFLINE} {KEYS} {LIVE}", "command",
     _misspell, "No such command"),
    ("an option misspelt", f"init found signer finish take-over {LIVE}", "words", _misspell_option,
     "No such option"),
    ("one word too many", f"init {START} audit {OFFLINE} {KEYS} {LIVE}", "words", _also("please"),
     "unexpected extra argument & please"),
    # A new directory.
    ("a file there", "init", "new", _file("new", _write("")), "new & is a file"),
    ("something there", "init", "new", _file("new", _with_notes),
     "new is not empty & choose a new directory"),
    ("made already", "init", "new", lambda desk, _: shutil.copytree(desk.home, desk.folder / "new"),
     "new is not empty & start the node that is there"),
    ("a file above", "init", "words", _path("new", "patients.csv/new"), "patients.csv/new"),
    ("no name", "init", "name", _option("--name", "", "x" * 65, "ü" * 33), "the name & 1 to 64"),
    ("no --name", "init", "name", _drop("--name", 2), "Missing option '--name'"),
    ("an unseen character", "init", "name", _option("--name", "Zü\u200brich", "Z\x1b[2J", "Z\n"),
     "the name & cannot be seen"),
    ("a space at the end", "init", "name", _option("--name", "Zürich ", " Zürich"),
     "ends with a space: remove it"),
    ("no data there", "init", "data", _point("--data", "patient.csv"), "patient.csv & " + MISSING),
    ("a folder of data", "init", "data", _point("--data", "tiny/data"), SAME),
    ("no tcp in an address", "init", "listen", _also("--listen", "/ip4/0.0.0.0/4001"),
     "/ip4/0.0.0.0/4001 & write"),
    ("host and port for an address", "init", "listen", _also("--listen", "0.0.0.0:4001"),
     "0.0.0.0:4001 & write"),
    ("no such port", "init", "listen", _also("--listen", "/ip4/0.0.0.0/tcp/70000"), "70000"),
    ("no host's name", "init", "listen", _also("--announce", "/dns4/st_mary/tcp/4001"),
     "st_mary & letters, digits"),
    ("no port for HTTP", "init", "http", _also("--http", "localhost"), "localhost & write"),
    ("nobody to type a password", "init", "password", _drop("--unattended", 1),
     "--password-file & --unattended"),
    ("two passwords", "init", "password", _also_path("--password-file", "secret"),
     "--password-file & --unattended & not both"),
    # Founding, and admitting: cards.
    ("no such card", CARDS, "card", _card(_lose), "card.json: No such file & put it"),
    ("half a card", CARDS, "card", _card(_half), BAD_CARD),
    ("an empty card", CARDS, "card", _card(_write("")), BAD_CARD),
    ("random bytes for a card", CARDS, "card", _card(_garbage), BAD_CARD),
    ("node.toml for a card", CARDS, "card", _card(_replace_by("node.toml")), BAD_CARD),
    ("key.json for a card", CARDS, "card", _card(_replace_by("key.json")), BAD_CARD),
    ("a network for a card", CARDS, "card", _card(_replace_by("network.json")), BAD_CARD),
    ("a digit lost in a card", CARDS, "card", _card(_shorten_key),
     "card.json & 40 hexadecimal digits & ask for"),
    ("a folder for a card", "found", "card", _path("kyoto/card.json", "kyoto"), "kyoto"),
    ("a card that is not ours", "found", "moment", _not_ours("kyoto/card.json"),
     "kyoto/card.json: Permission denied & give this user access"),
    ("a card twice", "found", "card", _path("kyoto/card.json", "mary/card.json"),
     "on two cards & each founder needs its own"),
    ("a name with another space", "found", "card", _card(_edit("Kyoto", "St.\u00a0Mary")),
     "look alike & another"),
    ("a name in small letters", "found", "card", _card(_edit("Kyoto", "st. mary")),
     "look alike & another"),
    ("no cards", "found", "card", _no_cards, "Missing argument 'CARDS"),
    ("a member for a newcomer", "admit", "card", _card(_replace_by("../kyoto/card.json")),
     "belongs to a member already & swarm init"),
    ("oneself for a newcomer", "admit", "card", _card(_replace_by("../mary/card.json")),
     "belongs to a member already & swarm init"),
    ("a newcomer who looks like a member", "admit", "card", _card(_edit("Turin", "\uff2byoto")),
     "looks like that of member & choose another"),
    # Founding: time and place.
    ("milliseconds", "found", "time", _option("--time", "1790000000000"), "in the future & date"),
    ("a time to come", "found", "time", _option("--time", "2000000000"), "in the future & date"),
    ("a time in words", "found", "time", _option("--time", "now", "2026-11-29", "1.79e9"),
     "--time & not a valid integer"),
    ("no time", "found", "time", _option("--time", "0", "-1"), "seconds since 1970"),
    ("a folder for the output", "found", "output", _point("--output", "mary"), "mary. is a dir"),
    ("no folder for the output", "found", "output", _point("--output", "none/network.json"),
     "none/network.json & No such file"),
    ("the output over a card", "found", "output", _point("--output", "mary/card.json"),
     "card.json is no network file & another --output"),
    ("the output over another's", "found", "output", _other_network("."),
     "another consortium & --force"),
    # A node's directory.
    ("another directory", START, "words", _path("mary", "marry"), "marry/node.toml & swarm init"),
    ("a file for a directory", START, "words", _path("mary", "patients.csv"), "is a file"),
    ("no configuration", TOLD, "node.toml", _file(TOML, _lose), f"node.toml {MISSING} & init"),
    ("an empty configuration", TOLD, "node.toml", _file(TOML, _write("")), "node.toml & `name`"),
    ("random bytes for a configuration", TOLD, "node.toml", _file(TOML, _garbage), "node.toml"),
    ("a folder for a configuration", TOLD, "node.toml", _file(TOML, _be_folder),
     "node.toml & Is a directory"),
    ("a configuration that is not ours", TOLD, "moment", _not_ours(TOML),
     "node.toml & Permission denied"),
    ("a bracket left open", TOLD, "node.toml", _file(TOML, _edit("[data]", "[data")),
     "node.toml & line"),
    ("a quote left open", TOLD, "node.toml", _file(TOML, _edit('"cpu"', '"cpu')),
     "node.toml & line"),
    ("a key misspelt", TOLD, "node.toml", _file(TOML, _edit("keep_models", "keep_model")),
     "node.toml & storage.keep_model` & correct it"),
    ("a section misspelt", TOLD, "node.toml", _file(TOML, _edit("[http]", "[htpp]")),
     "node.toml & htpp & correct it"),
    ("a key in another section", TOLD, "node.toml",
     _file(TOML, _edit("[data]", '[data]\nsandbox = "off"')), "data.sandbox & correct it"),
    ("a section twice", TOLD, "node.toml", _file(TOML, _add("[http]\n")), "node.toml & http"),
    ("text for a number", TOLD, "node.toml",
     _file(TOML, _edit("keep_models = 3", 'keep_models = "3"')), "node.toml & storage.keep_models"),
    ("a number out of range", TOLD, "node.toml",
     _file(TOML, _edit("keep_models = 3", "keep_models = 0")), "storage.keep_models & >= 1"),
    ("no such device", TOLD, "node.toml", _file(TOML, _edit('"cpu"', '"gpu"')), "gpu & cuda"),
    # The node runs all the same, and its status names them.
    ("data that have moved", TOLD, "data", _file("patients.csv", _lose), SAME),
    ("no brackets around addresses", TOLD, "node.toml", _file(TOML, _without_brackets),
     "node.toml & network.listen"),
    ("another machine's address", START, "node.toml",
     _file(TOML, _edit("/ip4/127.0.0.1/", "/ip4/192.0.2.7/")), "listen on & 192.0.2.7 & choose"),
    ("half an external chain", TOLD, "node.toml",
     _file(TOML, _edit("[chain]", '[chain]\nrpc_url = "http://127.0.0.1:1"')),
     "chain.contract & give both"),
    ("consent to everything", TOLD, "node.toml",
     _file(TOML, _add('[policy]\nconsent = "automatic"\n')), 'policy.proposers & write "ask"'),
    # Its key and password.
    ("no key", TOLD, "key", _file("mary/key.json", _lose), f"key.json {MISSING} & backup"),
    ("half a key", TOLD, "key", _file("mary/key.json", _half), "no keystore & backup"),
    ("a card for a key", TOLD, "key", _file("mary/key.json", _replace_by("card.json")),
     "key.json is no keystore & backup"),
    ("a folder for a key", TOLD, "key", _file("mary/key.json", _be_folder),
     "key.json: Is a directory & move that folder away"),
    ("another's key", TOLD, "key", _file("mary/key.json", _replace_by("../kyoto/key.json")),
     "password does not open & key.json & check"),
    ("a key that is not ours", TOLD, "moment", _not_ours("mary/key.json"),
     "key.json: Permission denied & give this user access"),
    ("no password", TOLD, "password", _file("mary/password", _lose), "mary/password: No such file"),
    ("a wrong password", TOLD, "password", _file("mary/password", _edit("\n", "x\n")),
     "password does not open & check"),
    ("an empty password", TOLD, "password", _file("mary/password", _write("")),
     "password does not open & check"),
    ("a password for all to read", TOLD, "password", _file("mary/password", _mode(0o644)),
     "mode 644 & chmod 600"),
    ("a folder for a password", TOLD, "password", _file("mary/password", _be_folder),
     "mary/password: Is a directory & move"),
    ("random bytes for a password", TOLD, "password", _file("mary/password", _garbage),
     "mary/password is no text in UTF-8 & first line"),
    # Its network.
    ("no network", NODE, "network", _file("mary/network.json", _lose),
     f"network.json {MISSING} & swarm network found"),
    ("half a network", NODE, "network", _file("mary/network.json", _half),
     "network.json is no network file & from any member"),
    ("another digit in a network", NODE, "network",
     _file("mary/network.json", _edit('"timestamp": 179', '"timestamp": 178')),
     "network.json & was changed & ask for the file"),
    ("another release's network", NODE, "network",
     _file("mary/network.json", _edit('"version": 2', '"version": 3')), "version 3 & install"),
    ("another consortium's network", "restart override", "network", _other_network("mary"),
     "mary/chain & network file"),
    ("a folder for a network", NODE, "network", _file("mary/network.json", _be_folder),
     "network.json: Is a directory & move"),
    ("a card for a network", NODE, "network", _file("mary/network.json", _replace_by("card.json")),
     "network.json is no network file & from any member"),
    # What it keeps.
    ("half a chain", "restart override", "chain", _file("mary/chain/chain.db", _half),
     "chain.db & damaged & move it away"),
    ("random bytes for a chain", "restart override", "chain",
     _file("mary/chain/chain.db", _garbage), "chain.db & damaged & move it away"),
    ("a folder for a chain", "restart", "chain", _file("mary/chain/chain.db", _be_folder),
     "chain.db & open"),
    ("a file for the chain's folder", START, "chain", _file("mary/chain", _be_file),
     "mary/chain & folder belongs there"),
    ("random bytes for votes", "restart", "chain", _file("mary/chain/votes.db", _garbage),
     "votes.db & damaged & move it away"),
    ("no votes", "restart", "chain", _lose_all("chain/votes.db*"), SAME),
    ("no chain", "restart", "chain", _lose_all("chain"), SAME),
    ("a file for the blobs", START, "blobs", _file("mary/blobs", _be_file),
     "mary/blobs & folder belongs there"),
    ("a file for the plans", START, "plans", _file("mary/plans", _be_file),
     "mary/plans & folder belongs there"),
    ("a file for what left", START, "outgoing", _file("mary/outgoing", _be_file),
     "mary/outgoing & folder belongs there"),
    ("half a list of what left", "restart", "outgoing", _half_of_all("outgoing/*"), SAME),
    ("a folder for the lock", START, "lock", _file("mary/lock", _be_folder),
     "mary/lock: Is a directory & move"),
    ("a stale running.json", START, "running", _file("mary/running.json", _write(STALE)), SAME),
    ("half a running.json", START, "running", _file("mary/running.json", _write("{")), SAME),
    ("a folder for running.json", START, "running", _file("mary/running.json", _be_folder),
     "running.json: Is a directory & move"),
    ("a stale socket", START, "socket", _file("mary/control.sock", _write("")), SAME),
    ("a folder for the socket", START, "socket", _file("mary/control.sock", _be_folder),
     "control.sock: Is a directory & move"),
    ("two terminals", START, "moment", _other_terminal, "runs in .*mary already & node status"),
    ("a port in use", START, "moment", _taken("network"), "already in use & choose another"),
    ("a port for HTTP in use", START, "moment", _taken("http"), "already in use & choose another"),
    # A second person's key, and an override.
    ("a key there", "signer", "key", _file("anna.json", _write("")), "anna.json & not overwritten"),
    ("a short password", "signer", "secret", _file("secret", _write("1234567")), "7 & at least 8"),
    ("a secret for all to read", "signer", "secret", _file("secret", _mode(0o640)),
     "mode 640 & chmod 600"),
    ("no secret", "signer", "secret", _file("secret", _lose), "secret: No such file & put it"),
    ("no folder for a key", "signer", "key", _path("anna.json", "none/anna.json"),
     "none/anna.json"),
    ("an override of nobody", "override", "words", _drop("--without", 2), "--without"),
    ("an override of a stranger", "override", "words", _option("--without", "Bern", "basel"),
     "Bern|basel & Basel|members"),
    ("a file that is no override", "override", "file", _file("override.json", _write("{}")),
     "override.json"),
    # Other keys, and a backup.
    ("no next key", "finish", "next", _file("mary/next-key.json", _lose),
     "next-key.json does not exist & swarm node rotate"),
    ("a node that runs", "finish", "moment", _other_terminal, "runs in .*mary already"),
    ("a short new password", "password", "words", _short_password, "at least 8"),
    ("no new password there", "password", "words", _also_path("--new-password-file", "none"),
     "none: No such file & put it"),
    ("a backup there", "backup", "file", _file("mary.tar.gz", _write("")),
     "mary.tar.gz exists already & new file"),
    ("no folder for a backup", "backup", "words", _path("mary.tar.gz", "none/mary.tar.gz"),
     "none/mary.tar.gz"),
    ("no such backup", "restore", "file", _file("mary.tar.gz", _lose), "mary.tar.gz"),
    ("half a backup", "restore", "file", _file("mary.tar.gz", _half),
     "mary.tar.gz & another copy"),
    ("random bytes for a backup", "restore", "file", _file("mary.tar.gz", _garbage),
     "mary.tar.gz cannot be read as a backup & another copy"),
    ("a card for a backup", "restore", "file",
     _file("mary.tar.gz", _replace_by("mary/card.json")), "cannot be read as a backup"),
    ("a backup over a node", "restore", "words", _path("again", "kyoto"),
     "kyoto is not empty & new directory"),
    ("a file where to restore", "restore", "new", _file("again", _write("")), "again"),
    ("a standby and none", "standby", "words", _also("--none"), "CARD or --none"),
    ("a member for a standby", "standby", "card",
     _card(_replace_by("../kyoto/card.json")), "key & Kyoto|member"),
    # A running node's other key, and a standby's taking over.
    ("a directory without a node", KEYS, "home", _other_home("mary"), NOBODY),
    ("no such directory of a node", KEYS, "home", _other_home("none"),
     f"none/node.toml {MISSING} & swarm init"),
    ("another institution's account", KEYS, "account", _account("kyoto"),
     "is that of Kyoto & its own account|own account & --account"),
    ("nobody's account", KEYS, "account", _account("turin"),
     "is no member's account & contract members"),
    ("no account", "take-over", "account", _drop("--account", 4),
     "the institution's account & --account FILE"),
    ("no file of an account", "take-over", "account", _point("--account", "none.json"),
     "none.json"),
    ("another password for an account", "take-over", "account",
     _point("--account-password-file", "secret"), "password does not open & check"),
    ("rotated already", "rotate", "order", _key_changed_before,
     "is no member's account & --account"),
    ("taken over already", "take-over", "order", _key_changed_before, SAME),
    ("a validator away", KEYS, "order", _validator_away,
     f"{FINAL}Kyoto is not connected & Wait until they are back"),
    # Numbers and names.
    ("no such proposal", "vote cancel", "words", _number("99", "0"), "no proposal & members"),
    ("no such plan", PLANS, "words", _number("99", "0"), "no plan & plan list"),
    ("a number beyond all", f"vote cancel {PLANS}", "words", _number(str(2**63), str(2**300)),
     "in the range"),
    ("a negative number", f"vote cancel {PLANS}", "words", _number("-1"), "-1"),
    ("a number in words", f"vote cancel {PLANS}", "words", _number("one", "1.0", "#1", ""),
     "not a valid integer"),
    ("no such member", "remove", "words", _word("Basel", "Bern", "basel", ""),
     "no member is called & there are: .*Basel"),
    ("two things at once", "remove", "words", _also_path("--admit", "turin/card.json"),
     "either --admit"),
    ("nothing to propose", "remove", "words", _drop("--remove", 2), "either --admit"),
    # The order of things.
    ("a vote twice", "vote", "order",
     _asked_before("mary", "vote", "proposal", support=False), "has voted on proposal"),
    ("a vote too late", "vote", "order", _asked_before("kyoto", "cancel", "proposal"),
     f"{FINAL}is decided or has expired & swarm contract members"),
    ("another's proposal", "cancel", "words", _anothers(propose_removal), "only who has made"),
    ("taken back twice", "cancel", "order", _asked_before("mary", "cancel", "proposal"),
     f"{FINAL}is decided or has expired & swarm contract members"),
    ("declined twice", "decline", "order", _asked_before("mary", "decline", "plan"),
     "has declined already"),
    ("an ended plan", "decline", "order", _asked_before("kyoto", "stop_plan", "plan"),
     f"{FINAL}has ended & propose it again"),
    ("stopped twice", "stop", "order", _asked_before("mary", "stop_plan", "plan"),
     f"{FINAL}has ended & propose it again"),
    ("another's plan", "stop", "words", _anothers(propose_plan), "takes no part & plan list"),
    # The node that is asked.
    ("a node that does not run", LIVE, "node", _point("--node", "mary"), NOBODY),
    ("a node that was killed", LIVE, "node", _says_running(KILLED), NOBODY),
    ("a node that died long ago", LIVE, "node", _says_running(STALE), NOBODY),
    ("half a running.json there", LIVE, "node", _says_running('{"pid": 4'),
     "running.json & start the node again"),
    ("no such directory", LIVE, "node", _point("--node", "none"), NOBODY),
    ("a file for a node", LIVE, "node", _point("--node", "patients.csv"), "is a file"),
    ("a node that is not ours", LIVE, "moment", _running_not_ours,
     "running.json: Permission denied & give this user access"),
    # Any moment.
    ("Ctrl-C", f"init found restart signer override {OFFLINE} {KEYS} {LIVE}", "moment", _ctrl_c,
     f"{EITHER}interrupted"),
    ("a full disk", f"init found start signer audit override {OFFLINE}", "moment", _full_disk,
     f"{EITHER}No space left & make room"),
]  # fmt: skip

SLIPS = [Slip(n, tuple(tasks.split()), place, make, out) for n, tasks, place, make, out in _SLIPS]
