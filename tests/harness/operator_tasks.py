"""What an operator wants: the right command for it, what must be there before, and how one sees
that it is done."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.operator_desk import FOUNDED, Desk, free_port, template
from swarm.chain.genesis import read_card, read_genesis
from swarm.errors import ConfigurationError, SwarmError
from swarm.node.home.backup import read_backup, write_backup
from swarm.node.home.config import load_config
from swarm.node.home.keys import address_in, address_of, load_key
from swarm.node.home.rotation import make_next_key
from swarm.node.home.setup import create_node
from swarm.types import to_hex

NUMBER = "NUMBER"
RESTART_S, LOOK_EVERY_S = 30.0, 0.1


def _nothing(desk: Desk) -> None: ...


@dataclass(frozen=True)
class Task:
    """`live`: it is asked of a running node."""

    name: str
    words: Callable[[Desk], list[str]]
    done: Callable[[Desk], bool]
    prepare: Callable[[Desk], None] = _nothing
    live: bool = False
    leaves: str = "(?!)"
    """Paths that may be there after a refusal: those that a node makes whole at each start."""
    is_service: bool = False
    """Whether it runs until Ctrl-C, which is its regular end then, at whatever moment."""


# In directories of her own.


def _init(desk: Desk) -> list[str]:
    data = str(desk.folder / "patients.csv")
    new = str(desk.folder / "new")
    return ["init", new, "--name", "Zürich", "--data", data, "--unattended"]


def _is_made(desk: Desk) -> bool:
    home = desk.folder / "new"
    if not (home / "node.toml").exists():
        return False
    password = (home / "password").read_text().strip()
    card = read_card(home / "card.json")
    key = address_of(load_key(home / "key.json", password))
    return load_config(home).name == card.name and key == card.node


def _found(desk: Desk) -> list[str]:
    cards = [str(desk.folder / name / "card.json") for name in ("kyoto", "mary", "basel")]
    return ["network", "found", *cards, "--time", str(FOUNDED), "--output", str(_output(desk))]


def _output(desk: Desk) -> Path:
    return desk.folder / "network.json"


def _is_founded(desk: Desk) -> bool:
    sound = read_genesis(template() / "mary" / "network.json")
    return _output(desk).exists() and read_genesis(_output(desk)) == sound


def _start(desk: Desk) -> list[str]:
    return ["node", "start", str(desk.home)]


def _ran_before(desk: Desk) -> None:
    shutil.copytree(template() / "ran", desk.home, dirs_exist_ok=True)


def _recover(desk: Desk) -> list[str]:
    return ["chain", "recover", str(desk.home), "--yes"]


def _audit(desk: Desk) -> list[str]:
    return ["audit", str(desk.home), "--json", str(desk.folder / "audit.json")]


def _signer(desk: Desk) -> list[str]:
    secret = str(desk.folder / "secret")
    return ["plan", "signer", str(desk.folder / "anna.json"), "--password-file", secret]


def _override(desk: Desk) -> list[str]:
    file = str(desk.folder / "override.json")
    return ["chain", "override", "sign", str(desk.home), file, "--without", "Basel", "--yes"]


def _password(desk: Desk) -> list[str]:
    return ["node", "password", str(desk.home)]


def _is_new_password(desk: Desk) -> bool:
    """Whether there is another password than before, and it opens the key."""
    before = (template() / "mary" / "password").read_text()
    with suppress(ConfigurationError, OSError, UnicodeError):
        now = (desk.home / "password").read_text()
        key = load_key(desk.home / "key.json", now.rstrip("\n"))
        return now != before and address_of(key) == read_card(template() / "mary/card.json").node
    return False


def _has_next_key(desk: Desk) -> None:
    make_next_key(desk.home, load_config(desk.home), None)


def _finish(desk: Desk) -> list[str]:
    return ["node", "rotate", str(desk.home), "--finish"]


def _is_rotated(desk: Desk) -> bool:
    """Whether the next key is the node's, and the former one the account's."""
    home = desk.home
    if (home / "next-key.json").exists() or not (home / "account.json").is_file():
        return False
    founded = read_card(template() / "mary" / "card.json").node
    with suppress(ConfigurationError):
        return address_in(home / "account.json") == founded != address_in(home / "key.json")
    return False


def _backup(desk: Desk) -> list[str]:
    return ["node", "backup", str(desk.home), str(desk.folder / "mary.tar.gz")]


def _is_backed_up(desk: Desk) -> bool:
    file = desk.folder / "mary.tar.gz"
    if not file.is_file():
        return False
    with tempfile.TemporaryDirectory() as folder, suppress(ConfigurationError):
        return read_backup(file, Path(folder) / "again").name == "St. Mary"
    return False


def _was_backed_up(desk: Desk) -> None:
    write_backup(desk.home, desk.folder / "mary.tar.gz")


def _restore(desk: Desk) -> list[str]:
    return ["node", "restore", str(desk.folder / "mary.tar.gz"), str(desk.folder / "again")]


def _is_restored(desk: Desk) -> bool:
    key = desk.folder / "again" / "key.json"
    return key.is_file() and key.read_bytes() == (template() / "mary" / "key.json").read_bytes()


def _makes(name: str) -> Callable[[Desk], bool]:
    return lambda desk: (desk.folder / name).is_file()


OFFLINE = [
    Task("init", _init, _is_made),
    Task("found", _found, _is_founded),
    Task(
        "start",
        _start,
        lambda desk: desk.was_up,
        leaves=r"mary/(lock|blobs|outgoing|plans|programs|chain|records|trainer|zoo|control\.sock).*",
    ),
    Task(
        "restart",
        _start,
        lambda desk: desk.was_up,
        _ran_before,
        leaves=r"mary/(lock|outgoing|chain|control\.sock).*",
        is_service=True,
    ),
    Task("audit", _audit, _makes("audit.json"), _ran_before),
    Task("signer", _signer, _makes("anna.json")),
    Task("password", _password, _is_new_password),
    Task("finish", _finish, _is_rotated, _has_next_key, leaves=r"mary/(lock|chain).*"),
    Task("backup", _backup, _is_backed_up, _ran_before),
    Task("restore", _restore, _is_restored, _was_backed_up),
    Task("override", _override, _makes("override.json"), _ran_before, leaves=r"mary/chain/.*"),
]

# Asked of a running node.


def _ask(*words: str) -> Callable[[Desk], list[str]]:
    def make(desk: Desk) -> list[str]:
        said = [str(desk.number) if word == NUMBER else word for word in words]
        return [*said, "--node", str(desk.at("mary"))]

    return make


def _proposal(desk: Desk) -> dict[str, Any]:
    """As another's node has it."""
    listed = desk.ask("kyoto", "members")["proposals"]
    return next(p for p in listed if p["id"] == desk.number)


