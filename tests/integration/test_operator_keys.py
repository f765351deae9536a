"""An institution's keys change while its consortium goes on, and everybody is told by name."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from harness.consortium import Consortium, open_consortium

from swarm.node.home.config import load_config
from swarm.node.home.keys import address_of
from swarm.node.home.password import open_key
from swarm.node.members import greetings
from swarm.types import to_hex

FOUNDERS = ("kyoto", "mary", "turin")


def run(folder: Path, story: Callable[[Consortium], Awaitable[None]]) -> None:
    async def live() -> None:
        with trio.fail_after(240):
            async with open_consortium(folder, *FOUNDERS) as consortium:
                await story(consortium)

    trio.run(live)


def test_a_node_goes_on_with_a_new_key_and_the_old_one_governs(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        mary = tmp_path / "mary"
        old = to_hex(consortium.cards["mary"].node)
        said = await consortium.command("node", "rotate", mary)
        new = to_hex(address_of(open_key(mary, load_config(mary))))
        assert new in said
        assert new != old
        for other in ("kyoto", "turin"):
            await consortium.says(other, f"mary: its node key is {new}")
        await consortium.connected(*FOUNDERS)

        async def validates() -> bool:
            chain = (await consortium.status("mary"))["chain"]
            return chain["role"] == "validator"

        await consortium.until("mary validates again", validates)
        members = await consortium.command("contract", "members", "--node", tmp_path / "kyoto")
        assert old in members  # it is the account

        # Its node does not decide any more; its account does, from wherever its key lies.
        elsewhere = tmp_path / "safe.json"
        (mary / "account.json").rename(elsewhere)
        propose = ("contract", "propose", "--remove", "turin", "--node", mary)
        assert f"signed by mary's account ({old})" in await consortium.command(*propose, status=2)
        target = to_hex(consortium.cards["turin"].account)
        account = ("--account", elsewhere, "--account-password-file", mary / "password")
        assert f"remove turin ({target}): open, 1 for" in await consortium.command(
            *propose, *account
        )
        assert "taken back" in await consortium.command(
            "contract", "cancel", "1", "--node", mary, *account
        )
        again = await consortium.command("node", "rotate", mary, *account)
        assert new not in again

    run(tmp_path, story)


def test_a_standby_follows_takes_over_and_the_former_node_is_told(tmp_path: Path) -> None:
    async def story(consortium: Consortium) -> None:
        standby = consortium.make("standby", "mary")
        network = (tmp_path / "mary" / "network.json").read_bytes()
        (standby / "network.json").write_bytes(network)
        await consortium.command(
            "contract", "standby", standby / "card.json", "--node", tmp_path / "mary"
        )
        consortium.start("standby")
        await consortium.says("standby", "is the standby of mary")

        async def follows() -> bool:
            here, there = [await consortium.status(name) for name in ("standby", "kyoto")]
            if not here or not {"kyoto", "turin"} <= set(here["connected"]):
                return False
            return bool(here["height"] == there["height"] > 0)

        await consortium.until("the standby follows", follows)
        vote = ("contract", "propose", "--remove", "kyoto", "--node", standby)
        assert "is no member here" in await consortium.command(*vote, status=2)

        account = tmp_path / "mary" / "key.json"
        password = tmp_path / "mary" / "password"
        said = await consortium.command(
            "node", "take-over", standby, "--account", account, "--account-password-file", password
        )
        assert "the node of mary" in said
        await consortium.connected("standby", "kyoto", "turin")
        await consortium.says("mary", "stop this node if another machine has taken over")
        await consortium.says("kyoto", "mary: its node key is")

        async def validates() -> bool:
            return bool((await consortium.status("standby"))["chain"]["role"] == "validator")

        await consortium.until("the standby validates", validates)

    run(tmp_path, story)


def test_a_restore_beside_the_running_node_is_named_and_votes_only_when_that_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EVERY_S", "TWICE_FOR_S", "SAID_FOR_S", "ALONE_S"):
        monkeypatch.setattr(greetings, name, getattr(greetings, name) / 10)

    async def story(consortium: Consortium) -> None:
        mary, again, file = tmp_path / "mary", tmp_path / "again", tmp_path / "mary.tar.gz"
        await consortium.command("contract", "propose", "--remove", "turin", "--node", mary)
        await consortium.command("node", "backup", mary, file)
        await consortium.command("node", "restore", file, again)
        shutil.copy(mary / "password", again / "password")
        settings = again / "node.toml"
        port = consortium.cards["mary"].addresses[0]
        settings.write_text(settings.read_text().replace(port, "/ip4/127.0.0.1/tcp/0"))
        consortium.start("again")
        await consortium.says("kyoto", "mary: its key is used on two machines at once")
        for directory in ("mary", "again"):
            await consortium.says(directory, "another machine uses this node's key")
        assert (await consortium.status("again"))["chain"]["votes_from"] is None
        await consortium.end("mary")

        async def votes() -> bool:
            return (await consortium.status("again"))["chain"]["votes_from"] is not None

        await consortium.until("the restored node votes", votes)
        await consortium.command("contract", "vote", "1", "--node", tmp_path / "kyoto")
        status = await consortium.status("again")
        assert status["chain"]["votes_from"] > 1

    run(tmp_path, story)