def _plan(desk: Desk) -> dict[str, Any]:
    return next(p for p in desk.ask("kyoto", "plans") if p["id"] == desk.number)


def propose_removal(by: str) -> Callable[[Desk], None]:
    """A member proposes to remove another; the desk is about that proposal."""

    def prepare(desk: Desk) -> None:
        assert desk.live is not None
        desk.live.proposed += 1
        desk.number = desk.ask(by, "propose_member", card=None, remove="Basel")["id"]

    return prepare


def propose_plan(by: str) -> Callable[[Desk], None]:
    """A member proposes a plan; the desk is about that."""

    def prepare(desk: Desk) -> None:
        assert desk.live is not None
        desk.number = desk.live.propose(by, desk.folder / "tiny")

    return prepare


def _take_back(desk: Desk) -> None:
    """What cases before this one have proposed here; and count what this one will."""
    assert desk.live is not None
    desk.live.proposed += 1
    for proposal in desk.ask("mary", "members")["proposals"]:
        if proposal["status"] == "open":
            with suppress(ConfigurationError):  # another's
                desk.ask("mary", "cancel", proposal=proposal["id"])


def _admit(desk: Desk) -> list[str]:
    card = str(desk.folder / "turin" / "card.json")
    return ["contract", "propose", "--admit", card, "--node", str(desk.at("mary"))]


def _standby(desk: Desk) -> list[str]:
    card = str(desk.folder / "turin" / "card.json")
    return ["contract", "standby", card, "--node", str(desk.at("mary"))]


def _no_standby(desk: Desk) -> None:
    """What cases before this one have named here."""
    if any(m["standby"] for m in desk.ask("mary", "members")["members"]):
        desk.ask("mary", "set_standby", node=None)


def _is_standby(desk: Desk) -> bool:
    node = to_hex(read_card(template() / "turin" / "card.json").node)
    members = desk.ask("mary", "members")["members"]  # the others' next block comes in a moment
    return any(m["name"] == "St. Mary" and m["standby"] == node for m in members)


def _spend(desk: Desk) -> None:
    """Let the next case have another consortium: other keys will be in use here."""
    assert desk.live is not None
    desk.live.spent = True


def _rotate(desk: Desk) -> list[str]:
    return ["node", "rotate", str(desk.at("mary"))]


def _goes_on_rotated(desk: Desk) -> bool:
    """Whether the others have another key for the node than for the account, and it uses it."""
    mary = _told_of_mary(desk)
    until = time.monotonic() + RESTART_S
    while mary["node"] != mary["account"] and time.monotonic() < until:
        with suppress(SwarmError):  # it is between its two keys
            if desk.ask("mary", "status")["account"] == mary["node"]:
                return True
        time.sleep(LOOK_EVERY_S)
    return False


def _told_of_mary(desk: Desk) -> dict[str, Any]:
    """What another's node has of the member that the operator looks after."""
    listed = desk.ask("basel", "members")["members"]
    return next(m for m in listed if m["name"] == "St. Mary" and m["present"])


def _standby_runs(desk: Desk) -> None:
    """A standby of the operator's node follows the chain."""
    assert desk.live is not None
    _spend(desk)
    mary = desk.at("mary")
    home = mary.with_name("standby")
    listen = f"/ip4/127.0.0.1/tcp/{free_port()}"
    card = create_node(home, "St. Mary", password=None, listen=listen, http="127.0.0.1:0")
    shutil.copy(mary / "network.json", home)
    desk.ask("mary", "set_standby", node=to_hex(card.node))
    desk.live.start_standby(home, of="mary")


def _take_over(desk: Desk) -> list[str]:
    account = ["--account", str(desk.at("mary") / "key.json")]
    opened = ["--account-password-file", str(desk.at("mary") / "password")]
    return ["node", "take-over", str(desk.at("standby")), *account, *opened]


def _has_taken_over(desk: Desk) -> bool:
    return bool(_told_of_mary(desk)["node"] == to_hex(address_in(desk.at("standby") / "key.json")))


def _is_open(what: str) -> Callable[[Desk], bool]:
    def done(desk: Desk) -> bool:
        listed = desk.ask("kyoto", "members")["proposals"]
        return any(p["what"].startswith(what) and p["status"] == "open" for p in listed)

    return done


def _printed(words: str) -> Callable[[Desk], bool]:
    return lambda desk: words in desk.said


LIVE = [
    Task("members", _ask("contract", "members"), _printed("Kyoto"), live=True),
    Task("admit", _admit, _is_open("admit Turin"), _take_back, live=True),
    Task("standby", _standby, _is_standby, _no_standby, live=True),
    Task("remove", _ask("contract", "propose", "--remove", "Basel"), _is_open("remove Basel"),
         _take_back, live=True),
    Task("vote", _ask("contract", "vote", NUMBER, "--against"),
         lambda desk: _proposal(desk)["noes"] == 1, propose_removal("kyoto"), live=True),
    Task("cancel", _ask("contract", "cancel", NUMBER),
         lambda desk: _proposal(desk)["status"] == "cancelled", propose_removal("mary"), live=True),
    Task("show", _ask("plan", "show", NUMBER), _printed("class Tiny"), propose_plan("kyoto"),
         live=True),
    Task("decline", _ask("plan", "decline", NUMBER),
         lambda desk: "St. Mary" in _plan(desk)["declined"], propose_plan("kyoto"), live=True),
    Task("stop", _ask("plan", "stop", NUMBER),
         lambda desk: _plan(desk)["status"] == "stopped", propose_plan("mary"), live=True),
    Task("rotate", _rotate, _goes_on_rotated, _spend, live=True),
    Task("take-over", _take_over, _has_taken_over, _standby_runs, live=True),
]  # fmt: skip

TASKS = {task.name: task for task in (*OFFLINE, *LIVE)}
